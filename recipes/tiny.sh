# shellcheck shell=bash
# Sourced by common.sh with TINY=1: the recipe as it stands, but for what is listed here, on this machine's processor.
# Goes before the arguments of the command line, which therefore win.
tiny=${TINY_DIR:-outputs/tiny}/$name
MODEL=$tiny/model DATA=$tiny/data RUN=$tiny/run
NNODES=1
case $kind in
sft)
    GPUS=1
    set -- model.use_liger=False data.train_batch_size=32 \
        trainer.total_training_steps=2 trainer.resume_mode=disable "$@"
    ;;
proofs)
    GPUS=2 SP=2
    set -- trainer.total_training_steps=2 trainer.resume_mode=disable "$@"
    ;;
offline)
    GPUS=1 ENGINE=transformers MAX_TOKENS=24 SAMPLED=${TINY_DIR:-outputs/tiny}/sampled
    set -- model.use_liger=False data.train_batch_size=8 \
        trainer.total_training_steps=2 trainer.resume_mode=disable "$@"
    ;;
nft)
    GPUS=$((${SP:-1} > 1 ? 2 : 1)) SP=$((${SP:-1} > 1 ? 2 : 1)) TP=1 ROLLOUT=hf
    set -- \
        data.train_batch_size=4 data.gen_batch_size=8 data.max_response_length=16 \
        actor_rollout_ref.rollout.n=4 actor_rollout_ref.actor.ppo_mini_batch_size=2 \
        reward.reward_kwargs.overlong_buffer_cfg.len=4 \
        trainer.total_training_steps=2 trainer.resume_mode=disable "$@"
    ;;
*)
    echo "tiny.sh: no data of kind $kind" >&2
    exit 2
    ;;
esac
export VERL_PLATFORM=cpu OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

{
    echo "TINY=1: 2 steps of $name on the CPU, with a tiny random $family model and made-up problems in $tiny."
    echo "TINY=1: it shows that the recipe runs; its numbers say nothing about the method."
    echo "TINY=1: $GPUS process(es); other than the recipe: $*"
} >&2
run python "$recipes/tiny.py" "$family" "$kind" "$tiny"
