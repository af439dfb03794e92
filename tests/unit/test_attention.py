"""Packed attention against softmax written out, document by document."""

from __future__ import annotations

import pytest
import torch

from verl_ext.engine.attention import (
    Documents,
    attention_forward,
    documents_from_position_ids,
    packed_attention,
)

LENGTHS = [5, 1, 9, 3]
TOTAL = sum(LENGTHS)


def position_ids() -> torch.Tensor:
    return torch.cat([torch.arange(length) for length in LENGTHS])[None]


def written_out(query, key, value, *, scale, window=None) -> torch.Tensor:
    """One softmax over an explicit (tokens, tokens) mask; (tokens, heads, head_dim)."""
    documents = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    distance = torch.arange(TOTAL)[:, None] - torch.arange(TOTAL)[None, :]
    visible = (documents[:, None] == documents[None, :]) & (distance >= 0)
    if window is not None:
        visible &= distance < window
    groups = query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query, key) * scale
    weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, value)


def states(heads: int, kv_heads: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(heads + kv_heads)
    return [
        torch.randn(TOTAL, count, 8, dtype=torch.float64, generator=generator, requires_grad=True)
        for count in (heads, kv_heads, kv_heads)
    ]


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("window", [None, 1, 3, 100])
def test_packed_attention_sees_its_own_document_only(heads, kv_heads, window):
    inputs = states(heads, kv_heads)
    documents = documents_from_position_ids(position_ids())
    output = packed_attention(*inputs, documents, scale=0.3, window=window)
    expected = written_out(*inputs, scale=0.3, window=window)
    assert torch.allclose(output, expected, atol=1e-12)

    probe = torch.randn(output.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gradients = torch.autograd.grad((output * probe).sum(), inputs)
    expected_gradients = torch.autograd.grad((expected * probe).sum(), inputs)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        assert torch.allclose(gradient, expected_gradient, atol=1e-12)


def test_documents_start_where_positions_do():
    documents = documents_from_position_ids(position_ids())
    assert documents.boundaries == [0, 5, 6, 15, 18]
    assert documents.cu_seqlens.tolist() == documents.boundaries
    assert documents.max_length == 9


def test_packed_and_padded_rows_give_the_same_output():
    query, key, value = states(4, 2)
    module = torch.nn.Module()
    packed, _ = attention_forward(
        module,
        *(x.transpose(0, 1)[None] for x in (query, key, value)),
        attention_mask=None,
        scaling=0.3,
        position_ids=position_ids(),
    )
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    padded = [query.new_zeros(len(LENGTHS), max(LENGTHS), *x.shape[1:]) for x in (query, key, value)]
    for rows, x in zip(padded, (query, key, value), strict=True):
        rows[mask] = x
    output, _ = attention_forward(
        module, *(rows.transpose(1, 2) for rows in padded), attention_mask=mask.long(), scaling=0.3
    )
    assert torch.allclose(output[mask], packed[0], atol=1e-12)
    assert not output[~mask].any()


def test_full_rows_are_one_document_each():
    x = torch.randn(3, 4, 7, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    output, _ = attention_forward(torch.nn.Module(), x, x, x, attention_mask=None)
    expected = torch.nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True)
    assert torch.allclose(output, expected.transpose(1, 2), atol=1e-12)


def test_generation_with_a_cache_is_refused():
    query, key = torch.zeros(1, 2, 1, 4), torch.zeros(1, 2, 5, 4)
    with pytest.raises(NotImplementedError, match="load the model with 'sdpa'"):
        attention_forward(torch.nn.Module(), query, key, key, attention_mask=None)


@pytest.mark.parametrize("option", [{"softcap": 30.0}, {"s_aux": torch.zeros(2)}])
def test_scores_it_cannot_form_are_refused(option):
    x = torch.zeros(1, 2, 3, 4)
    with pytest.raises(NotImplementedError, match="capped scores"):
        attention_forward(torch.nn.Module(), x, x, x, attention_mask=None, **option)


def test_documents_of_one_batch_are_found_once():
    ids = position_ids()
    assert documents_from_position_ids(ids) is documents_from_position_ids(ids)
    assert isinstance(documents_from_position_ids(ids.clone()), Documents)


def test_a_window_needs_later_tokens_hidden():
    states = torch.zeros(4, 1, 8)
    documents = Documents.from_boundaries(torch.tensor([0, 4]))
    with pytest.raises(NotImplementedError, match="later tokens are hidden"):
        packed_attention(states, states, states, documents, scale=1.0, window=2, causal=False)
