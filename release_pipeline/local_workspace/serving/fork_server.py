"""A process that has imported what every scoring process needs, and forks one whenever the workspace asks.

Started as ``python -m release_pipeline.local_workspace.serving.fork_server``, on Linux only: elsewhere numerical
libraries do not survive a fork. The imports cost more than all else that a start does, and their memory is shared.
Standard input is a socket; each byte on it comes with three descriptors: a file with the environment, the reading end
of the pipe on which the worker gets its order, and where it writes what it prints. Standard output has a line of JSON
with the ``pid`` for each of them, in their order, or with the number of the ``error``, and one with ``pid`` and
``code`` when it has ended. The end of the socket ends this process, and with it all that it has forked.

It has one thread of Python's, and no secret in its memory.
"""

import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress

from release_pipeline.local_workspace.child_process import die_with_parent
from release_pipeline.local_workspace.serving import worker

#: What a worker imports before it can load a model; beside these modules, what mlflow loads late.
PRELOADED = (
    "release_pipeline.local_workspace.serving.scoring",
    "release_pipeline.local_workspace.serving.model",
    "mlflow.tracking._model_registry.client",
    "uvicorn",
    "uvicorn.loops.auto",
    "uvicorn.protocols.http.auto",
)
DESCRIPTORS = 3


def main() -> None:
    """Fork workers until the workspace is gone; in each of them, be the worker."""
    # Copies of the socket and of the answers may have come along; no worker is to have them.
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    asked, answers = socket.socket(fileno=os.dup(0)), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)  # what an import prints is no answer
    die_with_parent()
    for name in PRELOADED:
        with suppress(ImportError):  # a worker that needs it says so itself
            importlib.import_module(name)
    _list_packages()
    # Collections would write to, and so copy, the pages that are shared.
    gc.collect()
    gc.freeze()
    descriptors = _serve(asked, answers)
    # From here on this is a worker.
    asked.close()
    os.close(answers)
    _become_worker(*descriptors)


def _list_packages() -> None:
    """Let mlflow look once through all that is installed, which it would do whenever it loads a model."""
    try:
        from mlflow.utils.requirements_utils import warn_dependency_requirement_mismatches
    except ImportError:  # it is not mlflow's published interface, and only saves time
        return
    warn_dependency_requirement_mismatches(["mlflow"])


def _serve(asked: socket.socket, answers: int) -> Sequence[int]:
    """Fork and reap; returns in what was forked, with its descriptors."""
    parent, (woken, waker) = os.getpid(), os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(waker, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    with selectors.DefaultSelector() as selector:
        selector.register(asked, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is not asked:
                    os.read(woken, 4096)
                    _reap(answers)
                    continue
                ordered, descriptors, *_ = socket.recv_fds(asked, 1, DESCRIPTORS)
                if not ordered:
                    os._exit(0)
                try:
                    pid = _fork()
                except OSError as error:
                    for each in descriptors:
                        os.close(each)
                    _answer(answers, error=error.errno or 0)
                    continue
                if pid == 0:
                    die_with_parent()
                    if os.getppid() != parent:
                        os._exit(1)
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    os.close(woken)
                    os.close(waker)
                    return descriptors
                for each in descriptors:
                    os.close(each)
                _answer(answers, pid=pid)


def _fork() -> int:
    with warnings.catch_warnings():
        # From Python 3.12 on it warns of other threads, which are those of native libraries that know about forks.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _reap(answers: int) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _answer(answers, pid=pid, code=os.waitstatus_to_exitcode(status))


def _answer(answers: int, **told: int) -> None:
    os.write(answers, json.dumps(told).encode() + b"\n")


def _become_worker(environment: int, control: int, output: int) -> None:
    os.setsid()
    with os.fdopen(environment, encoding="utf-8") as file:
        variables = json.load(file)
    os.environ.clear()
    os.environ.update(variables)
    time.tzset()
    for source, target in ((control, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.close(control)
    os.close(output)
    sys.argv[0] = worker.__file__  # mlflow notes it as the source of traces
    import numpy

    numpy.random.seed()  # Python's own generator does so by itself after a fork
    worker.main()


if __name__ == "__main__":
    main()
