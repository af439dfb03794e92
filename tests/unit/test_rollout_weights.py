import asyncio
import pickle

import pytest
import torch

from tests.support.tiny_generation import random_model
from verl_ext.rollout.weights import Bucket, ModelWeights, PackedTensor, WeightMismatchError, pack_buckets


def buckets_of(weights, **settings) -> list[Bucket]:
    async def collect() -> list[Bucket]:
        return [bucket async for bucket in pack_buckets(weights, **settings)]

    return asyncio.run(collect())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
@pytest.mark.parametrize("shape", [(), (3,), (2, 5)])
def test_a_tensor_survives_packing_to_the_bit(dtype, shape):
    tensor = (torch.randn(shape) * 10).to(dtype)
    packed = pickle.loads(pickle.dumps(PackedTensor.pack("a", tensor), protocol=5))
    assert packed.unpack().dtype == dtype
    assert torch.equal(packed.unpack(), tensor)


def test_only_float_tensors_take_the_dtype_of_generation():
    (bucket,) = buckets_of(
        [("a", torch.ones(2)), ("b", torch.ones(2, dtype=torch.int64))], bucket_bytes=100, dtype=torch.bfloat16
    )
    assert [packed.dtype for packed in bucket] == [torch.bfloat16, torch.int64]


def test_buckets_are_full_but_not_overfull_and_a_large_tensor_has_its_own():
    weights = [(str(index), torch.full((size,), float(index))) for index, size in enumerate([2, 3, 40, 1, 1, 4, 6])]
    buckets = buckets_of(iter(weights), bucket_bytes=6 * 4)
    assert [[packed.name for packed in bucket] for bucket in buckets] == [["0", "1"], ["2"], ["3", "4", "5"], ["6"]]
    for packed, (name, tensor) in zip([p for b in buckets for p in b], weights, strict=True):
        assert packed.name == name
        assert torch.equal(packed.unpack(), tensor)


def test_the_memory_of_a_sent_tensor_may_be_used_again():
    async def reused():
        buffer = torch.empty(4)
        for value in range(3):
            buffer.fill_(value)
            yield str(value), buffer

    (bucket,) = buckets_of(reused(), bucket_bytes=1000)
    assert [packed.unpack()[0].item() for packed in bucket] == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("tied", [True, False])
def test_an_update_makes_the_model_the_other_one(tied):
    model, other = (random_model(seed=seed, tie_word_embeddings=tied) for seed in (0, 1))
    weights = ModelWeights(model)
    weights.begin()
    for bucket in buckets_of(other.named_parameters(), bucket_bytes=5000):
        weights.load(bucket)
    weights.finish()
    ids = torch.tensor([[3, 4, 5]])
    assert torch.equal(model(ids).logits, other(ids).logits)


def test_discarded_weights_take_no_memory_and_come_back():
    model, other = random_model(seed=0), random_model(seed=1)
    weights = ModelWeights(model)
    weights.discard()
    assert sum(parameter.numel() for parameter in model.parameters()) == 0
    weights.begin()
    for bucket in buckets_of(other.state_dict().items(), bucket_bytes=5000):
        weights.load(bucket)
    weights.finish()
    ids = torch.tensor([[3, 4, 5]])
    assert torch.equal(model(ids).logits, other(ids).logits)


def test_weights_that_do_not_fit_are_refused_by_name():
    weights = ModelWeights(random_model())
    weights.begin()
    with pytest.raises(WeightMismatchError, match="^model.nothing: the model that generates has no such weight$"):
        weights.load([PackedTensor.pack("model.nothing", torch.zeros(2))])
    with pytest.raises(WeightMismatchError, match=r"^lm_head.weight: got shape \(2,\), .* has \(64, 32\)$"):
        weights.load([PackedTensor.pack("lm_head.weight", torch.zeros(2))])
    with pytest.raises(WeightMismatchError, match="weights have not come, such as model.embed_tokens.weight"):
        weights.finish()
