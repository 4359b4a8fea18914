"""Writes the generated parts of the documentation; run as ``python docs/make_reference.py``.

A generated part stands between ``<!-- generated: NAME -->`` and ``<!-- end: NAME -->`` in a page of this folder.
tests/docs/test_reference.py fails where a page differs from what this file would write.
"""

import tempfile
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from coverage_of_routes import COVERAGE
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

DOCS = Path(__file__).parent
NAME = "NAME"
_BOUNDS = {"Ge": "at least {ge}", "Gt": "above {gt}", "Le": "at most {le}", "Lt": "below {lt}"}


def fields() -> str:
    """Every field of the YAML, a table per part."""
    from release_pipeline.spec import ReleaseSpec

    return "\n".join(_tables(ReleaseSpec, ""))


def _tables(model: type[BaseModel], path: str) -> Iterator[str]:
    """The table of one part, then those of the parts inside it."""
    yield f"### `{path}`\n" if path else "### Top level\n"
    yield "| Field | Type | Default | Meaning |\n|---|---|---|---|"
    inner: list[tuple[type[BaseModel], str]] = []
    for name, field in model.model_fields.items():
        full = f"{path}.{name}".lstrip(".")
        parts = list(_models(field.annotation))
        inner += [(each, full + ("[]" if each is not field.annotation else "")) for each in parts]
        meaning = _cell(field.description or "") + _bounds(field.metadata)
        kind = f"see [`{inner[-1][1]}`](#{_anchor(inner[-1][1])})" if parts else _type(field.annotation)
        yield f"| `{full}` | {kind} | {_default(field)} | {meaning} |"
    yield ""
    for each, full in inner:
        yield from _tables(each, full)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models(argument)


def _anchor(heading: str) -> str:
    return "".join(letter for letter in heading.lower() if letter.isalnum() or letter in "_-")


def _type(annotation: Any) -> str:
    """A type in words that a writer of YAML knows."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is type(None):
        return "none"
    if annotation is Any:
        return "anything"
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (types.UnionType, typing.Union):
        return ", or ".join(_type(each) for each in arguments)
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"mapping of text to {_type(arguments[1])}"
    return {str: "text", int: "integer", float: "number", bool: "true or false"}[annotation]


def _default(field: Any) -> str:
    if field.is_required():
        return "**required**"
    value = field.default if field.default is not PydanticUndefined else field.default_factory()
    if isinstance(value, BaseModel):
        return "its fields' defaults"
    if isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        return "; ".join(f"`{_short(each)}`" for each in value)
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value}`" if value != "" else "empty"


def _short(model: BaseModel) -> str:
    return "{" + ", ".join(f"{name}: {value}" for name, value in model.model_dump(exclude_unset=True).items()) + "}"


def _bounds(metadata: list[Any]) -> str:
    found = [
        _BOUNDS[type(each).__name__].format(**vars_of(each)) for each in metadata if type(each).__name__ in _BOUNDS
    ]
    return f" Must be {' and '.join(found)}." if found else ""


def vars_of(bound: Any) -> dict[str, Any]:
    """The one value of an ``annotated_types`` bound by its name."""
    name = type(bound).__name__.lower()
    return {name: f"{getattr(bound, name):,}"}


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def commands() -> str:
    """Every command with its arguments and options."""
    from release_pipeline.cli import main

    lines = []
    for name, command in sorted(main.commands.items()):
        arguments = [each.human_readable_name for each in command.params if isinstance(each, click.Argument)]
        lines += [f"### `{' '.join(['release-pipeline', name, *arguments])}`\n"]
        summary = (command.help or "").split("\n\n")[0]
        lines += [_cell(summary.replace("\b", "")), ""]
        options = [each for each in command.params if isinstance(each, click.Option)]
        if options:
            lines += ["| Option | Default | Meaning |", "|---|---|---|"]
        for option in options:
            lines += [f"| `{', '.join(option.opts)}` | {_default_of(option)} | {_cell(option.help or '')} |"]
        lines += [""] if options else []
    return "\n".join(lines)


def _default_of(option: click.Option) -> str:
    if option.is_flag:
        return "off"
    # An option without a default has a marker of click's own there.
    known = isinstance(option.default, str | int | float | Path) and option.default != ""
    return "**required**" if option.required else f"`{option.default}`" if known else "none"


def definitions() -> str:
    """Every asset, check, job, sensor and schedule that one model gives, as Dagster loads them."""
    import dagster as dg

    from release_pipeline.build import build_release
    from release_pipeline.spec import ReleaseSpec

    spec = ReleaseSpec.model_validate(
        {
            "name": NAME,
            "model": {"registered_name": "catalog.schema.model", "source": "agent.py"},
            "endpoint": {"name": "ENDPOINT"},
            "promotion": {"schedule": "0 9 * * 1-5"},
            "gate": {"metrics": [{"name": "judged", "kind": "judge", "scorer": "answered"}]},
            "notifications": {"addresses_variable": "NEWS"},
        }
    )
    loaded = build_release(spec, DOCS)
    rows: list[tuple[str, str, str]] = []
    for asset in loaded.assets or []:
        assert isinstance(asset, dg.AssetsDefinition)
        rows.append(("asset", "/".join(asset.key.path), asset.descriptions_by_key.get(asset.key) or ""))
        beside = [check for each in loaded.asset_checks or [] for check in each.check_specs]
        for check in [*asset.check_specs, *(check for check in beside if check.asset_key == asset.key)]:
            blocking = "blocking check" if check.blocking else "check"
            rows.append((blocking, f"{check.name} on {'/'.join(check.asset_key.path)}", check.description or ""))
    for kind, found in (("job", loaded.jobs), ("sensor", loaded.sensors), ("schedule", loaded.schedules)):
        rows += [(kind, each.name, each.description or "") for each in found or []]  # type: ignore[union-attr]
    lines = ["| Kind | Name | What it is |", "|---|---|---|"]
    lines += [f"| {kind} | `{_named(name)}` | {_cell(_named(text))} |" for kind, name, text in rows]
    return "\n".join(lines)


def _named(text: str) -> str:
    return text.replace(NAME, "<name>").replace("ENDPOINT", "<endpoint>")


def routes() -> str:
    """Every route of the local workspace: which client call uses it, and which test makes that call."""
    lines = ["| Route | Client call | Test |", "|---|---|---|"]
    for route in route_names():
        call, test = COVERAGE[route]
        lines += [f"| `{route}` | {call} | [{test}](../tests/local_workspace/{test}) |"]
    return "\n".join(lines)


def route_names() -> list[str]:
    """``METHOD /path`` of every route of the local workspace, in the order in which they are tried."""
    from release_pipeline.local_workspace.app import LocalWorkspace, all_routes
    from release_pipeline.local_workspace.settings import Settings

    with tempfile.TemporaryDirectory() as folder:
        workspace = LocalWorkspace(Settings(data_dir=Path(folder), token="unused"))
        found = all_routes(workspace)
        workspace.sql.close()
        workspace.database.close()
    names = []
    for route in found:
        methods = sorted((route.methods or {"any"}) - {"HEAD"})
        names += [f"{' or '.join(methods)} {route.path}"]
    return names


GENERATED: dict[str, list[tuple[str, Callable[[], str]]]] = {
    "reference.md": [("fields", fields), ("commands", commands), ("definitions", definitions)],
    "local-workspace.md": [("routes", routes)],
}


def rewritten(page: str) -> str:
    """The text of ``page`` with its generated parts as they ought to be."""
    text = (DOCS / page).read_text(encoding="utf-8")
    for name, make in GENERATED[page]:
        begin, end = f"<!-- generated: {name} -->", f"<!-- end: {name} -->"
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise ValueError(f"docs/{page} lacks the markers {begin} and {end}; put them where the part belongs.")
        text = f"{before}{begin}\n\n{make().strip()}\n\n{end}{after}"
    return text


if __name__ == "__main__":
    for each in GENERATED:
        (DOCS / each).write_text(rewritten(each), encoding="utf-8")
        print(f"docs/{each}")
