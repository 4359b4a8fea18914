"""The second link: the challenger and the champion scored on the same rows; a blocking check."""

from collections.abc import Sequence

import dagster as dg

from release_pipeline.assets.context import ModelContext, failure
from release_pipeline.errors import RegistryError, ReleasePipelineError
from release_pipeline.evaluation.dataset import Example
from release_pipeline.rollout.parts import Parts
from release_pipeline.workspace.links import run_page

CHECK = "evaluation"


def build(model: ModelContext) -> dg.AssetsDefinition:
    """The asset ``evaluation`` of one model."""
    spec = model.spec
    key = model.key("evaluation")

    @dg.asset(
        key=key,
        deps=[model.key("logged_model")],
        partitions_def=model.partitions,
        group_name=spec.name,
        owners=list(spec.owners),
        kinds={"mlflow"},
        check_specs=[
            dg.AssetCheckSpec(
                CHECK,
                asset=key,
                blocking=True,
                description="Every scorer reaches its threshold and is not worse than the champion's.",
            )
        ],
        description="Challenger against champion on the evaluation set; results on the MLflow run.",
    )
    def evaluation(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        if spec.evaluation.dataset is None:
            text = "no evaluation.dataset is set: nothing was evaluated"
            return dg.MaterializeResult(
                metadata={"rows": 0, "sentence": text},
                check_results=[dg.AssetCheckResult(passed=True, check_name=CHECK, description=text)],
            )
        from release_pipeline.evaluation.comparison import compare, score_model
        from release_pipeline.evaluation.dataset import read_dataset
        from release_pipeline.workspace.tracking import need_run

        part = spec.evaluation
        try:
            examples = read_dataset(model.folder / spec.evaluation.dataset)
            parts = model.parts(context)
            run = need_run(parts.workspace, spec, context.partition_key)
            challenger = score_model(run.model_uri, examples, part.scorers, model.folder, run_id=run.run_id)
            version = parts.registry.version_of_alias(spec.promotion.alias) if part.compare_with_champion else None
            champion = _champion_scores(context, model, parts, examples, version) if version is not None else None
        except ReleasePipelineError as error:
            raise failure(error) from error
        results = compare(part, len(examples), challenger, champion)
        sentence = "; ".join(result.sentence for result in results)
        metadata: dict[str, dg.MetadataValue | str | int | float] = {
            "sentence": sentence,
            "rows": len(examples),
            "champion_version": version or "none",
            "mlflow_run": dg.MetadataValue.url(run_page(parts.workspace, run.experiment_id, run.run_id)),
        }
        for result in results:
            name = result.scorer.rpartition(":")[2]
            metadata[f"{name}_challenger"] = round(result.challenger, 4)
            if result.champion is not None:
                metadata[f"{name}_champion"] = round(result.champion, 4)
        passed = all(result.passed for result in results)
        return dg.MaterializeResult(
            metadata=metadata,
            check_results=[
                dg.AssetCheckResult(
                    passed=passed,
                    check_name=CHECK,
                    severity=dg.AssetCheckSeverity.ERROR,
                    description=sentence,
                    metadata={
                        f"{result.scorer.rpartition(':')[2]}_{what}": round(value, 4)
                        for result in results
                        for what, value in (("value", result.challenger), ("bound", result.threshold))
                        if value is not None
                    },
                )
            ],
        )

    return evaluation


def _champion_scores(
    context: dg.AssetExecutionContext, model: ModelContext, parts: Parts, examples: Sequence[Example], version: str
) -> dict[str, float]:
    """The champion's scores on the same rows: those of its own release where the rows have not changed."""
    from release_pipeline.evaluation.comparison import score_model, stored_scores

    part, name = model.spec.evaluation, model.spec.model.registered_name
    found = parts.registry.get(version)
    if found is None or not found.run_id:
        raise RegistryError(f"version {version} of {name}, the champion, has no MLflow run; evaluate it by hand.")
    scores = stored_scores(found.run_id, examples, part.scorers, model.folder)
    if scores is not None:
        context.log.info(f"champion version {version} was scored on these rows in its own release")
        return scores
    context.log.info(f"scoring champion version {version} on the same rows")
    return score_model(f"models:/{name}/{version}", examples, part.scorers, model.folder, run_id=found.run_id)
