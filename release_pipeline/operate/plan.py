"""What a release of a YAML would change, asset by asset, and what stands in its way; nothing is changed to know it."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from release_pipeline.assets.deployed_endpoint import served_entity
from release_pipeline.assets.predeploy_predict import EXAMPLES
from release_pipeline.errors import EvaluationSetError, NotAllowed
from release_pipeline.evaluation.dataset import Example, read_dataset
from release_pipeline.rollout.deployment import other_endpoint, planned
from release_pipeline.rollout.endpoint_settings import lacking
from release_pipeline.rollout.parts import Parts
from release_pipeline.rollout.state import Stage, current_release, paused, queued
from release_pipeline.spec import ReleaseSpec
from release_pipeline.workspace.registry import CHALLENGER_ALIAS, REJECTED, TAG_DIGEST, TAG_REASON, TAG_STATUS, Version
from release_pipeline.workspace.tracking import release_digest


@dataclass(frozen=True)
class Planned:
    """What one asset would do.

    Attributes:
        asset: Its name.
        sentence: What it would change.
        refused: Whether it would end the release instead.
    """

    asset: str
    sentence: str
    refused: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The same for machines."""
        return {"asset": self.asset, "sentence": self.sentence, "refused": self.refused}


def plan(parts: Parts, spec: ReleaseSpec, folder: Path) -> list[Planned]:
    """What a release that is started now would do, in the order of its assets.

    Args:
        parts: The parts of the model's releases; they are only read.
        spec: The release's YAML.
        folder: The folder that the YAML's paths are relative to.

    Raises:
        WorkspaceError: The workspace did not say what is there.
    """
    versions = parts.registry.versions()
    version = str(int(versions[0].version) + 1) if versions else "1"
    champion = parts.registry.version_of_alias(spec.promotion.alias)
    return [
        _logged(spec, folder, versions, champion),
        *_tried(spec, folder, champion),
        Planned(
            "registered_version",
            f"Version {version} of {spec.model.registered_name} is registered, and the alias "
            f"{CHALLENGER_ALIAS} names it.",
        ),
        _deployed(parts, spec, version, champion),
        _ramp(spec, champion),
        _promoted(spec, version, champion),
    ]


def _logged(spec: ReleaseSpec, folder: Path, versions: list[Version], champion: str | None) -> Planned:
    config: Any = spec.model.config or None
    digest = release_digest(
        spec,
        source=folder / spec.model.source,
        config=folder / config if isinstance(config, str) else config,
        folder=folder,
    )
    alike = [each for each in versions if each.tags.get(TAG_DIGEST) == digest]
    rejected = next((each for each in alike if each.tags.get(TAG_STATUS) == REJECTED), None)
    if rejected is not None:
        reason = rejected.tags.get(TAG_REASON, "no reason recorded")
        return Planned(
            "logged_model",
            f"The same code, configuration and requirements (digest {digest}) were rejected as version "
            f"{rejected.version}: {reason} Change the model, or force it in the run configuration.",
            refused=True,
        )
    known = "".join(f", which is the champion's ({each.version})" for each in alike if each.version == champion)
    if alike and not known:
        known = f", as of version {alike[0].version}"
    return Planned("logged_model", f"The content has the digest {digest}{known or ', which no version has'}.")


def _tried(spec: ReleaseSpec, folder: Path, champion: str | None) -> Iterator[Planned]:
    """The evaluation, and the prediction in a clean environment."""
    part, examples = spec.evaluation, list[Example]()
    try:
        if part.dataset is not None:
            examples = read_dataset(folder / part.dataset)
            bounds = {name: f" at least {least:g}" for name, least in part.thresholds.items()}
            scored = ", ".join(f"{name}{bounds.get(name, '')}" for name in part.scorers)
            beside = f", beside version {champion} on the same" if champion and part.compare_with_champion else ""
            yield Planned("evaluation", f"{len(examples)} examples are answered{beside}, and scored by {scored}.")
        else:
            yield Planned("evaluation", "Nothing is evaluated: evaluation.dataset is not set.")
    except EvaluationSetError as error:
        yield Planned("evaluation", str(error), refused=True)
    asked = min(len(examples), EXAMPLES) + bool(spec.model.input_example)
    kinds = {
        "uv": "an environment that uv builds of the logged requirements",
        "local": "this interpreter",
    }
    what = f"loads and answers {asked} example requests" if asked else "loads; there is no example request to ask it"
    yield Planned("predeploy_predict", f"The model {what}, in {kinds[spec.predeploy_predict.environment]}.")


def _deployed(parts: Parts, spec: ReleaseSpec, version: str, champion: str | None) -> Planned:
    entries, now = parts.ledger.read(), parts.endpoint.read()
    said = list(_in_the_way(spec, entries))
    other = other_endpoint(entries, parts.endpoint)
    busy = current_release(entries)
    refused = bool(other) or (
        busy is not None and busy.stage is not Stage.PROMOTED and busy.active and spec.ramp.second_release == "refuse"
    )
    if other:
        said.append(other)
    if now is None:
        said.append(f"Endpoint {spec.endpoint_name} is created, and version {version} serves all of its requests.")
    else:
        said.append(f"Version {version} is added to endpoint {spec.endpoint_name} at 0 %, beside version {champion}.")
        if missing := lacking(spec.endpoint, parts.endpoint):
            said.append(f"The endpoint gets {missing}.")
    if busy is None or not busy.active:
        try:
            planned(spec, now, champion, version, served_entity(spec, version, "0"))
        except NotAllowed as error:
            return Planned("deployed_endpoint", f"It would be refused: {error}", refused=True)
    return Planned("deployed_endpoint", " ".join(said), refused=refused)


def _in_the_way(spec: ReleaseSpec, entries: Any) -> Iterator[str]:
    busy, waiting = current_release(entries), queued(entries)
    if busy is not None and busy.active:
        what = {"refuse": "is refused", "queue": "waits for its end", "replace": "rolls it back and takes its place"}
        if busy.stage is Stage.PROMOTED and spec.ramp.second_release != "queue":
            what = dict.fromkeys(what, "ends its bake")
        yield (
            f"Release {busy.release} is under way ({busy.stage.replace('_', ' ')}): a second one "
            f"{what[spec.ramp.second_release]}."
        )
    if waiting:
        yield f"{len(waiting)} more wait in the queue."
    if (pause := paused(entries)) is not None:
        yield f"Everything that moves by itself is paused by {pause.actor}."


def _ramp(spec: ReleaseSpec, champion: str | None) -> Planned:
    if champion is None:
        return Planned("canary_traffic", "There is no ramp: without a champion the release serves everybody at once, "
                       "and the gate has absolute bounds only.")  # fmt: skip
    steps, shortest = ", ".join(map(str, spec.ramp.steps)), timedelta(seconds=spec.ramp.min_step_seconds)
    return Planned(
        "canary_traffic",
        f"It gets {steps} % of the traffic, each for {shortest} (h:mm:ss) at least and until the gate is sure; "
        f"harm leads to a {spec.ramp.on_harm}. How long that takes: release-pipeline power.",
    )


def _promoted(spec: ReleaseSpec, version: str, champion: str | None) -> Planned:
    how = spec.promotion
    by = ["by the gate sensor as soon as the gate has passed"] if how.automatic else []
    by += [f"at {how.schedule} ({how.timezone}) if the gate has passed"] if how.schedule else []
    said = f"The alias {how.alias} moves from {champion or 'nothing'} to {version}, {' or '.join(by) or 'by a person'}"
    said += f", within {', '.join(how.windows)} ({how.timezone})" if how.windows else ""
    said += ", after a person's approval" if how.approval == "required" else ""
    bake = timedelta(seconds=how.bake_seconds)
    said += f". Version {champion} stays at 0 % for {bake} (h:mm:ss), then it is removed" if champion else ""
    return Planned("promoted_alias", f"{said}.")
