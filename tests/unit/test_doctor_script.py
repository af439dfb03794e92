"""A recipe is run without its launches; each of them is examined as it would have been made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from verl_ext.doctor.launch import DFT_MODULE, NFT_MODULE, of_keys, read_command
from verl_ext.doctor.script import run_script
from verl_ext.doctor.shim import decide
from verl_ext.errors import UserError


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Write a bash script and run it; its folder is the working directory."""
    monkeypatch.chdir(tmp_path)

    def run(text: str, *arguments: str):
        path = tmp_path / "recipe.sh"
        path.write_text(f"set -euo pipefail\n{text}\n")
        return run_script(path, arguments)

    return run


def launch_of(command, gpus_per_node: int = 8):
    return read_command(command.argv, text=command.text, cwd=command.cwd, env=command.env, gpus_per_node=gpus_per_node)


def test_a_launch_is_noted_with_arguments_folder_and_environment(script, tmp_path):
    run = script(
        'mkdir inner && cd inner\nexport DATA=here\nexec torchrun --standalone --nproc_per_node="$((2 * 2))" '
        f'-m {DFT_MODULE} model.path="a b" "$@"',
        "optim.lr=1",
    )
    (command,) = run.commands
    launch = launch_of(command)
    assert launch.arguments == ("model.path=a b", "optim.lr=1")
    assert (launch.trainer, launch.ranks, launch.torchrun) == ("dft", 4, True)
    assert launch.cwd == tmp_path / "inner"
    assert launch.env["DATA"] == "here"
    assert run.exit_code == 0


def test_commands_before_the_launch_run_and_their_output_reaches_the_script(script):
    run = script(
        f'count=$(python -c "print(1 + 2)")\nseq 3 >numbers\npython -m {NFT_MODULE} a=$count b=$(wc -l <numbers)'
    )
    assert run.commands[0].argv == ("python", "-m", NFT_MODULE, "a=3", "b=3")


def test_nothing_heavy_is_started(script, tmp_path):
    heavy = tmp_path / "heavy.py"
    heavy.write_text("open('ran', 'w').close()\n")
    run = script("python heavy.py\npip install something\ncurl http://localhost:1/\npython -m heavy")
    assert [command.kind for command in run.commands] == ["stage"] * 4
    assert not (tmp_path / "ran").exists()


def test_a_launch_by_another_path_is_caught_too(script, tmp_path):
    """As after `source sh/env.sh`, which puts the folder of an environment first on PATH."""
    import sys

    run = script(
        f"{sys.executable} -m {DFT_MODULE} model.path=x\nPATH={Path(sys.executable).parent}:$PATH\npython -m {NFT_MODULE} y=z"
    )
    assert [launch_of(command).module for command in run.commands] == [DFT_MODULE, NFT_MODULE]


def test_files_of_earlier_stages_are_known(script, tmp_path):
    run = script(
        "python sample.py generate model=m output_dir=out/sampled\npython convert.py --input a.parquet --output b/c.parquet\n"
        "python collect.py x.jsonl folder"
    )
    generate, convert, collect = run.commands
    assert generate.writes(tmp_path / "out/sampled/samples.jsonl")
    assert not generate.writes(tmp_path / "m/config.json")
    assert convert.writes(tmp_path / "b/c.parquet")
    assert not convert.writes(tmp_path / "a.parquet")
    assert collect.writes(tmp_path / "folder/right.parquet")
    assert not collect.writes(tmp_path / "elsewhere.parquet")


def test_a_script_that_fails_says_so(script):
    run = script("echo 'OBJECTIVE: got x' >&2\nexit 2")
    assert (run.exit_code, run.last_line) == (2, "OBJECTIVE: got x")


def test_a_script_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="no such script"):
        run_script(tmp_path / "none.sh", [])


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        (["torchrun", "-m", DFT_MODULE], "launch"),
        (["python", "-m", "torch.distributed.run", "-m", DFT_MODULE], "launch"),
        (["python", "-u", "-m", NFT_MODULE], "launch"),
        (["python3", "/venv/bin/torchrun", "--nnodes=2", "-m", DFT_MODULE], "launch"),
        (["ray", "job", "submit", "--", "python", "-m", NFT_MODULE], "launch"),
        (["ray", "start", "--head"], "stage"),
        (["python", "-m", "verl_ext.evaluation", "generate"], "stage"),
        (["python", "-c", "print(1)"], "run"),
        (["python", "-X", "dev", "-c", "print(1)"], "run"),
        (["python", "--version"], "run"),
        (["python", "-m", "json.tool"], "run"),
    ],
)
def test_what_becomes_of_a_command(command, kind):
    assert decide(command[0], command[1:]) == kind


@pytest.mark.parametrize(
    ("argv", "trainer", "ranks"),
    [
        (["torchrun", "--nnodes=2", "--nproc-per-node", "4", "-m", DFT_MODULE, "a=b"], "dft", 8),
        (["python", "-m", "torch.distributed.run", "--nproc_per_node=2", "-m", NFT_MODULE, "data.rollouts=x"], "nft_offline", 2),
        (["torchrun", "--nproc_per_node=gpu", "-m", DFT_MODULE], "dft", 8),
        (["python", "-m", NFT_MODULE, "data.train_files=x"], "nft", 1),
        (["env", "A=b", "python", "-m", DFT_MODULE], "dft", 1),
        (["ray", "job", "submit", "--working-dir", ".", "--", "python", "-m", NFT_MODULE, "a=b"], "nft", 1),
    ],
)  # fmt: skip
def test_a_command_line_is_read(argv, trainer, ranks, tmp_path):
    launch = read_command(argv, text="", cwd=tmp_path, env={}, gpus_per_node=8)
    assert (launch.trainer, launch.ranks) == (trainer, ranks)
    assert launch.ray_job == (argv[0] == "ray")


def test_other_programs_are_no_launch(tmp_path):
    for argv in (["torchrun", "train.py"], ["python", "x.py"], ["ray", "status"]):
        assert read_command(argv, text="", cwd=tmp_path, env={}, gpus_per_node=8) is None


def test_what_torchrun_would_refuse_is_said(tmp_path):
    with pytest.raises(UserError, match="torchrun refuses its options"):
        read_command(["torchrun", "--nproc=2=3", "-m"], text="", cwd=tmp_path, env={}, gpus_per_node=8)


@pytest.mark.parametrize(
    ("arguments", "trainer"),
    [
        (["model.path=x", "data.train_files=y", "optim.lr=1e-5"], "dft"),
        (["model.partial_pretrain=x", "data.train_files=y"], "dft"),
        (["actor_rollout_ref.model.path=x", "data.train_files=y"], "nft"),
        (["objective=dapo", "data.train_files=y"], "nft"),
        (["model.path=x", "data.rollouts=y"], "nft_offline"),
    ],
)
def test_the_keys_decide_the_trainer(arguments, trainer):
    launch = of_keys(arguments, trainer=None, nproc_per_node=None, nnodes=1)
    assert launch.trainer == trainer
    assert launch.notes


def test_the_surroundings_are_those_of_the_launch_and_go_again(tmp_path, monkeypatch):
    import os

    monkeypatch.setenv("HERE", "1")
    before = Path.cwd()
    argv = ["torchrun", "--nproc_per_node=4", "-m", DFT_MODULE]
    launch = read_command(argv, text="", cwd=tmp_path, env={"THERE": "2"}, gpus_per_node=8)
    with launch.surroundings():
        assert Path.cwd() == tmp_path
        assert (os.environ.get("HERE"), os.environ["THERE"], os.environ["WORLD_SIZE"]) == (None, "2", "4")
    assert Path.cwd() == before and os.environ["HERE"] == "1" and "WORLD_SIZE" not in os.environ


def test_the_command_gives_json_and_an_exit_code(tmp_path, capsys, monkeypatch):
    from verl_ext.doctor.__main__ import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.sh").write_text(f'torchrun --nproc_per_node=2 -m {DFT_MODULE} model.path=x optin.lr=3 "$@"\n')
    assert main(["recipe.sh", "data.train_batch_size=3", "--json"]) == 2
    report = json.loads(capsys.readouterr().out)
    (launch,) = report["launches"]
    assert report["exit_code"] == 2 and launch["trainer"] == "dft"
    assert {"unknown-key", "not-set", "bad-batch"} <= {finding["code"] for finding in launch["findings"]}


def test_the_command_prints_what_a_pipe_can_carry(tmp_path, capsys, monkeypatch):
    from verl_ext.doctor.__main__ import main

    monkeypatch.chdir(tmp_path)
    path = tmp_path / "recipe.sh"
    path.write_text(
        f"python make.py --output train.parquet\ntorchrun -m {DFT_MODULE} model.path=Qwen/Qwen2.5-Math-1.5B data.train_files=train.parquet\n"
    )
    main([str(path)])
    output = capsys.readouterr().out
    assert output.isascii() and "\x1b" not in output
    assert "made by the script: python make.py" in output
    assert "m*P/N" in output and "not examined, and not run" in output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no_such.sh"], "no such script"),
        (["dftt", "a=b"], "did you mean dft?"),
        (["--devise", "h100"], "unknown option --devise"),
        (["--device", "b200", "a=b"], "--device: got 'b200'"),
        (["--mfu", "2", "a=b"], "--mfu: got 2"),
        (["--gpu-memory", "much", "a=b"], "--gpu-memory"),
    ],
)
def test_a_wrong_word_is_one_line_and_exit_code_2(arguments, said, capsys, tmp_path, monkeypatch):
    from verl_ext.doctor.__main__ import main

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert said in error and error.count("\n") == 1
