"""Small graded generations: sums, some of them right, in groups of different sizes."""

from __future__ import annotations

import json
import random
from pathlib import Path


def rollout_rows(prompts: int, *, responses: tuple[int, int] = (3, 6), seed: int = 0) -> list[dict]:
    """Rows of text, each with at least one right and one wrong response; responses of different lengths."""
    generator = random.Random(seed)
    rows = []
    for _ in range(prompts):
        numbers = [generator.randint(1, 99) for _ in range(generator.randint(2, 4))]
        count = generator.randint(*responses)
        right = generator.randint(1, count - 1)
        correct = [True] * right + [False] * (count - right)
        generator.shuffle(correct)
        texts = []
        for is_right in correct:
            total = sum(numbers) if is_right else sum(numbers) + generator.randint(1, 9)
            texts.append("so " * generator.randint(0, 4) + f"it is {total}")
        rows.append({"prompt": " + ".join(map(str, numbers)), "responses": texts, "correct": correct})
    return rows


def without_signal(row: dict, *, right: bool) -> dict:
    """The row with all its responses right, or all wrong."""
    return {**row, "correct": [right] * len(row["correct"])}


def write_json_lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path
