"""Exponents of the scaling benchmark."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from transformers import AutoConfig

from tests.support.tiny_model import save_tiny_model
from verl_ext.model_folder import require_sequence_parallel_heads


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


def test_heads_that_two_ranks_cannot_share_are_made_even(scaling, tmp_path):
    even = save_tiny_model(tmp_path / "even", heads=4, kv_heads=2)
    assert scaling.model_of_even_heads(str(even), tmp_path / "unused") == str(even)
    odd = save_tiny_model(tmp_path / "odd", heads=9, kv_heads=3, hidden_size=36)
    made = AutoConfig.from_pretrained(scaling.model_of_even_heads(str(odd), tmp_path / "made"))
    require_sequence_parallel_heads(made, 2)
    assert (made.num_attention_heads, made.num_key_value_heads, made.hidden_size) == (8, 4, 32)
