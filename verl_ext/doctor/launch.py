"""From a command line to the trainer that it starts, on how many processes, with which arguments."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from verl_ext.doctor.shim import LAUNCHERS, python_target
from verl_ext.errors import UserError

DFT_MODULE = "verl_ext.trainer.fsdp_dft_trainer"
NFT_MODULE = "verl_ext.trainer.fsdp_nft_trainer"
MODULES = {"dft": DFT_MODULE, "nft": NFT_MODULE, DFT_MODULE: DFT_MODULE, NFT_MODULE: NFT_MODULE}
"""What a user may call a trainer -> its module."""

Trainer = Literal["dft", "nft_offline", "nft"]


@dataclass(frozen=True)
class Launch:
    """A command that starts a trainer."""

    module: str
    arguments: tuple[str, ...]
    """Of the trainer."""
    command: str
    """As it would be typed."""
    nproc_per_node: int = 1
    nnodes: int = 1
    torchrun: bool = False
    ray_job: bool = False
    """Handed to a running Ray cluster by `ray job submit`."""
    cwd: Path = field(default_factory=Path.cwd)
    env: Mapping[str, str] | None = None
    """None: that of this process."""
    notes: tuple[str, ...] = ()
    """What was assumed in reading the command."""

    @property
    def ranks(self) -> int:
        """Processes that torchrun starts, on all machines together."""
        return self.nproc_per_node * self.nnodes

    @property
    def gives_rollouts(self) -> bool:
        return any(argument.lstrip("+").startswith("data.rollouts=") for argument in self.arguments)

    @property
    def trainer(self) -> Trainer:
        """Which of the three trainers this is; graded generations or torchrun mean the offline one."""
        if self.module == DFT_MODULE:
            return "dft"
        return "nft_offline" if self.torchrun or self.gives_rollouts else "nft"

    @contextmanager
    def surroundings(self) -> Iterator[None]:
        """Folder and environment that the command would see, with what torchrun adds for its first rank."""
        here, before = Path.cwd(), dict(os.environ)
        environment = dict(before if self.env is None else self.env)
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
            environment.pop(name, None)
        if self.torchrun:
            environment |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": str(self.ranks), "TORCHELASTIC_RUN_ID": "0"}
        try:
            os.chdir(self.cwd)
            os.environ.clear()
            os.environ.update(environment)
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)
            os.chdir(here)


def read_command(
    argv: Sequence[str], *, text: str, cwd: Path, env: Mapping[str, str], gpus_per_node: int
) -> Launch | None:
    """The launch that a command line is, or None when it starts no trainer of this package.

    Args:
        argv: program and arguments.
        text: the whole command, for messages.
        cwd: where it is started.
        env: what it sees.
        gpus_per_node: what `--nproc_per_node=gpu` stands for.

    Raises:
        UserError: torchrun would refuse it.
    """
    argv = _without_env(argv)
    name, arguments = os.path.basename(argv[0]), list(argv[1:])
    common = {"cwd": cwd, "env": env}
    if name == "ray":
        if "--" not in arguments:
            return None
        inner = arguments[arguments.index("--") + 1 :]
        launch = read_command(inner, text=text, cwd=cwd, env=env, gpus_per_node=gpus_per_node) if inner else None
        return None if launch is None else Launch(**{**vars(launch), "ray_job": True})
    if name == "torchrun":
        return _of_torchrun(arguments, text, gpus_per_node, common)
    if not name.startswith("python"):
        return None
    kind, target = python_target(arguments)
    if kind == "script" and os.path.basename(target) == "torchrun":
        return _of_torchrun(arguments[arguments.index(target) + 1 :], text, gpus_per_node, common)
    if kind != "module":
        return None
    rest = arguments[arguments.index("-m") + 2 :]
    if target in LAUNCHERS:
        return _of_torchrun(rest, text, gpus_per_node, common)
    if target not in MODULES:
        return None
    return Launch(target, tuple(rest), text, **common)


def of_keys(arguments: Sequence[str], *, trainer: str | None, nproc_per_node: int | None, nnodes: int) -> Launch:
    """The launch of bare `key=value` arguments.

    Args:
        trainer: name of the trainer; None lets the keys decide.
        nproc_per_node: processes a machine under torchrun; None: without torchrun.
    """
    module = MODULES[trainer] if trainer else _module_of(arguments)
    offline = module == NFT_MODULE and any(a.lstrip("+").startswith("data.rollouts=") for a in arguments)
    ranks = nproc_per_node or 1
    notes = () if trainer else (f"the keys are those of {module}",)
    torchrun = nproc_per_node is not None or offline or nnodes > 1
    starter = f"torchrun --nnodes={nnodes} --nproc_per_node={ranks}" if torchrun else "python"
    text = " ".join([starter, "-m", module, *arguments])
    return Launch(module, tuple(arguments), text, ranks, nnodes, torchrun, notes=notes)


def _module_of(arguments: Sequence[str]) -> str:
    """The trainer whose configuration knows most of the keys."""
    from verl_ext.trainer.online.vocabulary import NFT_VOCABULARY
    from verl_ext.trainer.run.command_line import known_keys
    from verl_ext.trainer.supervised.vocabulary import DFT_VOCABULARY, NFT_OFFLINE_VOCABULARY

    names = [argument.partition("=")[0].lstrip("+~") for argument in arguments]
    score = {}
    for config_name, module, vocabulary in (
        ("dft_trainer", DFT_MODULE, DFT_VOCABULARY),
        ("nft_trainer", NFT_MODULE, NFT_VOCABULARY),
        ("nft_offline", NFT_MODULE, NFT_OFFLINE_VOCABULARY),
    ):
        keys = known_keys(config_name)
        known = (keys - {key.rpartition(".")[0] for key in keys}) | vocabulary.names  # no group takes a value
        score[config_name] = (sum(name in known for name in names), module)
    return max(score.values(), key=lambda entry: entry[0])[1]


def _of_torchrun(arguments: list[str], text: str, gpus_per_node: int, common: Mapping) -> Launch | None:
    from torch.distributed.run import get_args_parser

    said = io.StringIO()
    try:
        with redirect_stderr(said):
            parsed = get_args_parser().parse_args(arguments)
    except SystemExit:
        reason = said.getvalue().strip().splitlines()[-1].rpartition("error: ")[2]
        raise UserError(f"torchrun refuses its options: {reason}") from None
    if not parsed.module or parsed.training_script not in MODULES:
        return None
    notes = []
    nproc = parsed.nproc_per_node
    if nproc.isdigit():
        ranks = int(nproc)
    else:
        ranks = gpus_per_node
        notes.append(f"--nproc_per_node={nproc} is taken for {gpus_per_node} GPUs (--gpus-per-node)")
    low, _, high = parsed.nnodes.partition(":")
    if high and high != low:
        notes.append(f"--nnodes={parsed.nnodes}: the trainers need a number that does not change; taken for {low}")
    nnodes = 1 if parsed.standalone else int(low)
    return Launch(
        parsed.training_script,
        tuple(parsed.training_script_args),
        text,
        ranks,
        nnodes,
        torchrun=True,
        notes=tuple(notes),
        **common,
    )


def _without_env(argv: Sequence[str]) -> Sequence[str]:
    """The command behind `env NAME=value ...`."""
    if os.path.basename(argv[0]) != "env":
        return argv
    rest = list(argv[1:])
    while rest and "=" in rest[0]:
        rest.pop(0)
    return rest or argv
