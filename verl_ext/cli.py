"""The door of every command: a user's mistake is one line and exit code 2, ours is a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from verl_ext.errors import UserError

USER_ERROR_EXIT_CODE = 2


@contextmanager
def user_errors_exit() -> Iterator[None]:
    """Turn a `UserError` into one line on stderr (rank 0 only) and exit code 2."""
    try:
        yield
    except UserError as error:
        if int(os.environ.get("RANK", "0")) == 0:
            print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(USER_ERROR_EXIT_CODE) from None
