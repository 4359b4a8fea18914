"""The third link: example requests answered in a clean environment, before anything is registered; a blocking check."""

import dagster as dg

from release_pipeline.assets.context import ModelContext, failure
from release_pipeline.errors import ReleasePipelineError

CHECK = "predeploy_predict"
EXAMPLES = 3


def build(model: ModelContext) -> dg.AssetsDefinition:
    """The asset ``predeploy_predict`` of one model."""
    spec = model.spec
    key = model.key("predeploy_predict")

    @dg.asset(
        key=key,
        deps=[model.key("evaluation")],
        partitions_def=model.partitions,
        group_name=spec.name,
        owners=list(spec.owners),
        kinds={"python"},
        check_specs=[
            dg.AssetCheckSpec(
                CHECK,
                asset=key,
                blocking=True,
                description="Every example request is answered in a clean environment, and a stream closes properly.",
            )
        ],
        description=f"Example requests answered in a clean environment ({spec.predeploy_predict.environment}).",
    )
    def predeploy_predict(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        from release_pipeline.evaluation.dataset import read_dataset
        from release_pipeline.evaluation.predeploy import predict_examples
        from release_pipeline.workspace.tracking import need_run

        part = spec.predeploy_predict
        try:
            requests = [spec.model.input_example] if spec.model.input_example else []
            if spec.evaluation.dataset is not None:
                examples = read_dataset(model.folder / spec.evaluation.dataset)
                requests += [example.inputs for example in examples[:EXAMPLES]]
            parts = model.parts(context)
            run = need_run(parts.workspace, spec, context.partition_key)
            context.log.info(f"answering {len(requests)} requests in a clean environment ({part.environment})")
            answers = predict_examples(run.model_uri, requests, part, experiment_id=run.experiment_id)
        except ReleasePipelineError as error:
            raise failure(error) from error
        problems = [f"request {number}: {answer.problem}" for number, answer in enumerate(answers, 1) if answer.problem]
        sentence = "; ".join(problems) or (
            f"{len(answers)} requests answered in a clean environment"
            if answers
            else "the model loads; there is no input_example and no evaluation set to ask it"
        )
        times = [answer.milliseconds for answer in answers if answer.milliseconds is not None]
        return dg.MaterializeResult(
            metadata={
                "sentence": sentence,
                "requests": len(answers),
                "environment": part.environment,
                "stream_events": sum(answer.stream_events or 0 for answer in answers),
                "slowest_ms": round(max(times, default=0.0), 1),
            },
            check_results=[
                dg.AssetCheckResult(
                    passed=not problems,
                    check_name=CHECK,
                    severity=dg.AssetCheckSeverity.ERROR,
                    description=sentence,
                    metadata={"answered": len(answers) - len(problems), "requests": len(answers)},
                )
            ],
        )

    return predeploy_predict
