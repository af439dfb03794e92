#!/usr/bin/env bash
#SBATCH --job-name=nft
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
# Online training on the nodes of a Slurm allocation:
#
#   sbatch --nodes=N sh/nft_slurm.sh key=value ...
#   sbatch --nodes=N sh/nft_slurm.sh recipes/nft/RECIPE.sh key=value ...
#
# What sbatch is given wins over the lines above. GPUs per node are taken from the allocation. When the time is over
# the trainer saves (exit code 75) and the job is put back into the queue (`scontrol requeue`), with all that it was
# submitted with; it continues from there. Where the site refuses that, it is submitted again with the same account,
# partition, quality of service, reservation, constraint, nodes, GPUs and time.
# --signal says how many seconds before the end the trainer is told. It stops inside a step: docs/online.md says how
# long that takes.
set -euo pipefail

root=${SLURM_SUBMIT_DIR:-$PWD}
[[ -f $root/sh/env.sh ]] || {
    echo "nft_slurm.sh: submit it from the repository's root" >&2
    exit 2
}
source "$root/sh/env.sh"
port=${RAY_PORT:-6379}
gpus=${SLURM_GPUS_ON_NODE:?no GPUs in this allocation}
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]:?scontrol names no node of this job}
head_ip=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname -I | awk '{print $1}')
export RAY_AUTH_MODE=token RAY_PORT=$port NUM_GPUS=$gpus
# A job that comes back keeps its number.
export STATE_DIR=${TMPDIR:-/tmp}/verl_ext_ray_${SLURM_JOB_ID}_${SLURM_RESTART_COUNT:-0}
RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
export RAY_AUTH_TOKEN

# srun ends what it started when the job ends; `sleep infinity` keeps the step, and with it the node, alive.
srun --nodes=1 --ntasks=1 --nodelist="$head" bash -c "bash '$root/sh/ray_cluster.sh' head && sleep infinity" &
# Workers and the trainer give up soon after they find nobody at the address.
for ((waited = 0; ; waited++)); do
    (exec 3<>"/dev/tcp/$head_ip/$port") 2>/dev/null && break
    ((waited < 180)) || {
        echo "nft_slurm.sh: Ray's head did not come up on $head ($head_ip:$port) within 180 s; see this log" >&2
        exit 1
    }
    sleep 1
done
if ((SLURM_JOB_NUM_NODES > 1)); then
    srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --exclude="$head" \
        bash -c "bash '$root/sh/ray_cluster.sh' worker '$head_ip:$port' && sleep infinity" &
fi

if [[ ${1:-} == *.sh ]]; then
    train=(bash)
else
    train=(
        python -m verl_ext.trainer.fsdp_nft_trainer
        trainer.nnodes="$SLURM_JOB_NUM_NODES" trainer.n_gpus_per_node="$gpus"
    )
fi
RAY_ADDRESS=$head_ip:$port NNODES=$SLURM_JOB_NUM_NODES GPUS=$gpus "${train[@]}" "$@" &
trainer=$!
trap 'kill -TERM $trainer' TERM
# wait returns early, with 143, when the signal comes: wait again for the trainer's own end
while true; do
    code=0
    wait $trainer || code=$?
    kill -0 $trainer 2>/dev/null || break
done

submit_again() { # JOB-AS-SCONTROL-SHOWS-IT ARGUMENT...
    local job=" $1 " pair field options=()
    shift
    for pair in account:Account partition:Partition qos:QOS reservation:Reservation constraint:Features \
        time:TimeLimit job-name:JobName; do
        field=${pair#*:}
        [[ $job =~ [[:space:]]$field=([^[:space:]]+) ]] || continue
        [[ ${BASH_REMATCH[1]} == "(null)" || ${BASH_REMATCH[1]} == "N/A" ]] || options+=("--${pair%:*}=${BASH_REMATCH[1]}")
    done
    sbatch "${options[@]}" --nodes="$SLURM_JOB_NUM_NODES" --gpus-per-node="$gpus" "$root/sh/nft_slurm.sh" "$@"
}

if ((code == 75)) && ! scontrol requeue "$SLURM_JOB_ID"; then
    job=$(scontrol show job --oneliner "$SLURM_JOB_ID")
    if [[ $job == *" JobState=RUNNING "* ]]; then # else Slurm itself has put it back, after a preemption
        submit_again "$job" "$@" || echo "nft_slurm.sh: the run is saved; submit it again to continue it" >&2
    fi
fi
exit "$code"
