r"""What a recipe needs to run with TINY=1: a model folder of its family, and data in its columns.

    python recipes/tiny.py FAMILY KIND FOLDER

writes FOLDER/model and FOLDER/data. The model has two layers and a token for each byte. Its tokenizer has the special
tokens of its family, and a chat template where the real one ships it. The problems ask whether a number is even or odd.
For the kinds whose model answers (nft, offline) it is first taught the form of an answer and a hunch of its content,
so that some of its answers are right and others wrong; the others are random. The same arguments give the same files.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.utils.logging import disable_progress_bar

from verl_ext.cli import user_errors_exit
from verl_ext.data.prepare.rows import add_messages, make_row, row_schema
from verl_ext.errors import ConfigError, UserError

SEED = 0
LESSONS = 40
NUMBERS = range(10)
INSTRUCTION = "\nPut your final answer within \\boxed{}."

TURNS = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' -}}"
    "{%- endfor -%}"
)
SYSTEM = (
    "{%- if messages[0]['role'] != 'system' -%}"
    "{{- '<|im_start|>system\nPlease reason step by step, and put your final answer within \\\\boxed{}.<|im_end|>\n' -}}"
    "{%- endif -%}"
)
QWEN2_TEMPLATE = SYSTEM + TURNS + "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
QWEN3_TEMPLATE = TURNS + "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n<think>\n' -}}{%- endif -%}"


@dataclass(frozen=True, kw_only=True)
class Family:
    """What makes a model one of its kind, but for its size."""

    config: type
    model: type
    bos: str | None
    eos: str
    pad: str | None
    special_tokens: tuple[str, ...]
    """Beside the three before."""
    words: tuple[str, ...] = ()
    """One token each, though not special."""
    chat_template: str | None = None
    """As far as the recipes use it; base models of LLaMA and DeepSeekMath have none."""


FAMILIES = {
    "qwen2": Family(
        config=Qwen2Config,
        model=Qwen2ForCausalLM,
        bos=None,
        eos="<|endoftext|>",
        pad="<|endoftext|>",
        special_tokens=("<|im_start|>", "<|im_end|>"),
        chat_template=QWEN2_TEMPLATE,
    ),
    "qwen3": Family(
        config=Qwen3Config,
        model=Qwen3ForCausalLM,
        bos=None,
        eos="<|im_end|>",
        pad="<|endoftext|>",
        special_tokens=("<|im_start|>",),
        words=("<think>", "</think>"),
        chat_template=QWEN3_TEMPLATE,
    ),
    "llama3": Family(
        config=LlamaConfig,
        model=LlamaForCausalLM,
        bos="<|begin_of_text|>",
        eos="<|end_of_text|>",
        pad=None,
        special_tokens=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    "deepseek": Family(
        config=LlamaConfig,
        model=LlamaForCausalLM,
        bos="<｜begin▁of▁sentence｜>",
        eos="<｜end▁of▁sentence｜>",
        pad="<｜end▁of▁sentence｜>",
        special_tokens=(),
    ),
}

TRAINING_ROWS = {"sft": 64, "proofs": 64, "offline": 48, "nft": 64}
"""Enough for two steps of each recipe's batch; those that generate need more, because not every group teaches."""
MATH = {"numina_cot/train": "AI-MO/NuminaMath-CoT", "math500/test": "math500"}
PREPARED = {
    # {what data_preprocess/ calls the files that a kind of recipe reads: their data_source}
    "sft": MATH,
    "offline": MATH,
    "proofs": {"fineproofs_sft/train": "lm-provers/FineProofs-SFT"},
    "nft": {
        "dapo_math_17k/train": "math_dapo_boxed",
        **{
            f"evaluation/{name}/test": name
            for name in ("aime24", "aime25", "amc23", "math500", "minerva_math", "olympiadbench")
        },
    },
}


def main(arguments: Sequence[str]) -> None:
    """Write the model and the data.

    Raises:
        UserError: an unknown family or kind.
    """
    if len(arguments) != 3:
        raise UserError("tiny.py: expected FAMILY KIND FOLDER")
    family, kind, folder = arguments
    for name, value, known in (("FAMILY", family, FAMILIES), ("KIND", kind, PREPARED)):
        if value not in known:
            raise ConfigError(name, given=value, expected=f"one of {', '.join(known)}")
    for name, data_source in PREPARED[kind].items():
        rows = make_rows(
            data_source, TRAINING_ROWS[kind] if name.endswith("train") else 4, with_proofs=kind == "proofs"
        )
        write_data(Path(folder) / "data" / f"{name}.parquet", rows)
    disable_progress_bar()
    model, tokenizer = make_model(FAMILIES[family])
    if kind in ("nft", "offline"):
        teach_form(model, tokenizer, [row["prompt"] for row in make_rows("math", len(NUMBERS), with_proofs=False)])
    model.save_pretrained(Path(folder) / "model")
    tokenizer.save_pretrained(Path(folder) / "model")


def make_model(family: Family) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A random model of a family and its tokenizer."""
    tokenizer = make_tokenizer(family)
    config = family.config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=65536,
        initializer_range=0.2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(SEED)
    return family.model(config), tokenizer


def make_tokenizer(family: Family) -> PreTrainedTokenizerBase:
    """One token a byte, and the family's special ones."""
    ends = dict.fromkeys(token for token in (family.bos, family.eos, family.pad) if token)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = [*ends, *family.special_tokens]
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + len(specials),
        special_tokens=specials,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator([], trainer)
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in family.words])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=family.bos, eos_token=family.eos, pad_token=family.pad
    )
    fast.chat_template = family.chat_template
    return fast


def make_rows(data_source: str, count: int, *, with_proofs: bool) -> list[dict[str, Any]]:
    """Rows in verl's columns; those with proofs have a chat with the reasoning, and no answer to grade with."""
    rows = []
    for index in range(count):
        number = NUMBERS[index % len(NUMBERS)]
        question, remainder = f"Is {number} even (0) or odd (1)?", str(number % 2)
        solution = f"The remainder of {number} divided by 2 is {remainder}."
        proof = f"<think>\n{number} mod 2?\n</think>\n\n{solution}"
        row = make_row(
            data_source=data_source,
            split="train",
            index=index,
            prompt=question + INSTRUCTION,
            question=question,
            answer=proof if with_proofs else f"{solution} The answer is \\boxed{{{remainder}}}.",
            ground_truth=None if with_proofs else remainder,
        )
        rows.append(add_messages(row) if with_proofs else row)
    return rows


def write_data(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows of `make_rows` to a parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = row_schema(with_messages="messages" in rows[0])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def teach_form(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Iterable[list[dict]]) -> None:
    """Teach the model that an answer is \\boxed{0} or \\boxed{1}, and which one two times of three."""
    rows, labels = [], []
    for number, prompt in enumerate(prompts):
        text = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
        prompt_ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        for answer in (number % 2, number % 2, 1 - number % 2):
            answer_ids = tokenizer(f"\\boxed{{{answer}}}", add_special_tokens=False)["input_ids"]
            rows.append([*prompt_ids, *answer_ids, tokenizer.eos_token_id])
            labels.append([*[-100] * len(prompt_ids), *rows[-1][len(prompt_ids) :]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(LESSONS):
        optimizer.zero_grad()
        model(input_ids=torch.tensor(rows), labels=torch.tensor(labels)).loss.backward()
        optimizer.step()


if __name__ == "__main__":
    with user_errors_exit():
        main(sys.argv[1:])
