"""A process that has everything imported and forks a new process for every run, so that a run can really be killed.

Started as ``python -m tests.faults.runner``. The first line of standard input is the release's YAML as JSON; every line
after it is one run. For each it prints the process id, then the outcome, a line of JSON each.
"""

import contextlib
import gc
import importlib
import inspect
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.faults.runs import Runs

#: Waits between the clients' tries, and between looks at an update, are so much shorter than written.
HURRY = 20
#: Tells the proxy from which place of the pipeline's code a call comes; it goes no further.
SITE_HEADER = "X-Call-Site"
#: How long the SDK, below both clients, tries one call again. Its own setting takes whole seconds only.
RETRY_TIME = timedelta(seconds=0.25)


def hurry(answer_seconds: float) -> None:
    """Make this process impatient: the clients' own rules, with shorter times."""
    import requests
    from databricks.sdk import _base_client

    sleep, send, retried = time.sleep, requests.adapters.HTTPAdapter.send, getattr(_base_client, "retried")  # noqa: B009

    def retried_shortly(**options: Any) -> Any:
        return retried(**{**options, "timeout": min(options["timeout"], RETRY_TIME)})

    def impatient(self: Any, request: Any, **options: Any) -> Any:
        request.headers[SITE_HEADER] = _site()
        return send(self, request, **{**options, "timeout": answer_seconds})

    setattr(time, "sleep", lambda seconds: sleep(seconds / HURRY))  # noqa: B010
    setattr(requests.adapters.HTTPAdapter, "send", impatient)  # noqa: B010
    setattr(_base_client, "retried", retried_shortly)  # noqa: B010


def _site() -> str:
    """The functions of the pipeline that lead to this call, outermost first, with their lines."""
    found, frame = list[str](), inspect.currentframe()
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.startswith(("release_pipeline.", "tests.faults.runs")):
            found.append(f"{name.rpartition('.')[2]}.{frame.f_code.co_name}:{frame.f_lineno}")
        frame = frame.f_back
    return ">".join(reversed(found))


def main() -> None:
    """Serve runs until standard input ends."""
    from release_pipeline.spec import parse_spec
    from tests.faults.runs import Runs

    begin = json.loads(sys.stdin.readline())
    file = Path(begin["file"])
    runs = Runs(parse_spec(begin["attributes"], file=file), file.parent, Path(begin["scratch"]))
    for name in begin["imports"]:
        with contextlib.suppress(ImportError):  # some names exist only while a package is being imported
            importlib.import_module(name)
    assert threading.active_count() == 1, threading.enumerate()
    gc.collect()
    gc.freeze()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        reading, writing = os.pipe()
        process = os.fork()
        if process == 0:
            gc.disable()  # it would copy every page that is shared, for a run of a second
            os.close(reading)
            os.dup2(2, 1)  # what MLflow prints is no outcome
            os.write(writing, json.dumps(_run(runs, order)).encode())
            os._exit(0)
        os.close(writing)
        print(json.dumps({"pid": process}), flush=True)
        with os.fdopen(reading, "rb") as pipe:
            said = pipe.read()
        _, status = os.waitpid(process, 0)
        signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        print(json.dumps({"signal": signal, "said": json.loads(said or b"null")}), flush=True)


def _run(runs: "Runs", order: Mapping[str, Any]) -> dict[str, Any]:
    from tests.faults.runs import RunFailed

    before = set(sys.modules)
    hurry(order["answer_seconds"])
    said: dict[str, Any] = {"error": None, "expected": True, "value": None}
    try:
        said["value"] = getattr(runs, order["run"])(*order["arguments"])
    except RunFailed as error:
        said["error"] = str(error)
    except BaseException:
        said |= {"error": traceback.format_exc(), "expected": False}
    if order.get("tell_imports"):
        said["imports"] = sorted(set(sys.modules) - before)
    return said


if __name__ == "__main__":
    main()
