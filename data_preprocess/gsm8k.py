r"""GSM8K: word problems of primary school; the gold is what follows `####`.

    python data_preprocess/gsm8k.py

writes `test.parquet`, with `--splits train test` also `train.parquet`.
"""

from __future__ import annotations

from collections.abc import Sequence

from verl_ext.cli import user_errors_exit
from verl_ext.data.prepare.benchmark import prepare_benchmark


def main(arguments: Sequence[str] | None = None) -> None:
    with user_errors_exit():
        prepare_benchmark(
            "gsm8k", arguments, description="GSM8K, for evaluation or training.", splits=("train", "test")
        )


if __name__ == "__main__":
    main()
