"""Programs run by an HTTP service that has Sandbox Fusion's `/run_code`, on other machines.

The service isolates; what is right stays here, as with a slot. It knows wall time alone, so `cpu_s` bounds that, and no
two processes for one job, so tests that are code cannot be run there.
"""

from __future__ import annotations

import http.client
import json
import secrets
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from verl_ext.sandbox.limits import Limits
from verl_ext.sandbox.prelude import BY_EXIT, COMPILE_ERROR, MEMORY, NO_FUNCTION, PRELUDE
from verl_ext.sandbox.slot import Job, Run, SlotError

REMOTE = "remote"
"""Its name among the sandboxes."""
_SERVICE_S = 30.0
"""For the service's own work and its queue, beyond the program's time."""
_MORE_BYTES = 1 << 20
_MODULES = ("plain", "candidate")  # in the order in which they import each other

# One file of text: the service has nothing of this package. What a call returns is printed behind a marker that is new
# each time; a program that finds it gains nothing, since it could as well return what it prints.
_SCRIPT = f"""
import json, os, sys, tempfile, types
MODULES, PRELUDE, CODE, NAME, MARKER = json.loads(%r)
for name in ("verl_ext", "verl_ext.sandbox", *MODULES):
    sys.modules[name] = types.ModuleType(name)
for name, source in MODULES.items():
    exec(source, vars(sys.modules[name]))
namespace = {{}}
exec(PRELUDE, namespace)
namespace["__name__"] = "solution" if NAME else "__main__"
try:
    compiled = compile(CODE, "solution.py", "exec")
except (SyntaxError, ValueError, RecursionError):
    os._exit({COMPILE_ERROR})
except MemoryError:
    os._exit({MEMORY})
try:
    exec(compiled, namespace)
    if NAME:
        with tempfile.TemporaryFile() as result:
            call = sys.modules["verl_ext.sandbox.candidate"].call_once
            if not call(namespace, NAME, sys.stdin.read(), result.fileno()):
                os._exit({NO_FUNCTION})
            result.seek(0)
            sys.stdout.write("\\n" + MARKER + result.read().decode())
except MemoryError:
    os._exit({MEMORY})
"""


class Remote:
    """A service.

    Args:
        url: up to and without `/run_code`.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/") + "/run_code"
        here = Path(__file__)
        self._modules = {f"verl_ext.sandbox.{name}": here.with_name(f"{name}.py").read_text() for name in _MODULES}

    def run(self, job: Job, limits: Limits) -> Run:
        """Run one job; its `cpu_s` is the wall time that the service says.

        Raises:
            SlotError: the service does not answer, or says that it failed.
            ValueError: the job's tests are code.
        """
        if job.checker is not None:
            raise ValueError("a remote sandbox runs no tests that are code")
        marker = secrets.token_hex(16)
        program = json.dumps([self._modules, PRELUDE, job.code, job.fn_name, marker])
        answer = self._ask(
            {
                "code": _SCRIPT % program,
                "language": "python",
                "stdin": job.input,
                "compile_timeout": limits.wall_s,
                "run_timeout": limits.cpu_s,
                "memory_limit_MB": limits.memory_mb,
            },
            limits,
        )
        return _run_of(answer, limits, marker if job.fn_name else None)

    def close(self) -> None:
        """Nothing is held."""

    def _ask(self, body: dict[str, Any], limits: Limits) -> dict[str, Any]:
        # A lone surrogate is no text that a request can hold; the program could not print it either.
        data = json.dumps(body).encode()
        request = urllib.request.Request(self._url, data, {"Content-Type": "application/json"})
        most = 3 * limits.output_kb * 1024 + _MORE_BYTES
        try:
            with urllib.request.urlopen(request, timeout=2 * limits.wall_s + _SERVICE_S) as reply:
                raw = reply.read(most + 1)
        except urllib.error.HTTPError as error:
            raise SlotError(f"{self._url}: HTTP {error.code}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise SlotError(f"{self._url}: {type(reason).__name__}") from None
        if len(raw) > most:  # of what a program printed
            return {"status": "Success", "run_result": {"status": "Finished", "return_code": 0, "stdout": "x" * most}}
        try:
            answer = json.loads(raw)
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or not isinstance(answer.get("run_result") or {}, dict):
            raise SlotError(f"{self._url}: the answer is none of /run_code")
        if answer.get("status") not in ("Success", "Failed"):
            raise SlotError(f"{self._url}: {answer.get('status')}")
        return answer


def _run_of(answer: dict[str, Any], limits: Limits, marker: str | None) -> Run:
    """What the service's answer says of the program."""
    result = answer.get("run_result")
    if not result:  # it got no further than the service's own compile step
        compiled = answer.get("compile_result") or {}
        return Run("time_limit" if compiled.get("status") == "TimeLimitExceeded" else "compile_error")
    seconds = float(result.get("execution_time") or 0.0)
    if result.get("status") == "TimeLimitExceeded":
        return Run("time_limit", cpu_s=seconds, wall_s=seconds)
    output = result.get("stdout") or ""
    if max(len(output), len(result.get("stderr") or "")) >= limits.output_kb * 1024:
        return Run("output_limit", cpu_s=seconds, wall_s=seconds)
    code = result.get("return_code")
    if result.get("status") != "Finished" or code != 0:
        return Run(BY_EXIT.get(code, "runtime_error"), cpu_s=seconds, wall_s=seconds)
    if marker is not None:
        output = output.rpartition("\n" + marker)[2] if marker in output else ""
    return Run("ok", output, seconds, seconds)
