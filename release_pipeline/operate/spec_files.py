"""Where the releases of a project are: their files, without reading what is in them."""

import importlib.util
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

FILE: Final = "defs.yaml"
#: Every YAML of a release says one of these somewhere, the second also where its type is mistyped; a quick look saves
#: reading the others.
_RELEASE: Final = re.compile(r"ReleasePipelineComponent|^type:\s*[\"']?release_pipeline\.", re.MULTILINE)
#: Folders with very many files and no release of the user's own.
_NEVER: Final = ("node_modules", "site-packages", "__pycache__")
#: Environment variable: the module of the code location, as the image sets it, where the project is installed.
MODULE: Final = "RELEASE_PIPELINE_MODULE"


def project_folder() -> Path:
    """Where a project's releases are looked for.

    In the package that `MODULE` names; else where the ``pyproject.toml`` of the current folder tells Dagster to find
    definitions, so that an example elsewhere in the project is none of its models; else in the current folder.
    """
    package = os.environ.get(MODULE, "").partition(".")[0]
    found = importlib.util.find_spec(package) if package else None
    places = found.submodule_search_locations if found else None
    return Path(places[0]) if places else _definitions(Path.cwd()) or Path.cwd()


def dagster_project(folder: Path) -> dict[str, Any] | None:
    """What the ``pyproject.toml`` of a folder tells Dagster of its project, None where this is no such project."""
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["dg"]["project"]
        return dict(project) if project["root_module"] else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # Dagster says what is wrong with such a file


def source_folder(project: Path) -> Path:
    """Where the modules of a project are, as Dagster looks: in ``src``, where there is one."""
    return project / "src" if (project / "src").is_dir() else project


def _definitions(folder: Path) -> Path | None:
    """The folder of a Dagster project's definitions, None where this is no such project."""
    project = dagster_project(folder)
    if project is None:
        return None
    module = str(project.get("defs_module") or f"{project['root_module']}.defs")
    found = source_folder(folder).joinpath(*module.split("."))
    return found if found.is_dir() else None


def spec_files() -> list[Path]:
    """The YAML of all releases of the project."""
    return _releases(project_folder())


def _releases(folder: Path) -> list[Path]:
    return [file for file in _files(folder) if _may_be_one(file)]


def _may_be_one(file: Path) -> bool:
    try:
        return bool(_RELEASE.search(file.read_text(encoding="utf-8", errors="replace")))
    except OSError:
        return True  # whoever reads it says what is wrong with it


def _files(folder: Path) -> Iterator[Path]:
    for path, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _NEVER)
        if FILE in files:
            yield (Path(path) / FILE).resolve()
