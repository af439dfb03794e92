r"""FineProofs-SFT, the supervised data of QED-Nano: olympiad problems with reasoning and proof, each problem once.

    python data_preprocess/fineproofs_sft.py

writes `train.parquet` with the column `messages`, which training reads: the problem, and as the answer
`<think>`, the reasoning, `</think>` and the proof. The question is what the source's own `messages` ask,
or `problem` where it has none. A proof has no final answer: `ground_truth` is null, `style` is `model`,
and the data source is one that only a judge can grade.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from verl_ext.cli import user_errors_exit
from verl_ext.data.prepare.local_files import Columns
from verl_ext.data.prepare.repeats import first_of_each
from verl_ext.data.prepare.rows import BadRow, make_row
from verl_ext.data.prepare.script import Arguments, prepare, subset_of
from verl_ext.data.prepare.sources import SourceRow, as_text, read_source
from verl_ext.data.prepare.split_report import SplitReport, usable

HUB_ID = "lm-provers/FineProofs-SFT"
COLUMNS = Columns(text=("problem", "reasoning_content", "proof"), optional=("messages",))
SUBSETS = ("default", "all")
"""Unique problems (4,281 rows), or all proofs (7,777), of which the first of each problem is then kept."""


def to_row(source: SourceRow, *, split: str) -> dict[str, Any]:
    question = asked(source)
    # The white space is that of Qwen3's chat template, which writes it so whatever the text brings.
    reasoning, proof = source.text("reasoning_content").strip(), source.text("proof").strip()
    if any(tag in text for tag in ("<think>", "</think>") for text in (reasoning, proof)):
        raise BadRow("reasoning_content or proof has a think tag of its own")
    return make_row(
        data_source=HUB_ID,
        split=split,
        index=source.index,
        prompt=question,
        question=question,
        answer=f"<think>\n{reasoning}\n</think>\n\n{proof}",
        ground_truth=None,
        style="model",
    )


def asked(source: SourceRow) -> str:
    """What the user says in the source's own chat, which may word the problem as a task; else the problem."""
    problem = source.text("problem")
    match source.values.get("messages"):
        case [{"role": "user", "content": content}, *_]:
            return as_text(content, "messages")
    return problem


def rows(report: SplitReport, *, source: Path | None, subset: str) -> Iterator[dict[str, Any]]:
    found = read_source(source, hub_id=HUB_ID, hub_name=subset, split="train", columns=COLUMNS)
    return first_of_each(usable(found, partial(to_row, split=report.split), report), report)


def main(argv: list[str] | None = None) -> None:
    parser = Arguments(
        "FineProofs-SFT for supervised training.", local_dir="data/fineproofs_sft", hub_id=HUB_ID, training=True
    )
    parser.set_defaults(messages=True)
    parser.add_argument("--subset", choices=SUBSETS, help="part of the hub's repository, its default one unless named")
    with user_errors_exit():
        arguments = parser.parse_args(argv)
        subset = subset_of(arguments, SUBSETS)
        prepare(arguments, {"train": partial(rows, source=arguments.source, subset=subset)})


if __name__ == "__main__":
    main()
