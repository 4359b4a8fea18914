"""What the server holds of one model, to compare and to come back to."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from release_pipeline.rollout.ledger import Entry
from release_pipeline.workspace.endpoint import EndpointState

if TYPE_CHECKING:
    from tests.pipeline.conftest import Model


@dataclass(frozen=True)
class World:
    """What the server holds."""

    endpoint: EndpointState | None
    alias: str | None
    challenger_alias: str | None
    entries: list[Entry]

    @classmethod
    def of(cls, model: "Model") -> "World":
        parts = model.parts("onlooker")
        named = parts.registry.version_of_alias
        return cls(parts.endpoint.read(), named("champion"), named("challenger"), parts.ledger.read())

    @property
    def shares(self) -> dict[str, int]:
        """Traffic by version, of the versions that have any."""
        if self.endpoint is None:
            return {}
        version = {entity.name: entity.version for entity in self.endpoint.entities}
        return {version[name]: share for name, share in self.endpoint.routes.items() if share}

    @property
    def versions(self) -> set[str]:
        """Versions on the endpoint, with or without traffic."""
        return {entity.version for entity in self.endpoint.entities} if self.endpoint else set()


@dataclass(frozen=True)
class Checkpoint:
    """A state of the server to come back to under another release's name, so that few processes have to start."""

    world: World
    rows: tuple[Entry, ...]

    @classmethod
    def of(cls, model: "Model", release: str) -> "Checkpoint":
        world = World.of(model)
        return cls(world, tuple(entry for entry in world.entries if entry.release == release))

    def restore(self, model: "Model") -> str:
        """Make endpoint, aliases and ledger say the same of a new release; its key."""
        release, parts = model.release(), model.parts("stagehand")
        assert self.world.endpoint is not None
        parts.endpoint.wait(timeout_seconds=60, progress=model.said.append)  # for what the test before asked last
        parts.endpoint.update(self.world.endpoint.entities, self.world.endpoint.routes)
        parts.endpoint.wait(timeout_seconds=60, progress=model.said.append)
        for alias, version in (("champion", self.world.alias), ("challenger", self.world.challenger_alias)):
            if version is None:
                parts.registry.delete_alias(alias)
            else:
                parts.registry.set_alias(alias, version)
        entries = parts.ledger.read()
        latest = parts.payload.latest()
        for row in self.rows:
            after = dict(row.after)
            if "table_version" in after:
                after["table_version"] = latest[0] if latest else 0  # rows of other tests are none of this release's
            entries.append(
                parts.ledger.append(
                    entries,
                    release=release,
                    actor="stagehand",
                    action=row.action,
                    phase=row.phase,
                    before=row.before,
                    after=after,
                    config_version=row.config_version,
                    reason=row.reason,
                )
            )
        return release
