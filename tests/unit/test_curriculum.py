"""Plans in stages: what they are refused for, what each stage starts, filters, kills, plateaus, changes, the report.

Trainers are stood in for by tests/support/stage_program.py, which saves, resumes and ends as they do.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.image
import pytest
import yaml

from tests.support.launch import python_path
from verl_ext.curriculum import run as runner_module
from verl_ext.curriculum.__main__ import main
from verl_ext.curriculum.commands import arguments_of, command_of, doctor_of, folder_of
from verl_ext.curriculum.plan import read_plan
from verl_ext.curriculum.run import Runner
from verl_ext.curriculum.state import STATE_FILE
from verl_ext.data.reading import iterate_rows
from verl_ext.errors import UserError

pytestmark = pytest.mark.timeout(120)
ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests" / "support" / "stage_program.py"


def stand_in(stage, arguments):
    return [sys.executable, str(PROGRAM), stage.trainer, *arguments]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A model, problems that are solved 0, 1, ... 8 times of 8, and no doctor."""
    monkeypatch.setattr(runner_module, "command_of", stand_in)
    monkeypatch.setattr(runner_module, "doctor_of", lambda *_: [])
    monkeypatch.setattr(runner_module, "POLL_S", 0.05)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_text("the first weights")
    (tmp_path / "model" / "config.json").write_text("{}")
    rows = [
        {
            "prompt": [{"role": "user", "content": f"problem {number}"}],
            "reward_model": {"ground_truth": str(number)},
            "extra_info": {"right": number, "level": number % 3},
        }
        for number in range(9)
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def write(place, stages, **more):
    path = place / "plan.yaml"
    path.write_text(yaml.safe_dump({"model": str(place / "model"), "stages": stages, **more}))
    return path


def stage(place, name, **more):
    return {"name": name, "train": str(place / "train.jsonl"), "until": {"steps": 3}, **more}


def three(place, **more):
    return write(
        place,
        [
            stage(place, "one", set={"lr": 1}),
            stage(place, "two", keep="pass_rate < 1 and pass_rate > 0", set={"lr": 2}),
            stage(place, "three", trainer="dft", until={"steps": 2}),
        ],
        **more,
    )


def run(path, folder, redo_from=None):
    return Runner(read_plan(path), folder).run(redo_from)


def state(folder):
    return json.loads((folder / STATE_FILE).read_text())["stages"]


def numbers(file):
    return [row["extra_info"]["right"] for row in iterate_rows(str(file))]


def test_each_stage_begins_with_the_weights_of_the_one_before(place):
    assert run(three(place), place / "run") == 0
    done = state(place / "run")
    assert [entry["name"] for entry in done] == ["one", "two", "three"]
    assert done[1]["started_from"] == done[0]["fingerprint"] and done[2]["started_from"] == done[1]["fingerprint"]
    assert len({entry["fingerprint"] for entry in done}) == 3
    assert done[2]["model"] == str(place / "run" / "03-three" / "global_step_2" / "huggingface")
    assert numbers(place / "run" / "02-two" / "train.jsonl") == [1, 2, 3, 4, 5, 6, 7]
    assert (place / "run" / "02-two" / "train.png").exists()


def test_the_same_command_does_nothing_when_all_is_done(place, capsys):
    path = three(place)
    run(path, place / "run")
    before = {p: p.stat().st_mtime_ns for p in (place / "run").rglob("*.safetensors")}
    capsys.readouterr()
    assert run(path, place / "run") == 0
    assert "== stage" not in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in (place / "run").rglob("*.safetensors")} == before


KILLER = """
import sys
from pathlib import Path
from verl_ext.curriculum import filtering, run
from verl_ext.curriculum.plan import read_plan
import tests.unit.test_curriculum as here
run.command_of, run.doctor_of, run.POLL_S = here.stand_in, lambda *_: [], 0.05
if sys.argv[3] == "filter":
    import time
    kept = run.chosen_rows
    run.chosen_rows = lambda *a: (Path(sys.argv[2], "filtering").touch(), time.sleep(60)) and kept(*a)
raise SystemExit(run.Runner(read_plan(Path(sys.argv[1])), Path(sys.argv[2])).run())
"""


@pytest.mark.parametrize("where", ["stage", "filter", "between"])
def test_killed_anywhere_it_comes_to_the_same_weights(place, where):
    path = write(
        place,
        [
            stage(place, "one", set={"pause": 0.3 if where == "stage" else 0}),
            stage(place, "two", keep="pass_rate < 1", set={"pause": 0.3 if where == "between" else 0}),
        ],
    )
    folder = place / "run"
    folder.mkdir()
    mark = {
        "stage": folder / "01-one" / "global_step_1",
        "filter": folder / "filtering",
        "between": folder / "02-two" / ".run.lock",
    }[where]
    process = subprocess.Popen(
        [sys.executable, "-c", KILLER, str(path), str(folder), where],
        env={**os.environ, "PYTHONPATH": python_path(ROOT)},
    )
    deadline = time.monotonic() + 60
    while not mark.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert run(path, folder) == 0
    assert run(path, place / "whole") == 0
    assert [entry["fingerprint"] for entry in state(folder)] == [
        entry["fingerprint"] for entry in state(place / "whole")
    ]


def test_sigterm_saves_and_ends_with_75_and_the_same_command_goes_on(place):
    path = write(place, [stage(place, "one", set={"pause": 0.2}), stage(place, "two")])
    folder = place / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLER, str(path), str(folder), ""], env={**os.environ, "PYTHONPATH": python_path(ROOT)}
    )
    deadline = time.monotonic() + 60
    while not (folder / "01-one" / "global_step_1").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 75
    assert not (folder / STATE_FILE).exists()
    assert run(path, folder) == 0


@pytest.mark.parametrize(("code", "retries", "ends"), [(4, 2, 0), (4, 0, 4), (3, 2, 3), (2, 2, 2), (1, 2, 1)])
def test_exit_codes_are_passed_on_and_a_lost_worker_is_tried_again(place, capsys, code, retries, ends):
    path = write(place, [stage(place, "one", set={"fail_once": code}), stage(place, "two")], retries=retries)
    assert run(path, place / "run") == ends
    said = capsys.readouterr()
    assert ("lost a worker" in said.out) == (code == 4 and retries > 0)
    assert (f"stage 'one' ended with exit code {code}" in said.err) == (ends != 0)
    assert (place / "run" / "02-two").exists() == (ends == 0)


def test_a_stage_ends_where_its_metric_gets_no_better(place, monkeypatch):
    monkeypatch.setattr(runner_module, "model_folder_of", None, raising=False)
    until = {"plateau": "val/x/avg@8", "patience": 3, "at_most": 100}
    path = write(place, [stage(place, "one", until=until, set={"pause": 0.1, "best_step": 2}), stage(place, "two")])
    assert run(path, place / "run") == 0
    done = state(place / "run")
    assert done[0]["ended"] == "val/x/avg@8 has not risen above 0.2 (step 2) for 3 values"
    assert 5 <= int(done[0]["model"].split("global_step_")[1].split("/")[0]) < 100
    assert done[1]["started_from"] == done[0]["fingerprint"]


def test_epochs_are_stages_each_filtered_by_the_one_before(place):
    epochs = [{"lr": 1}, {"lr": 2}, {"lr": 3}]
    path = write(place, [stage(place, "code", keep="pass_rate < 1 and extra_info.level < 3", epochs=epochs)])
    assert run(path, place / "run") == 0
    folder = place / "run"
    assert numbers(folder / "01-code.1" / "train.jsonl") == list(range(9)), "nothing was measured yet"
    assert numbers(folder / "02-code.2" / "train.jsonl") == list(range(8))
    assert numbers(folder / "03-code.3" / "train.jsonl") == list(range(8)), "the last was measured in the first epoch"
    assert [entry["name"] for entry in state(folder)] == ["code.1", "code.2", "code.3"]


def test_a_filter_that_leaves_too_few_says_which_would_leave_enough(place):
    path = write(
        place,
        [stage(place, "one"), stage(place, "two", keep="pass_rate <= 1/8", set={"data.train_batch_size": 5})],
    )
    with pytest.raises(UserError, match=r"leaves 2 of 9 rows, fewer than a batch of 5; pass_rate <= 1/2 would leave 5"):
        run(path, place / "run")


def test_a_finished_stage_that_is_another_now_is_refused_and_done_anew_by_name(place):
    folder = place / "run"
    run(three(place), folder)
    changed = write(
        place,
        [
            stage(place, "one", set={"lr": 1}),
            stage(place, "two", keep="pass_rate < 1 and pass_rate > 0", set={"lr": 5}),
            stage(place, "three", trainer="dft", until={"steps": 2}),
        ],
    )
    with pytest.raises(UserError, match="stage 'two' is finished and the plan has changed: lr = 2 there, 5 here"):
        run(changed, folder)
    before = state(folder)
    assert run(changed, folder, redo_from="two") == 0
    after = state(folder)
    assert after[0] == before[0] and after[1]["fingerprint"] != before[1]["fingerprint"]
    assert (folder / "02-two.old1" / "global_step_3").exists()
    (place / "train.jsonl").write_text((place / "train.jsonl").read_text().replace("problem 1", "problem one"))
    with pytest.raises(UserError, match=r"stage 'one' is finished .*train.jsonl holds something else"):
        run(changed, folder)
    with pytest.raises(UserError, match="redo_from: no stage 'four'; there are one, two, three"):
        run(changed, folder, redo_from="four")


def test_the_doctor_looks_at_every_stage_before_the_first_starts(place, monkeypatch, capsys):
    seen = []

    def doctor(stage, arguments):
        seen.append(stage.name)
        code = 2 if stage.name == "two" else 1
        return [sys.executable, "-c", f"print('no room for {stage.name}'); raise SystemExit({code})"]

    monkeypatch.setattr(runner_module, "doctor_of", doctor)
    with pytest.raises(UserError, match="stage 'two' will fail, for the reasons above; nothing was started"):
        run(three(place), place / "run")
    assert seen == ["one", "two"] and "no room for two" in capsys.readouterr().err
    assert not list((place / "run").glob("*/global_step_*"))


def test_the_report_shows_all_stages(place):
    run(three(place), place / "run")
    text = (place / "run" / "report.md").read_text()
    assert "| one " in text and "reward/acc 0.3" in text and "![Metrics over all stages](curriculum.png)" in text
    picture = matplotlib.image.imread(place / "run" / "curriculum.png")
    assert min(picture.shape[:2]) > 300 and picture[..., :3].std() > 0.05


def test_commands_are_those_of_the_trainers(place):
    path = write(
        place,
        [
            stage(place, "rl", set={"objective": "nft", "data": {"max_response_length": 64}}),
            stage(place, "sft", trainer="sft", processes=2),
            {"name": "measure", "trainer": "evaluation", "set": {"benchmarks": ["aime24", "amc23"]}},
        ],
    )
    plan = read_plan(path, {"rl.data.max_response_length": "128", "objective": "grpo"})
    rl, sft, measure = plan.stages
    command = command_of(rl, arguments_of(rl, "M", ["a.parquet", "b.parquet"], folder_of(Path("R"), 1, rl)))
    assert command[1:3] == ["-m", "verl_ext.trainer.fsdp_nft_trainer"]
    assert set(command[3:]) == {
        *("objective=grpo", "data.max_response_length=128", "actor_rollout_ref.model.path=M"),
        *("data.train_files=[a.parquet,b.parquet]", "trainer.default_local_dir=R/01-rl", "trainer.resume_mode=auto"),
        "trainer.total_training_steps=3",
    }
    command = command_of(sft, arguments_of(sft, "M", ["a.parquet"], Path("R")))
    assert "--nproc_per_node=2" in command and "objective.name=sft" in command and "model.path=M" in command
    command = command_of(measure, arguments_of(measure, "M", (), Path("R")))
    assert command[1:] == ["-m", "verl_ext.evaluation", "run", "benchmarks=[aime24,amc23]", "model=M", "output_dir=R"]
    assert doctor_of(rl, ["x=1"])[1:] == ["-m", "verl_ext.doctor", "nft", "x=1"] and doctor_of(measure, []) == []


def test_plan_alone_starts_nothing(place, capsys):
    assert main([str(three(place)), f"run_dir={place / 'run'}", "--plan"]) == 0
    out = capsys.readouterr().out
    assert "# 2. two" in out and "pass rates of one" in out and "01-one/global_step_N/huggingface" in out
    assert not (place / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": []}, "stages: got [], expected a list of stages"),
        ({"modle": "x"}, "unknown key modle; did you mean model?"),
        ({"retries": -1}, "retries: got -1"),
        ({"set": {"trainer": {"default_local_dir": "x"}}}, "set.trainer.default_local_dir: got 'x', expected not here"),
        ([{"name": "one"}], "one.train: got None, expected training files"),
        ([{"name": "a b", "train": "x"}], "stages[0].name: got 'a b'"),
        ([{"name": "a", "train": "x"}, {"name": "a", "train": "x"}], "stages[1].name: got 'a', expected another name"),
        ([{"name": "a", "train": "x", "kep": "y"}], "unknown key stages[0].kep; did you mean stages[0].keep?"),
        ([{"name": "a", "train": "x", "trainer": "ppo"}], "a.trainer: got 'ppo', expected one of online"),
        ([{"name": "a", "train": "x", "keep": "pass_rate < 1"}], "no pass_rate in the first online stage"),
        ([{"name": "a", "train": "x", "keep": "level <"}], "a.keep: 'level <': expected a number"),
        ([{"name": "a", "train": "x", "keep": "level < 1", "rates": "a"}], "a.rates: got 'a', expected nothing"),
        ([{"name": "a", "train": "x"}, {"name": "b", "train": "x", "keep": "pass_rate < 1", "rates": "c"}], "b.rates"),
        ([{"name": "a", "train": "x", "set": {"data.train_files": "y"}}], "a.set.data.train_files: got 'y'"),
        ([{"name": "a", "train": "x", "until": {"plateau": "m"}}], "a.until.at_most: got None"),
        ([{"name": "a", "train": "x", "until": {"steps": 3, "patience": 2}}], "a.until.patience: got 2"),
        ([{"name": "a", "train": "x", "trainer": "dft", "until": {"plateau": "m", "at_most": 2}}], "a.until.plateau"),
        ([{"name": "a", "train": "x", "trainer": "dft", "epochs": [{}]}], "a.epochs"),
        ([{"name": "a", "trainer": "evaluation", "train": "x"}], "a.train: got 'x', expected nothing in an evaluation"),
    ],
)
def test_a_plan_that_cannot_work_is_one_line(place, capsys, change, message):
    given = {
        "model": "m",
        "stages": [stage(place, "one")],
        **(change if isinstance(change, dict) else {"stages": change}),
    }
    path = place / "plan.yaml"
    path.write_text(yaml.safe_dump(given))
    with pytest.raises(SystemExit, match="2"):
        main([str(path), f"run_dir={place / 'run'}"])
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and "plan.yaml" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run_dir=x"], "expected one plan, got none"),
        (["/nowhere.yaml", "run_dir=x"], "/nowhere.yaml: cannot be read"),
        (["plan.yaml"], "run_dir: expected a folder"),
        (["plan.yaml", "run_dir=x", "--dry"], "unknown option --dry"),
    ],
)
def test_a_command_line_that_cannot_work_is_one_line(place, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(place)
    three(place)
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err


def test_missing_training_files_are_said_before_anything_starts(place):
    path = write(place, [stage(place, "one"), {"name": "two", "train": "/nowhere.parquet"}])
    with pytest.raises(UserError, match="stage 'two': train: /nowhere.parquet not found"):
        run(path, place / "run")
    assert not list((place / "run").glob("*/global_step_*"))
