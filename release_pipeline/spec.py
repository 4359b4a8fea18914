"""The YAML of a release: its fields, their bounds and defaults, and sentences for what is wrong.

Every default is safe: sensors are off, nothing scales, nothing is promoted without evidence.
:func:`parse_spec` is the one way from a mapping to a :class:`ReleaseSpec`.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from release_pipeline.errors import SpecError
from release_pipeline.spec_endpoint import EndpointPart
from release_pipeline.spec_gate import IDENTIFIER, GatePart, Strict
from release_pipeline.spec_lines import Lines
from release_pipeline.spec_notifications import NotificationsPart
from release_pipeline.spec_rollout import AutomationPart, PromotionPart, RampPart
from release_pipeline.spec_sentences import sentences

#: Scorers of an evaluation that need no file and no model of others.
BUILT_IN_SCORERS: Final = ("answered", "contains_expected")
_CLASS: Final = re.compile(r"[A-Z][A-Za-z0-9]*")
#: What Dagster takes for an owner.
_OWNER: Final = re.compile(r"team:.+|[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,7}")


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

    @model_validator(mode="after")
    def _three_levels(self) -> "Resource":
        if self.type in ("function", "table", "vector_search_index") and self.name.count(".") != 2:
            raise ValueError(f"a {self.type} goes by its full name, catalog.schema.name, not by {self.name!r}")
        return self


class ModelPart(Strict):
    """What is logged and registered."""

    registered_name: str = Field(description="Unity Catalog name, `catalog.schema.model`.")
    source: str = Field(description="Python file that calls mlflow.models.set_model, relative to this YAML.")
    config: str | dict[str, Any] | None = Field(
        default=None,
        description="The model's own parameters (mlflow ModelConfig): a YAML file, or the mapping itself. No secrets: "
        "they are logged.",
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

    @field_validator("requirements")
    @classmethod
    def _requirements(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        from packaging.requirements import InvalidRequirement, Requirement

        for text in value:
            try:
                Requirement(text)
            except InvalidRequirement:
                raise ValueError(f"{text!r} is no requirement that pip reads; write it as in mlflow>=3") from None
        return value

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
        description="Built-in `answered`, `contains_expected`, a class of `mlflow.genai.scorers` such as `Safety`, or "
        "`file.py:function` of a scorer beside this YAML.",
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

    @field_validator("scorers")
    @classmethod
    def _names_of_their_own(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if ":" not in name and name not in BUILT_IN_SCORERS and not _CLASS.fullmatch(name):
                raise ValueError(
                    f"{name} is none of {', '.join(BUILT_IN_SCORERS)}, no class of mlflow.genai.scorers, such as "
                    "Safety, and no file.py:function beside this YAML; write it as one of them"
                )
        names = [name.rpartition(":")[2] for name in value]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two scorers are named {twice}, which MLflow could not tell apart; rename one function")
        return value

    @model_validator(mode="after")
    def _thresholds_of_scorers(self) -> "EvaluationPart":
        for name, least in self.thresholds.items():
            if name not in self.scorers:
                raise ValueError(
                    f"thresholds names {name}, which is none of scorers ({', '.join(self.scorers)}), so that nothing "
                    "would be held to it; correct the name, or add the scorer"
                )
            if not 0 <= least <= 1:
                raise ValueError(f"thresholds.{name} is {least:g}; means are from 0 to 1")
        return self


class PredeployPart(Strict):
    """A prediction in a clean environment before anything is registered."""

    environment: Literal["uv", "local"] = Field(
        default="uv", description="`uv` builds the logged requirements anew; `local` uses this interpreter."
    )
    timeout_seconds: int = Field(default=600, ge=10, le=3600, description="Limit for building and predicting.")


class ReleaseSpec(Strict):
    """Everything that is said about the releases of one model."""

    name: str = Field(description="Name of the model's asset group; letters, digits and underscores.")
    owners: tuple[str, ...] = Field(
        default=(),
        description="Owners of the assets in Dagster's UI: e-mail addresses, and teams as `team:search`.",
    )
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

    @field_validator("owners")
    @classmethod
    def _owners(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for owner in value:
            if not _OWNER.fullmatch(owner):
                raise ValueError(
                    f"{owner!r} is neither an e-mail address nor a team, as in team:search; write it as one of them"
                )
        return value

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


def parse_spec(
    attributes: Mapping[str, Any], *, file: Path, with_model: bool = True, lines: Lines | None = None
) -> ReleaseSpec:
    """Validate the attributes of one ``defs.yaml``.

    Args:
        attributes: The mapping under ``attributes:`` with templates already resolved.
        file: The YAML file, for messages and for the files it names.
        with_model: Whether those files must exist.
        lines: Where in the file a field stands.

    Raises:
        SpecError: One sentence per problem: file, line, release, field, value, bound, and what to do.
    """
    name = attributes.get("name", "?")

    def at(place: tuple[str | int, ...]) -> str:
        line = lines(place) if lines else None
        return f"{file}:{line}: release {name}: " if line else f"{file}: release {name}: "

    try:
        spec = ReleaseSpec.model_validate(dict(attributes))
    except ValidationError as error:
        told = sentences(error, attributes, ReleaseSpec)
        raise SpecError("\n".join(f"{at(place)}{sentence}" for place, sentence in told)) from None
    if apart := list(_across(spec)):
        raise SpecError(
            "\n".join(f"{at(place)}field `{'.'.join(map(str, place))}`: {sentence}." for place, sentence in apart)
        )
    named: dict[tuple[str | int, ...], str | None] = {
        ("model", "source"): spec.model.source,
        ("model", "config"): spec.model.config if isinstance(spec.model.config, str) else None,
        ("evaluation", "dataset"): spec.evaluation.dataset,
        **{("model", "code_paths", index): path for index, path in enumerate(spec.model.code_paths)},
        **{("evaluation", "scorers", index): _file_of(name) for index, name in enumerate(spec.evaluation.scorers)},
        **{("gate", "metrics", index, "scorer"): _file_of(each.scorer) for index, each in enumerate(spec.gate.metrics)},
    }
    for place, relative in named.items():
        if with_model and relative is not None and not (file.parent / relative).exists():
            raise SpecError(
                f"{at(place)}field `{'.'.join(map(str, place))}` names {relative}, which does not exist; "
                f"paths are relative to {file.parent}."
            )
    return spec


def _across(spec: ReleaseSpec) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """What of one part does not go with what another part says."""
    for index, metric in enumerate(spec.gate.metrics):
        place = ("gate", "metrics", index)
        if metric.kind == "feedback" and metric.source == "traces" and not spec.endpoint.tracing:
            yield (
                (*place, "source"),
                f"{metric.name} is feedback on traces, and endpoint.tracing is off; turn it on, or take the metric out",
            )
        if isinstance(metric.margin, tuple) and len(metric.margin) > len(spec.ramp.steps):
            yield (
                (*place, "margin"),
                f"{len(metric.margin)} margins for {len(spec.ramp.steps)} ramp.steps, so that the last would never "
                "count; take some out, or add steps",
            )
    if spec.automation.promotion_schedule == "on" and spec.promotion.schedule is None:
        yield (
            ("automation", "promotion_schedule"),
            "it is on, and there is no promotion.schedule to run; write one, such as 0 9 * * 1-5, or take this out",
        )


def _file_of(scorer: str | None) -> str | None:
    """The file of a scorer beside the YAML; None of others."""
    return scorer.rpartition(":")[0] if scorer and ":" in scorer else None
