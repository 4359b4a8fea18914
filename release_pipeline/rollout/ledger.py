"""The ledger: what was meant and what happened, append-only, in the workspace beside the inference table.

A transition is written ahead: an intent, then the act, then its outcome. An intent without an outcome is open;
the next observer finishes it. What people say, and what changes nothing on the endpoint, is an event: one row that is
done as it is written. Rows are never updated or deleted.
"""

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from release_pipeline.clock import Clock
from release_pipeline.errors import StatementFailed, Superseded, TableMissing
from release_pipeline.workspace.sql.warehouse import Row, Warehouse, parse_timestamp, quoted

READ_LIMIT = 500
#: How Delta names the failure of a commit that another one came before.
_CONFLICT: Final = re.compile(r"DELTA_CONCURRENT_|Concurrent[A-Za-z]+Exception")


class Action(StrEnum):
    """What a transition does."""

    DEPLOY = "deploy"
    SET_TRAFFIC = "set_traffic"
    PROMOTE = "promote"
    RETIRE = "retire"
    ROLL_BACK = "roll_back"
    MEND = "mend"
    """Endpoint and alias are brought back to what the acts before say; where a release stands does not change."""
    QUEUE = "queue"
    """Event: the release waits for the end of another; with :attr:`Phase.FAILED` it does no longer."""
    APPROVE = "approve"
    """Event: a person approved the promotion."""
    FREEZE = "freeze"
    """Event: a guard showed harm, and the release's policy is to freeze."""
    PAUSE = "pause"
    """Event of the model: nothing moves by itself."""
    UNPAUSE = "unpause"
    """Event of the model: what may move by itself does so again."""


#: Actions that are one row, and change nothing on the endpoint or in the registry.
EVENTS: Final = frozenset({Action.QUEUE, Action.APPROVE, Action.FREEZE, Action.PAUSE, Action.UNPAUSE})


class Phase(StrEnum):
    """Whether a row says what was meant or what came of it."""

    INTENT = "intent"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Entry:
    """One row of the ledger.

    Attributes:
        release: The release's key; empty for an event of the model.
        sequence: Position in the ledger of this model, from 1, without gaps.
        at: When it was written.
        actor: Who or what did it: ``run:<id>`` or a user's name.
        before: What was, as far as the action changes it.
        after: What was meant to be.
        config_version: The endpoint's configuration at that time.
        evidence_digest: Digest of the evidence that the decision rests on, empty where none was needed.
        reason: One sentence.
        entry_id: Random, tells whose row won where two were written at once.
    """

    release: str
    sequence: int
    at: datetime
    actor: str
    action: Action
    phase: Phase
    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)
    config_version: int = 0
    evidence_digest: str = ""
    reason: str = ""
    entry_id: str = ""


_COLUMNS = """release STRING, sequence BIGINT, at TIMESTAMP, actor STRING, action STRING, phase STRING,
    from_state STRING, to_state STRING, config_version BIGINT, evidence_digest STRING, reason STRING, entry_id STRING"""


# Delta may commit two conditional inserts that did not see each other. Of the rows of one sequence the first in this
# order counts, for everybody and for ever; the other is as if it had never been written.
_ORDER: Final = "ORDER BY sequence, at, entry_id"


class Ledger:
    """The ledger of one model."""

    def __init__(self, warehouse: Warehouse, table: str, clock: Clock) -> None:
        self._warehouse = warehouse
        self._clock = clock
        self.table = table

    def create(self) -> None:
        """Create the table where it does not exist."""
        self._warehouse.execute(
            f"CREATE TABLE IF NOT EXISTS {quoted(self.table)} ({_COLUMNS}) "
            "COMMENT 'What was meant and what happened in the releases of this model; append-only.'"
        )

    def read(self, release: str | None = None) -> list[Entry]:
        """The newest rows, all of the release that began last, and the newest pause, oldest first.

        None where the table does not exist yet. All rows of ``release`` are among them, however old it is.
        """
        table = quoted(self.table)
        paused = f"(SELECT max(sequence) FROM {table} WHERE action IN ('{Action.PAUSE}', '{Action.UNPAUSE}'))"
        began = (
            f"(SELECT min(sequence) FROM {table} WHERE release = "
            f"(SELECT max_by(release, sequence) FROM {table} WHERE action = '{Action.DEPLOY}'))"
        )
        return self._select(
            f"WHERE sequence > (SELECT max(sequence) FROM {table}) - {READ_LIMIT} OR sequence >= {began} "
            f"OR sequence = {paused}" + (" OR release = :release" if release else ""),
            {"release": release} if release else None,
        )

    def read_from(self, sequence: int) -> list[Entry]:
        """The rows from this one on, oldest first; none where the table does not exist yet."""
        return self._select("WHERE sequence >= :sequence", {"sequence": sequence})

    def read_all(self) -> list[Entry]:
        """Every row, oldest first; none where the table does not exist yet."""
        return self._select("")

    def _select(self, where: str, values: Mapping[str, Any] | None = None) -> list[Entry]:
        try:
            rows = self._warehouse.execute(f"SELECT * FROM {quoted(self.table)} {where} {_ORDER}", values)
        except TableMissing:
            return []
        entries: dict[int, Entry] = {}
        for row in rows:
            entry = _entry(row)
            entries.setdefault(entry.sequence, entry)
        return list(entries.values())

    def append(
        self,
        entries: Sequence[Entry],
        *,
        release: str,
        actor: str,
        action: Action,
        phase: Phase,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
        config_version: int = 0,
        evidence_digest: str = "",
        reason: str = "",
    ) -> Entry:
        """Append one row behind ``entries``, the rows that the writer has seen; the table must exist.

        The insert is conditional on nobody having written since, so two writers cannot both act on one state.

        Raises:
            Superseded: Somebody else has written in the meantime.
        """
        now = self._clock.now()
        entry = Entry(
            release=release,
            sequence=(entries[-1].sequence if entries else 0) + 1,
            # Results of statements have milliseconds: what is returned here equals what is read later.
            at=now.replace(microsecond=now.microsecond // 1000 * 1000),
            actor=actor,
            action=action,
            phase=phase,
            before=dict(before or {}),
            after=dict(after or {}),
            config_version=config_version,
            evidence_digest=evidence_digest,
            reason=reason,
            entry_id=uuid.uuid4().hex,
        )
        table = quoted(self.table)
        lost = Superseded(
            f"release {release}: somebody else wrote to {self.table} at the same time; "
            "nothing was changed by this run, the next tick looks again."
        )
        try:
            self._insert(entry)
        except StatementFailed as error:
            if _CONFLICT.search(str(error)):
                raise lost from error
            raise
        rows = self._warehouse.execute(
            f"SELECT entry_id FROM {table} WHERE sequence = :sequence {_ORDER}", {"sequence": entry.sequence}
        )
        if not rows or rows[0]["entry_id"] != entry.entry_id:
            raise lost
        return entry

    def _insert(self, entry: Entry) -> None:
        table = quoted(self.table)
        self._warehouse.execute(
            f"INSERT INTO {table} SELECT :release, :sequence, :at, :actor, :action, :phase, :from_state, :to_state, "
            f":config_version, :evidence_digest, :reason, :entry_id "
            f"WHERE NOT EXISTS (SELECT 1 FROM {table} WHERE sequence >= :sequence)",
            {
                "release": entry.release,
                "sequence": entry.sequence,
                "at": entry.at,
                "actor": entry.actor,
                "action": entry.action.value,
                "phase": entry.phase.value,
                "from_state": json.dumps(entry.before, sort_keys=True),
                "to_state": json.dumps(entry.after, sort_keys=True),
                "config_version": entry.config_version,
                "evidence_digest": entry.evidence_digest,
                "reason": entry.reason,
                "entry_id": entry.entry_id,
            },
        )


def _entry(row: Row) -> Entry:
    return Entry(
        release=row["release"] or "",
        sequence=int(row["sequence"] or 0),
        at=parse_timestamp(row["at"] or ""),
        actor=row["actor"] or "",
        action=Action(row["action"] or ""),
        phase=Phase(row["phase"] or ""),
        before=json.loads(row["from_state"] or "{}"),
        after=json.loads(row["to_state"] or "{}"),
        config_version=int(row["config_version"] or 0),
        evidence_digest=row["evidence_digest"] or "",
        reason=row["reason"] or "",
        entry_id=row["entry_id"] or "",
    )
