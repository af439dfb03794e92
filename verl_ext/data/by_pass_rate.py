"""python -m verl_ext.data.by_pass_rate FILE ... --rates RUN/pass_rates.jsonl --keep "pass_rate < 1" --out FILE

Write the rows of training files whose problems a run solved as often as told. Prints a table of pass rates and draws it
beside the output (FILE.png).

    FILE ...     parquet or JSON lines, all of one kind and with the columns of online training
    --rates      the journal of a run; several are read one after the other
    --keep       conditions joined by `and`: COLUMN OPERATOR VALUE, with < <= > >= == !=, a number, a fraction or a "text";
                 the column pass_rate is that of the journal, others are the file's (extra_info.level)
    --out        of the same kind as FILE
    --unseen     keep (default) or drop: problems of which the journal says nothing
    --answers    newest (default): a problem's last group; all: every answer that it ever got
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from verl_ext.cli import refuse_stray_blanks, user_errors_exit
from verl_ext.data.pass_rates import PassRate, problem_id, read_journal
from verl_ext.data.reading import iterate_rows, require_files, row_error
from verl_ext.data.row_filter import RowFilter, parse_filter, value_of
from verl_ext.errors import DataError, UserError

PASS_RATE = "pass_rate"
PARTS = 8
"""Of the table, between never and always."""
ROWS_AT_ONCE = 4096


@dataclass
class Selection:
    """What a filter did with the rows of some files."""

    kept: list[bool] = field(default_factory=list)
    """Of each row, in the order of the files."""
    rates: list[Fraction | None] = field(default_factory=list)
    """Of each row; None where nobody measured it."""

    @property
    def num_kept(self) -> int:
        return sum(self.kept)

    def table(self) -> list[tuple[str, int, int]]:
        """(pass rates, rows, rows kept) of each part of the range that has rows."""
        rows, kept = Counter(), Counter()
        for rate, stays in zip(self.rates, self.kept, strict=True):
            rows[_part(rate)] += 1
            kept[_part(rate)] += stays
        return [(name, rows[part], kept[part]) for part, name in enumerate(_PART_NAMES) if rows[part]]

    def lines(self) -> Iterator[str]:
        """The table in text."""
        yield f"{'pass rate':>12} {'rows':>9} {'kept':>9}"
        for name, rows, kept in self.table():
            yield f"{name:>12} {rows:>9,} {kept:>9,}"
        yield f"{'all':>12} {len(self.kept):>9,} {self.num_kept:>9,}"


def select(
    files: Sequence[str],
    keep: RowFilter,
    rates: Mapping[str, PassRate],
    *,
    keep_unseen: bool = True,
    prompt_key: str = "prompt",
) -> Selection:
    """Which rows stay.

    Args:
        files: parquet or JSON lines.
        keep: conditions.
        rates: pass rates by problem, for the column `pass_rate`.
        keep_unseen: whether a row without a pass rate meets conditions on it.
        prompt_key: column of the messages.

    Raises:
        DataError: names file and row.
    """
    selection = Selection()
    plain = RowFilter(keep.text, [one for one in keep.comparisons if one.column != PASS_RATE])
    on_rate = RowFilter(keep.text, [one for one in keep.comparisons if one.column == PASS_RATE])
    for path in files:
        for row, columns in enumerate(iterate_rows(path)):
            rate = rates.get(_problem_of(path, row, columns, prompt_key)) if on_rate.comparisons or rates else None
            measured = None if rate is None else Fraction(rate.right, rate.of)
            try:
                stays = plain.keeps({name: value_of(columns, name) for name in plain.columns})
            except KeyError as error:
                raise row_error(path, row, f"no column {error.args[0]} (in {keep.text!r})") from None
            except TypeError as error:
                raise row_error(path, row, f"column {error} (in {keep.text!r})") from None
            if on_rate.comparisons:
                stays &= keep_unseen if measured is None else on_rate.keeps({PASS_RATE: measured})
            selection.kept.append(stays)
            selection.rates.append(measured)
    return selection


def write_selected(files: Sequence[str], kept: Sequence[bool], out: Path) -> None:
    """Write these rows as they are; the file is complete or not there.

    Raises:
        DataError: files of different kinds or columns; the output cannot be written.
    """
    kinds = {Path(path).suffix == ".parquet" for path in (*files, str(out))}
    if len(kinds) > 1:
        raise DataError(f"{out}: of another kind than {', '.join(files)}: all parquet, or all JSON lines")
    partial = out.with_name(f".{out.name}.{os.getpid()}.unfinished")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        (_write_parquet if out.suffix == ".parquet" else _write_lines)(files, iter(kept), partial)
        partial.replace(out)
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def draw(selection: Selection, path: Path) -> None:
    """The table as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    table = selection.table()
    names = [name for name, _, _ in table]
    figure, axes = plt.subplots(figsize=(max(5.0, 0.8 * len(table) + 1.5), 3.6), layout="constrained")
    bars = axes.bar(names, [rows for _, rows, _ in table], color="#D9D9D9", label="all rows")
    axes.bar_label(bars, fontsize=8, color="#555555")
    axes.bar(names, [kept for _, _, kept in table], color="#0072B2", label="kept")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("share of right answers to the problem")
    axes.set_ylabel("rows")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do it; returns 0, and ends with exit code 2 and one line where the input cannot work."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if "--help" in arguments or "-h" in arguments or not arguments:
        print(__doc__)
        return 0 if arguments else 2
    with user_errors_exit():
        _run(_read(refuse_stray_blanks(arguments)))
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise UserError(f"{message} (--help says what there is)")


def _read(arguments: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--rates", nargs="+", type=Path, required=True)
    parser.add_argument("--keep", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--unseen", choices=("keep", "drop"), default="keep")
    parser.add_argument("--answers", choices=("newest", "all"), default="newest")
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace) -> None:
    keep = parse_filter(options.keep, key="--keep")
    require_files("FILE", options.files)
    if options.out.resolve() in {Path(path).resolve() for path in options.files}:
        raise UserError(f"--out: {options.out} is one of the files that are read")
    rates: dict[str, PassRate] = {}
    for path in options.rates:
        for problem, rate in read_journal(path, newest_only=options.answers == "newest").items():
            rates[problem] = rates[problem] + rate if problem in rates and options.answers == "all" else rate
    selection = select(options.files, keep, rates, keep_unseen=options.unseen == "keep")
    print("\n".join(selection.lines()))
    if not any(rate is not None for rate in selection.rates):
        raise DataError(f"--rates: no problem of {', '.join(options.files)} is in it")
    if not selection.num_kept:
        raise DataError(f"--keep: {options.keep!r} leaves no row of {', '.join(options.files)}")
    write_selected(options.files, selection.kept, options.out)
    draw(selection, options.out.with_suffix(".png"))
    print(f"{options.out}: {selection.num_kept:,} of {len(selection.kept):,} rows; {options.out.with_suffix('.png')}")


def _problem_of(path: str, row: int, columns: Mapping[str, Any], prompt_key: str) -> str:
    try:
        return problem_id(columns[prompt_key], columns["reward_model"]["ground_truth"])
    except (KeyError, TypeError, AttributeError):
        raise row_error(
            path, row, f"no problem of online training: it needs messages in {prompt_key} and reward_model.ground_truth"
        ) from None


def _write_parquet(files: Sequence[str], kept: Iterator[bool], path: Path) -> None:
    sources = [pq.ParquetFile(name) for name in files]
    schema = sources[0].schema_arrow
    for name, source in zip(files, sources, strict=True):
        if not source.schema_arrow.equals(schema):
            raise DataError(f"{name}: other columns than {files[0]}")
    with pq.ParquetWriter(path, schema) as writer:
        for source in sources:
            for batch in source.iter_batches(ROWS_AT_ONCE):
                mask = pa.array([next(kept) for _ in range(batch.num_rows)], pa.bool_())
                writer.write_batch(batch.filter(mask))


def _write_lines(files: Sequence[str], kept: Iterator[bool], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for name in files:
            for row in iterate_rows(name):
                if next(kept):
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _part(rate: Fraction | None) -> int:
    if rate is None:
        return len(_PART_NAMES) - 1
    if rate in (0, 1):
        return 0 if rate == 0 else PARTS + 1
    return 1 + int(rate * PARTS)


def _names() -> Iterable[str]:
    yield "never"
    yield from (f"{part}/{PARTS} to {part + 1}/{PARTS}" for part in range(PARTS))
    yield "always"
    yield "not measured"


_PART_NAMES = tuple(_names())


if __name__ == "__main__":
    sys.exit(main())
