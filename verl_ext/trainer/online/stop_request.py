"""The actor that ranks ask whether a stop has been asked for.

In a module of its own without torch or verl: the actor's process loads it and nothing else, and starts at once.
"""

from __future__ import annotations

import ray


class StopRequest:
    """A Ray actor that ranks ask between the mini-batches of an update, while the driver waits for them."""

    def __init__(self) -> None:
        self._asked = False

    def ask(self) -> None:
        """Ask for a stop."""
        self._asked = True

    def asked(self) -> bool:
        """Whether a stop has been asked for."""
        return self._asked


def start_stop_request() -> ray.actor.ActorHandle:
    """On the driver's machine if it can be, since it has to outlive no other."""
    return ray.remote(StopRequest).options(num_cpus=0).remote()
