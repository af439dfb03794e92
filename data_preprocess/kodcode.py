r"""KodCode: made problems with tests for pytest (arXiv 2503.02951), for training by reward.

    python data_preprocess/kodcode.py --decontaminate data/evaluation

writes `train.parquet` and, beside it, `tests/`, whose ids its rows hold. A problem whose tests need a class of the
solution is dropped and counted: only functions can be called from another process.
"""

from __future__ import annotations

from collections.abc import Sequence

from verl_ext.cli import user_errors_exit
from verl_ext.data.prepare.programs import from_hub_or_file, prepare_programs

HUB_ID = "KodCode/KodCode-V1"


def main(arguments: Sequence[str] | None = None) -> None:
    with user_errors_exit():
        prepare_programs(
            "kodcode",
            arguments,
            description="KodCode, for training by reward.",
            found=from_hub_or_file(HUB_ID, "question", "solution", "test", optional=("test_info", "gpt_difficulty")),
            hub_id=HUB_ID,
        )


if __name__ == "__main__":
    main()
