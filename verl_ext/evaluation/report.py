"""The step that shows: tables and plots of one evaluation or several, beside the papers' rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from verl_ext.errors import ConfigError, UserError
from verl_ext.evaluation.benchmarks import BENCHMARKS, CODE_BENCHMARKS
from verl_ext.evaluation.config import DIRECT
from verl_ext.evaluation.plots import draw_plots
from verl_ext.evaluation.published import PublishedRow, published_rows
from verl_ext.evaluation.run_identity import Run
from verl_ext.evaluation.summary import Evaluated, read_summary

REPORT_FILE = "report.md"
NONE = "–"


def report(folders: Sequence[str], *, output: str | None = None, papers: str = "all", grader: str | None = None) -> str:
    """Write `report.md` and `plots/` for the evaluations in `folders`; returns the report.

    Args:
        folders: output folders of evaluations.
        output: where to write; None for the first of the folders.
        papers: see `published.published_rows`.
        grader: whose verdicts; None for the only ones, or those of `default`.

    Raises:
        UserError: a folder without a summary, or without that grader's.
    """
    if not folders:
        raise UserError("report: no folder given; expected output folders of evaluations")
    evaluated = _named([_read(Path(folder), grader) for folder in folders])
    target = Path(output) if output else Path(folders[0])
    target.mkdir(parents=True, exist_ok=True)
    benchmarks = _in_order({name for one in evaluated for name in one.benchmarks})
    rows = published_rows(papers, benchmarks)
    plots = draw_plots(evaluated, benchmarks, target / "plots")
    parts = [
        "# Evaluation",
        accuracy_table(evaluated, rows, benchmarks),
        "## Details",
        details_table(evaluated, benchmarks),
        *judged_table(evaluated, benchmarks),
        *programs_tables(evaluated, benchmarks),
        *_notes(evaluated, rows),
        *(f"![{title}](plots/{path.name})" for title, path in plots.items()),
    ]
    text = "\n\n".join(parts) + "\n"
    (target / REPORT_FILE).write_text(text, encoding="utf-8")
    return text


def accuracy_table(evaluated: Sequence[Evaluated], rows: Sequence[PublishedRow], benchmarks: Sequence[str]) -> str:
    """avg@k in percent with standard errors, by model and benchmark; the papers' rows below."""
    average = len(benchmarks) > 1
    table = []
    for one in evaluated:
        cells = [_percent(one.benchmarks[name]["avg"]) if name in one.benchmarks else NONE for name in benchmarks]
        whole = _percent(one.summary["average"]) if set(one.benchmarks) == set(benchmarks) else NONE
        table.append([one.name, _metrics(one), *cells, *([whole] if average else [])])
    for row in rows:
        found = [row.results.get(name) for name in benchmarks]
        whole = NONE if None in found else f"{sum(value for _, value in found) / len(found):.2f}"
        cells = [NONE if result is None else f"{result[1]:g}" for result in found]
        metrics = ", ".join(dict.fromkeys(metric for metric, _ in filter(None, found)))
        table.append([row.name, metrics, *cells, *([whole] if average else [])])
    headers = ["right, %", "metric", *benchmarks, *(["average"] if average else [])]
    return _markdown(table, headers, text_columns=2)


def details_table(evaluated: Sequence[Evaluated], benchmarks: Sequence[str]) -> str:
    """What else is known of each model on each benchmark."""
    table = []
    for one in evaluated:
        for name in benchmarks:
            numbers = one.benchmarks.get(name)
            if numbers is None:
                continue
            k = str(numbers["k"])
            rm = numbers.get("rm")
            table.append(
                [
                    *(one.name, name, numbers["problems"], numbers["k"]),
                    *(_percent(numbers["avg"]), _percent(numbers["pass"][k])),
                    _percent(numbers["maj"][k]) if k in numbers["maj"] else NONE,
                    _percent(rm["best"][k]) if rm else NONE,
                    _percent(rm["weighted_majority"][k]) if rm and k in rm["weighted_majority"] else NONE,
                    f"{numbers['mean_tokens']:.0f}",
                    *(f"{100 * numbers[share]:.1f}" for share in ("truncated", "no_answer", "without_verdict")),
                ]
            )
    has_rm = any(row[7] != NONE for row in table)
    headers = ["model", "benchmark", "problems", "k", "avg@k, %", "pass@k, %", "maj@k, %", "rm@k best, %"]
    headers += ["rm@k vote, %", "tokens, mean", "truncated, %", "no answer, %", "no verdict, %"]
    if not has_rm:
        table = [[*row[:7], *row[9:]] for row in table]
        headers = [*headers[:7], *headers[9:]]
    return _markdown(table, headers, text_columns=2)


def judged_table(evaluated: Sequence[Evaluated], benchmarks: Sequence[str]) -> list[str]:
    """Of answers that a judge graded: their mean score, and by whom; empty without any."""
    rows = []
    for one in evaluated:
        for name in benchmarks:
            numbers = one.benchmarks.get(name, {})
            if "mean_score" in numbers:
                judge, missing = numbers["judge"], numbers["samples_asked"] - numbers["samples"]
                rows.append([one.name, name, judge, numbers["k"], _percent(numbers["mean_score"]), missing])
    if not rows:
        return []
    headers = ["model", "benchmark", "judge", "k", "mean score, %", "answers without a verdict"]
    parts = ["## Graded by a judge", _markdown(rows, headers, text_columns=3)]
    if len({row[2] for row in rows}) > 1:
        parts.append("Scores of different judges are not comparable.")
    return parts


def programs_tables(evaluated: Sequence[Evaluated], benchmarks: Sequence[str]) -> list[str]:
    """Of programs: why they are wrong, and avg@k by difficulty, month and platform; empty without any."""
    reasons, groups = [], []
    for one in evaluated:
        for name in benchmarks:
            numbers = one.benchmarks.get(name, {})
            shares = [f"{detail} {100 * share:.1f}" for detail, share in numbers.get("details", {}).items()]
            if "details" in numbers:
                reasons.append([one.name, name, ", ".join(shares) or NONE])
            for tag, values in numbers.get("by", {}).items():
                for value, group in values.items():
                    groups.append([one.name, name, tag, value, group["problems"], _percent(group["avg"])])
    parts = []
    if reasons:
        parts += ["## Wrong programs", _markdown(reasons, ["model", "benchmark", "share of all, %"], text_columns=3)]
    if groups:
        headers = ["model", "benchmark", "by", "", "problems", "avg@k, %"]
        parts += ["## Groups of problems", _markdown(groups, headers, text_columns=4)]
    return parts


def _read(folder: Path, grader: str | None) -> Evaluated:
    summary = read_summary(folder)
    graders = summary["graders"]
    chosen = grader or ("default" if "default" in graders else next(iter(graders)))
    if chosen not in graders:
        raise ConfigError("grader", given=chosen, expected=f"one that has scored {folder}: {', '.join(graders)}")
    run = Run(**summary["run"])
    return Evaluated(_label(run.identity["model"]), folder, run, chosen, graders[chosen])


def _label(model: str) -> str:
    """The part of a path that tells models apart: `run-1/global_step_40` of .../run-1/global_step_40/huggingface."""
    parts = [part for part in Path(model).parts if part not in ("huggingface", "actor")]
    return "/".join(parts[-2:]) if parts[-1].startswith("global_step_") else parts[-1]


def _named(evaluated: Sequence[Evaluated]) -> list[Evaluated]:
    """The same with the folder's name where two have one label."""
    counts = Counter(one.name for one in evaluated)
    return [
        Evaluated(f"{one.name} ({one.folder.name})", one.folder, one.run, one.grader, one.summary)
        if counts[one.name] > 1
        else one
        for one in evaluated
    ]


def _in_order(names: set[str]) -> list[str]:
    """Known benchmarks as in their table, then files by name."""
    known = [
        name for name in ("math500", "minerva_math", "olympiadbench", "aime24", "aime25", "amc23") if name in names
    ]
    known += [name for name in (*BENCHMARKS, *CODE_BENCHMARKS) if name in names and name not in known]
    return [*known, *sorted(names - set(known))]


def _metrics(one: Evaluated) -> str:
    return ", ".join(dict.fromkeys(f"avg@{numbers['k']}" for numbers in one.benchmarks.values()))


def _percent(estimate: Mapping[str, float | None]) -> str:
    value, error = estimate["value"], estimate["standard_error"]
    return f"{100 * value:.1f}" + ("" if error is None else f" ± {100 * error:.1f}")


def _notes(evaluated: Sequence[Evaluated], rows: Sequence[PublishedRow]) -> list[str]:
    notes = ["± is one standard error, by bootstrap over problems; the average has the errors of its parts."]
    for one in evaluated:
        identity = one.run.identity
        how = [f"prompt {identity['prompt_type']}", f"temperature {identity['temperature']:g}"]
        how += [f"top_p {identity['top_p']:g}", f"at most {identity['max_tokens']} tokens", f"seed {identity['seed']}"]
        if identity.get("strategy", DIRECT) != DIRECT:
            summariser = identity["summariser"] or "itself"
            how += [f"strategy {identity['strategy']}, {identity['rounds']} rounds, summaries by {summariser}"]
        how += [f"engine {identity['engine']}", f"grader {one.grader}"]
        notes.append(f"**{one.name}**: {', '.join(how)}.")
        if not one.summary["complete"]:
            have = sum(numbers["samples"] for numbers in one.summary["benchmarks"].values())
            notes.append(f"**{one.name} is not complete**: {have} of {one.run.samples} samples.")
    for source in dict.fromkeys(row.source for row in rows):
        papers = ", ".join(dict.fromkeys(row.paper for row in rows if row.source == source))
        notes.append(f"({papers}): {source}; nothing was measured here.")
    return ["\n".join(f"- {note}" for note in notes)]


def _markdown(table: Sequence[Sequence[Any]], headers: Sequence[str], *, text_columns: int) -> str:
    align = ["left"] * text_columns + ["right"] * (len(headers) - text_columns)
    return tabulate(table, headers, tablefmt="pipe", colalign=align, disable_numparse=True)
