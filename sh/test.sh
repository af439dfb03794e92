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
python -m pytest --durations=15 --durations-min=1 "${select[@]}" "$@"
