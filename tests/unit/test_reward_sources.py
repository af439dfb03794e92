"""One table of data sources; what is not in it stops the run before it starts."""

import pyarrow as pa
import pytest
from pyarrow import parquet

from verl_ext.errors import ConfigError
from verl_ext.reward.grading import gold_answer, prepare
from verl_ext.reward.sources import SOURCES, check_data_files, rule_for

RECIPE_SOURCES = [
    "openai/gsm8k",
    "lighteval/MATH",
    "DigitalLearningGmbH/MATH-lighteval",
    "HuggingFaceH4/MATH-500",
    "math500",
    "math500_w_answer",
    "minerva_math",
    "olympiadbench",
    "math_dapo",
    "math_dapo_boxed",
    "amc_dapo_boxed",
    "aime_2025_dapo_boxed",
    "amc2023_dapo_boxed",
    "AI-MO/NuminaMath-CoT",
    "numina_olympiads",
    "aime24",
    "aime25",
    "amc23",
    "reasoning_gym/countdown",
]


@pytest.mark.parametrize("name", RECIPE_SOURCES)
def test_sources_of_the_recipes_have_a_rule(name):
    assert rule_for(name)


@pytest.mark.parametrize("name", ["math50", "", "reasoning_gym/", "MATH", "unknown"])
def test_unknown_source_is_refused_with_the_known_ones(name):
    with pytest.raises(ConfigError, match="data_source: got .* expected .*math500"):
        rule_for(name)


def test_a_misspelt_source_is_told_its_nearest_neighbour():
    with pytest.raises(ConfigError, match="did you mean 'minerva_math'"):
        prepare("\\boxed{1}", "1", "minerva_maths")


@pytest.mark.parametrize(
    ("gold", "source", "expected"),
    [
        ("Natalia sold 48/2 = 24. #### 1,024", "gsm8k", "1,024"),
        ("so we get \\[\\boxed{1.6} \\mathrm{~cm}\\]", "minerva_math", "1.6"),
        ("['$8$,$4$']", "olympiadbench", "$8$,$4$"),
        (["2", "3"], "olympiadbench", "2, 3"),
        (" 42 ", "math500", "42"),
    ],
)
def test_gold_is_taken_out_of_the_form_that_its_data_has(gold, source, expected):
    assert gold_answer(gold, rule_for(source)) == expected


@pytest.mark.parametrize("gold", ["", "  ", [], "\\boxed{}"])
def test_an_empty_gold_is_named_as_such(gold):
    grade = prepare("\\boxed{1}", gold, "math")
    assert (grade.correct, grade.status) == (False, "unparsable_gold")


@pytest.mark.parametrize("source", sorted(SOURCES))
def test_every_source_grades_right_and_wrong(source):
    elsewhere = {"judge": "remote judge", "code": "programs are run"}.get(rule_for(source).extraction)
    if elsewhere:
        with pytest.raises(ConfigError, match=elsewhere):
            prepare("\\boxed{42}", "42", source)
        return
    response = "We compute.\nAnswer: {0}\n\\boxed{{{0}}}"
    assert prepare(response.format(42), "42", source).correct
    assert not prepare(response.format(41), "42", source).correct


def write(path, sources, column="data_source"):
    parquet.write_table(pa.table({column: sources}), path)
    return str(path)


def test_data_files_are_checked_before_the_run(tmp_path):
    good = write(tmp_path / "good.parquet", ["math500", "gsm8k"])
    bad = write(tmp_path / "bad.parquet", ["math500", "mystery"])
    check_data_files([[good], None], column="data_source", has_judge=False)
    with pytest.raises(ConfigError, match="mystery"):
        check_data_files([good, [bad]], column="data_source", has_judge=False)


def test_a_source_for_a_judge_needs_a_judge(tmp_path):
    proofs = write(tmp_path / "proofs.parquet", ["proof"], column="source")
    check_data_files([proofs], column="source", has_judge=True)
    with pytest.raises(ConfigError, match="judge"):
        check_data_files([proofs], column="source", has_judge=False)
