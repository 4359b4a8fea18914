"""The component that people put into a ``defs.yaml``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import BaseModel, ConfigDict

from release_pipeline.scaffold.scaffolder import ReleaseScaffolder
from release_pipeline.spec import ReleaseSpec, parse_spec
from release_pipeline.spec_file import check_keys
from release_pipeline.spec_lines import Lines, lines_in
from release_pipeline.spec_schema import written_schema
from release_pipeline.spec_templates import resolved

if TYPE_CHECKING:
    from dagster import ComponentLoadContext


class _Attributes(BaseModel):
    """The attributes as written. They are validated by :func:`parse_spec`, whose messages say more than Dagster's."""

    model_config = ConfigDict(extra="allow")

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The schema that editors and ``dg check yaml`` use: the specification's, templates allowed everywhere."""
        return written_schema(ReleaseSpec.model_json_schema())


def _source(context: "ComponentLoadContext", folder: Path) -> tuple[Path, Lines | None]:
    """The file that is being loaded, and where in it a field stands; no lines where Dagster names no file."""
    tree = context.resolution_context.source_position_tree
    file = Path(tree.position.filename) if tree else folder / "defs.yaml"
    if not file.is_file():
        return file, None
    text = file.read_text(encoding="utf-8")
    check_keys(text, file)
    document = context.component_path.instance_key
    return file, lines_in(text, document if isinstance(document, int) else 0)


@dg.scaffold_with(ReleaseScaffolder)
class ReleasePipelineComponent(dg.Component):
    """Releases of one model or agent to a Databricks serving endpoint, from log to alias.

    Scaffold one and release it as it is; `dg utils inspect-component` shows every attribute and its bounds.
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
        folder = Path(context.path) if Path(context.path).is_dir() else Path(context.path).parent
        file, lines = _source(context, folder)
        attributes_now = resolved(written, context.resolution_context, file, lines)
        return cls(parse_spec(attributes_now, file=file, lines=lines), folder)

    def build_defs(self, context: "ComponentLoadContext") -> dg.Definitions:
        """The definitions of this model."""
        from release_pipeline.build import build_release

        return build_release(self.spec, self.folder)
