"""Writes the folder of a new model, complete, so that its first release needs no edit."""

import re
from contextlib import suppress
from pathlib import Path
from string import Template
from typing import Final

import click
import dagster as dg
import yaml
from pydantic import BaseModel, Field

from release_pipeline.errors import SpecError
from release_pipeline.spec import parse_spec

_HERE: Final = Path(__file__).parent


class ScaffoldParams(BaseModel):
    """What can be said beforehand, as options of ``dg scaffold defs``."""

    registered_name: str | None = Field(
        default=None, description="Unity Catalog name, catalog.schema.model; main.default.<folder> by default."
    )


class ReleaseScaffolder(dg.Scaffolder[ScaffoldParams]):
    """A ``defs.yaml``, an agent that answers, and two lines to evaluate it with."""

    @classmethod
    def get_scaffold_params(cls) -> type[ScaffoldParams]:
        """The options of ``dg scaffold defs``."""
        return ScaffoldParams

    def scaffold(self, request: dg.ScaffoldRequest[ScaffoldParams]) -> None:
        """Write the files below ``request.target_path``.

        Raises:
            click.ClickException: The format is not YAML, or the registered name is none.
        """
        folder = request.target_path
        try:
            _write(folder, request)
        except SpecError as error:
            with suppress(OSError):
                folder.rmdir()  # made for this; a folder with something in it stays
            raise click.ClickException(str(error)) from None


def _write(folder: Path, request: dg.ScaffoldRequest[ScaffoldParams]) -> None:
    if request.scaffold_format != "yaml":
        raise SpecError("a release is written in YAML; leave --format out, or say --format yaml.")
    name = model_name(folder.name)
    values = {"name": name, "registered_name": request.params.registered_name or f"main.default.{name}"}
    texts = {
        template.stem: Template(template.read_text("utf-8")).substitute(values) for template in _HERE.glob("*.template")
    }
    parse_spec(yaml.safe_load(texts["defs.yaml"])["attributes"], file=folder / "defs.yaml", with_model=False)
    for file, text in texts.items():
        (folder / file).write_text(text, "utf-8")


def model_name(folder: str) -> str:
    """The name of a model whose folder is ``folder``: what no identifier has becomes an underscore."""
    name = re.sub(r"[^A-Za-z0-9_]", "_", folder)
    return f"_{name}" if name[:1].isdigit() else name
