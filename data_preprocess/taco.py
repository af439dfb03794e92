r"""TACO: competition problems with tests (arXiv 2312.14852), for training by reward.

    python data_preprocess/taco.py --decontaminate data/evaluation

writes `train.parquet` (`--splits train test` for both) and, beside it, `tests/`, whose ids its rows hold. A problem
without usable tests is dropped and counted.
"""

from __future__ import annotations

from collections.abc import Sequence

from verl_ext.cli import user_errors_exit
from verl_ext.data.prepare.programs import from_hub_or_file, prepare_programs

HUB_ID = "BAAI/TACO"


def main(arguments: Sequence[str] | None = None) -> None:
    with user_errors_exit():
        prepare_programs(
            "taco",
            arguments,
            description="TACO, for training by reward.",
            found=from_hub_or_file(
                HUB_ID, "question", "input_output", optional=("starter_code", "difficulty", "solutions")
            ),
            hub_id=HUB_ID,
            splits=("train", "test"),
        )


if __name__ == "__main__":
    main()
