"""Finds a release's YAML by the name of its model, for commands that people type."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from release_pipeline.errors import SpecError
from release_pipeline.operate.spec_files import FILE, project_folder, spec_files
from release_pipeline.spec import ReleaseSpec
from release_pipeline.spec_file import read_spec


@dataclass(frozen=True)
class Found:
    """The releases of a project.

    Attributes:
        specs: By their file.
        broken: What is wrong with files that cannot be read.
    """

    specs: dict[Path, ReleaseSpec]
    broken: tuple[str, ...]


def find_specs() -> Found:
    """All releases of the project."""
    specs: dict[Path, ReleaseSpec] = {}
    broken: list[str] = []
    for file in spec_files():
        try:
            specs[file] = read_spec(file, with_model=False)
        except SpecError as error:
            broken.append(str(error))
    return Found(specs, tuple(broken))


def find_spec(model: str, file: Path | None = None) -> ReleaseSpec:
    """The release of ``model``: in ``file``, or in the one YAML of the project that has its name.

    Raises:
        SpecError: There is none, or more than one, or it is wrong.
    """
    if file is not None:
        return _of_model(model, file, read_spec(file, with_model=False))
    _, spec = _find(model)
    return spec


def find_whole_spec(model: str, file: Path | None = None) -> tuple[Path, ReleaseSpec]:
    """As :func:`find_spec`, for what loads the model: its folder, and the release with its model's files checked.

    Raises:
        SpecError: There is none, or more than one, or it is wrong, or a file of the model is not there.
    """
    if file is None:
        file, _ = _find(model)
    return (file if file.is_dir() else file.parent).resolve(), _of_model(model, file, read_spec(file))


def _of_model(model: str, file: Path, spec: ReleaseSpec) -> ReleaseSpec:
    if spec.name != model:
        raise SpecError(f"{file}: is the release of {spec.name}, not of {model}; name the other, or its file.")
    return spec


def _find(model: str) -> tuple[Path, ReleaseSpec]:
    found = find_specs()
    named = {path: spec for path, spec in found.specs.items() if spec.name == model}
    if len(named) == 1:
        return next(iter(named.items()))
    if named:
        raise SpecError(f"{len(named)} files have a release of {model}: {_list(named)}; say which with --spec.")
    known = f"the models there are {_list(sorted({spec.name for spec in found.specs.values()}))}"
    problems = f" Not readable: {' '.join(found.broken)}" if found.broken else ""
    raise SpecError(
        f"no {FILE} below {project_folder()} has a release of {model}; "
        f"{known if found.specs else 'there is none of any model'}. Name its file with --spec.{problems}"
    )


def chosen_specs(models: tuple[str, ...], file: Path | None = None) -> tuple[list[ReleaseSpec], list[str]]:
    """The releases of the models that are named, of all of the project where none is; and what is wrong with others.

    Raises:
        SpecError: One that is named is not there, or wrong; or the project has none at all.
    """
    if file is not None and len(models) != 1:
        raise SpecError("--spec names the file of one MODEL; name that, too.")
    if models:
        return [find_spec(model, file) for model in dict.fromkeys(models)], []
    found = find_specs()
    need_one(found)
    return sorted(found.specs.values(), key=lambda spec: spec.name), list(found.broken)


def need_one(found: Found) -> None:
    """Nothing where the project has a release.

    Raises:
        SpecError: It has none: most likely this is another folder.
    """
    if not found.specs and not found.broken:
        raise SpecError(
            f"there is no release below {project_folder()}; go to the project's folder, or to the one in which its "
            "releases lie, if that is not where tool.dg.project of its pyproject.toml says."
        )


def _list(names: Iterable[object]) -> str:
    return ", ".join(str(name) for name in names)
