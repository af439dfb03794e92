"""The door of every command: a user's mistake is one line and exit code 2, ours is a traceback."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from verl_ext.errors import UserError

USER_ERROR_EXIT_CODE = 2

OTHER_RANKS_WAIT_S = 30.0
"""torchrun ends all ranks when the first one fails: the others wait for it, so that the line is printed once."""


@contextmanager
def user_errors_exit() -> Iterator[None]:
    """Turn a `UserError` into one line on stderr, once a machine, and exit code 2.

    One that comes from a Ray worker is what was raised there, with the worker's traceback around it.
    """
    try:
        yield
    except UserError as error:
        if int(os.environ.get("LOCAL_RANK", "0")) > 0:
            time.sleep(OTHER_RANKS_WAIT_S)
        print(f"error: {getattr(error, 'cause', None) or error}", file=sys.stderr, flush=True)
        raise SystemExit(USER_ERROR_EXIT_CODE) from None


def refuse_stray_blanks(arguments: Sequence[str]) -> Sequence[str]:
    """The arguments of a command line, none of which is blank.

    Raises:
        UserError: one is, because a line of the command ended in a backslash and a blank; it names the line.
    """
    for position, argument in enumerate(arguments, start=1):
        if not argument.strip():
            before = arguments[position - 2] if position > 1 else "the module name"
            raise UserError(
                f"argument {position} is blank: the line with {before!r} ends in a backslash followed by a blank, so "
                "the shell ended the command there and lost the rest; delete that blank"
            )
    return arguments
