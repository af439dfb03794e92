"""The loss head of this package against its peers: time of forward and backward, and memory, of DFT on random inputs.

    python benchmarks/loss_head.py                                              # everything: hours on two cores
    python benchmarks/loss_head.py --hidden 896 --tokens 1024 --rounds 3        # a row of the table: minutes
    python benchmarks/loss_head.py --only 'floor;ours;published'

Contenders, all from hidden states and the weight of the head to the gradients of both:

    floor       the three matrix products alone: logits, gradient of the hidden states, gradient of the weight
    ours        verl_ext.engine.loss_head as the trainers use it for DFT and SFT
    ours, any loss   the same where the loss is not known beforehand (NFT): the logits are computed twice
    published   the expression of the DFT repository: cross-entropy of all logits times the softmax at the label, under
                autocast as its trainer has it
    TRL, logits the dft_loss of TRL before it had a fused head: selective_log_softmax of all logits
    TRL, fused  the head of TRL's SFTTrainer with loss_type="dft" today
    verl        log-probs of all logits, and DFT over them
    verl, fused verl's model.use_fused_kernels=True with the torch backend, and DFT over it
    Liger       its fused linear cross-entropy with use_token_scaling=True; needs a GPU

TRL is there where it is installed (benchmarks/requirements.txt). Memory is above that of the inputs: "peak" all of it,
"beside gradients" without what every contender has to return. `CPU` seconds leave out what other processes took.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from harness import Measures, Report, alternate, medians, megabytes, peak_memory, timed
from torch import Tensor

from verl_ext.engine.loss_head import head_log_probs
from verl_ext.objectives.dft import dft_token_loss

Contender = Callable[[Tensor, Tensor, Tensor], Tensor | None]
"""(hidden states, weight, labels) -> mean DFT loss; None if it left nothing to differentiate."""

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@torch.no_grad()
def floor(hidden: Tensor, weight: Tensor, labels: Tensor) -> None:
    logits = hidden @ weight.t()
    hidden.grad = logits @ weight
    weight.grad = logits.t() @ hidden


def ours(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    log_probs, _ = head_log_probs(hidden, weight, labels, token_loss=dft_token_loss)
    return dft_token_loss(log_probs).mean()


def ours_any_loss(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return dft_token_loss(head_log_probs(hidden, weight, labels)[0]).mean()


def published(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    with torch.autocast(hidden.device.type, dtype=torch.bfloat16, enabled=hidden.dtype == torch.bfloat16):
        logits = F.linear(hidden, weight)
        shifted = logits[None, :, :].contiguous().view(-1, weight.shape[0])
        losses = F.cross_entropy(shifted, labels, reduction="none")
        losses = losses * torch.softmax(shifted, dim=-1).gather(1, labels.unsqueeze(-1)).squeeze(-1).detach()
    return losses.mean()


def trl_logits(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    from trl.trainer.utils import selective_log_softmax

    log_probs = selective_log_softmax(F.linear(hidden, weight), labels)
    return (-log_probs.exp().detach() * log_probs).mean()


def trl_fused(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE, _ChunkedLogProbFunction

    fields = ("log_probs", "entropy", "is_top1")  # what its SFTTrainer asks for
    log_probs = _ChunkedLogProbFunction.apply(
        hidden, weight, None, labels, 1.0, _CHUNKED_LOGPROB_CHUNK_SIZE, None, 1.0, fields
    )[0]
    return (-log_probs * log_probs.exp().detach()).mean()


def verl_plain(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    from verl.utils.torch_functional import logprobs_from_logits

    return dft_token_loss(logprobs_from_logits(F.linear(hidden, weight), labels)).mean()


def verl_fused(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    from verl.utils.experimental.torch_functional import FusedLinearForPPO

    return dft_token_loss(FusedLinearForPPO()(hidden, weight, labels)[0]).mean()


def liger(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    return LigerFusedLinearCrossEntropyLoss(reduction="mean", use_token_scaling=True)(weight, hidden, labels)


def contenders(device: str, only: list[str]) -> dict[str, Contender]:
    """Those that can run here, by name."""
    every: dict[str, Contender] = {
        "floor": floor,
        "ours": ours,
        "ours, any loss": ours_any_loss,
        "published": published,
        "TRL, logits": trl_logits,
        "TRL, fused": trl_fused,
        "verl": verl_plain,
        "verl, fused": verl_fused,
        "Liger": liger,
    }
    if importlib.util.find_spec("trl") is None:
        every = {name: run for name, run in every.items() if not name.startswith("TRL")}
    if device == "cpu":
        del every["Liger"]
    unknown = set(only) - set(every)
    if unknown:
        raise SystemExit(f"--only: cannot run {', '.join(sorted(unknown))} here; there are: {'; '.join(every)}")
    return {name: run for name, run in every.items() if not only or name in only}


def measured(run: Contender, hidden: Tensor, weight: Tensor, labels: Tensor) -> Measures:
    """One forward and backward pass."""
    device = hidden.device.type
    hidden.grad = weight.grad = None

    def whole() -> None:
        loss = run(hidden, weight, labels)
        if loss is not None:
            loss.backward()

    with peak_memory(device) as peak:
        cpu_started = time.process_time()
        seconds = timed(whole, device)
        cpu_seconds = time.process_time() - cpu_started
    gradients = hidden.nbytes + weight.nbytes
    hidden.grad = weight.grad = None
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_mib": megabytes(peak.extra_bytes),
        "beside_gradients_mib": max(megabytes(peak.extra_bytes - gradients), 0.0),
    }


def compare(report: Report, options: argparse.Namespace, dtype: str, channels: int, tokens: int, device: str) -> None:
    """Add the rows of one size and precision."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, channels, generator=generator).to(device, DTYPES[dtype]).requires_grad_()
    weight = (torch.randn(options.vocabulary, channels, generator=generator) / channels**0.5).to(device, DTYPES[dtype])
    weight.requires_grad_()
    labels = torch.randint(0, options.vocabulary, (tokens,), generator=generator).to(device)
    named = {
        name: lambda run=run: measured(run, hidden, weight, labels)
        for name, run in contenders(device, options.only).items()
    }
    results = alternate(named, rounds=options.rounds, warmup=options.warmup)
    middle = {name: medians(runs) for name, runs in results.items()}
    clock = "cpu_seconds" if device == "cpu" else "seconds"
    for name, runs in results.items():
        row = {"T": str(tokens), "H": str(channels), "dtype": dtype, "head": name, "seconds": middle[name]["seconds"]}
        if device == "cpu":
            row["CPU seconds"] = middle[name]["cpu_seconds"]
        for other in ("floor", "published"):
            if other in middle:
                row[f"time / {other}"] = middle[name][clock] / middle[other][clock]
        row["peak MiB"] = middle[name]["peak_mib"]
        row["beside gradients MiB"] = middle[name]["beside_gradients_mib"]
        if "published" in middle:
            row["peak / published"] = middle[name]["peak_mib"] / middle["published"]["peak_mib"]
        report.add(row, runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=151_936, help="words (default: Qwen2.5's)")
    parser.add_argument("--hidden", type=int, nargs="+", default=[896, 1536, 3584], help="channels")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--only", type=lambda text: text.split(";"), default=[], help="contenders, with ; between")
    parser.add_argument("--out", type=Path, help="JSON file (default: benchmarks/results/loss_head.json)")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    report = Report(
        "loss_head", f"Loss head, V = {options.vocabulary:,}: forward and backward of DFT", vars(options), ("trl",)
    )
    report.notes.append(
        f"Medians of {options.rounds} alternating rounds; ratios of "
        + ("CPU seconds" if device == "cpu" else "seconds")
        + ". Memory above the inputs, at its highest."
    )
    for channels, tokens, dtype in itertools.product(options.hidden, options.tokens, options.dtypes):
        compare(report, options, dtype, channels, tokens, device)
    report.publish(options.out)


if __name__ == "__main__":
    main()
