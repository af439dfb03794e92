"""The step on fake tensors: bytes worked out by hand, and what cannot be simulated."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from verl_ext.doctor.__main__ import main
from verl_ext.doctor.simulation.record import ALIGNMENT, Recorder

HIDDEN, INNER, VOCAB, LAYERS, RANKS = 64, 128, 320, 2, 4
# q, k, v and o of as many heads; three matrices of the MLP; two norms; the tied embedding; the last norm
PARAMETERS = LAYERS * (4 * HIDDEN**2 + 3 * HIDDEN * INNER + 2 * HIDDEN) + VOCAB * HIDDEN + HIDDEN
TENSORS = LAYERS * 9 + 2
ROWS, LENGTH = 8, 128


def test_recorder_counts_what_lives_and_remembers_the_most():
    recorder = Recorder(torch.device("cpu"))
    recorder.moment = "forward"
    with recorder:
        with recorder.category("kept"):
            kept = torch.zeros(256)  # 1,024 bytes
        with recorder.category("temporary"):
            view = torch.zeros(512).view(2, 256)[1]  # a view holds the whole storage: 2,048 bytes
            del view
        with recorder.category("temporary"):
            torch.zeros(1)  # rounded up
    assert recorder.now() == {"kept": 1024}
    assert recorder.peaks["forward"].bytes == 1024 + 2048
    assert recorder.peaks["forward"].categories == {"kept": 1024, "temporary": 2048}
    assert max(sum(held.values()) for held in recorder.timeline) == 3072
    assert {"kept": 1024, "temporary": ALIGNMENT} in recorder.timeline
    del kept


def test_recorder_sees_a_storage_emptied_and_filled():
    recorder = Recorder(torch.device("cpu"))
    with recorder:
        with recorder.category("gathered"):
            tensor = torch.empty(1024)
        tensor.untyped_storage().resize_(0)
        assert recorder.now() == {}
        with recorder.category("gathered again"):
            tensor.untyped_storage().resize_(4096)
        assert recorder.now() == {"gathered again": 4096}
        recorder.claim([tensor], "claimed")
    assert recorder.now() == {"claimed": 4096}


def test_recorder_counts_products_and_pauses():
    recorder = Recorder(torch.device("cpu"))
    with recorder:
        torch.mm(torch.zeros(3, 5), torch.zeros(5, 7))
        recorder.paused = True
        held = torch.mm(torch.zeros(3, 5), torch.zeros(5, 7))
    assert recorder.flops == 2 * 3 * 5 * 7
    assert recorder.now() == {}
    del held


def model_folder(path):
    sizes = {"hidden_size": HIDDEN, "intermediate_size": INNER, "vocab_size": VOCAB, "num_hidden_layers": LAYERS}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 512}
    path.mkdir()
    config = {"model_type": "llama", "tie_word_embeddings": True, **sizes, **heads}
    (path / "config.json").write_text(json.dumps(config))
    return path


def launch(tmp_path, *more: str) -> list[str]:
    return [
        *("dft", f"model.path={model_folder(tmp_path / 'model')}", "trainer.device=cuda", f"data.max_length={LENGTH}"),
        *(f"data.train_batch_size={ROWS}", "data.micro_batch_size_per_gpu=1", f"--nproc_per_node={RANKS}"),
        *more,
    ]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="the fake device needs g++")
def test_a_step_holds_its_shards_exactly(tmp_path, capsys):
    png = tmp_path / "memory.png"
    main(launch(tmp_path, "--simulate", "--json", f"--png={png}"))
    answer = json.loads(capsys.readouterr().out)["simulated"][0]

    assert (answer["ranks"], answer["micro_batches"], answer["tokens"]) == (RANKS, ROWS // RANKS, LENGTH)
    most_rounding = TENSORS * ALIGNMENT
    shard = 4 * PARAMETERS / RANKS
    first, later = answer["steps"]["first step"], answer["steps"]["later steps"]
    for held in (later["optimizer"]["categories"], answer["kept"]):
        assert shard <= held["parameters"] <= shard + most_rounding + 8 * ALIGNMENT  # and the rotary buffers
        assert shard <= held["gradients"] <= shard + most_rounding
        assert 2 * shard <= held["optimizer"] <= 2 * shard + 3 * most_rounding  # with a counter of each tensor
    assert "optimizer" not in first["backward"]["categories"]
    assert first["backward"]["bytes"] < later["backward"]["bytes"]

    tokens, matrices = ROWS // RANKS * LENGTH, 4 * HIDDEN**2 + 3 * HIDDEN * INNER
    head = 3 * 2 * tokens * VOCAB * HIDDEN
    # Forward, recomputation, and twice backward; the last product of a layer is not recomputed.
    layers = LAYERS * 2 * tokens * (4 * matrices - HIDDEN * INNER)
    # Two products forward, as many again, five backward; torch counts them without the mask.
    attention = LAYERS * 9 * 2 * tokens * LENGTH * HIDDEN
    rotary = 2 * tokens * 32 // 2
    assert answer["flops"] == head + layers + attention + rotary
    # Parameters are gathered in bf16 at least once, gradients are reduced at least once.
    assert sum(answer["sent"].values()) > 2 * PARAMETERS
    assert png.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "key", ["engine.offload_policy=True", "engine.param_offload=True", "model.use_fused_kernels=True"]
)
def test_what_is_not_simulated_is_refused_by_its_key(tmp_path, capsys, key):
    with pytest.raises(SystemExit) as ended:
        main(launch(tmp_path, "--simulate", key))
    assert ended.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"error: {key}") and "--simulate" in error


def test_a_picture_needs_a_simulation(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(launch(tmp_path, "--png=x.png"))
    assert ended.value.code == 2
    assert "--simulate" in capsys.readouterr().err
