"""Examines one launch: composes its configuration, and looks at it from every side that needs no GPU."""

from __future__ import annotations

import os
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_ext.doctor import data_checks, limits
from verl_ext.doctor.capacity import rollout_findings, training_findings
from verl_ext.doctor.composition import PLACEHOLDER, MadeBy, compose, fill_missing, run_trainer_checks, run_verl_checks
from verl_ext.doctor.data_checks import DataFacts
from verl_ext.doctor.disk import disk_findings, disk_need
from verl_ext.doctor.effects import effect_findings
from verl_ext.doctor.examination import LaunchReport, Options, batch_facts, data_facts
from verl_ext.doctor.findings import Finding, of_error
from verl_ext.doctor.launch import Launch
from verl_ext.doctor.memory import MemoryEstimate, rollout_memory, training_memory
from verl_ext.doctor.model_shape import FoundModel, ModelShape, find_model
from verl_ext.doctor.plan import RolloutPlan, TrainingPlan, rollout_plan, training_plan, world_size
from verl_ext.doctor.step_time import Device, TimePart, generation_time, log_prob_time, training_time
from verl_ext.doctor.tokens import CharacterCount, load_tokenizer, tokenizer_is_here
from verl_ext.errors import UserError
from verl_ext.model_folder import require_sequence_parallel_heads

UNKNOWN_VOCABULARY = 1 << 30


def nothing_made(_path: str) -> None:
    """For a launch that no script comes before."""


def examine(launch: Launch, options: Options, made_by: MadeBy = nothing_made) -> LaunchReport:
    """Examine a launch in the folder and environment that it would have.

    Args:
        made_by: which command of the same script makes a path.
    """
    report = LaunchReport(launch)
    with launch.surroundings():
        _Examination(report, options, made_by).run()
    return report


class _Examination:
    """The steps of `examine`, which hand on what they found to the next ones."""

    def __init__(self, report: LaunchReport, options: Options, made_by: MadeBy) -> None:
        self.report, self.options, self.made_by = report, options, made_by
        self.trainer = report.launch.trainer
        self.findings = report.findings
        self.config: DictConfig = OmegaConf.create()
        self.facts: DataFacts | None = None

    def run(self) -> None:
        launch, findings = self.report.launch, self.findings
        self.config, found = compose(launch)
        findings += found
        findings += fill_missing(self.config, launch)
        self.on_gpu = self._runs_on_gpu()
        device = "cuda" if self.on_gpu else "cpu"
        findings += run_trainer_checks(self.config, launch, device=device, made_by=self.made_by)
        sound = not any(finding.level == "error" for finding in findings)
        self.report.model = self._find_model()
        self._look_at_files()
        if sound:  # verl's messages repeat ours where ours have spoken
            findings += run_verl_checks(self.config, self.trainer, on_gpu=self.on_gpu)
        steps = limits.steps_of(self.config, self.trainer, self.facts) if sound else None
        findings += effect_findings(self.config, self.trainer, steps=steps)
        self._add_counts(steps)
        if self.report.model is not None and sound:
            self._estimate(self.report.model.shape, steps)

    def _runs_on_gpu(self) -> bool:
        return self.config.trainer.device != "cpu" and os.environ.get("VERL_PLATFORM") != "cpu"

    @property
    def _model(self) -> DictConfig:
        return self.config.actor_rollout_ref.model if self.trainer == "nft" else self.config.model

    @property
    def _model_key(self) -> str:
        return "actor_rollout_ref.model" if self.trainer == "nft" else "model"

    def _find_model(self) -> FoundModel | None:
        """The model's shape, checked against sequence parallelism and the lengths of the configuration."""
        model = self._model
        if model.path == PLACEHOLDER:
            return None
        key = f"{self._model_key}.path"
        if maker := self.made_by(model.path):
            self.findings.append(Finding("made-by-script", "info", key, f"{model.path} is made by the script: {maker}"))
        try:
            found = find_model(
                model.path,
                trust_remote_code=model.trust_remote_code,
                group=self._model_key,
                ask_hub=self.options.ask_hub,
            )
        except UserError as error:
            self.findings.append(of_error(error, default="model-files", key=key))
            return None
        if found is None:
            if not maker and not any(finding.key == key for finding in self.findings):
                message = (
                    f"the configuration of {model.path} is neither here nor in the doctor's table: nothing is estimated"
                )
                self.findings.append(Finding("no-estimate", "info", key, message, "--hub asks the hub for it"))
            return None
        self._check_shape(found)
        return found

    def _check_shape(self, found: FoundModel) -> None:
        for name, value in self._model.override_config.items():
            if hasattr(found.config, name):
                setattr(found.config, name, value)
        shape = ModelShape.of_config(found.config)
        sp_size, sp_key = self._sequence_parallelism()
        if sp_size > 1:
            try:
                require_sequence_parallel_heads(found.config, sp_size, sp_key)
            except UserError as error:
                self.findings.append(of_error(error))
        if not shape.exact:
            message = f"models of type {shape.model_type} are estimated as if they were of the Llama family"
            self.findings.append(Finding("rough-estimate", "info", f"{self._model_key}.path", message))
        self.findings += limits.context_findings(self.config, self.trainer, shape)

    def _sequence_parallelism(self) -> tuple[int, str]:
        if self.trainer != "nft":
            return self.config.engine.ulysses_sequence_parallel_size, "engine.ulysses_sequence_parallel_size"
        from verl_ext.trainer.online.defaults import sequence_parallel_size

        key = "actor_rollout_ref.actor.fsdp_config.ulysses_sequence_parallel_size"
        return sequence_parallel_size(self.config), key

    def _look_at_files(self) -> None:
        files, found = data_checks.existing_files(self.config, self.trainer, self.made_by)
        self.findings += found
        if not any(files.values()):
            return
        tokenizer, counted = self._tokenizer()
        if tokenizer is None:
            return
        if self.trainer == "nft":
            self.findings += data_checks.check_online_rows(self.config, files)
        train_key = data_checks.FILE_KEYS[self.trainer][0]
        for key, paths in files.items():
            if not paths or any(f.level == "error" and f.key.startswith(key) for f in self.findings):
                continue
            try:
                facts = self._facts_of(paths, tokenizer, key, counted)
            except UserError as error:
                self.findings.append(of_error(error, default="data-rows", key=key))
                continue
            if key == train_key:
                self._judge_training_data(facts, paths)

    def _facts_of(self, paths: list[str], tokenizer: Any, key: str, counted: bool) -> DataFacts:
        if self.trainer == "dft":
            return data_checks.examine_sft(self.config, paths, tokenizer, key=key, counted=counted)
        if self.trainer == "nft_offline":
            return data_checks.examine_rollouts(self.config, paths, tokenizer, key=key, counted=counted)
        return data_checks.examine_prompts(self.config, paths, tokenizer, counted=counted)

    def _judge_training_data(self, facts: DataFacts, paths: list[str]) -> None:
        self.facts = facts
        self.findings += limits.length_findings(self.config, self.trainer, facts)
        self.findings += limits.row_count_findings(self.config, self.trainer, facts)
        key = data_checks.FILE_KEYS[self.trainer][0]
        repeated = data_checks.repeated_share(self.config, self.trainer, paths)
        if repeated > limits.REPEATED_SHARE:
            message = f"{repeated:.0%} of the first {facts.sampled} rows are an earlier row again"
            self.findings.append(Finding("repeated-rows", "warning", key, message, "remove the copies"))
        self.report.facts += data_facts(facts)

    def _tokenizer(self) -> tuple[Any, bool]:
        """The tokenizer, or one that counts characters; None where the one that is here cannot be used."""
        model = self._model
        path = model.tokenizer_path or model.path
        if self.options.ask_hub or tokenizer_is_here(path):
            try:
                return load_tokenizer(self.config, model), True
            except UserError as error:
                self.findings.append(of_error(error, default="model-files"))
            except (OSError, ValueError) as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                message = f"the tokenizer of {path} cannot be read: {reason}"
                self.findings.append(Finding("model-files", "warning", f"{self._model_key}.path", message))
        else:
            message = f"the tokenizer of {path} is not here: lengths are guessed from characters"
            self.findings.append(Finding("no-tokenizer", "info", f"{self._model_key}.path", message))
        shape = self.report.model.shape if self.report.model else None
        return CharacterCount(shape.vocab if shape else UNKNOWN_VOCABULARY), False

    def _add_counts(self, steps: int | None) -> None:
        launch = self.report.launch
        ranks = world_size(self.config, self.trainer, launch.ranks)
        if steps is not None:
            self.report.facts.append(("steps", f"{steps} of {self.config.data.train_batch_size} rows"))
        self.report.facts.insert(0, ("training ranks", str(ranks)))

    def _estimate(self, shape: ModelShape, steps: int | None) -> None:
        """Memory, time and disk of a configuration in which nothing is wrong so far."""
        config, options, report, launch = self.config, self.options, self.report, self.report.launch
        rows = None
        if self.trainer == "nft_offline":
            responses = self.facts.sequences_per_row if self.facts else 1.0
            rows = round(config.data.train_batch_size * responses)
        plan = training_plan(config, self.trainer, ranks=launch.ranks, rows=rows, on_gpu=self.on_gpu)
        report.training = plan
        training = training_memory(shape, plan)
        report.memory.append(training)
        report.facts += batch_facts(plan)
        if self.on_gpu:
            self.findings += training_findings(training, plan, options.device)
        if self.trainer == "nft":
            self._estimate_rollout(shape, plan, training)
        elif self.on_gpu:
            length = self._mean_length(plan)
            report.times.append(
                training_time(shape, plan, options.device, rows=plan.rows_per_step, mean_length=length, mfu=options.mfu)
            )
        need = disk_need(config, self.trainer, shape, plan, steps)
        report.facts.append(("disk for checkpoints", f"{need.total / 2**30:,.1f} GiB = {need.formula}"))
        self.findings += disk_findings(config, self.trainer, need, free=options.disk_free)

    def _mean_length(self, plan: TrainingPlan) -> float:
        if self.facts is None:
            return plan.max_row
        return float(self.facts.lengths.clip(max=plan.max_row).mean())

    def _estimate_rollout(self, shape: ModelShape, plan: TrainingPlan, training: MemoryEstimate) -> None:
        config, device, mfu = self.config, self.options.device, self.options.mfu
        if not self.on_gpu:
            return
        rollout = rollout_plan(config, on_gpu=self.on_gpu)
        generating, room = rollout_memory(shape, plan, rollout, device.memory_bytes)
        self.report.memory.append(generating)
        per_gpu = (
            config.trainer.n_gpus_per_node if rollout.colocated else config.actor_rollout_ref.rollout.n_gpus_per_node
        )
        self.findings += rollout_findings(shape, rollout, generating, room, training, device, per_gpu)
        self.report.facts.append((room.name, f"{room.bytes / 2**30:.3g} GiB, {room.formula}"))
        rows = rollout.prompts * rollout.samples
        prompt = float(self.facts.lengths.clip(max=rollout.max_prompt).mean()) if self.facts else rollout.max_prompt
        length = prompt + rollout.max_response
        passes = 2 if _has_reference(config) else 1
        self.report.times += [
            _generation(shape, rollout, device, room.bytes, prompt),
            log_prob_time(shape, plan, device, rows=rows, mean_length=length, mfu=mfu, passes=passes),
            training_time(shape, plan, device, rows=rows, mean_length=length, mfu=mfu),
        ]


def _generation(shape: ModelShape, rollout: RolloutPlan, device: Device, room: float, prompt: float) -> TimePart:
    return generation_time(shape, rollout, device, room_bytes=room, response=rollout.max_response, prompt=prompt)


def _has_reference(config: DictConfig) -> bool:
    return config.actor_rollout_ref.actor.use_kl_loss or config.algorithm.use_kl_in_reward
