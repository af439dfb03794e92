"""The table and the picture at the end of the quickstart."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

from verl_ext.evaluation.run_identity import Run

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "quickstart" / "report.py"


@pytest.fixture
def report():
    spec = importlib.util.spec_from_file_location("quickstart_report", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _evaluation(right: float, any_right: float, tokens: float) -> dict:
    measured = {
        "problems": 128,
        "k": 4,
        "avg": {"value": right, "standard_error": 0.04},
        "pass": {"1": {"value": right, "standard_error": 0.04}, "4": {"value": any_right, "standard_error": 0.05}},
        "no_answer": 0.25,
        "mean_tokens": tokens,
    }
    return {"graders": {"default": {"benchmarks": {"arithmetic": measured}}}}


MEASURED = {
    "before": (0, 0.1, 60),
    "after-dft-2": (0.2, 0.5, 30),
    "after-nft-2": (0.3, 0.5, 33),  # of an earlier, shorter run
    "after-nft-3": (0.4, 0.6, 37),
}


VERDICTS = {
    "before": ((0, 0), (0, 0)),
    "after-dft-2": ((0, 1), (0, 0)),
    "after-nft-2": ((0, 0), (0, 0)),
    "after-nft-3": ((1, 1), (1, 0)),
}
"""Of two problems with two answers each."""


def _grade(folder: Path, verdicts: tuple[tuple[int, int], ...]) -> None:
    texts = {"question": "1 + 1?", "prompt": "1 + 1?", "response": "2"}
    lines = [
        {"problem": problem, "sample": sample, "correct": bool(right), **texts}
        for problem, samples in enumerate(verdicts)
        for sample, right in enumerate(samples)
    ]
    path = folder / "graded" / "default" / "arithmetic.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in reversed(lines)))  # in the order they were done
    Run(identity={}, benchmarks={"arithmetic": {"problems": 2, "n_samples": 2}}, settings={}).write(folder)


def test_table_and_picture_of_a_run(report, tmp_path, capsys):
    for folder, values in MEASURED.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "summary.json").write_text(json.dumps(_evaluation(*values)))
        _grade(tmp_path / folder, VERDICTS[folder])
    dft = [
        {"step": step, "train/loss": 0.1, "train/cross_entropy": 1.0, "train/tokens": 100, "perf/seconds_per_step": 2.0}
        for step in (1, 2)
    ]
    nft = [
        {"step": step, "perf/time_per_step": 30.0, "sampling/accuracy": 0.3}
        | {f"nft/correct_rate_p{share}": share / 100 for share in (10, 50, 90)}
        for step in (1, 2, 3)
    ]
    for stage, entries in {"dft": dft, "nft": [{"step": 0, "val/avg": 0.1}, *nft]}.items():
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    report.main(tmp_path)
    table = (tmp_path / "summary.md").read_text()
    assert "| answers right | 0.0% ± 4.0% | 20.0% ± 4.0% | 40.0% ± 4.0% |" in table
    assert "| problems with a right one of 4 | 10.0% ± 5.0% | 50.0% ± 5.0% | 60.0% ± 5.0% |" in table
    assert "| tokens of an answer | 60 | 30 | 37 |" in table
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert "2 steps of DFT, 3 of NFT, 128 held-out problems" in printed
    assert "DFT: 4 s, 50 tokens per second" in printed and "NFT: 90 s" in printed
    assert "global_step_3" in printed
    # NFT added half to either problem: no doubt about it; DFT to one of them
    assert re.search(r"\| added, problem by problem \|  \| \+25\.0 ± 17\.\d points \| \+50\.0 ± 0\.0 points \|", table)
