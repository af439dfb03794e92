"""Print what moved in verl since the table was written; `--write` writes it anew. See the package."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version

from verl_ext.verl_contract import table


def main(arguments: Sequence[str]) -> int:
    """Returns 0 where verl is as the table says, 1 where it is not, 2 for arguments that mean nothing."""
    if list(arguments) not in ([], ["--write"]):
        print("usage: python -m verl_ext.verl_contract [--write]", file=sys.stderr)
        return 2
    if arguments:
        table.write()
    known = table.load()
    names = sum(len(group["uses"]) for group in known["modules"].values()) + len(known["through_objects"])
    print(f"verl {version('verl')} is installed; the table is of {known['verl']} and has {names} names")
    problems = {"moved in verl": table.moved(), "not in the table": table.unlisted()}
    for title, lines in problems.items():
        print(f"{title}: {len(lines)}")
        for line in lines:
            print(f"  {line}")
    return int(any(problems.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
