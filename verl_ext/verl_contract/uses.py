"""What the modules of this package use of verl, read from their text."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import verl_ext
from verl_ext.verl_contract import source

ROOT = Path(verl_ext.__file__).parent
VERL_NAME = re.compile(r"verl(\.[A-Za-z_]\w*)+")


def uses() -> dict[str, dict[str, str]]:
    """Module of ours -> name in verl -> how it is used: imported, named, read or overridden.

    A name is that of its definition, wherever it is imported from. Seen are imports, attributes of what is imported,
    dotted names in strings, and for every class that descends from one of verl's the methods that it overrides and
    the attributes of `self` that only verl defines. What is reached through other objects (an attribute of an
    attribute of `self`) is not seen.
    """
    found: dict[str, dict[str, str]] = {}
    for module in own_modules():
        for name, how in (*_imported(module), *_named(module)):
            _note(found, module, name, how)
    for module in own_modules():
        for class_name, node in source.top_level(module).items():
            if isinstance(node, ast.ClassDef):
                for holder, name, how in _of_class(f"{module}.{class_name}"):
                    _note(found, holder, name, how)
    return {module: dict(sorted(names.items())) for module, names in sorted(found.items())}


@cache
def own_modules() -> tuple[str, ...]:
    files = [path for path in ROOT.rglob("*.py") if path.parent.name != "verl_contract"]
    parts = [path.relative_to(ROOT.parent).with_suffix("").parts for path in files]
    return tuple(sorted(".".join(part[:-1] if part[-1] == "__init__" else part) for part in parts))


def _note(found: dict[str, dict[str, str]], module: str, name: str, how: str) -> None:
    definition = source.find(name)
    names = found.setdefault(module, {})
    key = name if definition is None else definition.name
    names[key] = "overridden" if "overridden" in (how, names.get(key)) else names.get(key, how)


def _imported(module: str) -> Iterator[tuple[str, str]]:
    """Imports from verl, and attributes of what they bring."""
    names = {local: target for local, target in source.imported_names(module).items() if _is_verls(target)}
    for target in names.values():
        if target != "verl":
            yield target, "imported"
    for node in ast.walk(source.tree_of(module)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names:
            name = f"{names[node.value.id]}.{node.attr}"
            if source.find(name) is not None:
                yield name, "read"


def _named(module: str) -> Iterator[tuple[str, str]]:
    """Dotted names in strings, such as those of modules that own a registry."""
    for node in ast.walk(source.tree_of(module)):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and VERL_NAME.fullmatch(text) and source.find(text) is not None:
            yield text, "named"


def _of_class(name: str) -> Iterator[tuple[str, str, str]]:
    """(our module, verl's name, how) of a class and its mixins, where one of verl's is among its ancestors."""
    ancestors = list(_ancestors(name))
    verls = [ancestor for ancestor in ancestors if _is_verls(ancestor)]
    ours = [ancestor for ancestor in ancestors if not _is_verls(ancestor)]
    if not verls:
        return
    defined_by_us = {member for owner in ours for member in source.members(_class(owner)) if member != "__init__"}
    for owner in ours:
        module, node = owner.rpartition(".")[0], _class(owner)
        for member in (name for statement in node.body for name in source.defined_by(statement)):
            for of_verl in _first_of(verls, member):
                yield module, of_verl, "overridden"
        for read in _read_of_self(node):
            if read not in defined_by_us:
                for of_verl in _first_of(verls, read):
                    yield module, of_verl, "read"


def _ancestors(name: str) -> Iterator[str]:
    definition = source.find(name)
    if definition is None or definition.module.partition(".")[0] not in ("verl", "verl_ext"):
        return
    yield definition.name
    if not _is_verls(definition.name):
        for base in source.base_names(definition.module, _class(definition.name)):
            yield from _ancestors(base)


def _first_of(classes: list[str], member: str) -> Iterator[str]:
    """The definition that verl's classes have of a member, if any."""
    found = [source.find(f"{owner}.{member}") for owner in classes]
    names = [definition.name for definition in found if definition is not None and _is_verls(definition.name)]
    yield from names[:1]


def _read_of_self(node: ast.ClassDef) -> set[str]:
    """X of `self.X`, and of `super().X`."""
    found = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.Attribute):
            value = inner.value
            is_self = isinstance(value, ast.Name) and value.id == "self"
            is_super = isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "super"
            if is_self or is_super:
                found.add(inner.attr)
    return found


def _class(name: str) -> ast.ClassDef:
    module, _, class_name = name.rpartition(".")
    return source.top_level(module)[class_name]


def _is_verls(name: str) -> bool:
    return name == "verl" or name.startswith("verl.")
