r"""LaTeX into the plain text of a calculator: `\frac{n(n+1)}{2}` is `(n*(n+1))/2`.

A small grammar of its own, which shares nothing with the grader. It reads sums, products, quotients, powers, roots,
subscripts and the usual functions, and gives None for everything else.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(r"\\[a-zA-Z]+|\d+(?:\.\d+)?|\.\d+|[a-zA-Z]|[-+*/^_(){}\[\]]|(\s+)")
_FUNCTIONS = ("sin", "cos", "tan", "cot", "ln", "arcsin")
_GREEK = ("alpha", "beta", "gamma", "theta", "lambda", "mu", "omega", "tau", "sigma", "zeta", "rho", "pi")
_DROPPED = ("left", "right", "quad", "displaystyle")
_APPLIED = "fgFuIyhvx"
"""A letter before a bracket that may be a function: `u(t)` is no product."""


class _Unread(Exception):
    """Not in this grammar."""


def plain(latex: str) -> str | None:
    """The same expression in plain text with every product written out, or None."""
    latex = re.sub(r"\\[,;:! ]|\$", " ", re.sub(r"\\[dtc]frac", r"\\frac", latex)).strip().rstrip(".")
    try:
        reader = _Reader(_tokens(latex))
        text = reader.sum()
        reader.end()
    except _Unread:
        return None
    return text


def _tokens(latex: str) -> list[str]:
    tokens, position = [], 0
    while position < len(latex):
        found = _TOKEN.match(latex, position)
        if found is None:
            raise _Unread
        if not found.group(1) and found.group()[1:] not in _DROPPED:
            tokens.append(found.group())
        position = found.end()
    return tokens


class _Reader:
    """Reads from the left; each method returns the text of one construct."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.position = 0

    @property
    def next(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def take(self, expected: str = "") -> str:
        token = self.next
        if not token or (expected and token != expected):
            raise _Unread
        self.position += 1
        return token

    def end(self) -> None:
        if self.next:
            raise _Unread

    def sum(self) -> str:
        text = self.take() if self.next in ("-", "+") else ""
        text = text.removeprefix("+") + self.product()
        while self.next in ("+", "-"):
            text += self.take() + self.product()
        return text

    def product(self) -> str:
        text = self.power()
        while self.next and self.next not in ("+", "-", ")", "}", "]"):
            if self.next in ("*", "\\cdot", "\\times"):
                self.take()
                text += f"*{self.power()}"
            elif self.next == "/":
                self.take()
                text += f"/{self.power()}"
            elif self.next[0].isdigit():
                raise _Unread  # 2 3 and 1 4/5: who knows
            else:
                text += f"*{self.power()}"
        return text

    def power(self) -> str:
        text = self.atom()
        while self.next == "^":
            self.take()
            exponent = self.group()
            text += f"^{exponent}" if exponent.isdigit() or exponent.isalpha() else f"^({exponent})"
            if self.next == "^":
                raise _Unread
        return text

    def group(self) -> str:
        """What a command or an exponent applies to: a braced expression or one token."""
        if self.next == "{":
            self.take()
            text = self.sum()
            self.take("}")
            return text
        token = self.take()
        if token[0].isdigit():
            self.tokens[self.position - 1 : self.position] = [token[0], *([token[1:]] if token[1:] else [])]
            return token[0]
        if token.isalpha():
            return token
        if token[1:] in _GREEK:
            return token[1:]
        raise _Unread

    def atom(self) -> str:
        token = self.take()
        if token[0].isdigit() or token[0] == ".":
            if self.next == "\\frac":
                raise _Unread  # a mixed number, or a product
            return token
        if token in ("(", "{"):
            text = f"({self.sum()})"
            self.take(")" if token == "(" else "}")
            return text
        if token == "\\frac":
            above, below = self.group(), self.group()
            return f"(({above})/({below}))"
        if token == "\\sqrt":
            return self.root()
        if token[1:] in _FUNCTIONS:
            return self.function(token[1:])
        if token.isalpha() or token[1:] in _GREEK:
            return self.symbol(token)
        raise _Unread

    def root(self) -> str:
        if self.next != "[":
            return f"sqrt({self.group()})"
        self.take()
        degree = self.take()
        self.take("]")
        if not degree.isdigit():
            raise _Unread
        return f"({self.group()})^(1/{degree})"

    def function(self, name: str) -> str:
        exponent = ""
        if self.next == "^":
            self.take()
            exponent = self.group()
            if exponent in ("-1", "") or not exponent.isdigit():
                raise _Unread
        argument = self.argument()
        return f"{name}({argument})" + (f"^{exponent}" if exponent else "")

    def argument(self) -> str:
        if self.next in ("(", "{"):
            return self.atom()[1:-1]
        token = self.take()
        text = token if token[0].isdigit() or token.isalpha() else token[1:] if token[1:] in _GREEK else ""
        if not text or self.next not in ("", "+", "-", ")", "}", "/"):
            raise _Unread  # sin 2x and sin x cos y: where the argument ends is a convention
        return text

    def symbol(self, token: str) -> str:
        name = token.lstrip("\\")
        if self.next == "_":
            self.take()
            name += f"_{self.group()}"
            if not name.replace("_", "").isalnum():
                raise _Unread
        if self.next == "(" and token in _APPLIED:
            raise _Unread
        return name
