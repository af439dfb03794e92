"""Tables and plots: what stands where, beside the papers' rows, and that the pictures are pictures."""

import json
from pathlib import Path

import matplotlib.image
import pytest

from tests.support.evaluation import write_run
from verl_ext.errors import ConfigError, UserError
from verl_ext.evaluation.config import read_config
from verl_ext.evaluation.plots import length_bins
from verl_ext.evaluation.published import RESULTS_FILE, published_rows
from verl_ext.evaluation.report import report
from verl_ext.evaluation.score import score
from verl_ext.evaluation.store import graded_file, samples_file

PAPER = ("math500", "minerva_math", "olympiadbench", "aime24", "amc23")
RESPONSES = [["\\boxed{5}", "\\boxed{4}"], ["\\boxed{5}", "\\boxed{5}"], ["no answer, cut off", "\\boxed{1}"]]


def evaluated(folder, responses=RESPONSES, benchmark="amc23", *keys):
    """A scored folder whose benchmark is renamed, as if it had been that one."""
    write_run(folder, responses, ["5"] * len(responses), *keys)
    samples_file(folder, "own").rename(samples_file(folder, benchmark))
    run = json.loads((folder / "run.json").read_text())
    run["benchmarks"] = {benchmark: run["benchmarks"]["own"]}
    run["identity"]["model"] = f"/models/{folder.name}/global_step_40/huggingface"
    (folder / "run.json").write_text(json.dumps(run))
    score(read_config([f"output_dir={folder}", "grader_workers=1"]))
    return str(folder)


def row_of(text, name):
    """The cells of the first table row of that name."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {name} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_models_and_papers_stand_side_by_side(tmp_path):
    one = evaluated(tmp_path / "sft")
    two = evaluated(tmp_path / "dft", [["\\boxed{5}"] * 2] * 3)
    text = report([one, two], output=str(tmp_path / "both"))
    metric, right = row_of(text, "sft/global_step_40")[1:3]
    value, error = map(float, right.split(" ± "))
    # Shares of 1/2, 1 and 0 right: their standard deviation over the square root of 3.
    assert (metric, value, error) == ("avg@2", 50.0, pytest.approx(100 * (1 / 6) ** 0.5 / 3**0.5, abs=0.6))
    assert row_of(text, "dft/global_step_40")[1:3] == ["avg@2", "100.0 ± 0.0"]
    assert row_of(text, r"Qwen2.5-Math-1.5B, DFT (DFT)") == ["Qwen2.5-Math-1.5B, DFT (DFT)", "avg@16", "38.13"]
    assert row_of(text, r"Qwen2.5-Math-7B, NFT (NFT)")[1:] == ["avg@32", "88.5"]
    assert "arXiv 2508.05629 Table 1" in text and "NVlabs/NFT assets/main_table.png" in text
    assert (tmp_path / "both" / "report.md").read_text() == text


def test_details_hold_every_metric(tmp_path):
    text = report([evaluated(tmp_path / "sft")], papers="none")
    details = text.split("## Details")[1]
    header = [cell.strip() for cell in details.strip().splitlines()[0].strip("|").split("|")]
    values = dict(zip(header, row_of(details, "sft/global_step_40"), strict=True))
    assert values["benchmark"] == "amc23" and values["problems"] == "3" and values["k"] == "2"
    assert values["pass@k, %"].startswith("66.7 ± ") and values["maj@k, %"].startswith("50.0 ± ")
    assert (values["truncated, %"], values["no answer, %"], values["no verdict, %"]) == ("16.7", "16.7", "0.0")
    assert "Qwen2.5" not in text and "temperature 1" in text and "grader default" in text


def test_plots_are_pictures_that_show_something(tmp_path):
    report([evaluated(tmp_path / "sft")])
    for name in ("accuracy", "pass_at_k", "length"):
        picture = matplotlib.image.imread(tmp_path / "sft" / "plots" / f"{name}.png")
        assert min(picture.shape[:2]) > 300 and picture[..., :3].std() > 0.05


def test_the_papers_averages_are_those_that_they_print():
    """The DFT paper's own column `Avg` of Table 1, the NFT paper's of its main table, to their last digit."""
    rows = {row.name: row for row in published_rows("all", PAPER)}
    for name, average in {
        "Qwen2.5-Math-1.5B, base (DFT)": 15.92,
        "Qwen2.5-Math-1.5B, SFT (DFT)": 18.01,
        "Qwen2.5-Math-1.5B, DFT (DFT)": 31.58,
        "Qwen2.5-Math-7B, DFT (DFT)": 37.15,
        "LLaMA-3.1-8B, DFT (DFT)": 11.02,
        "Qwen2.5-Math-7B, NFT (NFT)": 51.7,
        "Qwen2.5-32B, NFT (NFT)": 59.2,
    }.items():
        values = [value for _, value in rows[name].results.values()]
        assert sum(values) / len(values) == pytest.approx(average, abs=0.051)


def test_rows_can_be_chosen_and_a_wrong_name_is_refused():
    assert {row.paper for row in published_rows("NFT", PAPER)} == {"NFT"}
    assert {row.base_model for row in published_rows("Qwen2.5-32B,LLaMA-3.2-3B", PAPER)} == {
        "Qwen2.5-32B",
        "LLaMA-3.2-3B",
    }
    of_code = published_rows("AceReason", ["livecodebench-v5"])
    assert [row.results["livecodebench-v5"][1] for row in of_code] == [51.8, 61.1, 48.8, 57.2]
    assert published_rows("none", PAPER) == [] == published_rows("all", ["gsm8k"])
    with pytest.raises(ConfigError, match="papers: got 'PPO', expected all, none, or some of AceReason, DFT, .*NFT"):
        published_rows("PPO", PAPER)
    assert all(row["source"] for row in json.loads(RESULTS_FILE.read_text()))


def test_what_cannot_be_shown_is_refused(tmp_path):
    with pytest.raises(UserError, match="report: no folder given"):
        report([])
    with pytest.raises(UserError, match="no summary.json; run the step `score` first"):
        report([str(tmp_path)])
    folder = evaluated(tmp_path / "sft")
    with pytest.raises(ConfigError, match="grader: got 'qwen', expected one that has scored .*: default"):
        report([folder], grader="qwen")


def test_an_incomplete_run_is_shown_as_such(tmp_path):
    folder = tmp_path / "sft"
    evaluated(folder)
    path = samples_file(folder, "amc23")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    graded_file(folder, "default", "amc23").unlink()
    score(read_config([f"output_dir={folder}", "grader_workers=1"]))
    assert "is not complete**: 5 of 6 samples" in report([str(folder)])


def test_equal_names_are_told_apart_by_their_folders(tmp_path):
    one, two = evaluated(tmp_path / "a" / "run"), evaluated(tmp_path / "b" / "run")
    for folder, other in ((one, "first"), (two, "second")):
        Path(folder).rename(tmp_path / other)
    text = report([str(tmp_path / "first"), str(tmp_path / "second")], papers="none")
    assert row_of(text, r"run/global_step_40 (first)") and row_of(text, r"run/global_step_40 (second)")


def test_responses_are_binned_by_length():
    records = [{"tokens": n, "correct": n < 50} for n in range(100)]
    x, y, errors = length_bins(records)
    assert x == [9.5, 29.5, 49.5, 69.5, 89.5] and y == [100.0, 100.0, 50.0, 0.0, 0.0]
    assert errors[0] == 0.0 and errors[2] == pytest.approx(100 * 0.5 / 20**0.5, rel=0.1)
    x, y, _ = length_bins([{"tokens": 7, "correct": True}] * 10)
    assert (x, y) == ([7.0], [100.0])
