"""Train with NFT (arXiv 2505.18116), which learns from right and from wrong answers.

Online, on Ray: prompts are answered, graded and learned from in turn.

    python -m verl_ext.trainer.fsdp_nft_trainer key=value ...

Offline, under torchrun: learns from generations that have been graded before, for any number of epochs.

    torchrun --standalone --nproc_per_node=8 -m verl_ext.trainer.fsdp_nft_trainer \\
        model.path=Qwen/Qwen2.5-Math-7B data.rollouts=rollouts.parquet

`--cfg` prints the composed configuration and stops.

Exit codes: 0 done; 2 the input cannot work (one line says why); 3 training diverged; 75 stopped by SIGTERM or
SIGINT after saving, run the same command to continue.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from verl_ext.cli import user_errors_exit
from verl_ext.errors import UserError

_MODULE = "verl_ext.trainer.fsdp_nft_trainer"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the trainer with `key=value` arguments; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if "--help" in arguments or "-h" in arguments:
        print(__doc__)
        return 0
    with user_errors_exit():
        if is_offline(arguments):
            from verl_ext.trainer.supervised.nft_run import run
        else:
            from verl_ext.trainer.online.run import run
        return run(arguments)


def is_offline(arguments: Sequence[str]) -> bool:
    """Whether the ranks of torchrun are to train on the generations of a file; both must be so, or neither."""
    ranks = "TORCHELASTIC_RUN_ID" in os.environ or {"RANK", "WORLD_SIZE"} <= os.environ.keys()
    rollouts = any(argument.lstrip("+").startswith("data.rollouts=") for argument in arguments)
    if rollouts and not ranks and "--cfg" not in arguments:
        raise UserError(
            "data.rollouts: training on graded generations is started by torchrun: "
            f"torchrun --standalone --nproc_per_node=N -m {_MODULE} data.rollouts=... (leave data.rollouts out to "
            "train online, on Ray)"
        )
    if ranks and not rollouts:
        raise UserError(
            "data.rollouts: not set; under torchrun this trainer learns from graded generations and needs their file "
            f"(to train online, on Ray, start it without torchrun: python -m {_MODULE} ...)"
        )
    return rollouts


if __name__ == "__main__":
    sys.exit(main())
