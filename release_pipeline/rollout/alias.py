"""An alias that another tool has moved during a release: it is told, and nothing is written over it."""

from release_pipeline.errors import NotAllowed, NotVerified
from release_pipeline.rollout.state import ReleaseState
from release_pipeline.spec import ReleaseSpec
from release_pipeline.workspace.registry import Registry


def refuse_moved_alias(registry: Registry, spec: ReleaseSpec, state: ReleaseState) -> None:
    """Before a promotion: the alias names the champion, or nothing, or what is promoted.

    Raises:
        NotAllowed: It names another version, which no release has promoted.
    """
    alias = spec.promotion.alias
    named = registry.version_of_alias(alias)
    if named in (None, state.champion_version, state.challenger_version):
        return
    was = "nothing" if state.champion_version is None else f"version {state.champion_version}"
    raise NotAllowed(
        f"alias {alias} of {registry.name} names version {named}, but named {was} when release {state.release} began; "
        f"another tool changed it, and nothing is written over that: run the job {spec.name}_mend, or set it right by "
        "hand, then promote again."
    )


def refuse_foreign_alias(model: str, alias: str, named: str | None, before: str | None, version: str | None) -> None:
    """The same in the midst of a promotion, once all traffic has moved.

    Args:
        model: The registered model.
        alias: The alias.
        named: The version that it names.
        before: The version that it named before the promotion.
        version: The version that is promoted.

    Raises:
        NotVerified: The alias was moved meanwhile. The promotion stays open: it is done once the alias is set right.
    """
    if named not in (None, before, version):
        raise NotVerified(
            f"alias {alias} of {model} names version {named}, which another tool changed in the midst of the "
            f"promotion of version {version}; set the alias to that version, or roll the release back."
        )
