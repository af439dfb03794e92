"""Keep what other libraries say at start-up out of the way: it hides the one line that matters.

Nothing is thrown away: warnings of ours and of the user's own code stay, and verl's prints go to the log at level
DEBUG (`VERL_EXT_LOG_LEVEL=DEBUG` shows them).
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator

logger = logging.getLogger("verl_ext")


def quiet_libraries() -> None:
    """Call before verl and transformers are imported."""
    logger.setLevel(os.environ.get("VERL_EXT_LOG_LEVEL", "INFO"))
    os.environ.setdefault("VERL_LOGGING_LEVEL", "WARN")
    # verl probes for engines nobody asked for; torch 2.13 renamed a collective that verl calls by its old name
    warnings.filterwarnings("ignore", message=".*engine is not available.*", category=UserWarning)
    warnings.filterwarnings("ignore", message=".*all_gather_into_tensor.*", category=FutureWarning)
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    # says at every access how many threads it takes
    logging.getLogger("transfer_queue.utils.common").setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()


@contextlib.contextmanager
def prints_to_debug_log() -> Iterator[None]:
    """Send what is printed inside to the log; if something is raised, print it after all."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    except BaseException:
        print(printed.getvalue(), file=sys.stderr)
        raise
    for line in printed.getvalue().splitlines():
        logger.debug(line)
