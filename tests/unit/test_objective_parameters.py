"""Objectives on a command line: parameters are typed, checked, shown, and part of the run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest
from omegaconf import OmegaConf

from verl_ext.errors import ConfigError, UnknownKeyError
from verl_ext.objectives import registry
from verl_ext.objectives.objective import Objective
from verl_ext.objectives.registry import build_objective, objective_names, parameters_of, register_objective
from verl_ext.trainer import fsdp_dft_trainer
from verl_ext.trainer.run.command_line import compose_config
from verl_ext.trainer.run.identity import flat
from verl_ext.trainer.supervised.objective import complete_objective
from verl_ext.trainer.supervised.vocabulary import DFT_VOCABULARY


@pytest.fixture
def own_names(monkeypatch):
    """What a test registers is gone after it."""
    objective_names()
    monkeypatch.setattr(registry, "_objectives", dict(registry._objectives))


def composed(*arguments):
    return compose_config("dft_trainer", list(arguments), DFT_VOCABULARY)


def test_parameters_are_in_the_configuration_and_with_it_in_the_identity_of_a_run():
    config = composed("objective.name=eaft", "objective.top_k=5")
    assert complete_objective(config).needs.top_k_entropy == 5
    assert {key: value for key, value in flat(config).items() if key.startswith("objective.")} == {
        "objective.name": "eaft",
        "objective.reduction": "token_mean",
        "objective.alpha": 1.0,
        "objective.top_k": 5,
    }
    given = composed("objective.name=eaft", "objective.top_k=5", "objective.alpha=1")  # the default, another spelling
    complete_objective(given)
    assert given == config


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("power", {"alpha": True}, "objective.alpha: got True, expected a number"),
        ("power", {"alpha": float("nan")}, "objective.alpha: got nan, expected 0 or more"),
        ("top_p", {"threshold": 1.5}, "objective.threshold: got 1.5, expected 0 to 1"),
        ("top_log_p", {"denominator": "some"}, "objective.denominator: got 'some', expected kept or all"),
        ("eaft", {"top_k": 1}, "objective.top_k: got 1, expected 2 or more"),
        ("psft", {"steps": 0}, "objective.steps: got 0, expected 1 or more"),
        ("iw_sft", {"exponent": None}, "objective.exponent: got None, expected a number"),
    ],
)
def test_values_that_cannot_work_are_named(name, values, message):
    with pytest.raises(ConfigError) as refused:
        build_objective(name, values)
    assert str(refused.value) == message


def test_a_parameter_of_another_objective_is_refused():
    with pytest.raises(UnknownKeyError, match="unknown key objective.alpha"):
        build_objective("dft", {"alpha": 1.0})


def test_help_has_every_objective_with_its_parameters_and_defaults():
    for name in objective_names():
        (line,) = [line for line in fsdp_dft_trainer.__doc__.splitlines() if line.split()[:1] == [name]]
        written = [word.removeprefix("objective.").split("=") for word in line.split() if word.startswith("objective.")]
        known = [(p.name, str(p.default)) for p in parameters_of(name)]
        assert [(key, value.split("|")[0]) for key, value in written] == known


def test_cfg_shows_the_parameters(capsys):
    assert fsdp_dft_trainer.main(["--cfg", "objective.name=power"]) == 0
    assert OmegaConf.create(capsys.readouterr().out).objective.alpha == 1.0


def test_what_no_command_line_can_give_is_refused_when_it_is_registered(own_names):
    @dataclass(frozen=True, kw_only=True)
    class WithoutDefault(Objective):
        alpha: float

    @dataclass(frozen=True, kw_only=True)
    class WithAList(Objective):
        alphas: list = field(default=None)

    @dataclass(frozen=True, kw_only=True)
    class CalledName(Objective):
        name: str = "x"

    for kind, message in (
        (WithoutDefault, "alpha has no default"),
        (WithAList, "which no command line can give"),
        (CalledName, "another meaning"),
        (type("NoDataclass", (), {}), "has to be a dataclass"),
    ):
        with pytest.raises(ValueError, match=message):
            register_objective("mine")(kind)
    assert "mine" not in objective_names()


def test_types_of_parameters(own_names):
    @register_objective("typed")
    @dataclass(frozen=True, kw_only=True)
    class Typed(Objective):
        flag: bool = False
        text: str = "a"
        mode: Literal["x", "y"] | None = None
        most: int | None = 3

        def token_losses(self, inputs):
            return -inputs.log_probs

    values = {"flag": True, "text": "b", "mode": "y", "most": None}
    assert vars(build_objective("typed", values)) == values
    for key, wrong in (("flag", 1), ("text", 2), ("mode", "z"), ("most", 1.0)):
        with pytest.raises(ConfigError, match=f"objective.{key}: got"):
            build_objective("typed", {key: wrong})
