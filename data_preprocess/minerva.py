r"""Minerva (the part from MIT OpenCourseWare): 272 problems, answers with units and few digits.

    python data_preprocess/minerva.py

writes `test.parquet`, whose questions and golds are those that the evaluation reads for `minerva_math`.
"""

from __future__ import annotations

from collections.abc import Sequence

from verl_ext.cli import user_errors_exit
from verl_ext.data.prepare.benchmark import prepare_benchmark


def main(arguments: Sequence[str] | None = None) -> None:
    with user_errors_exit():
        prepare_benchmark("minerva_math", arguments, description="Minerva, for evaluation.")


if __name__ == "__main__":
    main()
