"""How cost grows: fitted exponents of time, and memory of a rank with sequence parallelism of 1 and 2.

    python benchmarks/scaling.py --model FOLDER

- Actor update (NFT, verl's worker, this process) against sequence length, batch size in prompts, and group size.
- Generation (the `hf` replica's generator) against the number of samples of one prompt, whose prompt is computed once.
- Advantages of a batch against the group size, without a model: what depends on it alone.
- Update of long sequences, one at a time, on two ranks, with sequence parallelism of 1 and 2: peak memory above the
  model's, and the longest slice of a sequence that a rank holds. A model whose attention heads two ranks cannot share
  takes part in its shape with an even number of them, and random weights: memory and time do not depend on the weights.

An exponent k is fitted to seconds = c * size^k by least squares in logarithms, over the medians of runs that take
turns. 1 is proportional; attention alone grows with the square of the length, a fixed cost pulls k below 1.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from harness import Measures, Report, alternate, hand_back, in_process, medians, megabytes, peak_memory, timed

MAX_TOKENS_FLOOR = 2048


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Slope of log(seconds) over log(size), by least squares.

    Raises:
        ValueError: fewer than two different sizes.
    """
    x, y = ([math.log(value) for value in values] for values in (sizes, seconds))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((value - mean_x) ** 2 for value in x)
    if spread == 0:
        raise ValueError(f"an exponent needs two sizes or more, got {list(sizes)}")
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread


def update_runs(options: argparse.Namespace) -> dict[str, dict[float, Callable[[], Measures]]]:
    """One update of each shape: what is varied -> size -> run."""
    from actor import Actor, Answers, actor_config, graded_batch

    config = actor_config(options.model, "nft")
    device = config.trainer.device
    actor = Actor(config)

    def update(prompts: int, group_size: int, length: int) -> Callable[[], Measures]:
        response = length - length // 4
        answers = Answers(prompts, group_size, length // 4, [response] * (prompts * group_size))

        def run() -> Measures:
            batch = graded_batch(answers, actor.vocab_size, max_tokens=max(length, options.max_tokens))
            with peak_memory(device) as peak:
                seconds = timed(lambda: actor.worker.update_actor(batch), device)
            return {"seconds": seconds, "extra_bytes": peak.extra_bytes}

        return run

    prompts, group, length = options.prompts[0], options.group_sizes[0], options.lengths[0]
    return {
        "sequence length, tokens": {size: update(prompts, group, size) for size in options.lengths},
        "batch size, prompts": {size: update(size, group, length) for size in options.prompts},
        "group size, answers": {size: update(prompts, size, length) for size in options.group_sizes},
    }


def generation_runs(options: argparse.Namespace) -> dict[float, Callable[[], Measures]]:
    """Samples of one prompt, all at once."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    from verl_ext.rollout.generator import Generator
    from verl_ext.rollout.requests import SamplingParams

    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16, attn_implementation="sdpa").eval()
    model.generation_config = GenerationConfig()
    length = options.lengths[0]
    prompt = [3 + index % 100 for index in range(length)]

    def sample(count: int) -> None:
        generator = Generator(model, eos_token_ids=[], max_num_seqs=count)
        for index in range(count):
            generator.add_request(str(index), prompt, SamplingParams(max_tokens=options.new_tokens, seed=index))
        while generator.has_unfinished_requests():
            generator.step()

    return {size: lambda size=size: {"seconds": timed(lambda: sample(size))} for size in options.samples}


def advantage_runs(options: argparse.Namespace) -> dict[float, Callable[[], Measures]]:
    """NFT's advantages of a batch of many groups."""
    import numpy as np
    import torch

    from verl_ext.trainer.online.algorithm import compute_nft_advantage

    def advantages(group_size: int) -> Callable[[], Measures]:
        count = options.advantage_groups * group_size
        mask = torch.ones(count, 64)
        rewards = torch.zeros(count, 64)
        rewards[::2, -1] = 1.0
        names = np.array([f"{row // group_size:06d}" for row in range(count)], dtype=object)
        return lambda: {"seconds": timed(lambda: compute_nft_advantage(rewards, mask, names))}

    return {size: advantages(size) for size in options.group_sizes}


def add_fit(report: Report, cost: str, varied: str, runs: dict[float, list[Measures]]) -> None:
    """A row of the table: the seconds of each size and the exponent."""
    seconds = {size: medians(of_size)["seconds"] for size, of_size in runs.items()}
    row = {
        "cost of": cost,
        "against": varied,
        "sizes": ", ".join(f"{size:g}" for size in seconds),
        "seconds": ", ".join(f"{value:.3g}" for value in seconds.values()),
        "exponent": exponent(list(seconds), list(seconds.values())),
    }
    report.add(row, [{"size": size, **run} for size, of_size in runs.items() for run in of_size])


def measure_time(options: argparse.Namespace) -> Report:
    """Exponents of everything that runs in this process."""
    from actor import model_name

    from verl_ext.trainer.run.command_line import compose_config
    from verl_ext.trainer.run.launch import choose_device, join_ranks

    report = Report(
        name="scaling",
        title=f"Growth of cost, {model_name(options.model)}",
        options=vars(options),
    )
    device = choose_device(compose_config("nft_trainer", []))
    with join_ranks(device):
        for varied, shapes in update_runs(options).items():
            add_fit(report, "NFT update", varied, alternate(shapes, rounds=options.rounds))
    add_fit(report, "generation", "samples of a prompt", alternate(generation_runs(options), rounds=options.rounds))
    add_fit(
        report,
        f"NFT advantages, {options.advantage_groups} groups",
        "group size, answers",
        alternate(advantage_runs(options), rounds=options.rounds),
    )
    return report


def model_of_even_heads(path: str, folder: Path) -> str:
    """The model itself if two ranks can share its attention heads, otherwise one of its shape that they can.

    Args:
        path: folder of the model.
        folder: where the other is written: one attention head less, the hidden size in proportion, key/value heads of
            the next even number that fits.

    Returns:
        Folder of the model to train.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from verl_ext.errors import ConfigError
    from verl_ext.model_folder import require_sequence_parallel_heads

    config = AutoConfig.from_pretrained(path)
    try:
        require_sequence_parallel_heads(config, 2)
    except ConfigError:
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        config.num_attention_heads = heads - heads % 2
        config.hidden_size = config.hidden_size // heads * config.num_attention_heads
        config.num_key_value_heads = next(
            count for count in range(kv_heads, heads + 1) if count % 2 == 0 and config.num_attention_heads % count == 0
        )
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        AutoTokenizer.from_pretrained(path).save_pretrained(folder)
        return str(folder)
    return path


def rank(options: argparse.Namespace) -> None:
    """In each of the two ranks: an update of two sequences in turn; the first hands back the larger memory."""
    import torch
    import torch.distributed as dist
    from actor import Actor, Answers, actor_config, graded_batch

    from verl_ext.trainer.run.launch import join_ranks

    sp_size = options.sequence_parallel
    key = "actor_rollout_ref.actor.fsdp_config.ulysses_sequence_parallel_size"
    config = actor_config(options.model, "nft", None, f"{key}={sp_size}", "trainer.n_gpus_per_node=2")
    device = config.trainer.device
    length = options.lengths[-1]
    with join_ranks(device):
        actor = Actor(config)
        # One sequence at a time, a rank's own or a half of a common one, and two in turn: gradients of the first are
        # held during the second in both.
        answers = Answers(1, 2, length // 4, [length - length // 4] * 2)
        found = []
        for number in range(1 + options.rounds):
            batch = graded_batch(answers, actor.vocab_size, max_tokens=-(-length // sp_size), ranks=2 // sp_size)
            with peak_memory(device) as peak:
                seconds = timed(lambda batch=batch: actor.worker.update_actor(batch), device)
            largest = torch.tensor([seconds, peak.extra_bytes], dtype=torch.float64)
            dist.all_reduce(largest, op=dist.ReduceOp.MAX)
            if number:
                found.append({"seconds": largest[0].item(), "extra_bytes": largest[1].item()})
        if dist.get_rank() == 0:
            hand_back(found)


def measure_memory(options: argparse.Namespace) -> Report:
    """Memory of a rank with and without sequence parallelism, two processes."""
    with tempfile.TemporaryDirectory() as folder:
        return measure_memory_of(model_of_even_heads(options.model, Path(folder)), options)


def measure_memory_of(model: str, options: argparse.Namespace) -> Report:
    """The same for a model whose heads two ranks can share."""
    from actor import model_name

    length = options.lengths[-1]
    report = Report(
        name="scaling_sequence_parallelism",
        title=f"Two ranks, sequences of {length} tokens, one at a time, {model_name(options.model)}",
        options=vars(options),
    )
    if model != options.model:
        report.notes.append("With an even number of attention heads, that two ranks can share, and random weights.")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    arguments = [__file__, "--model", model, "--lengths", *map(str, options.lengths), "--rounds"]
    threads = str(max(1, (os.cpu_count() or 2) // 2))
    peaks = {}
    for sp_size in (1, 2):
        sequences = 2 * (2 // sp_size)  # two of each group of ranks that share one
        command = [*torchrun, *arguments, str(options.rounds), "--sequence-parallel", str(sp_size)]
        runs = in_process(command, env={"OMP_NUM_THREADS": threads}, timeout=3600)
        found = medians(runs)
        peaks[sp_size] = found["extra_bytes"]
        report.add(
            {
                "sequence parallelism": sp_size,
                "tokens of a sequence on a rank": length // sp_size,
                "extra MiB of a rank": megabytes(found["extra_bytes"]),
                "seconds a sequence": found["seconds"] / sequences,
            },
            runs,
        )
    report.notes.append(f"Memory with 2 against 1: {peaks[2] / max(peaks[1], 1.0):.2f}")
    return report


PARTS = {"time": measure_time, "memory": measure_memory}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", required=True, help="folder of a model; small, since its updates are in fp32 weights"
    )
    parser.add_argument("--part", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 256, 512, 1024], help="tokens of a sequence")
    parser.add_argument("--prompts", type=int, nargs="+", default=[1, 2, 4], help="groups of a batch")
    parser.add_argument("--group-sizes", type=int, nargs="+", default=[2, 4, 8], help="answers of a group")
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="of one prompt")
    parser.add_argument("--new-tokens", type=int, default=32, help="of a sample (default: 32)")
    parser.add_argument("--advantage-groups", type=int, default=256, help="of the advantages (default: 256)")
    parser.add_argument("--max-tokens", type=int, default=MAX_TOKENS_FLOOR, help="of a micro-batch, at least")
    parser.add_argument("--rounds", type=int, default=3, help="counted runs of each size (default: 3)")
    parser.add_argument("--out", type=Path, help="folder of the JSON files (default: benchmarks/results)")
    parser.add_argument("--sequence-parallel", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.sequence_parallel:
        rank(options)
        return
    for part in options.part:
        report = PARTS[part](options)
        out = options.out / f"{report.name}.json" if options.out else None
        print(f"kept in {report.publish(out)}\n", flush=True)


if __name__ == "__main__":
    main()
