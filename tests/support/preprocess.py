"""Running a script of `data_preprocess/` on small local sources, as its command line does."""

from __future__ import annotations

import contextlib
import io
import json
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[2]


def run_script(script: str, *options: Any, local_dir: Path) -> tuple[int, list[str], list[str]]:
    """(exit code, lines on stdout, lines on stderr)"""
    main = runpy.run_path(str(ROOT / "data_preprocess" / f"{script}.py"))["main"]
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(["--local_dir", str(local_dir), *map(str, options)])
        except SystemExit as exit_:
            code = exit_.code
    return code, out.getvalue().splitlines(), err.getvalue().splitlines()


def json_lines(path: Path, rows: Sequence[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def parquet(path: Path, rows: Sequence[dict], schema: pa.Schema | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return path


def read_rows(folder: Path, split: str = "train") -> list[dict]:
    return pq.read_table(folder / f"{split}.parquet").to_pylist()
