"""What a step of online NFT costs: its update against GRPO's, the share of each phase, and what dynamic sampling saves.

    python benchmarks/nft_step.py --model FOLDER [--part update|sharing|phases|sampling]

- `update`: verl's actor worker updates one model with the same answers under NFT, GRPO and Dr. GRPO, which take turns
  in this process. Time of an update, and its memory above the model's.
- `sharing`: the same update with each prompt once for all of its answers, and once for each, in turns. The least that
  sharing could leave of the time is its share of the tokens.
- `phases`: a short online run of its own; medians over its steps, the first (which starts things) left out. While
  answers are generated and graded, the training processes wait: that is the idle time of the trainer.
- `sampling`: the groups of an online run without dynamic sampling are the stream that three ways of dynamic sampling
  take: keeping the surplus for the next step (ours), throwing it away (the published trainers: generate whole rounds
  until there are enough groups, keep the first), and replacing dropped groups one for one (verl 0.9.1). Tokens
  generated per token trained, and rounds of generation a step, each of which waits for its longest answer. The stream
  is drawn from the recorded groups, with replacement.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import fmean, median

from harness import Measures, Report, alternate, medians, megabytes, peak_memory, timed

ROOT = Path(__file__).resolve().parents[1]
OBJECTIVES = ("nft", "grpo", "dr_grpo")
PHASES = {"gen": "generation and grading", "old_log_prob": "old log-probs", "adv": "advantages"}
PHASES |= {"update_actor": "update", "update_weights": "weight sync"}
TRAINER_WAITS = ("gen",)
Way = Callable[["Stream", int, int], Iterator[tuple[int, int, int]]]


def updating(actor, answers, options: argparse.Namespace, device: str, prepare: Callable[[], None]):
    """An update with these answers, measured; `prepare` is called before it."""
    from actor import graded_batch

    def run() -> Measures:
        prepare()
        batch = graded_batch(answers, actor.vocab_size, max_tokens=options.max_tokens)
        began = time.process_time()
        with peak_memory(device) as peak:
            seconds = timed(lambda: actor.worker.update_actor(batch), device)
        processor = time.process_time() - began
        return {"seconds": seconds, "processor_seconds": processor, "extra_bytes": peak.extra_bytes}

    return run


def measure_update(options: argparse.Namespace) -> Report:
    """NFT's update against GRPO's in turns."""
    from actor import Actor, Answers, actor_config, mixed_lengths, model_name

    from verl_ext.trainer.run.launch import join_ranks

    count = options.prompts * options.group_size
    lengths = mixed_lengths(count, options.shortest, options.longest)
    answers = Answers(options.prompts, options.group_size, options.prompt_length, lengths)
    configs = {name: actor_config(options.model, name) for name in OBJECTIVES}
    device = configs["nft"].trainer.device
    with join_ranks(device):
        actor = Actor(configs["nft"])

        contenders = {
            name: updating(actor, answers, options, device, partial(actor.use_loss_of, configs[name]))
            for name in OBJECTIVES
        }
        runs = alternate(contenders, rounds=options.rounds, warmup=options.warmup)
    report = Report(
        name="nft_update",
        title=f"Actor update, {model_name(options.model)}: {options.prompts} prompts with {options.group_size} answers, "
        f"{answers.tokens} tokens, at most {options.max_tokens} at a time",
        options=vars(options),
    )
    found = {name: medians(of_objective) for name, of_objective in runs.items()}
    for name in OBJECTIVES:
        report.add(
            {
                "objective": name,
                "seconds": found[name]["seconds"],
                "processor seconds": found[name]["processor_seconds"],
                "tokens per second": answers.tokens / found[name]["seconds"],
                "extra MiB": megabytes(found[name]["extra_bytes"]),
                "time against GRPO": found[name]["seconds"] / found["grpo"]["seconds"],
                "memory against GRPO": found[name]["extra_bytes"] / max(found["grpo"]["extra_bytes"], 1.0),
            },
            runs[name],
        )
    pairs = list(zip(runs["nft"], runs["grpo"], strict=True))
    clock, processor = (median(a[name] / b[name] for a, b in pairs) for name in ("seconds", "processor_seconds"))
    report.notes.append(
        f"NFT against GRPO, median of the rounds' ratios: {clock:.3f} by the clock (target: 1.02), {processor:.3f} by "
        "processor time, which other work on the machine disturbs less"
    )
    return report


SHAPES = ((54, 37, 8), (256, 64, 8), (256, 64, 16), (128, 128, 8), (128, 128, 16), (64, 512, 8), (64, 512, 16))
"""Prompt, answer (tokens) and group size: the quickstart's, then 4 : 1, 1 : 1 and 1 : 8."""
TOKENS_OF_A_SHAPE = 4096


def measure_sharing(options: argparse.Namespace) -> Report:
    """An update with prompts shared against one without, in turns."""
    from actor import Actor, Answers, actor_config, model_name

    from verl_ext.trainer.run.launch import join_ranks

    report = Report(
        name="nft_sharing",
        title=f"Actor update with a prompt once a group, {model_name(options.model)}, at most {options.max_tokens} tokens "
        "at a time",
        options=vars(options),
    )
    config = actor_config(options.model, "nft")
    device = config.trainer.device
    with join_ranks(device):
        actor = Actor(config)
        for prompt, answer, group_size in SHAPES:
            groups = max(1, TOKENS_OF_A_SHAPE // (group_size * (prompt + answer)))
            answers = Answers(groups, group_size, prompt, [answer] * (groups * group_size))

            def contender(share: bool, answers: Answers = answers) -> Callable[[], Measures]:
                return updating(actor, answers, options, device, partial(actor.share_prompts, share))

            contenders = {"shared": contender(True), "rows": contender(False)}
            runs = alternate(contenders, rounds=options.rounds, warmup=options.warmup)
            found = {name: medians(of_way) for name, of_way in runs.items()}
            pairs = list(zip(runs["shared"], runs["rows"], strict=True))
            processor = median(a["processor_seconds"] / b["processor_seconds"] for a, b in pairs)
            tokens = answers.tokens_if_shared / answers.tokens
            row = {
                "prompt : answer": f"{prompt} : {answer}",
                "answers": f"{groups} x {group_size}",
                "tokens (the bound)": tokens,
                "time": found["shared"]["seconds"] / found["rows"]["seconds"],
                "processor time": processor,
                "bound / processor time": tokens / processor,
                "extra MiB, shared": megabytes(found["shared"]["extra_bytes"]),
                "extra MiB, rows": megabytes(found["rows"]["extra_bytes"]),
            }
            report.add(row, [{f"{way}/{name}": run[name] for way, run in zip(runs, pair, strict=True) for name in run}
                             for pair in pairs])  # fmt: skip
    report.notes.append("Time: seconds with shared prompts over seconds without; processor time: median of the pairs.")
    return report


def online_run(options: argparse.Namespace, folder: Path, *, sampling: bool) -> Path:
    """A short online run as a user starts it; returns its folder.

    Raises:
        RuntimeError: it failed, with the end of what it printed.
    """
    run = folder / ("with-sampling" if sampling else "without-sampling")
    data = Path(options.data) if options.data else _arithmetic(folder)
    command = [
        *(sys.executable, "-m", "verl_ext.trainer.fsdp_nft_trainer"),
        f"actor_rollout_ref.model.path={options.model}",
        f"data.train_files={data}",
        f"data.train_batch_size={options.prompts}",
        f"data.gen_batch_size={options.gen_batch_size}",
        "data.max_prompt_length=256",
        f"data.max_response_length={options.longest}",
        f"actor_rollout_ref.rollout.n={options.group_size}",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={options.prompts}",
        f"actor_rollout_ref.actor.ppo_max_token_len_per_gpu={max(options.max_tokens, 256 + options.longest)}",
        f"algorithm.filter_groups.enable={sampling}",
        "reward.reward_kwargs.workers=1",
        "trainer.val_before_train=False",
        "trainer.save_freq=-1",
        "trainer.logger=[console]",
        f"trainer.total_training_steps={options.steps + 1}",
        f"trainer.default_local_dir={run}",
        f"ray_kwargs.ray_init._temp_dir={folder / 'ray'}",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(
            f"{' '.join(command)} ended with {ended.returncode}:\n{(ended.stdout + ended.stderr)[-4000:]}"
        )
    return run


def _arithmetic(folder: Path) -> Path:
    make = [sys.executable, str(ROOT / "data_preprocess" / "arithmetic.py"), "--local_dir", str(folder / "data")]
    subprocess.run([*make, "--levels", "sums", "--train_size", "640"], check=True, stdout=subprocess.DEVNULL)
    return folder / "data" / "train.parquet"


def measure_phases(options: argparse.Namespace, folder: Path) -> Report:
    """Where the time of an online step goes."""
    run = online_run(options, folder, sampling=True)
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [entry for entry in entries if "timing_s/step" in entry and "timing_s/save_checkpoint" not in entry][1:]
    if not steps:
        raise RuntimeError(f"{run}: no step but the first and the last updated anything; ask for more with --steps")
    report = Report(
        name="nft_phases",
        title=f"A step of online NFT, {Path(options.model).name}: {options.prompts} prompts with {options.group_size} "
        f"answers of at most {options.longest} tokens, median of {len(steps)} steps",
        options=vars(options),
        packages=("ray",),
    )
    whole = median(step["timing_s/step"] for step in steps)
    rest = whole
    for name, title in PHASES.items():
        seconds = median(step.get(f"timing_s/{name}", 0.0) for step in steps)
        rest -= seconds
        runs = [{"seconds": step.get(f"timing_s/{name}", 0.0)} for step in steps]
        report.add({"phase": title, "seconds": seconds, "share of the step": seconds / whole}, runs)
    report.add({"phase": "the rest", "seconds": rest, "share of the step": rest / whole})
    report.add({"phase": "step", "seconds": whole, "share of the step": 1.0})
    idle = fmean(sum(step[f"timing_s/{name}"] for name in TRAINER_WAITS) / step["timing_s/step"] for step in steps)
    report.notes.append(f"The training processes wait {idle:.0%} of a step, for answers and grades.")
    grading = [step["reward/grader/seconds_per_1000"] for step in steps if "reward/grader/seconds_per_1000" in step]
    if grading:
        answers = options.prompts * options.group_size / 1000
        report.notes.append(
            f"Grading takes {median(grading) * answers:.2g} s of processor time a step, beside generation."
        )
    return report


class Stream:
    """Groups as an online run made them: (whether both right and wrong answers are in it, tokens generated)."""

    def __init__(self, run: Path, seed: int) -> None:
        groups: dict[str, list[dict]] = {}
        for path in sorted((run / "generations").glob("*.jsonl")):
            for line in path.read_text().splitlines():
                row = json.loads(line)
                groups.setdefault(row["uid"], []).append(row)
        self.groups = [
            (len({row["acc"] for row in rows}) == 2, sum(row["response_tokens"] for row in rows))
            for rows in groups.values()
        ]
        self._numbers = random.Random(seed)

    @property
    def usable(self) -> float:
        return fmean(usable for usable, _ in self.groups)

    def take(self, count: int) -> list[tuple[bool, int]]:
        return self._numbers.choices(self.groups, k=count)


def keep_surplus(stream: Stream, wanted: int, gen_batch_size: int) -> Iterator[tuple[int, int, int]]:
    """Ours: rounds of the size that most likely is enough; what is not needed opens the next step.

    Yields:
        Of each step: tokens generated, tokens trained, rounds.
    """
    from verl_ext.trainer.online.dynamic_sampling import Acceptance

    acceptance = Acceptance(usable=float(wanted), generated=float(gen_batch_size))
    kept: list[int] = []
    while True:
        generated = rounds = 0
        while len(kept) < wanted:
            new = stream.take(min(acceptance.prompts_for(wanted - len(kept)), gen_batch_size))
            usable = [tokens for is_usable, tokens in new if is_usable]
            acceptance.add(len(usable), len(new))
            generated += sum(tokens for _, tokens in new)
            kept += usable
            rounds += 1
        yield generated, sum(kept[:wanted]), rounds
        kept = kept[wanted:]


def discard_surplus(stream: Stream, wanted: int, gen_batch_size: int) -> Iterator[tuple[int, int, int]]:
    """The published way: whole rounds until there are enough, the first are kept. Yields as `keep_surplus`."""
    while True:
        generated = rounds = 0
        usable: list[int] = []
        while len(usable) < wanted:
            new = stream.take(gen_batch_size)
            usable += [tokens for is_usable, tokens in new if is_usable]
            generated += sum(tokens for _, tokens in new)
            rounds += 1
        yield generated, sum(usable[:wanted]), rounds


def replace_one_for_one(stream: Stream, wanted: int, _gen_batch_size: int) -> Iterator[tuple[int, int, int]]:
    """verl's: as many prompts as groups are missing, and one for each that is dropped. Yields as `keep_surplus`.

    A replacement starts when its group is dropped, so that rounds overlap; their number is that of the longest chain.
    """
    while True:
        generated = rounds = 0
        usable: list[int] = []
        while len(usable) < wanted:
            new = stream.take(wanted - len(usable))
            usable += [tokens for is_usable, tokens in new if is_usable]
            generated += sum(tokens for _, tokens in new)
            rounds += 1
        yield generated, sum(usable), rounds


def ways(wanted: int, gen_batch_size: int) -> dict[str, tuple[Way, int]]:
    """What is compared, and the prompts of a round of each: DAPO's recipe generates three times what it trains on."""
    return {
        f"surplus kept (ours), rounds of at most {gen_batch_size}": (keep_surplus, gen_batch_size),
        f"surplus thrown away, rounds of {wanted}": (discard_surplus, wanted),
        f"surplus thrown away, rounds of {3 * wanted}": (discard_surplus, 3 * wanted),
        "replaced one for one (verl)": (replace_one_for_one, wanted),
    }


def measure_sampling(options: argparse.Namespace, folder: Path) -> Report:
    """Tokens generated per token trained of three ways of dynamic sampling."""
    run = Path(options.stream) if options.stream else online_run(options, folder, sampling=False)
    recorded = Stream(run, options.seed)
    if not any(usable for usable, _ in recorded.groups):
        raise RuntimeError(f"{run}: no group with both right and wrong answers; take a model that can do some")
    report = Report(
        name="nft_sampling",
        title=f"Dynamic sampling, {Path(options.model).name}: {options.prompts} groups a step, {recorded.usable:.0%} of "
        f"{len(recorded.groups)} recorded groups usable",
        options=vars(options),
    )
    for name, (way, prompts) in ways(options.prompts, options.gen_batch_size).items():
        steps = way(Stream(run, options.seed), options.prompts, prompts)
        taken = [next(steps) for _ in range(options.replayed_steps)]
        generated, trained, rounds = (sum(column) for column in zip(*taken, strict=True))
        row = {
            "way": name,
            "tokens generated per token trained": generated / trained,
            "rounds of generation a step": rounds / len(taken),
        }
        report.add(row, [{"generated": g, "trained": t, "rounds": r} for g, t, r in taken])
    return report


PARTS = ("update", "sharing", "phases", "sampling")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a model with a chat template")
    parser.add_argument("--part", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--prompts", type=int, default=8, help="groups of a step (default: 8)")
    parser.add_argument("--group-size", type=int, default=8, help="answers of a group (default: 8)")
    parser.add_argument("--prompt-length", type=int, default=48, help="tokens, of `update` (default: 48)")
    parser.add_argument("--shortest", type=int, default=16, help="answer, tokens, of `update` (default: 16)")
    parser.add_argument("--longest", type=int, default=64, help="answer, tokens (default: 64)")
    parser.add_argument("--max-tokens", type=int, default=2048, help="of a micro-batch (default: 2048)")
    parser.add_argument("--rounds", type=int, default=5, help="updates of each objective (default: 5)")
    parser.add_argument("--warmup", type=int, default=1, help="updates of each before them (default: 1)")
    parser.add_argument("--data", help="prompts of the online runs, parquet (default: the quickstart's arithmetic)")
    parser.add_argument("--gen-batch-size", type=int, default=24, help="prompts of a round at most (default: 24)")
    parser.add_argument("--steps", type=int, default=6, help="of the online runs, beside the first (default: 6)")
    parser.add_argument("--stream", help="folder of an online run without dynamic sampling, to replay instead of a new")
    parser.add_argument("--replayed-steps", type=int, default=500, help="of `sampling` (default: 500)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default: 0)")
    parser.add_argument("--out", type=Path, help="folder of the JSON files (default: benchmarks/results)")
    return parser.parse_args()


def main() -> None:
    options = parse()
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count() or 1))
    folder = Path(tempfile.mkdtemp(prefix="nft", dir="/tmp"))  # short: Ray's sockets are in it
    try:
        for part in options.part:
            if part in ("update", "sharing"):
                report = {"update": measure_update, "sharing": measure_sharing}[part](options)
            else:
                report = {"phases": measure_phases, "sampling": measure_sampling}[part](options, folder)
            out = options.out / f"{report.name}.json" if options.out else None
            print(f"kept in {report.publish(out)}\n", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
