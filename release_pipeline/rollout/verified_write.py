"""Making the endpoint and the registry equal to what an intent says, and reading both back.

Every part skips what already is, so carrying out the same intent twice does no harm.
"""

import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Final

from release_pipeline.clock import Clock
from release_pipeline.errors import (
    EndpointError,
    NoAnswer,
    NotVerified,
    ReleasePipelineError,
    Superseded,
    UpdateFailed,
    UpdateInProgress,
    WorkspaceError,
    WroteLate,
)
from release_pipeline.rollout.alias import refuse_foreign_alias
from release_pipeline.rollout.endpoint_settings import settle
from release_pipeline.rollout.ledger import EVENTS, Action, Entry, Ledger
from release_pipeline.spec import ReleaseSpec
from release_pipeline.workspace.client import RETRY_SECONDS
from release_pipeline.workspace.endpoint import Endpoint, EndpointState, InferenceTableName, Progress, ServedEntity
from release_pipeline.workspace.registry import (
    CHALLENGER,
    CHALLENGER_ALIAS,
    FAILED,
    REJECTED,
    TAG_LIMIT,
    TAG_REASON,
    TAG_RELEASE,
    TAG_STATUS,
    Registry,
)

OWNER_TAG = "release_pipeline"
#: Seconds before each further try of an update that the service did not answer.
_PAUSES: Final = (1, 2, 4, 8)


@dataclass(frozen=True)
class VerifiedWrite:
    """Carries out intents on one endpoint and one registered model."""

    spec: ReleaseSpec
    endpoint: Endpoint
    registry: Registry
    ledger: Ledger
    clock: Clock
    progress: Progress

    def carry_out(self, intent: Entry) -> dict[str, Any]:
        """Bring about what ``intent`` says; returns what the outcome should record beside it.

        Raises:
            UpdateFailed: The endpoint did not activate the new configuration.
            NotVerified: A read-back differs from what was written.
        """
        after, extra = intent.after, {}
        removed = set(after.get("remove", ()))
        rolling_back = intent.action is Action.ROLL_BACK
        back = [ServedEntity(**after["champion_entity"])] if rolling_back and "champion_entity" in after else []
        if rolling_back and not after["routes"]:
            self._ensure_gone(intent)  # the first release of a model: there is nothing to go back to
            extra["zero_traffic_at"] = self.clock.now().isoformat()
        elif rolling_back:
            try:
                self._ensure(intent, after["routes"], add=back, leaving=removed)
            except UpdateInProgress:
                raise
            except EndpointError as error:
                # A challenger that does not come up, or whose version is gone, fails every update that still names it.
                self.progress(f"{error} Going on without the challenger.")
                self._ensure(intent, _without(after["routes"], removed), add=back, remove=removed)
            extra["zero_traffic_at"] = self.clock.now().isoformat()
        elif "add" in after:
            made = _makes_the_endpoint(intent)
            if not made:  # first, so that one that is refused leaves nothing behind
                settle(self.spec.endpoint, self.endpoint, lambda: self._fence(intent))
            self._ensure(intent, after["routes"], add=[ServedEntity(**after["add"])])
            if made:
                settle(self.spec.endpoint, self.endpoint, lambda: self._fence(intent))
            self._challenge_again(intent, after["challenger_version"])
        elif intent.action is Action.MEND:
            self._mend(intent)
        else:
            self._ensure(intent, after["routes"], remove=removed)
        for alias, version in after.get("alias", {}).items():
            self._ensure_alias(intent, alias, version, only_from=after.get("rejected"))
        if rolling_back:
            rejected = after["rejected"]
            self._ensure_tags(intent, rejected, {TAG_STATUS: after.get("status", REJECTED), TAG_REASON: intent.reason})
            self._ensure_alias(intent, CHALLENGER_ALIAS, None, only_from=rejected)
            if after["routes"]:
                self._ensure(intent, _without(after["routes"], removed), add=back, remove=removed)
        elif intent.action is Action.PROMOTE:
            version = next(iter(after["alias"].values()))
            self._ensure_tags(intent, version, {TAG_STATUS: "promoted", TAG_RELEASE: intent.release})
            self._ensure_alias(intent, CHALLENGER_ALIAS, None, only_from=version)
        return extra

    def _mend(self, intent: Entry) -> None:
        """The parts of an endpoint that a mend is about, each read back; the alias follows."""
        after, model = intent.after, self.spec.model
        if "routes" in after:
            entities = [ServedEntity(**entity) for entity in after["entities"]]
            self._ensure(intent, after["routes"], add=entities, remove=set(after["remove"]))
            if "endpoint_gone" in after["mends"]:  # one that is made anew has nobody's permissions
                settle(self.spec.endpoint, self.endpoint, lambda: self._fence(intent))
        if "tags" in after:
            self._fence(intent)
            self.endpoint.set_tags(after["tags"])
        if "rate_limits" in after or "permissions" in after:
            settle(self.spec.endpoint, self.endpoint, lambda: self._fence(intent))
        if "inference_table" in after:
            self._fence(intent)
            self.endpoint.log_to(InferenceTableName(model.catalog, model.schema_name, model.short_name))
        now = self.endpoint.read()
        tags = now.tags if now else {}
        if {key: tags.get(key) for key in after.get("tags", {})} != after.get("tags", {}):
            raise NotVerified(f"endpoint {self.endpoint.name} was given the tags {after['tags']} but has {dict(tags)}.")
        if now is None or after.get("inference_table") not in (None, now.inference_table):
            raise NotVerified(
                f"endpoint {self.endpoint.name} was to log to {after.get('inference_table')}, and does not."
            )

    def _ensure(
        self,
        intent: Entry,
        routes: Mapping[str, int],
        *,
        add: Sequence[ServedEntity] = (),
        remove: Set[str] = frozenset(),
        leaving: Set[str] = frozenset(),
    ) -> None:
        """Make the endpoint serve ``routes``, and read back that it does."""
        now = self.endpoint.read()
        made = now is None
        if now is None:
            if not add:
                raise EndpointError(f"endpoint {self.endpoint.name} does not exist any more.")
            self._fence(intent)
            self.endpoint.create(
                add[0],
                tags={**self.spec.endpoint.tags, **_experiment(add[0]), OWNER_TAG: self.spec.name},
                inference_table=InferenceTableName(
                    self.spec.model.catalog, self.spec.model.schema_name, self.spec.model.short_name
                ),
                rate_limits=self.spec.endpoint.rate_limits,
            )
            now = self._wait()
        elif _makes_the_endpoint(intent) and now.tags.get(OWNER_TAG) != self.spec.name:
            raise EndpointError(f"endpoint {self.endpoint.name} was made by somebody else in the meantime.")
        elif now.updating:
            now = self._waited_out(leaving | remove) or now
        settings = intent.after.get("settings", {})
        began = time.monotonic()
        for pause in (*_PAUSES, None):
            if _equals(now, routes, remove, add, settings):
                break
            try:
                now = self._update(intent, now, routes, add, remove, leaving, check=not made)
                break
            except UpdateInProgress:  # begun between look and write, maybe by another run of the same rollback
                if pause is None or intent.action is not Action.ROLL_BACK:
                    raise
                now = self._waited_out(leaving | remove) or now
            except NoAnswer as error:
                if pause is None or time.monotonic() - began > RETRY_SECONDS:
                    raise
                self.progress(f"{error} Looking again in {pause} s.")
                time.sleep(pause)
                now = self.endpoint.read() or now
                now = self._wait(leaving | remove) if now.updating else now
        if not _equals(now, routes, remove, add, settings):
            raise NotVerified(
                f"endpoint {self.endpoint.name} was asked for {dict(routes)} but serves {dict(now.routes)}; "
                "another tool may have changed it; look at the endpoint before going on."
            )

    def _update(
        self,
        intent: Entry,
        now: EndpointState,
        routes: Mapping[str, int],
        add: Sequence[ServedEntity],
        remove: Set[str],
        leaving: Set[str],
        *,
        check: bool,
    ) -> EndpointState:
        """Ask for the new configuration and wait for it; with ``check`` only over the one that was decided on.

        Raises:
            WroteLate: While the service was asked, another act came after the intent.
            NoAnswer: The service may not have taken it.
        """
        if check:
            self._fence_configuration(intent, now)
        # Another version, or model, under the name of one to add makes way for it.
        wanted = {entity.name: entity for entity in add}
        replaced = {each.name for each in now.entities if not _same(wanted.get(each.name, each), each)}
        settings = intent.after.get("settings", {})
        entities = [
            replace(entity, settings={**entity.settings, **settings.get(entity.name, {})})
            for entity in now.entities
            if entity.name not in remove | replaced
        ]
        served = {entity.name for entity in entities}
        entities += [entity for entity in add if entity.name not in served]
        known = {entity.name for entity in entities}
        gone = sorted(name for name, share in routes.items() if share and name not in known)
        if gone:
            raise EndpointError(
                f"endpoint {self.endpoint.name} does not have the entity {' and '.join(gone)} any more, which is "
                "to get traffic; somebody removed it: serve it there again, or roll the release back."
            )
        self._fence(intent)
        try:
            self.endpoint.update(tuple(entities), {name: share for name, share in routes.items() if name in known})
        except WorkspaceError:  # it may have been taken all the same
            self._fence_again(intent)
            raise
        self._fence_again(intent)
        return self._wait(leaving)

    def _waited_out(self, leaving: Set[str]) -> EndpointState | None:
        """The endpoint once the update in progress, which may be anybody's, has ended, however it did."""
        self.progress(f"endpoint {self.endpoint.name}: waiting for the update in progress")
        try:
            return self._wait(leaving)
        except UpdateFailed:
            return self.endpoint.read()

    def _fence_again(self, intent: Entry) -> None:
        """After a write: an act that came between fence and write did not see it, one that comes later does.

        Raises:
            WroteLate: One came.
        """
        try:
            self._fence(intent)
        except Superseded as error:
            raise WroteLate(str(error)) from error

    def _fence(self, intent: Entry) -> None:
        """Before a write: no act may have come after the intent, or a slow run would undo it.

        Raises:
            Superseded: It is not.
        """
        acts = [entry for entry in self.ledger.read_from(intent.sequence) if entry.action not in EVENTS]
        if not acts or acts[-1].entry_id != intent.entry_id:
            other = f"{acts[-1].action} by {acts[-1].actor}" if acts else "the loss of the ledger's rows"
            raise Superseded(
                f"release {intent.release}: {other} came after this {intent.action}; "
                "nothing more is written by this run."
            )

    def _fence_configuration(self, intent: Entry, now: EndpointState) -> None:
        """Before an update: what an intent was decided on must still be there, or another tool's change would be lost.

        Only a rollback is not held by that: it outranks everything.

        Raises:
            EndpointError: It is not.
        """
        if intent.action is not Action.ROLL_BACK and now.config_version != intent.config_version:
            raise EndpointError(
                f"endpoint {self.endpoint.name} has configuration {now.config_version}, but the {intent.action} of "
                f"release {intent.release} was decided on {intent.config_version}; another tool changed it, and "
                "nothing was written over that."
            )

    def _wait(self, leaving: Set[str] = frozenset()) -> EndpointState:
        return self.endpoint.wait(
            timeout_seconds=self.spec.endpoint.ready_timeout_seconds, progress=self.progress, leaving=leaving
        )

    def _ensure_alias(self, intent: Entry, alias: str, version: str | None, *, only_from: str | None) -> None:
        """Point the alias at ``version`` (None removes it) and read back; with ``only_from``, only away from that."""
        named = self.registry.version_of_alias(alias)
        if only_from is not None and named != only_from:
            return
        if intent.action is Action.PROMOTE and alias in intent.before["alias"]:
            refuse_foreign_alias(self.registry.name, alias, named, intent.before["alias"][alias], version)
        if named != version:
            self._fence(intent)
            if version is None:
                self.registry.delete_alias(alias)
            else:
                self.registry.set_alias(alias, version)
            self._fence_again(intent)
            named = self.registry.version_of_alias(alias)
        if named != version:
            raise NotVerified(f"alias {alias} of {self.registry.name} was set to {version} but names {named}.")

    def _ensure_tags(self, intent: Entry, version: str, tags: Mapping[str, str]) -> None:
        """Set tags on a version and read back that they are there; somebody may have deleted the version."""
        meant = {key: value[:TAG_LIMIT] for key, value in tags.items()}
        found = self.registry.get(version)
        if found is None:
            return
        if not meant.items() <= found.tags.items():
            self._fence(intent)
            self.registry.tag(version, meant)
            self._fence_again(intent)
            found = self.registry.get(version)
        if found is not None and not meant.items() <= found.tags.items():
            raise NotVerified(f"version {version} of {self.registry.name} was tagged {meant}, but has {found.tags}.")

    def _challenge_again(self, intent: Entry, version: str) -> None:
        """Give a version whose deployment has failed before its status again, and the alias if it names none.

        The alias names what was registered last, which may be another release's by now.
        """
        found = self.registry.get(version)
        if found is None or found.tags.get(TAG_STATUS) != FAILED:
            return
        if self.registry.version_of_alias(CHALLENGER_ALIAS) is None:
            self._ensure_alias(intent, CHALLENGER_ALIAS, version, only_from=None)
        # The status last: it tells a run after a kill that there is nothing left to do.
        self._ensure_tags(intent, version, {TAG_REASON: "", TAG_STATUS: CHALLENGER})

    def _ensure_gone(self, intent: Entry) -> None:
        """Delete the endpoint, if it is this model's, and read back that it is gone."""
        now = self.endpoint.read()
        if now is not None and now.tags.get(OWNER_TAG) == self.spec.name:
            self._fence(intent)
            self.endpoint.delete()
            if self.endpoint.read() is not None:
                raise NotVerified(f"endpoint {self.endpoint.name} was deleted, and is still there.")

    def undo(self, intent: Entry, error: ReleasePipelineError) -> None:
        """A deployment that failed leaves nothing behind; other actions left the old configuration serving."""
        if intent.action is not Action.DEPLOY:
            return
        self._fence(intent)
        now = self.endpoint.read()
        if intent.after["champion_version"] is None and now is not None and now.tags.get(OWNER_TAG) == self.spec.name:
            self.endpoint.delete()  # made by this release, and nobody is served by it yet
        version = str(intent.after["challenger_version"])
        self.registry.tag(version, {TAG_STATUS: FAILED, TAG_REASON: str(error)})
        if self.registry.version_of_alias(CHALLENGER_ALIAS) == version:
            self.registry.delete_alias(CHALLENGER_ALIAS)


def _makes_the_endpoint(intent: Entry) -> bool:
    """Whether there was no endpoint when the intent was written."""
    return intent.action is Action.DEPLOY and not intent.after["champion_version"]


def _experiment(entity: ServedEntity) -> dict[str, str]:
    """The tag by which the platform's monitoring finds an agent's traces, as agents.deploy sets it."""
    experiment = entity.settings.get("environment_vars", {}).get("MLFLOW_EXPERIMENT_ID")
    return {"MONITOR_EXPERIMENT_ID": experiment} if experiment else {}


def _without(routes: Mapping[str, int], removed: Set[str]) -> dict[str, int]:
    return {name: share for name, share in routes.items() if name not in removed}


def _equals(
    now: EndpointState,
    routes: Mapping[str, int],
    remove: Set[str],
    add: Sequence[ServedEntity],
    settings: Mapping[str, Mapping[str, Any]],
) -> bool:
    """Whether the endpoint serves exactly ``routes``; a route of 0 % may be left out by the service."""
    shares = {name: share for name, share in now.routes.items() if share}
    served = {entity.name: entity for entity in now.entities}
    changed = any(
        entity.settings.get(key) != value
        for entity in now.entities
        for key, value in settings.get(entity.name, {}).items()
    )
    return (
        shares == {name: share for name, share in routes.items() if share}
        and not remove & served.keys()
        and all(_same(entity, served.get(entity.name)) for entity in add)
        and not changed
    )


def _same(entity: ServedEntity, served: ServedEntity | None) -> bool:
    return served is not None and served.serves(entity.model, entity.version)
