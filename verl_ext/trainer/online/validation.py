"""Validation of an online run: avg@k, pass@k and maj@k of each data source, over the prompts that did not fail."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import transfer_queue as tq
from omegaconf import DictConfig
from transformers import PreTrainedTokenizerBase
from verl.experimental.agent_loop import AgentLoopManager
from verl.utils import tensordict_utils as tu

from verl_ext.reward.accuracy import avg_at_k, maj_at_k, pass_at_k, standard_error
from verl_ext.trainer.online.generations import read_answers, write_lines
from verl_ext.trainer.online.outcomes import in_words
from verl_ext.trainer.online.prompts import EvaluationBatches
from verl_ext.trainer.run.exits import WorkerDiedError
from verl_ext.trainer.run.log import RunLog

PARTITION = "val"
GRADED = ("acc", "reward", "pred")
"""What metrics are made of."""


class OnlineValidation:
    """Mixin of verl's trainers: their validation, but for prompts that fail, which are left out and counted."""

    config: DictConfig
    tokenizer: PreTrainedTokenizerBase
    agent_loop_manager: AgentLoopManager
    val_dataloader: EvaluationBatches
    replay_buffer: Any
    log: RunLog
    global_steps: int
    _dump_executor: ThreadPoolExecutor
    _dump_futures: list[Future]

    def _validate(self) -> dict[str, float]:
        """Answer every validation prompt, write the answers down, and return their metrics.

        Returns:
            See `validation_metrics`; and `val/failed`, the number of prompts that are not in them.

        Raises:
            WorkerDiedError: a worker has died, or every prompt failed.
        """
        prompts = 0
        answers: list[dict[str, Any]] = []
        last: list[dict[str, Any]] = []  # of each sample, where a loop gives several outputs
        failures: Counter[str] = Counter()
        for batch in self.val_dataloader:
            prompts += self._submit_validation(batch, first=prompts)
            done, failed = self.replay_buffer.validated()
            failures += failed
            if not done.keys:
                continue
            keys = sorted(done.keys, key=_place)
            rows = read_answers(keys, PARTITION, self.tokenizer)
            tq.kv_clear(keys=done.keys, partition_id=PARTITION)
            answers += rows
            last += {key.rpartition("_")[0]: row for key, row in zip(keys, rows, strict=True)}.values()
        self._say_failures(failures, prompts)
        self._write_validation(answers)
        columns = {name: [row.get(name) for row in last] for name in GRADED if name in last[0]}
        self._maybe_log_val_generations(
            inputs=[row["prompt"] for row in last], outputs=[row["response"] for row in last], scores=columns["reward"]
        )
        metrics = validation_metrics([row["data_source"] for row in last], [row["uid"] for row in last], columns)
        return {**metrics, "val/failed": float(failures.total())}

    def _submit_validation(self, rows: dict[str, Any], first: int) -> int:
        """Start generation for these prompts, which are named by their place in the data; returns their number."""
        count = len(rows["raw_prompt"])
        rows["uid"] = np.array([f"val{first + row:08d}" for row in range(count)], dtype=object)
        batch = tu.get_tensordict(rows)
        tu.assign_non_tensor_data(batch, "global_steps", self.global_steps)
        tu.assign_non_tensor_data(batch, "validate", True)
        tag = {"is_prompt": True, "status": "pending", "global_steps": self.global_steps}
        tq.kv_batch_put(keys=list(batch["uid"]), partition_id=PARTITION, tags=[dict(tag) for _ in range(count)])
        self.agent_loop_manager.generate_sequences(batch)
        return count

    def _say_failures(self, failures: Counter[str], prompts: int) -> None:
        failed = failures.total()
        if failed == prompts:
            self.replay_buffer.check_workers()  # the better reason, where a worker has died
            raise WorkerDiedError(
                f"validation after step {self.global_steps}: generation or grading failed for all {prompts} prompts, "
                f"each of them twice: {in_words(failures)}"
            )
        if failed:
            self.log.note(
                f"validation after step {self.global_steps}: {failed} of {prompts} prompts failed and are left out: "
                f"{in_words(failures)}"
            )

    def _write_validation(self, answers: list[dict[str, Any]]) -> None:
        folder = self.config.trainer.validation_data_dir
        if folder:
            path = Path(folder) / f"{self.global_steps}.jsonl"
            self._dump_futures.append(self._dump_executor.submit(write_lines, path, answers))


def _place(key: str) -> tuple[str, int, int]:
    """Of an answer: prompt, sample, output."""
    uid, session, output = key.rsplit("_", 2)
    return uid, int(session), int(output)


def validation_metrics(
    data_sources: Sequence[str], uids: Sequence[str], infos: Mapping[str, Sequence]
) -> dict[str, float]:
    """Metrics of one validation.

    Args:
        data_sources, uids: data source and prompt of each answer.
        infos: what the reward reported, a list over answers each: `acc` (or else `reward`), above 0 counting as
            right, and where there is one `pred`, the answer found.

    Returns:
        `val/SOURCE/avg@k` with its standard error over `val/SOURCE/problems` problems; with k > 1 samples also `pass@k`, and `maj@k` where
        answers are known. In a vote all right answers are one candidate; wrong ones are told apart by their text.
    """
    right = [value > 0 for value in infos["acc" if "acc" in infos else "reward"]]
    answers = infos.get("pred")
    rows: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row, (source, uid) in enumerate(zip(data_sources, uids, strict=True)):
        rows[source][uid].append(row)
    metrics = {}
    for source, problems in rows.items():
        correct = [[right[row] for row in samples] for samples in problems.values()]
        k = min(len(samples) for samples in correct)
        per_problem = avg_at_k(correct)
        metrics[f"val/{source}/avg@{k}"] = float(per_problem.mean())
        metrics[f"val/{source}/avg@{k}_standard_error"] = standard_error(per_problem)
        metrics[f"val/{source}/problems"] = float(len(problems))
        if k == 1:
            continue
        metrics[f"val/{source}/pass@{k}"] = float(pass_at_k(correct, k).mean())
        if answers is not None:
            votes = [[_candidate(right[row], answers[row]) for row in samples] for samples in problems.values()]
            metrics[f"val/{source}/maj@{k}"] = float(maj_at_k(correct, votes, k).mean())
    return metrics


def _candidate(is_right: bool, answer: str | None) -> str | bool | None:
    if is_right:
        return True
    return "".join(answer.split()) if answer else None
