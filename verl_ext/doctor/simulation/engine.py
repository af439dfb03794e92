"""The project's engine, built from a launch's configuration on fake tensors, and one of its steps.

Run as a process of its own (`python -m verl_ext.doctor.simulation.engine`), which reads a request in JSON on its
standard input: torch is told of a device that is not there, and of tensors without content. The engine, its wrapping
by FSDP2, the attention and the loss head are those of a run. Bypassed are what needs numbers: the loading of weights,
verl's `prepare_model_inputs` and `prepare_model_outputs`, and the reading of documents from positions.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from verl_ext.cli import user_errors_exit
from verl_ext.doctor.simulation import fake_cuda
from verl_ext.errors import UserError

PARAMETERS, GRADIENTS, OPTIMIZER = "parameters", "gradients", "optimizer"
GATHERED, REDUCED, HEAD = "gathered parameters", "gradients being reduced", "loss head"
ACTIVATIONS, BACKWARD, TEMPORARY = "activations", "temporary in backward", "temporary in optimizer"
CATEGORIES = (PARAMETERS, GRADIENTS, OPTIMIZER, GATHERED, ACTIVATIONS, HEAD, REDUCED, BACKWARD, TEMPORARY, "other")


def main() -> int:
    request = json.load(sys.stdin)
    with user_errors_exit():
        fake_cuda.install(int(request["device_memory"]))
        with contextlib.redirect_stdout(sys.stderr):  # verl prints; the answer alone goes to stdout
            answer = _simulate(request)
        json.dump(answer, sys.stdout)
        return 0


def why_not(config: Any) -> str | None:
    """The setting of a supervised run that cannot be simulated, as `key=value`; None if all can."""
    engine, model = config.engine, config.model
    refused = {
        "engine.strategy": engine.strategy != "fsdp2" and engine.strategy,
        "engine.param_offload": engine.param_offload,
        "engine.optimizer_offload": engine.optimizer_offload,
        "engine.offload_policy": engine.offload_policy,
        "model.use_fused_kernels": model.use_fused_kernels,
        "model.use_liger": model.use_liger,
        "model.enable_activation_offload": model.enable_activation_offload,
        "model.use_remove_padding": not model.use_remove_padding and "False",
    }
    return next((f"{key}={value}" for key, value in refused.items() if value), None)


def _simulate(request: dict[str, Any]) -> dict[str, Any]:
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    os.environ |= {"RANK": "0", "WORLD_SIZE": str(request["ranks"]), "LOCAL_RANK": "0", "VERL_PLATFORM": "nvidia"}
    os.environ |= {"VERL_ENGINE_VENDOR": "verl_ext", "VERL_ENGINE_DEVICE": "cuda"}
    import torch.distributed as dist
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from verl_ext.doctor.composition import CONFIGS
    from verl_ext.doctor.plan import training_plan
    from verl_ext.trainer.run.command_line import compose_config

    name, vocabulary = CONFIGS["dft"]
    config = compose_config(name, request["arguments"], vocabulary)
    plan = training_plan(config, "dft", ranks=request["ranks"], rows=None, on_gpu=True)
    with tempfile.TemporaryDirectory() as folder:
        _write_model(Path(folder), request["model"])
        dist.init_process_group("fake", rank=0, world_size=request["ranks"], store=FakeStore())
        engine = _new_engine(config, folder)
        with FakeTensorMode(allow_non_fake_inputs=True), _without_numbers():
            with _weights_are_not_loaded():
                engine._build_model_optimizer()
            return _Steps(engine, config, plan).run()


def _write_model(folder: Path, values: dict[str, Any]) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    values = dict(values)
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    config.architectures = [AutoModelForCausalLM._model_mapping[type(config)].__name__]
    config.save_pretrained(folder)


def _new_engine(config: Any, folder: str):
    from omegaconf import open_dict
    from verl.utils.config import omega_conf_to_dataclass
    from verl.workers.engine import EngineRegistry

    from verl_ext.engine.registration import register_engines
    from verl_ext.trainer.run.launch import complete_config

    register_engines()
    with open_dict(config):
        config.model.path, config.model.tokenizer_path = folder, None
        config.model.load_tokenizer = False
    complete_config(config, "cuda")
    optimizer = omega_conf_to_dataclass(config.optim)
    optimizer.total_training_steps = 100  # of the learning rate's schedule, which holds no tensor
    return EngineRegistry.new(
        model_type="language_model",
        backend=config.engine.strategy,
        model_config=omega_conf_to_dataclass(config.model),
        engine_config=omega_conf_to_dataclass(config.engine),
        optimizer_config=optimizer,
        checkpoint_config=omega_conf_to_dataclass(config.checkpoint),
    )


@contextlib.contextmanager
def _replaced(owner: Any, **functions: Any) -> Iterator[None]:
    before = {name: getattr(owner, name) for name in functions}
    for name, function in functions.items():
        setattr(owner, name, function)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(owner, name, function)


@contextlib.contextmanager
def _weights_are_not_loaded() -> Iterator[None]:
    """The model is made of its configuration, and sharded where it is."""
    import torch
    import verl.utils.model as verl_model
    import verl.workers.engine.fsdp.transformer_impl as impl

    real = verl_model.get_hf_auto_model_class

    class FromConfig:
        def __init__(self, auto) -> None:
            self.auto = auto

        def from_pretrained(self, pretrained_model_name_or_path, torch_dtype, config, trust_remote_code):
            return self.auto.from_config(config, dtype=torch_dtype)

    with (
        _replaced(verl_model, get_hf_auto_model_class=lambda hf_config: FromConfig(real(hf_config))),
        _replaced(
            impl,
            fsdp2_load_full_state_dict=lambda *_, **__: None,
            get_init_weight_context_manager=lambda **_: lambda: torch.device("cuda"),
        ),
        _replaced(torch.nn.Module, _apply=_apply),
    ):
        yield


def _apply(module, fn, recurse: bool = True):
    """`torch.nn.Module._apply` that sets new parameters: torch exchanges contents, which fake tensors cannot."""
    import torch

    done: dict[int, Any] = {}

    def visit(part) -> None:
        for child in part.children():
            visit(child)
        for key, parameter in part._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in done:
                with torch.no_grad():
                    new = fn(parameter)
                same = new.device == parameter.device and new.dtype == parameter.dtype
                done[id(parameter)] = parameter if same else torch.nn.Parameter(new, parameter.requires_grad)
            part._parameters[key] = done[id(parameter)]
        for key, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[key] = fn(buffer)

    visit(module)
    return module


@contextlib.contextmanager
def _without_numbers() -> Iterator[None]:
    """A loss, a norm: any number will do. Gradients are taken to be what the head expected."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensor

    from verl_ext.engine import loss_head

    def or_else(name: str, value: Any):
        real = getattr(torch.Tensor, name)
        return lambda self: value if isinstance(self, FakeTensor) else real(self)

    numbers = {"item": or_else("item", 1.0), "__bool__": or_else("__bool__", True)}
    numbers["__float__"] = or_else("__float__", 1.0)
    with (
        _replaced(torch.Tensor, **numbers),
        _replaced(loss_head, _factor_between=lambda expected, found: found.new_ones(())),
    ):
        yield


class _Steps:
    """Two steps of the engine: the first makes the optimizer's state, the second has it from the beginning."""

    def __init__(self, engine, config, plan) -> None:
        import torch

        from verl_ext.doctor.simulation.record import Recorder
        from verl_ext.engine.attention import Documents
        from verl_ext.objectives.registry import get_objective

        self.engine, self.plan = engine, plan
        self.token_loss = get_objective(config.objective.name)
        self.row = min(config.data.max_length, plan.max_row)
        self.rows = max(1, plan.micro_tokens * plan.sp_size // self.row)
        self.tokens = self.rows * self.row
        self.device = torch.device("cuda:0")
        boundaries = list(range(0, self.tokens + 1, self.row))
        self.documents = Documents(torch.empty(len(boundaries), dtype=torch.int32, device=self.device), boundaries)
        if self.tokens % plan.sp_size:
            raise UserError(
                f"--simulate: {self.tokens} tokens of a micro-batch cannot be shared by {plan.sp_size} ranks"
            )
        self.inputs = [
            torch.zeros(1, self.tokens // plan.sp_size, dtype=torch.long, device=self.device) for _ in range(3)
        ]
        self.recorder = Recorder(self.device)

    def run(self) -> dict[str, Any]:
        from verl.utils.ulysses import set_ulysses_sequence_parallel_group

        from verl_ext.engine import attention

        recorder, module = self.recorder, self.engine.module
        if self.plan.sp_size > 1:
            set_ulysses_sequence_parallel_group(self.engine.ulysses_parallel_group)
        module.train()
        self._name_modules()
        steps = {}
        known = {"documents_from_position_ids": lambda _: self.documents}
        with recorder, self._categories(), _replaced(attention, **known):
            recorder.claim((_local(p) for p in module.parameters()), PARAMETERS)
            recorder.claim((_local(b) for b in module.buffers()), PARAMETERS)
            for name in ("first step", "later steps"):
                recorder.peaks, recorder.timeline, recorder.flops, recorder.sent = {}, [], 0.0, Counter()
                self._step()
                steps[name] = {moment: vars(peak) for moment, peak in recorder.peaks.items()}
        return {
            "tokens": self.tokens,
            "rows": self.rows,
            "micro_batches": self.plan.micro_batches,
            "ranks": self.plan.ranks,
            "sp_size": self.plan.sp_size,
            "head": self.engine.loss_head,
            "steps": steps,
            "kept": recorder.now(),
            "flops": self.flops,
            "sent": dict(self.sent),
            "timeline": recorder.timeline,
        }

    def _step(self) -> None:
        recorder, count = self.recorder, self.plan.micro_batches
        self.engine.optimizer_zero_grad()
        self.flops, self.sent = 0.0, Counter()
        # All but the last are alike, and the last is the one that reduces: one stands for those before it.
        for is_last in (False, True) if count > 1 else (True,):
            times = 1 if is_last else count - 1
            flops, sent = recorder.flops, Counter(recorder.sent)
            self._micro_batch(is_last)
            self.flops += times * (recorder.flops - flops)
            for name, size in (recorder.sent - sent).items():
                self.sent[name] += times * size
        sent = Counter(recorder.sent)
        recorder.moment, recorder.module = "optimizer", "AdamW"
        with recorder.category(TEMPORARY):
            self.engine.optimizer_step()
        recorder.moment = None
        self.sent += recorder.sent - sent
        states = (value for state in self.engine.optimizer.state.values() for value in state.values())
        recorder.claim((_local(value) for value in states), OPTIMIZER)

    def _micro_batch(self, is_last: bool) -> None:
        import torch
        from verl.utils.ulysses import gather_outputs_and_unpad

        from verl_ext.engine.fsdp import token_log_probs
        from verl_ext.engine.model_head import HeadRequest

        engine, recorder = self.engine, self.recorder
        ids, positions, labels = self.inputs
        with engine._gradient_sync_context(is_last_micro_batch=is_last):
            recorder.moment = "forward"
            dtype = engine._autocast_dtype
            autocast = contextlib.nullcontext() if dtype == torch.float32 else torch.autocast("cuda", dtype=dtype)
            with recorder.category(ACTIVATIONS), autocast:
                if engine._head is not None:
                    engine._head.ask(HeadRequest(labels=labels, token_loss=self.token_loss))
                output = engine.module(input_ids=ids, position_ids=positions, attention_mask=None, use_cache=False)
                if engine._head is not None:
                    log_probs = engine._head.answer(output.logits).log_probs
                else:
                    log_probs = token_log_probs(output.logits, labels)
                del output
                if self.plan.sp_size > 1:
                    log_probs = gather_outputs_and_unpad(log_probs, gather_dim=1, unpad_dim=1, padding_size=0)
                loss = self.token_loss(log_probs).sum() / self.tokens
            recorder.moment = "backward"
            with recorder.category(BACKWARD):
                loss.backward()
            recorder.moment = None
        recorder.claim((_local(p.grad) for p in engine.module.parameters() if p.grad is not None), GRADIENTS)
        del loss, log_probs
        recorder.claim_all(BACKWARD, GRADIENTS)  # not reduced yet: what is left over is accumulated
        recorder.claim_all(REDUCED, GRADIENTS)

    def _name_modules(self) -> None:
        recorder = self.recorder

        def entered(name: str):
            def hook(*_) -> None:
                recorder.module = name

            return hook

        for name, part in self.engine.module.named_modules():
            if name and "." in name:
                part.register_forward_pre_hook(entered(name))
                part.register_full_backward_pre_hook(entered(name)) if not list(part.children()) else None

    @contextlib.contextmanager
    def _categories(self) -> Iterator[None]:
        """What FSDP2 and the loss head allocate belongs to categories of their own."""
        from torch.distributed.fsdp._fully_shard._fsdp_param_group import FSDPParamGroup
        from torch.distributed.tensor._sharding_prop import ShardingPropagator

        from verl_ext.engine.loss_head import _LogProbs

        recorder = self.recorder

        def within(category: str, function):
            def run(*args, **kwargs):
                with recorder.category(category):
                    return function(*args, **kwargs)

            return run

        def quietly(function):
            def run(*args, **kwargs):
                before, recorder.paused = recorder.paused, True
                try:
                    return function(*args, **kwargs)
                finally:
                    recorder.paused = before

            return run

        # DTensor learns the shape of a result from whole tensors, which nobody holds.
        infers = {"_propagate_tensor_meta_non_cached": quietly(ShardingPropagator._propagate_tensor_meta_non_cached)}
        gathers = {name: within(GATHERED, getattr(FSDPParamGroup, name)) for name in ("unshard", "wait_for_unshard")}
        reduces = {"post_backward": within(REDUCED, FSDPParamGroup.post_backward)}
        head = {name: staticmethod(within(HEAD, getattr(_LogProbs, name))) for name in ("forward", "backward")}
        with (
            _replaced(FSDPParamGroup, **gathers, **reduces),
            _replaced(_LogProbs, **head),
            _replaced(ShardingPropagator, **infers),
        ):
            yield


def _local(tensor):
    return getattr(tensor, "_local_tensor", tensor)


if __name__ == "__main__":
    sys.exit(main())
