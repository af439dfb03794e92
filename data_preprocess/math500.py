r"""MATH-500: 500 problems of MATH's test split. The whole of MATH is `math_dataset.py`.

    python data_preprocess/math500.py

writes `test.parquet`, whose questions and golds are those that the evaluation reads for `math500`: the box of the solution.
"""

from __future__ import annotations

from collections.abc import Sequence

from verl_ext.cli import user_errors_exit
from verl_ext.data.prepare.benchmark import prepare_benchmark


def main(arguments: Sequence[str] | None = None) -> None:
    with user_errors_exit():
        prepare_benchmark("math500", arguments, description="MATH-500, for evaluation.")


if __name__ == "__main__":
    main()
