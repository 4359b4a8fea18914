"""The parts that one model's releases need, wired to the workspace that the environment names."""

from dataclasses import dataclass

from release_pipeline.clock import Clock, SystemClock
from release_pipeline.gate.verdict import Action
from release_pipeline.rollout.events import Events
from release_pipeline.rollout.ledger import Ledger
from release_pipeline.rollout.observer import Observer
from release_pipeline.rollout.transition import Rollout
from release_pipeline.spec import ReleaseSpec
from release_pipeline.workspace.client import Workspace, connect
from release_pipeline.workspace.endpoint import Endpoint, Progress
from release_pipeline.workspace.evidence_table import EvidenceTable
from release_pipeline.workspace.inference_table import InferenceTable
from release_pipeline.workspace.late_sources import late_sources
from release_pipeline.workspace.registry import Registry


@dataclass(frozen=True)
class Parts:
    """What looks at a release, what moves it, and what is said of it."""

    workspace: Workspace
    endpoint: Endpoint
    registry: Registry
    ledger: Ledger
    payload: InferenceTable
    observer: Observer
    rollout: Rollout
    events: Events


def connect_parts(spec: ReleaseSpec, *, actor: str, progress: Progress, clock: Clock | None = None) -> Parts:
    """Connect to the workspace and build the parts.

    Args:
        spec: The release's YAML.
        actor: Who acts, as the ledger records it.
        progress: Called with one line of news during a wait.
        clock: The machine's own where none is given.

    Raises:
        WorkspaceError: There is no workspace to connect to.
    """
    clock = clock or SystemClock()
    workspace = connect()
    endpoint = Endpoint(workspace, spec.endpoint_name)
    registry = Registry(workspace, spec.model.registered_name)
    ledger = Ledger(workspace.warehouse, spec.ledger_table, clock)
    payload = InferenceTable(workspace.warehouse, spec.payload_table)
    observer = Observer(
        spec,
        endpoint,
        ledger,
        payload,
        EvidenceTable(workspace.warehouse, spec.evidence_table),
        clock,
        lambda metrics: late_sources(workspace, spec, metrics, payload, clock),
        lambda version: _tag(registry, version, spec.promotion.approval_tag),
    )
    rollout = Rollout(
        spec, endpoint, registry, ledger, clock, actor, progress, lambda release: _shown_harm(observer, release)
    )
    return Parts(workspace, endpoint, registry, ledger, payload, observer, rollout, Events(ledger, actor))


def _shown_harm(observer: Observer, release: str) -> str:
    """The gate's sentence where its guards show harm of a release, else nothing."""
    seen = observer.look(release)
    return seen.judged.sentence if seen and seen.judged.action is Action.ROLL_BACK else ""


def _tag(registry: Registry, version: str, key: str) -> str:
    """A tag as ``key=value``, empty where the version has none."""
    found = registry.get(version)
    return f"{key}={found.tags[key]}" if found and key in found.tags else ""
