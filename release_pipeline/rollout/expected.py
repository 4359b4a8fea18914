"""What endpoint and alias should be by the ledger: a fold over its verified acts, pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from release_pipeline.rollout.ledger import EVENTS, Action, Entry, Phase
from release_pipeline.workspace.endpoint import ServedEntity
from release_pipeline.workspace.registry import REJECTED


@dataclass(frozen=True)
class Expected:
    """What the ledger's newest verified acts brought about.

    Attributes:
        act: The newest act that changed anything.
        routes: Traffic percentage by entity name, those at 0 % too; empty where the endpoint was deleted.
        versions: Version by entity name.
        alias: The version that the alias names, None for none.
        config_version: The endpoint's configuration as the newest act left it.
        entities: How entities are served, by name, as far as the ledger tells.
        rejected: Versions that were rolled back.
    """

    act: Entry
    routes: Mapping[str, int]
    versions: Mapping[str, str]
    alias: str | None
    config_version: int
    entities: Mapping[str, ServedEntity] = field(default_factory=dict)
    rejected: frozenset[str] = frozenset()

    @property
    def exists(self) -> bool:
        """Whether there is an endpoint by the ledger."""
        return bool(self.routes)


def expected(entries: Sequence[Entry]) -> Expected | None:
    """What should be, None where the ledger holds no deployment that was done.

    Args:
        entries: All rows of the ledger, oldest first. An act without an outcome has not changed anything yet.
    """
    now: Expected | None = None
    entities: dict[str, ServedEntity] = {}
    rejected: frozenset[str] = frozenset()
    for row in entries:
        after = row.after
        if row.action in EVENTS or row.phase is not Phase.DONE:
            continue  # one that failed left the old configuration serving
        if row.action is Action.MEND:
            now = replace(now, config_version=row.config_version) if now else None
            continue
        if row.action is Action.DEPLOY:
            entities[after["add"]["name"]] = ServedEntity(**after["add"])
            names, champion = after["entities"], after["champion_version"]
            versions = {names["challenger"]: str(after["challenger_version"])}
            if champion is not None:
                versions[names["champion"]] = str(champion)
            now = Expected(row, after["routes"], versions, None if champion is None else str(champion), 0)
        elif now is None:
            continue
        else:
            now = _moved(now, row)
            if row.action is Action.ROLL_BACK and after.get("status", REJECTED) == REJECTED:
                rejected |= {str(after.get("rejected", ""))}
        for name, settings in after.get("settings", {}).items():
            if name in entities:
                entities[name] = replace(entities[name], settings={**entities[name].settings, **settings})
        now = replace(now, act=row, config_version=row.config_version)
    return replace(now, entities=dict(entities), rejected=rejected) if now else None


def _moved(now: Expected, row: Entry) -> Expected:
    """After an act on what was deployed."""
    after: Mapping[str, Any] = row.after
    gone = set(after.get("remove", ())) if row.action in (Action.RETIRE, Action.ROLL_BACK) else set()
    routes = {name: share for name, share in after.get("routes", now.routes).items() if name not in gone}
    versions = {name: version for name, version in now.versions.items() if name in routes}
    alias = now.alias
    if row.action in (Action.PROMOTE, Action.ROLL_BACK):
        alias = next(iter(after["alias"].values()))
    return replace(now, routes=routes, versions=versions, alias=None if alias is None else str(alias))
