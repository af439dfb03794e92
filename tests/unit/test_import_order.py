"""Every module can be the first one that a program imports.

verl imports our modules while its own are being imported, and ours import verl's: whichever comes first, all are whole
in the end.
"""

from __future__ import annotations

import importlib.util
import pkgutil
import subprocess
import sys

import verl_ext

NOT_IMPORTABLE_HERE = {
    "verl_ext.rollout.vllm_cpu_worker": "vllm",
    "verl_ext.rollout.vllm_cpu": "vllm",
}
"""Module -> the package that it needs and a plain installation lacks."""

IMPORT_EACH = """
import importlib, os, sys, traceback, warnings
warnings.simplefilter("ignore")
# Packages of others that verl loads: without them each child would load them anew.
import accelerate, aiohttp, datasets, fastapi, hydra, pandas, peft, pyarrow.parquet, ray, scipy.optimize, sympy, tensordict
import torch.distributed.checkpoint, torch.distributed.fsdp, torch._dynamo, transfer_queue, transformers, uvicorn
import transformers.models.auto.modeling_auto
assert not any(name.split(".")[0] in ("verl", "verl_ext") for name in sys.modules)
for name in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        try:
            importlib.import_module(name)
        except BaseException:
            print(f"{name} cannot be imported first", file=sys.stderr)
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        print(name)
"""


def _modules() -> list[str]:
    found = [module.name for module in pkgutil.walk_packages(verl_ext.__path__, "verl_ext.")]
    lacking = [name for name, package in NOT_IMPORTABLE_HERE.items() if importlib.util.find_spec(package) is None]
    return [name for name in found if not name.endswith("__main__") and name not in lacking]


def test_every_module_can_be_imported_first():
    """Each in a process of its own, forked where the packages that all need are there already, but nothing of verl."""
    done = subprocess.run([sys.executable, "-c", IMPORT_EACH, *_modules()], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [], done.stderr
