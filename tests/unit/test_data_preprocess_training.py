"""dapo_math_17k.py, open_r1_math.py and fineproofs_sft.py, on small samples in the columns of the hub's files."""

import json
from functools import partial

import pyarrow as pa
import pytest

from tests.support.preprocess import json_lines, parquet, read_rows, run_script
from tests.support.tiny_model import byte_tokenizer
from verl_ext.data.sft_dataset import SFTDataConfig, SFTDataset
from verl_ext.reward.grader import grade
from verl_ext.reward.sources import rule_for

BOXED = "\nPlease reason step by step, and put your final answer within \\boxed{}."
DAPO_PROMPT = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\n{}\n\n"
    'Remember to put your answer on its own line after "Answer:".'
)


def dapo_row(problem: str, answer: str | None, uuid: str = "9a9b6eb4") -> dict:
    return {
        "data_source": "math_dapo",
        "prompt": [{"content": DAPO_PROMPT.replace("{}", problem), "role": "user"}],
        "ability": "MATH",
        "reward_model": {"ground_truth": answer, "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": uuid},
    }


def open_r1_row(problem: str, answer: str, **changed) -> dict:
    generations = [f"<think>{n}</think> It is \\boxed{{{n}}}." for n in range(3)]
    return {
        "problem": problem,
        "solution": "Short.",
        "answer": answer,
        "problem_type": "Algebra",
        "question_type": "math-word-problem",
        "source": "olympiads",
        "uuid": "1",
        "is_reasoning_complete": [True, True, True],
        "generations": generations,
        "correctness_math_verify": [False, True, True],
        "correctness_llama": None,
        "finish_reasons": ["stop", "stop", "stop"],
        "correctness_count": 2,
        "messages": [{"content": problem, "role": "user"}, {"content": generations[1], "role": "assistant"}],
        **changed,
    }


def fineproofs_row(problem: str, proof: str = "Q.E.D.", **changed) -> dict:
    return {
        "problem": problem,
        "reasoning_content": "Let me think.\nYes.",
        "proof": proof,
        "category": "Algebra",
        "competition": "IMO-2023",
        "gemini-3-pro-grade": 7,
        "qwen3-4b-thinking-reward@128": 0.5,
        "source": "olympiads",
        "messages": [
            {"content": problem, "role": "user"},
            {"content": f"<think>Let me think.\nYes.</think>\n{proof}", "role": "assistant"},
        ],
        **changed,
    }


# script: (good rows of different problems, a row without its answer, the reason why that is dropped)
SAMPLES = {
    "dapo_math_17k": (
        [dapo_row("Find $a$.", "34"), dapo_row("求 $b$。", "5")],
        dapo_row("Find $c$.", None),
        "ground_truth is null",
    ),
    "open_r1_math": (
        [open_r1_row("Find $a$.", "1"), open_r1_row("Find $b$.", "\\frac{1}{2}")],
        open_r1_row("Find $c$.", None),
        "answer is null",
    ),
    "fineproofs_sft": (
        [fineproofs_row("Prove $a$."), fineproofs_row("Prove $b$.")],
        fineproofs_row("Prove $c$.", None),
        "proof is null",
    ),
}
SCRIPTS = pytest.mark.parametrize("script", SAMPLES)


@pytest.fixture
def run(tmp_path):
    return partial(run_script, local_dir=tmp_path / "out")


def read(tmp_path):
    return read_rows(tmp_path / "out")


# All of them


@SCRIPTS
def test_json_and_parquet_give_the_same_bytes_and_a_second_run_too(run, tmp_path, script):
    rows = SAMPLES[script][0]
    assert run(script, "--source", json_lines(tmp_path / "s.jsonl", rows))[0] == 0
    first = (tmp_path / "out/train.parquet").read_bytes()
    run(script, "--source", parquet(tmp_path / "clone/data/train-00000-of-00001.parquet", rows).parents[1])
    second = (tmp_path / "out/train.parquet").read_bytes()
    run(script, "--source", tmp_path / "s.jsonl", local_dir=tmp_path / "again")
    assert first == second == (tmp_path / "again/train.parquet").read_bytes()


@SCRIPTS
def test_the_report_ends_with_counts_lengths_and_an_example(run, tmp_path, script):
    good, bad, reason = SAMPLES[script]
    source = json_lines(tmp_path / "s.jsonl", [*good, bad])
    code, out, err = run(script, "--source", source)
    assert (code, err) == (0, [])
    assert out[0] == f"{tmp_path / 'out' / 'train.parquet'}: 2 rows of 3 read, 1 dropped"
    assert f"  dropped 1 x {reason} ({source} line 3)" in out
    assert any(line.startswith("  characters of both: 50% ") for line in out)
    assert f"  | {read(tmp_path)[0]['extra_info']['question']}" in out


@SCRIPTS
def test_repeated_problems_are_dropped_and_counted(run, tmp_path, script):
    (first, second), _, _ = SAMPLES[script]
    source = json_lines(tmp_path / "s.jsonl", [first, second, *[first] * 3])
    options = ["--unique"] if script == "open_r1_math" else []
    out = run(script, "--source", source, *options)[1]
    assert [row["extra_info"]["index"] for row in read(tmp_path)] == [0, 1]
    assert "  dropped 3 x repeats an earlier problem (row 2, row 3, row 4)" in out


@SCRIPTS
@pytest.mark.parametrize("kind", ["empty", "other columns", "parquet of other columns"])
def test_a_source_that_cannot_be_used_is_one_line(run, tmp_path, script, kind):
    source = tmp_path / ("s.parquet" if kind.startswith("parquet") else "s.jsonl")
    if kind.startswith("parquet"):
        parquet(source, [{"text": "?"}])
    else:
        source.write_text("" if kind == "empty" else '{"text": "?"}\n' * 2)
    code, out, err = run(script, "--source", source)
    assert (code, out, len(err)) == (2, [], 1)
    column = {"dapo_math_17k": "prompt", "open_r1_math": "problem", "fineproofs_sft": "problem"}[script]
    assert {
        "empty": "no usable row: the source holds none",
        "other columns": f"no usable row: 2 x no column {column!r}, only: text ({source} line 1, {source} line 2)",
        "parquet of other columns": f"error: {source}: no column {column!r} (it has: text)",
    }[kind] in err[0]


# DAPO-Math-17k


def test_dapo_keeps_its_prompt_and_grades_by_the_answer_line(run, tmp_path):
    run("dapo_math_17k", "--source", json_lines(tmp_path / "s.jsonl", SAMPLES["dapo_math_17k"][0]))
    row = read(tmp_path)[0]
    assert row == {
        "data_source": "math_dapo",
        "prompt": [{"role": "user", "content": DAPO_PROMPT.replace("{}", "Find $a$.")}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "34"},
        "extra_info": {"split": "train", "index": 0, "question": "Find $a$.", "answer": "34"},
    }
    assert grade("So.\nAnswer: 34", "34", data_source=row["data_source"]).correct


def test_dapo_boxed_asks_for_a_box_and_grades_by_it(run, tmp_path):
    run("dapo_math_17k", "--boxed", "--source", json_lines(tmp_path / "s.jsonl", SAMPLES["dapo_math_17k"][0]))
    rows = read(tmp_path)
    assert [row["prompt"][0]["content"] for row in rows] == ["Find $a$." + BOXED, "求 $b$。" + BOXED]
    assert {row["data_source"] for row in rows} == {"math_dapo_boxed"}
    assert grade("So $\\boxed{34}$.", "34", data_source="math_dapo_boxed").correct
    run("dapo_math_17k", "--boxed", "--instruction", "dft", "--source", tmp_path / "s.jsonl")
    assert read(tmp_path)[0]["prompt"][0]["content"].startswith("Find $a$. Let's think step by step and output")
    code, _, err = run("dapo_math_17k", "--instruction", "dft", "--source", tmp_path / "s.jsonl")
    assert code == 2 and err == ["error: --instruction dft: only with --boxed, for DAPO's prompts have their own"]


def test_dapo_repeats_a_hundred_times_and_is_written_once(run, tmp_path):
    rows = [dapo_row(f"Find ${n}$.", str(n), uuid=f"{n}") for n in range(30)] * 100
    rows.append(dapo_row("Find  $7$.", "8"))
    out = run("dapo_math_17k", "--source", parquet(tmp_path / "s.parquet", rows))[1]
    assert [row["reward_model"]["ground_truth"] for row in read(tmp_path)] == [str(n) for n in range(30)]
    assert out[0].endswith("30 rows of 3001 read, 2971 dropped")
    assert "  dropped 2970 x repeats an earlier problem (row 30, row 31, row 32, ...)" in out
    assert "  dropped 1 x repeats an earlier problem with another answer (row 3000)" in out


def test_dapo_rows_of_another_form_are_counted_by_reason(run, tmp_path):
    good = dapo_row("Find $a$.", "34")
    bad = [
        {**good, "prompt": "Find it."},
        {**good, "prompt": [{"role": "user", "content": "Find it."}]},
        {**good, "prompt": [{"role": "system", "content": "You."}, *good["prompt"]]},
        {**good, "reward_model": {"style": "rule"}},
        {**good, "reward_model": {"ground_truth": 34}},
        {**good, "prompt": [{"role": "user", "content": DAPO_PROMPT.replace("{}", " ")}]},
    ]
    out = run("dapo_math_17k", "--source", json_lines(tmp_path / "s.jsonl", [good, *bad]))[1]
    reasons = {line.split(" x ")[1].split(" (")[0]: int(line.split()[1]) for line in out if " x " in line}
    assert reasons == {
        "prompt is not one message of a user": 2,
        "prompt is not worded as DAPO words it": 1,
        "reward_model has no ground_truth": 1,
        "ground_truth is not a string but int": 1,
        "problem is empty": 1,
    }


def test_text_inside_a_struct_that_is_no_utf8_costs_its_row_alone(run, tmp_path):
    kind = pa.list_(pa.struct([("content", pa.string()), ("role", pa.string())]))
    contents = [DAPO_PROMPT.replace("{}", "one").encode(), b"caf\xe9", DAPO_PROMPT.replace("{}", "two").encode()]
    content = pa.array(contents, pa.binary()).view(pa.string())
    messages = pa.StructArray.from_arrays([content, pa.array(["user"] * 3)], fields=list(kind.value_type))
    prompt = pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), messages)
    rows = pa.table({"prompt": prompt, "reward_model": [{"ground_truth": "1"}] * 3})
    pa.parquet.write_table(rows, tmp_path / "s.parquet")
    code, out, _ = run("dapo_math_17k", "--source", tmp_path / "s.parquet")
    assert code == 0 and [row["extra_info"]["question"] for row in read(tmp_path)] == ["one", "two"]
    assert f"  dropped 1 x prompt is not UTF-8 ({tmp_path / 's.parquet'} row 1)" in out


# OpenR1-Math


@pytest.mark.parametrize(
    ("changed", "taken"),
    [
        ({}, 1),
        ({"is_reasoning_complete": [True, False, True]}, 2),
        ({"correctness_llama": [True, True, True]}, 1),
        ({"correctness_math_verify": [False, False, False], "correctness_llama": [False, False, True]}, 2),
        ({"correctness_math_verify": [None, None, True]}, 2),
    ],
    ids=[
        "first right one",
        "complete",
        "math-verify before judge",
        "judge where math-verify saw none",
        "null verdicts",
    ],
)
def test_open_r1_takes_the_first_generation_that_is_complete_and_right(run, tmp_path, changed, taken):
    row = open_r1_row("Find $a$.", "1", **changed)
    assert run("open_r1_math", "--source", json_lines(tmp_path / "s.jsonl", [row]))[0] == 0
    assert read(tmp_path) == [
        {
            "data_source": "open-r1/OpenR1-Math-220k",
            "prompt": [{"role": "user", "content": "Find $a$." + BOXED}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "1"},
            "extra_info": {
                "split": "train",
                "index": 0,
                "question": "Find $a$.",
                "answer": f"<think>{taken}</think> It is \\boxed{{{taken}}}.",
            },
        }
    ]
    assert grade("\\boxed{1}", "1", data_source="open-r1/OpenR1-Math-220k").correct


def test_open_r1_rows_without_a_right_generation_are_counted_by_reason(run, tmp_path):
    bad = [
        open_r1_row("a", "1", correctness_math_verify=[False] * 3),
        open_r1_row("b", "1", is_reasoning_complete=[False] * 3),
        open_r1_row("c", "1", correctness_math_verify=[True]),
        open_r1_row("d", "1", generations="one"),
        open_r1_row("e", "1", generations=None),
    ]
    out = run("open_r1_math", "--source", json_lines(tmp_path / "s.jsonl", [open_r1_row("Find $a$.", "1"), *bad]))[1]
    reasons = {line.split(" x ")[1].split(" (")[0]: int(line.split()[1]) for line in out if " x " in line}
    assert reasons == {
        "no generation is complete and right": 2,
        "correctness_math_verify is not as long as generations": 1,
        "generations is not a list but str": 1,
        "generations is null": 1,
    }


def test_open_r1_keeps_repeats_and_proofs_and_says_so(run, tmp_path):
    rows = [open_r1_row("Find $a$.", "1")] * 2 + [open_r1_row("Prove it.", "proof")]
    out = run("open_r1_math", "--source", json_lines(tmp_path / "s.jsonl", rows))[1]
    assert [row["reward_model"]["ground_truth"] for row in read(tmp_path)] == ["1", "1", None]
    assert "  kept although they repeat an earlier problem (--unique drops them): 1" in out
    assert "  kept without a boxed answer (ground_truth is null): 1" in out


# FineProofs


def test_fineproofs_messages_hold_the_reasoning_and_the_proof_and_no_rule_grades_them(run, tmp_path):
    run("fineproofs_sft", "--source", json_lines(tmp_path / "s.jsonl", [fineproofs_row("Prove $a$.")]))
    text = "<think>\nLet me think.\nYes.\n</think>\n\nQ.E.D."
    assert read(tmp_path) == [
        {
            "data_source": "lm-provers/FineProofs-SFT",
            "prompt": [{"role": "user", "content": "Prove $a$."}],
            "ability": "math",
            "reward_model": {"style": "model", "ground_truth": None},
            "extra_info": {"split": "train", "index": 0, "question": "Prove $a$.", "answer": text},
            "messages": [{"role": "user", "content": "Prove $a$."}, {"role": "assistant", "content": text}],
        }
    ]
    assert rule_for("lm-provers/FineProofs-SFT").extraction == "judge"


def test_fineproofs_are_trained_on_reasoning_and_all(run, tmp_path):
    run("fineproofs_sft", "--source", json_lines(tmp_path / "s.jsonl", [fineproofs_row("Prove $a$.")]))
    tokenizer = byte_tokenizer()
    (row,) = SFTDataset([str(tmp_path / "out/train.parquet")], tokenizer, SFTDataConfig(max_length=512))
    learned = tokenizer.decode(row["input_ids"][row["loss_mask"].bool()])
    assert learned == "<think>\nLet me think.\nYes.\n</think>\n\nQ.E.D.<|im_end|>"


def test_fineproofs_ask_what_the_source_asks(run, tmp_path):
    asked = "Generate a rigorous proof to the following question:\n\nProve $a$."
    rows = [
        fineproofs_row("Prove $a$.", messages=[{"role": "user", "content": asked}]),
        fineproofs_row("Prove $b$.", messages=None),
    ]
    run("fineproofs_sft", "--source", json_lines(tmp_path / "s.jsonl", rows))
    assert [row["messages"][0]["content"] for row in read(tmp_path)] == [asked, "Prove $b$."]


def test_fineproofs_keep_the_first_proof_of_a_problem(run, tmp_path):
    rows = [fineproofs_row("Prove $a$.", f"Proof {n}.") for n in range(3)]
    run("fineproofs_sft", "--source", json_lines(tmp_path / "s.jsonl", rows))
    (row,) = read(tmp_path)
    assert row["extra_info"]["answer"].endswith("Proof 0.")


def test_fineproofs_with_think_tags_inside_are_dropped(run, tmp_path):
    rows = [fineproofs_row("Prove $a$."), fineproofs_row("Prove $b$.", reasoning_content="<think>Hm.</think>")]
    source = json_lines(tmp_path / "s.jsonl", rows)
    out = run("fineproofs_sft", "--source", source)[1]
    assert f"  dropped 1 x reasoning_content or proof has a think tag of its own ({source} line 2)" in out


def test_a_long_example_is_shown_without_its_middle(run, tmp_path):
    row = fineproofs_row("Prove $a$.", "x" * 10_000 + " end")
    out = run("fineproofs_sft", "--source", json_lines(tmp_path / "s.jsonl", [row]))[1]
    assert sum(map(len, out)) < 6_000 and any("characters not shown" in line for line in out)
    assert out[-1].endswith(" end") and "  | <think>" in out


@pytest.mark.parametrize("script", ["fineproofs_sft", "open_r1_math"])
def test_a_subset_is_of_the_hub(run, tmp_path, script):
    source = json_lines(tmp_path / "s.jsonl", SAMPLES[script][0])
    code, _, err = run(script, "--source", source, "--subset", "default")
    assert code == 2 and err == [
        "error: --subset default: of the hub only; with --source name the folder of that subset"
    ]
    code, _, err = run(script, "--subset", "mine")
    assert code == 2 and len(err) == 1 and "--subset" in err[0]


def test_the_samples_are_json(tmp_path):
    assert all(json.loads(json.dumps(good)) == good for good, _, _ in SAMPLES.values())
