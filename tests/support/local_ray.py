"""Ray on this machine, for a test of actors."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import ray


@contextmanager
def local_ray(resources: dict[str, float] | None = None) -> Iterator[None]:
    """A cluster of one node, with these resources of its own, ended with the block."""
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # short: it becomes part of socket names
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, _temp_dir=folder, resources=resources)
        try:
            yield
        finally:
            ray.shutdown()
