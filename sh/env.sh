# shellcheck shell=bash
# Sourced by the other scripts: makes the Python environment if need be (sh/install.sh) and puts it on the PATH.
VERL_EXT_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bash "$VERL_EXT_ROOT/sh/install.sh" || return
VIRTUAL_ENV=$(cd "${VENV:-$VERL_EXT_ROOT/.venv}" && pwd)
export VERL_EXT_ROOT VIRTUAL_ENV PATH="$VIRTUAL_ENV/bin:$PATH"
unset PYTHONHOME

# Processes that share few cores must sleep while they wait: OpenMP's default, spinning, slows them tenfold.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
