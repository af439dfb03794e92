"""Rows that share their prompt: what goes through the model, what each token sees, and how batches are split."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from transformers import LlamaConfig, Qwen2Config
from verl.utils import tensordict_utils as tu
from verl.workers.engine.utils import prepare_micro_batches

from verl_ext.engine import attention
from verl_ext.engine.attention import documents_from_position_ids, packed_attention
from verl_ext.engine.shared_prompts import (
    Layout,
    groups_of,
    layout_of,
    prompt_lengths,
    shared_micro_batches,
    shares_prompts,
    tokens_computed,
    why_not_in_batch,
    why_not_shared,
)
from verl_ext.errors import ConfigError
from verl_ext.trainer.online.balance import order_with_groups_together

KEY = "actor_rollout_ref.actor.share_prompts"


def batch_of(rows: list[tuple[list[int], list[int]]], **settings):
    """A batch of (prompt, answer) rows."""
    ids = [torch.tensor(prompt + answer) for prompt, answer in rows]
    masks = [torch.tensor([0] * len(prompt) + [1] * len(answer)) for prompt, answer in rows]
    tensors = {
        "input_ids": ids,
        "position_ids": [torch.arange(len(row)) for row in ids],
        "loss_mask": masks,
    }
    jagged = {name: torch.nested.as_nested_tensor(values, layout=torch.jagged) for name, values in tensors.items()}
    return tu.get_tensordict(jagged, {"temperature": 1.0, **settings})


def random_rows(seed: int) -> list[tuple[list[int], list[int]]]:
    """Groups of any size in any order; prompts of one token, equal answers and answers of one token among them."""
    draw = random.Random(seed)
    rows = []
    for prompt in range(draw.randint(1, 5)):
        tokens = [100 + prompt] + [draw.randint(0, 3) for _ in range(draw.choice((0, 1, 6)))]
        rows += [
            (tokens, [draw.randint(0, 3) for _ in range(draw.choice((1, 2, 7)))]) for _ in range(draw.randint(1, 4))
        ]
    draw.shuffle(rows)
    return rows


def laid_out(data):
    lengths = data["input_ids"].offsets().diff().tolist()
    prompts = prompt_lengths(data)
    layout = Layout.of(lengths, groups_of(data, prompts), prompts)
    return layout, layout.apply(data)


@pytest.mark.parametrize("seed", range(40))
def test_every_token_sees_its_own_row_and_is_followed_by_its_next_token(seed):
    data = batch_of(random_rows(seed))
    layout, computed = laid_out(data)
    ids, positions = computed["input_ids"].values(), computed["position_ids"].values()
    documents = documents_from_position_ids(positions[None])
    keys = torch.arange(len(ids)) if documents.shared is None else documents.shared.index
    pieces = zip(documents.boundaries, keys.split(documents.key_lengths), strict=False)
    seen = [keys[: len(keys) - length + 1 + i] for (start, keys), length in zip(pieces, documents.lengths, strict=True)
            for i in range(length)]  # fmt: skip
    offsets = data["input_ids"].offsets().tolist()
    following = torch.roll(ids, -1)
    for start, row in zip(offsets, data["input_ids"].unbind(), strict=False):
        for place, token in enumerate(layout.back[start : start + len(row)].tolist()):
            assert ids[seen[token]].tolist() == row[: place + 1].tolist()
            assert positions[token] == place
        learned = data["loss_mask"].values()[start : start + len(row)].roll(-1).bool()
        learned[-1] = False
        assert torch.equal(following[layout.back[start : start + len(row)]][learned], row.roll(-1)[learned])


@pytest.mark.parametrize("window", [None, 2, 5])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_attention_over_shared_prompts_is_that_of_whole_rows(window, kv_heads):
    data = batch_of([([1, 2, 3, 4], [5, 6]), ([1, 2, 3, 4], [7]), ([9, 8], [7, 7, 7]), ([1, 2, 3, 4], [5, 5, 5])])
    layout, computed = laid_out(data)
    assert len(layout.kept) < len(layout.back)
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(len(layout.kept), heads, 8, dtype=torch.float64, generator=generator, requires_grad=True)
        for heads in (4, kv_heads, kv_heads)
    ]
    probe = torch.randn(len(layout.back), 4, 8, dtype=torch.float64, generator=generator)

    def result(of_rows: bool):
        states = [x[layout.back] for x in inputs] if of_rows else inputs
        positions = (data if of_rows else computed)["position_ids"].values()[None]
        output = packed_attention(*states, documents_from_position_ids(positions), scale=0.3, window=window)
        output = output if of_rows else output[layout.back]
        return output, torch.autograd.grad((output * probe).sum(), inputs)

    (expected, expected_gradients), (found, gradients) = result(True), result(False)
    assert torch.allclose(found, expected, atol=1e-12)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        assert torch.allclose(gradient, expected_gradient, atol=1e-12)


def test_a_kernel_for_gpus_gets_unequal_lengths(monkeypatch):
    """flash-attn aligns its causal mask to the lower right where there are more keys than queries."""
    calls = []
    monkeypatch.setattr(attention, "_flash_attn_varlen_func", lambda *states, **named: calls.append((states, named)))
    data = batch_of([([1, 2, 3], [4]), ([1, 2, 3], [5, 6])])
    _, computed = laid_out(data)
    documents = documents_from_position_ids(computed["position_ids"].values()[None])
    states = [torch.randn(7, heads, 8) for heads in (2, 1, 1)]
    key = states[1][documents.shared.index]
    attention._flash_attn(states[0], key, key, documents, scale=1.0, window=None, dropout=0.0, causal=True)
    ((_, named),) = calls
    assert named["cu_seqlens_q"].tolist() == [0, 4, 7]
    assert named["cu_seqlens_k"].tolist() == [0, 4, 9]
    assert (named["max_seqlen_q"], named["max_seqlen_k"], named["causal"]) == (4, 5, True)


def test_positions_that_continue_nothing_are_refused():
    with pytest.raises(ValueError, match="continues 3 tokens of a document of 2"):
        documents_from_position_ids(torch.tensor([[0, 1, 3, 4]]))


def test_both_directions_cannot_be_shared():
    documents = documents_from_position_ids(torch.tensor([[0, 1, 2, 1, 2]]))
    states = torch.randn(5, 1, 4)
    with pytest.raises(NotImplementedError, match="later tokens are hidden"):
        packed_attention(states, states, states, documents, scale=1.0, causal=False)


@pytest.mark.parametrize("budget", [20, 24, 40, 64, 1000])
@pytest.mark.parametrize("seed", range(5))
def test_micro_batches_hold_every_row_once_within_the_budget(budget, seed):
    draw = random.Random(seed)
    prompts = [[prompt] * draw.randint(6, 12) for prompt in range(4)]
    rows = [(prompt, [50 + draw.randint(0, 9)] * draw.randint(1, 6)) for prompt in prompts for _ in range(6)]
    draw.shuffle(rows)
    data = batch_of(rows, use_dynamic_bsz=True, max_token_len_per_gpu=budget)
    micro_batches, indices = shared_micro_batches(data, None, prepare_micro_batches)
    assert sorted(row for rows in indices for row in rows) == list(range(len(rows)))
    total = 0
    for micro_batch, places in zip(micro_batches, indices, strict=True):
        layout = layout_of(micro_batch)
        tokens = micro_batch["input_ids"].values().numel() if layout is None else len(layout.kept)
        assert tokens <= budget
        total += tokens
        for place, ids in zip(places, micro_batch["input_ids"].unbind(), strict=True):
            assert ids.tolist() == rows[place][0] + rows[place][1]
    lengths, sizes = [len(p) + len(a) for p, a in rows], prompt_lengths(data)
    bound = sum(tokens_computed(group, lengths, sizes) for group in groups_of(data, sizes))
    assert total >= bound
    if budget >= 64:  # a whole group fits: none is torn apart
        assert total == bound


def test_where_there_is_little_to_share_verls_own_micro_batches_are_taken():
    data = batch_of([([1], [2] * 20), ([1], [3] * 20)], use_dynamic_bsz=True, max_token_len_per_gpu=30)
    micro_batches, _ = shared_micro_batches(data, None, prepare_micro_batches)
    assert len(micro_batches) == 2 and all(layout_of(micro_batch) is None for micro_batch in micro_batches)


def test_fixed_micro_batches_keep_their_rows_and_share_what_they_hold():
    prompt = [1] * 10
    data = batch_of([(prompt, [5]), ([2] * 10, [6]), (prompt, [7, 7]), (prompt, [8])],
                    use_dynamic_bsz=False, micro_batch_size_per_gpu=4)  # fmt: skip
    (micro_batch,), indices = shared_micro_batches(data, None, prepare_micro_batches)
    assert indices is None and len(layout_of(micro_batch).kept) == 11 + 11 + 3 + 2
    output = {"log_probs": layout_of(micro_batch).apply(micro_batch)["input_ids"]}
    rows = layout_of(micro_batch).undo(output, micro_batch["input_ids"].offsets())["log_probs"]
    assert [row.tolist() for row in rows.unbind()] == [row.tolist() for row in data["input_ids"].unbind()]


def test_a_row_over_the_budget_is_named():
    data = batch_of([([1] * 20, [2]), ([1] * 20, [3])], use_dynamic_bsz=True, max_token_len_per_gpu=15)
    with pytest.raises(ValueError, match="a row has 21 tokens and a micro-batch may have 15"):
        shared_micro_batches(data, None, prepare_micro_batches)


def test_a_prompt_ends_where_the_batch_says_even_if_no_token_is_learned():
    data = batch_of([([1, 2, 3], [4, 5]), ([1, 2, 3], [6])])
    assert prompt_lengths(data) == [3, 3]
    data["loss_mask"] = torch.nested.as_nested_tensor(
        [torch.zeros(5), torch.tensor([0, 0, 0, 1.0])], layout=torch.jagged
    )
    assert prompt_lengths(data) == [5, 3]
    data["prompts"] = torch.nested.as_nested_tensor([torch.tensor([1, 2, 3])] * 2, layout=torch.jagged)
    assert prompt_lengths(data) == [3, 3]


def model(**settings):
    settings = {"override_config": {}, "use_remove_padding": True, "lora_adapter_path": None, **settings}
    return OmegaConf.create(settings)


def test_prompts_are_shared_by_default_on_a_processor_alone():
    assert shares_prompts(None, LlamaConfig(), model(), on_gpu=False, key=KEY)
    assert not shares_prompts(None, LlamaConfig(), model(), on_gpu=True, key=KEY)
    assert shares_prompts(True, LlamaConfig(), model(), on_gpu=True, key=KEY)
    assert not shares_prompts(False, LlamaConfig(), model(), on_gpu=False, key=KEY)


@pytest.mark.parametrize(
    ("config", "settings", "reason"),
    [
        (LlamaConfig(), {"use_remove_padding": False}, "rows are padded"),
        (LlamaConfig(), {"override_config": {"attn_implementation": "sdpa"}}, "the attention is sdpa"),
        (LlamaConfig(attention_dropout=0.1), {}, "drops at random"),
        (SimpleNamespace(layer_types=["full_attention", "linear_attention"]), {}, "linear_attention"),
        (SimpleNamespace(layer_types=["conv"]), {}, "conv"),
        (SimpleNamespace(ssm_state_size=16), {}, "carry a state"),
    ],
)
def test_where_sharing_would_be_wrong_it_is_off_and_refused_if_asked_for(config, settings, reason):
    if isinstance(config, SimpleNamespace):
        inner = config
        config = SimpleNamespace(get_text_config=lambda: inner)
    assert not shares_prompts(None, config, model(**settings), on_gpu=False, key=KEY)
    with pytest.raises(ConfigError, match=f"^{KEY}: got True, expected False, because .*{reason}"):
        shares_prompts(True, config, model(**settings), on_gpu=False, key=KEY)


def test_an_adapter_that_drops_is_no_model_to_share_prompts(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"lora_dropout": 0.05}')
    settings = model(lora_adapter_path=str(tmp_path))
    assert not shares_prompts(None, LlamaConfig(), settings, on_gpu=False, key=KEY)


def test_sliding_windows_may_share():
    config = Qwen2Config(use_sliding_window=True, max_window_layers=1, num_hidden_layers=2)
    assert why_not_shared(config, attention=attention.ATTENTION_NAME) is None


def test_batches_that_cannot_share():
    data = batch_of([([1, 2], [3]), ([1, 2], [4])])
    assert why_not_in_batch(data) is None
    data["temperature"] = torch.tensor([1.0, 0.5])
    assert "temperature of its own" in why_not_in_batch(data)
    assert "padded" in why_not_in_batch(batch_of([([1], [2])], use_remove_padding=False))


def rows_of_ranks(order, keys, ranks):
    share = len(order) // ranks
    return [[keys[row] for row in order[rank * share : (rank + 1) * share]] for rank in range(ranks)]


@pytest.mark.parametrize(("ranks", "together"), [(1, 4), (2, 4), (4, 2)])
def test_answers_to_a_prompt_go_to_one_rank_in_one_update(ranks, together):
    """With 8 rows an update, 4 ranks have 2 rows each: half a group."""
    keys = [f"{prompt:010d}_{sample}_0" for sample in range(4) for prompt in range(4)]
    tags = [{"prompt_len": 10 + int(key[:10]), "response_len": 5} for key in keys]
    order = order_with_groups_together(keys, tags, ranks=ranks, rows_per_update=8)
    assert sorted(order) == list(range(16))
    for rows in rows_of_ranks(order, keys, ranks):
        for start in range(0, len(rows), together):
            assert len({key[:10] for key in rows[start : start + together]}) == 1


def test_groups_that_fit_no_share_are_left_to_verl():
    keys = [f"{prompt}_{sample}_0" for prompt, size in ((0, 3), (1, 5)) for sample in range(size)]
    tags = [{"prompt_len": 5, "response_len": 5}] * 8
    assert order_with_groups_together(keys, tags, ranks=2, rows_per_update=8) is None
