r"""python -m verl_ext.reward explain RESPONSE GOLD [--source SOURCE] [--policy POLICY] [--after-think] [--timeout-s N]

    RESPONSE   what the model wrote, such as 'So it is $\boxed{0.5x}$.'
    GOLD       the right answer
    --source   whose rules hold (default: math); any name that training knows
    --policy   strict, published or qwen (default: the source's own)

Either text may be @FILE, and one of them `-` for what comes in. Prints what was extracted and by which rule, what each
stage of the comparison found, the verdict and the reason.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from verl_ext.cli import user_errors_exit
from verl_ext.errors import ConfigError, DataError, UserError, nearest
from verl_ext.reward.explain import explain
from verl_ext.reward.policy import POLICIES, GradingPolicy

COMMANDS = ("explain",)
_OPTIONS = ("--source", "--policy", "--timeout-s")
_FLAGS = ("--after-think",)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 explained, whatever the verdict; 2 the input cannot work (one line says why)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or "--help" in arguments or "-h" in arguments:
        print(__doc__)
        return 0
    with user_errors_exit():
        command = arguments.pop(0)
        if command not in COMMANDS:
            hint = f"; did you mean {close}?" if (close := nearest(command, COMMANDS)) else ""
            raise UserError(f"unknown command {command!r}, expected {', '.join(COMMANDS)}{hint}")
        _explain(arguments)
    return 0


def _explain(arguments: list[str]) -> None:
    texts, options = _split(arguments)
    if len(texts) != 2:
        raise UserError(f"explain: got {len(texts)} texts, expected two: RESPONSE GOLD (quote each)")
    if texts[0] == texts[1] == "-":
        raise UserError("explain: both RESPONSE and GOLD are '-', and the input can be only one of them")
    response, gold = (_read(text) for text in texts)
    explanation = explain(
        response,
        gold.strip(),
        data_source=options.get("--source", "math"),
        policy=_policy(options.get("--policy")),
        after_think="--after-think" in options,
        timeout_s=_seconds(options.get("--timeout-s", "5")),
    )
    print(explanation)


def _split(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    r"""Texts and options; only two dashes make an option, since `-\frac{1}{2}` is an answer.

    Raises:
        UserError: an option that does not exist, or one without its value.
    """
    texts: list[str] = []
    options: dict[str, str] = {}
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("--"):
            texts.append(argument)
            continue
        name, equals, value = argument.partition("=")
        if name in _FLAGS:
            options[name] = ""
        elif name in _OPTIONS:
            options[name] = value if equals else next(rest, "")
            if not options[name]:
                raise UserError(f"{name}: no value behind it")
        else:
            hint = f"; did you mean {close}?" if (close := nearest(name, (*_OPTIONS, *_FLAGS))) else ""
            raise UserError(f"unknown option {name}, expected one of {', '.join((*_OPTIONS, *_FLAGS))}{hint}")
    return texts, options


def _read(text: str) -> str:
    if text == "-":
        return sys.stdin.read()
    if not text.startswith("@"):
        return text
    path = Path(text[1:])
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text") from None


def _policy(name: str | None) -> GradingPolicy | None:
    if name is None:
        return None
    if name not in POLICIES:
        raise ConfigError("--policy", given=name, expected=f"one of {', '.join(POLICIES)}")
    return POLICIES[name]


def _seconds(text: str) -> float:

    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigError("--timeout-s", given=text, expected="a positive number of seconds")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
