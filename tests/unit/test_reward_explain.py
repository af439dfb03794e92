"""`python -m verl_ext.reward explain`: what it says, and what it refuses."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest

from verl_ext.reward.__main__ import main
from verl_ext.reward.explain import explain
from verl_ext.reward.grader import grade
from verl_ext.reward.policy import PUBLISHED, QWEN

HANGING = "\\boxed{\\dfrac{5^{5^{5^{5^5}}-4}-5}{16}}"


def refused(arguments, capsys) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["explain", *arguments])
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize(
    ("response", "gold", "source", "extracted", "rule"),
    [
        ("First \\boxed{3}. So \\boxed{4}.", "4", "math", "4", "the last box"),
        ("The final answer is 72.", "72", "gsm8k", "72", "the last phrase `... answer is`"),
        ("Adding up:\n#### 72", "72", "gsm8k", "72", "the last `####` line"),
        ("Answer: 72", "72", "math_dapo", "72", "the last `Answer:` line"),
        ("\\boxed{7}", "7", "math_dapo_boxed", "7", "the last box"),
    ],
)
def test_the_rule_that_found_the_answer_is_named(response, gold, source, extracted, rule):
    found = explain(response, gold, data_source=source)
    assert (found.grade.prediction, found.extracted_by) == (extracted, rule)
    assert found.grade.correct


def test_a_last_number_counts_by_the_published_policy_alone():
    published = explain("It comes to 72", "72", policy=PUBLISHED)
    assert (published.extracted_by, published.grade.correct) == ("the last number of the text", True)
    strict = explain("It comes to 72", "72")
    assert strict.grade.status == "no_answer"
    assert strict.extracted_by == "nothing: source expects a closed \\boxed{...} or `the answer is ...`"
    assert "holds no answer" in strict.reason


@pytest.mark.parametrize(
    ("answer", "gold", "stage", "said"),
    [
        ("0.333", "\\frac{1}{3}", "numbers", "0.333 is not \\frac{1}{3}"),
        ("0.5x", "\\frac{x}{2}", "symbols (expression)", "0.5x is \\frac{x}{2}"),
        ("x+2", "x+1", "symbols (expression)", "x+2 is not x+1"),
        ("2+4=5", "5", "symbols (expression)", "2+4 is not 5"),
        ("(2,1)", "(1,2)", "numbers", "2 is not 1"),
    ],
)
def test_the_reason_is_the_finding_that_decided(answer, gold, stage, said):
    found = explain(f"\\boxed{{{answer}}}", gold)
    assert found.reason == f"by {stage}: {said}"
    assert any(finding.stage == stage for finding in found.findings)
    assert found.findings[-1].equal == found.grade.correct


@pytest.mark.parametrize(
    ("response", "gold"),
    [
        ("\\boxed{x^2+2x+1}", "(x+1)^2"),
        ("\\boxed{1, 2}", "2, 1"),
        ("\\boxed{5}", "6"),
        ("\\boxed{AB = 5}", "5"),
        ("no answer", "5"),
        ("\\boxed{5}", ""),
        ("\\boxed{\\frac{2}{0}}", "\\frac{1}{0}"),
    ],
)
def test_the_verdict_is_the_graders_own(response, gold):
    found = explain(response, gold).grade
    own = grade(response, gold)
    assert (found.correct, found.status, found.prediction) == (own.correct, own.status, own.prediction)


def test_a_comparison_that_hangs_is_ended_and_said_to_be_without_a_verdict():
    found = explain(HANGING, "2\\sqrt{5}", timeout_s=1.0)
    assert (found.grade.correct, found.grade.status) == (False, "timeout")
    assert found.reason == "no verdict within 1 s"


def test_the_harness_decides_by_its_own_rules_and_has_no_stages_of_ours():
    found = explain("so it is 12", "12", policy=QWEN)
    assert found.grade.correct
    assert found.findings == ()
    assert found.reason == "the published harness's own rules say so"


def test_what_follows_the_thinking_counts_alone():
    found = explain("\\boxed{5}</think>So it is \\boxed{6}.", "6", after_think=True)
    assert (found.grade.correct, found.extracted_by) == (True, "the last box")
    assert explain("\\boxed{5}", "5", after_think=True).extracted_by.startswith("nothing: the response never closes")


def test_what_a_terminal_would_obey_is_not_printed():
    assert "\x1b" not in str(explain("\\boxed{\x1b[31m5}", "5\x1b[0m"))


def test_the_command_prints_it_all(capsys):
    assert main(["explain", "So it is $\\boxed{7}$.", "-7", "--policy", "strict"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "source     math (policy strict)",
        "extracted  7",
        "by         the last box",
        "gold       -7",
        "read as    7 for -7",
        "numbers    different: 7 for -7",
        "verdict    wrong, status ok",
        "reason     by numbers: 7 is not -7",
    ]


def test_texts_come_from_files_and_from_the_input(tmp_path, monkeypatch, capsys):
    (tmp_path / "response.txt").write_text("\\boxed{½}", encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", io.StringIO("\\frac12\n"))
    assert main(["explain", f"@{tmp_path}/response.txt", "-"]) == 0
    assert "verdict    right, status ok" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["\\boxed{5}"], "error: explain: got 1 texts, expected two: RESPONSE GOLD (quote each)"),
        (["-", "-"], "error: explain: both RESPONSE and GOLD are '-'"),
        (["@missing.txt", "5"], "error: missing.txt: no such file"),
        (["5", "5", "--sorce", "math"], "error: unknown option --sorce, expected one of --source"),
        (["5", "5", "--source"], "error: --source: no value behind it"),
        (["5", "5", "--source", "math50"], "error: data_source: got 'math50', expected (did you mean 'math500'?)"),
        (["5", "5", "--source", "proof"], "error: --source: got 'proof', expected another source"),
        (["5", "5", "--policy", "lenient"], "error: --policy: got 'lenient', expected one of strict, published, qwen"),
        (["5", "5", "--timeout-s=0"], "error: --timeout-s: got '0', expected a positive number of seconds"),
    ],
)
def test_what_cannot_work_is_one_line(arguments, message, capsys):
    assert refused(arguments, capsys).startswith(message)


def test_a_file_that_is_no_text_is_named(tmp_path, capsys):
    (tmp_path / "image").write_bytes(b"\xff\xfe\x00")
    assert refused([f"@{tmp_path}/image", "5"], capsys) == f"error: {tmp_path}/image: not UTF-8 text\n"


def test_an_unknown_command_is_one_line(capsys):
    with pytest.raises(SystemExit):
        main(["explian", "5", "5"])
    assert capsys.readouterr().err == "error: unknown command 'explian', expected explain; did you mean explain?\n"


def test_it_loads_neither_torch_nor_sympy():
    code = (
        "import sys; from verl_ext.reward.__main__ import main; "
        "main(['explain', r'\\boxed{x+1}', '1+x']); "
        "sys.exit(', '.join({'torch', 'sympy', 'ray', 'verl'} & set(sys.modules)) or 0)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "verdict" in ended.stdout
