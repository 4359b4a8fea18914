"""Logs that are written as a user would have them, and the command that reads them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

from release_pipeline.cli import main
from release_pipeline.spec import ReleaseSpec
from release_pipeline.spec_gate import Metric

START = 1_700_000_000.0


def spec_of(*metrics: dict[str, Any], ramp: dict[str, Any] | None = None, **gate: Any) -> ReleaseSpec:
    """A spec whose gate has these metrics; by default errors alone."""
    return ReleaseSpec.model_validate(
        {
            "name": "replayed",
            "model": {"registered_name": "main.default.replayed", "source": "agent.py"},
            "ramp": {"steps": [10, 50], "min_step_seconds": 600, **(ramp or {})},
            "gate": {
                "metrics": [Metric(**metric) for metric in metrics or ({"name": "errors", "kind": "errors"},)],
                **gate,
            },
        }
    )


def make_log(
    rows: int = 6000,
    *,
    seed: int = 1,
    rate: float = 5.0,
    before: int = 1500,
    share: float = 0.1,
    champion: float = 0.01,
    challenger: float = 0.01,
    lag: float = 60.0,
    duplicates: float = 0.02,
    nothing: float = 0.0,
) -> pd.DataFrame:
    """One release: Poisson traffic at one share, two rates of failure, rows that are late, doubled, and empty.

    Args:
        rows: Requests.
        seed: Of the random numbers.
        rate: Requests per second.
        before: Requests before the ramp, all answered by the champion.
        share: The challenger's share of the rest.
        champion: Its rate of failures.
        challenger: The challenger's.
        lag: Longest delay of most rows, seconds; one in a hundred takes ten times as long.
        duplicates: Share of rows that are delivered again, later.
        nothing: Share of rows without a status.
    """
    rng = np.random.default_rng(seed)
    requested = np.round(START + np.cumsum(rng.exponential(1 / rate, rows)), 3)
    new = (np.arange(rows) >= before) & (rng.random(rows) < share)
    failed = rng.random(rows) < np.where(new, challenger, champion)
    delay = rng.uniform(0, lag, rows) * np.where(rng.random(rows) < 0.01, 10, 1)
    log = pd.DataFrame(
        {
            "arrived_at": np.round(requested + delay, 3),
            "request_time": requested,
            "request_id": [f"request-{seed}-{number}" for number in range(rows)],
            "arm": np.where(new, "challenger", "champion"),
            "status_code": np.where(rng.random(rows) < nothing, np.nan, np.where(failed, 500.0, 200.0)),
            "execution_duration_ms": np.round(rng.lognormal(5, 0.5, rows)),
        }
    )
    again = log[rng.random(rows) < duplicates].copy()
    again["arrived_at"] += rng.uniform(0, 5 * lag, len(again))
    return pd.concat([log, again]).sample(frac=1, random_state=seed).reset_index(drop=True)


@dataclass(frozen=True)
class Replayed:
    """How the command ended."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def releases(self) -> list[dict[str, Any]]:
        """The releases of its JSON."""
        assert self.exit_code == 0, self.stderr
        found: list[dict[str, Any]] = json.loads(self.stdout)["releases"]
        return found


Replay = Callable[..., Replayed]


@pytest.fixture
def replay(tmp_path: Path) -> Replay:
    """Run the command over a log: a frame, which is written as CSV or Parquet, or a file or table by name."""

    def run(log: pd.DataFrame | str | Path, spec: ReleaseSpec, *options: str, kind: str = "parquet") -> Replayed:
        file = tmp_path / "defs.yaml"
        attributes = spec.model_dump(mode="json", exclude_unset=True)
        file.write_text(yaml.safe_dump({"type": "release_pipeline.ReleasePipelineComponent", "attributes": attributes}))
        if isinstance(log, pd.DataFrame):
            path = tmp_path / f"log.{kind}"
            if kind == "parquet":
                log.to_parquet(path, index=False)
            else:
                log.to_csv(path, index=False)
            log = path
        arguments: Sequence[str] = ["replay", "--spec", str(file), "--log", str(log), "--json", *options]
        ended = CliRunner().invoke(main, arguments)
        assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exception
        return Replayed(ended.exit_code, ended.stdout, ended.stderr)

    return run
