"""A whole training step of DFT: tokens per second and peak memory, against TRL's SFTTrainer on the same batches.

    python benchmarks/sft_step.py --model FOLDER --trl-python PYTHON        # SmolLM2-135M: sh/quickstart.sh fetches it

PYTHON is the interpreter of an environment that has this package and benchmarks/requirements.txt. It has to be another
than this one, because verl 0.9.1 asks an installed TRL for a class that TRL 1 no longer has.

Each trainer runs in a process of its own, and the processes alternate; what counts is the median step of a process and
then the median of processes. Both see the same tokens in the same order, learn the same of them, keep fp32 weights,
compute in bf16, checkpoint activations (the default of both) and use AdamW. `packed` is a batch without padding
(model.use_remove_padding=True; padding_free=True), `padded` has rows filled up to the longest.

Tokens are those of the rows, padding left out. Memory is the highest resident memory of the process during its steps
on a processor, and of the GPU's allocator on a GPU: weights, gradients and optimizer are part of it.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from harness import Measures, Report, alternate, hand_back, in_process, medians, megabytes, resident_peak

LAYOUTS = ("packed", "padded")
TRAINERS = ("ours", "TRL")


def write_rows(path: Path, count: int, seed: int, longest: int) -> None:
    """Sums and their worked solutions, of very different lengths."""
    generator = random.Random(seed)
    rows = []
    for _ in range(count):
        numbers = [generator.randint(1, 999) for _ in range(generator.randint(3, longest))]
        total, steps = numbers[0], []
        for number in numbers[1:]:
            steps.append(f"{total} + {number} = {total + number}.")
            total += number
        rows.append(
            {
                "question": f"What is {' + '.join(map(str, numbers))}?",
                "answer": f"We add one number after the other. {' '.join(steps)} The sum is \\boxed{{{total}}}.",
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), path)


def compose(options: argparse.Namespace) -> Any:
    """The configuration of the trainer of this package."""
    from verl_ext.trainer.run.command_line import compose_config
    from verl_ext.trainer.supervised.vocabulary import DFT_VOCABULARY

    return compose_config(
        "dft_trainer",
        [
            f"model.path={options.model}",
            f"model.use_remove_padding={options.layout == 'packed'}",
            f"data.train_files={options.data}",
            "data.prompt_key=question",
            "data.response_key=answer",
            f"data.train_batch_size={options.rows}",
            f"data.micro_batch_size_per_gpu={options.rows}",
            "data.shuffle=False",
            f"optim.lr={options.lr}",
            "trainer.logger=[]",
            f"trainer.default_local_dir={options.data.parent / 'ours'}",
            "trainer.resume_mode=disable",
        ],
        DFT_VOCABULARY,
    )


def run_ours(options: argparse.Namespace) -> list[Measures]:
    from verl_ext.trainer.run.launch import choose_device, complete_config, join_ranks, load_datasets

    config = compose(options)
    device = choose_device(config)
    with join_ranks(device):
        complete_config(config, device)
        from verl_ext.trainer.run.interruption import Interruption
        from verl_ext.trainer.supervised.dft import DFTTrainer

        dataset, _ = load_datasets(config)
        trainer = DFTTrainer(config, dataset, None, None, None, Interruption())
        measured = []
        for step in range(1, options.steps + options.warmup + 1):
            with resident_peak(device) as peak:
                started = time.perf_counter()
                metrics = trainer._train_step(step)
                seconds = time.perf_counter() - started
            measured.append(_measures(seconds, metrics["train/tokens"], peak.extra_bytes, metrics["train/loss"]))
    return measured


def run_trl(options: argparse.Namespace) -> list[Measures]:
    import torch
    from datasets import Dataset
    from torch.utils.data import SequentialSampler
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from verl_ext.trainer.run.launch import load_datasets

    on_cpu = not torch.cuda.is_available()
    device = "cpu" if on_cpu else "cuda"
    rows, _ = load_datasets(compose(options))  # the same tokens, and the same of them learned
    dataset = Dataset.from_list(
        [{"input_ids": row["input_ids"].tolist(), "completion_mask": row["loss_mask"].tolist()} for row in rows]
    )
    tokens = [
        sum(len(row["input_ids"]) for row in rows_of_step)
        for rows_of_step in (
            [rows[index % len(rows)] for index in range(step * options.rows, (step + 1) * options.rows)]
            for step in range(options.steps + options.warmup)
        )
    ]
    measured: list[Measures] = []

    class Stopwatch(TrainerCallback):
        def on_step_begin(self, *_args, **_kwargs):
            self.peak = resident_peak(device)
            self.memory = self.peak.__enter__()
            self.started = time.perf_counter()

        def on_step_end(self, *_args, **_kwargs):
            seconds = time.perf_counter() - self.started
            self.peak.__exit__(None, None, None)
            measured.append(_measures(seconds, tokens[len(measured)], self.memory.extra_bytes, float("nan")))

    class InOrder(SFTTrainer):
        def _get_train_sampler(self, dataset=None):
            return SequentialSampler(dataset or self.train_dataset)

    settings = SFTConfig(
        output_dir=str(options.data.parent / "trl"),
        loss_type="dft",
        max_steps=options.steps + options.warmup,
        per_device_train_batch_size=options.rows,
        padding_free=options.layout == "packed",
        max_length=None,
        completion_only_loss=True,  # else it learns prompts too: it sees no column "prompt" here
        learning_rate=options.lr,
        bf16=True,
        use_cpu=on_cpu,
        dataloader_pin_memory=False,
        model_init_kwargs={"dtype": "float32"},
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = InOrder(model=str(options.model), args=settings, train_dataset=dataset, callbacks=[Stopwatch()])
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return [measures | {"loss": loss} for measures, loss in zip(measured, losses, strict=True)]


def _measures(seconds: float, tokens: int, peak_bytes: float, loss: float) -> Measures:
    return {
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "peak_mib": megabytes(peak_bytes),
        "loss": loss,
    }


def in_own_process(options: argparse.Namespace, trainer: str, layout: str, data: Path) -> Measures:
    """The median step of one process."""
    python = options.trl_python if trainer == "TRL" else sys.executable
    command = [str(python), "-W", "ignore", __file__, "--model", str(options.model), "--data", str(data)]
    command += ["--trainer", trainer, "--layout", layout, "--rows", str(options.rows), "--lr", str(options.lr)]
    steps = in_process([*command, "--steps", str(options.steps), "--warmup", str(options.warmup)])
    counted = steps[options.warmup :]
    return medians(counted) | {
        "peak_mib": max(step["peak_mib"] for step in counted),
        "tokens_per_second": statistics.median(step["tokens_per_second"] for step in counted),
        "first_loss": steps[0]["loss"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder in Hugging Face form")
    parser.add_argument("--trl-python", type=Path, help="interpreter that has TRL")
    parser.add_argument("--rows", type=int, default=8, help="of a step's batch, all in one micro-batch")
    parser.add_argument("--steps", type=int, default=5, help="that count, in each process")
    parser.add_argument("--warmup", type=int, default=2, help="steps before them")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each trainer and layout")
    parser.add_argument("--longest", type=int, default=30, help="numbers in the longest sum")
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--lr", type=float, default=5e-5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file (default: benchmarks/results/sft_step.json)")
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--trainer", choices=TRAINERS, help=argparse.SUPPRESS)
    parser.add_argument("--layout", choices=LAYOUTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.trainer:
        steps = run_ours(options) if options.trainer == "ours" else run_trl(options)
        hand_back(steps)
        return
    if options.trl_python is None:
        parser.error("--trl-python is needed")
    report = Report("sft_step", f"DFT step on {options.model.name}, batches of {options.rows} rows", vars(options))
    ask = "import importlib.metadata as m; print(m.version('trl'))"
    trl = subprocess.run([str(options.trl_python), "-c", ask], capture_output=True, text=True, check=True).stdout
    report.notes.append(
        f"TRL {trl.strip()}. Medians of {options.rounds} processes of {options.steps} steps each, alternating; memory is the highest."
    )
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "train.parquet"
        write_rows(data, options.rows * (options.steps + options.warmup), options.seed, options.longest)
        for layout in options.layouts:
            runs = {
                name: lambda name=name, layout=layout: in_own_process(options, name, layout, data) for name in TRAINERS
            }
            results = alternate(runs, rounds=options.rounds, warmup=0)
            middle = {name: medians(measures) for name, measures in results.items()}
            for name, measures in results.items():
                row = {"batch": layout, "trainer": name, "seconds a step": middle[name]["seconds"]}
                row["tokens/s"] = middle[name]["tokens_per_second"]
                row["tokens/s / TRL"] = middle[name]["tokens_per_second"] / middle["TRL"]["tokens_per_second"]
                row["peak MiB"] = middle[name]["peak_mib"]
                row["peak / TRL"] = middle[name]["peak_mib"] / middle["TRL"]["peak_mib"]
                row["first loss"] = f"{middle[name]['first_loss']:.4f}"
                report.add(row, measures)
    report.publish(options.out)


if __name__ == "__main__":
    main()
