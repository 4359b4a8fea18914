"""Drift: where endpoint and alias are no longer what the ledger, or the YAML, says, and which side is right.

:func:`drift` is pure. An endpoint has parts with writes of their own: configuration and traffic are compared with the
ledger; tags, rate limits, permissions and the inference table with the YAML, as far as it names them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from release_pipeline.rollout.endpoint_settings import Lacking
from release_pipeline.rollout.expected import Expected
from release_pipeline.rollout.verified_write import OWNER_TAG
from release_pipeline.spec import ReleaseSpec
from release_pipeline.workspace.endpoint import EndpointState


class Kind(StrEnum):
    """What has drifted."""

    ENDPOINT_GONE = "endpoint_gone"
    ENTITY_UNKNOWN = "entity_unknown"
    ENTITY_MISSING = "entity_missing"
    WEIGHTS_MOVED = "weights_moved"
    CONFIG_CHANGED = "config_changed"
    ALIAS_MOVED = "alias_moved"
    INFERENCE_TABLE_OFF = "inference_table_off"
    TAGS_CHANGED = "tags_changed"
    RATE_LIMITS_CHANGED = "rate_limits_changed"
    PERMISSIONS_CHANGED = "permissions_changed"
    PERMISSION_LOST = "permission_lost"


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    Attributes:
        found: What is.
        should_be: What the ledger says, or the YAML.
        right: Which side is right: ``endpoint``, ``ledger`` or ``YAML``.
        why: Why that side.
        remedy: What to do.
        mends: Whether the mend job can put it right.
    """

    kind: Kind
    found: str
    should_be: str
    right: str
    why: str
    remedy: str
    mends: bool = True

    @property
    def sentence(self) -> str:
        """All of it in one line."""
        return f"{self.kind}: {self.found}, but {self.should_be}; the {self.right} is right: {self.why}. {self.remedy}"


#: Fields of the YAML's `endpoint` whose settings are given to an endpoint by writes of their own.
FIELDS: Final = {Kind.RATE_LIMITS_CHANGED: "rate_limits", Kind.PERMISSIONS_CHANGED: "permissions"}
#: What is put right by one update of the endpoint's configuration.
CONFIGURATION: Final = frozenset(
    {Kind.ENDPOINT_GONE, Kind.ENTITY_UNKNOWN, Kind.ENTITY_MISSING, Kind.WEIGHTS_MOVED, Kind.CONFIG_CHANGED}
)


def drift(
    spec: ReleaseSpec,
    should: Expected,
    endpoint: EndpointState | None,
    alias: str | None,
    *,
    lacking: Lacking | None = None,
    telemetry: bool = False,
) -> tuple[Finding, ...]:
    """Everything that has drifted, none where all is as it should be.

    Args:
        spec: The release's YAML.
        should: What the ledger says; no act may be under way.
        endpoint: The endpoint as it is, None where there is none.
        alias: The version that the alias names, None for none.
        lacking: What the endpoint does not have of the YAML's settings, None where nobody could tell.
        telemetry: Whether the inference table is written without a setting of the endpoint's.
    """
    if not should.exists:
        return ()  # the ledger's last word is that there is no endpoint: what is there is none of its business
    return _Comparison(spec, should, endpoint, alias, lacking, telemetry).findings()


@dataclass(frozen=True)
class _Comparison:
    spec: ReleaseSpec
    should: Expected
    endpoint: EndpointState | None
    alias: str | None
    lacking: Lacking | None
    telemetry: bool

    def findings(self) -> tuple[Finding, ...]:
        if self.endpoint is None:
            found = [self._gone(), *self._moved_alias(self.endpoint)]
        else:
            found = [
                *self._entities(self.endpoint),
                *self._weights(self.endpoint),
                *self._settings(self.endpoint),
                *self._moved_alias(self.endpoint),
                *self._inference_table(self.endpoint),
                *self._tags(self.endpoint),
                *self._limits_and_permissions(self.endpoint),
                *self._permission(self.endpoint),
            ]
        return tuple(found)

    @property
    def _last(self) -> str:
        """The ledger's newest act, in words."""
        act = self.should.act
        return f"{act.action} of release {act.release} at {act.at:%Y-%m-%d %H:%M:%S} UTC, which was read back"

    @property
    def _mend(self) -> str:
        return f"Run the job {self.spec.name}_mend, or start a release of what is meant to serve."

    def _words(self, routes: Mapping[str, int], versions: Mapping[str, str]) -> str:
        shares = sorted(((share, name) for name, share in routes.items() if share), reverse=True)
        return " and ".join(f"{share} % to version {versions.get(name, '?')}" for share, name in shares) or "nothing"

    def _gone(self) -> Finding:
        routes = {name: share for name, share in self.should.routes.items() if share}
        known = routes.keys() <= self.should.entities.keys()
        return Finding(
            Kind.ENDPOINT_GONE,
            f"endpoint {self.spec.endpoint_name} does not exist",
            f"by the ledger it serves {self._words(self.should.routes, self.should.versions)}",
            "ledger",
            f"its newest act is {self._last}",
            self._mend
            if known
            else "Create the endpoint by hand: the ledger does not tell how its champion is served.",
            known,
        )

    def _entities(self, now: EndpointState) -> list[Finding]:
        found: list[Finding] = []
        present, model = {entity.name: entity for entity in now.entities}, self.spec.model.registered_name
        for entity in now.entities:
            if entity.serves(model, self.should.versions.get(entity.name)):
                continue
            share = now.routes.get(entity.name, 0)
            of = "" if entity.serves(model, entity.version) else f" of {entity.model}"
            why = f"no release of its brought that there; its newest act is {self._last}"
            if entity.version in self.should.rejected and not of:
                why = f"version {entity.version} was rolled back as rejected; its newest act is {self._last}"
            found.append(
                Finding(
                    Kind.ENTITY_UNKNOWN,
                    f"served entity {entity.name} of version {entity.version}{of} has {share} % of the traffic",
                    "the ledger does not know it",
                    "ledger",
                    why,
                    self._mend,
                )
            )
        for name, version in self.should.versions.items():
            if name in present and present[name].serves(model, version):
                continue
            share, known = self.should.routes.get(name, 0), name in self.should.entities
            by_hand = f"Serve version {version} there again by hand: the ledger does not tell how it was served."
            found.append(
                Finding(
                    Kind.ENTITY_MISSING,
                    f"version {version} is not on the endpoint",
                    f"by the ledger entity {name} serves it with {share} % of the traffic",
                    "ledger",
                    f"its newest act is {self._last}",
                    self._mend if known else by_hand,
                    known,
                )
            )
        return found

    def _weights(self, now: EndpointState) -> list[Finding]:
        routes = {name: share for name, share in now.routes.items() if share}
        if routes == {name: share for name, share in self.should.routes.items() if share}:
            return []
        versions = {entity.name: entity.version for entity in now.entities}
        served = {versions.get(name) for name in routes}
        why = f"its newest act is {self._last}"
        if served == {self.alias} and self.alias != self.should.alias:
            why = f"endpoint and alias agree on version {self.alias}, but no release promoted it; {why}"
        elif self.alias is not None and self.alias == self.should.alias:
            why = f"the alias agrees with it on version {self.alias}, and {why}"
        reachable = {name for name, share in self.should.routes.items() if share}
        mends = reachable <= self.should.entities.keys() | {
            name for name, version in versions.items() if self.should.versions.get(name) == version
        }
        return [
            Finding(
                Kind.WEIGHTS_MOVED,
                f"endpoint {now.name} routes {self._words(routes, versions)}",
                f"the ledger says {self._words(self.should.routes, self.should.versions)}",
                "ledger",
                why,
                self._mend
                if mends
                else "Set the routes by hand: the ledger does not tell how that version was served.",
                mends,
            )
        ]

    def _settings(self, now: EndpointState) -> list[Finding]:
        if now.config_version == self.should.config_version:
            return []
        return [
            Finding(
                Kind.CONFIG_CHANGED,
                f"{' and '.join(changed)} of entity {name} was changed in configuration {now.config_version}",
                f"the ledger's newest act left configuration {self.should.config_version}",
                "ledger",
                f"its newest act is {self._last}, and no act of its made that configuration",
                self._mend,
            )
            for name, changed in changed_settings(self.should, now).items()
        ]

    def _moved_alias(self, now: EndpointState | None) -> list[Finding]:
        if self.alias == self.should.alias:
            return []
        versions = {entity.name: entity.version for entity in now.entities} if now else {}
        serving = {versions.get(name): share for name, share in now.routes.items() if share} if now else {}
        agrees = self.should.alias is not None and serving == {self.should.alias: 100}
        return [
            Finding(
                Kind.ALIAS_MOVED,
                f"alias {self.spec.promotion.alias} names {_version(self.alias)}",
                f"the ledger says {_version(self.should.alias)}",
                "endpoint" if agrees else "ledger",
                (f"it serves version {self.should.alias} with 100 %, as the ledger says: " if agrees else "")
                + f"the newest act is {self._last}",
                self._mend,
            )
        ]

    def _inference_table(self, now: EndpointState) -> list[Finding]:
        if now.inference_table == self.spec.payload_table or (now.inference_table is None and self.telemetry):
            return []
        what = f"logs to {now.inference_table}" if now.inference_table else "has its inference table switched off"
        return [
            Finding(
                Kind.INFERENCE_TABLE_OFF,
                f"endpoint {now.name} {what}",
                f"the gate reads {self.spec.payload_table}",
                "YAML",
                "without rows no release can be judged, and none that is wrong is rolled back",
                f"Run the job {self.spec.name}_mend.",
            )
        ]

    def _tags(self, now: EndpointState) -> list[Finding]:
        wrong = {key: value for key, value in wanted_tags(self.spec).items() if now.tags.get(key) != value}
        if not wrong:
            return []
        return [
            Finding(
                Kind.TAGS_CHANGED,
                f"endpoint {now.name} has {_tag_words({key: now.tags.get(key) for key in wrong})}",
                f"the YAML says {_tag_words(wrong)}",
                "YAML",
                "endpoint.tags, and the tag that says whose endpoint it is, are set by this pipeline",
                f"Run the job {self.spec.name}_mend, or write what is meant into the YAML.",
            )
        ]

    def _limits_and_permissions(self, now: EndpointState) -> list[Finding]:
        if self.lacking is None:
            return []
        lost = {
            Kind.RATE_LIMITS_CHANGED: Lacking({}, self.lacking.rate_limits, ()),
            Kind.PERMISSIONS_CHANGED: Lacking({}, (), self.lacking.permissions),
        }
        return [
            Finding(
                kind,
                f"endpoint {now.name} lacks {what}",
                f"endpoint.{FIELDS[kind]} of the YAML names that",
                "YAML",
                "a release gives the endpoint what it names",
                f"Run the job {self.spec.name}_mend, or write what is meant into the YAML.",
            )
            for kind, what in lost.items()
            if what
        ]

    def _permission(self, now: EndpointState) -> list[Finding]:
        if now.permission_level in ("", "CAN_MANAGE"):
            return []
        return [
            Finding(
                Kind.PERMISSION_LOST,
                f"who runs the releases has {now.permission_level} on endpoint {now.name}",
                "every step and every rollback needs CAN_MANAGE",
                "YAML",
                "it names this endpoint as the one to release to",
                "Run `release-pipeline preflight`, which names the call that gives it back.",
                mends=False,
            )
        ]


def wanted_tags(spec: ReleaseSpec) -> dict[str, str]:
    """The endpoint's tags by the YAML, and the one that says whose it is."""
    return {**spec.endpoint.tags, OWNER_TAG: spec.name}


def changed_settings(should: Expected, now: EndpointState) -> dict[str, list[str]]:
    """Settings that differ from what the ledger tells, by entity."""
    found: dict[str, list[str]] = {}
    for entity in now.entities:
        known = should.entities.get(entity.name)
        if known is None or should.versions.get(entity.name) != entity.version:
            continue
        keys = sorted(key for key, value in known.settings.items() if entity.settings.get(key) != value)
        if keys:
            found[entity.name] = keys
    return found


def _version(version: str | None) -> str:
    return "no version" if version is None else f"version {version}"


def _tag_words(tags: Mapping[str, str | None]) -> str:
    return " and ".join(f"{key}: {value}" if value is not None else f"no {key}" for key, value in sorted(tags.items()))
