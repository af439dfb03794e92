"""The one list of what we rely on in verl, held against the installed verl and against our own code."""

from __future__ import annotations

import pytest

from verl_ext.verl_contract import source, table
from verl_ext.verl_contract.__main__ import main


def test_verl_is_as_the_table_says():
    moved = table.moved()
    assert not moved, "\n".join(moved)


def test_the_table_has_all_that_our_modules_use():
    """After a change of ours: python -m verl_ext.verl_contract --write, and a sentence for a new module."""
    unlisted = table.unlisted()
    assert not unlisted, "\n".join(unlisted)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package whose source can be changed between two looks at it."""

    def write(**files: str) -> None:
        for name, text in files.items():
            (tmp_path / "contract_example" / f"{name}.py").write_text(text)
        for cached in vars(source).values():
            if hasattr(cached, "cache_clear"):
                cached.cache_clear()

    (tmp_path / "contract_example").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    write(__init__="from .base import *\nfrom .other import late as renamed\n")
    yield write
    write()


def test_a_definition_is_found_through_re_exports_bases_and_what_methods_set(package):
    package(
        base="class Base:\n    def run(self, a, b: int = 2, *, c=None): self.state = a\n",
        other="from contract_example.base import Base\nclass Child(Base):\n    x: int = 1\nasync def late(y): ...\n",
    )
    expected = {
        "contract_example.Base.run": ("contract_example.base.Base.run", "(self, a, b=2, *, c=None)"),
        "contract_example.other.Child.run": ("contract_example.base.Base.run", "(self, a, b=2, *, c=None)"),
        "contract_example.other.Child.state": ("contract_example.base.Base.state", "attribute"),
        "contract_example.other.Child": ("contract_example.other.Child", "class[x]"),
        "contract_example.renamed": ("contract_example.other.late", "async (y)"),
    }
    for name, (where, signature) in expected.items():
        found = source.find(name)
        assert (found.name, found.signature) == (where, signature)
    assert source.find("contract_example.other.Child.gone") is None


def test_what_moved_is_said_with_who_relies_on_it(package, monkeypatch):
    package(base="class Base:\n    def run(self, a, b): ...\n    def kept(self): ...\n", other="late = 1\n")
    uses = {
        "contract_example.base.Base.run": "overridden (self, a)",
        "contract_example.base.Base.kept": "read (self)",
        "contract_example.base.Base.stop": "read (self)",
    }
    contract = {"modules": {"verl_ext.example": {"why": "shows it", "uses": uses}}, "through_objects": {}}
    monkeypatch.setattr(table, "load", lambda: contract)
    assert table.moved() == [
        "contract_example.base.Base.run: was (self, a), is (self, a, b) (overridden by verl_ext.example: shows it)",
        "contract_example.base.Base.stop is gone (read by verl_ext.example: shows it)",
    ]


def test_a_use_that_is_not_listed_is_named(monkeypatch):
    contract = table.load()
    uses = contract["modules"]["verl_ext.engine.fsdp"]["uses"]
    override = next(name for name, entry in uses.items() if name.endswith("prepare_model_outputs"))
    del uses[override]
    monkeypatch.setattr(table, "load", lambda: contract)
    assert table.unlisted() == [f"verl_ext.engine.fsdp: overridden {override} is not in the table"]


def test_the_command_says_how_much_holds(capsys):
    assert main([]) == 0
    assert "moved in verl: 0\nnot in the table: 0\n" in capsys.readouterr().out
    assert main(["--nonsense"]) == 2
