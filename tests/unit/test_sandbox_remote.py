"""A remote sandbox: a stand-in that runs programs as the service does, and everything that a service can do wrong."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from verl_ext.errors import ConfigError
from verl_ext.evaluation.config import read_config
from verl_ext.reward.code.grade import CodeGrader
from verl_ext.reward.code.options import CodeOptions
from verl_ext.sandbox import pool, remote
from verl_ext.sandbox.limits import Limits
from verl_ext.sandbox.pool import SandboxPool
from verl_ext.sandbox.remote import Remote
from verl_ext.sandbox.slot import Checker, Job, SlotError

LIMITS = Limits(cpu_s=2.0, wall_s=4.0, memory_mb=512, output_kb=64)


class Service:
    """Sandbox Fusion's `/run_code` for Python, without its isolation; `trouble` is what it does instead, once each."""

    def __init__(self) -> None:
        self.asked: list[dict] = []
        self.trouble: list = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                service.asked.append(body)
                status, answer = (
                    service.trouble.pop(0)(body) if service.trouble else (200, json.dumps(service.run(body)).encode())
                )
                if self.path != "/run_code":
                    status = 404
                self.send_response(status)
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def run(self, body: dict) -> dict:
        started = time.monotonic()
        try:
            done = subprocess.run(
                [sys.executable, "-c", body["code"]],
                check=False,
                input=body["stdin"],
                capture_output=True,
                text=True,
                timeout=body["run_timeout"],
            )
        except subprocess.TimeoutExpired:
            return {"status": "Failed", "compile_result": None, "run_result": {"status": "TimeLimitExceeded"}}
        result = {
            "status": "Finished",
            "execution_time": time.monotonic() - started,
            "return_code": done.returncode,
            "stdout": done.stdout,
            "stderr": done.stderr,
        }
        return {"status": "Failed" if done.returncode else "Success", "compile_result": None, "run_result": result}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def service():
    running = Service()
    yield running
    running.close()


@pytest.mark.parametrize(
    ("code", "text", "name", "status", "output"),
    [
        ("print(int(input()) * 2)", "21", "", "ok", "42\n"),
        ("if __name__ == '__main__': print(gcd(8, 12), inf, sys.argv and 1)", "", "", "ok", "4 inf 1\n"),
        ("print('noise')\ndef f(a, b):\n    print('more')\n    return (a, [b])", '1\n"x"', "f", "ok", '[1, ["x"]]'),
        ("class Solution:\n    def f(self, a): return {1: a}", "2", "f", "ok", '{"1": 2}'),
        ("def g(): pass", "1", "f", "no_function", ""),
        ("class E(int):\n    def __eq__(self, o): return True\ndef f(a): return E()", "1", "f", "runtime_error", ""),
        ("import sys\ndef f(a): sys.exit(0)", "1", "f", "ok", ""),
        ("import os\ndef f(a): os._exit(0)", "1", "f", "ok", ""),
        ("def f(:", "", "", "compile_error", ""),
        ("1 / 0", "", "", "runtime_error", ""),
        ("raise MemoryError", "", "", "memory_limit", ""),
        ("print('x' * 10**5)", "", "", "output_limit", ""),
        ("while True: pass", "", "", "time_limit", ""),
        ("import sys; sys.exit(3)", "", "", "runtime_error", ""),
    ],
)
def test_a_job_ends_as_in_a_slot(service, code, text, name, status, output):
    run = Remote(service.url).run(Job(code, text, name), LIMITS)
    assert (run.status, run.output) == (status, output)
    (asked,) = service.asked
    assert (asked["language"], asked["stdin"], asked["run_timeout"], asked["memory_limit_MB"]) == (
        "python",
        text,
        2,
        512,
    )


def test_grades_are_right_and_what_is_right_is_in_no_request(service):
    grader = CodeGrader(2, CodeOptions(sandbox="remote", url=service.url, cpu_s=2))
    gold = json.dumps({"form": "stdin", "inputs": ["1", "2"], "outputs": ["secret-1", "secret-2"]})
    right = "```python\nprint('secret-' + input())\n```"
    assert grader.submit(right, gold).result().correct
    assert not any("secret-1" in json.dumps(asked) for asked in service.asked)
    wrong = grader.submit("```python\nprint('secret-1')\n```", gold).result()
    assert (wrong.status, wrong.detail) == ("ok", "wrong_answer")


def test_tests_that_are_code_are_refused(service):
    grader = CodeGrader(1, CodeOptions(sandbox="remote", url=service.url))
    gold = json.dumps({"form": "asserts", "test": "assert f(1) == 2", "entry_point": "f"})
    grade = grader.submit("```python\ndef f(x): return 2\n```", gold).result()
    assert (grade.status, grade.correct) == ("unparsable_gold", False) and "sandbox=remote" in grade.detail
    with pytest.raises(ValueError, match="tests that are code"):
        Remote(service.url).run(Job("", checker=Checker("", "", (), False)), LIMITS)


def fails(status: int, answer: bytes = b""):
    return lambda body: (status, answer)


def hangs(body):
    time.sleep(1.0)
    return 200, b"{}"


TROUBLE = {
    "500": (fails(500), "HTTP 500"),
    "429": (fails(429), "HTTP 429"),
    "not JSON": (fails(200, b"<html>"), "none of /run_code"),
    "a list": (fails(200, b"[]"), "none of /run_code"),
    "no such result": (fails(200, b'{"status": "Success", "run_result": 5}'), "none of /run_code"),
    "its own error": (fails(200, b'{"status": "SandboxError", "message": "no space"}'), "SandboxError"),
    "a hang": (hangs, "TimeoutError"),
}


@pytest.mark.parametrize("name", TROUBLE)
def test_trouble_of_the_service_is_tried_again_and_in_the_end_no_verdict(service, monkeypatch, name):
    trouble, said = TROUBLE[name]
    monkeypatch.setattr(pool, "_PAUSE_S", 0.001)
    running = SandboxPool(1, Limits(cpu_s=0.1, wall_s=0.1), "remote", service.url)
    monkeypatch.setattr(remote, "_SERVICE_S", 0.1)
    service.trouble = [trouble]
    with pytest.raises(SlotError, match=said):
        Remote(service.url).run(Job("print(1)"), Limits(cpu_s=0.1, wall_s=0.1))
    monkeypatch.setattr(remote, "_SERVICE_S", 0.4)
    running.limits = Limits(cpu_s=4.0, wall_s=4.0) if name != "a hang" else Limits(cpu_s=0.2, wall_s=0.2)
    if name != "a hang":
        service.trouble = [trouble, trouble]
        assert running.run(Job("print(6 * 7)")).output == "42\n"
    service.trouble = [trouble] * 3
    assert running.run(Job("print(6 * 7)")).status == "died"
    running.close()


def test_a_compile_step_that_fails_is_a_compile_error(service):
    service.trouble = [fails(200, b'{"status": "Failed", "compile_result": {"status": "Error"}, "run_result": null}')]
    assert Remote(service.url).run(Job("x"), LIMITS).status == "compile_error"


def test_a_service_that_is_not_there_is_refused_at_the_start():
    with pytest.raises(ConfigError, match="remote: http://127.0.0.1:9/run_code: ConnectionRefusedError"):
        SandboxPool(1, LIMITS, "remote", "http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sandbox": "remote"}, "code.url: got '', expected the service's URL"),
        ({"url": "http://x"}, "code.url: got 'http://x', expected nothing without sandbox=remote"),
        ({"sandbox": "remote", "url": "x:80"}, "code.url: got 'x:80', expected a URL"),
    ],
)
def test_an_address_goes_with_the_sandbox_remote_and_only_with_it(options, message):
    with pytest.raises(ConfigError, match=message):
        CodeOptions(**options)


def test_the_evaluation_has_the_same_keys():
    config = read_config(["output_dir=x", "code_sandbox=remote", "code_url=http://x"])
    assert (config.code_options.sandbox, config.code_options.url) == ("remote", "http://x")
    with pytest.raises(ConfigError, match="code_url"):
        read_config(["output_dir=x", "code_sandbox=remote"])
