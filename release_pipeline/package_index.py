"""Where packages come from: what pip is set up with, for uv, which does not read pip's configuration by itself."""

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version


def uv_variables() -> dict[str, str]:
    """The variables that tell uv the index, the folders and the certificates that pip would use. Blocks for a second.

    What was set for uv itself comes first, and is not among them. Empty where this interpreter has no pip.
    """
    try:
        version("pip")
    except PackageNotFoundError:
        return {}
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    found: dict[str, str] = {}
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        found[key.rpartition(".")[2].strip()] = value.strip().strip("'\"")
    variables = {
        "UV_DEFAULT_INDEX": found.get("index-url"),
        # pip writes several as lines of one value.
        "UV_INDEX": " ".join(found.get("extra-index-url", "").replace("\\n", " ").split()),
        "UV_FIND_LINKS": found.get("find-links"),
        "SSL_CERT_FILE": found.get("cert"),
    }
    return {name: value for name, value in variables.items() if value and name not in os.environ}
