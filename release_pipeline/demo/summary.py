"""The end of the demo: a table per release, the ledger, and whether everything agrees."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.table import Table

from release_pipeline.demo.load import Answer
from release_pipeline.demo.story import Ended
from release_pipeline.rollout.ledger import Action, Entry, Phase
from release_pipeline.rollout.parts import Parts
from release_pipeline.rollout.state import Stage
from release_pipeline.spec import ReleaseSpec


@dataclass(frozen=True)
class Impact:
    """What users saw of one release.

    Attributes:
        answered: Answers by the release's version.
        bad: Of those, how many were errors.
        first_bad_to_zero: Seconds from its first bad answer to its last moment of traffic, None without bad answers.
    """

    answered: int
    bad: int
    first_bad_to_zero: float | None


def impact(ended: Ended, answers: Sequence[Answer], entries: Sequence[Entry]) -> Impact:
    """What users saw of ``ended``."""
    entity = ended.observed.release.entities["challenger"]
    own = [answer for answer in answers if answer.served_entity == entity]
    bad = [answer for answer in own if answer.status >= 400]
    zero = zero_traffic_at(ended.release, entries)
    first = min((answer.sent_at for answer in bad), default=None)
    return Impact(len(own), len(bad), zero.timestamp() - first if zero and first is not None else None)


def zero_traffic_at(release: str, entries: Sequence[Entry]) -> datetime | None:
    """When the rollback of ``release`` had verified that it has no traffic any more."""
    for entry in entries:
        if entry.release == release and entry.action is Action.ROLL_BACK and entry.phase is Phase.DONE:
            return datetime.fromisoformat(entry.after["zero_traffic_at"])
    return None


def release_table(story: Sequence[Ended], answers: Sequence[Answer], entries: Sequence[Entry]) -> Table:
    """One row per release: version, steps, requests per arm, verdicts with their numbers, what users saw."""
    table = Table(title="Releases", show_lines=True)
    for column in ("release", "version", "steps", "requests seen\n(challenger / champion)", "verdicts", "users"):
        table.add_column(column, overflow="fold")
    for ended in story:
        state, seen = ended.observed.release, impact(ended, answers, entries)
        totals = [ended.observed.evidence.metric(metric.name).total() for metric in ended.observed.verdict.metrics]
        most = max(totals, key=lambda arms: arms.challenger_n)
        verdicts = [
            f"{entry.action} {entry.after.get('traffic_percent', '')} %: {entry.reason}"
            for entry in entries
            if entry.release == ended.release
            and entry.phase is Phase.DONE
            and entry.action in (Action.SET_TRAFFIC, Action.PROMOTE, Action.ROLL_BACK)
        ]
        users = f"{seen.bad} bad answers of {seen.answered}"
        if state.stage is Stage.ROLLED_BACK and seen.first_bad_to_zero is not None:
            users += f"\n{seen.first_bad_to_zero:.0f} s from the first bad answer to zero traffic"
        table.add_row(
            f"{ended.chapter.title}\n{ended.release}\n{state.stage} after {ended.seconds:.0f} s",
            state.challenger_version,
            " → ".join(f"{step.traffic_percent} %" for step in state.steps)
            + (" → 100 %" if state.stage is Stage.PROMOTED and state.champion_version else "")
            + (" → 0 %" if state.stage is Stage.ROLLED_BACK else ""),
            f"{most.challenger_n} / {most.champion_n}",
            "\n".join(verdicts),
            users,
        )
    return table


def story_dict(
    story: Sequence[Ended], answers: Sequence[Answer], entries: Sequence[Entry], wrong: Sequence[str]
) -> dict[str, Any]:
    """The end for machines: each release, what users saw of it, and what is not as it must be."""
    releases = []
    for ended in story:
        state, seen = ended.observed.release, impact(ended, answers, entries)
        releases.append(
            {
                "release": ended.release,
                "version": state.challenger_version,
                "stage": state.stage.value,
                "seconds": round(ended.seconds, 1),
                "answers": seen.answered,
                "bad_answers": seen.bad,
                "seconds_from_first_bad_answer_to_zero_traffic": seen.first_bad_to_zero,
            }
        )
    return {"releases": releases, "answers": len(answers), "wrong": list(wrong)}


def ledger_table(entries: Sequence[Entry]) -> Table:
    """The ledger as it stands."""
    table = Table(title="Ledger")
    for column in ("#", "at (UTC)", "release", "action", "phase", "traffic", "config", "evidence", "reason"):
        table.add_column(column, overflow="ellipsis", no_wrap=True, max_width=60)
    for entry in entries:
        traffic = entry.after.get("traffic_percent")
        table.add_row(
            str(entry.sequence),
            entry.at.strftime("%H:%M:%S"),
            entry.release,
            entry.action,
            entry.phase,
            "" if traffic is None else f"{traffic} %",
            str(entry.config_version),
            entry.evidence_digest[:8],
            entry.reason,
        )
    return table


def problems(story: Sequence[Ended], answers: Sequence[Answer], parts: Parts, spec: ReleaseSpec) -> list[str]:
    """Everything that is not as it must be at the end; empty where all is well."""
    found = []
    live_stages = (Stage.PROMOTED, Stage.FINISHED)  # its bake may have ended by now
    live = [ended for ended in story if ended.observed.release.stage in live_stages][-1].observed.release
    rejected = story[-1].observed.release
    alias = parts.registry.version_of_alias(spec.promotion.alias)
    endpoint = parts.endpoint.read()
    served = {}
    if endpoint is not None:
        served = {entity.version: endpoint.routes.get(entity.name, 0) for entity in endpoint.entities}
    if alias != live.challenger_version:
        found.append(f"alias {spec.promotion.alias} names {alias}, the ledger says {live.challenger_version}")
    if served.get(live.challenger_version) != 100 or rejected.challenger_version in served:
        found.append(f"the endpoint serves {served}, the ledger says {live.challenger_version} at 100 %")
    version = parts.registry.get(rejected.challenger_version)
    tags = dict(version.tags) if version else {}
    if tags.get("release_pipeline.status") != "rejected" or not tags.get("release_pipeline.reason"):
        found.append(f"version {rejected.challenger_version} is not tagged rejected with a reason")
    own_bug = rejected.entities["challenger"]
    failed = [answer for answer in answers if answer.status != 200 and answer.served_entity != own_bug]
    if failed:
        found.append(f"{len(failed)} requests of users failed for another reason than release 3's own bug")
    if not answers:
        found.append("no user asked anything")
    return found
