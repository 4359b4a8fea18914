"""Where the releases of a project are: their files, without reading what is in them."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_PACKAGED: Final = Path(__file__).parents[1] / "defs"
FILE: Final = "defs.yaml"
#: Every YAML of a release says this somewhere; a quick look saves reading the others.
_COMPONENT: Final = "ReleasePipelineComponent"
#: Folders with very many files and no release of the user's own.
_NEVER: Final = ("node_modules", "site-packages", "__pycache__")


def spec_files(folder: Path | None = None) -> list[Path]:
    """The YAML of all releases below ``folder``, the current one by default; those of the package if it has none."""
    return _releases(folder or Path.cwd()) or _releases(_PACKAGED)


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
