"""Exponents of the scaling benchmark."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest


@pytest.fixture
def scaling(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    return importlib.import_module("scaling")


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_law_is_found_whatever_its_factor(scaling, power):
    sizes = [16, 32, 128, 512]
    assert scaling.exponent(sizes, [3e-4 * size**power for size in sizes]) == pytest.approx(power)


def test_one_size_has_no_exponent(scaling):
    with pytest.raises(ValueError, match="two sizes or more"):
        scaling.exponent([8, 8], [1.0, 1.1])
