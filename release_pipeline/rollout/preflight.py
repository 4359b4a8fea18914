"""What must be so before a release touches anything: asked of the workspace, all of it, and told all at once.

A check has one of three outcomes. What is wrong fails with a sentence that has the grant, or the call, that would mend
it. What cannot be told, because the workspace has no API for it or may not say, is a warning with its reason: it is
never taken as right, and it never blocks.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Final

from release_pipeline.errors import EndpointHidden, Unanswered, UpdateFailed, UpdateInProgress, WorkspaceError
from release_pipeline.rollout.deployment import other_endpoint
from release_pipeline.rollout.ledger import Entry
from release_pipeline.rollout.parts import Parts
from release_pipeline.rollout.preflight_resources import resource_problem
from release_pipeline.rollout.state import Stage, current_release
from release_pipeline.rollout.verified_write import OWNER_TAG
from release_pipeline.spec import ReleaseSpec
from release_pipeline.workspace.endpoint import EndpointState
from release_pipeline.workspace.permissions import Permissions, Principal, Securable, lacking, permission_call

_MANAGES: Final = "CAN_MANAGE"
#: The check that nobody else is updating the endpoint.
UPDATE: Final = "update"


class Outcome(StrEnum):
    """What came of one check."""

    PASSED = "passed"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class Check:
    """One check: its name, its outcome, and a sentence: what is wrong, else what was found, or nothing."""

    name: str
    outcome: Outcome
    sentence: str = ""


@dataclass(frozen=True)
class Preflight:
    """All checks of one look."""

    checks: tuple[Check, ...]

    def of(self, outcome: Outcome) -> list[Check]:
        """The checks with one outcome."""
        return [check for check in self.checks if check.outcome is outcome]

    @property
    def failed(self) -> bool:
        """Whether anything failed."""
        return bool(self.of(Outcome.FAILED))

    def __str__(self) -> str:
        """Every failure and every warning, a line each."""
        failed, warned = self.of(Outcome.FAILED), self.of(Outcome.WARNING)
        head = f"preflight: {len(failed)} of {len(self.checks)} checks failed, {len(warned)} could not be made."
        return "\n".join([head, *(f"{check.outcome}: {check.name}: {check.sentence}" for check in (*failed, *warned))])


def preflight(parts: Parts, spec: ReleaseSpec, release: str | None = None) -> Preflight | None:
    """Ask everything that a release of ``spec`` needs; None for a release that has begun, which is to be finished.

    Args:
        parts: The workspace.
        spec: The release's YAML.
        release: The release's key where there is one already.

    Raises:
        WorkspaceError: The endpoint or the ledger cannot be read.
    """
    entries = parts.ledger.read(release)
    mine = current_release(entries, release) if release else None
    if mine is not None and (mine.open_intent is not None or mine.stage is not Stage.FAILED):
        return None
    endpoint, hidden = None, ""
    try:
        endpoint = parts.endpoint.read()
    except EndpointHidden as error:
        hidden = str(error)
    elsewhere = partial(other_endpoint, entries, parts.endpoint)
    champion = partial(parts.registry.version_of_alias, spec.promotion.alias)
    looked = _Look(
        spec,
        Permissions(parts.workspace),
        endpoint,
        entries,
        release,
        parts.payload.newest,
        elsewhere,
        champion,
        hidden,
    )
    return Preflight(tuple(looked.checks()))


def await_update(parts: Parts, spec: ReleaseSpec, release: str) -> None:
    """Wait for an update of the endpoint that is somebody else's, for ``endpoint.ready_timeout_seconds`` at most.

    What came of it is for :func:`preflight` to tell. A release that has begun waits by itself.

    Raises:
        WorkspaceError: The endpoint or the ledger cannot be read.
    """
    try:
        now = parts.endpoint.read()
    except EndpointHidden:
        return
    if now is None or not _foreign_update(now, parts.ledger.read(release)):
        return
    parts.rollout.progress(f"endpoint {now.name}: waiting for an update that is not this release's")
    with suppress(UpdateFailed, UpdateInProgress):
        parts.endpoint.wait(timeout_seconds=spec.endpoint.ready_timeout_seconds, progress=parts.rollout.progress)


def _foreign_update(endpoint: EndpointState, entries: Sequence[Entry]) -> bool:
    """Whether the endpoint is being updated, and no release is on its way there.

    Where one is, ramp.second_release says what becomes of the two; one in its bake only makes way.
    """
    newest = current_release(entries)
    on_its_way = newest is not None and newest.active and newest.stage is not Stage.PROMOTED
    return endpoint.updating and not on_its_way and (newest is None or newest.open_intent is None)


@dataclass(frozen=True)
class _Look:
    spec: ReleaseSpec
    permissions: Permissions
    endpoint: EndpointState | None
    entries: Sequence[Entry]
    release: str | None
    newest_row: Callable[[], datetime | None]
    elsewhere: Callable[[], str]
    champion: Callable[[], str | None]
    hidden: str = ""

    def checks(self) -> Iterable[Check]:
        try:
            me = self.permissions.me()
        except Unanswered as error:
            me, reason = None, str(error)
        asked: list[tuple[str, Callable[[Principal], str]]] = [
            ("USE CATALOG", lambda who: self._missing("USE_CATALOG", self._catalog, who)),
            ("USE SCHEMA", lambda who: self._missing("USE_SCHEMA", self._schema, who)),
            ("model", self._model),
            ("ledger", lambda who: self._table(self.spec.ledger_table, who)),
            ("evidence", lambda who: self._table(self.spec.evidence_table, who)),
            ("rows", self._reads),
            ("endpoint", self._manages),
        ]
        for name, check in asked:
            yield self._check(name, partial(check, me)) if me else Check(name, Outcome.WARNING, f"{reason}.")
        for name, problem in (
            ("endpoint creator", self._creator),
            ("endpoint owner", self._owner),
            ("champion", self._champion),
            ("inference table", self._inference_table),
            (UPDATE, self._update),
        ):
            yield Check(name, Outcome.WARNING, self.hidden) if self.hidden else self._check(name, problem)
        if self.spec.endpoint.permissions:
            yield self._check("permissions", self._given)
        yield from self._resources(me)

    def _check(self, name: str, problem: Callable[[], str]) -> Check:
        try:
            sentence = problem()
        except Unanswered as error:
            return Check(name, Outcome.WARNING, f"{error}.")
        return Check(name, Outcome.FAILED if sentence else Outcome.PASSED, sentence)

    @property
    def _catalog(self) -> Securable:
        return Securable("CATALOG", self.spec.model.catalog)

    @property
    def _schema(self) -> Securable:
        return Securable("SCHEMA", f"{self.spec.model.catalog}.{self.spec.model.schema_name}")

    def _missing(self, privilege: str, where: Securable, who: Principal, why: str = "") -> str:
        """What is wrong with one privilege, empty where it is held."""
        held = self.permissions.holds(privilege, where, who)
        if held is None:
            return f"{where.type.lower()} {where.name} does not exist; make it, or correct the name in the YAML."
        return "" if held else lacking([(privilege, where)], who, why)

    def _model(self, who: Principal) -> str:
        model = Securable("FUNCTION", self.spec.model.registered_name)
        held = self.permissions.holds("MANAGE", model, who)
        if held is None:
            return self._missing("CREATE_MODEL", self._schema, who, "which registering the first version needs")
        why = f"without being its owner, which setting the alias {self.spec.promotion.alias} needs"
        return "" if held else lacking([("MANAGE", model)], who, why)

    def _table(self, table: str, who: Principal) -> str:
        if not self.permissions.exists(table):
            return self._missing("CREATE_TABLE", self._schema, who, f"which making {table} needs")
        where = Securable("TABLE", table)
        missing = [each for each in ("SELECT", "MODIFY") if not self.permissions.holds(each, where, who)]
        return lacking([(each, where) for each in missing], who)

    def _reads(self, who: Principal) -> str:
        """Tables that the gate only reads: the inference table, once it is there, and those of truth."""
        tables = [self.spec.payload_table, *(each.table for each in self.spec.gate.metrics if each.table)]
        there = [Securable("TABLE", table) for table in dict.fromkeys(tables) if self.permissions.exists(table)]
        return lacking([("SELECT", where) for where in there if not self.permissions.holds("SELECT", where, who)], who)

    def _manages(self, who: Principal) -> str:
        if self.hidden:
            name = self.spec.endpoint_name
            return (
                f"{who.name} may not see endpoint {name} and needs {_MANAGES} on it; whoever has that is told its id "
                f"by GET /api/2.0/serving-endpoints/{name}, and gives it: "
            ) + permission_call("serving-endpoints", "<id>", who, _MANAGES)
        now = self.endpoint
        level = now.permission_level if now else _MANAGES
        if now is None or level == _MANAGES:
            return ""
        levels = {level} if level else self.permissions.levels("serving-endpoints", now.id, who) or set()
        if _MANAGES in levels:
            return ""
        held = " and ".join(sorted(levels)) or "no permission"
        return f"{who.name} has {held} on endpoint {now.name} and needs {_MANAGES}; " + permission_call(
            "serving-endpoints", now.id, who, _MANAGES
        )

    def _creator(self) -> str:
        now = self.endpoint
        if now is None or not now.creator or self.permissions.principal(now.creator) is not None:
            return ""
        return (
            f"{now.creator}, who created endpoint {now.name}, does not exist any more, so that its updates fail with "
            f"PERMISSION_DENIED; make the endpoint anew as somebody who stays: DELETE /api/2.0/serving-endpoints/"
            f"{now.name} at a quiet time, then the job {self.spec.name}_mend at once."
        )

    def _champion(self) -> str:
        alias, model = self.spec.promotion.alias, self.spec.model.registered_name
        try:
            version = self.champion() if self.endpoint is None else None
        except WorkspaceError as error:  # who may not see the model is told by the other checks
            raise Unanswered(str(error).rstrip(".")) from error
        if version is None:
            return ""
        return (
            f"alias {alias} of {model} names version {version}, but endpoint {self.spec.endpoint_name} does not exist; "
            f"run the job {self.spec.name}_mend, which makes it again as the ledger says, or delete the alias to begin "
            "anew without a champion."
        )

    def _owner(self) -> str:
        now, name, model = self.endpoint, self.spec.name, self.spec.model.registered_name
        if elsewhere := self.elsewhere():
            return elsewhere
        if now is None:
            return ""
        owner = now.tags.get(OWNER_TAG)
        if owner not in (None, name):
            return (
                f"endpoint {now.name} belongs to the releases of {owner}, by its tag {OWNER_TAG}; give {name} an "
                f"endpoint.name of its own, or set the tag to {name} if {owner} is no more."
            )
        foreign = sorted({entity.model for entity in now.entities} - {model})
        if foreign:
            return (
                f"endpoint {now.name} serves {', '.join(foreign)} beside or instead of {model}; give {name} an "
                "endpoint.name of its own, or take the other entities off the endpoint."
            )
        return ""

    def _given(self) -> str:
        """Groups are left to the service: whoever may deploy may not always list them."""
        told = [each.principal[1] for each in self.spec.endpoint.permissions if not each.group]
        gone = [name for name in told if self.permissions.principal(name) is None]
        if not gone:
            return ""
        return (
            f"endpoint.permissions names {' and '.join(gone)}, whom this workspace does not know, so that the service "
            "would refuse it; correct the YAML."
        )

    def _inference_table(self) -> str:
        now, table = self.endpoint, self.spec.payload_table
        if now is None or now.inference_table == table:
            return ""
        catalog, schema = self.spec.model.catalog, self.spec.model.schema_name
        names = {"catalog_name": catalog, "schema_name": schema, "table_name_prefix": self.spec.model.short_name}
        wanted = json.dumps({"inference_table_config": {**names, "enabled": True}})
        if now.inference_table is None and not now.logging_off and (newest := self._newest_row()):
            raise Unanswered(
                f"endpoint {now.name} names no inference table, but {table} has rows, the newest of "
                f"{newest:%Y-%m-%d %H:%M} UTC, as where telemetry writes it"
            )
        what = f"logs to {now.inference_table}, not to {table}" if now.inference_table else "has no inference table"
        return (
            f"endpoint {now.name} {what}, so the gate would see nothing; PUT /api/2.0/serving-endpoints/{now.name}"
            f"/ai-gateway with its other settings and {wanted}."
        )

    def _newest_row(self) -> datetime | None:
        """When the newest row of the inference table was asked for; None where it has none, or cannot be read."""
        try:
            return self.newest_row()
        except WorkspaceError:
            return None

    def _update(self) -> str:
        if self.endpoint is None or not _foreign_update(self.endpoint, self.entries):
            return ""
        return f"endpoint {self.endpoint.name} is being updated by somebody else; wait for the end, then try again."

    def _resources(self, me: Principal | None) -> Iterable[Check]:
        """The model's resources: whoever created the endpoint must be able to use them, for the model acts as it."""
        declared = self.spec.model.resources
        creator = self.endpoint.creator if self.endpoint else ""
        who: Principal | None = me
        reason = "who creates the endpoint is not known"
        if declared and creator and (me is None or creator != me.name):
            try:
                who = self.permissions.principal(creator)
                reason = f"{creator}, who created the endpoint, does not exist any more"
            except Unanswered:
                who = Principal(creator)  # its groups are not known: only what it was given itself counts
        for resource in declared:
            name = f"{resource.type} {resource.name}"
            if who is None:
                yield Check(name, Outcome.WARNING, f"whether it may be used cannot be told: {reason}.")
            else:
                yield self._check(name, partial(resource_problem, self.permissions, resource, who, who == me))
