"""Python packages as text: where a dotted name is defined, and with which signature, without importing anything."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef
MAX_HOPS = 20
"""Of re-exports and base classes that are followed; a chain that is longer is a circle."""


@dataclass(frozen=True)
class Definition:
    """Where a name is defined."""

    module: str
    path: str
    """Within the module, dotted; empty for the module itself."""
    signature: str

    @property
    def name(self) -> str:
        return f"{self.module}.{self.path}" if self.path else self.module


def find(name: str) -> Definition | None:
    """The definition of `package.module.Class.attribute`, through re-exports and base classes; None: there is none."""
    return _find(name, MAX_HOPS)


def _find(name: str, hops: int) -> Definition | None:
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        module = ".".join(parts[:count])
        if file_of(module) is not None:
            return _find_in(module, parts[count:], hops)
    return None


def _find_in(module: str, path: list[str], hops: int) -> Definition | None:
    if not path:
        return Definition(module, "", "module")
    if hops == 0:
        return None
    node = top_level(module).get(path[0])
    if node is None:
        target = imported_names(module).get(path[0])
        places = [target] if target else [f"{base}.{path[0]}" for base in star_imports(module)]
        found = (_find(".".join([place, *path[1:]]), hops - 1) for place in places)
        return next((definition for definition in found if definition is not None), None)
    if len(path) == 1:
        return Definition(module, path[0], signature_of(node))
    if not isinstance(node, ast.ClassDef) or len(path) > 2:
        return None
    member = members(node).get(path[1])
    if member is not None:
        return Definition(module, ".".join(path), signature_of(member))
    for base in base_names(module, node):
        found = _find(f"{base}.{path[1]}", hops - 1)
        if found is not None:
            return found
    return None


@cache
def file_of(module: str) -> Path | None:
    """The file of a module, found without importing it or its package."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        return None
    for folder in spec.submodule_search_locations:
        path = Path(folder, *rest)
        for candidate in (path / "__init__.py", path.with_suffix(".py")):
            if candidate.is_file() and (rest or candidate.name == "__init__.py"):
                return candidate
    return None


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(file_of(module).read_text())


@cache
def top_level(module: str) -> dict[str, ast.stmt]:
    """What a module defines, also below `if` and `try`; of several definitions the first."""
    found: dict[str, ast.stmt] = {}
    for node in _statements(tree_of(module).body):
        for name in defined_by(node):
            found.setdefault(name, node)
    return found


@cache
def imported_names(module: str) -> dict[str, str]:
    """Name in the module -> dotted name of what is imported."""
    found: dict[str, str] = {}
    is_package = file_of(module).name == "__init__.py"
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(module, is_package, node)
            found |= {alias.asname or alias.name: f"{base}.{alias.name}" for alias in node.names if alias.name != "*"}
    return found


@cache
def star_imports(module: str) -> tuple[str, ...]:
    """Modules of which everything is imported."""
    is_package = file_of(module).name == "__init__.py"
    nodes = [node for node in ast.walk(tree_of(module)) if isinstance(node, ast.ImportFrom)]
    return tuple(_absolute(module, is_package, node) for node in nodes if node.names[0].name == "*")


@cache
def members(node: ast.ClassDef) -> dict[str, ast.AST]:
    """Methods and attributes that a class has, those included that its methods set on `self`."""
    found: dict[str, ast.AST] = {}
    for statement in _statements(node.body):
        for name in defined_by(statement):
            found.setdefault(name, statement)
    for inner in ast.walk(node):
        targets = inner.targets if isinstance(inner, ast.Assign) else [getattr(inner, "target", None)]
        for target in targets:
            for part in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id == "self":
                    found.setdefault(part.attr, inner)
    return found


def base_names(module: str, node: ast.ClassDef) -> Iterator[str]:
    """Dotted names of the bases of a class."""
    for base in node.bases:
        text = ast.unparse(base.value if isinstance(base, ast.Subscript) else base)
        first, _, rest = text.partition(".")
        target = imported_names(module).get(first, f"{module}.{first}")
        yield f"{target}.{rest}" if rest else target


def signature_of(node: ast.AST) -> str:
    """Parameters with their defaults, without annotations; the fields of a class with none of its own `__init__`."""
    if isinstance(node, ast.ClassDef):
        init = next((item for item in node.body if isinstance(item, Function) and item.name == "__init__"), None)
        if init is not None:
            return f"class{_parameters(init)}"
        fields = [item for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)]
        return f"class[{', '.join(item.target.id for item in fields)}]"
    if isinstance(node, Function):
        decorators = {ast.unparse(item) for item in node.decorator_list} & {"property", "staticmethod", "classmethod"}
        prefix = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
        return f"{prefix}{''.join(f'@{name} ' for name in sorted(decorators))}{_parameters(node)}"
    return "attribute"


def _parameters(node: Function) -> str:
    stripped = ast.parse(f"def f({ast.unparse(node.args)}): pass").body[0].args
    for argument in (*stripped.posonlyargs, *stripped.args, *stripped.kwonlyargs, stripped.vararg, stripped.kwarg):
        if argument is not None:
            argument.annotation = None
    return f"({ast.unparse(stripped)})"


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        for part in ("body", "orelse", "handlers", "finalbody"):
            if isinstance(node, (ast.If, ast.Try, ast.With)):
                for inner in getattr(node, part, []):
                    yield from _statements(inner.body if isinstance(inner, ast.ExceptHandler) else [inner])


def defined_by(node: ast.stmt) -> Iterator[str]:
    """Names that a statement defines by itself."""
    if isinstance(node, (ast.ClassDef, *Function.__args__)):
        yield node.name
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id
    elif isinstance(node, ast.Assign):
        yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def _absolute(module: str, is_package: bool, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module
    parts = module.split(".")
    package = parts[: len(parts) - node.level + is_package]
    return ".".join([*package, *([node.module] if node.module else [])])
