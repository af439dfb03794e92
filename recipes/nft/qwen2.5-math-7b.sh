#!/usr/bin/env bash
# NFT on Qwen2.5-Math-7B with DAPO-Math-17k, online. OBJECTIVE=rft|dapo|grpo|dr_grpo is what the paper compares it with,
# ROLLOUT=sglang generates with SGLang instead of vLLM, all else equal.
#
# Reproduces   arXiv 2505.18116, main table (assets/main_table.png of NVlabs/NFT): average of six benchmarks (avg@32 on
#              AIME and AMC) 51.7 with NFT, 48.3 RFT, 51.2 DAPO, 49.5 GRPO, 49.8 Dr. GRPO, 31.6 of the base model.
# Settings     train_7B.sh of NVlabs/NFT; each with its source in recipes/SOURCES.md.
# Needs        published: 4 machines with 8 H100 each (the repository's README), 320 steps (a public note on the paper);
#              hours neither published nor measured. For trying it out one machine will do; with fewer than 4 GPUs
#              also TP=1, the number of GPUs that share a copy of the model in generation.
# Differs      mean over the tokens of the optimizer step (theirs: sum / 1000, whose scale depends on the number of
#              GPUs; for NFT and RFT actor_rollout_ref.actor.policy_loss.reduction=published); groups that dynamic
#              sampling did not need open the next step; AIME and AMC are validated with one sample a problem (their
#              files hold each problem 32 times). NVlabs/NFT has no settings of GRPO and Dr. GRPO: they are those of
#              objective=grpo and dr_grpo, without dynamic sampling.
#
#   for set in aime24 aime25 amc23 math500 minerva olympiadbench; do python data_preprocess/$set.py; done
#   python data_preprocess/dapo_math_17k.py --boxed
#   bash recipes/nft/qwen2.5-math-7b.sh [key=value ...]                                   # one machine
#   RAY_ADDRESS=HEAD:6379 NNODES=4 bash recipes/nft/qwen2.5-math-7b.sh [key=value ...]    # examples/multinode.md
#
# TINY=1 tries it out on this machine's processor. MODEL, DATA, RUN, GPUS, NNODES and DRY_RUN: see recipes/common.sh.
set -euo pipefail
name=qwen2.5-math-7b-${OBJECTIVE:=nft} kind=nft family=qwen2
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
val=$DATA/evaluation

train_with_ray verl_ext.trainer.fsdp_nft_trainer \
    objective="$OBJECTIVE" \
    actor_rollout_ref.model.path="${MODEL:-Qwen/Qwen2.5-Math-7B}" \
    actor_rollout_ref.model.enable_gradient_checkpointing=True \
    data.train_files="$DATA/dapo_math_17k/train.parquet" \
    data.val_files="[$val/aime24/test.parquet,$val/aime25/test.parquet,$val/amc23/test.parquet,\
$val/math500/test.parquet,$val/minerva_math/test.parquet,$val/olympiadbench/test.parquet]" \
    data.train_batch_size=512 data.gen_batch_size=1536 \
    data.max_prompt_length=512 data.max_response_length=3584 \
    algorithm.filter_groups.max_num_gen_batches=10 \
    reward.reward_kwargs.overlong_buffer_cfg.enable=False \
    actor_rollout_ref.actor.ppo_mini_batch_size=32 actor_rollout_ref.actor.ppo_epochs=1 \
    actor_rollout_ref.actor.use_dynamic_bsz=True actor_rollout_ref.actor.ppo_max_token_len_per_gpu=4096 \
    actor_rollout_ref.actor.optim.lr=1e-6 actor_rollout_ref.actor.optim.lr_warmup_steps=10 \
    actor_rollout_ref.actor.optim.lr_scheduler_type=constant actor_rollout_ref.actor.optim.weight_decay=0.1 \
    actor_rollout_ref.actor.grad_clip=1.0 actor_rollout_ref.actor.entropy_coeff=0 \
    actor_rollout_ref.rollout.name="${ROLLOUT:-vllm}" \
    actor_rollout_ref.rollout.n=16 actor_rollout_ref.rollout.temperature=1.0 actor_rollout_ref.rollout.top_p=1.0 \
    actor_rollout_ref.rollout.tensor_model_parallel_size="${TP:-4}" \
    actor_rollout_ref.rollout.gpu_memory_utilization=0.7 \
    actor_rollout_ref.rollout.enable_chunked_prefill=True actor_rollout_ref.rollout.max_num_batched_tokens=4096 \
    actor_rollout_ref.rollout.val_kwargs.temperature=0.6 actor_rollout_ref.rollout.val_kwargs.top_p=0.7 \
    actor_rollout_ref.rollout.val_kwargs.n=1 \
    trainer.nnodes="$NNODES" trainer.n_gpus_per_node="$GPUS" \
    trainer.total_training_steps=320 trainer.val_before_train=False trainer.test_freq=2 \
    trainer.save_freq=2 trainer.max_actor_ckpt_to_keep=2 \
    trainer.experiment_name="$name" trainer.default_local_dir="$RUN" \
    "$@"
