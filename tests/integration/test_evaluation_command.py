"""The command as a user starts it: the published five arguments, and mistakes that end in one line and exit code 2."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.evaluation import arguments, command, write_problems, write_run
from tests.support.launch import python_path
from tests.support.tiny_model import save_tiny_model
from verl_ext.evaluation.__main__ import main
from verl_ext.evaluation.store import samples_file
from verl_ext.evaluation.summary import read_summary
from verl_ext.run_folder import LOCK_FILE

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    return write_problems(tmp_path_factory.mktemp("problems") / "sums.jsonl", 3)


@pytest.fixture
def refused(capsys):
    """The one line of a command that must fail before anything is loaded."""

    def line_of(*keys: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(keys)
        errors = capsys.readouterr().err.strip().splitlines()
        assert ended.value.code == 2 and len(errors) == 1 and errors[0].startswith("error: "), errors
        return errors[0].removeprefix("error: ")

    return line_of


@pytest.mark.slow
def test_the_published_five_arguments(problems, model_folder, tmp_path):
    """What the script adds to them is taken from the environment: here the engine, the set and the data's folder."""
    data = tmp_path / "data" / "amc23"
    data.mkdir(parents=True)
    (data / "test.jsonl").write_text(problems.read_text())
    out = tmp_path / "out"
    result = subprocess.run(
        ["bash", str(ROOT / "sh" / "eval.sh"), "qwen-boxed", str(model_folder), str(out), "2", "0.8"],
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
        env={
            **os.environ,
            "VENV": sys.prefix,
            "BENCHMARKS": "amc23",
            "DATA_DIR": str(tmp_path / "data"),
            "ENGINE": "transformers",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": python_path(ROOT),
        },
    )
    assert result.returncode == 0, result.stderr
    summary = read_summary(out)
    identity = summary["run"]["identity"]
    assert (identity["prompt_type"], identity["temperature"], identity["top_p"]) == ("qwen-boxed", 0.8, 1.0)
    assert (identity["max_tokens"], identity["seed"], identity["fit_context"]) == (4096, 0, True)
    assert summary["run"]["benchmarks"]["amc23"]["n_samples"] == 2 and summary["graders"]["qwen"]["complete"]
    records = map(json.loads, samples_file(out, "amc23").read_text().splitlines())
    first = next(record for record in records if record["problem"] == 0)
    assert first["prompt"].endswith(
        "What is 0 + 1?\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert "| avg@2" in result.stdout and (out / "plots" / "accuracy.png").is_file()
    assert "leave less than 4096 tokens in a context of 512" in result.stderr


def test_the_script_says_what_it_takes():
    result = subprocess.run(["bash", str(ROOT / "sh" / "eval.sh"), "cot"], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "PROMPT_TYPE MODEL_NAME_OR_PATH OUTPUT_DIR N_SAMPLING TEMPERATURE" in result.stderr


def test_unknown_names_are_refused_with_the_list(refused, problems, model_folder, tmp_path):
    keys = arguments(model_folder, problems, tmp_path)
    assert "prompt_type: got 'qwen-boxd', expected (did you mean 'qwen-boxed'?)" in refused(
        *keys, "prompt_type=qwen-boxd"
    )
    assert "benchmarks: got 'aime2024', expected" in refused(*keys, "benchmarks=aime2024")
    assert refused("generat", *keys) == (
        "unknown step 'generat', expected one of run, generate, score, report, export; did you mean generate?"
    )
    assert refused(*keys, "temprature=1") == "unknown key temprature; did you mean temperature?"


def test_missing_gold_names_file_and_row(refused, model_folder, tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text('{"question": "Q", "answer": "5"}\n{"question": "R", "answer": null}\n')
    line = refused(*arguments(model_folder, path, tmp_path / "out"))
    assert line.startswith(f"{path}: row 1: no gold answer")
    assert not (tmp_path / "out" / "run.json").exists()


def test_a_context_that_is_too_short_is_refused_with_what_fits(refused, problems, model_folder, tmp_path):
    line = refused(*arguments(model_folder, problems, tmp_path, "max_tokens=500"))
    assert line.startswith("max_tokens: got 500, expected 4")
    assert "the model's context is 512 and sums problem 0 has 10" in line and "fit_context=true" in line
    long = tmp_path / "long.jsonl"
    long.write_text(json.dumps({"question": "1 + " * 200, "answer": "5"}) + "\n")
    assert "expected a context above 512: long problem 0 has" in refused(*arguments(model_folder, long, tmp_path))


@pytest.mark.slow
def test_a_folder_of_another_run_is_refused_and_left_as_it_was(refused, problems, model_folder, tmp_path):
    keys = arguments(model_folder, problems, tmp_path)
    assert main(["generate", *keys]) == 0
    before = samples_file(tmp_path, "sums").read_bytes()
    other = save_tiny_model(tmp_path / "other", seed=1)
    for changed, difference in {
        f"model={other}": "weights is",
        "seed=3": "seed is 0 there and 3 here",
        "prompt_type=cot": "prompt_type is 'chat' there and 'cot' here",
    }.items():
        line = refused("generate", *keys, changed)
        assert f"output_dir: {tmp_path} holds another run: " in line and difference in line
    assert samples_file(tmp_path, "sums").read_bytes() == before


def test_models_and_folders_that_are_not_there_are_named(refused, problems, model_folder, tmp_path):
    keys = arguments(model_folder, problems, tmp_path)
    assert refused(*keys, "model=./nowhere") == "model.path: folder ./nowhere not found"
    assert refused(*keys, "model=") == "model: got '', expected a model folder, a hub id or a checkpoint"
    assert "run.json: not found; is this the output_dir of an evaluation?" in refused("score", f"output_dir={tmp_path}")
    assert "no summary.json; run the step `score` first" in refused("report", str(tmp_path))
    assert refused("export", "a") == "export: got 1 paths, expected CHECKPOINT OUT"


def test_one_run_at_a_time(refused, problems, model_folder, tmp_path):
    with (tmp_path / LOCK_FILE).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        line = refused("generate", *arguments(model_folder, problems, tmp_path))
    assert line.startswith(f"output_dir: another run writes to {tmp_path}")


def test_an_endpoint_that_is_down(refused, problems, tmp_path):
    keys = arguments("any", problems, tmp_path, "engine=openai", "base_url=http://127.0.0.1:9/v1")
    assert refused("generate", *keys).startswith("base_url: http://127.0.0.1:9/v1/models does not answer")


def test_help_names_every_step_and_key(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for word in ("generate", "score", "report", "export", "prompt_type=chat", "n_samples=1", "grader=default"):
        assert word in shown


def test_score_and_report_are_steps_of_their_own(tmp_path, capsys):
    write_run(tmp_path, [["\\boxed{5}", "\\boxed{4}"]], ["5"])
    assert main(["score", f"output_dir={tmp_path}", "grader_workers=1"]) == 0
    assert main(["report", str(tmp_path), "papers=none"]) == 0
    assert "| by-hand    | avg@2    |  50.0 |" in capsys.readouterr().out


def test_a_mistake_ends_the_process_with_one_line_and_code_2(tmp_path):
    result = command("benchmarks=aime24", f"output_dir={tmp_path}")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: model: got '', expected a model folder, a hub id or a checkpoint\n"
