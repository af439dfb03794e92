#!/usr/bin/env bash
# All checks of the repository: lint, format, the syntax of the scripts, the tests.
#
#   bash sh/test.sh [--fast] [pytest arguments]
#
# --fast leaves out the tests marked `slow`. Tests marked `gpu` are skipped where there is no GPU.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
source sh/env.sh

select=()
if [[ ${1:-} == --fast ]]; then
    select=(-m "not slow")
    shift
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
