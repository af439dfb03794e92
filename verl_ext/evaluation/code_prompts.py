r"""How problems whose answer is a program are asked, character for character as published.

`acereason-code-r1` and `acereason-code-qwen` are those of AceReason-Nemotron 1.0 and 1.1 (their model cards), `lcb` the
generic one of LiveCodeBench (`lcb_runner/prompts/code_generation.py`), `humaneval-complete` HumanEval's own: the prompt
is continued, and the response ends where the function does (arXiv 2107.03374, section 2.1 and its stop sequences).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from verl_ext.data.instructions import program_question

if TYPE_CHECKING:
    from verl_ext.evaluation.benchmarks import Problem

_LCB_SYSTEM = (
    "You are an expert Python programmer. You will be given a question (problem specification) and will generate a "
    "correct Python program that matches the specification and passes all tests."
)
_LCB_STARTER = (
    "You will use the following starter code to write the solution to the problem and enclose your code within "
    "delimiters."
)
_LCB_STDIN = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly test on the sample "
    "inputs). Enclose your code within delimiters as follows. Ensure that when the python program runs, it reads the "
    "inputs, runs the algorithm and writes output to STDOUT."
)


def acereason_question(problem: Problem) -> str:
    """The user's message of AceReason-Nemotron; HumanEval's prompt counts as a header."""
    if problem.completes:
        return program_question("", problem.question)
    return program_question(problem.question, problem.starter_code)


def lcb_question(problem: Problem) -> str:
    """The user's message of LiveCodeBench."""
    header = problem.starter_code or (problem.question if problem.completes else "")
    form = f"{_LCB_STARTER}\n```python\n{header}\n```" if header else f"{_LCB_STDIN}\n```python\n# YOUR CODE HERE\n```"
    return (
        f"### Question:\n{problem.question}\n\n### Format: {form}\n\n"
        "### Answer: (use the provided format with backticks)\n\n"
    )


@dataclass(frozen=True)
class CodePromptType:
    """A template around a problem; with `system` a chat that the tokenizer's own template renders."""

    question: Callable[[Problem], str]
    before: str = ""
    after: str = ""
    system: str | None = None
    stop: tuple[str, ...] = ()
    completes: bool = False
    """The response goes on where the prompt ends; both together are the program."""


CODE_PROMPT_TYPES: dict[str, CodePromptType] = {
    "acereason-code-r1": CodePromptType(acereason_question, "<｜User｜>", "<｜Assistant｜><think>\n"),
    "acereason-code-qwen": CodePromptType(
        acereason_question,
        "<|im_start|>system\nYou are a helpful and harmless assistant. You should think step-by-step.<|im_end|>\n"
        "<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n<think>\n",
    ),
    "lcb": CodePromptType(lcb_question, system=_LCB_SYSTEM),
    "humaneval-complete": CodePromptType(
        lambda problem: problem.question, stop=("\nclass", "\ndef", "\n#", "\nif", "\nprint"), completes=True
    ),
}


def as_program(prompt: str, response: str) -> str:
    """What continues a prompt as an answer in a block of code; a fence ends it."""
    kept: list[str] = []
    for line in response.split("\n"):
        if line.lstrip().startswith("```"):
            break
        kept.append(line)
    return f"```python\n{prompt}" + "\n".join(kept) + "\n```"
