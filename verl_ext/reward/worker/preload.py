"""Imported once by the process that worker processes are forked from, so that none of them starts cold.

Parsing the first expressions builds latex2sympy's tables; doing it here saves each worker about a second.
"""

from verl_ext.reward.grading import Undecided
from verl_ext.reward.policy import STRICT
from verl_ext.reward.worker.confined import decide

_PAIRS = (
    (r"\sqrt{20}", r"2\sqrt{5}"),
    (r"x^2+2x+1", r"(x+1)^2"),
    (r"\frac{n(n+1)}{2}", r"\frac{n^2+n}{2}"),
    (r"y=2x+3", r"2x-y+3=0"),
    (r"\sin(2x)", r"2\sin x\cos x"),
    (r"\log_2 8", r"\ln e^3"),
    (r"\begin{pmatrix} \sqrt{2} \\ 2 \end{pmatrix}", r"\begin{pmatrix} \sqrt{3} \\ 2 \end{pmatrix}"),
    (r"e^{i\pi}+\pi", r"\pi-1"),
    (r"\binom{n}{2}", r"\frac{n(n-1)}{2}"),
    (r"10!+\sqrt{2}", r"3628800"),
)

for _gold, _prediction in _PAIRS:
    decide(Undecided(_gold, _prediction, STRICT, "", 0.0))
