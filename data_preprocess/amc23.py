r"""AMC 12 of 2023: 40 problems without their choices, with numbers as answers.

    python data_preprocess/amc23.py

writes `test.parquet`, whose questions and golds are those that the evaluation reads for `amc23`.
"""

from __future__ import annotations

from collections.abc import Sequence

from verl_ext.cli import user_errors_exit
from verl_ext.data.prepare.benchmark import prepare_benchmark


def main(arguments: Sequence[str] | None = None) -> None:
    with user_errors_exit():
        prepare_benchmark("amc23", arguments, description="AMC 12 of 2023, for evaluation.")


if __name__ == "__main__":
    main()
