"""What the processes that the workspace starts have in common: none outlives it, and none has its standard input."""

import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import BinaryIO, Final

#: What such a process inherits; credentials of whoever started the server are not among it.
INHERITED: Final = frozenset(
    {"PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "LD_LIBRARY_PATH"}
    | {"PYTHONPATH", "VIRTUAL_ENV", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"}
    | {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"}
)
_PR_SET_PDEATHSIG: Final = 1


def inherited() -> dict[str, str]:
    """The variables of a new process, with this package among what its Python finds."""
    environment = {name: value for name, value in os.environ.items() if name in INHERITED}
    root = str(Path(__file__).parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
    environment["PYTHONUNBUFFERED"] = "1"
    return environment


def take_standard_input() -> BinaryIO:
    """Keep the pipe, and give all other code an empty standard input."""
    control = os.fdopen(os.dup(0), "rb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return control


def die_with_parent() -> None:
    """End this process when the one that started it ends."""
    # The end of the pipe does the same everywhere; this also works while other code holds the interpreter lock.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def exit_at_end_of(control: BinaryIO) -> None:
    """End this process when the pipe ends; for a thread of its own."""
    control.read()
    os._exit(0)
