"""One run at a time in a folder: two would write over each other's files."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from verl_ext.errors import UserError

LOCK_FILE = ".run.lock"
INCOMPLETE_SUFFIX = ".incomplete"
"""A folder is written under its name with this behind it, and renamed when it is whole."""


@contextmanager
def only_run_in(folder: str, *, key: str) -> Iterator[None]:
    """Hold the folder for this run (rank 0 does, for all); the system releases it however the run ends.

    Args:
        folder: where the run writes to.
        key: the configuration key that names it, for errors.

    A killed torchrun can leave ranks that train on: the same command would then continue a run that still goes.

    Raises:
        UserError: another run holds the folder, or it cannot be written to.
    """
    if int(os.environ.get("RANK", "0")) != 0:
        yield
        return
    path = Path(folder) / LOCK_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise UserError(f"{key}: cannot write to {folder} ({error.strerror})") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(f"{key}: another run writes to {folder} ({file.read().strip()}); end it first") from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
