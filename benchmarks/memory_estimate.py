"""The doctor's estimate of training memory against what training takes, on small random models on a CPU.

    python benchmarks/memory_estimate.py [--json FILE] [--only NAME]

Each case is a process of its own: it builds the DFT trainer on a random model and rows of full length, takes `STEPS`
optimizer steps, and reads the highest resident memory of the last one (Linux: VmHWM, reset before the step). From that
is taken what the process held before the model was built, when everything had been imported and run once on a tiny
model. Prints a Markdown table; the estimate is `verl_ext.doctor.memory.training_memory` of the same configuration.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

STEPS = 2
ROWS = 64


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model and the settings of its training."""

    name: str
    hidden: int
    layers: int
    inner: int
    heads: int
    kv_heads: int
    vocab: int
    max_length: int
    micro: int
    tied: bool = True
    family: str = "llama"
    settings: tuple[str, ...] = ()


_WIDE = {"hidden": 1024, "layers": 4, "inner": 2816, "heads": 16, "kv_heads": 4, "vocab": 4096, "max_length": 1024}
_VOCABULARY = {"hidden": 256, "layers": 4, "inner": 688, "heads": 4, "kv_heads": 4, "vocab": 64000, "max_length": 256}
NO_CHECKPOINTING = "model.enable_gradient_checkpointing=False"
FP32 = "engine.mixed_precision.param_dtype=fp32"
FUSED = "model.use_fused_kernels=True"
PLAIN = "model.fused_kernel_options.loss_head=plain"
CASES = (
    Case(name="wide", micro=2, settings=(NO_CHECKPOINTING,), **_WIDE),
    Case(name="wide, checkpointing", micro=2, **_WIDE),
    Case(name="large vocabulary", micro=2, **_VOCABULARY),
    Case(name="large vocabulary, plain head", micro=2, settings=(PLAIN,), **_VOCABULARY),
    Case(name="large vocabulary, fused head", micro=2, settings=(FUSED,), **_VOCABULARY),
    Case(
        name="deep, fp32",
        hidden=256, layers=16, inner=704, heads=4, kv_heads=2, vocab=2048, max_length=1024, micro=1,
        settings=(NO_CHECKPOINTING, FP32),
    ),
    Case(
        name="Qwen3, untied, checkpointing",
        hidden=512, layers=6, inner=1536, heads=8, kv_heads=2, vocab=16000, max_length=1024, micro=1, tied=False,
        family="qwen3",
    ),
    Case(
        name="long, padded, checkpointing",
        hidden=256, layers=6, inner=704, heads=4, kv_heads=4, vocab=1024, max_length=4096, micro=1,
        settings=("model.use_remove_padding=False",),
    ),
)  # fmt: skip


def build(folder: Path, case: Case) -> list[str]:
    """Write the model and its data; returns the arguments of the trainer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    from tests.conftest import write_parquet
    from tests.support.tiny_model import byte_tokenizer

    tokenizer = byte_tokenizer()
    config_class, model_class = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    }[case.family]
    config = config_class(
        vocab_size=case.vocab,
        hidden_size=case.hidden,
        intermediate_size=case.inner,
        num_hidden_layers=case.layers,
        num_attention_heads=case.heads,
        num_key_value_heads=case.kv_heads,
        head_dim=case.hidden // case.heads,
        max_position_embeddings=case.max_length,
        tie_word_embeddings=case.tied,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    torch.manual_seed(0)
    model_class(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [{"question": f"{row}?", "answer": "abcdefgh" * (case.max_length // 8)} for row in range(ROWS)]
    write_parquet(folder / "train.parquet", rows)
    return [
        f"model.path={folder / 'model'}",
        f"data.train_files={folder / 'train.parquet'}",
        "data.prompt_key=question",
        "data.response_key=answer",
        f"data.max_length={case.max_length}",
        f"data.micro_batch_size_per_gpu={case.micro}",
        f"data.train_batch_size={2 * case.micro}",
        f"trainer.total_training_steps={STEPS}",
        "trainer.logger=[]",
        "trainer.device=cpu",
        "trainer.resume_mode=disable",
        f"trainer.default_local_dir={folder / 'run'}",
        *case.settings,
    ]


def train(arguments: list[str], *, steps: int) -> tuple[int, int]:
    """Take some steps; returns the resident bytes before the trainer was built, and the most during the last step."""
    from verl_ext.trainer.run.checkpoints import RunState
    from verl_ext.trainer.run.command_line import compose_config
    from verl_ext.trainer.run.identity import Identity
    from verl_ext.trainer.run.interruption import Interruption
    from verl_ext.trainer.run.launch import choose_device, complete_config, load_datasets
    from verl_ext.trainer.supervised.dft import DFTTrainer

    config = compose_config("dft_trainer", arguments)
    complete_config(config, choose_device(config))
    dataset, _ = load_datasets(config)
    gc.collect()
    before = resident("VmRSS")
    trainer = DFTTrainer(config, dataset, None, RunState(Identity(), steps, "benchmark"), None, Interruption())
    for step in range(1, steps + 1):
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, see proc(5)
        trainer._train_step(step)
    peak = resident("VmHWM")
    return before, peak


def resident(name: str) -> int:
    """VmRSS, resident now, or VmHWM, the most since it was reset, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def measure(case: Case) -> dict:
    """Estimate and measurement of one case, in this process."""
    from verl_ext.doctor.memory import training_memory
    from verl_ext.doctor.model_shape import find_model
    from verl_ext.doctor.plan import training_plan
    from verl_ext.trainer.run.command_line import compose_config
    from verl_ext.trainer.run.launch import choose_device, join_ranks

    tiny = Case(
        name="tiny", hidden=64, layers=1, inner=128, heads=4, kv_heads=2, vocab=320, max_length=64, micro=1,
        settings=case.settings, family=case.family,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tiny").mkdir()
        warm_up, arguments = build(folder / "tiny", tiny), build(folder, case)
        config = compose_config("dft_trainer", arguments)
        with join_ranks(choose_device(config)):
            train(warm_up, steps=1)
            before, peak = train(arguments, steps=STEPS)
        found = find_model(str(folder / "model"), trust_remote_code=False, group="model", ask_hub=False)
    plan = training_plan(config, "dft", ranks=1, rows=None, on_gpu=False)
    estimate = training_memory(found.shape, plan)
    return {
        "case": asdict(case),
        "parameters": found.shape.parameters,
        "measured": peak - before,
        "estimated": estimate.bytes,
        "moment": estimate.moment,
        "parts": [vars(part) for part in estimate.parts],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        case = next(case for case in CASES if case.name == arguments.measure)
        print("RESULT " + json.dumps(measure(case)))
        return
    results = []
    print("| model | parameters | measured MiB | estimated MiB | error | moment |\n|---|---|---|---|---|---|")
    for case in CASES:
        if arguments.only in (None, case.name):
            command = [sys.executable, __file__, "--measure", case.name]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            line = next(line for line in output.splitlines() if line.startswith("RESULT "))
            results.append(json.loads(line.removeprefix("RESULT ")))
            print(_row(results[-1]), flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(results, indent=2))


def _row(result: dict) -> str:
    measured, estimated = result["measured"], result["estimated"]
    mib = 2**20
    return (
        f"| {result['case']['name']} | {result['parameters'] / 1e6:.1f} M | {measured / mib:.0f} | {estimated / mib:.0f} "
        f"| {estimated / measured - 1:+.0%} | {result['moment']} |"
    )


if __name__ == "__main__":
    main()
