r"""One spelling for answers that differ only in typesetting: spaces, `\left`, `\dfrac`, bold, `\text`, unicode signs.

Nothing here changes what an answer means; meaning is compared in `equivalence`.
"""

from __future__ import annotations

import re
from functools import lru_cache

_REPLACED = {
    "−": "-", "–": "-", "×": "\\times ", "·": "\\cdot ", "÷": "/", "π": "\\pi ", "∞": "\\infty ", "√": "\\sqrt ",
    "°": "^\\circ ", "≤": "\\le ", "≥": "\\ge ", "≠": "\\ne ", "∪": "\\cup ", "∩": "\\cap ", "∈": "\\in ", "±": "\\pm ",
    "½": "\\frac{1}{2}", "¼": "\\frac{1}{4}", "¾": "\\frac{3}{4}", "²": "^{2}", "³": "^{3}", "∅": "\\emptyset ",
    "θ": "\\theta ", "α": "\\alpha ", "β": "\\beta ", "…": "\\ldots ", "⋯": "\\ldots ", "％": "%", "（": "(", "）": ")",
    "，": ",", "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u200b": "",
}  # fmt: skip
_UNICODE = str.maketrans(_REPLACED)

_COMMANDS = {
    "dfrac": "\\frac", "tfrac": "\\frac", "cfrac": "\\frac",
    "leq": "\\le", "leqslant": "\\le", "geq": "\\ge", "geqslant": "\\ge", "neq": "\\ne", "lt": "<", "gt": ">",
    "lbrace": "\\{", "rbrace": "\\}", "lbrack": "[", "rbrack": "]", "lvert": "|", "rvert": "|", "vert": "|",
    "dots": "\\ldots", "cdots": "\\ldots", "dotsc": "\\ldots", "degree": "^\\circ", "degrees": "^\\circ",
    "mbox": "\\text", "textrm": "\\text", "textnormal": "\\text", "hbox": "\\text", "rm": "", "operatorname": "",
    "varnothing": "\\emptyset", "Bigl": "", "Bigr": "", "bigl": "", "bigr": "", "Big": "", "big": "",
    "bigg": "", "Bigg": "", "biggl": "", "biggr": "", "left": "", "right": "", "displaystyle": "", "textstyle": "",
    "limits": "", "quad": " ", "qquad": " ", "thinspace": "", "enspace": " ", "nonumber": "",
}  # fmt: skip
_STYLES = ("mathbf", "boldsymbol", "bm", "textbf", "mathit", "mathsf", "textit", "emph", "underline", "boxed", "fbox",
           "mathrm", "ensuremath", "mathnormal", "overset", "bold")  # fmt: skip

_COMMAND = re.compile(r"\\([a-zA-Z]+)\*?")
_STYLE = re.compile(r"\\(?:" + "|".join(_STYLES) + r") ?\{")
_MATH_DELIMITER = re.compile(r"(?<!\\)\\[()\[\]]")
_SPACING = re.compile(r"(?<!\\)\\[,;:! ]|~")
_ORDINAL = re.compile(r"(?<=\d)\^\{?\\text ?\{(?:st|nd|rd|th)\}\}?$")
_OPERATOR = re.compile(r"\\operatorname\*? ?\{ ?([a-zA-Z]{1,12}) ?\}")
_OPERATORS = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}
_MARKDOWN_BOLD = re.compile(r"\*\*([^*]{1,500})\*\*|__([^_]{1,500})__")
_CIRC = re.compile(r"\^ ?(?:\{ ?\\circ ?\}|\\circ)")
_FRAC_SHORT = re.compile(r"\\frac ?([0-9a-zA-Z])(?=[ 0-9a-zA-Z{\\])")
_FRAC_SECOND = re.compile(r"(\\frac ?\{[^{}]{1,200}\}) ?([0-9a-zA-Z])")
_SQRT_SHORT = re.compile(r"\\sqrt ?([0-9a-zA-Z])")
_THOUSANDS_BRACED = re.compile(r"(\d)\{,\}(?=\d)")
_THOUSANDS_SPACED = re.compile(r"(?<=\d)(?:, ?\\! ?|\\!,\\!|\\, ?|,\\,)(?=\d{3}(?!\d))")
_SPACES = re.compile(r"\s+")
_OUTER_TEXT = re.compile(r"\\text ?\{([^{}]*)\}")
_BLANK = re.compile(r"(?<![0-9]) | (?![0-9])")
_TIGHT = re.compile(r" ?([=<>+\-*/^_,;:(){}\[\]|!&]) ?")
_UPRIGHT_SYMBOLS = ("", "e", "i", "d")
_ENDING = ".,;: "


@lru_cache(maxsize=4096)
def normalise(answer: str) -> str:
    """The answer in one spelling; idempotent up to blanks."""
    text = answer.strip()
    if text.isdigit() and text.isascii():
        return text.lstrip("0") or "0"
    text = text.translate(_UNICODE)
    text = _THOUSANDS_SPACED.sub(",", _THOUSANDS_BRACED.sub(r"\1,", text))
    text = text.replace("\\$", "$").replace("\\%", "%").replace("\\#", "#").replace("\\&", "&")
    text = _MATH_DELIMITER.sub("", text.replace("$", ""))
    if text.startswith("**") and text.endswith("**"):
        text = text[2:-2]
    text = _MARKDOWN_BOLD.sub(lambda match: match.group(1) or match.group(2), text)
    text = _SPACING.sub(" ", text)
    text = _OPERATOR.sub(lambda match: "\\" + _OPERATORS.get(match.group(1), match.group(1)) + " ", text)
    text = _unstyle(text)
    text = _COMMAND.sub(_spell_command, text)
    text = _CIRC.sub("^\\\\circ ", text)
    text = _SPACES.sub(" ", text)
    text = _FRAC_SHORT.sub(r"\\frac{\1}", text)
    text = _FRAC_SECOND.sub(r"\1{\2}", text)
    text = _SQRT_SHORT.sub(r"\\sqrt{\1}", text)
    text = _TIGHT.sub(r"\1", text)
    text = _ORDINAL.sub("", text).strip().rstrip(_ENDING)
    while text.endswith("\\\\"):
        text = text[:-2].rstrip(_ENDING)
    return text.strip()


def _unstyle(text: str) -> str:
    r"""Unwrap `\mathbf{5}` and its like by dropping the command; the braces left behind go where they are redundant."""
    for _ in range(4):
        match = _STYLE.search(text)
        if match is None:
            return text
        text = _drop_one_style(text, match)
    return _STYLE.sub("{", text)


def _drop_one_style(text: str, match: re.Match[str]) -> str:
    depth = 0
    for position in range(match.end() - 1, len(text)):
        depth += (text[position] == "{") - (text[position] == "}")
        if depth == 0:
            inner = text[match.end() : position]
            before, after = text[: match.start()], text[position + 1 :]
            if match.group().startswith("\\mathrm") and inner.strip() not in _UPRIGHT_SYMBOLS and not inner.isdigit():
                return f"{before}\\text{{{inner}}}{after}"
            needs_braces = before.rstrip().endswith(("^", "_", "}", "\\frac", "\\sqrt"))
            return f"{before}{{{inner}}}{after}" if needs_braces else f"{before} {inner} {after}".strip()
    return text[: match.start()] + text[match.end() :]


def _spell_command(match: re.Match[str]) -> str:
    name = match.group(1)
    return _COMMANDS.get(name, "\\" + name)


def key(normalised: str) -> str:
    """What two texts must share to be the same text: no blanks, no redundant braces around one character.

    A blank between digits stays: 1 4/5 is not 14/5.
    """
    text = _OUTER_TEXT.sub(r"\1", normalised)
    text = re.sub(r"\{(\w)\}", r"\1", text)
    return _BLANK.sub("", text).replace("\\cdot", "*").replace("\\times", "*")
