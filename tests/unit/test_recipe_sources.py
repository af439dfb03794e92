"""recipes/SOURCES.md names every key that a recipe sets, with the value that it sets, and with a source."""

from __future__ import annotations

import re

import pytest

from tests.support.recipes import FOLDER, OFFLINE, RECIPES, ROOT, commands

ROW = re.compile(r"\| `(?P<key>[^`]+)` \| `(?P<value>[^`]*)` \| (?P<source>.+) \|")
CASES = [*RECIPES, f"OBJECTIVE=rft {OFFLINE}", f"OBJECTIVE=nft {OFFLINE}"]


def read_tables() -> dict[str, dict[str, tuple[str, str]]]:
    """{recipe, with a variable before it where that changes its keys: {key: (value, source)}}"""
    tables: dict[str, dict[str, tuple[str, str]]] = {}
    named: list[str] = []
    for line in (FOLDER / "SOURCES.md").read_text().splitlines():
        if line.startswith("#"):
            named = re.findall(r"`([^`]+\.sh)`", line)
        elif named and (row := ROW.fullmatch(line)):
            for case in named:
                assert row["key"] not in tables.setdefault(case, {}), f"{case}: {row['key']} twice"
                tables[case][row["key"]] = (row["value"], row["source"])
    return tables


def settings(case: str) -> dict[str, str]:
    """{key: value} of all commands that a recipe starts."""
    *variables, recipe = case.split()
    arguments = [
        a for command in commands(recipe, **dict(v.split("=") for v in variables)) for a in command if "=" in a
    ]
    pairs = (argument.partition("=") for argument in arguments if not argument.startswith("-"))
    return {key: value.replace(f"{ROOT}/", "") for key, _, value in pairs}


@pytest.fixture(scope="module")
def tables():
    return read_tables()


@pytest.mark.parametrize("case", CASES)
def test_every_key_of_a_recipe_has_a_source_and_the_same_value(case, tables):
    assert {key: value for key, (value, _) in tables[case].items()} == settings(case)


def test_no_table_is_of_a_recipe_that_is_not_there(tables):
    assert set(tables) == set(CASES)


def test_what_was_not_checked_is_said_in_the_recipe_too(tables):
    for case, table in tables.items():
        if any("NOT CHECKED" in source for _, source in table.values()):
            assert "NOT CHECKED" in (FOLDER / case.split()[-1]).read_text(), case
