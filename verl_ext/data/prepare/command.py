"""The command line that every script of `data_preprocess/` shares, from arguments to the closing report."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from verl_ext.data.prepare.lengths import Characters, Tokens
from verl_ext.data.prepare.report import SplitReport
from verl_ext.data.prepare.writer import write_splits
from verl_ext.errors import UserError


class Arguments(argparse.ArgumentParser):
    """A parser that has the shared options, and says what is wrong in one line."""

    def __init__(self, description: str, *, local_dir: str) -> None:
        super().__init__(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        self.add_argument("--local_dir", type=Path, default=Path(local_dir), help="folder of the parquet files")
        self.add_argument("--tokenizer", help="report lengths in tokens of this model (folder or hub id)")
        self.add_argument("--messages", action="store_true", help="add the chat column `messages`")

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def whole_number(minimum: int) -> Callable[[str], int]:
    """An argument type: an integer of at least `minimum`."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {minimum}")
        return int(text)

    return parse


def prepare(
    arguments: argparse.Namespace, splits: dict[str, Callable[[SplitReport], Iterable[dict[str, Any]]]]
) -> None:
    """Write the splits and print their reports.

    Args:
        arguments: parsed by `Arguments`.
        splits: for each split, what yields its rows and tells the report about those it leaves out.
            Called in order, each after the one before is written.
    """
    measure = Tokens(arguments.tokenizer) if arguments.tokenizer else Characters()
    reports = [SplitReport(name, measure) for name in splits]
    write_splits(
        arguments.local_dir,
        ((report, rows_of(report)) for report, rows_of in zip(reports, splits.values(), strict=True)),
        with_messages=arguments.messages,
    )
    for report in reports:
        print("\n".join(report.lines(str(arguments.local_dir / f"{report.split}.parquet"))))
