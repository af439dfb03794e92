"""Generating text from a model that is being trained: the engine `hf`, and verl's own engines on a CPU."""
