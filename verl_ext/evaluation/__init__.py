"""What a model can do: generate, grade, report."""
