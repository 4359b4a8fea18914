"""The logs of one served entity: how it was built, and what its processes printed."""

from datetime import UTC, datetime
from pathlib import Path

LOG_BYTES = 1 << 20
"""How much of a log is answered, from its end."""


class EntityLogs:
    """Two files, which all processes of an entity append to.

    Args:
        data_dir: The workspace's folder.
        entity_id: The served entity's id.
    """

    def __init__(self, data_dir: Path, entity_id: str) -> None:
        self._folder = data_dir / "serving" / "logs"
        self._entity_id = entity_id

    @property
    def runtime(self) -> Path:
        """What the processes printed."""
        return self._folder / f"{self._entity_id}.log"

    @property
    def build(self) -> Path:
        """How the entity was built and started."""
        return self._folder / f"{self._entity_id}.build.log"

    def report(self, number: int) -> Path:
        """Where a process says how its start ended."""
        return self._folder / f"{self._entity_id}.{number}.report"

    def open(self) -> None:
        """Make the folder."""
        self._folder.mkdir(parents=True, exist_ok=True)

    def note(self, line: str) -> None:
        """Add a line to the build log."""
        with self.build.open("a", encoding="utf-8") as log:
            log.write(f"{datetime.now(UTC).isoformat(timespec='milliseconds')} {line}\n")

    def read(self, *, build: bool) -> str:
        """The end of one of the logs; empty where there is none."""
        path = self.build if build else self.runtime
        if not path.exists():
            return ""
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - LOG_BYTES))
            return log.read().decode(errors="replace")

    def go_on_as(self, entity_id: str) -> None:
        """Be the logs of another creation of the entity."""
        before, self._entity_id = self._entity_id, entity_id
        for path in self._folder.glob(f"{before}.*"):
            path.rename(path.with_name(entity_id + path.name.removeprefix(before)))

    def remove(self) -> None:
        """Delete them, once no configuration mentions the entity any more."""
        for path in self._folder.glob(f"{self._entity_id}.*"):
            path.unlink(missing_ok=True)
