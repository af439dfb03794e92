r"""AIME 2025: the 30 problems of both papers, whole numbers from 0 to 999.

    python data_preprocess/aime25.py

writes `test.parquet`, whose questions and golds are those that the evaluation reads for `aime25`.
"""

from __future__ import annotations

from collections.abc import Sequence

from verl_ext.cli import user_errors_exit
from verl_ext.data.prepare.benchmark import prepare_benchmark


def main(arguments: Sequence[str] | None = None) -> None:
    with user_errors_exit():
        prepare_benchmark("aime25", arguments, description="AIME 2025, for evaluation.")


if __name__ == "__main__":
    main()
