"""The confined processes that compare untrusted answers with sympy."""
