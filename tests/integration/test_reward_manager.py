"""The reward manager in verl's own reward loop, and its grader actor under kill -9."""

import asyncio
import json
import os
import signal
import subprocess
import sys

import numpy as np
import psutil
import pytest
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from verl import DataProto
from verl.experimental.reward_loop import RewardLoopManager
from verl.experimental.reward_loop.reward_manager import get_reward_manager_cls
from verl.trainer.ppo.reward import load_reward_manager

from tests.support.isolation import isolated
from tests.support.local_ray import local_ray
from verl_ext.errors import ConfigError
from verl_ext.reward.code.options import CodeOptions
from verl_ext.reward.grading import prepare
from verl_ext.reward.manager import NAME, MathVerifyPoolRewardManager
from verl_ext.reward.metrics import grade_metrics
from verl_ext.reward.node_graders import NodeGraders
from verl_ext.reward.options import RewardOptions

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PROMPT_LENGTH, RESPONSE_LENGTH = 4, 120
TOWER = "\\boxed{\\dfrac{5^{5^{5^{5^5}}-4}-5}{16}}"
ROWS = [  # response, gold, data source, acc, status
    ("so \\boxed{5}", "5", "math500", 1.0, "ok"),
    ("so \\boxed{6}", "5", "math500", 0.0, "ok"),
    ("\\boxed{\\sqrt{20}}", "2\\sqrt{5}", "olympiadbench", 1.0, "ok"),
    (TOWER, "2\\sqrt{5}", "math500", 0.0, "timeout"),
    ("I cannot say", "5", "gsm8k", 0.0, "no_answer"),
    ("\\boxed{7}", "", "math500", 0.0, "unparsable_gold"),
    ("Answer: 12", "12", "math_dapo", 1.0, "ok"),
    ("\\boxed{4.3}", "4.2", "olympiadbench", 1.0, "ok"),  # its row states a tolerance of 0.1
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A tokenizer with a token for each byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: number for number, character in enumerate([*alphabet, "<pad>"])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<pad>")
    path = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(path)
    tokenizer.name_or_path = str(path)
    return tokenizer


@pytest.fixture(scope="module")
def cluster():
    with local_ray({"sandbox": 1.0}):
        yield


def config_for(tokenizer, **reward_kwargs):
    return OmegaConf.create(
        {
            "actor_rollout_ref": {"model": {"path": tokenizer.name_or_path, "tokenizer_path": None}},
            "data": {"train_files": None, "val_files": None, "reward_fn_key": "data_source"},
            "reward": {
                "num_workers": 2,
                "custom_reward_function": {"path": None, "name": "compute_score"},
                "reward_manager": {"source": "register", "name": NAME, "module": None},
                "reward_model": {"enable": False, "enable_resource_pool": False},
                "sandbox_fusion": {"url": None},
                "reward_kwargs": {"workers": 2, "timeout_s": 3.0, **reward_kwargs},
            },
        }
    )


def batch_of(tokenizer, rows=ROWS):
    responses = torch.full((len(rows), RESPONSE_LENGTH), tokenizer.pad_token_id)
    mask = torch.zeros(len(rows), PROMPT_LENGTH + RESPONSE_LENGTH, dtype=torch.long)
    mask[:, :PROMPT_LENGTH] = 1
    for number, (response, *_) in enumerate(rows):
        ids = tokenizer(response)["input_ids"]
        responses[number, : len(ids)] = torch.tensor(ids)
        mask[number, PROMPT_LENGTH : PROMPT_LENGTH + len(ids)] = 1
    tensors = {
        "prompts": torch.zeros(len(rows), PROMPT_LENGTH, dtype=torch.long),
        "responses": responses,
        "attention_mask": mask,
    }
    columns = {
        "data_source": np.array([row[2] for row in rows], dtype=object),
        "reward_model": np.array([{"ground_truth": row[1], "style": "rule"} for row in rows], dtype=object),
        "extra_info": np.array(
            [{"index": n, "error": "1e-1" if n == 7 else None} for n in range(len(rows))], dtype=object
        ),
    }
    return DataProto(batch=TensorDict(tensors, batch_size=len(rows)), non_tensor_batch=columns)


def run_singles(manager, batch):
    async def main():
        return await asyncio.gather(*(manager.run_single(batch[n : n + 1]) for n in range(len(batch))))

    return manager.loop.run_until_complete(main())


def test_manager_is_registered_under_its_name():
    assert get_reward_manager_cls(NAME) is MathVerifyPoolRewardManager


def test_manager_grades_without_ray(tokenizer):
    manager = MathVerifyPoolRewardManager(config_for(tokenizer), tokenizer)
    results = run_singles(manager, batch_of(tokenizer))
    infos = [result["reward_extra_info"] for result in results]
    assert [(info["acc"], info["grade_status"]) for info in infos] == [row[3:] for row in ROWS]
    assert [result["reward_score"] for result in results] == [row[3] for row in ROWS]
    assert infos[2]["pred"] == "\\sqrt{20}"


def test_manager_in_verls_reward_loop(cluster, tokenizer):
    config = config_for(
        tokenizer,
        score_coding="minus_one_one",
        max_resp_len=RESPONSE_LENGTH,
        overlong_buffer_cfg={"enable": True, "len": 110, "penalty_factor": 1.0, "log": True},
    )
    loop = RewardLoopManager(config)
    batch = batch_of(tokenizer)
    result = loop.compute_rm_score(batch)
    columns = result.non_tensor_batch
    assert columns["acc"].tolist() == [row[3] for row in ROWS]
    assert columns["grade_status"].tolist() == [row[4] for row in ROWS]
    lengths = batch.batch["attention_mask"][:, PROMPT_LENGTH:].sum(dim=1)
    expected = [
        2 * row[3] - 1 - max(0.0, (length - 10) / 110) for row, length in zip(ROWS, lengths.tolist(), strict=True)
    ]
    rewards = result.batch["rm_scores"]
    assert rewards.sum(dim=1).tolist() == pytest.approx(expected, abs=1e-6)
    assert [int(row.nonzero().max()) for row in rewards] == (lengths - 1).tolist()
    metrics = grade_metrics(columns["grade_status"], columns["grade_seconds"])
    assert metrics["reward/grader/timeout"] == 1 / len(ROWS)


def test_reward_workers_of_a_node_share_their_grader_processes(cluster):
    options = RewardOptions(workers=2, timeout_s=3.5)
    first, second = NodeGraders(options), NodeGraders(options)
    other = NodeGraders(RewardOptions(workers=1, timeout_s=3.5))

    async def main():
        return await first.pid(), await second.pid(), await other.pid()

    one, two, three = asyncio.run(main())
    assert one == two != three


def test_killed_grader_actor_loses_no_answer(cluster):
    graders = NodeGraders(RewardOptions(workers=2, timeout_s=2.0, memory_mb=2000))
    right = prepare("\\boxed{\\sqrt{20}}", "2\\sqrt{5}", "math")
    wrong = prepare("\\boxed{\\sqrt{21}}", "2\\sqrt{5}", "math")
    hanging = prepare(TOWER, "2\\sqrt{5}", "math")

    async def main():
        pid = await graders.pid()
        tasks = [asyncio.create_task(graders.decide(one)) for one in [hanging, hanging, right, wrong] * 2]
        await asyncio.sleep(0.5)  # let the requests reach the actor
        os.kill(pid, signal.SIGKILL)
        grades = await asyncio.gather(*tasks)
        return pid, await graders.pid(), grades

    pid, new_pid, grades = asyncio.run(main())
    assert [(grade.status, grade.correct) for grade in grades] == [
        ("timeout", False),
        ("timeout", False),
        ("ok", True),
        ("ok", False),
    ] * 2
    assert new_pid != pid


@isolated
def test_killed_grader_actor_loses_no_program(cluster):
    graders = NodeGraders(RewardOptions(workers=2, timeout_s=2.5), CodeOptions(resource="sandbox"))
    tests = json.dumps({"form": "stdin", "inputs": ["1"] * 4, "outputs": ["2"] * 4})
    codes = ["import time; time.sleep(0.2); print(2)", "print(1)", "print(2)", "1 / 0"] * 2

    async def main():
        pid = await graders.pid()
        tasks = [asyncio.create_task(graders.grade_program(f"```python\n{code}\n```", tests)) for code in codes]
        await asyncio.sleep(0.8)
        slots = [p for p in psutil.Process(pid).children(recursive=True) if "runner.py" in " ".join(p.cmdline())]
        assert slots
        os.kill(pid, signal.SIGKILL)
        return pid, slots, await asyncio.gather(*tasks), await graders.pid()

    pid, slots, grades, new_pid = asyncio.run(main())
    assert [(grade.status, grade.correct, grade.detail) for grade in grades] == [
        ("ok", True, ""),
        ("ok", False, "wrong_answer"),
        ("ok", True, ""),
        ("ok", False, "runtime_error"),
    ] * 2
    assert new_pid != pid
    assert not psutil.wait_procs(slots, timeout=10)[1], "slots of the killed actor live on"


def test_a_resource_that_no_machine_has_is_refused(cluster):
    with pytest.raises(ConfigError, match="code.resource: got 'nowhere'"):
        NodeGraders(RewardOptions(), CodeOptions(resource="nowhere"))


def test_unknown_key_source_and_double_reward_function_stop_the_manager(tokenizer, tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    with pytest.raises(ConfigError, match="reward.reward_kwargs.timeouts"):
        MathVerifyPoolRewardManager(config_for(tokenizer, timeouts=1), tokenizer)
    config = config_for(tokenizer)
    with pytest.raises(ConfigError, match="custom_reward_function"):
        MathVerifyPoolRewardManager(config, tokenizer, compute_score=print)
    path = tmp_path / "train.parquet"
    parquet.write_table(pa.table({"data_source": ["mystery"]}), path)
    config.data.train_files = [str(path)]
    with pytest.raises(ConfigError, match="mystery"):
        MathVerifyPoolRewardManager(config, tokenizer)


def test_a_source_for_a_judge_without_a_judge_is_an_error_and_not_a_zero(tokenizer):
    manager = MathVerifyPoolRewardManager(config_for(tokenizer), tokenizer)
    batch = batch_of(tokenizer, [("</think>done", "", "proof")])
    with pytest.raises(ConfigError, match="judge"):
        run_singles(manager, batch)


def test_lazy_registration_by_import_of_verls_registry():
    """Our manager is imported when, and only when, verl's registry is."""
    code = (
        "import sys\n"
        "import verl\n"
        "assert 'verl_ext.reward.manager' not in sys.modules\n"
        "from verl.experimental.reward_loop.reward_manager import get_reward_manager_cls\n"
        f"print(get_reward_manager_cls('{NAME}').__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "MathVerifyPoolRewardManager", done.stderr


@pytest.mark.parametrize("name", ["naive", "dapo"])
def test_score_function_works_with_verls_own_managers(tokenizer, name):
    config = config_for(tokenizer)
    config.reward.reward_kwargs = None
    config.reward.reward_manager.name = name
    config.reward.custom_reward_function = {
        "path": "pkg://verl_ext.reward.score",
        "name": "compute_score",
        "reward_kwargs": {"workers": 1, "timeout_s": 3.0, "score_coding": "minus_one_one"},
    }
    if name == "dapo":
        config.reward.reward_kwargs = {"overlong_buffer_cfg": {"enable": False}}
    manager = load_reward_manager(config, tokenizer)
    results = run_singles(manager, batch_of(tokenizer))
    assert [result["reward_score"] for result in results] == [2 * row[3] - 1 for row in ROWS]
    assert [result["reward_extra_info"]["grade_status"] for result in results] == [row[4] for row in ROWS]
