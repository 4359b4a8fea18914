"""The YAML of a release: its fields, their bounds and defaults, and sentences for what is wrong.

Every default is safe: sensors are off, nothing scales, nothing is promoted without evidence.
:func:`parse_spec` is the one way from a mapping to a :class:`ReleaseSpec`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from release_pipeline.errors import SpecError
from release_pipeline.spec_gate import IDENTIFIER, GatePart, Strict
from release_pipeline.spec_notifications import NotificationsPart
from release_pipeline.spec_rollout import AutomationPart, PromotionPart, RampPart
from release_pipeline.spec_sentences import SECRET_WORD, sentence

_ENDPOINT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_SECRET_REFERENCE = re.compile(r"\{\{secrets/[^/{}\s]+/[^/{}\s]+\}\}")


class Resource(Strict):
    """A Databricks resource that the model uses at run time (automatic authentication passthrough)."""

    type: Literal[
        "serving_endpoint",
        "sql_warehouse",
        "function",
        "table",
        "vector_search_index",
        "genie_space",
        "uc_connection",
    ] = Field(description="Kind of the resource.")
    name: str = Field(min_length=1, description="Name or id of the resource, as its Databricks API knows it.")


class ModelPart(Strict):
    """What is logged and registered."""

    registered_name: str = Field(description="Unity Catalog name, `catalog.schema.model`.")
    source: str = Field(description="Python file that calls mlflow.models.set_model, relative to this YAML.")
    config: str | None = Field(
        default=None, description="YAML file with the model's own parameters (mlflow ModelConfig)."
    )
    requirements: tuple[str, ...] = Field(
        default=("mlflow",), description="pip requirements of the serving environment."
    )
    input_example: dict[str, Any] | None = Field(
        default=None, description="A request that the model can answer; gives the signature of classical models."
    )
    code_paths: tuple[str, ...] = Field(
        default=(), description="Files or folders that the source imports, relative to this YAML."
    )
    experiment: str = Field(default="", description="MLflow experiment; empty means /Shared/<name>.")
    resources: tuple[Resource, ...] = Field(default=(), description="Resources the model uses at run time.")
    user_api_scopes: tuple[str, ...] = Field(
        default=(), description="API scopes the model may use on behalf of the calling user."
    )

    @field_validator("registered_name")
    @classmethod
    def _three_levels(cls, value: str) -> str:
        parts = value.split(".")
        if len(parts) != 3 or not all(IDENTIFIER.fullmatch(part) for part in parts):
            raise ValueError("must be catalog.schema.model, each of letters, digits and underscores")
        return value

    @property
    def catalog(self) -> str:
        """First part of the registered name."""
        return self.registered_name.split(".")[0]

    @property
    def schema_name(self) -> str:
        """Second part of the registered name."""
        return self.registered_name.split(".")[1]

    @property
    def short_name(self) -> str:
        """Last part of the registered name."""
        return self.registered_name.split(".")[2]


class EvaluationPart(Strict):
    """Offline evaluation before anything is registered."""

    dataset: str | None = Field(
        default=None, description="JSON lines of {inputs, expectations}, relative to this YAML; none skips evaluation."
    )
    scorers: tuple[str, ...] = Field(
        default=("answered",),
        description="Built-in `answered`, `contains_expected`, or `file.py:function` of a scorer beside this YAML.",
    )
    thresholds: dict[str, float] = Field(
        default_factory=dict, description="Lowest mean per scorer, in [0, 1]; below it the release stops."
    )
    compare_with_champion: bool = Field(
        default=True, description="Score the champion on the same rows, and stop when the challenger is worse."
    )
    tolerance: float = Field(
        default=0.02, ge=0, le=1, description="How much lower than the champion's mean a scorer may be."
    )


class PredeployPart(Strict):
    """A prediction in a clean environment before anything is registered."""

    environment: Literal["uv", "local"] = Field(
        default="uv", description="`uv` builds the logged requirements anew; `local` uses this interpreter."
    )
    timeout_seconds: int = Field(default=600, ge=10, le=3600, description="Limit for building and predicting.")


class EndpointPart(Strict):
    """The serving endpoint that the release goes to."""

    name: str = Field(default="", description="Endpoint name; empty means agents_<catalog>-<schema>-<model>.")
    workload_size: Literal["Small", "Medium", "Large"] = Field(default="Small", description="Compute size.")
    scale_to_zero: bool = Field(default=False, description="Let an idle served entity stop.")
    environment: dict[str, str] = Field(
        default_factory=dict, description="Environment variables; secrets only as {{secrets/scope/key}}."
    )
    tags: dict[str, str] = Field(default_factory=dict, description="Tags of the endpoint.")
    tracing: bool = Field(default=True, description="Record an MLflow trace per request (ENABLE_MLFLOW_TRACING).")
    ready_timeout_seconds: int = Field(
        default=1800, ge=10, le=7200, description="How long an update may take; the service needs up to 30 minutes."
    )

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if value and not _ENDPOINT_NAME.fullmatch(value):
            raise ValueError("must be 1 to 63 letters, digits, hyphens and underscores")
        return value

    @field_validator("environment")
    @classmethod
    def _no_clear_secrets(cls, value: dict[str, str]) -> dict[str, str]:
        for key, text in value.items():
            if SECRET_WORD.search(key) and not _SECRET_REFERENCE.fullmatch(text):
                # The value is never repeated in the message.
                raise ValueError(f"{key} looks like a secret; write it as a reference {{{{secrets/scope/key}}}}")
        return value


class ReleaseSpec(Strict):
    """Everything that is said about the releases of one model."""

    name: str = Field(description="Name of the model's asset group; letters, digits and underscores.")
    model: ModelPart = Field(description="What is logged and registered.")
    evaluation: EvaluationPart = Field(default=EvaluationPart(), description="Offline evaluation.")
    predeploy_predict: PredeployPart = Field(default=PredeployPart(), description="Prediction before registration.")
    endpoint: EndpointPart = Field(default=EndpointPart(), description="The serving endpoint.")
    ramp: RampPart = Field(default=RampPart(), description="The steps of challenger traffic.")
    gate: GatePart = Field(default=GatePart(), description="What decides.")
    promotion: PromotionPart = Field(default=PromotionPart(), description="After the last step.")
    automation: AutomationPart = Field(default=AutomationPart(), description="What runs by itself.")
    notifications: NotificationsPart = Field(default=NotificationsPart(), description="Who is told what.")

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not IDENTIFIER.fullmatch(value):
            raise ValueError("must be letters, digits and underscores, not starting with a digit")
        return value

    @model_validator(mode="after")
    def _traces_for_feedback(self) -> "ReleaseSpec":
        for metric in self.gate.metrics:
            if metric.kind == "feedback" and metric.source == "traces" and not self.endpoint.tracing:
                raise ValueError(
                    f"gate.metrics {metric.name} is feedback on traces, and endpoint.tracing is off; turn it on, or "
                    "take the metric out"
                )
        return self

    @property
    def endpoint_name(self) -> str:
        """The endpoint's name, as agents.deploy would choose it where the YAML is silent; at most 63 characters."""
        return self.endpoint.name or f"agents_{self.model.registered_name.replace('.', '-')}"[:63]

    @property
    def experiment(self) -> str:
        """The absolute name of the MLflow experiment."""
        return self.model.experiment or f"/Shared/{self.name}"

    @property
    def payload_table(self) -> str:
        """Full name of the inference table, `<catalog>.<schema>.<model>_payload`."""
        return f"{self.model.registered_name}_payload"

    @property
    def ledger_table(self) -> str:
        """Full name of the ledger's table."""
        return f"{self.model.registered_name}_release_ledger"

    @property
    def evidence_table(self) -> str:
        """Full name of the evidence table."""
        return f"{self.model.registered_name}_release_evidence"


def parse_spec(attributes: Mapping[str, Any], *, file: Path, with_model: bool = True) -> ReleaseSpec:
    """Validate the attributes of one ``defs.yaml``.

    Args:
        attributes: The mapping under ``attributes:`` with templates already resolved.
        file: The YAML file, for messages and for the files it names.
        with_model: Whether those files must exist.

    Raises:
        SpecError: One sentence per problem: file, release, field, value, bound, and what to do.
    """
    name = attributes.get("name", "?")
    try:
        spec = ReleaseSpec.model_validate(dict(attributes))
    except ValidationError as error:
        found = error.errors()
        # A list whose items are wrong is said to be too short as well, which it is not.
        held = {problem["loc"][:length] for problem in found for length in range(len(problem["loc"]))}
        told = [problem for problem in found if problem["type"] != "too_short" or problem["loc"] not in held]
        problems = "\n".join(sentence(dict(problem)) for problem in told)
        raise SpecError(f"{file}: release {name}: {problems}") from None
    named = {
        "model.source": spec.model.source,
        "model.config": spec.model.config,
        "evaluation.dataset": spec.evaluation.dataset,
        **{f"model.code_paths.{index}": path for index, path in enumerate(spec.model.code_paths)},
    }
    for field, relative in named.items():
        if with_model and relative is not None and not (file.parent / relative).exists():
            raise SpecError(
                f"{file}: release {spec.name}: field `{field}` names {relative}, which does not exist; "
                f"paths are relative to {file.parent}."
            )
    return spec
