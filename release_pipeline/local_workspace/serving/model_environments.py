"""The Python that a served model runs in: the workspace's own, or one with exactly what the model was logged with.

The second is built by uv, as the service builds a container: once for equal requirements, before the first process
that needs it starts, with uv's lines in the entity's build log. Where packages come from is what the user set up for
uv or for pip.
"""

import asyncio
import hashlib
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from release_pipeline.local_workspace.settings import Settings
from release_pipeline.package_index import uv_variables

#: What a scoring process needs beside what was logged, which has mlflow.
OWN_REQUIREMENTS: Final = ("starlette", "uvicorn")
MARKER: Final = "complete"
LAST_LINES: Final = 20
_CREDENTIALS = re.compile(r"://[^/@\s]+@")
# What uv and pip need of whoever started the server to find packages; the rest of the environment is not theirs.
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "SSL_CERT_FILE", "NETRC")
_PREFIXES = ("UV_", "PIP_", "XDG_", "HTTP_", "HTTPS_", "ALL_", "NO_", "http_", "https_", "all_", "no_")


class EnvironmentFailed(Exception):
    """The requirements of a model cannot be installed; the message names what is in the way."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@dataclass(frozen=True)
class Interpreter:
    """A Python for scoring processes.

    Attributes:
        executable: Its path.
        package_folder: The folder in which it finds this package, and nothing else; None: as it is set up.
    """

    executable: str
    package_folder: Path | None = None

    def variables(self, inherited: dict[str, str]) -> dict[str, str]:
        """Environment variables of a process, without those that would bring the server's own packages in."""
        if self.package_folder is None:
            return inherited
        kept = {name: value for name, value in inherited.items() if name not in ("VIRTUAL_ENV", "PYTHONHOME")}
        folder = str(Path(self.executable).parent)
        return kept | {
            "PYTHONPATH": str(self.package_folder),
            "PATH": os.pathsep.join(filter(None, (folder, kept.get("PATH")))),
        }


class ModelEnvironments:
    """The interpreters of all served models of a workspace."""

    def __init__(self, settings: Settings) -> None:
        self._logged = settings.logged_environments
        self._folder = settings.data_dir / "serving" / "environments"
        self._locks: dict[str, asyncio.Lock] = {}

    async def python(self, model_path: Path | None, note: Callable[[str], None]) -> Interpreter:
        """The interpreter for a model, built first where that is needed.

        Args:
            model_path: Folder of the MLmodel file; None for what is no model.
            note: Takes lines for the build log.

        Raises:
            EnvironmentFailed: The requirements are missing, or cannot be installed.
        """
        if not self._logged or model_path is None:
            return Interpreter(sys.executable)
        requirements, version = model_path / "requirements.txt", _python_version(model_path)
        if not requirements.exists():
            raise EnvironmentFailed("The model was logged without requirements.txt; log it again with mlflow.")
        digest = _digest(requirements, version)
        folder = self._folder / digest
        async with self._locks.setdefault(digest, asyncio.Lock()):
            if not (folder / MARKER).exists():
                note(f"Building environment {digest} from the logged requirements, Python {version}.")
                await self._build(folder, requirements, version, note)
                (folder / MARKER).touch()
            note(f"Environment {digest} is there.")
        return Interpreter(str(_executable(folder)), self._package_folder())

    async def _build(self, folder: Path, requirements: Path, version: str, note: Callable[[str], None]) -> None:
        from uv import find_uv_bin

        uv = find_uv_bin()
        variables = await asyncio.to_thread(_package_settings)
        await _run([uv, "venv", "--no-project", "--clear", "--python", version, str(folder)], None, variables, note)
        install = [uv, "pip", "install", "--python", str(_executable(folder)), "--requirements", str(requirements)]
        # Requirements may name files beside them.
        await _run([*install, *OWN_REQUIREMENTS], requirements.parent, variables, note)

    def _package_folder(self) -> Path:
        """A folder with a link to this package alone: what is installed beside it is not the model's."""
        folder = self._folder / "package"
        package = Path(__file__).parents[2]
        link = folder / package.name
        if not link.is_symlink() or link.resolve() != package:
            folder.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(package, target_is_directory=True)
        return folder


async def _run(command: list[str], folder: Path | None, variables: dict[str, str], note: Callable[[str], None]) -> None:
    """Run uv and note what it prints.

    Raises:
        EnvironmentFailed: It failed; the message is what it printed at the end.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=folder,
        env=variables,
        start_new_session=True,
    )
    lines: list[str] = []
    try:
        assert process.stdout is not None
        while raw := await process.stdout.readline():
            # An index may be written with its password.
            line = _CREDENTIALS.sub("://***@", raw.decode(errors="replace").rstrip())
            if line:
                lines.append(line)
                note(line)
        code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if code:
        said = " ".join(line.strip() for line in lines[-LAST_LINES:])
        raise EnvironmentFailed(f"The logged requirements could not be installed: {said or f'uv ended with {code}'}")


def _python_version(model_path: Path) -> str:
    """``major.minor`` of the Python that the model was logged with; this one's where it does not say."""
    import yaml

    file = model_path / "python_env.yaml"
    document = yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else {}
    wanted = str((document or {}).get("python") or "") or f"{sys.version_info.major}.{sys.version_info.minor}"
    return ".".join(wanted.split(".")[:2])


def _digest(requirements: Path, version: str) -> str:
    text = "\n".join([version, *OWN_REQUIREMENTS, requirements.read_text(encoding="utf-8")])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _executable(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def _package_settings() -> dict[str, str]:
    """The variables for uv: those of this process, and before them what pip is set up with. Blocks."""
    own = {name: value for name, value in os.environ.items() if name in _INHERITED or name.startswith(_PREFIXES)}
    return uv_variables() | own
