"""The doctor has nothing against our recipes, on the cluster that each of them asks for."""

from __future__ import annotations

import pytest

from tests.conftest import arithmetic_rows, write_parquet
from tests.support.doctor import MUCH_DISK, graded_rows
from tests.support.recipes import FOLDER, ONLINE, RECIPES, VARIABLES
from verl_ext.doctor.__main__ import examine_script
from verl_ext.doctor.findings import exit_code

CLUSTERS = {"nft/qwen2.5-32b.sh": {"NNODES": "16", "RAY_ADDRESS": "10.0.0.1:6379"}}
"""Recipe -> what it asks for beside one machine with 8 GPUs."""

VARIANTS = [
    *((recipe, {}) for recipe in RECIPES),
    *(("dft/qwen2.5-math-1.5b-offline.sh", {"OBJECTIVE": objective}) for objective in ("rft", "nft")),
    *(("nft/qwen2.5-math-7b.sh", {"OBJECTIVE": objective}) for objective in ("rft", "dapo", "grpo", "dr_grpo")),
    ("nft/qwen2.5-math-7b.sh", {"ROLLOUT": "sglang"}),
]
ROWS = 600
"""More than a batch of any recipe."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with a little of every data set in its own columns."""
    folder = tmp_path_factory.mktemp("data")
    rows = graded_rows(ROWS)
    sums = [f"What is {i} + {i}?" for i in range(ROWS)]
    for row, question in zip(rows, sums, strict=True):
        row["prompt"] = [{"role": "user", "content": question}]
        row["extra_info"]["question"] = question
    proofs = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": f"<think>{q}</think>Hence."}]}
        for q in sums
    ]
    tests = [row | {"data_source": "math"} for row in arithmetic_rows(8, seed=1)]
    files = {
        "numina_cot/train.parquet": rows,
        "dapo_math_17k/train.parquet": rows,
        "fineproofs_sft/train.parquet": proofs,
        "math500/test.parquet": tests,
    }
    for name in ("aime24", "aime25", "amc23", "math500", "minerva_math", "olympiadbench"):
        files[f"evaluation/{name}/test.parquet"] = tests
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_parquet(path, content)
    return folder


@pytest.fixture
def examine(data, tmp_path, monkeypatch):
    def run(recipe: str, *arguments: str, **environment: str):
        for name in (*VARIABLES, "DRY_RUN", "TINY_DIR", "RAY_ADDRESS"):
            monkeypatch.delenv(name, raising=False)
        chosen = {"DATA": str(data), "RUN": str(tmp_path / "run"), **CLUSTERS.get(recipe, {}), **environment}
        for name, value in chosen.items():
            monkeypatch.setenv(name, value)
        return examine_script(FOLDER / recipe, arguments, MUCH_DISK, 8)

    return run


@pytest.mark.parametrize(("recipe", "environment"), VARIANTS, ids=lambda value: str(value))
def test_nothing_stands_in_the_way_of_a_recipe(examine, recipe, environment):
    reports, general = examine(recipe, **environment)
    (report,) = reports
    findings = [*general, *report.findings]
    assert [finding for finding in findings if finding.level != "info"] == []
    assert exit_code(findings) == 0
    assert report.memory and report.times
    assert report.launch.trainer == (
        "nft" if recipe in ONLINE else "nft_offline" if environment.get("OBJECTIVE") == "nft" else "dft"
    )


def test_what_the_chain_makes_is_not_missing(examine):
    reports, general = examine("dft/qwen2.5-math-1.5b-offline.sh")
    (finding,) = [f for f in reports[0].findings if f.code == "made-by-script"]
    assert finding.key == "data.train_files" and "collect" in finding.message
    assert [f.code for f in general] == ["not-run"] * 4


def test_a_recipe_tells_what_is_wrong_with_its_further_arguments(examine):
    reports, _ = examine("dft/qwen2.5-math-1.5b.sh", "data.train_batch_size=100", "optim.learning_rate=1")
    assert {"bad-batch", "unknown-key"} <= {finding.code for finding in reports[0].findings}


def test_too_few_gpus_for_a_recipe_are_found(examine):
    reports, _ = examine("nft/qwen2.5-32b.sh", NNODES="1", GPUS="8")
    assert any(f.code == "memory-training" and f.level == "error" for f in reports[0].findings)


def test_a_recipe_that_is_only_tried_out_is_examined_as_such(examine, tmp_path):
    reports, general = examine("dft/qwen2.5-math-1.5b.sh", TINY="1", TINY_DIR=str(tmp_path))
    (report,) = reports
    assert {finding.key for finding in report.findings if finding.code == "made-by-script"} == {
        "data.train_files", "data.val_files", "model.path",
    }  # fmt: skip
    assert exit_code([*general, *report.findings]) == 0
