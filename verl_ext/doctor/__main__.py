"""python -m verl_ext.doctor RECIPE.sh [key=value ...]
python -m verl_ext.doctor [dft|nft] key=value ...

Examines a launch without making it: composes the very configuration that it would use, and checks keys, files, rows,
batches, parallelism, graders, disk, memory and time. A recipe is run with launchers that only take notes, so that
every launch in it is examined with its own arguments and environment; nothing is trained, generated or downloaded.

  --nproc_per_node N   with key=value: processes a machine, as torchrun starts them
  --nnodes N           with key=value: machines
  --device NAME        h100 (default), h200, a100, a100-40
  --gpu-memory GIB     instead of the device's
  --peak-tflops N      instead of the device's (dense bf16)
  --mfu SHARE          of the peak that a step reaches (default 0.4)
  --gpus-per-node N    what --nproc_per_node=gpu stands for (default 8)
  --disk-free GIB      for checkpoints on the cluster (default: what this machine has, as a warning)
  --hub                ask the Hugging Face hub for what is not on this machine
  --json               everything, for programs
  --simulate           DFT and SFT on GPUs: a step of the run's engine on fake tensors, exact tensor memory (needs g++)
  --png FILE           with --simulate: memory over the step, by category

Exit codes: 0 nothing stands in the way, 1 warnings, 2 it will fail.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verl_ext.cli import user_errors_exit
from verl_ext.doctor.findings import Finding, exit_code
from verl_ext.errors import UserError, nearest

if TYPE_CHECKING:
    from verl_ext.doctor.examination import LaunchReport, Options
    from verl_ext.doctor.script import Command

TRAINERS = ("dft", "nft", "verl_ext.trainer.fsdp_dft_trainer", "verl_ext.trainer.fsdp_nft_trainer")


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine what the arguments name; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or "--help" in arguments or "-h" in arguments:
        print(__doc__)
        return 0 if arguments else 2
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    with user_errors_exit():
        parsed, rest = _parser().parse_known_args(arguments)
        if unknown := [argument for argument in rest if argument.startswith("--")]:
            raise UserError(f"unknown option {unknown[0]}; see python -m verl_ext.doctor --help")
        with _hub(asked=parsed.hub):
            return _examine(parsed, [*parsed.what, *rest])


@contextmanager
def _hub(*, asked: bool) -> Iterator[None]:
    """Keep the libraries from asking the hub, unless the user wants them to."""
    before = os.environ.get("HF_HUB_OFFLINE")
    if not asked:
        os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("HF_HUB_OFFLINE", None)
        else:
            os.environ["HF_HUB_OFFLINE"] = before


def _parser() -> argparse.ArgumentParser:
    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> None:
            raise UserError(f"{message}; see python -m verl_ext.doctor --help")

    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("what", nargs="*")
    for name in ("nproc_per_node", "nnodes", "gpus_per_node"):
        parser.add_argument(f"--{name}", f"--{name.replace('_', '-')}", type=int, default=None)
    for name in ("--gpu-memory", "--peak-tflops", "--disk-free"):
        parser.add_argument(name, type=float, default=None)
    parser.add_argument("--device", default="h100")
    parser.add_argument("--mfu", type=float, default=0.4)
    parser.add_argument("--hub", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--simulate", action="store_true")
    parser.add_argument("--png", type=Path, default=None)
    return parser


def _examine(parsed: argparse.Namespace, words: list[str]) -> int:
    from verl_ext.doctor.output import as_json, print_reports

    options = _options(parsed)
    if parsed.png is not None and not parsed.simulate:
        raise UserError("--png: draws what --simulate finds; give both")
    if words and words[0].endswith(".sh"):
        if parsed.nproc_per_node is not None or parsed.nnodes is not None:
            raise UserError("--nproc_per_node, --nnodes: a recipe says these itself (GPUS=..., NNODES=... for ours)")
        reports, general = examine_script(Path(words[0]), words[1:], options, parsed.gpus_per_node or 8)
    else:
        reports, general = _examine_keys(parsed, words, options), []
    simulated = _simulate(reports, options, parsed.png) if parsed.simulate else []
    if parsed.json:
        print(as_json(reports, general, options, simulated))
    else:
        print_reports(reports, general, options, sys.stdout)
        _print_simulated(simulated, options)
    return exit_code([*general, *(finding for report in reports for finding in report.findings)])


def _simulate(reports: Sequence[LaunchReport], options: Options, png: Path | None) -> list[dict[str, Any]]:
    from verl_ext.doctor.simulation.run import draw, simulate

    if png is not None and (png.suffix != ".png" or not png.absolute().parent.is_dir()):
        raise UserError(f"--png: got {png}, expected a file ending in .png in a folder that exists")
    if png is not None and len(reports) != 1:
        raise UserError(f"--png: the script has {len(reports)} launches, and one picture shows one")
    answers = [simulate(report, options.device) for report in reports]
    if png is not None:
        draw(answers[0], png)
    return answers


def _print_simulated(answers: Sequence[dict[str, Any]], options: Options) -> None:
    from verl_ext.doctor.simulation.run import as_text

    for answer in answers:
        print()
        print(as_text(answer, options.device))


def _options(parsed: argparse.Namespace) -> Options:
    from verl_ext.doctor.examination import Options
    from verl_ext.doctor.memory import GIB
    from verl_ext.doctor.step_time import DEVICES

    if parsed.device not in DEVICES:
        raise UserError(f"--device: got {parsed.device!r}, expected one of {', '.join(DEVICES)}")
    if not 0 < parsed.mfu <= 1:
        raise UserError(f"--mfu: got {parsed.mfu:g}, expected a share above 0 and at most 1")
    device = DEVICES[parsed.device]
    if parsed.gpu_memory is not None:
        device = dataclasses.replace(
            device, name=f"GPU of {parsed.gpu_memory:g} GiB", memory_bytes=parsed.gpu_memory * GIB
        )
    if parsed.peak_tflops is not None:
        device = dataclasses.replace(device, flops=parsed.peak_tflops * 1e12)
    disk = None if parsed.disk_free is None else parsed.disk_free * GIB
    return Options(device=device, mfu=parsed.mfu, disk_free=disk, ask_hub=parsed.hub)


def _examine_keys(parsed: argparse.Namespace, words: list[str], options: Options) -> list[LaunchReport]:
    from verl_ext.doctor.examine import examine
    from verl_ext.doctor.launch import of_keys

    trainer = None
    if words and "=" not in words[0]:
        trainer = words.pop(0)
        if trainer not in TRAINERS:
            close = nearest(trainer, TRAINERS)
            hint = f"; did you mean {close}?" if close else ""
            raise UserError(f"{trainer!r} is neither a recipe (.sh), nor a trainer (dft, nft), nor key=value{hint}")
    launch = of_keys(words, trainer=trainer, nproc_per_node=parsed.nproc_per_node, nnodes=parsed.nnodes or 1)
    return [examine(launch, options)]


def examine_script(
    script: Path, arguments: Sequence[str], options: Options, gpus_per_node: int
) -> tuple[list[LaunchReport], list[Finding]]:
    """Examine every launch of a recipe.

    Args:
        script: the recipe.
        arguments: handed on to it.
        options: about the cluster.
        gpus_per_node: what `--nproc_per_node=gpu` stands for.

    Returns:
        The report of each launch, and what concerns the script as a whole.

    Raises:
        UserError: the script does not exist, or does not end.
    """
    from verl_ext.doctor.examine import examine
    from verl_ext.doctor.launch import read_command
    from verl_ext.doctor.script import run_script

    run = run_script(script, arguments)
    reports, general = [], []
    for position, command in enumerate(run.commands):
        try:
            launch = read_command(
                command.argv, text=command.text, cwd=command.cwd, env=command.env, gpus_per_node=gpus_per_node
            )
        except UserError as error:
            general.append(Finding("launch", "error", command.argv[0], str(error), "correct the command"))
            continue
        if launch is None:
            message = f"not examined, and not run: {_short(command.text)}"
            general.append(Finding("not-run", "info", command.argv[0], message))
            continue
        earlier = run.commands[:position]
        reports.append(
            examine(launch, options, lambda path, earlier=earlier, cwd=command.cwd: _maker(path, earlier, cwd))
        )
    if run.exit_code != 0:
        message = f"ends with code {run.exit_code}, {len(reports)} launches before: {run.last_line or 'without a word'}"
        general.append(Finding("script-failed", "error", str(script), message, "see what it says"))
    elif not reports:
        message = "starts no trainer of verl_ext"
        general.append(Finding("no-launch", "error", str(script), message, "give a script that ends in a launch"))
    return reports, general


def _maker(path: str, earlier: Sequence[Command], cwd: Path) -> str | None:
    place = Path(os.path.expanduser(path))
    place = (place if place.is_absolute() else cwd / place).resolve()
    if place.exists():
        return None
    return next((_short(command.text) for command in reversed(earlier) if command.writes(place)), None)


def _short(text: str, length: int = 100) -> str:
    return text if len(text) <= length else f"{text[: length - 4]} ..."


if __name__ == "__main__":
    sys.exit(main())
