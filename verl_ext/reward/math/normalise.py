r"""One spelling for answers that differ only in typesetting: spaces, `\left`, `\dfrac`, bold, `\text`, unicode signs.

Nothing here changes what an answer means; meaning is compared in `equivalence`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import accumulate

from verl_ext.reward.math.amounts import one_amount
from verl_ext.reward.math.plain_text import as_latex
from verl_ext.reward.math.separators import without_separators

_REPLACED = {
    "−": "-", "–": "-", "×": "\\times ", "·": "\\cdot ", "÷": "/", "π": "\\pi ", "∞": "\\infty ", "√": "\\sqrt ",
    "°": "^\\circ ", "≤": "\\le ", "≥": "\\ge ", "≠": "\\ne ", "∪": "\\cup ", "∩": "\\cap ", "∈": "\\in ", "±": "\\pm ",
    **{sign: f"\\frac{{{above}}}{{{below}}}" for sign, above, below in zip("⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞", "121234151357", "335555668888", strict=True)},
    "½": "\\frac{1}{2}", "¼": "\\frac{1}{4}", "¾": "\\frac{3}{4}", "²": "^{2}", "³": "^{3}", "∅": "\\emptyset ",
    "θ": "\\theta ", "α": "\\alpha ", "β": "\\beta ", "…": "\\ldots ", "⋯": "\\ldots ", "％": "%", "（": "(", "）": ")",
    "，": ",", "：": ":", "＝": "=", "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u200b": "", "′": "'", "’": "'",
    "≈": "\\approx ", "∠": "\\angle ", "△": "\\triangle ", "ℝ": "\\mathbb{R}", "ℤ": "\\mathbb{Z}", "ℕ": "\\mathbb{N}",
    "γ": "\\gamma ", "δ": "\\delta ", "λ": "\\lambda ", "μ": "\\mu ", "ρ": "\\rho ", "σ": "\\sigma ", "τ": "\\tau ",
    "φ": "\\phi ", "ω": "\\omega ", "Δ": "\\Delta ", "∖": "\\setminus ", "∨": "\\lor ", "¹": "^{1}", "⁴": "^{4}",
    "⁵": "^{5}", "⁶": "^{6}", "⁷": "^{7}", "⁸": "^{8}", "⁹": "^{9}", "⁰": "^{0}", "⁻": "^{-}", "ⁿ": "^{n}",
}  # fmt: skip
_UNICODE = str.maketrans(_REPLACED | {chr(0xFF10 + digit): str(digit) for digit in range(10)})

_COMMANDS = {
    "dfrac": "\\frac", "tfrac": "\\frac", "cfrac": "\\frac",
    "leq": "\\le", "leqslant": "\\le", "geq": "\\ge", "geqslant": "\\ge", "neq": "\\ne", "lt": "<", "gt": ">",
    "lbrace": "\\{", "rbrace": "\\}", "lbrack": "[", "rbrack": "]", "lvert": "|", "rvert": "|",
    "dots": "\\ldots", "cdots": "\\ldots", "dotsc": "\\ldots", "degree": "^\\circ", "degrees": "^\\circ",
    "mbox": "\\text", "textrm": "\\text", "textnormal": "\\text", "hbox": "\\text", "rm": "", "operatorname": "",
    "varnothing": "\\emptyset", "Bigl": "", "Bigr": "", "bigl": "", "bigr": "", "Big": "", "big": "",
    "bigg": "", "Bigg": "", "biggl": "", "biggr": "", "left": "", "right": "", "displaystyle": "", "textstyle": "",
    "limits": "", "R": "\\mathbb{R}", "reals": "\\mathbb{R}", "Z": "\\mathbb{Z}", "N": "\\mathbb{N}", "Q": "\\mathbb{Q}",
    "backslash": "\\setminus", "vee": "\\text{ or }", "to": "\\to", "rightarrow": "\\to", "colon": ":", "vert": "|", "mid": "\\mid",
    "simeq": "\\approx", "lor": "\\text{ or }", "land": "\\text{ and }", "thickapprox": "\\approx", "lg": "\\log_{10}", "middle": "", "dotsb": "\\ldots", "Pr": "P", "quad": " ", "qquad": " ", "thinspace": "", "enspace": " ", "nonumber": "",
}  # fmt: skip
_STYLES = ("mathbf", "boldsymbol", "bm", "textbf", "mathit", "mathsf", "textit", "emph", "underline", "boxed", "fbox",
           "mathrm", "ensuremath", "mathnormal", "overset", "bold", "texttt", "textsf", "textsl")  # fmt: skip

_COMMAND = re.compile(r"\\([a-zA-Z]+)\*?")
_STYLE = re.compile(r"\\(?:" + "|".join(_STYLES) + r") ?\{")
_SHOWS_NOTHING = re.compile(
    r"\\(?:large|Large|LARGE|huge|Huge|small|tiny|normalsize|bf|it|bfseries|itshape|checkmark|square|blacksquare)(?![a-zA-Z])"
    r"|\\(?:hspace|vspace|phantom|label|tag|hphantom|vphantom)\*? ?\{[^{}]{0,40}\}"
    r"|\\color ?(?:\{[^{}]{1,30}\}|\[[^\[\]]{1,30}\]\{[^{}]{1,30}\})|\\text ?\{[.,;: ]*\}|`"
)
_COLOURED = re.compile(r"\\(?:textcolor|colorbox) ?\{[^{}]{1,30}\} ?\{")
_LEADING = re.compile(
    r"(?:=(?!=)|\\therefore(?![a-z])|\\Rightarrow(?![a-z])|\\implies(?![a-z])|\\\\(?![a-zA-Z])|#(?=\d)| )+"
)
_ABOUT = re.compile(r"\\sim(?![a-z]) ?(?=[\d\\.-])")
_NEGATIVE = re.compile(r"\\text ?\{ ?(?:negative|minus) ?\} ?(?=\d|\\frac|\\sqrt)|(?:negative|minus) (?=\d)")
_PLAIN_VALUE = r"-?(?:\d[\d./]*|\\[dt]?frac ?\{[^{}]{1,20}\}\{[^{}]{1,20}\}|\\sqrt ?\{[^{}]{1,20}\}|\\pi(?![a-z]))+"
_EQUATION_BESIDE = re.compile(
    rf"(= ?{_PLAIN_VALUE}) ?(?:\\q?quad|\\[;:, ]|\\\\|~|\\wedge(?![a-z])| )[ ,]*(?=[a-zA-Z](?:_\{{?\w{{1,3}}\}}?)? ?=(?!=))"
)
_NUMBERS_APART = re.compile(r"(?<=[\d)}]) ?\\q?quad ?(?=-?[\d(])(?! ?\([a-z] ?[<>=])")
_ANGLES = re.compile(r"\\langle(?![a-z])([^<>]{1,300}?,[^<>]{1,300}?)\\rangle(?![a-z])")
_MATH_DELIMITER = re.compile(r"(?<!\\)\\[()\[\]]")
_SPACING = re.compile(r"(?<!\\)\\[,;:! ]|~")
_ORDINAL = re.compile(r"(?<=\d)\^\{?\\text ?\{(?:st|nd|rd|th)\}\}?$")
_OPERATOR = re.compile(r"\\operatorname\*? ?\{ ?([a-zA-Z]{1,12}) ?\}")
_OPERATORS = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}
_MARKDOWN_BOLD = re.compile(r"(?<![\w)}])\*\*([^*]{1,500})\*\*(?![\w(\\])|__([^_]{1,500})__")
_CIRC = re.compile(r"\^ ?(?:\{ ?\\circ ?\}|\\circ)")
_FRAC_SHORT = re.compile(r"\\frac ?([0-9a-zA-Z])(?=[ 0-9a-zA-Z{\\])")
_FRAC_SECOND = re.compile(r"(\\frac ?\{[^{}]{1,200}\}) ?([0-9a-zA-Z])")
_SQRT_SHORT = re.compile(r"\\sqrt ?([0-9a-zA-Z])")
_POWERS_IN_A_ROW = re.compile(r"\^\{([-\dn])\}\^\{([\dn])\}")
_CHOOSE = re.compile(r"\{ ?([^{}]{1,60}?) ?\\choose ?([^{}]{1,60}?) ?\}")
_SMALL_NAMES = r"(?:p|b|small)?matrix|array"
_MATRIX_IN_BRACKETS = re.compile(
    rf"([\[(|]) ?\\begin\{{({_SMALL_NAMES})\}}(?:\{{[^{{}}]{{0,20}}\}})?((?:(?!\\begin).){{0,3000}}?)\\end\{{\2\}} ?([\])|])",
    re.DOTALL,
)
_CASES_IN_BRACE = re.compile(
    r"\\\{ ?\\begin\{(array|aligned|matrix)\}(?:\{[^{}]{0,20}\})?((?:(?!\\begin).){0,3000}?)\\end\{\1\} ?\.?$",
    re.DOTALL,
)
_ROW_SKIP = re.compile(r"\\\\ ?\[[^\[\]]{0,10}\]")
_BOLD_REALS = re.compile(r"(?:^|(?<=\\in)) ?\\(?:mathbf|bf|boldsymbol) ?(?:\{ ?R ?\}|R)(?=$)")
_BARE_CONNECTOR = re.compile(
    r"(?:(?<=[\d})\],;!%])|(?<=[ \d(=][a-zA-Z]))(?:,? )(and|or) (?=[\d\\(\[{+\-.|]|[a-zA-Z](?![a-zA-Z]))"
)
_PER = re.compile(r"\\text ?\{([^{}]{1,30})\} ?/ ?\\text ?\{([^{}]{1,30})\}")
_PERCENT = re.compile(r"(?<=[\d}]) ?(?:\\text ?\{ ?(?:percent|per cent) ?\}|percent|per cent)$")
_NOUN = r"(?!not\b|or\b|than\b|more\b|less\b|at least\b|at most\b|between\b)[A-Za-z]{1,20}"
_ANNOUNCED = re.compile(
    r"\\text ?\{ ?(?:"
    rf"(?:{_NOUN},? ){{1,5}}(?:is|are|equals|equal to) ?:?|(?:{_NOUN} ){{0,4}}{_NOUN} ?[:=]"
    r"|(?:about|approximately|roughly|exactly|[Tt]otal|[Yy]es,)"
    r") ?\}(?=.)"
    r"|(?:[Ss]o |[Tt]hus |[Hh]ence |[Tt]herefore )?,? ?(?:[Tt]he |[Mm]y )?(?:[Ff]inal )?[Aa]nswer(?: is ?:?| ?:) ?(?=.)"
)
r"""What only says that an answer follows: `\text{The answer is } 4`, `\text{Area: } 4`."""
_TEXT_STYLES = ("\\mathrm", "\\textbf", "\\textit", "\\texttt", "\\textsf", "\\textsl", "\\emph")
_HAS_WORD = re.compile(r"(?<!\\)\b[a-zA-Z]{2}")
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
    text = _without_what_shows_nothing(_POWERS_IN_A_ROW.sub(r"^{\1\2}", text))
    text = text.replace("\\$", "$").replace("\\%", "%").replace("\\#", "#").replace("\\&", "&")
    text = text if "\\begin" in text else _EQUATION_BESIDE.sub(r"\1, ", text)
    text = one_amount(_NUMBERS_APART.sub(", ", text))
    text = _MATH_DELIMITER.sub("", text.replace("$", ""))
    if text.startswith("**") and text.endswith("**"):
        text = text[2:-2]
    text = _MARKDOWN_BOLD.sub(lambda match: match.group(1) or match.group(2), text)
    text = _SPACING.sub(" ", without_separators(text))
    text = _BARE_CONNECTOR.sub(r" \\text{ \1 } ", as_latex(text))
    text = _OPERATOR.sub(lambda match: "\\" + _OPERATORS.get(match.group(1), match.group(1)) + " ", text)
    text = _unstyle(_BOLD_REALS.sub(r"\\mathbb{R}", text.strip()))
    text = _COMMAND.sub(_spell_command, text)
    text = _ANGLES.sub(r"(\1)", text)
    text = _CIRC.sub("^\\\\circ ", text)
    text = _CHOOSE.sub(r"\\binom{\1}{\2}", _SPACES.sub(" ", text))
    if "\\begin" in text:
        text = _ROW_SKIP.sub(r"\\\\", text)
        text = _CASES_IN_BRACE.sub(r"\\begin{cases}\2\\end{cases}", _MATRIX_IN_BRACKETS.sub(_spell_matrix, text))
    text = _FRAC_SHORT.sub(r"\\frac{\1}", text)
    text = _FRAC_SECOND.sub(r"\1{\2}", text)
    text = _SQRT_SHORT.sub(r"\\sqrt{\1}", text)
    text = _TIGHT.sub(r"\1", text)
    text = _PERCENT.sub("%", _PER.sub(r"\\text{\1/\2}", text))
    text = _ORDINAL.sub("", text).strip().rstrip(_ENDING)
    while text.endswith("\\\\"):
        text = text[:-2].rstrip(_ENDING)
    if announced := _ANNOUNCED.match(text):
        text = text[announced.end() :].lstrip("=: ")
    if leading := _LEADING.match(text):
        text = text[leading.end() :]
    return _without_outer_braces(text.strip())


def _without_what_shows_nothing(text: str) -> str:
    """Without sizes, colours, tags and check marks; about and negative as signs."""
    if "\\" in text or "`" in text:
        text = _SHOWS_NOTHING.sub(" ", _COLOURED.sub("{", text))
    return _NEGATIVE.sub("-", _ABOUT.sub(r"\\approx ", text)).strip()


def _without_outer_braces(text: str) -> str:
    """Braces around a whole answer group and show nothing; those with a comma inside are a careless set's."""
    if not text.startswith("{") or text.endswith("\\}") or {",", "|"} & set(text):
        return text
    inner = text.lstrip("{").rstrip("}")
    opened, closed = len(text) - len(text.lstrip("{")), len(text) - len(text.rstrip("}"))
    depths = accumulate(((character == "{") - (character == "}") for character in inner), initial=opened)
    outer = min(opened, closed, *depths) if inner else 0
    return text[outer : len(text) - outer].strip()


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
            is_text = match.group().startswith(_TEXT_STYLES) and _HAS_WORD.search(inner)
            is_unit = match.group().startswith("\\mathrm") and inner.strip() not in _UPRIGHT_SYMBOLS
            if (is_text or is_unit) and not inner.isdigit():
                return f"{before}\\text{{{inner}}}{after}"
            needs_braces = before.rstrip().endswith(("^", "_", "}", "\\frac", "\\sqrt"))
            return f"{before}{{{inner}}}{after}" if needs_braces else f"{before} {inner} {after}".strip()
    return text[: match.start()] + text[match.end() :]


def _spell_matrix(match: re.Match[str]) -> str:
    kind = "vmatrix" if match.group(1) == "|" else "pmatrix"
    return f"\\begin{{{kind}}}{match.group(3)}\\end{{{kind}}}"


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
