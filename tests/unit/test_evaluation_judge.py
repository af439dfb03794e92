"""Evaluations that a judge grades: by name, from one's own file, when the judge fails, and when it is another."""

from __future__ import annotations

import json
import re

import pytest
from aiohttp import web

from tests.support.endpoint import endpoint, reply
from verl_ext.errors import ConfigError, UserError
from verl_ext.evaluation.__main__ import main
from verl_ext.evaluation.benchmarks import load_problems
from verl_ext.evaluation.config import read_config
from verl_ext.evaluation.judging import DEFAULTS, judge_config
from verl_ext.evaluation.prompts import PromptBuilder, PromptOptions
from verl_ext.evaluation.store import Lines, graded_file
from verl_ext.evaluation.summary import read_summary
from verl_ext.reward.judge.prompt import JudgePrompt

pytestmark = pytest.mark.timeout(120)
PROOFS = [
    {"problem": f"Show that {n} is even.", "solution": f"{n} = 2k.", "grading_guidelines": f"(Partial) Halves {n}."}
    for n in (2, 4, 6)
]


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    write = lambda name, rows: (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    write("imo_proofbench.jsonl", PROOFS)
    write("proofbench.jsonl", [{"problem": row["problem"], "grading_scheme": "1. All."} for row in PROOFS])
    write("imo_answerbench.jsonl", [{"problem": "1 + 1?", "answer": "2"}, {"problem": "2 + 2?", "answer": "4"}])
    write("own.jsonl", [{"problem": "Prove it.", "rubric": [{"title": "All", "points": 7, "desc": "done"}]}])
    return folder


def policy(path, body):
    asked = body["messages"][-1]["content"]
    number = re.search(r"\d", asked)
    claim = "It is so.\n\n## Self-Evaluation\n<points>7 out of 7</points>"
    return reply(path, body, text=f"Half of {number[0]}: {claim}" if number else claim)


def scripted(marks):
    """A judge that gives each problem its own points, by a text in its prompt, or does something else."""

    def judge(path, body):
        prompt = body["messages"][-1]["content"]
        said = next(said for text, said in marks.items() if text in prompt)
        return said() if callable(said) else reply(path, body, text=said)

    return judge


def run(out, data, benchmarks, marks, *more):
    with endpoint(policy) as (url, _), endpoint(scripted(marks)) as (judge_url, asked):
        keys = ["model=served", "engine=openai", f"base_url={url}", f"output_dir={out}", f"data_dir={data}"]
        keys += [f"benchmarks={benchmarks}", "grader_workers=1", f"judge_base_url={judge_url}", "judge_model=strict-1"]
        code = main(["run", *keys, *more])
    return code, [body for _, body, _ in asked]


def test_benchmarks_by_name_are_judged_by_their_own_prompts(data, tmp_path):
    out = tmp_path / "out"
    marks = {
        "Halves 2": "fine <points>7 out of 7</points>",
        "Halves 4": "<points>7 out of 7</points> no, <points>1 out of 7</points>",
        "Halves 6": "<points>0</points>",
        "1 + 1?": r"\boxed{Correct}",
        "2 + 2?": r"not \boxed{Correct} but \boxed{Incorrect}",
    }
    code, asked = run(out, data, "imo_proofbench,imo_answerbench", marks, "n_samples=2", "temperature=1.0")
    assert code == 0 and len(asked) == 10
    numbers = read_summary(out)["graders"]["default"]["benchmarks"]
    proofs, answers = numbers["imo_proofbench"], numbers["imo_answerbench"]
    assert proofs["mean_score"]["value"] == pytest.approx((1 + 1 / 7 + 0) / 3)
    assert (proofs["avg"]["value"], proofs["judge"], proofs["maj"]) == (pytest.approx(1 / 3), "strict-1", {})
    assert answers["mean_score"]["value"] == answers["avg"]["value"] == 0.5
    text = (out / "report.md").read_text()
    assert "Graded by a judge" in text and "strict-1" in text and "38.1" in text
    judged = [body["messages"][0]["content"] for body in asked]
    proof = next(prompt for prompt in judged if "Halves 2" in prompt)
    assert "2 = 2k." in proof and "Half of 2: It is so." in proof
    assert "Self-Evaluation" not in proof and "7 out of 7</points>" not in proof.replace("N out of 7</points>", "")
    records = list(Lines(graded_file(out, "default", "imo_proofbench")).read())
    assert {record["question"][:11]: round(7 * record["share"]) for record in records} == {
        "Show that 2": 7,
        "Show that 4": 1,
        "Show that 6": 0,
    }


def test_a_judge_that_fails_is_no_verdict_and_is_asked_again(data, tmp_path, capsys):
    out = tmp_path / "out"
    file = tmp_path / "judge.yaml"
    file.write_text("retries: 0\nbackoff_s: 0.001\n")
    marks = {
        "Halves 2": "<points>7 out of 7</points>",
        "Halves 4": lambda: web.Response(status=429),
        "Halves 6": "I would give 70: <points>70</points>",
    }
    code, _ = run(out, data, "imo_proofbench", marks, f"judge={file}")
    assert code == 0
    summary = read_summary(out)["graders"]["default"]
    numbers = summary["benchmarks"]["imo_proofbench"]
    assert (numbers["samples"], numbers["samples_asked"], summary["complete"]) == (1, 3, False)
    assert numbers["mean_score"]["value"] == 1.0, "a failed judge is no zero"
    said = capsys.readouterr().err
    assert "2 answers have no verdict" in said and "HTTP 429" in said and "no score in the reply" in said
    marks = {"Halves 4": "<points>6</points>", "Halves 6": "<points>0</points>"}
    code, asked = run(out, data, "imo_proofbench", marks, f"judge={file}")
    assert (code, len(asked)) == (0, 2), "what had a verdict was asked again"
    numbers = read_summary(out)["graders"]["default"]["benchmarks"]["imo_proofbench"]
    assert numbers["mean_score"]["value"] == pytest.approx((7 + 6 + 0) / 21)


def test_another_judge_grades_anew_and_another_address_does_not(data, tmp_path):
    out = tmp_path / "out"
    seven = {"Show": "<points>7</points>"}
    assert len(run(out, data, "imo_proofbench", seven)[1]) == 3
    assert len(run(out, data, "imo_proofbench", seven)[1]) == 0
    code, asked = run(out, data, "imo_proofbench", {"Show": "<points>0</points>"}, "judge_model=kind-2")
    assert (code, len(asked)) == (0, 3)
    assert read_summary(out)["graders"]["default"]["benchmarks"]["imo_proofbench"]["mean_score"]["value"] == 0.0


def test_a_file_of_ones_own_with_a_rubric(data, tmp_path):
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("{problem} / {rubric} / {solution}")
    file = tmp_path / "judge.yaml"
    file.write_text(f"rubric_file: {prompt}\nmax_score: 10\npass_share: 0.5\n")
    marks = {"Prove it. / # All (7 points)\nDescription: done / It is so.": "<score>5</score>"}
    code, _ = run(tmp_path / "out", data, f"{data}/own.jsonl", marks, "data_source=proof", f"judge={file}")
    assert code == 0
    numbers = read_summary(tmp_path / "out")["graders"]["default"]["benchmarks"]["own"]
    assert (numbers["mean_score"]["value"], numbers["avg"]["value"]) == (0.5, 1.0)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["benchmarks=proofbench"], "judge: got None, expected a file with base_url and model"),
        (["benchmarks=proofbench", "judge_base_url=http://x"], "judge.model: got None"),
        (["benchmarks=proofbench", "judge_model=x"], "judge.base_url: got None"),
        (["benchmarks=proofbench", "judge=/nowhere.yaml"], "judge: got '/nowhere.yaml', expected a YAML file"),
        (["benchmarks=proofbench", "judge={data}/list.yaml"], "expected a YAML file of keys"),
        (["benchmarks=proofbench", "judge={data}/wrong.yaml"], "judge.base_urll"),
        (["benchmarks={data}/bare.jsonl", "data_source=proof", "judge_base_url=http://x", "judge_model=m"], "bare.jsonl: row 0: neither rubric nor reference"),
        (["benchmarks={data}/solved.jsonl", "data_source=proof", "judge={data}/asks.yaml"], "solved problem 0: no rubric"),
        (["benchmarks={data}/own.jsonl", "data_source=proof", "judge_base_url=http://x", "judge_model=m"], "judge.rubric_file"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_before_anything_is_generated(data, tmp_path, capsys, keys, message):
    (data / "list.yaml").write_text("- base_url\n")
    (data / "wrong.yaml").write_text("base_urll: http://x\nmodel: m\n")
    (data / "bare.jsonl").write_text('{"problem": "Prove it."}\n')
    (data / "solved.jsonl").write_text('{"problem": "Prove it.", "solution": "So."}\n')
    (data / "prompt.txt").write_text("{problem}{solution}{rubric}")
    (data / "asks.yaml").write_text(f"base_url: http://x\nmodel: m\nrubric_file: {data}/prompt.txt\n")
    out = tmp_path / "out"
    common = [
        "model=served",
        "engine=openai",
        "base_url=http://127.0.0.1:9/v1",
        f"output_dir={out}",
        f"data_dir={data}",
    ]
    with pytest.raises(SystemExit, match="2"):
        main(["run", *common, *(key.format(data=data) for key in keys)])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line
    assert not (out / "run.json").exists()


def test_without_any_verdict_that_is_said(data, tmp_path, capsys):
    file = tmp_path / "judge.yaml"
    file.write_text("retries: 0\n")
    with pytest.raises(SystemExit, match="2"):
        run(tmp_path / "out", data, "imo_proofbench", {"Show": "no points"}, f"judge={file}")
    assert "no sample has a verdict yet" in capsys.readouterr().err


def test_proofs_are_asked_for_as_such_and_answers_as_answers(data):
    builder = PromptBuilder(PromptOptions(prompt_type="chat"), None)
    proof, answer = (load_problems(name, data_dir=str(data))[0] for name in ("proofbench", "imo_answerbench"))
    assert builder.build(proof).messages[-1]["content"] == (
        "Generate a rigorous proof to the following question:\n\nShow that 2 is even."
    )
    assert builder.build(answer).messages[-1]["content"].startswith("1 + 1?\nPlease reason step by step")


@pytest.mark.parametrize("source", DEFAULTS)
def test_the_prompts_own_text_holds_no_score_that_would_be_read(source):
    """A judge may repeat what it was asked."""
    config = judge_config(read_config(["output_dir=x", "judge_base_url=http://x", "judge_model=m"]), source)
    prompt = JudgePrompt(config, source)
    filled = prompt.fill("P", "S <points>7</points> \\boxed{Correct}", "R", "G")
    template = re.sub(r"\\boxed\{(Correct|Incorrect)\}", "", filled) if source == "imo_answerbench" else filled
    assert prompt.read(template) is None
    assert all(part in filled for part in ("P", "S ", "G" if source != "imo_answerbench" else "R"))


def test_an_unknown_source_of_a_judge_has_no_default():
    with pytest.raises(ConfigError, match="rubric_file"):
        judge_config(read_config(["output_dir=x", "judge_base_url=http://x", "judge_model=m"]), "proof")
    with pytest.raises(UserError):
        read_config(["output_dir=x", "judge_modle=x"])
