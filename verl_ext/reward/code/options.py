"""How programs are run and compared: the keys of `reward.reward_kwargs.code`, and `code_*` of the evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field

from verl_ext.errors import ConfigError
from verl_ext.reward.code.compare import COMPARISONS
from verl_ext.sandbox.limits import Limits
from verl_ext.sandbox.pool import SANDBOXES
from verl_ext.sandbox.remote import REMOTE


@dataclass(frozen=True, kw_only=True)
class CodeOptions:
    """Hashable, so that equal options share their slots."""

    cpu_s: float = Limits.cpu_s
    """CPU seconds of one test (of all asserts together)."""
    wall_s: float | None = None
    """Wall seconds of one test; None: three times `cpu_s` and two more."""
    memory_mb: int = Limits.memory_mb
    """Address space of one process."""
    comparison: str = "lcb"
    """Of standard output: `lcb`, `tokens` or `exact` (`compare.COMPARISONS`)."""
    sandbox: str = "auto"
    """The isolation, by name; `auto` takes what works here."""
    url: str = ""
    """With `remote`: the service, without `/run_code`."""
    resource: str = ""
    """In a run on Ray: programs are run on the machines that have this resource; empty for each on its own machine."""
    tests_dirs: tuple[str, ...] = ()
    """Folders of stored tests (`store`)."""

    key: str = field(default="code.", compare=False)
    """What an error puts before the name of an option."""

    def __post_init__(self) -> None:
        for name, known in (("comparison", COMPARISONS), ("sandbox", SANDBOXES)):
            given = getattr(self, name)
            if given not in known:
                raise ConfigError(f"{self.key}{name}", given=given, expected=f"one of {', '.join(known)}")
        if (self.sandbox == REMOTE) != bool(self.url):
            expected = (
                "the service's URL, with sandbox=remote" if self.sandbox == REMOTE else "nothing without sandbox=remote"
            )
            raise ConfigError(f"{self.key}url", given=self.url, expected=expected)
        if self.url and not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"{self.key}url", given=self.url, expected="a URL that starts with http:// or https://")
        self.limits  # noqa: B018 - refuses what cannot work

    @property
    def limits(self) -> Limits:
        """Of one test."""
        wall_s = 3 * self.cpu_s + 2 if self.wall_s is None else self.wall_s
        return Limits(cpu_s=self.cpu_s, wall_s=wall_s, memory_mb=self.memory_mb, key=self.key)
