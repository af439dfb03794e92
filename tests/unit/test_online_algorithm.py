"""NFT under verl's names: the advantage estimator and the policy loss."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from verl.trainer.ppo.core_algos import get_adv_estimator_fn, get_policy_loss_fn

from verl_ext.errors import UserError
from verl_ext.objectives.nft import nft_token_loss
from verl_ext.objectives.nft_advantage import decode_advantage
from verl_ext.trainer.online.algorithm import NFTPolicyLossConfig, read_statistics
from verl_ext.trainer.online.modes import correctness_of_rows

GROUPS = {"a": [1, 0, 0, 1], "b": [1, 1, 1, 1], "c": [0, 0, 0, 0], "d": [0, 0, 0, 1]}


def _advantages(rewards, index, mask=None):
    mask = torch.ones(len(rewards), 3) if mask is None else mask
    token_level = torch.zeros_like(mask)
    token_level[:, 1] = torch.tensor(rewards, dtype=torch.float32)
    estimator = get_adv_estimator_fn("nft")
    return estimator(token_level_rewards=token_level, response_mask=mask, index=np.array(index, dtype=object))[0]


def _rows():
    return [(reward, name) for name, rewards in GROUPS.items() for reward in rewards]


def test_advantage_is_correctness_minus_the_correct_rate_of_the_group():
    rewards, index = zip(*_rows(), strict=True)
    advantages = _advantages(rewards, index)
    for row, (reward, name) in enumerate(_rows()):
        expected = reward - sum(GROUPS[name]) / 4
        assert advantages[row].tolist() == pytest.approx([expected] * 3)


def test_rewards_of_minus_one_and_one_mean_the_same():
    rewards, index = zip(*_rows(), strict=True)
    signed = [2 * reward - 1 for reward in rewards]
    assert torch.equal(_advantages(rewards, index), _advantages(signed, index))


def test_order_of_rows_does_not_matter():
    rows = _rows()
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    rewards, index = zip(*rows, strict=True)
    mixed_rewards, mixed_index = zip(*(rows[i] for i in order), strict=True)
    assert torch.equal(_advantages(rewards, index)[order], _advantages(mixed_rewards, mixed_index))


def test_shaped_rewards_are_refused():
    with pytest.raises(ValueError, match="0 and 1, or -1 and"):
        _advantages([1.0, 0.0, 0.7, 1.0], list("aabb"))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"acc": 0.5}, "acc: NFT needs answers that are right or wrong: rewards must be 0 and 1, or -1 and"),
        ({"score": 1.0}, "reward.reward_manager.name: the reward gives no `acc`"),
    ],
)
def test_a_reward_that_is_no_verdict_ends_the_run_as_bad_input(said, message):
    infos = [{"acc": 1.0}, {"acc": 0.0}, said, {"acc": 1.0}]
    tags = [{}, {}, {}, {"is_padding": True}]
    with pytest.raises(UserError) as caught:
        correctness_of_rows(tags, [{"reward_extra_info": info} for info in infos])
    assert message in str(caught.value)


@pytest.mark.parametrize("wrong", [0.0, -1.0])
def test_correctness_of_rows_is_what_the_reward_said_and_none_of_a_filler(wrong):
    infos = [{"acc": 1.0}, {"acc": wrong}, {"acc": 1.0}]
    tags = [{"is_padding": False}, {}, {"is_padding": True}]
    assert correctness_of_rows(tags, [{"reward_extra_info": info} for info in infos]) == [1.0, 0.0, 0.0]


def test_padding_rows_belong_to_no_group():
    mask = torch.ones(4, 3)
    mask[3] = 0
    advantages = _advantages([1.0, -1.0, -1.0, 0.0], ["a", "a", "a", "pad"], mask)
    assert advantages[3].tolist() == [0, 0, 0]
    assert advantages[0].tolist() == pytest.approx([2 / 3] * 3)


@pytest.mark.parametrize("size", [2, 3, 7, 16, 64, 128])
def test_correctness_and_rate_come_back_from_the_advantage_of_every_group(size):
    for right in range(size + 1):
        rewards = [1.0] * right + [0.0] * (size - right)
        correct, rate = decode_advantage(_advantages(rewards, ["q"] * size))
        if 0 < right < size:
            assert correct.tolist() == [reward == 1 for reward in rewards]
            assert torch.equal(rate, torch.full((size,), right / size))
        else:
            assert rate.tolist() == [0.0] * size


def _actor(**settings):
    return SimpleNamespace(
        policy_loss=NFTPolicyLossConfig(loss_mode="nft", **settings),
        global_batch_info={"dp_size": 1, "batch_num_tokens": None, "global_batch_size": None},
    )


def _batch(rows=12, length=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    log_prob = -torch.rand(rows, length, generator=generator, dtype=torch.float64)
    old = log_prob + 0.3 * torch.randn(rows, length, generator=generator, dtype=torch.float64)
    lengths = torch.randint(1, length + 1, (rows,), generator=generator)
    mask = (torch.arange(length) < lengths[:, None]).double()
    correct = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0])
    index = ["a"] * 4 + ["b"] * 4 + ["c"] * 4
    rewards = torch.zeros(rows, length)
    rewards[:, 0] = correct
    advantages, _ = get_adv_estimator_fn("nft")(
        token_level_rewards=rewards, response_mask=mask.float(), index=np.array(index, dtype=object)
    )
    return log_prob.requires_grad_(), old, mask, advantages


@pytest.mark.parametrize("settings", [{}, {"neg_weight": 0.0, "prompt_weight": "uniform"}, {"eps": 0.1}])
@pytest.mark.parametrize("mode", ["token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "token-sum"])
def test_policy_loss_is_the_objective_reduced_by_verl(settings, mode):
    log_prob, old, mask, advantages = _batch()
    loss, _ = get_policy_loss_fn("nft")(old, log_prob, advantages, mask, mode, _actor(**settings), None)
    correct, rate = decode_advantage(advantages)
    losses = nft_token_loss(log_prob, old, correct, rate, response_mask=mask, **settings) * mask
    tokens = mask.sum(-1)
    expected = {
        "token-mean": losses.sum() / mask.sum(),
        "seq-mean-token-mean": (losses.sum(-1) / tokens).mean(),
        "seq-mean-token-sum": losses.sum(-1).mean(),
        "token-sum": losses.sum(),
    }[mode]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-7)


def test_published_reduction_is_the_sum_over_a_thousand():
    log_prob, old, mask, advantages = _batch()
    loss, _ = get_policy_loss_fn("nft")(old, log_prob, advantages, mask, "token-mean", _actor(reduction="published"))
    correct, rate = decode_advantage(advantages)
    expected = (nft_token_loss(log_prob, old, correct, rate) * mask).sum() / 1000
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


def test_published_reduction_of_sequences_counts_each_once():
    log_prob, old, mask, advantages = _batch()
    actor = _actor(reduction="published", ratio="sequence")
    loss, _ = get_policy_loss_fn("nft")(old, log_prob, advantages, mask, "token-mean", actor)
    correct, rate = decode_advantage(advantages)
    per_token = nft_token_loss(log_prob, old, correct, rate, ratio="sequence", response_mask=mask)
    assert loss.item() == pytest.approx(per_token[:, 0].sum().item(), rel=1e-12)


def test_importance_weights_scale_the_loss_of_each_token():
    log_prob, old, mask, advantages = _batch()
    weights = torch.rand(mask.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    loss, _ = get_policy_loss_fn("nft")(old, log_prob, advantages, mask, "token-sum", _actor(), weights)
    correct, rate = decode_advantage(advantages)
    expected = (nft_token_loss(log_prob, old, correct, rate) * weights * mask).sum()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-7)


def test_statistics_of_micro_batches_average_to_those_of_the_batch():
    log_prob, old, mask, advantages = _batch()
    loss_function, actor = get_policy_loss_fn("nft"), _actor()

    def statistics(rows):
        return loss_function(old[rows], log_prob[rows], advantages[rows], mask[rows], "token-mean", actor)[1]

    whole = statistics(slice(None))
    parts = [statistics(slice(start, start + 3)) for start in range(0, 12, 3)]
    averaged = {f"actor/{name}": np.mean([part[name] for part in parts]) for name in whole}
    expected = {f"actor/{name}": value for name, value in whole.items()}
    ours, theirs = read_statistics(averaged), read_statistics(expected)
    assert ours == pytest.approx(theirs)
    assert 0 < ours["nft/positive_token_share"] < 1
    assert not averaged, "the raw sums must not reach the log"


@pytest.mark.parametrize(
    ("settings", "field"), [({"eps": 0.0}, "eps"), ({"ratio": "word"}, "ratio"), ({"reduction": "mean"}, "reduction")]
)
def test_a_setting_that_cannot_work_is_refused_by_name(settings, field):
    with pytest.raises(ValueError, match=f"^{field}"):
        NFTPolicyLossConfig(**settings)
