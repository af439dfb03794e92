"""What is left out for being like an evaluation problem, on texts where the right answer is known."""

import json
import os
import random
from functools import partial
from pathlib import Path

import pytest

from tests.support.preprocess import json_lines, parquet, read_rows, run_script
from verl_ext.data.prepare.decontamination import EvaluationNgrams, words_of
from verl_ext.data.prepare.evaluation_problems import EvaluationProblem, read_evaluation_problems
from verl_ext.errors import DataError

DATA = Path(os.environ.get("VERL_EXT_DATA") or Path(__file__).resolve().parents[2] / "../shared/data")
WORDS = [f"{a}{b}" for a in ("ta", "re", "mi", "so", "lu") for b in ("ban", "dor", "kel", "fin", "gus", "pom")]


def words(start: int, count: int) -> str:
    return " ".join(WORDS[(start + i) % len(WORDS)] + str((start + i) // len(WORDS)) for i in range(count))


def like(training: str, evaluation: str, size: int = 9, common_share: float = 0.0) -> list[str]:
    """The n-grams by which the training problem is too like the evaluation problem."""
    ngrams = EvaluationNgrams([EvaluationProblem("math500", 0, evaluation)], size, common_share)
    return [match.ngram for match in ngrams.matches(training)]


SIZES = pytest.mark.parametrize("size", [9, 13])


@SIZES
def test_a_problem_that_contains_n_words_of_another_is_like_it(size):
    evaluation = words(0, 20)
    assert like(f"{words(100, 5)} {words(3, size)} {words(200, 4)}", evaluation, size) == [words(3, size)]
    assert like(evaluation, evaluation, size) == [words(0, size)]


@SIZES
def test_one_word_less_is_not_enough(size):
    evaluation = words(0, 40)
    assert like(f"{words(100, 5)} {words(3, size - 1)} {words(200, 4)}", evaluation, size) == []
    # nor are n words with one changed, nor twice n - 1 words that do not follow each other
    almost = words(3, size).split()
    almost[size // 2] = "other"
    assert like(f"{words(100, 5)} {' '.join(almost)} {words(200, 4)}", evaluation, size) == []
    assert like(f"{words(3, size - 1)} or {words(20, size - 1)}", evaluation, size) == []


@pytest.mark.parametrize(
    "rewritten",
    [
        "LET $A$ BE THE SUM OF ALL\n\n\tROOTS OF THE POLYNOMIAL.",
        "let a be the sum of all roots of the polynomial",
        "Let \\(A\\) be the sum, of all roots (of the polynomial)!",
        "Let  $ A $  be \u2018the\u2019 sum of all roots\u2014of the polynomial?",
        "Let \uff21 be the sum of all roots of the polynomial",
    ],
    ids=["case and white space", "no punctuation", "other punctuation", "Unicode punctuation", "full-width letter"],
)
def test_case_white_space_and_punctuation_do_not_hide_a_problem(rewritten):
    assert like(rewritten, "Let $A$ be the sum of all roots of the polynomial.") == ["let a be the sum of all roots of"]


def test_formulas_are_words_too_and_chinese_characters_are_one_each():
    assert words_of("\\frac{1}{2}x_1 + 3.5") == ["frac", "1", "2", "x", "1", "3", "5"]
    assert words_of("求方程x=2的解") == ["求", "方", "程", "x", "2", "的", "解"]
    assert like("已知函数的最大值为多少请求出", "问题：函数的最大值为多少？") == ["函 数 的 最 大 值 为 多 少"]


@pytest.mark.parametrize(
    ("training", "evaluation", "removed"),
    [
        ("Compute $3+4$.", "compute 3 + 4", True),
        ("Compute $3 \\cdot 4$.", "Compute $3 + 4$.", False),
        ("Compute $3*4$.", "Compute $3+4$.", False),
        ("Compute 3 + 4, then take the square root of the result obtained so far.", "Compute 3 + 4", False),
        ("What is $x$?", "What is $y$?", False),
        ("$$", "??", False),
    ],
)
def test_a_problem_of_fewer_than_n_words_is_compared_as_a_whole(training, evaluation, removed):
    assert bool(like(training, evaluation)) == removed


def test_of_several_problems_the_one_with_most_in_common_comes_first():
    problems = [EvaluationProblem("a", 0, words(0, 10)), EvaluationProblem("b", 7, words(0, 30))]
    found = EvaluationNgrams(problems, 9).matches(words(0, 25))
    assert [(match.problem.benchmark, match.shared) for match in found] == [("b", 17), ("a", 2)]


def test_the_common_share_spares_a_row_that_shares_a_phrase_only():
    phrase = "where m and n are relatively prime positive integers find m plus n"
    evaluation, training = f"{words(0, 20)} {phrase}", f"{words(100, 20)} {phrase}"
    assert like(training, evaluation, common_share=0.0)
    assert not like(training, evaluation, common_share=0.6)
    assert like(f"{words(0, 12)} {words(300, 8)} {phrase}", evaluation, common_share=0.6)
    # 24 of 32 words in their order are 75%
    assert like(f"{words(300, 8)} {words(8, 12)} {phrase}", evaluation, common_share=0.74)
    assert not like(f"{words(300, 8)} {words(8, 12)} {phrase}", evaluation, common_share=0.76)
    # the same words in another order have less in common than their number says
    shuffled = words(0, 20).split()
    random.Random(0).shuffle(shuffled)
    assert not like(f"{' '.join(shuffled)} {phrase}", evaluation, common_share=0.74)


# Through a script


TRAINING = [
    {"problem": f"Fresh problem: {words(500, 15)}", "solution": "\\boxed{1}"},
    {"problem": f"Recall that {words(0, 14).upper()}.", "solution": "\\boxed{2}"},
    {"problem": f"Phrase only: {words(40, 10)} {words(600, 9)}", "solution": "\\boxed{3}"},
    {"problem": "Compute $3+4$!", "solution": "\\boxed{7}"},
]


@pytest.fixture
def run(tmp_path):
    """Prepare `TRAINING` with these options, from numina_cot.py unless another script is named."""
    source = json_lines(tmp_path / "s.jsonl", TRAINING)
    return partial(run_script, "numina_cot", "--source", source, local_dir=tmp_path / "out")


@pytest.fixture
def sets(tmp_path):
    """A folder with a benchmark's own file and a prepared one."""
    folder = tmp_path / "evaluation"
    json_lines(folder / "aime24.jsonl", [{"problem": "Compute 3 + 4."}, {"problem": f"Now {words(40, 30)}"}])
    gsm8k = json_lines(tmp_path / "g.jsonl", [{"question": words(n * 50, 30), "answer": "#### 1"} for n in (5, 0)])
    assert run_script("gsm8k", "--source", gsm8k, local_dir=folder / "gsm8k")[0] == 0
    return folder


def test_rows_are_removed_listed_and_counted(run, sets, tmp_path):
    code, out, err = run("--decontaminate", sets, "--ngram", 9)
    assert (code, err) == (0, [])
    assert [row["extra_info"]["index"] for row in read_rows(tmp_path / "out")] == [0]
    path = tmp_path / "out" / "train.decontamination.jsonl"
    assert out[0] == f"{tmp_path / 'out' / 'train.parquet'}: 1 rows of 4 read, 3 dropped"
    assert out[1] == (
        "  decontaminated with 9-grams of aime24 (2 problems), gsm8k (2 problems): "
        f"3 rows removed (aime24 2, gsm8k 1); listed in {path}"
    )
    assert "  dropped 3 x is too like an evaluation problem (row 1, row 2, row 3)" in out
    listed = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["index"], row["evaluation_set"], row["evaluation_index"], row["ngram"]) for row in listed] == [
        (1, "gsm8k", 1, words(0, 9)),
        (2, "aime24", 1, words(40, 9)),
        (3, "aime24", 0, "compute 3 + 4"),
    ]
    assert listed[0] == {
        "index": 1,
        "question": TRAINING[1]["problem"],
        "evaluation_set": "gsm8k",
        "evaluation_index": 1,
        "evaluation_question": words(0, 30),
        "ngram": words(0, 9),
        "shared_ngrams": 6,
        "others": [],
    }


def test_thirteen_words_are_the_default(run, sets, tmp_path):
    run("--decontaminate", sets)
    assert [row["extra_info"]["index"] for row in read_rows(tmp_path / "out")] == [0, 2]


def test_a_second_run_writes_the_same_bytes_and_a_plain_one_no_list(run, sets, tmp_path):
    files = [tmp_path / "out" / name for name in ("train.parquet", "train.decontamination.jsonl")]
    run("--decontaminate", sets)
    first = [file.read_bytes() for file in files]
    run("--decontaminate", sets)
    assert [file.read_bytes() for file in files] == first
    assert run("--decontaminate", tmp_path / "nowhere")[0] == 2
    assert [file.read_bytes() for file in files] == first, "a failed run leaves what was there"
    run()
    assert len(read_rows(tmp_path / "out")) == 4 and not files[1].exists()


def test_only_the_training_split_is_decontaminated_and_its_own_folder_is_no_evaluation_set(run, sets, tmp_path):
    local_dir = sets / "numina"
    for _ in range(2):  # the second time a test.parquet is there already
        run("--decontaminate", sets, "--train_end", 1, "--test_size", 3, local_dir=local_dir)
        assert [row["extra_info"]["index"] for row in read_rows(local_dir, "train")] == [0]
        assert [row["extra_info"]["index"] for row in read_rows(local_dir, "test")] == [1, 2, 3]
    assert not (local_dir / "test.decontamination.jsonl").exists()


def test_the_n_gram_that_removes_most_is_shown(run, tmp_path):
    phrase = words(0, 13)
    rows = [{"problem": f"{words(100 * n, 5)} {phrase}", "solution": "\\boxed{1}"} for n in range(1, 4)]
    source = json_lines(tmp_path / "many.jsonl", [*rows, TRAINING[0]])
    json_lines(tmp_path / "sets" / "aime24.jsonl", [{"problem": f"{words(900, 9)} {phrase}"}])
    out = run("--source", source, "--decontaminate", tmp_path / "sets")[1]
    assert f"  the n-gram that removed most, 3 rows: {phrase}" in out
    spared = run("--source", source, "--decontaminate", tmp_path / "sets", "--common_share", "0.75")[1]
    assert spared[0].endswith("4 rows of 4 read, 0 dropped")


def test_all_rows_removed_is_an_error_that_says_why(run, tmp_path):
    json_lines(tmp_path / "sets" / "all.jsonl", [{"problem": row["problem"]} for row in TRAINING])
    code, _, err = run("--decontaminate", tmp_path / "sets")
    assert code == 2 and len(err) == 1 and "no usable row: 4 x is too like an evaluation problem" in err[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--decontaminate", "{}/nowhere"], "--decontaminate {}/nowhere: no such folder"),
        (
            ["--decontaminate", "{}/empty"],
            "--decontaminate {}/empty: no evaluation set in this folder (looked for NAME.js",
        ),
        (["--decontaminate", "{}/void"], "{}/void/aime24.jsonl: no problem in it"),
        (["--decontaminate", "{}/odd"], "{}/odd/own/test.jsonl: row 1: no question (looked for the columns question"),
        (["--decontaminate", "{}/odd", "--ngram", "8"], "argument --ngram: invalid choice: 8 (choose from 9, 13)"),
        (["--decontaminate", "{}/odd", "--common_share", "60"], "'60' is not a number from 0 to below 1"),
    ],
)
def test_evaluation_sets_that_cannot_be_used_are_one_line(run, tmp_path, options, message):
    (tmp_path / "empty").mkdir()
    json_lines(tmp_path / "empty" / "train.jsonl", [{"problem": "never an evaluation set"}])
    json_lines(tmp_path / "void" / "aime24.jsonl", [])
    json_lines(tmp_path / "odd" / "own" / "test.jsonl", [{"problem": "?"}, {"text": "?"}])
    code, out, err = run(*(option.replace("{}", str(tmp_path)) for option in options))
    assert (code, out, len(err)) == (2, [], 1)
    assert message.replace("{}", str(tmp_path)).replace("(choose from 9, 13)", "") in err[0]


def test_prepared_files_are_compared_without_their_instruction(tmp_path):
    prompt = "What? Let's think step by step and output the final answer within \\boxed{} and nothing else at all."
    row = {
        "prompt": [{"role": "user", "content": prompt}],
        "reward_model": {"style": "rule", "ground_truth": "1"},
        "extra_info": {"question": "What?"},
    }
    parquet(tmp_path / "own" / "test.parquet", [row])
    assert read_evaluation_problems(tmp_path, except_in=tmp_path / "x") == [EvaluationProblem("own", 0, "What?")]
    parquet(tmp_path / "own" / "test.parquet", [{**row, "extra_info": {"split": "test"}}])
    with pytest.raises(DataError, match="own/test.parquet: row 0: no extra_info.question"):
        read_evaluation_problems(tmp_path, except_in=tmp_path / "x")


@pytest.mark.parametrize(("size", "common_share"), [(9, 0.0), (13, 0.0), (13, 0.6)])
def test_public_evaluation_problems_are_found_again(size, common_share):
    if not DATA.is_dir():
        pytest.skip(f"no evaluation data in {DATA} (set VERL_EXT_DATA to the folder that holds it)")
    problems = read_evaluation_problems(DATA, except_in=Path("elsewhere"))
    ngrams = EvaluationNgrams(problems, size, common_share)
    for problem in problems[:: 20 if common_share else 3]:
        found = ngrams.matches(f"  {problem.question.upper()} ")
        # A problem that a set holds twice may come before its copy.
        assert problem.question.split() in [match.problem.question.split() for match in found if match.shared]
        assert found[0].shared == max(match.shared for match in found)
    if common_share:
        # Sets share competition wordings of thirteen words, but no problems.
        sample = [problem for problem in problems if problem.benchmark in ("aime24", "aime25", "amc23")]
        others = {match.problem.benchmark for problem in sample for match in ngrams.matches(problem.question)}
        assert others == {problem.benchmark for problem in sample}
        assert all(match.problem.benchmark == p.benchmark for p in sample for match in ngrams.matches(p.question))
