"""Running programs that nobody trusts. Standard library only; knows no reward."""
