"""``python -m release_pipeline.local_workspace``: the local workspace as a process of its own."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from release_pipeline.local_workspace.server import CannotServe, ensure_token, serve
from release_pipeline.local_workspace.settings import Faults, Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until stopped; returns 2 when it cannot start."""
    parser = argparse.ArgumentParser(prog="release_pipeline.local_workspace", description=__doc__)
    parser.add_argument("--port", type=int, default=Settings.port, help="TCP port on the loopback address")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds everything, made when missing")
    parser.add_argument("--token-file", type=Path, required=True, help="file with the token, made when missing")
    parser.add_argument("--lag", type=float, default=0.0, help="seconds until a request's row is in its table")
    parser.add_argument("--update-seconds", type=float, default=0.0, help="least duration of an endpoint's update")
    parser.add_argument("--duplicate-fraction", type=float, default=0.0, help="share of rows that come twice")
    parser.add_argument(
        "--fault", action="append", default=[], metavar="NAME=JSON", help="any field of Faults, as payload_shape=legacy"
    )
    parser.add_argument(
        "--keep-warm-seconds", type=float, default=0.0, help="how long a removed entity's process waits for its return"
    )
    parser.add_argument(
        "--processes-per-entity", type=int, default=Settings.processes_per_entity, help="at most, whatever its size"
    )
    parser.add_argument(
        "--logged-environments",
        action="store_true",
        help="run each model with the requirements that it was logged with",
    )
    options = parser.parse_args(arguments)
    faults = Faults(
        inference_lag_seconds=options.lag,
        duplicate_fraction=options.duplicate_fraction,
        update_seconds=options.update_seconds,
    )
    try:
        faults.change(dict(_fault(text) for text in options.fault))
    except ValueError as error:
        parser.error(str(error))
    try:
        token = ensure_token(options.token_file)
        serve(
            Settings(
                data_dir=options.data.resolve(),
                token=token,
                port=options.port,
                faults=faults,
                keep_warm_seconds=options.keep_warm_seconds,
                processes_per_entity=options.processes_per_entity,
                logged_environments=options.logged_environments,
            )
        )
    except CannotServe as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _fault(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value  # a word needs no quotes


if __name__ == "__main__":
    sys.exit(main())
