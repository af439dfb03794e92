"""Files that grow by whole lines; what is damaged is repaired and said, or refused."""

import json
import shutil
import subprocess
import sys

import pytest

from verl_ext.errors import DataError, UserError
from verl_ext.evaluation.config import read_config
from verl_ext.evaluation.run_identity import Run, require_same_run, run_of
from verl_ext.evaluation.store import Lines, read_json
from verl_ext.model_folder import weights_fingerprint

BENCHMARK = {"gsm8k": {"source": "gsm8k", "problems": 5, "n_samples": 1, "fingerprint": "abc"}}


def config(*arguments):
    return read_config(["model=/models/tiny", "output_dir=/tmp/out", *arguments])


def test_records_come_back_as_they_went(tmp_path):
    records = [{"response": "½ \\frac{1}{2}\n\u2028", "tokens": 3}, {"response": "half a pair: \ud800"}]
    with Lines(tmp_path / "new" / "a.jsonl") as lines:
        for record in records:
            lines.append(record)
    with Lines(tmp_path / "new" / "a.jsonl") as lines:
        lines.append({"more": True})
    assert list(Lines(tmp_path / "new" / "a.jsonl").read()) == [*records, {"more": True}]


@pytest.mark.parametrize("tail", ['{"response": "cut o', '{"response": "no newline"}', "\x00\x00\x00\n", '"text"\n'])
def test_a_last_line_that_was_cut_off_is_removed_and_said(tmp_path, capsys, tail):
    path = tmp_path / "a.jsonl"
    path.write_text('{"n": 1}\n{"n": 2}\n' + tail)
    assert list(Lines(path).read()) == [{"n": 1}, {"n": 2}]
    with Lines(path) as lines:
        lines.append({"n": 3})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert f"{path}: its last line was cut off" in capsys.readouterr().err


def test_whole_files_are_left_alone_and_nothing_is_said(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    path.write_text('{"n": 1}\n')
    with Lines(path):
        pass
    assert path.read_text() == '{"n": 1}\n' and capsys.readouterr().err == ""


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"n": 1}\n{"n": \n{"n": 3}\n')
    with pytest.raises(DataError, match="a.jsonl: line 2 is damaged"):
        list(Lines(path).read())
    with Lines(path):
        pass
    assert path.read_text().count("\n") == 3


def test_a_disk_that_takes_no_more_is_one_line(tmp_path):
    code = (
        "import resource, signal, sys, pathlib\n"
        "from verl_ext.evaluation.store import Lines\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "with Lines(pathlib.Path(sys.argv[1])) as lines:\n"
        "    for n in range(100): lines.append({'n': n})\n"
    )
    path = tmp_path / "a.jsonl"
    result = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert f"UserError: {path}: cannot be written" in result.stderr
    assert [record["n"] for record in Lines(path).read()] == list(range(path.read_bytes().count(b"\n")))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("temperature=0.6", "temperature is 1.0 there and 0.6 here"),
        ("prompt_type=cot", "prompt_type is 'chat' there and 'cot' here"),
        ("seed=1", "seed is 0 there and 1 here"),
        ("model=/models/other", "model is '/models/tiny' there and '/models/other' here"),
    ],
)
def test_a_folder_of_another_run_is_refused_with_every_difference(tmp_path, changed, message):
    run_of(config(), "/models/tiny", BENCHMARK).write(tmp_path)
    with pytest.raises(UserError, match="output_dir: .* holds another run: .*top_k is -1 there and 5 here") as error:
        require_same_run(run_of(config(changed, "top_k=5"), "/models/tiny", BENCHMARK), tmp_path)
    assert message in str(error.value)


def test_other_problems_under_one_name_are_another_run(tmp_path):
    run_of(config(), "/models/tiny", BENCHMARK).write(tmp_path)
    other = {"gsm8k": {**BENCHMARK["gsm8k"], "source": "gsm8k:mine.jsonl", "fingerprint": "xyz"}}
    with pytest.raises(UserError, match="the problems of gsm8k are others .gsm8k there, gsm8k:mine.jsonl here"):
        require_same_run(run_of(config(), "/models/tiny", other), tmp_path)


def test_more_samples_problems_and_benchmarks_and_other_machines_are_the_same_run(tmp_path):
    run_of(config(), "/models/tiny", BENCHMARK).write(tmp_path)
    more = {"gsm8k": {**BENCHMARK["gsm8k"], "problems": 9}, "amc23": BENCHMARK["gsm8k"]}
    same = config("n_samples=8", "max_num_seqs=4", "grader=qwen", "tensor_parallel_size=2")
    asked = run_of(same, "/models/tiny", more)
    require_same_run(asked, tmp_path)
    asked.write(tmp_path)
    run_of(same, "/models/tiny", {"aime24": {**BENCHMARK["gsm8k"], "n_samples": 32}}).write(tmp_path)
    assert list(Run.read(tmp_path).benchmarks) == ["gsm8k", "amc23", "aime24"]
    assert Run.read(tmp_path).samples == 9 + 5 + 5 * 32


def test_a_model_is_its_weights_wherever_it_lies(model_folder, tmp_path):
    from tests.support.tiny_model import save_tiny_model

    moved = tmp_path / "moved"
    shutil.copytree(model_folder, moved)
    other = save_tiny_model(tmp_path / "other", seed=1)
    assert weights_fingerprint(model_folder) == weights_fingerprint(moved) != weights_fingerprint(other)
    run_of(config(f"model={model_folder}"), str(model_folder), BENCHMARK).write(tmp_path)
    require_same_run(run_of(config(f"model={moved}"), str(moved), BENCHMARK), tmp_path)
    with pytest.raises(UserError, match="weights is"):
        require_same_run(run_of(config(f"model={other}"), str(other), BENCHMARK), tmp_path)
    assert Run.read(tmp_path).samples == 5


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(UserError, match="run.json: not found; is this the output_dir"):
        read_json(tmp_path / "run.json")
