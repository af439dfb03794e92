"""What follows a problem to ask for a boxed answer; one wording for training data and evaluation."""

from __future__ import annotations

DFT_BOXED = "Let's think step by step and output the final answer within \\boxed{}."
"""The DFT repository's training data (numina_cot.py)."""
QWEN_BOXED = "Please reason step by step, and put your final answer within \\boxed{}."
"""Qwen2.5-Math's harness, and the prompt in NFT's model card."""

INSTRUCTIONS = {"dft": " " + DFT_BOXED, "qwen": "\n" + QWEN_BOXED, "none": ""}
"""By the name of the option `--instruction`: what is put behind the problem."""
