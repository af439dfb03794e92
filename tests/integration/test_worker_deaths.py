"""A call that fails because some other actor has died is put down to that actor."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import ray
from ray.exceptions import RayActorError
from verl.trainer.ppo.v1 import replay_buffer  # noqa: F401  registers the modes, which import what is tested here

from tests.support.local_ray import local_ray
from verl_ext.trainer.online import loop
from verl_ext.trainer.online.health import ActorWatch
from verl_ext.trainer.run.exits import WorkerDiedError


@ray.remote
class _Server:
    def process(self) -> int:
        return os.getpid()

    def begin_update(self) -> None:
        os._exit(1)


@ray.remote
class _Trainer:
    def update_weights(self, server) -> None:
        ray.get(server.begin_update.remote())


@pytest.fixture(scope="module")
def cluster():
    with local_ray():
        yield


def _update_with_a_dying_server(trainer, server) -> RayActorError:
    with pytest.raises(RayActorError) as raised:
        ray.get(trainer.update_weights.remote(server))
    return raised.value


@pytest.mark.slow
def test_the_actor_that_died_is_named(cluster):
    trainer, server, other = _Trainer.remote(), _Server.remote(), _Server.remote()
    watch = ActorWatch({"rollout server 0": other, "rollout server 1": server, "trainer": trainer})
    ray.get([server.process.remote(), other.process.remote()])
    watch.check()
    error = _update_with_a_dying_server(trainer, server)
    with pytest.raises(WorkerDiedError, match="^rollout server 1 died: "):
        watch.explain(error)


@pytest.mark.slow
def test_an_actor_that_is_not_watched_is_no_reason_to_go_on(cluster):
    trainer, server = _Trainer.remote(), _Server.remote()
    error = _update_with_a_dying_server(trainer, server)
    with pytest.raises(WorkerDiedError, match="^a worker died: .*died unexpectedly"):
        ActorWatch({"trainer": trainer}).explain(error)


@pytest.mark.slow
def test_a_save_that_another_actors_death_broke_is_put_down_to_that_actor(cluster, monkeypatch):
    trainer, server = _Trainer.remote(), _Server.remote()
    run = SimpleNamespace(
        actor_rollout_wg=SimpleNamespace(save=lambda *_: ray.get(trainer.update_weights.remote(server))),
        global_steps=3,
        progress=None,
        _files=dict,
    )
    with pytest.raises(RayActorError) as raised:
        loop.OnlineLoop._save_checkpoint(run)
    with pytest.raises(WorkerDiedError, match="^rollout server 0 died: "):
        ActorWatch({"rollout server 0": server}).explain(raised.value)
