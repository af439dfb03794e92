#!/usr/bin/env bash
# A Ray cluster for training on several machines: start it, look at it, stop it.
#
#   bash sh/ray_cluster.sh head               on the first machine; prints what to run on the others
#   bash sh/ray_cluster.sh worker HOST:PORT   on each other machine
#   bash sh/ray_cluster.sh status             what the cluster has, and what is in use
#   bash sh/ray_cluster.sh stop               ends what this script started on this machine, nothing else
#
#   RAY_PORT        of the head (default: 6379)
#   NUM_GPUS        of this machine (default: what nvidia-smi lists; without one, the number of training processes that
#                   may run here: 1)
#   NUM_CPUS        (default: the cores of this machine; without a GPU at least 32, most of which only wait)
#   DASHBOARD_PORT  where the head takes jobs, `ray job submit` (default: 8265)
#   NODE            a name, for several nodes on one machine (default: head or worker)
#   RAY_TMPDIR      Ray's own files; keep it short (default: /tmp/ray)
#   STATE_DIR       process ids and logs of this script (default: ~/.cache/verl_ext/ray)
#
# Whoever reaches a Ray cluster can run programs on it, so it asks for a token: the head makes one in ~/.ray/auth_token.
# Machines without the head's home directory need a copy of that file, or its content in RAY_AUTH_TOKEN. Ray knows tokens
# from 2.52 on; an older one is refused. RAY_AUTH_MODE=disabled does without, and the dashboard then answers only this
# machine.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
role=${1:-}
state=${STATE_DIR:-$HOME/.cache/verl_ext/ray}
port=${RAY_PORT:-6379}
patience=90 # seconds for a node to come up

fail() {
    echo "ray_cluster.sh: $1" >&2
    exit 2
}

require_tokens() {
    local version
    version=$(python -c 'import importlib.metadata; print(importlib.metadata.version("ray"))')
    python -c 'import sys; sys.exit(tuple(map(int, sys.argv[1].split(".")[:2])) < (2, 52))' "$version" ||
        fail "Ray $version knows no tokens, so that anyone could run programs on its cluster: install Ray 2.52 or newer"
}

gpus_here() {
    nvidia-smi --list-gpus 2>/dev/null | grep -c . || true
}

start() { # NAME ARGUMENT...
    local name=$1 gpus cpus pid log
    shift
    log=$state/$name.log
    if [[ -e $state/$name.pid ]] && kill -0 "$(cat "$state/$name.pid")" 2>/dev/null; then
        fail "$name runs already (process $(cat "$state/$name.pid")); NODE=another-name starts a second one"
    fi
    gpus=$(gpus_here)
    cpus=$(nproc)
    if ((gpus == 0)); then
        gpus=1
        cpus=$((cpus > 32 ? cpus : 32))
    fi
    mkdir -p "$state"
    # Its own session: it outlives this shell. --block: ending this one process ends the whole node.
    setsid nohup ray start --block --disable-usage-stats \
        --num-gpus="${NUM_GPUS:-$gpus}" --num-cpus="${NUM_CPUS:-$cpus}" "$@" >"$log" 2>&1 </dev/null &
    pid=$!
    echo "$pid" >"$state/$name.pid"
    for ((second = 0; second < patience; second++)); do
        grep -q "Ray runtime started" "$log" && return
        if ! kill -0 "$pid" 2>/dev/null; then
            tail -n 5 "$log" >&2
            rm -f "$state/$name.pid"
            fail "$name did not start; the whole log is $log"
        fi
        sleep 1
    done
    kill "$pid"
    rm -f "$state/$name.pid"
    fail "$name did not come up within $patience s; the log is $log"
}

stop() {
    local file files name pid second
    shopt -s nullglob
    # What was started last ends first: a worker whose head is gone waits half a minute for it.
    files=("$state"/*.pid)
    ((${#files[@]})) || return 0
    mapfile -t files < <(ls -t "${files[@]}")
    for file in "${files[@]}"; do
        name=$(basename "$file" .pid)
        pid=$(cat "$file")
        if kill "$pid" 2>/dev/null; then
            for ((second = 0; second < 30; second++)); do
                kill -0 "$pid" 2>/dev/null || break
                sleep 1
            done
            kill -9 "$pid" 2>/dev/null || true
            echo "$name stopped"
        else
            echo "$name had ended before"
        fi
        rm -f "$file"
    done
}

case $role in
head | worker | status)
    source "$root/sh/env.sh"
    export RAY_AUTH_MODE=${RAY_AUTH_MODE:-token}
    [[ $RAY_AUTH_MODE != token ]] || require_tokens
    ;;
esac

case $role in
head)
    # `ray job stop` sends SIGTERM and, this many seconds later, SIGKILL: time to finish a step and save.
    export RAY_JOB_STOP_WAIT_TIME_S=${RAY_JOB_STOP_WAIT_TIME_S:-1800}
    [[ $RAY_AUTH_MODE != token || -n ${RAY_AUTH_TOKEN:-} ]] || ray get-auth-token --generate >/dev/null 2>&1
    dashboard=0.0.0.0
    [[ $RAY_AUTH_MODE == token ]] || dashboard=127.0.0.1
    start "${NODE:-head}" --head --port="$port" --include-dashboard=true --dashboard-host="$dashboard" \
        --dashboard-port="${DASHBOARD_PORT:-8265}" ${RAY_TMPDIR:+--temp-dir="$RAY_TMPDIR"}
    address=$(sed -n "s/.*ray start --address='\([^']*\)'.*/\1/p" "$state/${NODE:-head}.log")
    echo "head started. On each other machine:"
    echo "    bash sh/ray_cluster.sh worker $address"
    echo "then, here, start training with RAY_ADDRESS=$address"
    ;;
worker)
    [[ -n ${2:-} ]] || fail "worker needs the head's HOST:PORT, which \`sh/ray_cluster.sh head\` printed"
    start "${NODE:-worker}" --address="$2"
    echo "worker joined $2"
    ;;
status)
    ray status --address="${2:-${RAY_ADDRESS:-127.0.0.1:$port}}" 2>&1 | grep -v "^ray.exceptions" ||
        fail "no cluster answers at ${2:-${RAY_ADDRESS:-127.0.0.1:$port}}"
    ;;
stop) stop ;;
*)
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
    [[ $role == -h || $role == --help ]] || exit 2
    ;;
esac
