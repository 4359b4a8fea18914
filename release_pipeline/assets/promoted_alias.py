"""The last link: all traffic, verified; then the alias, read back. It re-reads its gate and refuses without it."""

import dagster as dg

from release_pipeline.assets.canary_traffic import look
from release_pipeline.assets.context import ModelContext, failed_run
from release_pipeline.errors import NotAllowed, ReleasePipelineError
from release_pipeline.gate.verdict import Action as GateAction
from release_pipeline.report.metadata import promotion_metadata
from release_pipeline.rollout.ledger import Action
from release_pipeline.rollout.observer import Observed
from release_pipeline.rollout.open_move import stopped
from release_pipeline.rollout.parts import Parts
from release_pipeline.rollout.state import Stage
from release_pipeline.workspace.links import endpoint_page, version_page


def build(model: ModelContext) -> dg.AssetsDefinition:
    """The asset ``promoted_alias`` of one model."""
    spec = model.spec

    @dg.asset(
        key=model.key("promoted_alias"),
        deps=[model.key("canary_traffic")],
        partitions_def=model.partitions,
        group_name=spec.name,
        owners=list(spec.owners),
        kinds={"databricks", "mlflow"},
        pool=f"endpoint_{spec.endpoint_name}",
        description=f"Which version is live: all traffic of {spec.endpoint_name} and the alias {spec.promotion.alias}.",
    )
    def promoted_alias(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        release = context.partition_key
        try:
            parts = model.parts(context)
            observed = promote(parts, release)
            state, endpoint = parts.rollout.state(release), parts.endpoint.read()
            # Read back, not taken for granted: an older release may be materialised again by hand.
            live = parts.registry.version_of_alias(spec.promotion.alias)
        except ReleasePipelineError as error:
            raise failed_run(context, error) from error
        return dg.MaterializeResult(
            metadata=promotion_metadata(
                observed,
                endpoint_url=endpoint_page(parts.workspace, spec.endpoint_name),
                now=state,
                live_version=live,
                live_url=version_page(parts.workspace, spec.model.registered_name, live) if live else None,
                alias=spec.promotion.alias,
                routes=dict(endpoint.routes) if endpoint else {},
            )
        )

    return promoted_alias


def promote(parts: Parts, release: str) -> Observed:
    """Promote ``release`` where its gate has passed, or finish a promotion that was begun.

    A promotion that was begun and does harm is taken back instead; one of which nothing was done, and that is held by
    now, is closed.

    Raises:
        NotAllowed: The gate has not passed, or what was begun is not finished; the message is its sentence.
    """
    observed = look(parts, release, ingest=True)
    state = observed.release
    if state.stage is Stage.PROMOTED and state.open_intent is None:
        return observed
    begun = state.open_intent is not None and state.open_intent.action is Action.PROMOTE
    if not begun and (state.open_intent is not None or state.stage is not Stage.RAMPING):
        raise NotAllowed(f"release {release} is {state.stage}; only a release at its last step can be promoted.")
    if not begun and observed.verdict.action is not GateAction.PROMOTE:
        raise NotAllowed(f"the gate has not passed release {release}: {observed.verdict.sentence}")
    if begun and (why := stopped(parts.rollout, observed)):
        raise NotAllowed(f"the promotion of release {release} was begun, and is not finished: {why}")
    parts.rollout.promote(
        release,
        expected_config=observed.endpoint.config_version if observed.endpoint else 0,
        evidence_digest=observed.evidence_digest,
        reason=observed.verdict.sentence,
        approved_by=observed.approved_by,
    )
    return observed
