r"""Amounts in one form: `1.5 \text{ million}` as 1500000, `\$5` and `£5` with their money as a unit behind them."""

from __future__ import annotations

import re

_MULTIPLE = re.compile(
    r"(?<![\w.}])(\d[\d,]{0,20}(?:\.\d{1,12})?) ?(?:\\text ?\{ ?)?(hundred|thousand|million|billion|trillion)s?(?![a-z])(\b[^{}]{0,40})(\})?"
)
_MULTIPLES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_CURRENCY = re.compile(
    r"(?:\\text ?\{ ?)?(?:([€£¥₹])|\\(pounds|euro|yen)(?![a-z])|(USD|EUR|GBP|Rs\.?|US(?=\$)))[ }]{0,2}(?=\$?-?\d)"
)
_CURRENCIES = {"€": "euros", "£": "pounds sterling", "¥": "yen", "₹": "rupees", "pounds": "pounds sterling",
               "euro": "euros", "yen": "yen", "USD": "dollars", "US": "", "EUR": "euros", "GBP": "pounds sterling",
               "Rs": "rupees", "Rs.": "rupees"}  # fmt: skip
_PRICE = re.compile(r"(-?)\$ ?(\d[\d.,]{0,30}|\\[dt]?frac\{\d{1,9}\}\{\d{1,9}\})[. ]?")
_NUMBER_AS_WORDS = re.compile(
    r"\\(?:text\w{0,6}|mathrm|mathbf|mbox) ?\{ ?"
    r"(-?\$? ?(?:\d[\d.,]{0,30}|\\[dt]?frac\{\d{1,9}\}\{\d{1,9}\})|-?\d[\d.,]{0,30} ?%) ?\}\.?"
)


def one_amount(text: str) -> str:
    """The answer with its multiples multiplied, and with money as a unit behind the number.

    Works on one answer whose `\\$` and `\\%` are plain signs.
    """
    text = _in_currency(_MULTIPLE.sub(_multiplied, text))
    if wrapped := _NUMBER_AS_WORDS.fullmatch(text):
        text = wrapped.group(1)
    if price := _PRICE.fullmatch(text):
        text = f"{price.group(1)}{price.group(2)}\\text{{dollars}}"
    return text


def _multiplied(match: re.Match[str]) -> str:
    """`1.5 \\text{ million dollars}` as `1500000\\text{ dollars}`; what stays no whole number stays as it is."""
    number, multiple, unit, brace = match.groups()
    whole, _, digits = number.replace(",", "").partition(".")
    zeros = _MULTIPLES[multiple] - len(digits.rstrip("0"))
    if zeros < 0:
        return match.group()
    value = (whole + digits.rstrip("0")).lstrip("0") + "0" * zeros
    opened = "\\text{" in match.group() or "\\text {" in match.group()
    if opened != bool(brace):
        return match.group()
    return f"{value}\\text{{{unit}}}" if opened and unit.strip() else f"{value}{unit}"


def _in_currency(text: str) -> str:
    """A sign of money before a number as its unit behind it."""
    found = _CURRENCY.match(text)
    if found is None:
        return text
    name = _CURRENCIES[next(group for group in found.groups() if group)]
    rest = text[found.end() :].lstrip("$").rstrip(" .}")
    return f"{rest}\\text{{{name}}}" if name else "$" + rest
