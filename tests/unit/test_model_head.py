"""The chunked head in a transformers model: what its hooks return, and which models keep their own head."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig
from verl.utils import tensordict_utils as tu

from tests.support.tiny_model import save_tiny_model
from verl_ext.engine.fsdp import ExactLogProbs
from verl_ext.engine.model_head import HeadInModel, HeadRequest, why_not_chunked
from verl_ext.objectives.objective import OfLogProbs

SHAPE = (3, 7)


def jagged(rows):
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def model(request, tmp_path):
    return AutoModelForCausalLM.from_pretrained(save_tiny_model(tmp_path, tied=request.param)).double()


@pytest.fixture
def ids():
    return torch.randint(3, 250, SHAPE, generator=torch.Generator().manual_seed(0))


def by_logits(model, ids, labels, temperature=1.0):
    every = (model(input_ids=ids).logits / temperature).log_softmax(-1)
    return every.gather(-1, labels.unsqueeze(-1)).squeeze(-1), -(every.exp() * every).sum(-1)


def gradients_of(model, loss) -> dict[str, torch.Tensor]:
    learned = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return dict(zip(learned, torch.autograd.grad(loss, list(learned.values())), strict=True))


def assert_same_gradients(model, loss, expected_loss) -> None:
    found, expected = gradients_of(model, loss), gradients_of(model, expected_loss)
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, atol=1e-12), name


def test_log_probs_and_entropy_where_they_are_wanted(model, ids):
    labels, wanted = ids.roll(-1, 1), torch.arange(ids.numel()).view(SHAPE) % 3 > 0
    temperature = torch.tensor([[0.6], [1.0], [1.3]])
    expected, expected_entropy = by_logits(model, ids, labels, temperature.unsqueeze(-1))
    head = HeadInModel(model.get_output_embeddings())
    head.ask(HeadRequest(labels=labels, wanted=wanted, temperature=temperature, with_entropy=True))
    answer = head.answer(model(input_ids=ids).logits)
    assert torch.allclose(answer.log_probs, torch.where(wanted, expected, 0.0), atol=1e-12)
    assert torch.allclose(answer.entropy, torch.where(wanted, expected_entropy, 0.0), atol=1e-12)
    assert_same_gradients(
        model,
        (answer.log_probs.exp() + answer.entropy)[wanted].sum(),
        (expected.exp() + expected_entropy)[wanted].sum(),
    )


@pytest.mark.parametrize("wanted", [None, torch.zeros(SHAPE, dtype=torch.bool)], ids=["all", "none"])
def test_all_or_no_positions(model, ids, wanted):
    expected, _ = by_logits(model, ids, ids)
    head = HeadInModel(model.get_output_embeddings())
    head.ask(HeadRequest(labels=ids, wanted=wanted))
    answer = head.answer(model(input_ids=ids).logits)
    assert torch.allclose(answer.log_probs, expected if wanted is None else torch.zeros(SHAPE).double(), atol=1e-12)
    assert answer.entropy is None
    if wanted is not None:
        assert not any(gradient.any() for gradient in gradients_of(model, answer.log_probs.sum()).values())


def test_who_asks_for_nothing_gets_logits(model, ids):
    logits = model(input_ids=ids).logits
    names = set(model.state_dict())
    head = HeadInModel(model.get_output_embeddings())
    head.ask(HeadRequest(labels=ids))
    head.answer(model(input_ids=ids).logits)
    assert torch.equal(model(input_ids=ids).logits, logits)
    assert set(model.state_dict()) == names


def test_an_adapter_on_the_head_learns(model, ids):
    model = get_peft_model(model, LoraConfig(r=2, lora_alpha=6, target_modules=["lm_head"]))
    adapted = model.get_output_embeddings()
    assert why_not_chunked(adapted, model.config, strategy="fsdp2") is None
    assert "FSDP1" in why_not_chunked(adapted, model.config, strategy="fsdp")
    nn.init.normal_(adapted.lora_B["default"].weight)
    expected, _ = by_logits(model, ids, ids)
    with model.disable_adapter():
        without, _ = by_logits(model, ids, ids)
    assert not torch.allclose(expected, without)
    head = HeadInModel(adapted)
    head.ask(HeadRequest(labels=ids))
    answer = head.answer(model(input_ids=ids).logits)
    assert torch.allclose(answer.log_probs, expected, atol=1e-12)
    assert_same_gradients(model, answer.log_probs.exp().sum(), expected.exp().sum())
    with model.disable_adapter():
        head.ask(HeadRequest(labels=ids))
        assert torch.allclose(head.answer(model(input_ids=ids).logits).log_probs, without, atol=1e-12)


class ScalesItsLogits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 9, bias=False)

    def forward(self, hidden_states):
        return self.head(hidden_states) * 0.5


def test_a_model_that_changes_its_logits_is_noticed():
    model = ScalesItsLogits()
    head = HeadInModel(model.head)
    head.ask(HeadRequest(labels=torch.zeros(1, 2, dtype=torch.long)))
    with pytest.raises(RuntimeError, match="loss_head=plain"):
        head.answer(model(torch.ones(1, 2, 4)))


@pytest.mark.parametrize(
    "head, config, reason",
    [
        (nn.Linear(2, 3, bias=False), {}, None),
        (nn.Linear(2, 3, bias=False), {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        (nn.Linear(2, 3, bias=False), {"logits_scaling": 8.0}, "logits_scaling"),
        (nn.Linear(2, 3, bias=False), {"logit_scale": 1.0}, None),
        (nn.Linear(2, 3), {}, "has a bias"),
        (nn.Bilinear(2, 2, 3), {}, "is a Bilinear"),
        (None, {}, "is a NoneType"),
    ],
)
def test_models_that_keep_their_own_head(head, config, reason):
    found = why_not_chunked(head, LlamaConfig(**config), strategy="fsdp2")
    assert found is None if reason is None else reason in found


@pytest.mark.parametrize("only_learned", [True, False])
def test_the_head_is_given_the_trainers_own_function(only_learned):
    """An objective that no registry knows: what the engine holds is what the head differentiates."""

    def token_loss(log_probs):
        return -(0.5 * log_probs).exp().detach() * log_probs

    engine = ExactLogProbs()
    assert engine.objective is None
    engine.objective = OfLogProbs(token_loss)
    rows = [torch.tensor([5, 6, 7]), torch.tensor([8, 9])]
    batch = tu.get_tensordict(
        {"input_ids": jagged(rows), "loss_mask": jagged([torch.tensor([0, 1, 1]), torch.tensor([0, 1])])},
        {"use_remove_padding": False, "only_learned": only_learned},
    )
    output_args = {"temperature_is_one": True, "input_ids_rmpad_rolled": torch.cat(rows).roll(-1)}
    request = engine._head_request(batch, output_args, torch.Size([2, 3]))
    if only_learned:
        assert request.token_loss == engine.objective.token_loss
        assert request.wanted.tolist() == [[True, True, False], [True, False, False]]
    else:
        assert request.token_loss is None
    engine.weighted = True  # the gradient of a token is then known to within a number of its own
    assert engine._head_request(batch, output_args, torch.Size([2, 3])).token_loss is None
