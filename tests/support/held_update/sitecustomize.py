"""Every Python that starts with this folder on its PYTHONPATH holds its optimizer's step number HELD_UPDATE.

It then makes HELD_FILE, and goes on when that file is gone: a test can send a signal between two mini-batches, which
take milliseconds.
"""

import os
import pathlib
import time

import wrapt


@wrapt.when_imported("torch.optim.adamw")
def _hold(module):
    step, done = module.AdamW.step, 0

    def held(self, *arguments, **named):
        nonlocal done
        done += 1
        if done == int(os.environ["HELD_UPDATE"]):
            file = pathlib.Path(os.environ["HELD_FILE"])
            file.touch()
            while file.exists():
                time.sleep(0.01)
        return step(self, *arguments, **named)

    module.AdamW.step = held
