"""The one door into verl: entry point `verl.plugins`, loaded by `import verl`.

`import verl` itself grows by the platform alone; all else waits for the part of verl that it belongs to
(`verl_ext.registration`).

verl logs a plugin that fails to load at DEBUG level, where nobody sees it, and goes on without it. A run that
silently lacks its platform or objective is worse than none, so a failure here is printed and raised.
"""

from __future__ import annotations

import importlib
import logging

logger = logging.getLogger(__name__)

try:
    importlib.import_module("verl.plugin.platform")  # as soon as it is there, `cpu` is registered
except Exception:
    logger.exception("verl_ext did not load: verl runs without its platform, engines and algorithms")
    raise
