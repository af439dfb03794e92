"""The part of rollout.py that runs in an environment with vLLM; started by it, by its Python.

It needs neither verl nor verl_ext there.
"""

from __future__ import annotations

import argparse
import os
import random
import time

from harness import hand_back


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", required=True)
    for name in ("slots", "requests", "shortest", "longest"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

    from vllm import LLM, SamplingParams

    model = LLM(options.model, dtype=options.dtype, max_num_seqs=options.slots, max_model_len=512)
    vocab_size = model.llm_engine.model_config.get_vocab_size()
    numbers = random.Random(0)  # as in rollout.requests
    prompts = [
        [numbers.randrange(3, vocab_size) for _ in range(numbers.randint(32, 64))] for _ in range(options.requests)
    ]
    lengths = [numbers.randint(options.shortest, options.longest) for _ in range(options.requests)]
    sampling = [SamplingParams(temperature=1.0, max_tokens=length, ignore_eos=True, logprobs=0) for length in lengths]
    asked = [{"prompt_token_ids": prompt} for prompt in prompts]
    model.generate([{"prompt_token_ids": [3] * 32}], sampling[0], use_tqdm=False)
    started = time.perf_counter()
    outputs = model.generate(asked, sampling, use_tqdm=False)
    seconds = time.perf_counter() - started
    tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    if tokens != sum(lengths):
        raise RuntimeError(f"{tokens} tokens instead of {sum(lengths)}")
    hand_back({"seconds": seconds})


if __name__ == "__main__":
    main()
