#!/usr/bin/env bash
# Offline RL on Qwen2.5-Math-1.5B: 4 answers of the model to each of 100k problems of NuminaMath-CoT are graded, and the
# model is trained on them. OBJECTIVE=dft (the right ones, with DFT), rft (the right ones, with SFT: rejection
# fine-tuning) or nft (right and wrong ones, with offline NFT).
#
# Reproduces   arXiv 2508.05629, Table 2 (read in a public transcription): average avg@16 of five benchmarks 35.43 with
#              DFT, 23.97 with RFT; about 140,000 of 400,000 answers are right. It has no offline NFT.
# Settings     each with its source in recipes/SOURCES.md. The public code has no script of this experiment: temperature
#              and length of sampling are NOT CHECKED, and training is that of qwen2.5-math-1.5b.sh. Those of NFT are
#              of train_7B.sh of NVlabs/NFT, as far as they have a meaning offline.
# Needs        8 GPUs. Hours: neither published nor measured.
# Differs      as qwen2.5-math-1.5b.sh does. Answers are graded by this package (theirs: math-verify). Right answers
#              that were cut off at MAX_TOKENS are left out. The prompt that is trained on is the one that was asked.
#
#   python data_preprocess/numina_cot.py --train_end 100000
#   python data_preprocess/math_dataset.py --splits test
#   bash recipes/dft/qwen2.5-math-1.5b-offline.sh [key=value ...]    # keys of the trainer
#
# Runs on one machine; one that was killed goes on. What was sampled and graded is kept in SAMPLED for all objectives.
# ENGINE (vllm) and MAX_TOKENS (2048) are of the sampling.
# TINY=1 tries it out on this machine's processor. MODEL, DATA, RUN, GPUS and DRY_RUN: see recipes/common.sh.
set -euo pipefail
name=qwen2.5-math-1.5b-offline-${OBJECTIVE:=dft} kind=offline family=qwen2
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
model=${MODEL:-Qwen/Qwen2.5-Math-1.5B}
sampled=${SAMPLED:-checkpoints/qwen2.5-math-1.5b-offline/sampled}

learn_right_answers() { # NAME key=value ...: of the objective
    train_with_torchrun verl_ext.trainer.fsdp_dft_trainer \
        objective.name="$1" \
        model.path="$model" \
        model.use_liger=True \
        data.train_files="$sampled/right.parquet" \
        data.val_files="$DATA/math500/test.parquet" \
        data.prompt_key=prompt \
        data.response_key=extra_info data.response_dict_keys=[answer] \
        data.train_batch_size=256 data.micro_batch_size_per_gpu=4 data.max_length=2048 \
        optim.lr=5e-5 optim.lr_scheduler_type=cosine optim.lr_warmup_steps_ratio=0.1 \
        optim.betas=[0.9,0.95] optim.weight_decay=0.01 optim.clip_grad=1.0 \
        trainer.total_epochs=1 trainer.test_freq=10 trainer.save_freq=50 \
        trainer.experiment_name="$name" trainer.default_local_dir="$RUN" \
        "${@:2}"
}

learn_right_and_wrong_answers() { # key=value ...
    train_with_torchrun verl_ext.trainer.fsdp_nft_trainer \
        objective.neg_weight=1.0 objective.eps=1.0 objective.prompt_weight=dr_grpo \
        model.path="$model" \
        data.rollouts="$sampled/rollouts.parquet" data.temperature=1.0 \
        data.train_batch_size=32 data.max_length=4096 data.truncation=right \
        data.use_dynamic_bsz=True data.max_token_len_per_gpu=4096 \
        optim.lr=1e-6 optim.lr_scheduler_type=constant optim.lr_warmup_steps=10 \
        optim.betas=[0.9,0.999] optim.weight_decay=0.1 optim.clip_grad=1.0 \
        trainer.total_epochs=1 trainer.save_freq=50 \
        trainer.experiment_name="$name" trainer.default_local_dir="$RUN" \
        "$@"
}

case $OBJECTIVE in
dft) learn=(learn_right_answers dft) ;;
rft) learn=(learn_right_answers sft) ;;
nft) learn=(learn_right_and_wrong_answers) ;;
*)
    echo "OBJECTIVE: got $OBJECTIVE, expected dft, rft or nft" >&2
    exit 2
    ;;
esac

run python -m verl_ext.evaluation.graded_samples select "$DATA/numina_cot/train.parquet" "$sampled/problems.parquet"
run python -m verl_ext.evaluation generate model="$model" output_dir="$sampled" engine="${ENGINE:-vllm}" \
    benchmarks="numina_cot:$sampled/problems.parquet" prompt_type=chat \
    n_samples=4 temperature=1.0 top_p=1.0 max_tokens="${MAX_TOKENS:-2048}" fit_context=true seed=0
run python -m verl_ext.evaluation score output_dir="$sampled"
run python -m verl_ext.evaluation.graded_samples collect \
    "$sampled/problems.parquet" "$sampled/graded/default/numina_cot.jsonl" "$sampled"
"${learn[@]}" "$@"
