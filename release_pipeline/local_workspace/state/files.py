"""Where the files of the Files API lie on this machine's disk."""

import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from release_pipeline.local_workspace.errors import ApiError, Conflict, InvalidParameter

LONGEST_PATH: Final = 2_000
"""Bytes of a path; what systems take in all, data folder included, is 4,096."""


@dataclass(frozen=True)
class Entry:
    """One line of a directory listing; ``modified_ms`` counts from the Unix epoch, ``size`` is None for a folder."""

    path: str
    name: str
    is_directory: bool
    size: int | None
    modified_ms: int


class FileStore:
    """The tree under ``<data_dir>/files``, addressed by absolute API paths such as ``/Models/main/ml/agent/3``.

    A file appears whole or not at all: it is written under ``<data_dir>/uploads`` and renamed into its place.
    """

    def __init__(self, data_dir: Path) -> None:
        self._root = data_dir / "files"
        self._uploads = data_dir / "uploads"
        # Left behind by a server that was killed in the middle of an upload.
        shutil.rmtree(self._uploads, ignore_errors=True)
        self._root.mkdir(parents=True, exist_ok=True)
        self._uploads.mkdir()

    def local_path(self, path: str) -> Path:
        """The place on disk of an API path, whether something is there or not.

        Raises:
            InvalidParameter: The path is not absolute, or a part of it is ``.`` or ``..``, too long, or holds a
                backslash, a NUL or half a surrogate pair.
        """
        parts = [part for part in path.split("/") if part]
        if not path.startswith("/") or not parts:
            raise InvalidParameter(f"The path {path!r} must be absolute and name something below the root.")
        if len(path.encode(errors="replace")) > LONGEST_PATH:
            raise InvalidParameter(f"A path has at most {LONGEST_PATH} bytes; this one begins with {path[:80]!r}.")
        for part in parts:
            if part in (".", "..") or "\\" in part or "\0" in part or not _is_text(part) or len(part.encode()) > 255:
                raise InvalidParameter(f"The path {path!r} holds the part {part!r}, which is not allowed.")
        return self._root.joinpath(*parts)

    def new_upload(self) -> Path:
        """A fresh name for a file that is still being written; give it to :meth:`publish` or delete it."""
        return self._uploads / uuid.uuid4().hex

    def publish(self, upload: Path, path: str, *, overwrite: bool) -> None:
        """Moves a finished upload to its path, in one step.

        Raises:
            ApiError: 409 ALREADY_EXISTS when a file is there and ``overwrite`` is false.
            Conflict: The path is a folder, or one of its parents is a file.
        """
        target = self.local_path(path)
        if target.is_dir():
            raise Conflict(f"The path {path} is a directory; a file cannot take its place.")
        self._make_parents(target, path)
        if overwrite:
            os.replace(upload, target)
            return
        try:
            os.link(upload, target)
        except FileExistsError:
            message = f"The file {path} exists already; pass overwrite=true to replace it."
            raise ApiError(message, status=409, error_code="ALREADY_EXISTS") from None
        upload.unlink()

    def make_directory(self, path: str) -> None:
        """Creates a folder and its parents; nothing happens when it exists.

        Raises:
            Conflict: The path, or one of its parents, is a file.
        """
        target = self.local_path(path)
        self._make_parents(target / "child", path)

    def entries(self, path: str) -> list[Entry] | None:
        """What lies directly in a folder, by name; None when there is no folder of that path."""
        folder = self.local_path(path)
        base = "/" + folder.relative_to(self._root).as_posix()
        try:
            with os.scandir(folder) as found:
                return sorted((_entry(base, item) for item in found), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def remove_tree(self, path: str) -> None:
        """Deletes a folder with everything in it; nothing happens when it does not exist."""
        shutil.rmtree(self.local_path(path), ignore_errors=True)

    def _make_parents(self, target: Path, path: str) -> None:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise Conflict(f"The path {path} has a parent that is a file; nothing can be below a file.") from None


def _is_text(part: str) -> bool:
    try:
        part.encode()
    except UnicodeEncodeError:
        return False
    return True


def _entry(base: str, item: "os.DirEntry[str]") -> Entry:
    status = item.stat()
    is_directory = item.is_dir()
    size = None if is_directory else status.st_size
    return Entry(f"{base}/{item.name}", item.name, is_directory, size, int(status.st_mtime * 1000))
