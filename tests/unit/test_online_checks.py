"""What the online trainer refuses before anything is started: one line that names key, value and what would do."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.tiny_model import save_tiny_model
from verl_ext.errors import DataError, UserError
from verl_ext.reward.code import store
from verl_ext.trainer.online.checks import check_config, check_device, check_files
from verl_ext.trainer.online.vocabulary import NFT_VOCABULARY
from verl_ext.trainer.run.command_line import compose_config

ROLLOUT = "actor_rollout_ref.rollout"
ROW = {
    "data_source": "math",
    "prompt": [{"role": "user", "content": "1 + 1?"}],
    "reward_model": {"style": "rule", "ground_truth": "2"},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def compose(model, tmp_path):
    train = tmp_path / "train.jsonl"
    train.write_text(json.dumps(ROW) + "\n")

    def _compose(*arguments: str):
        required = [f"actor_rollout_ref.model.path={model}", f"data.train_files={train}"]
        return compose_config("nft_trainer", [*required, *arguments], NFT_VOCABULARY)

    return _compose


def test_variables_of_ray_that_are_no_keys_pass(compose):
    variables = ("TOKENIZERS_PARALLELISM=false", "NCCL_DEBUG=INFO", "KEYBOARD=us")
    config = compose(*(f"+ray_kwargs.ray_init.runtime_env.env_vars.{variable}" for variable in variables))
    check_config(config, joins_cluster=False)


def test_the_defaults_and_every_objective_pass(compose):
    for objective in ("nft", "rft", "dapo", "grpo", "dr_grpo"):
        config = compose(f"objective={objective}")
        check_config(config, joins_cluster=False)
        check_files(config)
        check_device(config, "cpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["+ray_kwargs.ray_init.runtime_env.env_vars.HF_TOKEN=x"],
            "runtime_env.env_vars.HF_TOKEN: would be written into the run's logs and Ray's",
        ),
        (["+ray_kwargs.ray_init.runtime_env.env_vars.DB_PASSWORD=x"], "name it in trainer.worker_keys"),
        (["actor_rollout_ref.rollout.n=1"], "actor_rollout_ref.rollout.n: got 1, expected 2 or more"),
        (["data.train_batch_size=0"], "data.train_batch_size: got 0"),
        (["actor_rollout_ref.actor.ppo_mini_batch_size=1024"], "ppo_mini_batch_size: got 1024, expected a divisor of"),
        (["actor_rollout_ref.actor.ppo_mini_batch_size=100"], "ppo_mini_batch_size: got 100, expected a divisor of"),
        (["trainer.n_gpus_per_node=3"], "ppo_mini_batch_size: got 32, expected times rollout.n=16 a multiple of 3"),
        (["trainer.n_gpus_per_node=2", "actor_rollout_ref.rollout.tensor_model_parallel_size=4"], "a divisor of the 2"),
        (
            ["actor_rollout_ref.actor.ulysses_sequence_parallel_size=2"],
            "ulysses_sequence_parallel_size: got 2, expected a divisor of the 1 training ranks",
        ),
        (
            [
                "trainer.n_gpus_per_node=2",
                "actor_rollout_ref.actor.ulysses_sequence_parallel_size=2",
                "actor_rollout_ref.model.use_remove_padding=False",
            ],
            "use_remove_padding: got False, expected True",
        ),
        (["actor_rollout_ref.actor.ppo_max_token_len_per_gpu=4095"], "expected at least 4096"),
        (
            ["actor_rollout_ref.actor.use_dynamic_bsz=False", "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=3"],
            "ppo_micro_batch_size_per_gpu: got 3, expected a divisor of 512",
        ),
        (["algorithm.adv_estimator=grpo"], "algorithm.adv_estimator: got 'grpo', expected nft exactly where"),
        (["actor_rollout_ref.actor.policy_loss.eps=0"], "policy_loss.eps: got 0"),
        (["actor_rollout_ref.actor.policy_loss.neg_weight=-0.5"], "policy_loss.neg_weight: got -0.5"),
        (["actor_rollout_ref.actor.policy_loss.prompt_weight=half"], "policy_loss.prompt_weight: got 'half'"),
        (["actor_rollout_ref.actor.policy_loss.reduction=sum"], "policy_loss.reduction: got 'sum'"),
        (
            ["actor_rollout_ref.actor.ratio_type=sequence"],
            "loss_agg_mode: got 'token-mean', expected seq-mean-token-mean",
        ),
        (["algorithm.use_kl_in_reward=True"], "algorithm.use_kl_in_reward: NFT learns from correctness"),
        (["critic.enable=True"], "critic.enable: not supported here"),
        (["trainer.v1.trainer_mode=sync"], "trainer.v1.trainer_mode: got 'sync', expected nft or"),
        (["trainer.nnodes=2"], "trainer.nnodes: 2 machines need a running Ray cluster"),
        (["trainer.save_freq=0"], "trainer.save_freq: got 0"),
        (["data.gen_batch_size=0"], "data.gen_batch_size: got 0"),
        (["trainer.max_empty_steps=0"], "trainer.max_empty_steps: got 0"),
        (["algorithm.filter_groups.max_num_gen_batches=-1"], "filter_groups.max_num_gen_batches: got -1"),
        (["algorithm.filter_groups.metric=null"], "algorithm.filter_groups.metric: got None"),
        (["algorithm.filter_groups.keep_surplus=1"], "algorithm.filter_groups.keep_surplus: got 1"),
        (
            ["algorithm.filter_groups.keep_surplus=False", "trainer.v1.trainer_mode=nft_colocate_async"],
            "algorithm.filter_groups.keep_surplus: got False, expected True with trainer.v1.trainer_mode=nft_colocate",
        ),
        (
            ["algorithm.overlong_filtering=drop"],
            "algorithm.overlong_filtering: got 'drop', expected off or mask or exclude",
        ),
        (["trainer.entropy_band=0.3"], "trainer.entropy_band: got 0.3, expected [LOW, HIGH] in nats"),
        (["trainer.entropy_band=[0.4,0.2]"], "trainer.entropy_band: got [0.4, 0.2]"),
        (["trainer.entropy_band=[0.2,a]"], "trainer.entropy_band: got [0.2, 'a']"),
        (["trainer.entropy_band=[-1,1]"], "trainer.entropy_band: got [-1, 1]"),
        ([f"{ROLLOUT}.temperature=0"], f"{ROLLOUT}.temperature: got 0, expected at least 0.01 in training"),
        (["data.chat_template_file=nowhere.jinja"], "data.chat_template_file: nowhere.jinja not found"),
        (["actor_rollout_ref.model.path=/nowhere"], "actor_rollout_ref.model.path: folder /nowhere not found"),
    ],
)
def test_what_cannot_work_is_named(compose, arguments, message):
    with pytest.raises(UserError) as raised:
        check_config(compose(*arguments), joins_cluster=False)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trainer.device=cuda"], "trainer.device: got 'cuda', expected cpu"),
        (["actor_rollout_ref.model.use_liger=True"], "use_liger: got True, expected False"),
        (["actor_rollout_ref.rollout.name=sglang"], "rollout.name: got 'sglang', expected hf"),
    ],
)
def test_what_a_cpu_cannot_do_is_named(compose, arguments, message):
    with pytest.raises(UserError, match=message):
        check_device(compose(*arguments), "cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data_source": ""}, "row 1: column data_source is missing or empty"),
        ({"data_source": None}, "row 1: column data_source is missing or empty"),
        ({"prompt": "1 + 1?"}, "row 1: column prompt holds no chat messages"),
        ({"reward_model": {"style": "rule"}}, "row 1: reward_model.ground_truth is missing or empty"),
    ],
)
def test_a_bad_row_is_named(compose, tmp_path, change, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(ROW) + "\n" + json.dumps({**ROW, **change}) + "\n")
    with pytest.raises(UserError) as raised:
        check_files(compose(f"data.train_files={path}"))
    assert str(raised.value).startswith(f"{path}: ") and message in str(raised.value)


def test_an_unknown_data_source_is_named_with_the_nearest_known(compose, tmp_path):
    path = tmp_path / "odd.jsonl"
    path.write_text(json.dumps({**ROW, "data_source": "math_dap"}) + "\n")
    with pytest.raises(UserError, match="data_source: got 'math_dap'.*math_dapo"):
        check_files(compose(f"data.train_files={path}"))


def test_files_that_are_not_there_or_hold_nothing_are_named(compose, tmp_path):
    with pytest.raises(UserError, match=r"data.val_files: .*gone.parquet not found"):
        check_files(compose(f"data.val_files={tmp_path / 'gone.parquet'}"))
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(UserError, match="no rows"):
        check_files(compose(f"data.train_files={empty}"))


def test_published_names_choose_the_objective(compose, capsys):
    config = compose("actor_rollout_ref.neg_weight=-1")
    assert (config.algorithm.adv_estimator, config.actor_rollout_ref.actor.clip_ratio_high) == ("grpo", 0.28)
    assert "actor_rollout_ref.neg_weight=-1 is now objective=dapo" in capsys.readouterr().err
    loss = compose(
        "actor_rollout_ref.neg_weight=0", "actor_rollout_ref.normalize=0"
    ).actor_rollout_ref.actor.policy_loss
    assert (loss.neg_weight, loss.prompt_weight) == (0.0, "uniform")
    filters = compose("algorithm.filter_groups.max_num_gen_batches=3", "data.gen_batch_size=9")
    assert (filters.algorithm.filter_groups.max_num_gen_batches, filters.data.gen_batch_size) == (3, 9)


def test_an_unknown_objective_is_answered_with_the_known_ones(compose):
    with pytest.raises(
        UserError, match="objective: got 'ppo', expected one of acereason, dapo, dr_grpo, grpo, nft, rft"
    ):
        compose("objective=ppo")


STDIN = {"form": "stdin", "inputs": ["1"], "outputs": ["2"]}


@pytest.mark.parametrize(
    ("ground_truth", "message"),
    [
        ("tests:0123456789abcdef", "'tests:0123456789abcdef' is not in"),
        (json.dumps({**STDIN, "inputs": []}), "0 inputs and 1 outputs"),
        (json.dumps({"form": "stdin", "inputs": [], "outputs": []}), "there are none"),
        (json.dumps({"form": "prose"}), "unknown form 'prose'"),
    ],
)
def test_tests_that_cannot_be_used_are_named_before_anything_starts(compose, tmp_path, ground_truth, message):
    prompt = [{"role": "user", "content": "Double it."}]
    stored = store.put(STDIN, tmp_path / "tests")
    path = tmp_path / "code.parquet"
    golds = [stored, json.dumps(STDIN), ground_truth]
    rows = [{"data_source": "code", "prompt": prompt, "reward_model": {"ground_truth": gold}} for gold in golds]
    pq.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(DataError, match=f"code.parquet: row 2: reward_model.ground_truth: tests: .*{message}"):
        check_files(compose(f"data.train_files={path}"))
    pq.write_table(pa.Table.from_pylist(rows[:2]), path)
    check_files(compose(f"data.train_files={path}", f"data.val_files={path}"))
