"""python -m verl_ext.evaluation [run|generate|score|report|export] key=value ...

    run        generate, score and report; what is left out is this one
    generate   sample what is missing of a run            model=... output_dir=... benchmarks=...
    score      grade what has no verdict, and sum up      output_dir=... [grader=default|strict|published|qwen]
    report     tables and plots, several side by side     FOLDER ... [output=...] [papers=all|none|NAMES] [grader=...]
    export     a checkpoint as a Hugging Face folder      CHECKPOINT OUT [base=...] [dtype=...]

A run that was killed goes on when it is started again with the same keys. All keys, with their defaults:
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import fields

from verl_ext.cli import refuse_stray_blanks, user_errors_exit
from verl_ext.errors import UnknownKeyError, UserError, nearest

STEPS = ("run", "generate", "score", "report", "export")
INTERRUPTED_EXIT_CODE = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Do one step; returns the exit code: 0 done, 2 the input cannot work (one line says why), 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if "--help" in arguments or "-h" in arguments:
        print(_help())
        return 0
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    step = arguments.pop(0) if arguments and "=" not in arguments[0] else "run"
    with user_errors_exit():
        if step not in STEPS:
            close = nearest(step, STEPS)
            hint = f"; did you mean {close}?" if close else ""
            raise UserError(f"unknown step {step!r}, expected one of {', '.join(STEPS)}{hint}")
        try:
            _STEPS[step](refuse_stray_blanks(arguments))
        except KeyboardInterrupt:
            print("interrupted; the same command goes on from here", file=sys.stderr)
            return INTERRUPTED_EXIT_CODE
    return 0


def _run(arguments: Sequence[str]) -> None:
    config = _config(arguments)
    _generate(arguments, to_be_graded=True)
    _score(arguments)
    _report([config.output_dir, f"grader={config.grader}"])


def _generate(arguments: Sequence[str], *, to_be_graded: bool = False) -> None:
    from verl_ext.evaluation.generate import generate
    from verl_ext.run_folder import only_run_in

    config = _config(arguments)
    with only_run_in(config.output_dir, key="output_dir"):
        generate(config, to_be_graded=to_be_graded)


def _score(arguments: Sequence[str]) -> None:
    from verl_ext.evaluation.score import score
    from verl_ext.run_folder import only_run_in

    config = _config(arguments)
    with only_run_in(config.output_dir, key="output_dir"):
        score(config)


def _report(arguments: Sequence[str]) -> None:
    from verl_ext.evaluation.report import report

    folders, options = _split(arguments, ("output", "papers", "grader"))
    print(report(folders, **options))


def _export(arguments: Sequence[str]) -> None:
    from pathlib import Path

    from verl_ext.evaluation.checkpoints import export

    paths, options = _split(arguments, ("base", "dtype"))
    if len(paths) != 2:
        raise UserError(f"export: got {len(paths)} paths, expected CHECKPOINT OUT")
    export(paths[0], Path(paths[1]), **options)
    print(f"exported to {paths[1]}")


_STEPS = {"run": _run, "generate": _generate, "score": _score, "report": _report, "export": _export}


def _config(arguments: Sequence[str]):
    from verl_ext.evaluation.config import read_config

    return read_config(arguments)


def _split(arguments: Sequence[str], known: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Paths, and options by name."""
    paths, options = [], {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            paths.append(argument)
        elif key in known:
            options[key] = value
        else:
            raise UnknownKeyError(key, known)
    return paths, options


def _help() -> str:
    """The text above, and every key with its default and its meaning."""
    from verl_ext.evaluation.config import EvaluationConfig

    lines = [__doc__]
    for field in fields(EvaluationConfig):
        default = ",".join(field.default) if isinstance(field.default, tuple) else field.default
        shown = default.replace("\n", "\\n") if isinstance(default, str) else json.dumps(default)
        head = f"  {field.name}={shown}"
        lines.append(f"{head:<46} {field.metadata['help']}".rstrip())
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
