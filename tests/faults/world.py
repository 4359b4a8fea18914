"""What a workspace holds of one release, as a value: what two runs have left behind can be compared."""

from dataclasses import dataclass

from release_pipeline.rollout.state import ReleaseState
from release_pipeline.workspace.registry import Version
from release_pipeline.workspace.tracking import ReleaseRun
from tests.faults.observer import Sight


@dataclass(frozen=True)
class World:
    """What a release changes: two worlds that are equal differ in evidence and rows only.

    Attributes:
        release: The release that it is about.
        tags: Of the challenger's version.
        other_tags: Of the version of the release that it meets; none where it meets no other.
        lacking: What the endpoint does not have of the YAML's settings; empty where there is no endpoint.
        drift: After a change by hand, kinds of what still differs from the ledger, or why nobody could look.
        run: The release's MLflow run.
        registered: Versions that were made of it and are ready, with their tags.
    """

    release: str
    sight: Sight
    challenger_alias: str | None
    tags: tuple[tuple[str, str], ...]
    other_tags: tuple[tuple[str, str], ...]
    lacking: str
    drift: tuple[str, ...]
    run: ReleaseRun | None
    registered: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = ()

    @property
    def state(self) -> ReleaseState | None:
        """Where the release stands, None where it has not begun."""
        return self.sight.state_of(self.release)


def tags_of(version: Version | None) -> tuple[tuple[str, str], ...]:
    """Tags of a version, none where it does not exist."""
    return tuple(sorted(version.tags.items())) if version else ()
