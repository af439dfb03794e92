"""Reasoning with a cache: every text of every round, a kill between and inside passes, lengths, bad input."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time

import pytest

from tests.support.endpoint import endpoint, reply
from tests.support.evaluation import start, write_problems
from tests.support.launch import wait_until
from tests.support.tiny_model import save_tiny_model
from verl_ext.errors import ConfigError
from verl_ext.evaluation.__main__ import main
from verl_ext.evaluation.config import read_config
from verl_ext.evaluation.reasoning_cache import NO_SUMMARY, REASONING, SUMMARY, cached, rounds_file
from verl_ext.evaluation.run_identity import Run
from verl_ext.evaluation.store import Lines, read_json, samples_file, write_json

pytestmark = pytest.mark.timeout(180)
BOXED = "\nPlease reason step by step, and put your final answer within \\boxed{}."


def said(content, seed):
    """What the scripted model says: something new to every prompt and seed, with something that no template may read."""
    mark = hashlib.sha256(f"{seed}{content}".encode()).hexdigest()[:8]
    if content.startswith("Here is a problem"):
        return f"<think>thought {mark} {{summary}} {{problem}}</think>so \\boxed{{{len(content) % 5}}} {mark}"
    return f"summary {mark} {{reasoning}}"


def model(path, body):
    return reply(path, body, text=said(body["messages"][-1]["content"], body["seed"]))


def loop(question, name, problem, sample, rounds):
    """The same by hand: prompts and texts of all rounds."""
    asked, summary = [], NO_SUMMARY
    for number in range(1, rounds + 1):
        prompt = REASONING.split("{problem}")[0] + question + BOXED + REASONING.split("{problem}")[1]
        prompt = _put(prompt, summary)
        if number == rounds:
            digest = hashlib.sha256(f"0/{name}/{problem}/{sample}".encode()).digest()
        else:
            digest = hashlib.sha256(f"0/{name}/{problem}/{sample}/{number}/reasoning".encode()).digest()
        answer = said(prompt, int.from_bytes(digest[:8], "big") % 2**31)
        asked.append((prompt, answer))
        if number == rounds:
            return asked
        thought = answer.split("</think>")[0].replace("<think>", "").strip()
        first, rest = SUMMARY.split("{problem}")
        middle, end = rest.split("{reasoning}")
        prompt = first + question + _put(middle, summary) + thought + end
        digest = hashlib.sha256(f"0/{name}/{problem}/{sample}/{number}/summary".encode()).digest()
        summary = said(prompt, int.from_bytes(digest[:8], "big") % 2**31)
        asked.append((prompt, summary))
    raise AssertionError


def _put(template, summary):
    before, _, after = template.partition("{summary}")
    return before + summary + after


def keys_of(url, out, problems, *more):
    keys = ["model=served", "engine=openai", f"base_url={url}", f"output_dir={out}", f"benchmarks={problems}"]
    return [*keys, "grader_workers=1", "n_samples=2", "strategy=reasoning_cache", "rounds=3", *more]


def texts(out, count):
    finals = {(r["problem"], r["sample"]): r for r in Lines(samples_file(out, "sums")).read()}
    between = {
        (r["problem"], r["sample"], r["round"], r["kind"]): r["text"] for r in Lines(rounds_file(out, "sums")).read()
    }
    assert len(finals) == 2 * count and len(between) == 2 * count * 4
    return finals, between


def require_equal_to_the_loop(out, count):
    finals, between = texts(out, count)
    for (problem, sample), record in finals.items():
        by_hand = [text for _, text in loop(record["question"], "sums", problem, sample, 3)]
        found = [between[problem, sample, number, kind] for number in (1, 2) for kind in ("reasoning", "summary")]
        assert [*found, record["response"]] == by_hand


def test_the_texts_of_all_rounds_are_those_of_a_loop_by_hand(tmp_path):
    problems, out = write_problems(tmp_path / "sums.jsonl", 3), tmp_path / "out"
    with endpoint(model) as (url, seen):
        assert main(["run", *keys_of(url, out, problems)]) == 0
    assert len(seen) == 6 * 5
    by_kind = {body["messages"][-1]["content"][:4]: body for _, body, _ in seen}
    assert (by_kind["Some"]["temperature"], by_kind["Some"]["max_tokens"], by_kind["Some"]["top_k"]) == (0.7, 2048, 20)
    assert by_kind["Here"]["temperature"] == 1.0
    require_equal_to_the_loop(out, 3)
    assert "strategy reasoning_cache, 3 rounds, summaries by itself" in (out / "report.md").read_text()


@pytest.mark.parametrize("stop_at", [6, 20], ids=["between two passes", "in the second round"])
def test_killed_anywhere_it_goes_on_to_the_same_texts(tmp_path, stop_at):
    problems, out, log = write_problems(tmp_path / "sums.jsonl", 3), tmp_path / "out", tmp_path / "log"
    hold = True

    def until(path, body):
        if hold and len(seen) > stop_at:
            time.sleep(0.5)
        return model(path, body)

    def lines():
        files = (rounds_file(out, "sums"), samples_file(out, "sums"))
        return sum(len(file.read_text().splitlines()) for file in files if file.exists())

    with endpoint(until) as (url, seen):
        keys = keys_of(url, out, problems, "max_num_seqs=1")
        process = start("generate", keys, log)
        wait_until(lambda: lines() >= stop_at, process, log)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        hold = False
        assert lines() < 30
        assert main(["run", *keys]) == 0
        assert len(seen) <= 30 + 2, "what was there was asked again"
    require_equal_to_the_loop(out, 3)


def test_another_summariser_at_its_own_address(tmp_path):
    problems, out = write_problems(tmp_path / "sums.jsonl", 1), tmp_path / "out"
    with endpoint(model) as (url, seen), endpoint(model, models=("short",)) as (other, asked):
        keys = keys_of(url, out, problems, "summariser=short", f"summariser_url={other}")
        assert main(["run", *keys]) == 0
    assert (len(seen), len(asked)) == (2 * 3, 2 * 2)
    assert {body["model"] for _, body, _ in asked} == {"short"}
    require_equal_to_the_loop(out, 1)
    assert "summaries by short" in (out / "report.md").read_text()


def test_a_real_model_in_this_process_and_lengths_that_do_not_fit(tmp_path, capsys):
    problems, out = write_problems(tmp_path / "sums.jsonl", 1), tmp_path / "out"
    folder = save_tiny_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = 2048
    (folder / "config.json").write_text(json.dumps(config))
    keys = [f"model={folder}", f"benchmarks={problems}", f"output_dir={out}", "engine=transformers", "grader_workers=1"]
    keys += ["strategy=reasoning_cache", "rounds=2", "summary_tokens=8", "n_samples=2"]
    with pytest.raises(SystemExit, match="2"):
        main(["run", *keys, "max_tokens=1900"])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "max_tokens: got 1900, expected" in line and "strategy=reasoning_cache" in line
    room = int(line.split("expected ")[1].split()[0])
    assert main(["run", *keys, "max_tokens=12"]) == 0
    kinds = [(r["round"], r["kind"]) for r in Lines(rounds_file(out, "sums")).read()]
    assert kinds == [(1, "reasoning")] * 2 + [(1, "summary")] * 2
    assert 12 < room < 1900


def test_reasoning_that_was_cut_off_is_cached_as_well():
    assert cached("<think>a b</think>c") == "a b"
    assert cached("<think>a b") == "a b"
    assert cached("no tags") == "no tags"


def test_a_folder_from_before_the_strategy_goes_on(tmp_path):
    problems, out = write_problems(tmp_path / "sums.jsonl", 1), tmp_path / "out"
    direct = [key for key in keys_of("", out, problems) if not key.startswith(("base_url", "strategy", "rounds"))]
    with endpoint(lambda path, body: reply(path, body)) as (url, _):
        assert main(["run", *direct, f"base_url={url}"]) == 0
        run = read_json(out / "run.json")
        run["identity"] = {k: v for k, v in run["identity"].items() if k not in ("strategy", "rounds", "summariser")}
        write_json(out / "run.json", run)
        assert main(["run", *direct, f"base_url={url}"]) == 0
        with pytest.raises(SystemExit, match="2"):
            main(["run", *direct, f"base_url={url}", "strategy=reasoning_cache"])
    assert Run.read(out).identity["strategy"] == "direct"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["strategy=cache"], "strategy: got 'cache', expected one of direct, reasoning_cache"),
        (["strategy=reasoning_cache", "rounds=0"], "rounds: got 0, expected 1 or more"),
        (["strategy=reasoning_cache", "summary_tokens=0"], "summary_tokens: got 0"),
        (["rounds=2"], "rounds: got 2, expected nothing without strategy=reasoning_cache"),
        (["summariser=x"], "summariser: got 'x', expected nothing without"),
        (["strategy=reasoning_cache", "summariser_url=http://x"], "summariser_url"),
        (["strategy=reasoning_cache", "summariser=x", "summariser_url=x:80"], "summariser_url: got 'x:80'"),
    ],
)
def test_keys_that_cannot_work_are_refused(keys, message):
    with pytest.raises(ConfigError, match=message):
        read_config(["output_dir=x", *keys])
