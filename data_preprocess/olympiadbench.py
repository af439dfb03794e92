r"""OlympiadBench: its open-ended English problems of mathematics without images.

    python data_preprocess/olympiadbench.py

writes `test.parquet`. Where a problem states by how much a number may be off, `extra_info.error` says so, which the
grader reads. The hub's copy has 674 problems, the file behind the papers' numbers 675.
"""

from __future__ import annotations

from collections.abc import Sequence

from verl_ext.cli import user_errors_exit
from verl_ext.data.prepare.benchmark import prepare_benchmark


def main(arguments: Sequence[str] | None = None) -> None:
    with user_errors_exit():
        prepare_benchmark("olympiadbench", arguments, description="OlympiadBench, for evaluation.")


if __name__ == "__main__":
    main()
