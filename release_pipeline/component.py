"""The component that people put into a ``defs.yaml``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import BaseModel, ConfigDict

from release_pipeline.spec import ReleaseSpec, parse_spec

if TYPE_CHECKING:
    from dagster import ComponentLoadContext


class _Attributes(BaseModel):
    """The attributes as written. They are validated by :func:`parse_spec`, whose messages say more than Dagster's."""

    model_config = ConfigDict(extra="allow")

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The schema that editors and ``dg check yaml`` use: the specification's, templates allowed everywhere."""
        return dict(_allow_templates(ReleaseSpec.model_json_schema()))


_TEMPLATE = {"type": "string", "pattern": r"\{\{.*\}\}"}


def _allow_templates(schema: Any) -> Any:
    """The same schema with a template (``{{ env.NAME }}``) in place of any number or choice, and YAML's bare on/off."""
    if isinstance(schema, list):
        return [_allow_templates(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {key: _allow_templates(value) for key, value in schema.items()}
    if "enum" in changed and {"on", "off"} == set(changed["enum"]):
        return {"anyOf": [changed, {"type": "boolean"}, _TEMPLATE]}
    if changed.get("type") in ("integer", "number", "boolean") or "enum" in changed:
        return {"anyOf": [changed, _TEMPLATE]}
    return changed


class ReleasePipelineComponent(dg.Component):
    """Releases of one model or agent to a Databricks serving endpoint, from log to alias.

    See docs/reference.md for the attributes.
    """

    def __init__(self, spec: ReleaseSpec, folder: Path) -> None:
        self.spec = spec
        self.folder = folder

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """The model of the attributes that Dagster reads from YAML."""
        return _Attributes

    @classmethod
    def load(cls, attributes: BaseModel | None, context: "ComponentLoadContext") -> "ReleasePipelineComponent":
        """Resolve the templates, then validate.

        Raises:
            SpecError: One sentence per problem.
        """
        written = attributes.model_dump() if attributes else {}
        resolved = context.resolution_context.resolve_value(written)
        folder = Path(context.path) if Path(context.path).is_dir() else Path(context.path).parent
        return cls(parse_spec(resolved, file=folder / "defs.yaml"), folder)

    def build_defs(self, context: "ComponentLoadContext") -> dg.Definitions:
        """The definitions of this model."""
        from release_pipeline.build import build_release

        return build_release(self.spec, self.folder)
