"""Every Python that starts with this folder on its PYTHONPATH keeps the save of HELD_STEP from being completed.

A save of a small model takes milliseconds: without this, a test that wants to kill a run in the middle of one is lucky
or not.
"""

import os
import pathlib
import time

_rename = pathlib.Path.rename


def _held(self, target):
    if pathlib.Path(target).name == f"global_step_{os.environ['HELD_STEP']}":
        time.sleep(600)
    return _rename(self, target)


pathlib.Path.rename = _held
