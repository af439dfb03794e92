"""The command line that every script of `data_preprocess/` shares, from arguments to the closing report."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from verl_ext.data.instructions import INSTRUCTIONS
from verl_ext.data.prepare.decontamination import NGRAM_SIZES, Decontamination, EvaluationNgrams
from verl_ext.data.prepare.evaluation_problems import read_evaluation_problems
from verl_ext.data.prepare.lengths import Characters, Tokens
from verl_ext.data.prepare.rows import row_schema
from verl_ext.data.prepare.split_report import SplitReport
from verl_ext.data.prepare.writer import Split, write_splits
from verl_ext.errors import UserError

Rows = Callable[[SplitReport], Iterable[dict[str, Any]]]


class Arguments(argparse.ArgumentParser):
    """A parser that has the shared options, and says what is wrong in one line.

    Args:
        local_dir: where the files are written by default.
        hub_id: of the source on the hub; with it comes the option `--source`.
        instruction: a key of `INSTRUCTIONS`, the default of the option `--instruction`; None for no such option.
        training: the data set has a split `train`, which can be decontaminated.
    """

    def __init__(
        self,
        description: str,
        *,
        local_dir: str,
        hub_id: str | None = None,
        instruction: str | None = None,
        training: bool = False,
    ) -> None:
        super().__init__(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        self.set_defaults(decontaminate=None)
        self.add_argument("--local_dir", type=Path, default=Path(local_dir), help="folder of the parquet files")
        self.add_argument("--tokenizer", help="report lengths in tokens of this model (folder or hub id)")
        self.add_argument("--messages", action="store_true", help="add the chat column `messages`")
        if hub_id:
            self.add_argument("--source", type=Path, help=f"local file or folder instead of {hub_id} of the hub")
        if instruction:
            self.add_argument(
                "--instruction", choices=INSTRUCTIONS, default=instruction, help="what the column `prompt` asks to do"
            )
        if training:
            self.add_argument(
                "--decontaminate",
                type=Path,
                metavar="FOLDER",
                help="leave out training problems that share an n-gram with an evaluation problem of this folder",
            )
            self.add_argument(
                "--ngram", type=int, choices=NGRAM_SIZES, default=13, help="words of an n-gram (--decontaminate)"
            )
            self.add_argument(
                "--common_share",
                type=share,
                default=0.0,
                help="keep a row all the same unless it has more than this share of the words in common, in their order"
                " (--decontaminate; AceMath: 0.6)",
            )

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def whole_number(minimum: int) -> Callable[[str], int]:
    """An argument type: an integer of at least `minimum`."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {minimum}")
        return int(text)

    return parse


def share(text: str) -> float:
    """An argument type: a number from 0 to below 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to below 1")
    return value


def subset_of(arguments: argparse.Namespace, subsets: Sequence[str]) -> str:
    """The data set of a hub's repository that `--subset` names; the first of `subsets` where it names none.

    Raises:
        UserError: there is a local source as well, which is what it is.
    """
    if arguments.subset is not None and arguments.source is not None:
        raise UserError(f"--subset {arguments.subset}: of the hub only; with --source name the folder of that subset")
    return arguments.subset or subsets[0]


def prepare(arguments: argparse.Namespace, splits: dict[str, Rows], *, with_tolerance: bool = False) -> None:
    """Write the splits and print their reports.

    Args:
        arguments: parsed by `Arguments`.
        splits: for each split, what yields its rows and tells the report about those it leaves out.
            Called in order, each after the one before is written. The split `train` is decontaminated if that is asked.
        with_tolerance: rows have `extra_info.error`.
    """
    local_dir: Path = arguments.local_dir
    measure = Tokens(arguments.tokenizer) if arguments.tokenizer else Characters()
    ngrams = None
    if arguments.decontaminate is not None:
        problems = read_evaluation_problems(arguments.decontaminate, except_in=local_dir)
        ngrams = EvaluationNgrams(problems, arguments.ngram, arguments.common_share)
    written = [_split(SplitReport(name, measure), rows_of, ngrams) for name, rows_of in splits.items()]
    schema = row_schema(with_messages=arguments.messages, with_tolerance=with_tolerance)
    write_splits(local_dir, written, schema)
    for split in written:
        lines = split.report.lines(str(split.path(local_dir)))
        if split.decontamination is not None:
            lines[1:1] = split.decontamination.lines(str(split.list_path(local_dir)))
        print("\n".join(lines))


def _split(report: SplitReport, rows_of: Rows, ngrams: EvaluationNgrams | None) -> Split:
    if ngrams is None or report.split != "train":
        return Split(report, lambda: rows_of(report))
    decontamination = Decontamination(ngrams)
    return Split(report, lambda: decontamination.clean(rows_of(report), report), decontamination)
