"""Making the endpoint and the registry equal to what an intent says, and reading both back.

Every part skips what already is, so carrying out the same intent twice does no harm.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from release_pipeline.clock import Clock
from release_pipeline.errors import (
    EndpointError,
    NotVerified,
    ReleasePipelineError,
    Superseded,
    UpdateFailed,
    UpdateInProgress,
)
from release_pipeline.rollout.ledger import Action, Entry, Ledger
from release_pipeline.spec import ReleaseSpec
from release_pipeline.workspace.endpoint import Endpoint, EndpointState, InferenceTableName, Progress, ServedEntity
from release_pipeline.workspace.registry import (
    CHALLENGER_ALIAS,
    REJECTED,
    TAG_REASON,
    TAG_RELEASE,
    TAG_STATUS,
    Registry,
)

OWNER_TAG = "release_pipeline"


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
        if rolling_back and not after["routes"]:
            self.endpoint.delete()  # the first release of a model: there is nothing to go back to
            extra["zero_traffic_at"] = self.clock.now().isoformat()
        elif rolling_back:
            try:
                self._ensure(intent, after["routes"], leaving=removed)
            except UpdateInProgress:
                raise
            except EndpointError as error:
                # A challenger that does not come up, or whose version is gone, fails every update that still names it.
                self.progress(f"{error} Going on without the challenger.")
                self._ensure(intent, _without(after["routes"], removed), remove=removed)
            extra["zero_traffic_at"] = self.clock.now().isoformat()
        elif "add" in after:
            self._ensure(intent, after["routes"], add=ServedEntity(**after["add"]))
        else:
            self._ensure(intent, after["routes"], remove=removed)
        for alias, version in after.get("alias", {}).items():
            self._ensure_alias(intent, alias, version, only_from=after.get("rejected"))
        if rolling_back:
            rejected = after["rejected"]
            if self.registry.get(rejected) is not None:  # somebody may have deleted it
                self.registry.tag(rejected, {TAG_STATUS: REJECTED, TAG_REASON: intent.reason})
            if self.registry.version_of_alias(CHALLENGER_ALIAS) == rejected:
                self.registry.delete_alias(CHALLENGER_ALIAS)
            if after["routes"]:
                self._ensure(intent, _without(after["routes"], removed), remove=removed)
        elif intent.action is Action.PROMOTE:
            version = next(iter(after["alias"].values()))
            self.registry.tag(version, {TAG_STATUS: "promoted", TAG_RELEASE: intent.release})
            if self.registry.version_of_alias(CHALLENGER_ALIAS) == version:
                self.registry.delete_alias(CHALLENGER_ALIAS)
        return extra

    def _ensure(
        self,
        intent: Entry,
        routes: Mapping[str, int],
        *,
        add: ServedEntity | None = None,
        remove: Set[str] = frozenset(),
        leaving: Set[str] = frozenset(),
    ) -> None:
        """Make the endpoint serve ``routes``, and read back that it does."""
        now = self.endpoint.read()
        if now is None:
            if add is None:
                raise EndpointError(f"endpoint {self.endpoint.name} does not exist any more.")
            self._fence(intent)
            self.endpoint.create(
                add,
                tags={**self.spec.endpoint.tags, **_experiment(add), OWNER_TAG: self.spec.name},
                inference_table=InferenceTableName(
                    self.spec.model.catalog, self.spec.model.schema_name, self.spec.model.short_name
                ),
            )
            now = self._wait()
        elif now.updating:
            self.progress(f"endpoint {self.endpoint.name}: waiting for the update in progress")
            try:
                now = self._wait(leaving | remove)
            except UpdateFailed:
                now = self.endpoint.read() or now
        if not _equals(now, routes, remove, add):
            entities = [entity for entity in now.entities if entity.name not in remove]
            if add is not None and all(entity.name != add.name for entity in entities):
                entities.append(add)
            known = {entity.name for entity in entities}
            self._fence(intent)
            self.endpoint.update(tuple(entities), {name: share for name, share in routes.items() if name in known})
            now = self._wait(leaving)
        if not _equals(now, routes, remove, add):
            raise NotVerified(
                f"endpoint {self.endpoint.name} was asked for {dict(routes)} but serves {dict(now.routes)}; "
                "another tool may have changed it; look at the endpoint before going on."
            )

    def _fence(self, intent: Entry) -> None:
        """Before a write: the intent must still be the newest row, or a slow run would undo what came after it.

        Raises:
            Superseded: It is not.
        """
        newest = self.ledger.read()[-1]
        if newest.entry_id != intent.entry_id:
            raise Superseded(
                f"release {intent.release}: {newest.action} by {newest.actor} came after this {intent.action}; "
                "nothing more is written by this run."
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
        if named != version:
            self._fence(intent)
            if version is None:
                self.registry.delete_alias(alias)
            else:
                self.registry.set_alias(alias, version)
            named = self.registry.version_of_alias(alias)
        if named != version:
            raise NotVerified(f"alias {alias} of {self.registry.name} was set to {version} but names {named}.")

    def undo(self, intent: Entry, error: ReleasePipelineError) -> None:
        """A deployment that failed leaves nothing behind; other actions left the old configuration serving."""
        if intent.action is not Action.DEPLOY:
            return
        now = self.endpoint.read()
        if intent.after["champion_version"] is None and now is not None and now.tags.get(OWNER_TAG) == self.spec.name:
            self.endpoint.delete()  # made by this release, and nobody is served by it yet
        version = str(intent.after["challenger_version"])
        self.registry.tag(version, {TAG_STATUS: "failed", TAG_REASON: str(error)})
        if self.registry.version_of_alias(CHALLENGER_ALIAS) == version:
            self.registry.delete_alias(CHALLENGER_ALIAS)


def _experiment(entity: ServedEntity) -> dict[str, str]:
    """The tag by which the platform's monitoring finds an agent's traces, as agents.deploy sets it."""
    experiment = entity.settings.get("environment_vars", {}).get("MLFLOW_EXPERIMENT_ID")
    return {"MONITOR_EXPERIMENT_ID": experiment} if experiment else {}


def _without(routes: Mapping[str, int], removed: Set[str]) -> dict[str, int]:
    return {name: share for name, share in routes.items() if name not in removed}


def _equals(now: EndpointState, routes: Mapping[str, int], remove: Set[str], add: ServedEntity | None) -> bool:
    """Whether the endpoint serves exactly ``routes``; a route of 0 % may be left out by the service."""
    shares = {name: share for name, share in now.routes.items() if share}
    names = {entity.name: entity.version for entity in now.entities}
    return (
        shares == {name: share for name, share in routes.items() if share}
        and not remove & names.keys()
        and (add is None or names.get(add.name) == add.version)
    )
