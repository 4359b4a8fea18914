"""Where the releases of a project are: their files, without reading what is in them."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

FILE: Final = "defs.yaml"
#: Every YAML of a release says this somewhere; a quick look saves reading the others.
_COMPONENT: Final = "ReleasePipelineComponent"
#: Folders with very many files and no release of the user's own.
_NEVER: Final = ("node_modules", "site-packages", "__pycache__")
#: Environment variable: the module of the code location, as the image sets it, where the project is installed.
MODULE: Final = "RELEASE_PIPELINE_MODULE"


def project_folder() -> Path:
    """Where a project's releases are looked for: in the package that `MODULE` names, else in the current folder."""
    package = os.environ.get(MODULE, "").partition(".")[0]
    found = importlib.util.find_spec(package) if package else None
    places = found.submodule_search_locations if found else None
    return Path(places[0]) if places else Path.cwd()


def spec_files() -> list[Path]:
    """The YAML of all releases of the project."""
    return _releases(project_folder())


def _releases(folder: Path) -> list[Path]:
    return [file for file in _files(folder) if _may_be_one(file)]


def _may_be_one(file: Path) -> bool:
    try:
        return _COMPONENT in file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True  # whoever reads it says what is wrong with it


def _files(folder: Path) -> Iterator[Path]:
    for path, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _NEVER)
        if FILE in files:
            yield (Path(path) / FILE).resolve()
