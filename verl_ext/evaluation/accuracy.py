"""Greedy accuracy of a model on prepared problems, on whatever this machine has.

    python -m verl_ext.evaluation.accuracy MODEL test.parquet --output before.json

Problems are rows in verl's columns: `prompt` (chat messages), `data_source`, `reward_model.ground_truth`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from verl_ext.cli import user_errors_exit
from verl_ext.data.reading import iterate_rows, require_files
from verl_ext.errors import DataError
from verl_ext.model_folder import require_model_folder
from verl_ext.reward.grader import grade


@dataclass(frozen=True)
class Problem:
    messages: list[dict[str, str]]
    data_source: str
    ground_truth: str


@dataclass(frozen=True)
class Answer:
    response: str
    prediction: str | None
    correct: bool
    status: str


def read_problems(path: str) -> list[Problem]:
    """Problems of a file in verl's columns.

    Raises:
        DataError: the file or a row of it is not of that form.
    """
    require_files("data", [path])
    problems = []
    for row, values in enumerate(iterate_rows(path)):
        try:
            problem = Problem(values["prompt"], values["data_source"], values["reward_model"]["ground_truth"])
        except (KeyError, TypeError) as error:
            raise DataError(f"{path}: row {row}: expected prompt, data_source, reward_model.ground_truth") from error
        if not isinstance(problem.ground_truth, str):
            raise DataError(f"{path}: row {row}: reward_model.ground_truth is not text")
        problems.append(problem)
    return problems


def generate_greedy(model_path: str, problems: Sequence[Problem], *, max_new_tokens: int, batch_size: int) -> list[str]:
    """The model's most likely continuation of each problem's chat, in order."""
    tokenizer = AutoTokenizer.from_pretrained(model_path, padding_side="left")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype="auto", attn_implementation="sdpa").to(device).eval()
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    responses = []
    for start in tqdm(range(0, len(problems), batch_size), desc="generate", disable=not sys.stderr.isatty()):
        texts = [
            tokenizer.apply_chat_template(problem.messages, add_generation_prompt=True, tokenize=False)
            for problem in problems[start : start + batch_size]
        ]
        inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False).to(device)
        with torch.inference_mode():
            output = model.generate(**inputs, generation_config=settings)
        responses += tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return responses


def grade_all(problems: Sequence[Problem], responses: Sequence[str]) -> list[Answer]:
    """Grade each response against its problem's gold answer."""
    answers = []
    for problem, response in zip(problems, responses, strict=True):
        result = grade(response, problem.ground_truth, data_source=problem.data_source)
        answers.append(Answer(response, result.prediction, result.correct, result.status))
    return answers


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="folder or hub id")
    parser.add_argument("problems", help="parquet or JSON-lines file in verl's columns")
    parser.add_argument("--output", type=Path, required=True, help="JSON file with the accuracy and every answer")
    parser.add_argument("--max_new_tokens", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=64)
    options = parser.parse_args(arguments)
    with user_errors_exit():
        require_model_folder(options.model)
        problems = read_problems(options.problems)
        started = time.perf_counter()
        responses = generate_greedy(
            options.model, problems, max_new_tokens=options.max_new_tokens, batch_size=options.batch_size
        )
        answers = grade_all(problems, responses)
    correct = sum(answer.correct for answer in answers)
    accuracy = correct / len(answers)
    result = {
        "model": options.model,
        "problems": len(answers),
        "accuracy": accuracy,
        "standard_error": math.sqrt(accuracy * (1 - accuracy) / len(answers)),
        "no_answer": sum(answer.prediction is None for answer in answers),
        "seconds": time.perf_counter() - started,
        "answers": [
            {**asdict(answer), "ground_truth": problem.ground_truth}
            for problem, answer in zip(problems, answers, strict=True)
        ],
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1))
    print(f"{correct} of {len(answers)} right ({accuracy:.1%}), {result['seconds']:.0f} s")


if __name__ == "__main__":
    main()
