"""The table, and what of it no longer holds."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from verl_ext.verl_contract import source
from verl_ext.verl_contract.uses import own_modules, uses

TABLE_FILE = Path(__file__).with_name("table.yaml")
HEADER = """\
# What this package relies on in verl: for each of its modules why, and every name with its signature.
# overridden: a method or attribute of one of verl's classes that a class of ours replaces or extends.
# read: called or read, of what was imported or of `self`; imported; named: a dotted name in a string.
# `through_objects` lists by hand what is reached through an attribute of an attribute, which no scan sees.
# Written by `python -m verl_ext.verl_contract --write`, which keeps the sentences and through_objects.
"""


def load() -> dict[str, Any]:
    return yaml.safe_load(TABLE_FILE.read_text())


def moved() -> list[str]:
    """One line for each name whose definition is not what the table says, with who relies on it and why."""
    table = load()
    lines = []
    for module, group in table["modules"].items():
        for name, entry in group["uses"].items():
            how, _, expected = entry.partition(" ")
            lines += _compared(name, expected, f"{how} by {module}: {group['why']}")
    for name, entry in table["through_objects"].items():
        lines += _compared(name, entry["signature"], f"reached by {entry['by']}: {entry['why']}")
    return lines


def unlisted() -> list[str]:
    """One line for each use that the table does not have, and for each entry that nothing uses any more."""
    table, today = load(), uses()
    lines = []
    for module in sorted({*table["modules"], *today}):
        listed = table["modules"].get(module, {"uses": {}})
        names = {name: entry.partition(" ")[0] for name, entry in listed["uses"].items()}
        found = today.get(module, {})
        lines += [f"{module}: {how} {name} is not in the table" for name, how in found.items() if name not in names]
        lines += [f"{module}: {name} is in the table and not used" for name in names if name not in found]
        lines += [
            f"{module}: {name} is {found[name]} now, and {how} in the table"
            for name, how in names.items()
            if name in found and found[name] != how
        ]
        if not listed.get("why"):
            lines.append(f"{module}: the table does not say why it relies on verl")
    for name, entry in table["through_objects"].items():
        if entry["by"] not in own_modules():
            lines.append(f"{name}: {entry['by']}, which is to rely on it, does not exist")
    return lines


def write() -> None:
    """Write the table from today's code and the installed verl; the sentences are kept."""
    table = load()
    why = {module: group["why"] for module, group in table["modules"].items()}
    table["verl"] = version("verl")
    table["modules"] = {
        module: {
            "why": why.get(module, ""),
            "uses": {name: f"{how} {_signature(name)}" for name, how in names.items()},
        }
        for module, names in uses().items()
    }
    for name, entry in table["through_objects"].items():
        entry["signature"] = _signature(name)
    TABLE_FILE.write_text(HEADER + yaml.safe_dump(table, sort_keys=False, width=10_000))


def _compared(name: str, expected: str, relied_on: str) -> list[str]:
    found = _signature(name)
    if found == expected:
        return []
    if found == "gone":
        return [f"{name} is gone ({relied_on})"]
    return [f"{name}: was {expected}, is {found} ({relied_on})"]


def _signature(name: str) -> str:
    definition = source.find(name)
    if definition is None:
        return "gone"
    return definition.signature if definition.name == name else f"moved to {definition.name}"
