"""The loss head of this package against its peers: time of forward and backward, and memory, of DFT on random inputs.

    python benchmarks/loss_head.py                                              # everything: hours on two cores
    python benchmarks/loss_head.py --hidden 896 --tokens 1024 --rounds 3        # a row of the table: minutes
    python benchmarks/loss_head.py --only 'floor;ours;published'

Contenders, all from hidden states and the weight of the head to the gradients of both:

    floor       the three matrix products alone: logits, gradient of the hidden states, gradient of the weight
    ours        verl_ext.engine.loss_head as the trainers use it for DFT and SFT
    ours, any loss   the same where the loss is not known beforehand (NFT): the logits are computed twice
    plain loop  what one writes without a library: chunks of tokens, each with its own backward pass
    published   the expression of the DFT repository: cross-entropy of all logits times the softmax at the label, under
                autocast as its trainer has it
    TRL, logits the dft_loss of TRL before it had a fused head: selective_log_softmax of all logits
    TRL, fused  the head of TRL's SFTTrainer with loss_type="dft" today
    verl        log-probs of all logits, and DFT over them
    verl, fused verl's model.use_fused_kernels=True with the torch backend, and DFT over it
    Liger       its fused linear cross-entropy with use_token_scaling=True; needs a GPU

--profile shows instead where the time of each goes: matrix products, softmax, copies and sums, and all else
(kept in benchmarks/results/loss_head_profile.json).

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

_LOOP_TOKENS = 256
_PRODUCTS = {"mm", "addmm", "addmm_", "bmm", "mv"}
_KINDS = {
    "softmax": {
        "_softmax", "_softmax_backward_data", "_log_softmax", "_log_softmax_backward_data", "exp", "exp_", "log_",
        "logsumexp", "amax", "max", "sub", "sub_", "mul", "mul_", "div", "div_", "sum",
    },
    "copies, fills, sums of gradients": {"copy_", "fill_", "zero_", "cat", "add", "add_", "_foreach_add_"},
}  # fmt: skip

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
        logits = F.linear(hidden[None], weight)
        shifted = logits[..., :-1, :].contiguous().view(-1, weight.shape[0])  # the last token predicts nothing: a copy
        losses = F.cross_entropy(shifted, labels[:-1], reduction="none")
        losses = losses * torch.softmax(shifted, dim=-1).gather(1, labels[:-1, None]).squeeze(-1).detach()
    return losses.mean()


def plain_loop(hidden: Tensor, weight: Tensor, labels: Tensor) -> None:
    for own_hidden, own_labels in zip(hidden.split(_LOOP_TOKENS), labels.split(_LOOP_TOKENS), strict=True):
        logits = F.linear(own_hidden, weight).float()
        log_probs = -F.cross_entropy(logits, own_labels, reduction="none")
        (-log_probs.exp().detach() * log_probs).sum().div(len(labels)).backward()


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
        "plain loop": plain_loop,
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


def profiled(run: Contender, hidden: Tensor, weight: Tensor, labels: Tensor) -> dict[str, float]:
    """Seconds by kind of operation, of one forward and backward pass after another that warms up."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if hidden.is_cuda:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    for _ in range(2):
        hidden.grad = weight.grad = None
        with torch.profiler.profile(activities=activities) as profile:
            loss = run(hidden, weight, labels)
            if loss is not None:
                loss.backward()
    seconds: dict[str, float] = dict.fromkeys(["matrix products", *_KINDS, "other"], 0.0)
    for event in profile.key_averages():
        name = event.key.removeprefix("aten::")
        kind = (
            "matrix products"
            if name in _PRODUCTS
            else next((k for k, names in _KINDS.items() if name in names), "other")
        )
        seconds[kind] += (event.self_device_time_total if hidden.is_cuda else event.self_cpu_time_total) / 1e6
    return seconds


def random_inputs(
    vocabulary: int, dtype: str, channels: int, tokens: int, device: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, weight and labels."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, channels, generator=generator).to(device, DTYPES[dtype]).requires_grad_()
    weight = (torch.randn(vocabulary, channels, generator=generator) / channels**0.5).to(device, DTYPES[dtype])
    labels = torch.randint(0, vocabulary, (tokens,), generator=generator).to(device)
    return hidden, weight.requires_grad_(), labels


def compare(report: Report, options: argparse.Namespace, dtype: str, channels: int, tokens: int, device: str) -> None:
    """Add the rows of one size and precision."""
    inputs = random_inputs(options.vocabulary, dtype, channels, tokens, device)
    named = {name: lambda run=run: measured(run, *inputs) for name, run in contenders(device, options.only).items()}
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


def add_profile(
    report: Report, options: argparse.Namespace, dtype: str, channels: int, tokens: int, device: str
) -> None:
    """Add the rows of --profile for one size and precision."""
    inputs = random_inputs(options.vocabulary, dtype, channels, tokens, device)
    for name, run in contenders(device, options.only).items():
        report.add({"T": str(tokens), "H": str(channels), "dtype": dtype, "head": name, **profiled(run, *inputs)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=151_936, help="words (default: Qwen2.5's)")
    parser.add_argument("--hidden", type=int, nargs="+", default=[896, 1536, 3584], help="channels")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--only", type=lambda text: text.split(";"), default=[], help="contenders, with ; between")
    parser.add_argument("--profile", action="store_true", help="where the time goes, instead of ratios")
    parser.add_argument("--out", type=Path, help="JSON file (default: benchmarks/results/loss_head.json)")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    report = Report(
        "loss_head_profile" if options.profile else "loss_head",
        f"Loss head, V = {options.vocabulary:,}: forward and backward of DFT",
        vars(options),
        ("trl",),
    )
    report.notes.append(
        f"Medians of {options.rounds} alternating rounds; ratios of "
        + ("CPU seconds" if device == "cpu" else "seconds")
        + ". Memory above the inputs, at its highest."
    )
    if options.profile:
        report.notes = ["Seconds by kind of operation, from torch's profiler."]
    row_of = add_profile if options.profile else compare
    for channels, tokens, dtype in itertools.product(options.hidden, options.tokens, options.dtypes):
        row_of(report, options, dtype, channels, tokens, device)
    report.publish(options.out)


if __name__ == "__main__":
    main()
