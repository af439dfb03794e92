r"""Values with a name before them, and values restated by a chain of equalities."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from rewritings.made import Made, both_ways
from rewritings.reading import Gold, another, fraction, letters

_NAMES = (
    "x", "N", "k", "m+n", "a+b+c", "p+q", "AB", "BC", "XY", "f(3)", "f(2)", "g(10)", "P(A)", "|AB|", "\\overline{AB}",
    "S_{ABCD}", "[ABC]", "a_{10}", "S_{20}", "x_1", "\\lambda", "\\text{Area}", "\\text{Total}", "\\mathrm{Area}",
    "m + n + p", "abc", "xy", "V", "E(X)", "\\triangle ABC", "\\cos A",
)  # fmt: skip
_ANGLES = ("\\angle A", "\\angle ABC", "\\theta", "m\\angle ABC", "\\angle BAC")
_CONTRADICTING = (
    ("f(3)", "f(2)"), ("AB", "CD"), ("x", "y"), ("a_{10}", "a_{11}"), ("P(A)", "P(B)"), ("m+n", "m-n"),
    ("|AB|", "|BC|"), ("S_{20}", "S_{10}"), ("\\alpha", "\\beta"), ("g(10)", "f(10)"),
)  # fmt: skip
_UNREAD = ("=", "<", ">", "\\text", "\\mbox", "\\begin", "\\in", "\\pm", "\\le", "\\ge", "\\%", "%", "\\$")


def named(gold: Gold, generator: random.Random) -> Iterator[Made]:
    """`AB = 5`: of every gold that is one number or one expression, and points and lists with names in their order."""
    if any(sign in gold.text for sign in _UNREAD):
        return
    if gold.parts:
        yield from _named_parts(gold, generator)
        return
    if "," in gold.text and gold.value is None:
        return
    if "\\circ" in gold.text:
        for name in generator.sample(_ANGLES, 2):
            yield both_ways(generator, "angle", gold.text, f"{name} = {gold.text}", True)
        return
    if gold.value is None:
        yield from _named_expression(gold, generator)
        return
    wrong = fraction(another(gold.value, generator))
    for name in generator.sample(_NAMES, 2):
        yield both_ways(generator, "named value", gold.text, f"{name} = {gold.text}", True)
    name = generator.choice(_NAMES)
    yield both_ways(generator, "named value", gold.text, f"{name} = {wrong}", False)
    one, other = generator.choice(_CONTRADICTING)
    yield both_ways(generator, "other name", f"{one} = {gold.text}", f"{other} = {gold.text}", False)
    yield both_ways(generator, "same name", f"{one}={gold.text}", f"{one} = {gold.text}", True)
    yield both_ways(generator, "same name", f"{one}={gold.text}", f"{one} = {wrong}", False)
    if abs(gold.value) > 1:
        yield both_ways(generator, "power of a letter", gold.text, f"x^2 = {gold.text}", False)
    if gold.value.denominator == 1:
        yield from _chains(int(gold.value), generator)
    elif gold.value > 0:
        above, below = gold.value.numerator, gold.value.denominator
        yield both_ways(generator, "ratio", f"{above}:{below}", f"S_{{ABC}}:S_{{ABCD}}={above}:{below}", True)
        yield both_ways(generator, "ratio", f"{above}:{below}", f"S_{{ABC}}:S_{{ABCD}}={below}:{above}", False)
        yield Made("reduced", gold.text, f"\\frac{{{3 * above}}}{{{3 * below}}} = \\frac{{{above}}}{{{below}}}", True)
        wrong_chain = f"\\frac{{{3 * above}}}{{{2 * below}}} = \\frac{{{above}}}{{{below}}}"
        yield Made("untrue chain", gold.text, wrong_chain, False)


def _named_expression(gold: Gold, generator: random.Random) -> Iterator[Made]:
    """A name whose letters the expression does not have; not of numerals in a base nor of long decimals."""
    if re.fullmatch(r"[\d.,_{}e+-]+", gold.text):
        return
    used = letters(gold.text)
    candidates = [name for name in ("S", "T", "M", "y", "A") if name not in used and used <= set("abckmnprstx")]
    if used == {"n"}:
        candidates += ["a_n", "S_n", "f(n)"]
    if used == {"x"}:
        candidates += ["f(x)", "P(x)"]
    for name in generator.sample(candidates, min(2, len(candidates))):
        yield both_ways(generator, "named expression", gold.text, f"{name} = {gold.text}", True)
        yield both_ways(generator, "named expression", gold.text, f"{name} = {gold.text} + 1", False)


def _chains(value: int, generator: random.Random) -> Iterator[Made]:
    """Sums, products, roots and powers that come to the value, or do not."""
    if not 0 <= value < 10**6:
        return
    part = generator.randint(1, value + 3)
    rest, text = value - part, str(value)
    total = f"{part}+{rest}" if rest >= 0 else f"{part}-{-rest}"
    off = generator.choice((1, 2, 10))
    true = [f"{total} = {text}", f"N = {total} = {text}", f"{2 * value} - {value} = {text}"]
    true += [f"\\frac{{{3 * value}}}{{3}} = {text}", f"2 \\cdot {value} - {value} = {text}", f"{total}={text}={text}"]
    if value <= 1000:
        true.append(f"\\sqrt{{{value * value}}} = {text}")
    if value < 300:
        true += [f"\\log_2 2^{{{value}}} = {text}", f"{value}^2 - {value}^2 + {value} = {text}"]
    for chain in generator.sample(true, 3):
        yield Made("chain", text, chain, True)
    untrue = [f"{part + off}+{rest} = {text}" if rest >= 0 else f"{part + off}-{-rest} = {text}"]
    untrue += [f"2 \\cdot {value} = {text}"] if value else []
    untrue += [f"\\sqrt{{{value * value + 1}}} = {text}"]
    yield Made("untrue chain", text, generator.choice(untrue), False)
    yield Made("chain to another value", text, f"{value} + {off} = {value + off}", False)
    if 2 < value < 200:
        half = value * (value + 1) // 2
        yield both_ways(generator, "sum", str(half), f"\\sum_{{k=1}}^{{{value}}} k", True)
        yield both_ways(generator, "sum", str(half), f"\\sum_{{k=1}}^{{{value}}} k = {half}", True)
        yield both_ways(generator, "sum", str(half + value), f"\\sum_{{k=1}}^{{{value}}} k", False)


def _named_parts(gold: Gold, generator: random.Random) -> Iterator[Made]:
    """`(x, y) = (1, 2)` of a point; `p = 1, q = 2` of a point, and of a list whose parts differ."""
    parts = gold.parts
    if len(parts) > 4 or "infty" in gold.text or any("(" in part for part in parts):
        return
    if gold.is_bracketed and not (gold.text.lstrip("\\left").startswith("(") and gold.text.endswith(")")):
        return
    names_ = generator.choice(("xyzw", "abcd", "pqrs"))[: len(parts)]
    if letters(gold.text) & set(names_):
        return
    listed = ", ".join(f"{name} = {part}" for name, part in zip(names_, parts, strict=True))
    turned = ", ".join(f"{name} = {part}" for name, part in zip(names_, [*parts[1:], parts[0]], strict=True))
    same = len(set(parts)) == 1
    if gold.is_bracketed:
        yield both_ways(generator, "named point", gold.text, f"({','.join(names_)}) = ({', '.join(parts)})", True)
        yield both_ways(generator, "named parts", gold.text, listed, True)
        yield both_ways(generator, "named parts", gold.text, turned, same)
    elif not same:
        yield both_ways(generator, "named list", ", ".join(parts), listed, True)
