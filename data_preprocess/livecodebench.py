r"""LiveCodeBench: problems of contests with dates (arXiv 2403.07974), for evaluation.

    python data_preprocess/livecodebench.py --source FOLDER --window v5

writes `test.parquet` and, beside it, `tests/`, whose ids its rows hold. The source is `test.jsonl`, `test2.jsonl` and so
on of livecodebench/code_generation_lite. `v5` and `v6` are the contests of AceReason-Nemotron 1.1.
"""

from __future__ import annotations

from collections.abc import Sequence

from verl_ext.cli import user_errors_exit
from verl_ext.data.prepare.programs import from_file, prepare_programs

HUB_ID = "livecodebench/code_generation_lite"


def main(arguments: Sequence[str] | None = None) -> None:
    with user_errors_exit():
        prepare_programs(
            "livecodebench",
            arguments,
            description="LiveCodeBench, for evaluation.",
            found=from_file(HUB_ID),
            hub_id=HUB_ID,
            splits=("test",),
        )


if __name__ == "__main__":
    main()
