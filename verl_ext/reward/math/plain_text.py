r"""Mathematics typed as plain text, in LaTeX: `2*pi`, `sqrt(x)`, `x**2`, `sin(x)`, `<=`, `exp(16)`, `(-inf, 0) U (0, inf)`.

Works on one answer before it is normalised. What stands in `\text{}`, and words that name nothing here, stay as they are.
"""

from __future__ import annotations

import re

_FUNCTIONS = [
    "arcsinh",
    "arccosh",
    "arctanh",
    "arcsin",
    "arccos",
    "arctan",
    "arccot",
    "sinh",
    "cosh",
    "tanh",
    "coth",
    "sin",
    "cos",
    "tan",
    "cot",
    "sec",
    "csc",
    "ln",
    "log",
    "lg",
    "max",
    "min",
    "gcd",
    "lcm",
    "det",
]
_SHORT_FUNCTIONS = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}
_CONSTANTS = [
    "pi",
    "theta",
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "zeta",
    "eta",
    "lambda",
    "mu",
    "nu",
    "rho",
    "sigma",
    "tau",
    "phi",
    "chi",
    "psi",
    "omega",
    "Gamma",
    "Delta",
    "Theta",
    "Lambda",
    "Sigma",
    "Phi",
    "Psi",
    "Omega",
    "infty",
]
_INFINITIES = ("infinity", "inf", "oo")
_BRACKETED = {"sqrt": ("\\sqrt{", "}"), "cbrt": ("\\sqrt[3]{", "}"), "exp": ("e^{", "}"), "abs": ("|", "|")}

_CANDIDATE = re.compile(r"[a-zA-Z]{2}|\*|[<>!]=|=<|\+/?-|\^[(\-+\d]|\)\s?U\s?\(|]\s?U\s?\(")
_TEXT = re.compile(r"(\\[a-zA-Z]+\*? ?\{[^{}]*\}|\\[a-zA-Z]+\*?)")
_WORD = re.compile(r"(?<![a-zA-Z\\_])(?:(?:np|numpy|math|sympy)\.)?([a-zA-Z]{2,8})(?![a-zA-Z])")
_LOG_BASE = re.compile(r"(?<![a-zA-Z\\])log_?(\d{1,3})(?= ?\()")
_PROSE = re.compile(r"(?<![a-zA-Z\\])[a-zA-Z]{3,}(?![a-zA-Z(])")
_KNOWN = frozenset({*_FUNCTIONS, *_SHORT_FUNCTIONS, *_CONSTANTS, *_INFINITIES, *_BRACKETED, "mod", "and", "union"})
_UNION = re.compile(r"(?<=[)\]}]) ?(?:U|union) ?(?=[(\[\\])")
_POWER = re.compile(r"\^ ?([+-]?\d{2,}(?:\.\d+)?|[+-]\d+|[+-][a-zA-Z]|\d+\.\d+)")
_NOT_EQUAL = re.compile(r"(?<=\w) !=|<>")
_MAX_BRACKETED = 40


def as_latex(text: str) -> str:
    """The same answer with its plain-text notation as LaTeX."""
    if not _CANDIDATE.search(text):
        return text
    text = _operators(text)
    text = _LOG_BASE.sub(r"\\log_{\1}", text)
    pieces = _TEXT.split(text)  # odd pieces are commands with what they hold
    is_prose = any(_is_prose(piece) for piece in pieces[::2])
    if not is_prose:
        pieces[::2] = [_WORD.sub(_spell, piece) for piece in pieces[::2]]
        text = "".join(pieces)
        for name, (opening, closing) in _BRACKETED.items():
            text = _bracketed(text, name, opening, closing)
    return _powers(text)


def _is_prose(piece: str) -> bool:
    return any(word not in _KNOWN for word in _PROSE.findall(piece))


def _operators(text: str) -> str:
    text = _NOT_EQUAL.sub(r"\\ne ", text)
    text = text.replace("<=", "\\le ").replace(">=", "\\ge ").replace("=<", "\\le ")
    text = text.replace("+/-", "\\pm ").replace("+-", "\\pm ")
    return _UNION.sub(r"\\cup ", text.replace("**", "^"))


def _spell(match: re.Match[str]) -> str:
    name = match.group(1)
    if name in _INFINITIES:
        return "\\infty "
    if name in _CONSTANTS:
        return f"\\{name} "
    name = _SHORT_FUNCTIONS.get(name, name)
    if name in _FUNCTIONS:
        return f"\\{name} " if match.string[match.end() : match.end() + 1] not in ("_", "^") else f"\\{name}"
    return name if name in _BRACKETED else match.group()


def _bracketed(text: str, name: str, opening: str, closing: str) -> str:
    r"""`sqrt(x+1)` as `\sqrt{x+1}`."""
    pattern = re.compile(rf"(?<![a-zA-Z])\\?{name} ?\(")
    for _ in range(_MAX_BRACKETED):
        found = pattern.search(text)
        if found is None:
            break
        end = matching_bracket(text, found.end() - 1)
        if end is None:
            break
        text = f"{text[: found.start()]}{opening}{text[found.end() : end]}{closing}{text[end + 1 :]}"
    if name == "sqrt":
        text = re.sub(r"(?<![a-zA-Z\\])sqrt ?(\d+|[a-zA-Z](?![a-zA-Z]))", r"\\sqrt{\1}", text)
    return text


def _powers(text: str) -> str:
    r"""`x^10`, `x^-2` and `x^(n+1)` with the braces that they mean."""
    text = _POWER.sub(r"^{\1}", text)
    for _ in range(_MAX_BRACKETED):
        start = text.find("^(")
        end = matching_bracket(text, start + 1) if start >= 0 else None
        if end is None:
            return text
        text = f"{text[:start]}^{{{text[start + 2 : end]}}}{text[end + 1 :]}"
    return text


def matching_bracket(text: str, start: int) -> int | None:
    """Where the round bracket that opens at `start` closes."""
    depth = 0
    for position in range(start, len(text)):
        depth += (text[position] == "(") - (text[position] == ")")
        if depth == 0:
            return position
    return None
