"""Data sets that the trainers and the evaluation read."""
