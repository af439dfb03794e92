"""Writes objectives_reference.json: losses and gradients of the supervised objectives, by hand and in 50 digits.

    python tests/golden/objectives.py

Nothing of the package is used, nor automatic differentiation: each gradient by the logits z is the closed form next to
its loss. With p the softmax of z, y the target and e_y its unit vector, d log p_y / dz = e_y - p.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from mpmath import exp, log, mp, mpf

mp.dps = 50

VOCABULARY, TOKENS = 6, 4


def softmax(logits):
    top = max(logits)
    weights = [exp(z - top) for z in logits]
    return [weight / sum(weights) for weight in weights]


def along_log_prob(p, label, factor):
    """factor * d log p_y / dz."""
    return [factor * ((v == label) - p[v]) for v in range(len(p))]


def power(p, q, label, alpha):
    py = p[label]
    return (1 - py**alpha) / alpha, along_log_prob(p, label, -(py**alpha))


def top_p(p, q, label, threshold):
    py = p[label]
    return ((1 - py), along_log_prob(p, label, -py)) if py >= threshold else (mpf(0), [mpf(0)] * len(p))


def top_log_p(p, q, label, threshold):
    py = p[label]
    return (-log(py), along_log_prob(p, label, mpf(-1))) if py >= threshold else (mpf(0), [mpf(0)] * len(p))


def eaft(p, q, label, alpha, top_k):
    best = sorted(p, reverse=True)[:top_k]
    best = [b / sum(best) for b in best]
    weight = (-sum(b * log(b) for b in best) / 3) ** alpha
    return -weight * log(p[label]), along_log_prob(p, label, -weight)


def asft(p, q, label, kl_weight, direction):
    py = p[label]
    if direction == "forward":
        kl = sum(q[v] * log(q[v] / p[v]) for v in range(len(p)))
        d_kl = [p[v] - q[v] for v in range(len(p))]
    else:
        kl = sum(p[v] * log(p[v] / q[v]) for v in range(len(p)))
        d_kl = [p[v] * (log(p[v] / q[v]) - kl) for v in range(len(p))]
    own = along_log_prob(p, label, -py)
    return -py * log(py) + kl_weight * kl, [a + kl_weight * b for a, b in zip(own, d_kl, strict=True)]


def iw_sft_token(p, q, label):
    weight = min(max(p[label] / q[label], mpf("0.2")), mpf("1.8"))
    return -weight * log(p[label]), along_log_prob(p, label, -weight)


def psft(p, q, label, clip_high):
    ratio = p[label] / q[label]
    return (
        (-ratio, along_log_prob(p, label, -ratio)) if ratio <= 1 + clip_high else (-(1 + clip_high), [mpf(0)] * len(p))
    )


CASES = [
    ("power", {"alpha": "0.5"}, power),
    ("power", {"alpha": "10"}, power),
    ("top_p", {"threshold": "0.1"}, top_p),
    ("top_log_p", {"threshold": "0.25"}, top_log_p),
    ("eaft", {"alpha": "1", "top_k": 4}, eaft),
    ("eaft", {"alpha": "0.5", "top_k": 6}, eaft),
    ("asft", {"kl_weight": "0.1", "direction": "forward"}, asft),
    ("asft", {"kl_weight": "0.05", "direction": "reverse"}, asft),
    ("iw_sft", {"level": "token"}, lambda p, q, label, level: iw_sft_token(p, q, label)),
    ("iw_sft", {"level": "sequence", "exponent": "2"}, None),
    ("psft", {"clip_high": "0.28"}, psft),
]


def numbers(given):
    return {name: value if name in ("direction", "level") else int(value) if name == "top_k" else mpf(value)
            for name, value in given.items()}  # fmt: skip


def main() -> None:
    generator = random.Random(19)

    def table():
        return [[round(generator.gauss(0, 1.5), 3) for _ in range(VOCABULARY)] for _ in range(TOKENS)]

    logits = table()
    other = [[round(z + generator.gauss(0, 0.5), 3) for z in row] for row in logits]
    labels = [generator.randrange(VOCABULARY) for _ in range(TOKENS)]
    labels[0] = max(range(VOCABULARY), key=lambda v: logits[0][v])
    p, q = ([softmax([mpf(str(z)) for z in row]) for row in rows] for rows in (logits, other))
    cases = []
    for name, given, of_token in CASES:
        if of_token is None:  # one row: the weight is of all its tokens
            mean = sum(log(a[y] / b[y]) for a, b, y in zip(p, q, labels, strict=True)) / TOKENS
            weight = min(exp(2 * mean), mpf(16))
            results = [(-weight * log(a[y]), along_log_prob(a, y, -weight)) for a, y in zip(p, labels, strict=True)]
        else:
            results = [of_token(a, b, y, **numbers(given)) for a, b, y in zip(p, q, labels, strict=True)]
        parameters = {k: v if k in ("direction", "level", "top_k") else float(v) for k, v in given.items()}
        losses, gradients = [float(loss) for loss, _ in results], [[float(g) for g in row] for _, row in results]
        cases.append({"name": name, "parameters": parameters, "losses": losses, "gradients": gradients})
    written = {"logits": logits, "other_logits": other, "labels": labels, "cases": cases}
    Path(__file__).with_name("objectives_reference.json").write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
