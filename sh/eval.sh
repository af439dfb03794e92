#!/usr/bin/env bash
# Evaluate a model as the DFT paper does: math500, minerva_math, olympiadbench, aime24 and amc23, top_p 1, 4,096 tokens,
# graded as the published harness grades. Takes what the DFT repository's script of this name takes:
#
#   bash sh/eval.sh PROMPT_TYPE MODEL_NAME_OR_PATH OUTPUT_DIR N_SAMPLING TEMPERATURE
#
#   bash sh/eval.sh qwen-boxed Qwen/Qwen2.5-Math-1.5B outputs/eval/base 16 1
#
# From the environment: BENCHMARKS, DATA_DIR (their files, instead of the hub), ENGINE (vllm, or transformers where vLLM
# is not installed), GRADER (qwen), CUDA_VISIBLE_DEVICES (each GPU gets a copy of the model).
# A run that was killed goes on when it is started again. For everything else: python -m verl_ext.evaluation --help
set -euo pipefail

if (($# != 5)); then
    echo "eval.sh: got $# arguments, expected PROMPT_TYPE MODEL_NAME_OR_PATH OUTPUT_DIR N_SAMPLING TEMPERATURE" >&2
    exit 2
fi

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/sh/env.sh"

engine=${ENGINE:-$(python -c 'from importlib.util import find_spec; print("vllm" if find_spec("vllm") else "transformers")')}

python -m verl_ext.evaluation run \
    prompt_type="$1" model="$2" output_dir="$3" n_samples="$4" temperature="$5" \
    top_p=1 max_tokens=4096 fit_context=true seed=0 \
    benchmarks="${BENCHMARKS:-math500,minerva_math,olympiadbench,aime24,amc23}" data_dir="${DATA_DIR:-null}" \
    engine="$engine" grader="${GRADER:-qwen}"
