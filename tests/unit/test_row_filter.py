"""Conditions on rows: what they keep, and what is refused with what was expected."""

from __future__ import annotations

from fractions import Fraction

import pytest

from verl_ext.data.row_filter import parse_filter, value_of
from verl_ext.errors import UserError


@pytest.mark.parametrize(
    ("text", "values", "keeps"),
    [
        ("pass_rate <= 6/16", {"pass_rate": Fraction(6, 16)}, True),
        ("pass_rate<=6/16", {"pass_rate": 0.376}, False),
        ("pass_rate < 1/3", {"pass_rate": Fraction(1, 3)}, False),
        ("extra_info.r1_tokens < 4000", {"extra_info.r1_tokens": 3999}, True),
        ("a >= -1.5e1 and a != 3", {"a": -15}, True),
        ("a >= -1.5e1 and a != 3", {"a": 3}, False),
        ("a > .5 and b == 'x y' and c != \"z\"", {"a": 1, "b": "x y", "c": ""}, True),
        ("a > .5 and b == 'x y'", {"a": 1, "b": "x"}, False),
        ("level == 5", {"level": 5.0}, True),
        ("and-x == 1", {"and-x": 1}, True),
    ],
)
def test_all_comparisons_must_hold(text, values, keeps):
    condition = parse_filter(text, key="keep")
    assert set(condition.columns) == set(values)
    assert condition.keeps(values) is keeps


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected a column at the end"),
        ("pass_rate", "expected one of <= .* at the end"),
        ("pass_rate <", "expected a number, .* at the end"),
        ("pass_rate < x", "expected a number, .* before 'x'"),
        ("< 1", "expected a column before '<'"),
        ("a < 1 or b > 2", "expected `and` or the end before 'or'"),
        ("a < 1 and", "expected a column at the end"),
        ("a = 1", "cannot read '= 1'"),
        ("a < 1/0", "a fraction over 0"),
        ("a < 1x", "cannot read '1x'"),
        ("__import__('os') < 1", "cannot read"),
        ("a < (1)", "cannot read"),
        ("a < 'x", "cannot read"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_was_expected(text, said):
    with pytest.raises(UserError, match=rf"^keep: .*{said}"):
        parse_filter(text, key="keep")


@pytest.mark.parametrize("value", [None, True, "3", [3], float("nan")])
def test_a_value_that_is_no_number_is_named(value):
    with pytest.raises(TypeError, match="^a: .* is no number"):
        parse_filter("a < 4", key="keep").keeps({"a": value})


def test_nested_columns_are_reached_by_their_path():
    row = {"extra_info": {"r1": {"tokens": 3}}}
    assert value_of(row, "extra_info.r1.tokens") == 3
    for missing in ("extra_info.r2", "extra_info.r1.tokens.x", "level"):
        with pytest.raises(KeyError, match=missing):
            value_of(row, missing)
