"""A training step of the project's own engine on fake tensors: the tensor memory of one rank, on a machine without GPU."""
