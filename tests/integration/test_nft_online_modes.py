"""The objectives and the trainer modes of online training, each for a few steps, in as few runs as hold them all."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.support.launch import python_path
from tests.support.online import answers, custom_reward, logged, prepare, run_to_end

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("parity"))


@pytest.mark.slow
def test_rft_learns_from_rewards_of_minus_one_and_one_with_the_answers_of_earlier_policies(arguments, tmp_path):
    reward = custom_reward(tmp_path / "signed.py", "1.0 if ground_truth in solution_str else -1.0")
    more = ["objective=rft", "trainer.v1.trainer_mode=nft_colocate_async", "trainer.total_training_steps=3"]
    code, output = run_to_end([*arguments, *reward, *more], tmp_path)
    assert code == 0, output
    metrics = logged(tmp_path / "run")
    assert len(metrics) == 3
    assert all(entry["actor/grad_norm"] > 0 and 0 < entry["reward/acc"] < 1 for entry in metrics.values())
    rows = answers(tmp_path / "run", 1)
    assert {row["acc"] for row in rows} == {-1.0, 1.0}
    assert all((row["advantage"] > 0) == (row["acc"] > 0) for row in rows)
    assert _next_prompt(tmp_path) >= 24


@pytest.mark.slow
def test_an_adapter_trains_with_grpo_and_its_merged_weights_generate(arguments, tmp_path):
    """Generation without the adapter would disagree with the actor from the second step on.

    Not to the last digit: verl rounds merged weights to bf16 on their way.
    """
    lora = [f"actor_rollout_ref.model.{key}" for key in ("lora_rank=4", "lora_alpha=16", "lora.merge=True")]
    more = [*lora, "objective=grpo", "actor_rollout_ref.actor.optim.lr=5e-3", "trainer.total_training_steps=3"]
    more += ["algorithm.filter_groups.enable=False", "data.gen_batch_size=8"]  # every answer is the newest policy's
    code, output = run_to_end([*arguments, *more], tmp_path)
    assert code == 0, output
    metrics = logged(tmp_path / "run")
    assert len(metrics) == 3 and "nft/positive_share" not in metrics[1]
    assert all(entry["actor/grad_norm"] > 0 for entry in metrics.values())
    assert all(entry["training/rollout_probs_diff_mean"] < 5e-4 for entry in metrics.values())
    checkpoint = tmp_path / "run" / "global_step_3"
    adapter = load_file(checkpoint / "lora_adapter" / "adapter_model.safetensors")
    assert all(up.abs().max() > 1e-3 for name, up in adapter.items() if "lora_B" in name)


@pytest.mark.slow
def test_nft_trains_while_servers_of_their_own_generate(arguments, tmp_path):
    more = [
        *("trainer.v1.trainer_mode=nft_separate_async", "trainer.total_training_steps=3"),
        *("actor_rollout_ref.rollout.nnodes=1", "actor_rollout_ref.rollout.n_gpus_per_node=1"),
        "actor_rollout_ref.rollout.checkpoint_engine.backend=ray_object_store",
        "actor_rollout_ref.actor.ppo_mini_batch_size=2",
    ]
    code, output = run_to_end([*arguments, *more], tmp_path)
    assert code == 0, output
    metrics = logged(tmp_path / "run")
    assert len(metrics) == 3 and "nft/positive_share" in metrics[1]
    assert _next_prompt(tmp_path) >= 24


def _next_prompt(folder: Path) -> int:
    return json.loads((folder / "run" / "global_step_3" / "sampling.json").read_text())["position"]


@pytest.mark.slow
def test_dapo_trains_and_writes_samples_and_traces_and_calls_back(arguments, tmp_path):
    """verl's `log_val_generations`, `global_profiler` and `checkpoint_callback_class`, in one run of two steps."""
    (tmp_path / "my_callback.py").write_text(
        "from pathlib import Path\n"
        "from verl.trainer.ppo.checkpoint_callback import CheckpointCallback\n\n\n"
        "class Uploader(CheckpointCallback):\n"
        "    def on_save(self, trainer, global_step, checkpoint_dir, async_save=False, **kwargs):\n"
        "        whole = any(Path(checkpoint_dir).glob('huggingface/*.safetensors'))\n"
        "        print(f'callback: {global_step} {Path(checkpoint_dir).name} {whole}', flush=True)\n"
    )
    more = [
        *("objective=dapo", "trainer.total_training_steps=2", "trainer.save_freq=1", "trainer.test_freq=2"),
        *("trainer.log_val_generations=2", "trainer.checkpoint_callback_class=my_callback.Uploader"),
        *("global_profiler.steps=[2]", "global_profiler.tool=torch", f"global_profiler.save_path={tmp_path}/traces"),
        "actor_rollout_ref.actor.profiler.enable=True",
    ]
    code, output = run_to_end([*arguments, *more], tmp_path, PYTHONPATH=python_path(tmp_path))
    assert code == 0, output
    metrics = logged(tmp_path / "run")
    assert len(metrics) == 2 and "nft/positive_share" not in metrics[1]
    assert all(entry["actor/grad_norm"] > 0 for entry in metrics.values())
    assert [line for line in output.splitlines() if line.startswith("callback:")] == [
        "callback: 1 global_step_1 False",
        "callback: 2 global_step_2 True",
    ]
    assert output.count("step 2: validation sample") == 2
    (trace,) = (tmp_path / "traces").glob("*.json.gz")
    assert "step2" in trace.name
    assert b"aten::mm" in gzip.decompress(trace.read_bytes())
