"""What one run of a program may use."""

from __future__ import annotations

from dataclasses import dataclass

from verl_ext.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Of one run of one program."""

    cpu_s: float = 6.0
    """CPU seconds of all threads together. They decide, because wall time on a busy machine fails right programs."""
    wall_s: float = 20.0
    """Wall seconds, for a program that waits instead of working."""
    memory_mb: int = 1024
    """Address space, in MiB."""
    output_kb: int = 1024
    """Of each of standard output, standard error and the returned value, in KiB."""

    key: str = "limits."
    """What an error puts before the name of a limit."""

    def __post_init__(self) -> None:
        for holds, name, expected in (
            (self.cpu_s > 0, "cpu_s", "a positive number of seconds"),
            (self.wall_s >= self.cpu_s, "wall_s", f"at least cpu_s, {self.cpu_s:g}"),
            (self.memory_mb >= 64, "memory_mb", "at least 64"),
            (self.output_kb >= 1, "output_kb", "at least 1"),
        ):
            if not holds:
                raise ConfigError(f"{self.key}{name}", given=getattr(self, name), expected=expected)
