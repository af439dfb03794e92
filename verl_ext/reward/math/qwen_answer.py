r"""How the published harness (QwenLM/Qwen2.5-Math, evaluation/parser.py, MIT; the DFT and NFT papers use copies of it)
finds an answer in a response, and how it spells it before it compares.

Written anew from its behaviour, oddities included, because numbers beside the papers' must be counted the same way:
a box that is never closed counts up to the end of the text; without a box the last number counts; a trailing unit, a
percent sign, a name before an equals sign are dropped; `\text{east}` is the unit east and becomes nothing. For grading of
one's own, the default grader is the better one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

KEEPS_UNITS = frozenset({"minerva_math", "minerva", "math-ai/minervamath"})
"""Data sources whose units stay."""
SPELT_ONCE = frozenset({"math", "math500", "math_oai"})
"""Data sources whose gold is spelt anew from the solution; the others' is spelt a second time."""
CHOICES = frozenset("ABCDE")

# In the harness's order, which matters: a word is deleted where it stands alone, and the next one sees the rest. A full
# stop in them is any character, as there.
_UNIT_WORDS = (
    "east|degree|mph|kmph|ft|m sqaure| m east|sq m|deg|mile|q .|monkey|prime|ratio|profit of rs|rd|o|gm|p . m|lb|tile|per"
    "|dm|lt|gain|ab|way|west|a .|b .|c .|d .|e .|f .|g .|h .|t|a|h|no change|men|soldier|pie|bc|excess|st|inches|noon"
    "|percent|by|gal|kmh|c|acre|rise|a . m|th|π r 2|sq|mark|l|toy|coin|sq . m|gallon|° f|profit|minw|yr|women|feet|am|pm"
    "|hr|cu cm|square|v â € ™|are|rupee|rounds|cubic|cc|mtr|s|ohm|number|kmph|day|hour|minute|min|second|man|woman|sec"
    "|cube|mt|sq inch|mp|∏ cm ³|hectare|more|sec|unit|cu . m|cm 2|rs .|rs|kg|g|month|km|m|cm|mm|apple|liter|loss|yard"
    "|pure|year|increase|decrease|d|less|Surface|litre|pi sq m|s .|metre|meter|inch"
)
_UNITS = [re.compile(rf"(^|\W){word}{plural}($|\W)") for plural in ("", "s") for word in _UNIT_WORDS.split("|")]

_TRAILING_TEXT = re.compile(r"\\text{.*?}$")
_TEXT = re.compile(r"\\text\{(.*?)\}")
_MBOX = re.compile(r"\\mbox{.*?}")
_ARRAY = re.compile(r"\\begin\{array\}\{.*?\}")
_ZERO_DECIMALS = re.compile(r"(\d+)\.0*([^\d])")
_ZERO_DECIMALS_AT_END = re.compile(r"(\d+)\.0*$")
_BARE_ROOT = re.compile(r"\\sqrt(\w+)")
_NUMBER = re.compile(r"-?\d*\.?\d+")
_LINE_BREAK = re.compile(r"\n\s*")
_LETTER = re.compile(r"\b(A|B|C|D|E)\b")
_LETTER_TRIGGER = re.compile("choice is|answer is")

_BEFORE_UNITS = (
    ("tfrac", "frac"), ("dfrac", "frac"), ("\\neq", "\\ne"), ("\\leq", "\\le"), ("\\geq", "\\ge"),
    ("\\left", ""), ("\\right", ""), ("\\{", "{"), ("\\}", "}"),
)  # fmt: skip
_AFTER_UNITS = (("^{\\circ}", ""), ("^\\circ", ""), ("\\$", ""), ("$", ""), ("\\(", ""), ("\\)", ""))
_AFTER_TEXT = (
    ("x=", ""), ("y=", ""), ("z=", ""), ("x\\in", ""), ("y\\in", ""), ("z\\in", ""), ("x\\to", ""), ("y\\to", ""),
    ("z\\to", ""), ("\\emptyset", "{}"), ("(-\\infty,\\infty)", "\\mathbb{R}"), ("\\%", ""), ("%", ""),
    (" .", " 0."), ("{.", "{0."), ("infinity", "\\infty"),
)  # fmt: skip

_SMALL = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
_WORD_VALUES = {
    **{word: value for value, word in enumerate(_SMALL)},
    **{word: 20 + 10 * position for position, word in enumerate(_TENS)},
    "hundred": 100,
    **_SCALES,
}


def find_answer(response: str) -> str | None:
    """What the harness takes for the answer, as it stands in the response; None for an empty response."""
    response = response.rstrip()
    if not response or response == "error":
        return None
    return _tidy(_find(response.replace("ки", "")))


def spell_answer(answer: str, data_source: str) -> str:
    """The harness's spelling of a found answer; only whether the data source keeps units matters (`KEEPS_UNITS`)."""
    skip_units = data_source in KEEPS_UNITS
    # Twice: once where the harness extracts, once where it collects the answers. The second time finds more.
    return spell(spell(answer, skip_units=skip_units), skip_units=skip_units)


def gold_answer(gold: str | Sequence[str], data_source: str) -> str:
    """The harness's spelling of a gold answer that is already out of its box or its `####` line.

    Of an answer of several parts it compares the first.
    """
    text = gold if isinstance(gold, str) else str(gold[0]).strip("$")
    if data_source in KEEPS_UNITS:
        spelt = spell(_tidy(text), skip_units=True)
        return spelt.replace("\\neq", "\\ne").replace("\\leq", "\\le").replace("\\geq", "\\ge")
    return spell(_tidy(text)) if data_source in SPELT_ONCE else spell(spell(text))


def fit_choices(answer: str, gold: str, response: str) -> str:
    """Reduce the answer to letters where the gold consists of choice letters (or of nothing at all)."""
    if gold in CHOICES and answer not in CHOICES:
        return _letter_of(response)
    if set(gold) <= CHOICES and not set(answer) <= CHOICES:
        return "".join(character for character in answer if character in CHOICES)
    return answer


def _find(text: str) -> str:
    if "final answer is $" in text and "$. I hope" in text:
        return text.split("final answer is $", 1)[1].split("$. I hope", 1)[0].strip()
    if "boxed" in text:
        return _box_content(text.split("boxed")[-1])
    for phrase in ("he answer is", "final answer is"):
        if phrase in text:
            return text.split(phrase)[-1].strip()
    if "答案是" in text:
        return text.split("答案是")[1].strip().split("\n\n")[0].strip()
    numbers = _NUMBER.findall(text.replace(",", ""))
    return numbers[-1] if numbers else ""


def _box_content(after: str) -> str:
    """What follows `boxed`: up to the matching brace, or to the end of the text where there is none."""
    if not after.startswith("{"):
        return after.split("$")[0].strip()
    depth = 1
    for position, character in enumerate(after[1:], start=1):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return after[1:position]
    return after[1:]


def _tidy(answer: str) -> str:
    return _LINE_BREAK.sub("", answer).removeprefix(":").removesuffix(".").removesuffix("/")


@lru_cache(maxsize=65536)
def spell(text: str, *, skip_units: bool = False) -> str:
    """The harness's one spelling for answers (its `strip_string`)."""
    text = text.strip().replace("\n", "").rstrip(".").replace("\\!", "")
    text = _ARRAY.sub(r"\\begin{pmatrix}", text).replace("\\end{array}", "\\end{pmatrix}")
    text = _replace_all(text.replace("bmatrix", "pmatrix"), _BEFORE_UNITS)
    text = _TRAILING_TEXT.sub("", text).strip() or text
    if not skip_units:
        text = _without_units(text)
    text = words_to_number(_replace_all(text, _AFTER_UNITS))
    text = _replace_all(_TEXT.sub(r"\1", text), _AFTER_TEXT)
    if "\\infty" not in text:
        text = text.replace("inf", "\\infty")
    text = _MBOX.sub("", text.replace("and", "").replace("\\mathbf", ""))
    if "j" in text and "i" not in text:
        text = text.replace("j", "i")
    text = _ZERO_DECIMALS_AT_END.sub(r"\1", _ZERO_DECIMALS.sub(r"\1\2", text))
    if not text:
        return text
    text = "0" + text if text.startswith(".") else text
    left, equals, right = text.partition("=")
    if equals and "=" not in right and len(left) <= 2:
        text = right
    return _slash_as_fraction(_complete_fractions(_BARE_ROOT.sub(r"\\sqrt{\1}", text).replace(" ", "")))


def _replace_all(text: str, replacements: tuple[tuple[str, str], ...]) -> str:
    for old, new in replacements:
        text = text.replace(old, new)
    return text


def _without_units(text: str) -> str:
    for _ in range(2):
        for unit in _UNITS:
            text = unit.sub(r"\1\2", text) or text
    return text


def words_to_number(text: str) -> str:
    """A text with English number words in it becomes that number (`twenty one` is 21); any other stays as it is."""
    plain = text.replace("-", " ").lower()
    if plain.isdecimal():
        return str(int(plain))
    words = [word for word in plain.split() if word in _WORD_VALUES or word == "point"]
    if not words or any(words.count(word) > 1 for word in (*_SCALES, "point")):
        return text
    whole, decimals = (
        (words[: words.index("point")], words[words.index("point") + 1 :]) if "point" in words else (words, [])
    )
    order = [word for word in whole if word in _SCALES]
    if order != sorted(order, key=_SCALES.get, reverse=True):
        return text
    value = _whole_number(whole)
    if value is None:
        return text
    if decimals and all(word in _SMALL[:10] for word in decimals):
        return str(value + float("0." + "".join(str(_SMALL.index(word)) for word in decimals)))
    return str(value)


def _whole_number(words: list[str]) -> int | None:
    if len(words) < 2:
        return _WORD_VALUES[words[0]] if words else 0
    total, group = 0, []
    for word in words:
        if word not in _SCALES:
            group.append(_WORD_VALUES[word])
            continue
        if not group:
            return None
        total, group = total + _below_thousand(group) * _SCALES[word], []
    return total + _below_thousand(group) if group else total


def _below_thousand(values: list[int]) -> int:
    if len(values) == 4:
        return values[0] * values[1] + values[2] + values[3]
    if len(values) == 3:
        return values[0] * values[1] + values[2]
    if len(values) == 2:
        return values[0] * values[1] if 100 in values else values[0] + values[1]
    return values[0]


def _complete_fractions(text: str) -> str:
    r"""`\frac12` is `\frac{1}{2}`."""
    first, *rest = text.split("\\frac")
    done = first
    for part in rest:
        if part.startswith("{"):
            done += "\\frac" + part
        elif len(part) < 2:
            return text
        elif part[1] == "{":
            done += f"\\frac{{{part[0]}}}{part[1:]}"
        else:
            done += f"\\frac{{{part[0]}}}{{{part[1]}}}{part[2:]}"
    return done


def _slash_as_fraction(text: str) -> str:
    above, slash, below = text.partition("/")
    if not slash or "/" in below:
        return text
    for side in (above, below):
        if "sqrt" not in side and not re.fullmatch(r"-?(0|[1-9]\d*)", side):
            return text
    return text if "-0" in (above, below) else f"\\frac{{{above}}}{{{below}}}"


def _letter_of(response: str) -> str:
    """The choice letter of a response whose extracted answer is none."""
    text = response.strip("\n")
    if any(text.count(trigger) > 1 for trigger in ("choice is", "answer is")):
        text = text.split("\n\n")[0]
    parts = _LETTER_TRIGGER.split(text)
    text = parts[-1].strip("\n").rstrip(".").rstrip("/").strip(" ").lstrip(":")
    letters = _LETTER.findall(text.upper()) or [text.strip().strip(".")]
    return (letters[0] if len(parts) > 1 else letters[-1]).rstrip(".").rstrip("/")
