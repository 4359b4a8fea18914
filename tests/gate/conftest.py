"""Specs, observations and signals that the tests of the gate are written in."""

from collections.abc import Callable
from typing import Any

import pytest

from release_pipeline.gate.observations import Observation
from release_pipeline.gate.verdict import Signals
from release_pipeline.spec import ModelPart, RampPart, ReleaseSpec
from release_pipeline.spec_gate import GatePart, Metric

ERRORS = Metric(name="errors", kind="errors")


def every(gate: GatePart, seconds: float = 300) -> dict[str, float]:
    """Buckets of one length for every metric of a gate."""
    return {metric.name: seconds for metric in gate.metrics}


@pytest.fixture(scope="session")
def make_spec() -> Callable[..., ReleaseSpec]:
    def make(*metrics: Metric, ramp: dict[str, Any] | None = None, **gate: Any) -> ReleaseSpec:
        return ReleaseSpec(
            name="questions",
            model=ModelPart(registered_name="ml.agents.questions", source="agent.py"),
            ramp=RampPart(**(ramp or {})),
            gate=GatePart(metrics=metrics or (ERRORS,), **gate),
        )

    return make


@pytest.fixture(scope="session")
def observe() -> Callable[..., Observation]:
    """An observation from (rows, bad rows) per arm."""

    def make(
        champion: tuple[int, int] = (0, 0),
        challenger: tuple[int, int] = (0, 0),
        *,
        ingest: int = 0,
        step: int = 0,
        bucket: float = 0.0,
        metric: str = "errors",
        segment: str = "",
        unjudged: tuple[int, int] = (0, 0),
        failed: int = 0,
        watermark: float = 1e9,
    ) -> Observation:
        return Observation(
            ingest=ingest,
            step=step,
            bucket_start=bucket,
            metric=metric,
            segment=segment,
            champion_unjudged=unjudged[0],
            challenger_unjudged=unjudged[1],
            challenger_failed=failed,
            champion=(champion[0] - champion[1], champion[1]),
            challenger=(challenger[0] - challenger[1], challenger[1]),
            from_version=ingest,
            to_version=ingest,
            watermark=watermark,
        )

    return make


@pytest.fixture(scope="session")
def make_signals() -> Callable[..., Signals]:
    """Healthy signals an hour into the first step."""

    def make(**changed: Any) -> Signals:
        healthy = {"configured_share": 0.05, "now": 5000.0, "step_started_at": 1000.0, "ramp_started_at": 1000.0}
        return Signals(**(healthy | changed))

    return make
