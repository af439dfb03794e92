"""Benchmarks that a remote judge grades: what each is asked by, and the way to the judge from the step `score`.

The judge's address and model come from a file of the keys of `reward.judge.config.JudgeConfig` (`judge=FILE`), or as
`judge_base_url` and `judge_model`. What a benchmark brings itself (its prompt, what of the reply is the score) is here,
and the file may say otherwise.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from verl_ext.errors import ConfigError, DataError
from verl_ext.evaluation.benchmarks import Problem
from verl_ext.evaluation.config import EvaluationConfig
from verl_ext.reward.grading import Grade
from verl_ext.reward.judge.config import JudgeConfig, read_judge
from verl_ext.reward.judge.grade import Judge
from verl_ext.reward.sources import rule_for

KEY = "judge"
_PROMPTS = Path(__file__).with_name("judge_prompts")
_PROOF = {"max_score": 7, "strip_self_evaluation": True}
DEFAULTS: dict[str, dict[str, Any]] = {
    "imo_proofbench": {
        **_PROOF,
        "rubric_file": str(_PROMPTS / "guidelines.txt"),
        "score_pattern": r"<points>\s*(\d)(?:\s*out of 7)?\s*</points>",
    },
    "proofbench": {
        **_PROOF,
        "rubric_file": str(_PROMPTS / "scheme.txt"),
        "score_pattern": r"<points>\s*(\d)\s*</points>",
    },
    "imo_answerbench": {
        "rubric_file": str(_PROMPTS / "final_answer.txt"),
        "score_pattern": r"\\boxed\{\s*(Correct|Incorrect)\s*\}",
        "score_map": {"Correct": 1, "Incorrect": 0},
    },
}
"""Data source -> keys of `JudgeConfig` where the user's file says nothing else."""
_WHERE = ("base_url", "api_key_env", "concurrency", "timeout_s", "retries", "backoff_s", "cache_dir", "key")


def is_judged(data_source: str) -> bool:
    """Whether a judge grades the answers of a data source."""
    return rule_for(data_source).extraction == "judge"


def judge_config(config: EvaluationConfig, data_source: str) -> JudgeConfig:
    """The judge of a data source.

    Raises:
        ConfigError: no judge was given, or it cannot work; a file that cannot be read.
    """
    given = _file(config.judge) if config.judge else {}
    given |= {
        name: value
        for name, value in (("base_url", config.judge_base_url), ("model", config.judge_model))
        if value is not None
    }
    if not given:
        expected = (
            f"a file with base_url and model, or judge_base_url and judge_model, since a judge grades {data_source}"
        )
        raise ConfigError(KEY, given=None, expected=expected)
    own = {"after_think": config.after_think, "cache_dir": str(Path(config.output_dir) / "judge"), "concurrency": 32}
    return read_judge({**own, **DEFAULTS.get(data_source, {}), **given}, KEY)


def check_judges(config: EvaluationConfig, problems: Sequence[Problem]) -> None:
    """Whether problems that a judge grades have one, and what its prompt asks for.

    Raises:
        ConfigError: no judge, or one that cannot work.
        DataError: a problem without the rubric that the prompt has a place for.
    """
    asked: dict[str, set[str]] = {}
    for problem in problems:
        if not problem.is_judged:
            continue
        source = problem.data_source
        if source not in asked:
            asked[source] = judge_config(config, source).asks_for(source)
        if "rubric" in asked[source] and not problem.rubric:
            raise DataError(f"{problem.name}: no rubric, and the judge's prompt has a place for {{rubric}}")


def _file(path: str) -> dict[str, Any]:
    try:
        given = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(KEY, given=path, expected=f"a YAML file ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(KEY, given=path, expected=f"a YAML file ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
        raise ConfigError(KEY, given=path, expected="a YAML file of keys, such as base_url and model")
    return given


def judge_identity(config: JudgeConfig) -> dict[str, Any]:
    """What makes its verdicts what they are: all keys but where it is asked, and the texts of its prompts."""
    values = {name: value for name, value in asdict(config).items() if name not in _WHERE}
    files = [values.pop("rubric_file"), *values.pop("prompts").values()]
    texts = [Path(file).read_bytes() for file in files if file]
    return {**values, "prompts": [hashlib.sha256(text).hexdigest()[:16] for text in texts]}


class JudgePool:
    """Judges of several data sources, in an event loop of its own; a context manager.

    Args:
        config: of the evaluation.
    """

    def __init__(self, config: EvaluationConfig) -> None:
        self._config = config
        self._judges: dict[str, Judge] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="judge", daemon=True)

    def __enter__(self) -> JudgePool:  # noqa: PYI034 - typing.Self needs Python 3.11
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def submit(self, record: Mapping[str, Any]) -> Future[Grade]:
        """Start to grade a sample."""
        source = record["data_source"]
        if source not in self._judges:
            self._judges[source] = Judge(judge_config(self._config, source))
        gold = record["gold"]
        coroutine = self._judges[source].grade(
            record["question"],
            record["response"],
            gold if isinstance(gold, str) else ", ".join(gold),
            rubric=record.get("rubric"),
            data_source=source,
        )
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
