# shellcheck shell=bash
# Sourced by the other scripts: makes the Python environment if need be (sh/install.sh) and puts it on the PATH.
VERL_EXT_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bash "$VERL_EXT_ROOT/sh/install.sh" || return
VIRTUAL_ENV=$(cd "${VENV:-$VERL_EXT_ROOT/.venv}" && pwd)
export VERL_EXT_ROOT VIRTUAL_ENV PATH="$VIRTUAL_ENV/bin:$PATH"
unset PYTHONHOME

# Processes that share few cores must sleep while they wait: OpenMP's default, spinning, slows them tenfold. A look or
# ten thousand before (0.1 ms) spans the gaps between operations, a fifth of the time where one process has the cores.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-10000}
