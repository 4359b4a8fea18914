"""A person's approval of a promotion: in the ledger, and as a tag of the version, where others look for it."""

from dataclasses import dataclass

from release_pipeline.errors import NotAllowed, RegistryError
from release_pipeline.rollout.clearance import APPROVED
from release_pipeline.rollout.ledger import Entry
from release_pipeline.rollout.parts import Parts
from release_pipeline.spec import ReleaseSpec


@dataclass(frozen=True)
class Approval:
    """What came of it.

    Attributes:
        entry: The row of the ledger that counts, an earlier one where the release had been approved before.
        version: The version that was approved.
        untagged: Why the version could not be tagged, empty where it was. The row in the ledger is enough.
    """

    entry: Entry
    version: str
    untagged: str = ""


def approve(parts: Parts, spec: ReleaseSpec, release: str, reason: str) -> Approval:
    """Approve the promotion of ``release``; twice is once.

    Raises:
        NotAllowed: The release is not on its way to a promotion.
    """
    entry = parts.events.approve(release, reason)
    state = parts.rollout.state(release)
    if state is None:
        raise NotAllowed(f"release {release} of {spec.name} is not in {parts.ledger.table}.")
    tag, untagged = spec.promotion.approval_tag, ""
    try:
        # Who approved first is who approved: a tag never says other than the ledger.
        parts.registry.tag(state.challenger_version, {tag: APPROVED, f"{tag}_by": entry.actor})
    except RegistryError as error:
        untagged = str(error)
    return Approval(entry, state.challenger_version, untagged)
