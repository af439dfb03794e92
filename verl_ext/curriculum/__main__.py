"""python -m verl_ext.curriculum PLAN.yaml run_dir=FOLDER [--plan] [redo_from=STAGE] [STAGE.key=value] [key=value]

Trains in stages: each is an ordinary run in RUN/NN-STAGE, the next begins with its weights. The same command goes on after
any kind of end, and is 0 when all is done. What a plan can say is in docs/curriculum.md.

    --plan              print what would run, and start nothing
    redo_from=STAGE     train from this stage on anew; what was there is renamed
    STAGE.key=value     a key of the stage's own trainer, over the plan's; key=value for every online stage

Exit codes: 0 done, 2 the plan cannot work, 75 stopped by a signal and saved; otherwise that of the stage that failed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from verl_ext.cli import refuse_stray_blanks, user_errors_exit
from verl_ext.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a plan; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or "--help" in arguments or "-h" in arguments:
        print(__doc__)
        return 0 if arguments else 2
    with user_errors_exit():
        return _run(refuse_stray_blanks(arguments))


def _run(arguments: Sequence[str]) -> int:
    from verl_ext.curriculum.plan import read_plan
    from verl_ext.curriculum.run import Runner
    from verl_ext.run_folder import only_run_in

    only_plan = "--plan" in arguments
    rest = [argument for argument in arguments if argument != "--plan"]
    unknown = next((argument for argument in rest if argument.startswith("--")), None)
    if unknown:
        raise UserError(f"unknown option {unknown}; see python -m verl_ext.curriculum --help")
    files = [argument for argument in rest if "=" not in argument]
    if len(files) != 1:
        raise UserError(f"expected one plan, got {', '.join(files) or 'none'}")
    given = dict(argument.partition("=")[::2] for argument in rest if "=" in argument)
    run_dir, redo_from = given.pop("run_dir", ""), given.pop("redo_from", None)
    if not run_dir:
        raise UserError("run_dir: expected a folder (run_dir=outputs/NAME)")
    plan = read_plan(Path(files[0]), given)
    if only_plan:
        print("\n".join(_lines(plan, Path(run_dir))))
        return 0
    with only_run_in(run_dir, key="run_dir"):
        return Runner(plan, Path(run_dir)).run(redo_from)


def _lines(plan, run_dir: Path):
    from verl_ext.curriculum.commands import arguments_of, command_of, folder_of

    model = plan.model
    for number, stage in enumerate(plan.stages, start=1):
        folder = folder_of(run_dir, number, stage)
        train = stage.train
        yield f"# {number}. {stage.name}"
        if stage.keep is not None:
            by = f", pass rates of {stage.rates}" if stage.rates else ""
            yield f"#    keep {stage.keep.text}{by}"
            train = (str(folder / f"train{Path(train[0]).suffix}"),)
        if stage.until.plateau:
            yield f"#    until {stage.until.plateau} has no better value {stage.until.patience} times"
        yield " ".join(command_of(stage, arguments_of(stage, model, train, folder)))
        if stage.trainer != "evaluation":
            model = str(folder / "global_step_N" / "huggingface")


if __name__ == "__main__":
    sys.exit(main())
