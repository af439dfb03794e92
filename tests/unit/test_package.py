"""What a user gets who installs the package: its metadata, data files, light imports, scripts and pinned sets."""

import ast
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import entry_points, packages_distributions, version
from pathlib import Path

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import verl_ext

ROOT = Path(__file__).resolve().parents[2]
SHELL_SCRIPTS = sorted(
    path
    for folder in ("sh", "recipes", "examples", ".ci")
    for path in (ROOT / folder).rglob("*")
    if path.is_file() and (path.suffix == ".sh" or path.parent.name == ".ci")
)
CONSTRAINTS = sorted((ROOT / "constraints").glob("*.txt"))


def test_verl_finds_the_plugin():
    found = {entry.name: entry.value for entry in entry_points(group="verl.plugins")}
    assert found["verl_ext"] == "verl_ext.plugin"


def test_installed_version_is_that_of_the_source():
    assert version("verl_ext") == verl_ext.__version__


@pytest.mark.parametrize(
    "module",
    [
        "verl_ext",
        "verl_ext.objectives",
        "verl_ext.errors",
        "verl_ext.cli",
        # A run's device is chosen after these: verl chooses its platform when it is first imported.
        "verl_ext.trainer.run.command_line",
        "verl_ext.trainer.online.checks",
        "verl_ext.trainer.supervised.checks",
    ],
)
def test_light_modules_load_neither_verl_nor_ray(module):
    code = f"import sys, {module}; print(*sorted({{'verl', 'ray'}} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert loaded.stdout.split() == []


@pytest.mark.parametrize("module", ["verl_ext.trainer.online.stop_request", "verl_ext.rollout.bucket_mailbox"])
def test_the_modules_of_small_actors_load_neither_verl_nor_torch(module):
    """Each is a process of its own, the mailbox's a new one for every update of the weights."""
    code = f"import sys, {module}; print(*sorted({{'verl', 'torch'}} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert loaded.stdout.split() == []


def imported_packages() -> set[str]:
    """Of the package's sources, at the top of a module or inside a function."""
    trees = [ast.parse(path.read_text()) for path in (ROOT / "verl_ext").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0}
    return {module.partition(".")[0] for module in modules} - {"verl_ext"} - set(sys.stdlib_module_names)


def test_a_plain_installation_declares_what_the_package_imports(monkeypatch):
    """Without any extra, but for the engines that a machine may have."""
    declared: dict = {}
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: declared.update(arguments))
    runpy.run_path(str(ROOT / "setup.py"))
    names = {canonicalize_name(Requirement(text).name) for text in declared["install_requires"]}
    of_packages = packages_distributions()
    for package in sorted(imported_packages() - {"vllm", "sglang", "flash_attn"}):
        distributions = {canonicalize_name(name) for name in of_packages[package]}
        assert distributions & names, f"{package} is imported, and setup.py does not name it"


def test_wheel_holds_every_source_and_config_file(tmp_path):
    for name in ("setup.py", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "verl_ext", tmp_path / "verl_ext", ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "."]
    subprocess.run(build, cwd=tmp_path, check=True)
    (wheel,) = tmp_path.glob("verl_ext-*.whl")

    expected = {
        path.relative_to(ROOT).as_posix()
        for pattern in ("*.py", "*.yaml", "*.json")
        for path in (ROOT / "verl_ext").rglob(pattern)
    }
    assert expected <= set(zipfile.ZipFile(wheel).namelist())


@pytest.mark.parametrize("script", SHELL_SCRIPTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_shell_script_parses(script):
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize("constraints", CONSTRAINTS, ids=lambda path: path.name)
def test_every_constraint_is_exact_and_stated_once_for_each_python(constraints):
    lines = [line for line in constraints.read_text().splitlines() if line and not line.startswith("#")]
    pin = re.compile(r'([a-z0-9-]+)==([0-9][\w.!+]*)( ; python_version (<|>=|==) "3\.\d+")?')
    assert [line for line in lines if not pin.fullmatch(line)] == []
    keys = [(match[1], match[3]) for match in map(pin.fullmatch, lines)]
    assert len(keys) == len(set(keys))


def test_constraints_pin_the_verl_that_setup_requires():
    required = re.search(r'"(verl==[^"]+)"', (ROOT / "setup.py").read_text())[1]
    assert all(required in constraints.read_text().splitlines() for constraints in CONSTRAINTS)
