r"""Matrices in other notations, sets, intervals, inequalities, qualifiers and words."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from fractions import Fraction

from rewritings.made import Made, both_ways
from rewritings.reading import Gold, another, decimal, fraction, read_value

Matrix = list[list[Fraction]]
_MATRIX = re.compile(r"\\begin\{pmatrix\}(.*)\\end\{pmatrix\}")


def matrices(gold: Gold, generator: random.Random) -> Iterator[Made]:
    """Gold matrices of numbers, and those made from the parts of gold points or from one gold number."""
    matrix = _matrix_of(gold, generator)
    if matrix is None:
        return
    one, two = generator.sample(_NOTATIONS, 2)
    plain = generator.choice(_ENTRIES)
    yield both_ways(generator, "notation", one(matrix, fraction), two(matrix, plain), True)
    changed = [row[:] for row in matrix]
    row = generator.randrange(len(matrix))
    column = generator.randrange(len(matrix[0]))
    changed[row][column] = another(changed[row][column], generator)
    yield both_ways(generator, "entry", one(matrix, fraction), two(changed, plain), False)
    turned = [list(row) for row in zip(*matrix, strict=True)]
    yield both_ways(generator, "transposed", one(matrix, fraction), one(turned, fraction), turned == matrix)
    addend = [[Fraction(generator.randint(-9, 9)) for _ in row] for row in matrix]
    rest = [[a - b for a, b in zip(*rows, strict=True)] for rows in zip(matrix, addend, strict=True)]
    shown = f"{one(rest, fraction)} + {one(addend, fraction)}"
    yield Made("sum", one(matrix, fraction), shown, True)
    yield Made("sum", one(changed, fraction), shown, False)
    factor = generator.choice((2, 3, -1))
    scaled = [[entry / factor for entry in row] for row in matrix]
    yield both_ways(generator, "factor", one(matrix, fraction), f"{factor}{two(scaled, fraction)}", True)
    yield both_ways(generator, "factor", one(changed, fraction), f"{factor}{two(scaled, fraction)}", False)
    if len(matrix) == 2 and len(matrix[0]) == 2:
        yield from _square(matrix, generator)


def _matrix_of(gold: Gold, generator: random.Random) -> Matrix | None:
    if found := _MATRIX.fullmatch(gold.text):
        rows = [[read_value(cell.strip()) for cell in row.split("&")] for row in found.group(1).split("\\\\")]
        return rows if all(None not in row for row in rows) else None
    if gold.parts and gold.is_bracketed:
        values = [read_value(part) for part in gold.parts]
        return None if None in values or len(values) > 4 else [[value] for value in values]
    if gold.value is None or abs(gold.value) > 10**4:
        return None
    rows, columns = generator.choice(((2, 2), (2, 2), (3, 1), (2, 3), (3, 3)))
    made = [[Fraction(generator.randint(-9, 9)) for _ in range(columns)] for _ in range(rows)]
    made[generator.randrange(rows)][generator.randrange(columns)] = gold.value
    return made


def _square(matrix: Matrix, generator: random.Random) -> Iterator[Made]:
    """Determinants and products of matrices of two rows and two columns."""
    (a, b), (c, d) = matrix
    value = a * d - b * c
    bars = _environment("vmatrix")(matrix, fraction)
    yield both_ways(generator, "determinant", fraction(value), bars, True)
    yield both_ways(generator, "determinant", fraction(value + 1), bars, False)
    yield both_ways(generator, "determinant is no matrix", _environment("pmatrix")(matrix, fraction), bars, False)
    e, f, g, h = (Fraction(generator.randint(-5, 5)) for _ in range(4))
    product = [[a * e + b * g, a * f + b * h], [c * e + d * g, c * f + d * h]]
    factors = "".join(_environment("pmatrix")(factor, fraction) for factor in (matrix, [[e, f], [g, h]]))
    yield Made("product", _environment("pmatrix")(product, fraction), factors, True)
    product[0][1] += 1
    yield Made("product", _environment("pmatrix")(product, fraction), factors, False)


def _slash(value: Fraction) -> str:
    return str(value)


def _decimal_or_fraction(value: Fraction) -> str:
    return decimal(value) or fraction(value, "\\tfrac")


def _display(value: Fraction) -> str:
    return fraction(value, "\\dfrac")


_ENTRIES = (fraction, _slash, _decimal_or_fraction, _display)


def _rows(matrix: Matrix, show, between: str = " \\\\ ") -> str:
    return between.join(" & ".join(show(entry) for entry in row) for row in matrix)


def _environment(name: str):
    return lambda matrix, show: f"\\begin{{{name}}} {_rows(matrix, show)} \\end{{{name}}}"


def _array(left: str, right: str):
    def notation(matrix: Matrix, show) -> str:
        columns = "c" * len(matrix[0])
        return (
            f"\\left{left}\\begin{{array}}{{{columns}}}{_rows(matrix, show, chr(92) * 2)}\\end{{array}}\\right{right}"
        )

    return notation


_NOTATIONS = (
    _environment("pmatrix"),
    _environment("bmatrix"),
    _array("[", "]"),
    _array("(", ")"),
    lambda matrix, show: f"\\left[\\begin{{matrix}}{_rows(matrix, show)}\\end{{matrix}}\\right]",
    lambda matrix, show: f"\\begin{{bmatrix}}\n{_rows(matrix, show, ' ' + chr(92) * 2 + chr(10))}\n\\end{{bmatrix}}",
    lambda matrix, show: f"\\begin{{pmatrix}}{_rows(matrix, show, chr(92) * 2 + '[4pt]')}\\end{{pmatrix}}",
)


def sets(gold: Gold, generator: random.Random) -> Iterator[Made]:
    """Intervals, inequalities and sets with the gold number at their ends; words; units and remarks behind it."""
    if found := re.fullmatch(r"\\text\{([a-zA-Z]{4,})\}", gold.text):
        yield from _words(found.group(1), generator)
    if gold.value is None:
        return
    low, text = gold.value, fraction(gold.value)
    high = low + generator.randint(1, 9)
    wrong = another(low, generator)
    for rule, one, other in generator.sample(list(_one_end(low)), 3):
        yield both_ways(generator, rule, one, other, True)
    of_wrong = {rule: other for rule, _, other in _one_end(wrong)}
    for rule, one, _ in generator.sample(list(_one_end(low)), 2):
        yield both_ways(generator, rule, one, of_wrong[rule], False)
        yield both_ways(generator, "turned round", f"x < {text}", generator.choice(_turned(text)), False)
    spellings = _two_ends(fraction(low), fraction(high))
    one, other = generator.sample(spellings, 2)
    yield both_ways(generator, "interval", one, other, True)
    changed = _two_ends(fraction(low), fraction(high + 1))
    yield both_ways(generator, "interval", one, generator.choice(changed), False)
    closed = f"x \\in [{fraction(low)}, {fraction(high)}]"
    yield both_ways(generator, "ends", one, closed, False)
    yield both_ways(
        generator, "any order", f"\\{{{text}, {fraction(high)}\\}}", f"\\{{{fraction(high)}, {text}\\}}", True
    )
    yield both_ways(generator, "other set", f"\\{{{text}, {fraction(high)}\\}}", f"\\{{{text}\\}}", False)
    constant = generator.choice(_CONSTANTS)
    yield both_ways(generator, "constant set", *constant[:2], constant[2])
    remark = generator.choice(_REMARKS)
    yield both_ways(generator, "remark", text, remark.format(text), True)
    yield both_ways(generator, "remark", fraction(wrong), remark.format(text), False)
    if gold.value.denominator == 1 and gold.value != 0:
        multiple = f"\\frac{{k\\pi}}{{{abs(int(gold.value)) + 1}}}"
        letter = f"x = {multiple}, k \\in \\mathbb{{Z}}"
        yield both_ways(generator, "for all integers", multiple, letter, True)
        yield both_ways(generator, "for all integers", f"{multiple} + 1", letter, False)


def _one_end(value: Fraction) -> Iterator[tuple[str, str, str]]:
    """(rule, one notation, another)"""
    text, negative = fraction(value), fraction(-value)
    yield "unequal", f"x \\ne {text}", f"(-\\infty, {text}) \\cup ({text}, \\infty)"
    yield "unequal in words", f"x \\neq {text}", f"x < {text} \\text{{ or }} x > {text}"
    yield "greater", f"x > {text}", f"({text}, \\infty)"
    yield "at least", f"x \\ge {text}", f"[{text}, \\infty)"
    yield "at most", f"(-\\infty, {text}]", f"x <= {text}"
    yield "less", f"x < {text}", f"{text} > x"
    yield "negated", f"-x > {negative}", f"x < {text}"
    yield "negated", f"-x \\le {negative}", f"x \\geq {text}"
    yield "doubled", f"2x < {fraction(2 * value)}", f"x < {text}"
    yield "member", f"x \\in (-\\infty, {text})", f"(-\\infty, {text})"
    yield "described", f"\\{{x \\mid x > {text}\\}}", f"({text}, \\infty)"
    yield "plus sign", f"({text}, +\\infty)", f"({text}, \\infty)"
    yield "real numbers without", f"\\mathbb{{R}} \\setminus \\{{{text}\\}}", f"x \\ne {text}"
    yield "greater or equal in signs", f"x >= {text}", f"x \\geqslant {text}"


def _turned(text: str) -> list[str]:
    return [f"x > {text}", f"x \\le {text}", f"({text}, \\infty)", f"(-\\infty, {text}]"]


def _two_ends(low: str, high: str) -> list[str]:
    return [
        f"({low}, {high})",
        f"{low} < x < {high}",
        f"x \\in ({low}, {high})",
        f"\\left({low}, {high}\\right)",
        f"{high} > x > {low}",
        f"x > {low} \\text{{ and }} x < {high}",
        f"\\{{x : {low} < x < {high}\\}}",
    ]


_CONSTANTS = (
    ("\\mathbb{R}", "(-\\infty, \\infty)", True),
    ("x \\in \\mathbb{R}", "(-\\infty, +\\infty)", True),
    ("\\mathbb{R}", "\\mathbf{R}", True),
    ("\\emptyset", "\\{\\}", True),
    ("\\varnothing", "\\emptyset", True),
    ("\\varnothing", "∅", True),
    ("\\mathbb{R}", "\\text{all real numbers}", True),
    ("\\mathbb{R}", "(0, \\infty)", False),
    ("\\mathbb{R}", "\\mathbb{Z}", False),
    ("\\emptyset", "\\{0\\}", False),
    ("\\emptyset", "0", False),
    ("\\mathbb{R}", "\\emptyset", False),
)
_REMARKS = (
    "{} \\text{{ meters}}",
    "{} \\textbf{{ meters}}",
    "{} \\text{{ units}}",
    "{} \\mathrm{{~m}}",
    "{} \\, \\text{{cm}}",
    "{}\\text{{ square units}}",
    "x \\approx {}",
    "\\approx {}",
    "{} \\text{{ (units)}}",
    "\\text{{The answer is }} {}",
    "{}\\ \\text{{hours}}",
    "n = {} \\text{{ people}}",
)


def _words(word: str, generator: random.Random) -> Iterator[Made]:
    other = generator.choice([known for known in ("odd", "north", "Robert", "parabola") if known != word])
    for spelt in (word, word.capitalize(), f"\\textbf{{{word}}}", f"\\mathrm{{{word}}}", f"\\text{{{word.upper()}}}"):
        yield Made("word", f"\\text{{{word}}}", spelt, True)
        yield Made("word", f"\\text{{{word}}}", spelt.lower().replace(word.lower(), other), False)
