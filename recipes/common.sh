# shellcheck shell=bash
# Sourced by every recipe, which says before what it is:
#
#   name     of the run
#   kind     of its data: sft, nft, offline or proofs (recipes/tiny.py)
#   family   of its model: qwen2, qwen3, llama3 or deepseek (recipes/tiny.py)
#
# and read from the environment, so that a recipe holds no path and no cluster:
#
#   MODEL        folder or hub id of the model                   (the recipe's)
#   DATA         folder of what data_preprocess/ wrote           (data)
#   RUN          folder for checkpoints and metrics              (checkpoints/NAME)
#   GPUS         of each machine                                 (8)
#   NNODES       machines                                        (1)
#   NODE_RANK, MASTER_ADDR, MASTER_PORT   with torchrun on several machines
#   DRY_RUN=1    prints the commands, quoted, and runs none
#   TINY=1       2 steps on this machine's processor with a tiny model and made-up data (recipes/tiny.sh)
#
# `python` and `torchrun` are those of the environment that is active; `source sh/env.sh` activates ours.
: "${name:?common.sh is sourced by a recipe}" "${kind:?}" "${family:?}"

recipes=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
DATA=${DATA:-data}
RUN=${RUN:-checkpoints/$name}
GPUS=${GPUS:-8}
NNODES=${NNODES:-1}

run() { # COMMAND ...
    if [[ ${DRY_RUN:-} == 1 ]]; then
        printf '%q ' "$@"
        printf '\n'
    else
        "$@"
    fi
}

train_with_torchrun() { # MODULE key=value ...: one process a GPU, on each of NNODES machines
    local launcher=(--standalone)
    if ((NNODES > 1)); then
        launcher=(
            --nnodes="$NNODES" --node_rank="${NODE_RANK:?of this machine, from 0}"
            --master_addr="${MASTER_ADDR:?of the machine with NODE_RANK=0}" --master_port="${MASTER_PORT:-29500}"
        )
    fi
    launch torchrun "${launcher[@]}" --nproc_per_node="$GPUS" -m "$@"
}

train_with_ray() { # MODULE key=value ...: on the cluster of RAY_ADDRESS, or on one of its own on this machine
    launch python -m "$@"
}

launch() { # COMMAND ...: takes the place of the shell, so that a signal reaches the trainer, which then saves
    if [[ ${DRY_RUN:-} == 1 ]]; then
        run "$@"
    else
        exec "$@"
    fi
}

if [[ ${TINY:-} == 1 ]]; then
    # shellcheck source=recipes/tiny.sh
    source "$recipes/tiny.sh"
fi
