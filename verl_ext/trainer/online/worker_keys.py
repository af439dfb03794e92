"""Keys to other services, such as a judge's, on their way to workers on the machines of a running cluster.

Workers there have the environment of `ray start`, not that of the trainer. Ray's own way, variables of the runtime
environment, writes their values into the run's logged configuration, the dashboard and Ray's logs. So a run puts them
under a random name into the key-value store of Ray's control service, in memory on the head, and takes them away at its
end; every worker fetches them when it starts. What they are is then seen by whoever holds the cluster's token, and as
the environment of processes that a worker starts (vLLM's engine) by the same user on that machine; by nobody else, and
in no file.

Imported at the start of every worker and by the checks that come before Ray: nothing heavy here.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from verl_ext.errors import UserError

STORED_UNDER = "VERL_EXT_WORKER_KEYS"
"""The variable that tells workers the name, which is no secret."""
SETUP_HOOK = f"{__name__}.take"
PATIENCE_S = 10.0
"""A worker may start before the run has put the keys there."""
_LOOKS_SECRET = re.compile(r"(^|_)(TOKEN|KEY|SECRET|PASSWORD)$", re.IGNORECASE)


def require_no_keys_in(variables: Mapping[str, Any]) -> None:
    """Refuse keys where they would be written down.

    Args:
        variables: ray_kwargs.ray_init.runtime_env.env_vars.

    Raises:
        UserError: one of them looks like a key; says how it gets to the workers.
    """
    for name in variables:
        if _LOOKS_SECRET.search(name):
            raise UserError(
                f"ray_kwargs.ray_init.runtime_env.env_vars.{name}: would be written into the run's logs and Ray's; "
                f"set {name} in the environment of this command, and name it in trainer.worker_keys"
            )


class WorkerKeys:
    """The keys of one run.

    Args:
        names: environment variables; those that are not set here are left out.
    """

    def __init__(self, names: list[str]) -> None:
        self._values = {name: os.environ[name] for name in names if os.environ.get(name)}
        self._name = f"verl_ext_keys_{secrets.token_hex(16)}"

    def with_hook(self, runtime_env: dict[str, Any]) -> dict[str, Any]:
        """This runtime environment of Ray, with what makes its workers fetch the keys.

        Raises:
            UserError: it has a setup hook of the user's, and Ray takes one only.
        """
        if not self._values:
            return runtime_env
        if runtime_env.get("worker_process_setup_hook"):
            raise UserError(
                "ray_kwargs.ray_init.runtime_env.worker_process_setup_hook: there can be one only, and this run needs "
                f"its own to give {', '.join(self._values)} to the workers; unset them to do without"
            )
        variables = {**runtime_env.get("env_vars", {}), STORED_UNDER: self._name}
        return {**runtime_env, "env_vars": variables, "worker_process_setup_hook": SETUP_HOOK}

    @contextmanager
    def stored(self) -> Iterator[None]:
        """While this process is connected to the cluster, the keys can be fetched."""
        if not self._values:
            yield
            return
        from ray.experimental import internal_kv

        internal_kv._internal_kv_put(self._name, json.dumps(self._values))
        try:
            yield
        finally:
            internal_kv._internal_kv_del(self._name)


def take() -> None:
    """Run by Ray when a worker starts: the run's keys become variables of this process.

    Raises:
        RuntimeError: they are not there, because the run has ended.
    """
    from ray.experimental import internal_kv

    name = os.environ[STORED_UNDER]
    deadline = time.monotonic() + PATIENCE_S
    while (values := internal_kv._internal_kv_get(name)) is None:
        if time.monotonic() > deadline:
            raise RuntimeError(f"no keys under {name}: the run that this worker was started for has ended")
        time.sleep(0.1)
    os.environ.update(json.loads(values))
