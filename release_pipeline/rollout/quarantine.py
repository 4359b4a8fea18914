"""Quarantine: neither a version that was rejected nor the same content under another number gets traffic again.

It is asked where a model is logged and again where it is deployed: its like may have been rejected in between.
"""

from release_pipeline.errors import NotAllowed, Quarantined
from release_pipeline.workspace.registry import (
    REJECTED,
    TAG_DIGEST,
    TAG_FORCED,
    TAG_REASON,
    TAG_STATUS,
    Registry,
    Version,
)


def rejected_like(registry: Registry, digest: str) -> list[Version]:
    """The rejected versions with this digest of code, configuration and requirements, newest first.

    Raises:
        RegistryError: The registry does not say.
    """
    return [
        version
        for version in registry.versions()
        if version.tags.get(TAG_DIGEST) == digest and version.tags.get(TAG_STATUS) == REJECTED
    ]


def refuse_content(registry: Registry, digest: str, *, forced: str = "", remedy: str) -> None:
    """Refuse content that was rejected, unless a person has forced it past every version that was.

    Args:
        registry: The model's versions.
        digest: Of the content.
        forced: Numbers of the rejected versions that a person knew of, as the tag holds them, with commas.
        remedy: How to force it.

    Raises:
        Quarantined: It was rejected; the sentence names the version and its reason.
    """
    for version in rejected_like(registry, digest):
        if version.version not in forced.split(","):
            raise Quarantined(
                f"the same code, configuration and requirements (digest {digest}) were rejected as version "
                f"{version.version}: {version.tags.get(TAG_REASON, 'no reason recorded')} Change the model, or "
                f"{remedy}."
            )


def refuse_rejected(registry: Registry, release: str, version: str) -> None:
    """Refuse to deploy a version that was rejected, or one whose like was.

    Raises:
        NotAllowed: The version itself was.
        Quarantined: Another one of the same content was, and nobody has forced this one past it.
    """
    found = registry.get(version)
    if found is None:
        return
    if found.tags.get(TAG_STATUS) == REJECTED:
        raise NotAllowed(
            f"version {version} of {registry.name} was rejected: {found.tags.get(TAG_REASON, '')} Start a new release."
        )
    if digest := found.tags.get(TAG_DIGEST):
        remedy = (
            f"materialise logged_model of release {release} again with `force: true` in its run configuration, then "
            "deployed_endpoint"
        )
        refuse_content(registry, digest, forced=found.tags.get(TAG_FORCED, ""), remedy=remedy)
