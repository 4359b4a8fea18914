"""Finds a release's YAML by the name of its model, for commands that people type."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from release_pipeline.errors import SpecError
from release_pipeline.spec import ReleaseSpec
from release_pipeline.spec_file import read_spec

_PACKAGED: Final = Path(__file__).parents[1] / "defs"
_FILE: Final = "defs.yaml"
#: Every YAML of a release says this somewhere; a quick look saves reading the others.
_COMPONENT: Final = "ReleasePipelineComponent"
#: Folders with very many files and no release of the user's own.
_NEVER: Final = ("node_modules", "site-packages", "__pycache__")


@dataclass(frozen=True)
class Found:
    """The releases of a project.

    Attributes:
        specs: By their file.
        broken: What is wrong with files that cannot be read.
    """

    specs: dict[Path, ReleaseSpec]
    broken: tuple[str, ...]


def find_specs(folder: Path | None = None) -> Found:
    """All releases below ``folder``, the current one by default, and below ``release_pipeline/defs``."""
    specs: dict[Path, ReleaseSpec] = {}
    broken: list[str] = []
    for file in sorted({*_files(_PACKAGED), *_files(folder or Path.cwd())}):
        if _COMPONENT not in file.read_text(encoding="utf-8", errors="replace"):
            continue
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
        spec = read_spec(file, with_model=False)
        if spec.name != model:
            raise SpecError(f"{file}: is the release of {spec.name}, not of {model}; name the other, or its file.")
        return spec
    found = find_specs()
    named = {path: spec for path, spec in found.specs.items() if spec.name == model}
    if len(named) == 1:
        return next(iter(named.values()))
    if named:
        raise SpecError(f"{len(named)} files have a release of {model}: {_list(named)}; say which with --spec.")
    known = f"the models there are {_list(sorted({spec.name for spec in found.specs.values()}))}"
    problems = f" Not readable: {' '.join(found.broken)}" if found.broken else ""
    raise SpecError(
        f"no {_FILE} below {Path.cwd()} has a release of {model}; "
        f"{known if found.specs else 'there is none of any model'}. Name its file with --spec.{problems}"
    )


def _files(folder: Path) -> Iterator[Path]:
    for path, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _NEVER)
        if _FILE in files:
            yield (Path(path) / _FILE).resolve()


def _list(names: Iterable[object]) -> str:
    return ", ".join(str(name) for name in names)
