"""The pool: order, limits that count from an answer's own start, replacement of whatever dies, confinement."""

import ast
import asyncio
import inspect
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import reasoning_gym

from verl_ext.errors import ConfigError
from verl_ext.reward.grader import grade
from verl_ext.reward.pool import GraderPool, shared_pool
from verl_ext.reward.scorers import EVALUATING

pytestmark = pytest.mark.timeout(180)

TOWER = "\\boxed{\\dfrac{5^{5^{5^{5^5}}-4}-5}{16}}"
RIGHT = ("\\boxed{\\sqrt{20}}", "2\\sqrt{5}", "math")
WRONG = ("\\boxed{\\sqrt{21}}", "2\\sqrt{5}", "math")
HANGING = (TOWER, "2\\sqrt{5}", "math")


@pytest.fixture(scope="module")
def pool():
    with GraderPool(workers=2, timeout_s=3.0, evaluating_scorers=EVALUATING) as pool:
        yield pool


def children(pid):
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[1]) == pid:
                found.append(int(entry.name))
    return found


def worker_pids(pool):
    """Host -> fork server -> workers; the fork server has a sibling (the resource tracker) without children."""
    return [worker for server in children(pool._host.pid) for worker in children(server)]


def test_results_are_in_the_order_of_the_items(pool):
    items = [(f"\\boxed{{\\sqrt{{{n}}}}}", f"\\sqrt{{{n + n % 2}}}", "math") for n in range(2, 42)]
    grades = pool.grade_many(items)
    assert [grade.prediction for grade in grades] == [f"\\sqrt{{{n}}}" for n in range(2, 42)]
    assert [grade.correct for grade in grades] == [n % 2 == 0 for n in range(2, 42)]


def test_an_empty_batch_is_an_empty_list(pool):
    assert pool.grade_many([]) == []


def test_answers_behind_hanging_ones_keep_their_own_time(pool):
    grades = pool.grade_many([HANGING] * 6 + [RIGHT] * 100)
    assert [grade.status for grade in grades] == ["timeout"] * 6 + ["ok"] * 100
    assert all(grade.correct for grade in grades[6:])
    assert not any(grade.correct for grade in grades[:6])


def test_killed_worker_loses_no_answer(pool):
    assert pool.grade_many([RIGHT])[0].correct
    futures = [pool.submit(*item) for item in [HANGING, HANGING, RIGHT, WRONG] * 2]
    for pid in worker_pids(pool):
        os.kill(pid, signal.SIGKILL)
    grades = [future.result(timeout=120) for future in futures]
    assert [grade.status for grade in grades] == ["timeout", "timeout", "ok", "ok"] * 2
    assert [grade.correct for grade in grades] == [False, False, True, False] * 2


def test_killed_host_loses_no_answer_and_leaves_no_process():
    with GraderPool(workers=2, timeout_s=3.0) as pool:
        assert pool.grade_many([RIGHT])[0].correct
        orphans = worker_pids(pool)
        futures = [pool.submit(*item) for item in [HANGING, RIGHT, WRONG] * 3]
        os.kill(pool._host.pid, signal.SIGKILL)
        grades = [future.result(timeout=120) for future in futures]
    assert [(grade.status, grade.correct) for grade in grades] == [("timeout", False), ("ok", True), ("ok", False)] * 3
    wait_until_gone(orphans)


def wait_until_gone(pids):
    deadline = time.monotonic() + 30
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < deadline, "worker processes outlived their pool"
        time.sleep(0.05)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_closing_ends_the_processes_even_while_they_hang():
    pool = GraderPool(workers=1, timeout_s=60.0)
    assert pool.grade_many([RIGHT])[0].correct
    workers = worker_pids(pool)
    hanging = pool.submit(*HANGING)
    pool.close()
    result = hanging.result(timeout=60)
    assert (result.status, result.detail) == ("error", "the pool was closed")
    wait_until_gone(workers)
    with pytest.raises(RuntimeError, match="closed"):
        pool.grade_many([RIGHT])


def test_an_answer_that_needs_too_much_memory_harms_no_other():
    with GraderPool(workers=1, timeout_s=30.0, memory_mb=700, evaluating_scorers=["spiral_matrix"]) as pool:
        assert pool.grade_many([RIGHT])[0].correct
        for pid in worker_pids(pool):
            limits = Path(f"/proc/{pid}/limits").read_text()
            assert re.search(rf"Max address space +{700 * 2**20} +{700 * 2**20} ", limits)
        greedy = (
            "<answer>[[0]] * 10**10</answer>",
            json.dumps(gym_entry("spiral_matrix")),
            "reasoning_gym/spiral_matrix",
        )
        grades = pool.grade_many([greedy, RIGHT])
    assert [grade.correct for grade in grades] == [False, True]


def test_works_from_threads(pool):
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda n: pool.grade_many([RIGHT, WRONG] * n), range(1, 9)))
    for n, grades in enumerate(results, start=1):
        assert [grade.correct for grade in grades] == [True, False] * n


def test_works_from_asyncio_without_blocking_the_loop(pool):
    async def main():
        hanging = asyncio.create_task(pool.grade_async(*HANGING))
        right = await pool.grade_async(*RIGHT)
        assert not hanging.done()
        return right, await hanging

    right, hanging = asyncio.run(main())
    assert right.correct
    assert hanging.status == "timeout"


@pytest.fixture(scope="module")
def hasty_pool():
    with GraderPool(workers=2, timeout_s=1.5) as pool:
        yield pool


def cancel_before_it_starts(pool):
    for _ in range(2):
        pool.submit(*HANGING)  # as many as there are workers
    assert pool.submit(*RIGHT).cancel()


def cancel_while_a_worker_is_at_it(pool):
    future = pool.submit(*HANGING)
    assert pool.grade_many([RIGHT])[0].correct  # the other worker's answer is back: this one has long been handed over
    assert future.cancel()


def cancel_when_it_is_done(pool):
    future = pool.submit(*RIGHT)
    future.result(timeout=60)
    assert not future.cancel()


def time_out_in_asyncio(pool):
    async def main():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(pool.grade_async(*HANGING), timeout=0.2)

    asyncio.run(main())


def cancel_a_task_before_its_first_turn_and_after(pool):
    async def main():
        early, late = (asyncio.create_task(pool.grade_async(*HANGING)) for _ in range(2))
        early.cancel()
        await asyncio.sleep(0)
        late.cancel()
        assert [type(ended) for ended in await asyncio.gather(early, late, return_exceptions=True)] == [
            asyncio.CancelledError
        ] * 2

    asyncio.run(main())


def close_the_loop_that_waits(pool):
    loop = asyncio.new_event_loop()
    asyncio.wrap_future(pool.submit(*HANGING), loop=loop)
    loop.close()


def time_out_in_a_score_function(_):
    from verl_ext.reward.score import compute_score

    async def main():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(compute_score("math", *HANGING[:2], workers=1, timeout_s=1.5), timeout=0.2)
        return await compute_score("math", *RIGHT[:2], workers=1, timeout_s=1.5)

    assert asyncio.run(main())["acc"] == 1.0


@pytest.mark.parametrize(
    "give_up",
    [
        cancel_before_it_starts,
        cancel_while_a_worker_is_at_it,
        cancel_when_it_is_done,
        time_out_in_asyncio,
        cancel_a_task_before_its_first_turn_and_after,
        close_the_loop_that_waits,
        time_out_in_a_score_function,
    ],
    ids=lambda give_up: give_up.__name__,
)
@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_caller_that_gives_up_harms_nobody(hasty_pool, give_up):
    give_up(hasty_pool)
    futures = [hasty_pool.submit(*item) for item in [RIGHT, WRONG, HANGING, RIGHT, WRONG]]
    grades = [future.result(timeout=60) for future in futures]  # the last ones come after whatever was given up
    assert [grade.status for grade in grades] == ["ok", "ok", "timeout", "ok", "ok"]
    assert [grade.correct for grade in grades] == [True, False, False, True, False]


def test_what_was_given_up_is_not_handed_to_the_next_host():
    with GraderPool(workers=1, timeout_s=3.0) as pool:
        given_up = [pool.submit(*HANGING) for _ in range(50)]  # would take 150 s
        wanted = pool.submit(*RIGHT)
        assert all(future.cancel() for future in given_up)
        os.kill(pool._host.pid, signal.SIGKILL)
        assert wanted.result(timeout=60).correct


def test_a_pool_whose_answers_were_given_up_can_be_closed():
    pool = GraderPool(workers=1, timeout_s=60.0)
    given_up, waiting = pool.submit(*HANGING), pool.submit(*HANGING)
    assert given_up.cancel()
    pool.close()
    assert waiting.result(timeout=60).detail == "the pool was closed"


def grade_in_child(queue):
    queue.put(grade(*RIGHT[:2]).correct)


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_works_in_child_processes(method):
    assert grade(*RIGHT[:2]).correct  # the parent's own worker is running when the child is made
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=grade_in_child, args=(queue,), daemon=True)
    child.start()
    assert queue.get(timeout=120)
    child.join()


def test_works_from_a_script_without_a_main_guard(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from verl_ext.reward.pool import GraderPool\n"
        "from verl_ext.reward.grader import grade\n"
        "with GraderPool(1, 5.0) as pool:\n"
        f"    print(pool.grade_many([{RIGHT!r}])[0].correct, grade({RIGHT[0]!r}, {RIGHT[1]!r}).correct)\n"
    )
    done = subprocess.run([sys.executable, script], check=False, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("True True\n", "")


def test_one_call_of_grade_cannot_hang():
    result = grade(TOWER, "2\\sqrt{5}")
    assert (result.correct, result.status) == (False, "timeout")
    assert grade(*RIGHT[:2]).correct


def test_grade_works_outside_the_main_thread():
    results = []
    thread = threading.Thread(target=lambda: results.append(grade(*RIGHT[:2])))
    thread.start()
    thread.join()
    assert results[0].correct


def test_shared_pool_is_one_per_set_of_limits():
    assert shared_pool() is shared_pool()
    assert shared_pool() is not shared_pool(workers=2)


@pytest.mark.parametrize(
    "arguments", [{"workers": 0}, {"timeout_s": 0}, {"timeout_s": float("inf")}, {"memory_mb": 10}]
)
def test_limits_that_cannot_work_are_refused(arguments):
    with pytest.raises(ConfigError, match="reward"):
        GraderPool(**arguments)


# Confinement

INJECTIONS = [
    "__import__('os').system('touch {path}')",
    "[c for c in ().__class__.__base__.__subclasses__() if c.__name__=='Popen'][0](['touch','{path}'])",
    "(lambda: open('{path}','w'))()",
    "open('{path}','w').write('x')",
    "exec(\"open('{path}','w')\")",
    'f\'{{open("{path}","w")}}\'',
    "\\input{{|touch {path}}}",
    "\\write18{{touch {path}}}",
    "\\immediate\\write18{{touch {path}}}",
    "eval(compile('open(\"{path}\",\"w\")','','exec'))",
    "getattr(__builtins__,'open')('{path}','w')",
]
GYM_TASKS = [
    "countdown",
    "string_insertion",
    "spiral_matrix",
    "number_sorting",
    "puzzle24",
    "polynomial_multiplication",
    "propositional_logic",
    "simple_integration",
    "basic_arithmetic",
    "bitwise_arithmetic",
    "n_queens",
]


def gym_entry(task):
    return reasoning_gym.create_dataset(task, size=1, seed=7)[0]


def test_nothing_in_a_response_is_executed(pool, tmp_path):
    items, paths = [], []
    for number, template in enumerate(INJECTIONS):
        path = tmp_path / f"proof_of_execution_{number}"
        text = template.format(path=path)
        paths.append(path)
        for wrapped in (f"\\boxed{{{text}}}", f"Answer: {text}", f"The answer is ${text}$", f"#### {text}", text):
            items += [(wrapped, "2\\sqrt{5}", source) for source in ("math", "math_dapo", "gsm8k", "multiple_choice")]
        items += [
            (f"<answer>{text}</answer>", json.dumps(gym_entry(task)), f"reasoning_gym/{task}") for task in GYM_TASKS
        ]
    from verl_ext.reward.policy import PUBLISHED

    grades = pool.grade_many(items) + pool.grade_many(items, policy=PUBLISHED)
    assert not any(grade.correct for grade in grades)
    assert not any(path.exists() for path in paths)


@pytest.mark.parametrize("task", ["leg_counting", "countdown", "spiral_matrix", "basic_arithmetic"])
def test_reasoning_gym_tasks_are_graded_by_their_own_scorer(pool, task):
    entry = gym_entry(task)
    right, wrong = f"<answer>{entry['answer']}</answer>", "<answer>17 + 4</answer>"
    source, gold = f"reasoning_gym/{task}", json.dumps(entry)
    grades = pool.grade_many([(right, gold, source), (wrong, gold, source), ("no element", gold, source)])
    assert [(grade.correct, grade.status) for grade in grades] == [(True, "ok"), (False, "ok"), (False, "no_answer")]


def test_a_scorer_that_evaluates_text_needs_to_be_allowed_by_name():
    entry = gym_entry("countdown")
    item = (f"<answer>{entry['metadata']['expression']}</answer>", json.dumps(entry), "reasoning_gym/countdown")
    refusal = "evaluating_scorers: got .*, expected countdown among them for data source 'reasoning_gym/countdown'"
    with (
        GraderPool(workers=1, timeout_s=30.0, evaluating_scorers=["puzzle24"]) as pool,
        pytest.raises(ConfigError, match=refusal),
    ):
        pool.grade_many([item])
    with pytest.raises(ConfigError, match=refusal):
        grade(*item[:2], data_source=item[2])
    assert grade(*item[:2], data_source=item[2], evaluating_scorers=["countdown"]).correct
    with pytest.raises(ConfigError, match="evaluating_scorers: got 'leg_counting', expected tasks whose scorer"):
        GraderPool(evaluating_scorers=["leg_counting"])


def reaches_evaluation(task):
    """Whether `score_answer` of a task leads, within its module, to Python's own evaluation or that of sympy."""
    path = Path(inspect.getsourcefile(reasoning_gym.factory.DATASETS[task][0]))
    functions = {node.name: node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}
    reached, todo = set(), ["score_answer"]
    while todo:
        name = todo.pop()
        if name in functions and name not in reached:
            reached.add(name)
            calls = [node.func for node in ast.walk(functions[name]) if isinstance(node, ast.Call)]
            todo += [getattr(called, "id", getattr(called, "attr", "")) for called in calls]
        elif name not in functions and name in (
            "eval",
            "exec",
            "parse_expr",
            "sympify",
            "simplify",
            "S",
            "get_score_answer_fn",
        ):
            return True
    return False


def test_the_scorers_that_evaluate_text_are_those_of_the_installed_version():
    with_own_scorer = {
        name for name, (dataset, _) in reasoning_gym.factory.DATASETS.items() if "score_answer" in vars(dataset)
    }
    assert {name for name in with_own_scorer if reaches_evaluation(name)} | {"composite"} == EVALUATING


def test_unknown_reasoning_gym_task_and_broken_entry_are_named(pool):
    grades = pool.grade_many([("<answer>1</answer>", "{}", "reasoning_gym/no_such_task"),
                              ("<answer>1</answer>", "no json", "reasoning_gym/leg_counting")])  # fmt: skip
    assert [grade.status for grade in grades] == ["unparsable_gold", "unparsable_gold"]


CONFINED = """
import os, socket, subprocess
from verl_ext.reward.worker.confined import confine
confine(2048)
attempts = {
    "write": lambda: open(%(path)r, "w"),
    "os.open": lambda: os.open(%(path)r, os.O_CREAT | os.O_WRONLY),
    "rename": lambda: os.rename("/etc/hostname", %(path)r),
    "mkdir": lambda: os.mkdir(%(path)r),
    "symlink": lambda: os.symlink("/etc/hostname", %(path)r),
    "system": lambda: os.system("touch %(path)s"),
    "popen": lambda: subprocess.run(["touch", %(path)r]),
    "fork": os.fork,
    "exec": lambda: os.execv("/usr/bin/touch", ["touch", %(path)r]),
    "spawn": lambda: os.posix_spawn("/usr/bin/touch", ["touch", %(path)r], {}),
    "connect": lambda: socket.create_connection(("127.0.0.1", 9)),
    "kill": lambda: os.kill(os.getppid(), 0),
    "ctypes": lambda: __import__("ctypes").CDLL(None),
    "memory": lambda: bytearray(4 * 2**30),
}
for name, attempt in attempts.items():
    try:
        attempt()
    except (PermissionError, MemoryError, RuntimeError):
        continue
    print("allowed:", name)
open("/etc/hostname").read()
print("done")
"""


def test_a_worker_cannot_write_connect_or_start_processes(tmp_path):
    path = tmp_path / "written"
    done = subprocess.run(
        [sys.executable, "-c", CONFINED % {"path": str(path)}],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.stdout, done.stderr) == ("done\n", "")
    assert not path.exists()


def test_workers_see_no_secret_of_the_environment(monkeypatch):
    monkeypatch.setenv("JUDGE_API_KEY", "sk-secret")
    with GraderPool(workers=1, timeout_s=5.0) as pool:
        assert pool.grade_many([RIGHT])[0].correct
        for pid in [pool._host.pid, *worker_pids(pool)]:
            assert b"sk-secret" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_many_hostile_answers_do_not_grow_the_caller(pool):
    import resource

    hostile = [
        "\\boxed{" + "(" * 900 + "1" + ")" * 900 + "}",
        "\\boxed{" + "9" * 10**6 + "}",
        "\\boxed{1}" * 10**5,
        "\\boxed{\ud800\\sqrt{2}}",
        "\\boxed{\0\\sqrt{2}}",
        "\\boxed{" + "\\frac{1}{" * 300 + "2" + "}" * 300 + "}",
        "\\boxed{\\frac{1}{\\sqrt{x}",
        "\\boxed{99!!!+\\sqrt{2}}",
    ]
    pool.grade_many([(response, "2\\sqrt{5}", "math") for response in hostile])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(20):
        grades = pool.grade_many([(response, "2\\sqrt{5}", "math") for response in hostile[:-1]])
        assert not any(grade.correct for grade in grades)
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mb < 50
