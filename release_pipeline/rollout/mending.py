"""Looking for drift in the workspace, and mending it by one verified write with an intent in the ledger."""

from dataclasses import dataclass
from typing import Any

from release_pipeline.errors import NotAllowed, WorkspaceError
from release_pipeline.rollout.drift import CONFIGURATION, FIELDS, Finding, Kind, changed_settings, drift, wanted_tags
from release_pipeline.rollout.endpoint_settings import lacking_of
from release_pipeline.rollout.expected import Expected, expected
from release_pipeline.rollout.ledger import EVENTS, Action, Entry, Phase
from release_pipeline.rollout.parts import Parts
from release_pipeline.rollout.state import ReleaseState, current_release
from release_pipeline.spec import ReleaseSpec
from release_pipeline.workspace.endpoint import EndpointState, ServedEntity


@dataclass(frozen=True)
class DriftLook:
    """One look at what may have drifted.

    Attributes:
        findings: What has, none where all is as it should be, or where nobody could look.
        not_looked: Why there was no look, empty where there was one.
        state: The newest release, None where there is none.
        should: What the ledger says, None where nobody could look.
        endpoint: The endpoint as it was.
        alias: The version that the alias named.
    """

    findings: tuple[Finding, ...] = ()
    not_looked: str = ""
    state: ReleaseState | None = None
    should: Expected | None = None
    endpoint: EndpointState | None = None
    alias: str | None = None


def look_for_drift(parts: Parts, spec: ReleaseSpec) -> DriftLook:
    """Compare endpoint and alias with the ledger and the YAML.

    While an act is under way nothing is compared: what is written at that moment is not drift.

    Raises:
        WorkspaceError: The workspace cannot be asked.
    """
    entries = parts.ledger.read_all()
    state, should = current_release(entries), expected(entries)
    if state is not None and state.open_intent is not None:
        return DriftLook(
            not_looked=f"release {state.release} is in the middle of {state.open_intent.action}", state=state
        )
    if should is None:
        return DriftLook(not_looked=f"no release of {spec.name} has been deployed yet", state=state)
    endpoint, alias = parts.endpoint.read(), parts.registry.version_of_alias(spec.promotion.alias)
    if endpoint is not None and endpoint.updating:
        return DriftLook(not_looked=f"endpoint {endpoint.name} is being updated", state=state)
    if _newest_act(parts.ledger.read()) != _newest_act(entries):
        return DriftLook(not_looked="a release moved meanwhile", state=state)
    # Who has lost CAN_MANAGE may not ask who has which permission; that is a finding by itself.
    manages = endpoint is not None and endpoint.permission_level in ("", "CAN_MANAGE")
    lacking = lacking_of(spec.endpoint, parts.endpoint, endpoint) if endpoint is not None and manages else None
    written = telemetry(parts, entries, endpoint)
    found = drift(spec, should, endpoint, alias, lacking=lacking, telemetry=written)
    return DriftLook(found, "", state, should, endpoint, alias)


def mend(parts: Parts, spec: ReleaseSpec, release: str) -> tuple[DriftLook, DriftLook]:
    """Bring endpoint and alias back to what the ledger says; the look before and the look after.

    Args:
        parts: The workspace.
        spec: The release's YAML.
        release: The newest release: the mend is recorded under it, and changes nothing of where it stands.

    Raises:
        NotAllowed: There is nothing that could be mended, or an act is under way, or another release is the newest.
        Superseded: Somebody else acted meanwhile.
    """
    state = parts.rollout.state()
    if state is None or state.release != release:
        newest = f"the newest is {state.release}" if state else "there is none"
        raise NotAllowed(f"a mend of {spec.name} is recorded under its newest release, and {newest}, not {release}.")
    if state.open_intent is not None and state.open_intent.action is Action.MEND:
        parts.rollout.resume(release)
        mended = look_for_drift(parts, spec)
        return mended, mended
    seen = look_for_drift(parts, spec)
    if seen.state is None or seen.should is None:
        raise NotAllowed(f"{spec.name} cannot be mended now: {seen.not_looked}.")
    after = mend_plan(spec, seen.should, seen.endpoint, seen.findings)
    before = {
        "routes": dict(seen.endpoint.routes) if seen.endpoint else {},
        "alias": {spec.promotion.alias: seen.alias},
        "tags": dict(seen.endpoint.tags) if seen.endpoint else {},
    }
    config = seen.endpoint.config_version if seen.endpoint else 0
    reason = " ".join(finding.sentence for finding in seen.findings if finding.mends)
    parts.rollout.mend(seen.state, before, after, config=config, reason=reason)
    return seen, look_for_drift(parts, spec)


def mend_plan(
    spec: ReleaseSpec, should: Expected, now: EndpointState | None, found: tuple[Finding, ...]
) -> dict[str, Any]:
    """What a mend is to bring about, as the ledger's intent holds it.

    Raises:
        NotAllowed: Nothing of what was found can be mended.
    """
    kinds = {finding.kind for finding in found if finding.mends}
    if not kinds:
        told = " ".join(finding.remedy for finding in found)
        raise NotAllowed(f"{spec.name}: there is nothing to mend. {told}".rstrip())
    after: dict[str, Any] = {"mends": sorted(kinds)}
    if kinds & CONFIGURATION:
        present, model = {entity.name: entity for entity in now.entities} if now else {}, spec.model.registered_name
        missing = [
            name
            for name, version in should.versions.items()
            if name not in present or not present[name].serves(model, version)
        ]
        missing.sort(key=lambda name: -should.routes.get(name, 0))
        lost = {name for name in missing if name not in should.entities}
        if any(should.routes.get(name) for name in lost):
            raise NotAllowed(f"{spec.name}: the ledger does not tell how {', '.join(sorted(lost))} was served.")
        after["routes"] = {name: share for name, share in should.routes.items() if name not in lost}
        after["entities"] = [_as_dict(should.entities[name]) for name in missing if name not in lost]
        after["remove"] = sorted(name for name in present if name not in should.versions)
        if Kind.CONFIG_CHANGED in kinds and now is not None:
            after["settings"] = {
                name: {key: should.entities[name].settings[key] for key in keys}
                for name, keys in changed_settings(should, now).items()
            }
    if Kind.ALIAS_MOVED in kinds:
        after["alias"] = {spec.promotion.alias: should.alias}
    if Kind.TAGS_CHANGED in kinds:
        after["tags"] = wanted_tags(spec)
    for kind, field in FIELDS.items():
        if kind in kinds:
            after[field] = [each.model_dump(exclude_defaults=True) for each in getattr(spec.endpoint, field)]
    if Kind.INFERENCE_TABLE_OFF in kinds:
        after["inference_table"] = spec.payload_table
    return after


def telemetry(parts: Parts, entries: list[Entry], endpoint: EndpointState | None) -> bool:
    """Whether the inference table is written without a setting of the endpoint's, as telemetry does it.

    Only of an endpoint that was there before the first release: one that a release made was given the setting.
    """
    if endpoint is None or endpoint.inference_table is not None or endpoint.logging_off:
        return False
    deployed = [entry for entry in entries if entry.action is Action.DEPLOY and entry.phase is Phase.DONE]
    if any(entry.after.get("champion_version") is None for entry in deployed):
        return False
    try:
        return parts.payload.newest() is not None
    except WorkspaceError:
        return False


def _as_dict(entity: ServedEntity) -> dict[str, Any]:
    return {
        "name": entity.name,
        "model": entity.model,
        "version": entity.version,
        "settings": dict(entity.settings),
    }


def _newest_act(entries: list[Entry]) -> str:
    return next((entry.entry_id for entry in reversed(entries) if entry.action not in EVENTS), "")
