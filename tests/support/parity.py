"""A task that a tiny model learns online within seconds: is a number even (0) or odd (1)?

The model starts by knowing the form of an answer and having a hunch of its content: two of three answers are right.
"""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from tests.support.tiny_model import byte_tokenizer, save_tiny_model
from verl_ext.reward.code import store

NUMBERS = range(10)
PROGRAMMING = range(16)
BOXED = "\\boxed{{{}}}"
PROGRAM = "```\nprint({})\n```"
"""The same answer as a program."""


def write_problems(path: Path, numbers=NUMBERS, copies: int = 1) -> Path:
    """A parquet file in verl's columns, each number `copies` times."""
    rows = [
        {
            "data_source": "math",
            "prompt": [{"role": "user", "content": f"{number}?"}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": str(number % 2)},
            "extra_info": {"split": "train", "index": index},
        }
        for index, number in enumerate(list(numbers) * copies)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_programming_problems(path: Path, copies: int = 1) -> Path:
    """The same of 16 problems, to be solved by a program that prints the answer; the tests are stored beside the file."""
    rows = []
    for number in PROGRAMMING:
        tests = {"form": "stdin", "inputs": ["", "again\n"], "outputs": [f"{number % 2}\n"] * 2}
        gold = store.put(tests, path.parent / store.FOLDER) if number % 4 else json.dumps(tests)
        rows.append(
            {
                "data_source": "code",
                "prompt": [{"role": "user", "content": f"{number:x}?"}],
                "ability": "code",
                "reward_model": {"style": "rule", "ground_truth": gold},
                "extra_info": {"split": "train", "index": number},
            }
        )
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows * copies), path)
    return path


def save_guesser(folder: Path, steps: int = 150, heads: int = 4, answer: str = BOXED, numbers=NUMBERS) -> Path:
    """A tiny model that answers every number with 0 or 1, in the form of `answer`, and rightly two times of three."""
    save_tiny_model(folder, hidden_size=64, heads=heads)
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rows, first = _examples(byte_tokenizer(), answer, numbers)
    labels = rows.clone()
    labels[:, :first] = -100
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=rows, labels=labels).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    return folder


def _examples(tokenizer: PreTrainedTokenizerBase, form: str, numbers) -> tuple[torch.Tensor, int]:
    """Every number with its right answer, twice, and with its wrong one; and the length of a prompt."""
    rows = []
    for number in numbers:
        messages = [{"role": "user", "content": f"{number:x}?"}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        right = str(number % 2)
        for answer in (right, right, "1" if right == "0" else "0"):
            text = form.format(answer)
            answer_ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            rows.append([*prompt_ids, *answer_ids, tokenizer.eos_token_id])
    return torch.tensor(rows), len(prompt_ids)
