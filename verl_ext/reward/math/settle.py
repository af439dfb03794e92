"""The verdict on two answers, with everything that may hang: text, symbols, sets, math-verify. For the confined worker."""

from __future__ import annotations

from verl_ext.reward.math.equivalence import LAST_STAGE, Finding, equivalent
from verl_ext.reward.math.last_resort import last_resort
from verl_ext.reward.math.real_sets import same_set
from verl_ext.reward.math.symbolic import compare
from verl_ext.reward.policy import GradingPolicy


def settle(gold: str, answer: str, policy: GradingPolicy, trace: list[Finding] | None = None) -> bool:
    """Whether `answer` is `gold`; the arguments are those of `equivalent`.

    Raises:
        Unparsable: when nothing decided and the gold cannot be parsed.
    """
    verdict = equivalent(gold, answer, policy, _symbolic, trace)
    if verdict is None:
        verdict = last_resort(gold, answer)
        if trace is not None:
            trace.append(Finding(LAST_STAGE, gold, answer, verdict))
    return verdict


def _symbolic(gold: str, answer: str, kind: str) -> bool | None:
    return same_set(gold, answer) if kind == "set" else compare(gold, answer, kind)
