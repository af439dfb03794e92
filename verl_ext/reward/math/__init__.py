"""Whether a mathematical answer is the gold answer, by rules."""
