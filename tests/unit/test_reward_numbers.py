"""Numbers as written are read exactly, or not at all."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_ext.reward.math.exact_number import has_thousands_separators, read_number
from verl_ext.reward.math.normalise import normalise


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", Fraction(5)),
        ("-5", Fraction(-5)),
        ("--5", Fraction(5)),
        ("1,234,567.5", Fraction(2469135, 2)),
        (".5", Fraction(1, 2)),
        ("5.", Fraction(5)),
        ("\\frac{3}{4}", Fraction(3, 4)),
        ("-\\frac{-3}{4}", Fraction(3, 4)),
        ("1\\frac{3}{4}", Fraction(7, 4)),
        ("-1 3/4", Fraction(-7, 4)),
        ("3/4", Fraction(3, 4)),
        ("1.5e3", Fraction(1500)),
        ("1e-3", Fraction(1, 1000)),
        ("2\\times10^{-3}", Fraction(1, 500)),
        ("10^3", Fraction(1000)),
    ],
)
def test_number_is_read_exactly(text, value):
    assert read_number(normalise(text)).value == value


@pytest.mark.parametrize(
    "text",
    ["", "x", "5x", "1,2", "1,23", "1,2345", "1/0", "\\frac{1}{0}", "1e99999", "10^{99999}", "9" * 500, "3\\frac{5}{3}",
     "2^3", "1 2", "0x10", "1_000", "٣", "nan", "inf", "-", "."],
)  # fmt: skip
def test_what_is_no_plain_number_is_left_alone(text):
    assert read_number(normalise(text)) is None


def test_separators_need_groups_of_three():
    assert has_thousands_separators("7,144")
    assert not has_thousands_separators("71,44")
    assert not has_thousands_separators("7144")


@given(st.integers(-(10**12), 10**12), st.integers(1, 10**6))
def test_every_fraction_survives_its_renderings(above, below):
    value = Fraction(above, below)
    for text in (f"{above}/{below}", f"\\frac{{{above}}}{{{below}}}", f"\\dfrac{{{above}}}{{{below}}}"):
        assert read_number(normalise(text)).value == value


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**9), max_value=10**9))
def test_every_decimal_survives_thousands_separators(number):
    assert read_number(normalise(f"{number:,f}")).value == Fraction(number)
