#!/usr/bin/env bash
# The SFT stage of QED-Nano: Qwen3-4B-Thinking-2507 learns olympiad proofs with their reasoning, from FineProofs-SFT.
# OBJECTIVE=dft trains with DFT instead, all else equal; for that there is no published result.
#
# Reproduces   arXiv 2604.04898 and the model card of QED-Nano SFT: 39.5 on IMO-ProofBench and 33.3 on ProofBench
#              (avg@3), 57.5 on IMO-AnswerBench; before: 20.4, 19.5, 55.8. Proofs are graded by Gemini 3 Pro.
# Settings     the script on that card; each with its source in recipes/SOURCES.md.
# Needs        8 H100 for 5 hours with the card's script; with this one, not measured.
# Differs      Ulysses sequence parallelism (SP, 4) and packing where theirs has 2 rows on each of 8 GPUs and 2
#              accumulation steps: the same 32 rows a step. Mean over the tokens of all 32; the prompt is not learned;
#              parameters in fp32, computation in bf16. Weight decay, betas and clipping are transformers' defaults,
#              which TRL takes where a script says nothing: NOT CHECKED against the card.
#
#   python data_preprocess/fineproofs_sft.py
#   bash recipes/qed_nano/qwen3-4b-thinking-sft.sh [key=value ...]
#
# TINY=1 tries it out on this machine's processor. MODEL, DATA, RUN, GPUS, NNODES and DRY_RUN: see recipes/common.sh.
set -euo pipefail
name=qwen3-4b-thinking-${OBJECTIVE:=sft} kind=proofs family=qwen3 SP=${SP:-4}
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

train_with_torchrun verl_ext.trainer.fsdp_dft_trainer \
    objective.name="$OBJECTIVE" \
    model.path="${MODEL:-Qwen/Qwen3-4B-Thinking-2507}" \
    model.enable_gradient_checkpointing=True \
    model.use_fused_kernels=True \
    engine.ulysses_sequence_parallel_size="$SP" \
    data.train_files="$DATA/fineproofs_sft/train.parquet" \
    data.messages_key=messages \
    data.train_batch_size=32 data.max_length=45056 data.truncation=right \
    data.use_dynamic_bsz=True data.max_token_len_per_gpu=$((45056 / SP)) \
    optim.lr=3e-5 optim.lr_scheduler_type=cosine optim.lr_warmup_steps_ratio=0.03 \
    optim.betas=[0.9,0.999] optim.weight_decay=0 optim.clip_grad=1.0 \
    trainer.total_epochs=5 trainer.total_training_steps=620 trainer.save_freq=124 \
    trainer.experiment_name="$name" trainer.default_local_dir="$RUN" \
    "$@"
