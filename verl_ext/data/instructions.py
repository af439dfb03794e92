"""What follows a problem to ask for a boxed answer; one wording for training data and evaluation."""

from __future__ import annotations

DFT_BOXED = "Let's think step by step and output the final answer within \\boxed{}."
"""The DFT repository's training data (numina_cot.py)."""
QWEN_BOXED = "Please reason step by step, and put your final answer within \\boxed{}."
"""Qwen2.5-Math's harness, and the prompt in NFT's model card."""

INSTRUCTIONS = {"dft": " " + DFT_BOXED, "qwen": "\n" + QWEN_BOXED, "none": ""}
"""By the name of the option `--instruction`: what is put behind the problem."""

PROOF = "Generate a rigorous proof to the following question:\n\n"
"""What QED-Nano puts before a problem whose answer is a proof."""

_PROGRAM = "Please place the solution code in the following format:\n```python\n# Your solution code here\n```"
_HEADER = "Solve the problem starting with the provided function header.\n\nFunction header:\n"


def program_question(question: str, header: str = "") -> str:
    """How AceReason-Nemotron asks for a program (its model cards), character for character.

    Args:
        question: the problem; empty where the header says all.
        header: code with which the program is to start; empty for programs that read standard input.
    """
    parts = [question.strip()] if question.strip() else []
    parts += (
        [f"{_HEADER}```\n{header}\n```", _PROGRAM]
        if header
        else [f"Write Python code to solve the problem. {_PROGRAM}"]
    )
    return "\n\n".join(parts)
