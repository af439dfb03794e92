"""What is optimised: pure functions over tensors. No verl, no ray, no input or output.

An objective of supervised training maps the log-probabilities of the target tokens to the loss of each token. A new
one is one file in this folder, or anywhere else when `model.external_lib` names its module.
"""
