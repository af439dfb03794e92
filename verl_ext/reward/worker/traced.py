"""One comparison in a confined process of its own, for `explain`: each finding is written as soon as it is made.

Reads one job as JSON from its input, writes findings and then the outcome as JSON lines. The kernel ends it when its
time is up, and what it wrote until then stays readable.
"""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import asdict

from verl_ext.reward.grading import Undecided
from verl_ext.reward.math.equivalence import Finding
from verl_ext.reward.policy import GradingPolicy
from verl_ext.reward.worker import confined


class _Written(list[Finding]):
    """A trace that leaves this process with each finding."""

    def append(self, finding: Finding) -> None:
        super().append(finding)
        _write(asdict(finding))


def _write(told: dict[str, object]) -> None:
    print(json.dumps(told), flush=True)


def main() -> None:
    job = json.loads(sys.stdin.readline())
    undecided = Undecided(**{**job["undecided"], "policy": GradingPolicy(**job["undecided"]["policy"])})
    if undecided.task:
        import reasoning_gym  # noqa: F401 - loaded before this process gives up what loading needs
    confined.confine(job["memory_mb"])
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, job["timeout_s"])
    _write({"outcome": confined.decide(undecided, _Written())})


if __name__ == "__main__":
    main()
