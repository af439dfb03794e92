r"""Other notation for the same expression: plain text, typesetting, another order of the terms."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from fractions import Fraction

from rewritings.made import Made, both_ways
from rewritings.plain import plain
from rewritings.reading import Gold, another, decimal

_DIGIT = re.compile(r"(?<![\d.\\_])(?<!_\{)[2-9](?![\d.])")


def plain_text(gold: Gold, generator: random.Random) -> Iterator[Made]:
    """What a calculator would print: of every gold expression that the small grammar of `plain` reads.

    Number golds stand beside pi, roots, logarithms and letters.
    """
    if gold.value is None:
        spelt = plain(gold.text)
        if spelt is None or re.search(r"\de[-+\d]", gold.text):
            return
        for text in dict.fromkeys((spelt, spelt.replace("^", "**"), _without_products(spelt))):
            yield both_ways(generator, "expression", gold.text, text, True)
        if (changed := _other_digit(spelt, generator)) is not None:
            yield both_ways(generator, "expression", gold.text, changed, False)
        return
    if gold.value.denominator == 1 and 1 < gold.value < 10**6:
        forms = _plain_forms(int(gold.value))
        wrong = _plain_forms(int(gold.value) + generator.choice((1, 2, 10)))
        for rule in generator.sample(sorted(forms), 3):
            yield both_ways(generator, rule, *forms[rule], True)
            yield both_ways(generator, rule, forms[rule][0], wrong[rule][1], False)
    elif gold.value.denominator > 1:
        above, below = gold.value.numerator, gold.value.denominator
        yield both_ways(generator, "quotient", gold.text, f"{above}/{below}", True)
        yield both_ways(generator, "quotient", gold.text, f"({above})/({below})", True)
        yield both_ways(generator, "quotient", gold.text, f"{above + below}/{below}", False)
        yield both_ways(generator, "pi", f"\\frac{{{above}\\pi}}{{{below}}}", f"{above}*pi/{below}", True)
        yield both_ways(generator, "pi", f"\\frac{{{above}\\pi}}{{{below}}}", f"{above}*pi/{below + 1}", False)


def _plain_forms(n: int) -> dict[str, tuple[str, str]]:
    """By rule, LaTeX and plain text."""
    return {
        "pi": (f"{n}\\pi", f"{n}*pi"),
        "pi without a star": (f"{n}\\pi", f"{n}pi"),
        "part of pi": (f"\\frac{{\\pi}}{{{n}}}", f"pi/{n}"),
        "unicode pi": (f"{n}\\pi", f"{n}π"),
        "root": (f"{n}\\sqrt{{3}}", f"{n}*sqrt(3)"),
        "root without a star": (f"{n}\\sqrt{{3}}", f"{n}sqrt(3)"),
        "unicode root": (f"{n}\\sqrt{{3}}", f"{n}√3"),
        "root of it": (f"\\sqrt{{{n}}}+1", f"1+sqrt({n})"),
        "ln": (f"\\ln {n}", f"ln({n})"),
        "exp": (f"e^{{{n}}}", f"exp({n})"),
        "power": (f"x^{{{n}}}", f"x**{n}"),
        "power in brackets": (f"2^{{{n}n}}", f"2^({n}n)"),
        "sine": (f"\\sin {n}x", f"sin({n}x)"),
        "cosine": (f"{n}\\cos x", f"{n}*cos(x)"),
        "greek": (f"{n}\\theta", f"{n}*theta"),
        "at most": (f"x \\le {n}", f"x <= {n}"),
        "at least": (f"x \\ge {n}", f"x >= {n}"),
        "product": (f"{n}xy", f"{n}*x*y"),
        "fraction": (f"\\frac{{x+1}}{{{n}}}", f"(x+1)/{n}"),
        "fraction of a root": (f"\\frac{{\\sqrt{{5}}}}{{{n}}}", f"sqrt(5)/{n}"),
        "line": (f"y = {n}x + 1", f"y = {n}*x + 1"),
        "infinity": (f"({n}, \\infty)", f"({n}, ∞)"),
    }


def _without_products(spelt: str) -> str:
    """Without the stars that are not needed: `2*n*(n+1)` as `2n(n+1)`."""
    return re.sub(r"(?<=\d)\*(?=[a-z(](?![a-z]))", "", spelt)


def _other_digit(text: str, generator: random.Random) -> str | None:
    """With one number from 2 to 9 increased: another value, unless it stands in a root or a factor of zero.

    Raising 2 to 10 within a positive sum changes it; a text with a difference may stay what it was only if the
    changed number is multiplied by zero, which no gold has.
    """
    places = list(_DIGIT.finditer(text))
    if not places:
        return None
    place = generator.choice(places)
    return f"{text[: place.start()]}{int(place.group()) + 1}{text[place.end() :]}"


def typesetting(gold: Gold, generator: random.Random) -> Iterator[Made]:
    """Spaces, sizes, signs and delimiters that mean nothing: of every gold."""
    changes = [change for change in _SPELLINGS if change[1](gold.text) not in ("", gold.text)]
    for rule, spell in generator.sample(changes, min(4, len(changes))):
        yield Made(rule, gold.text, spell(gold.text), True)
    if (changed := _other_digit(gold.text, generator)) is not None and "{d" not in gold.text and changes:
        rule, spell = generator.choice(changes)
        yield Made(rule, gold.text, spell(changed), False)
    value = gold.value
    if value is None:
        return
    if value > 0 and "$" not in gold.text:
        yield Made("leading plus", gold.text, f"+{gold.text}", True)
    if value.denominator > 1:
        yield from _fractions(gold, generator)
    elif abs(value) > 9 and decimal(value):
        yield Made("decimal zeros", gold.text, f"{value}.00", True)
        digits = str(abs(int(value)))
        mantissa = f"{digits[0]}.{digits[1:]}"
        sign = "-" if value < 0 else ""
        yield Made("scientific", gold.text, f"{sign}{mantissa} \\times 10^{{{len(digits) - 1}}}", True)
        yield Made("scientific", gold.text, f"{sign}{mantissa} \\cdot 10^{len(digits) - 1}", True)
        yield Made("scientific", gold.text, f"{sign}{mantissa} \\times 10^{{{len(digits)}}}", False)


def _fractions(gold: Gold, generator: random.Random) -> Iterator[Made]:
    value = gold.value
    above, below = value.numerator, value.denominator
    wrong = another(value, generator)
    yield Made("unreduced", gold.text, f"\\frac{{{2 * above}}}{{{2 * below}}}", True)
    yield Made("unreduced", gold.text, f"\\frac{{{2 * wrong.numerator}}}{{{2 * wrong.denominator}}}", False)
    if value < 0:
        yield Made("sign above", gold.text, f"\\frac{{{above}}}{{{below}}}", True)
        yield Made("sign below", gold.text, f"\\frac{{{-above}}}{{-{below}}}", True)
    elif above > below:
        whole, rest = divmod(above, below)
        yield Made("mixed", gold.text, f"{whole}\\frac{{{rest}}}{{{below}}}", True)
        yield Made("mixed", gold.text, f"{whole} \\frac{{{rest}}}{{{below}}}", True)
        yield Made("mixed", gold.text, f"{whole + 1}\\frac{{{rest}}}{{{below}}}", False)
        yield Made("mixed in plain text", gold.text, f"{whole} {rest}/{below}", True)
    if 0 < value < 1 and decimal(value) and len(decimal(value)) < 9:
        yield Made("percent", gold.text, f"{decimal(100 * value)}\\%", True)
    if gold.value in _UNICODE:
        yield Made("unicode fraction", gold.text, _UNICODE[gold.value], True)
    yield Made("plain quotient", gold.text, f"{above}/{below}", True)
    yield Made("over", gold.text, f"{{{above} \\over {below}}}", True)


_UNICODE = {Fraction(1, 2): "½", Fraction(1, 4): "¼", Fraction(3, 4): "¾", Fraction(1, 3): "⅓", Fraction(2, 3): "⅔"}

_SPELLINGS = [
    ("dfrac", lambda text: text.replace("\\frac", "\\dfrac")),
    ("tfrac", lambda text: text.replace("\\frac", "\\tfrac")),
    ("displaystyle", lambda text: f"\\displaystyle {text}"),
    ("dollars inside", lambda text: f"${text}$"),
    ("full stop", lambda text: f"{text}."),
    ("blanks", lambda text: f" {text} "),
    ("left and right", lambda text: text if "\\left" in text or "]" in text else _sized(text)),
    ("no left and right", lambda text: text.replace("\\left", "").replace("\\right", "")),
    ("thin spaces", lambda text: re.sub(r"(?<=[a-z\d}])(?<!\de)([-+])(?=[\d\\a-z])", r"\\,\1\\,", text)),
    ("spaces at operators", lambda text: re.sub(r"(?<=[a-z\d}])(?<!\de)([-+=])(?=[\d\\a-z])", r" \1 ", text)),
    ("list spacing", lambda text: re.sub(r"(?<=[\d})]),(?=[^\d!\\}])|, (?=[^\d])", ",\\\\ ", text)),
    ("text", lambda text: f"\\text{{{text}}}" if "\\" not in text and "^" not in text and "_" not in text else text),
    ("mathrm", lambda text: f"\\mathrm{{{text}}}" if text.isdigit() else text),
    ("mathbf", lambda text: f"\\mathbf{{{text}}}" if "\\begin" not in text else text),
    ("braces", lambda text: f"{{{text}}}"),
    ("degree sign", lambda text: text.replace("^\\circ", "°").replace("^{\\circ}", "°")),
    ("degree", lambda text: text.replace("^{\\circ}", "\\degree").replace("^\\circ", "\\degree")),
    ("braced circ", lambda text: text.replace("^\\circ", "^{\\circ}")),
    ("mbox", lambda text: text.replace("\\mbox{", "\\text{")),
    ("unicode minus", lambda text: text.replace("-", "−")),
    ("braced exponents", lambda text: re.sub(r"\^(\d)", r"^{\1}", text)),
    ("cdot", lambda text: re.sub(r"(?<=\d) ?(?=\\sqrt|\\pi)", r" \\cdot ", text)),
    ("times", lambda text: re.sub(r"(?<=\d) ?(?=\\sqrt)", r" \\times ", text)),
    ("brackets", lambda text: f"\\({text}\\)"),
]


def _sized(text: str) -> str:
    return text.replace("(", "\\left(").replace(")", "\\right)") if text.count("(") == text.count(")") else text


def rearranged(gold: Gold, generator: random.Random) -> Iterator[Made]:
    """Other order and other form: sums of gold expressions, lists, and expressions made from gold numbers."""
    if gold.parts and not gold.is_bracketed and len(set(gold.parts)) == len(gold.parts):
        yield Made("list", gold.text, ", ".join(reversed(gold.parts)), True)
        yield Made("list without its last", gold.text, ", ".join(gold.parts[:-1]), False)
        yield Made("list with and", gold.text, ", ".join(gold.parts[:-1]) + f" \\text{{ and }} {gold.parts[-1]}", True)
    terms = [] if re.search(r"[Cc]|\de", gold.text.replace("\\frac", "").replace("\\cos", "")) else _terms(gold.text)
    if gold.value is None and len(terms) > 1:
        turned = "".join(term if term[0] in "+-" else f"+{term}" for term in reversed(terms)).removeprefix("+")
        yield both_ways(generator, "terms", gold.text, turned, True)
        yield both_ways(generator, "other sign", gold.text, _negated_last(terms), False)
    if gold.value is None or gold.value.denominator != 1 or not 1 < gold.value < 1000:
        return
    n = int(gold.value)
    a = generator.randint(2, 9)
    for rule, one, other, wrong in generator.sample(_forms(n, a), 4):
        yield both_ways(generator, rule, one, other, True)
        yield both_ways(generator, rule, one, wrong, False)


def _forms(n: int, a: int) -> list[tuple[str, str, str, str]]:
    """(rule, one form, an equal one, an unequal one)"""
    return [
        ("factored", f"(x+{n})(x+{a})", f"x^2+{n + a}x+{n * a}", f"x^2+{n + a}x+{n * a + 1}"),
        ("square", f"(x+{n})^2", f"x^2+{2 * n}x+{n * n}", f"x^2+{n}x+{n * n}"),
        ("polynomial", f"{n}x^2+{a}x-1", f"-1+{a}x+{n}x^2", f"1+{a}x+{n}x^2"),
        ("root", f"{a}\\sqrt{{{n}}}", f"\\sqrt{{{a * a * n}}}", f"\\sqrt{{{a * n}}}"),
        ("rationalised", f"\\frac{{{n}}}{{\\sqrt{{{a}}}}}", f"\\frac{{{n}\\sqrt{{{a}}}}}{{{a}}}",
         f"\\frac{{{n}\\sqrt{{{a}}}}}{{{a + 1}}}"),
        ("line", f"y = {n}x + {a}", f"{n}x - y + {a} = 0", f"{n}x + y + {a} = 0"),
        ("common denominator", f"\\frac{{x}}{{{n}}} + 1", f"\\frac{{x + {n}}}{{{n}}}", f"\\frac{{x + 1}}{{{n}}}"),
        ("power", f"{a}^{{{n}}} \\cdot {a}", f"{a}^{{{n + 1}}}", f"{a}^{{{n}}}"),
        ("complex", f"{n} + {a}i", f"{a}i + {n}", f"{n} - {a}i"),
        ("logarithm", f"\\ln {n} + \\ln {a}", f"\\ln {n * a}", f"\\ln {n * a + 1}"),
        ("difference", f"{n} - \\sqrt{{{a}}}", f"-\\sqrt{{{a}}} + {n}", f"\\sqrt{{{a}}} + {n}"),
        ("pi", f"{n} + {a}\\pi", f"{a}\\pi + {n}", f"{a} + {n}\\pi" if a != n else f"{n} - {a}\\pi"),
        ("circle", f"(x-{n})^2 + y^2 = {a}", f"y^2 + (x-{n})^2 = {a}", f"(x+{n})^2 + y^2 = {a}"),
        ("plus-minus", f"{n} \\pm \\sqrt{{{a}}}", f"{n} - \\sqrt{{{a}}}, {n} + \\sqrt{{{a}}}", f"{n} + \\sqrt{{{a}}}"),
        ("point in words", f"({n}, {a})", f"\\left({n},\\, {a}\\right)", f"({n}, {a + 1})"),
        ("unit converted", f"{n} \\text{{ m}}", f"{100 * n} \\text{{ cm}}", f"{10 * n} \\text{{ cm}}"),
    ]  # fmt: skip


def _terms(text: str) -> list[str]:
    """The terms of a sum outside all brackets, signs included; nothing of what is no plain sum."""
    if re.search(r"[=<>,]|\\text|\\begin|\\pm|\\in\b|\\cup|\\le|\\mid|\\\{|\$", text):
        return []
    terms, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and character in "+-" and position > start and text[position - 1] not in "^*/(":
            terms.append(text[start:position].strip())
            start = position
    return [*terms, text[start:].strip()] if depth == 0 else []


def _negated_last(terms: list[str]) -> str:
    last = terms[-1]
    return " ".join([*terms[:-1], ("-" if last[0] == "+" else "+") + last[1:]])
