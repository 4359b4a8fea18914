"""The evidence table: what was seen of every release, append-only, in the workspace beside the inference table.

One row per ingest, per (step, bucket, metric) with the counts of both arms, per frozen level and per entity mapping.
A fold over the rows gives the gate's state, so every decision can be replayed from them.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from release_pipeline.errors import OutOfTime, StatementFailed, TableMissing
from release_pipeline.workspace.sql.warehouse import Row, Value, Warehouse, parse_timestamp, quoted

_COLUMNS: Mapping[str, str] = {
    "release": "STRING",
    "ingest": "BIGINT",
    "kind": "STRING",
    "at": "TIMESTAMP",
    "step": "INT",
    "bucket_start": "DOUBLE",
    "metric": "STRING",
    "segment": "STRING",
    "champion": "STRING",
    "challenger": "STRING",
    "from_version": "BIGINT",
    "to_version": "BIGINT",
    "watermark": "DOUBLE",
    "lag_seconds": "DOUBLE",
    "log_capitals": "STRING",
    "detail": "STRING",
    "writer": "STRING",
}
# A column's value out of a line.
_FIELD: Mapping[str, str] = {
    "STRING": "get_json_object(rp_line, '$.{0}')",
    "TIMESTAMP": "timestamp_micros(CAST(get_json_object(rp_line, '$.{0}') AS BIGINT))",
    **{kind: f"CAST(get_json_object(rp_line, '$.{{0}}') AS {kind})" for kind in ("BIGINT", "INT", "DOUBLE")},
}
#: A tick reads at most this many ingests, however long the release is.
SNAPSHOT_EVERY = 25
# A release has two served entities, and needs no others.
_ENTITIES = 200
# Tracers are sent by twos, at the beginning of a step, and again while an entity is not known.
_TRACERS = 500
#: The ingest of rows that belong to none.
NO_INGEST = -1
# Rows per INSERT; one parameter carries them all.
_ROWS_PER_INSERT = 500


@dataclass(frozen=True)
class EvidenceRow:
    """One row. ``champion`` and ``challenger`` are counts per value bin; ``log_capitals`` are after this ingest.

    ``kind`` is ``baseline``, ``mapping``, ``block``, ``snapshot`` or ``ingest``; an ingest is complete once its
    ``ingest`` row exists, which is written last. Every :data:`SNAPSHOT_EVERY`-th ingest carries a snapshot. A row of
    the kind ``tracer`` belongs to no ingest: it holds the id of a tracer that is about to be sent.
    """

    release: str
    ingest: int
    kind: str
    at: datetime
    step: int = 0
    bucket_start: float = 0.0
    metric: str = ""
    segment: str = ""
    champion: tuple[int, ...] = ()
    challenger: tuple[int, ...] = ()
    from_version: int = 0
    to_version: int = 0
    watermark: float = 0.0
    lag_seconds: float = 0.0
    log_capitals: Mapping[str, Sequence[float]] = field(default_factory=dict)
    detail: Mapping[str, Any] = field(default_factory=dict)
    writer: str = ""


class Known(NamedTuple):
    """What is known of served entities and tracers.

    Attributes:
        mapping: Version by served entity id, from the tracers of all releases: of each id the newest.
        of_release: The same from those of one release.
        tracers: When each tracer was noted, by the id of those that were sent, the newest of all releases.
    """

    mapping: Mapping[str, str]
    of_release: Mapping[str, str]
    tracers: Mapping[str, datetime]


class EvidenceTable:
    """The evidence of one model's releases."""

    def __init__(self, warehouse: Warehouse, name: str) -> None:
        self._warehouse = warehouse
        self.name = name

    def create(self) -> None:
        """Create the table where it does not exist; add the columns that one of an earlier version lacks."""
        columns = ", ".join(f"{name} {kind}" for name, kind in _COLUMNS.items())
        self._warehouse.execute(
            f"CREATE TABLE IF NOT EXISTS {quoted(self.name)} ({columns}) "
            "COMMENT 'What the gate saw of the releases of this model; append-only.'"
        )
        lacking = self._lacking()
        if lacking:
            added = ", ".join(f"{name} {_COLUMNS[name]}" for name in lacking)
            try:
                self._warehouse.execute(f"ALTER TABLE {quoted(self.name)} ADD COLUMNS ({added})")
            except StatementFailed:
                if self._lacking():  # nobody else has added them at the same time
                    raise

    def _lacking(self) -> list[str]:
        rows = self._warehouse.execute(f"DESCRIBE TABLE {quoted(self.name)}")
        there = {(row["col_name"] or "").lower() for row in rows}
        return [name for name in _COLUMNS if name not in there]

    def read(self, release: str) -> list[EvidenceRow]:
        """All complete ingests of a release in order, the first writer's where two wrote the same one."""
        return self._complete("release = :release", {"release": release})

    def read_newest(self, release: str) -> list[EvidenceRow]:
        """Ingest 0, and the ingests since the newest snapshot, with it: enough to know the state."""
        last = f"(SELECT max(ingest) FROM {quoted(self.name)} WHERE release = :release AND kind = 'ingest')"
        return self._complete(
            f"release = :release AND (ingest = 0 OR ingest >= {last} - {last} % {SNAPSHOT_EVERY})",
            {"release": release},
        )

    def _complete(self, where: str, parameters: Mapping[str, Value]) -> list[EvidenceRow]:
        try:
            rows = self._select(where, parameters)
        except TableMissing:
            return []
        winner: dict[int, str] = {}
        for row in rows:
            if row.kind == "ingest":
                winner.setdefault(row.ingest, row.writer)
        return [row for row in rows if winner.get(row.ingest) == row.writer]

    def mapping(self) -> dict[str, str]:
        """Version by served entity id, from the tracers of all releases: of each id the newest, of the newest ids."""
        return dict(self.known("").mapping)

    def known(self, release: str) -> Known:
        """Which versions served entities are, and which tracers were sent; one statement for both."""
        entity, version, tracer = (
            f"get_json_object(detail, '$.{name}')" for name in ("served_entity_id", "version", "tracer")
        )
        try:
            rows = self._warehouse.execute(
                f"""
                WITH noted AS (
                    SELECT kind, coalesce({entity}, {tracer}) AS id, release = :release AS own,
                        max_by({version}, at) AS version, max(at) AS at
                    FROM {quoted(self.name)} WHERE kind IN ('mapping', 'tracer') GROUP BY 1, 2, 3
                ), numbered AS (
                    SELECT *, row_number() OVER (PARTITION BY kind, own ORDER BY at DESC, id) AS number FROM noted
                )
                SELECT kind, id, own, version, at FROM numbered
                WHERE number <= CASE WHEN kind = 'tracer' THEN {_TRACERS} ELSE {_ENTITIES} END
                ORDER BY at, own, id
                """,
                {"release": release},
            )
        except TableMissing:
            return Known({}, {}, {})
        found = [
            (row["id"] or "", row["version"] or "", row["own"] == "true") for row in rows if row["kind"] != "tracer"
        ]
        return Known(
            {entity: version for entity, version, _ in found},
            {entity: version for entity, version, own in found if own},
            {row["id"] or "": parse_timestamp(row["at"] or "") for row in rows if row["kind"] == "tracer"},
        )

    def note_tracers(self, release: str, tracers: Mapping[str, str], at: datetime) -> None:
        """Note tracers that are about to be sent; the table is made where it does not exist, or not as it should be.

        Args:
            release: Whose they are.
            tracers: Version by the tracer's id.
            at: Now.

        Raises:
            StatementFailed: They could not be noted, so that none may be sent.
        """
        rows = [
            EvidenceRow(release, NO_INGEST, "tracer", at, detail={"tracer": tracer, "version": version})
            for tracer, version in tracers.items()
        ]
        try:
            self.append(rows)
        except OutOfTime:
            raise
        except StatementFailed:  # there is no table yet, or one of an earlier version that lacks columns
            self.create()
            self.append(rows)

    def append(self, rows: Sequence[EvidenceRow]) -> None:
        """Append one ingest, its ``ingest`` row last, unless that ingest is there already."""
        writer = uuid.uuid4().hex
        for start in range(0, len(rows), _ROWS_PER_INSERT):
            self._insert(rows[start : start + _ROWS_PER_INSERT], writer)

    def _insert(self, rows: Sequence[EvidenceRow], writer: str) -> None:
        table, names = quoted(self.name), ", ".join(_COLUMNS)
        fields = ", ".join(f"{_FIELD[kind].format(name)} AS {name}" for name, kind in _COLUMNS.items())
        self._warehouse.execute(
            f"INSERT INTO {table} ({names}) SELECT {fields} "
            "FROM (SELECT explode(split(:lines, '\\n')) AS rp_line) AS fresh "
            f"WHERE NOT EXISTS (SELECT 1 FROM {table} AS old WHERE old.release = :this_release "
            "AND old.ingest = :this_ingest AND old.kind = 'ingest')",
            {
                "lines": "\n".join(json.dumps(_write(row, writer)) for row in rows),
                "this_release": rows[0].release,
                "this_ingest": rows[0].ingest,
            },
        )

    def _select(self, where: str, parameters: Mapping[str, Value]) -> list[EvidenceRow]:
        found = self._warehouse.execute(f"SELECT * FROM {quoted(self.name)} WHERE {where}", parameters)
        # Not in the statement: a table of an earlier version may lack some of the columns.
        return sorted(map(_read, found), key=_order)


def _order(row: EvidenceRow) -> tuple[int, datetime, str, str, str, str, int, float]:
    return (row.ingest, row.at, row.writer, row.kind, row.metric, row.segment, row.step, row.bucket_start)


def _write(row: EvidenceRow, writer: str) -> dict[str, str]:
    """A row as the texts that the statement casts: JSON has no number for the time before the first rows, -inf."""
    return {
        "release": row.release,
        "ingest": str(row.ingest),
        "kind": row.kind,
        "at": str((row.at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)),
        "step": str(row.step),
        "bucket_start": repr(float(row.bucket_start)),
        "metric": row.metric,
        "segment": row.segment,
        "champion": json.dumps(row.champion),
        "challenger": json.dumps(row.challenger),
        "from_version": str(row.from_version),
        "to_version": str(row.to_version),
        "watermark": repr(float(row.watermark)),
        "lag_seconds": repr(float(row.lag_seconds)),
        "log_capitals": json.dumps(row.log_capitals),
        "detail": json.dumps(row.detail, sort_keys=True),
        "writer": writer,
    }


def _read(row: Row) -> EvidenceRow:
    return EvidenceRow(
        release=row.get("release") or "",
        ingest=int(row.get("ingest") or 0),
        kind=row.get("kind") or "",
        at=parse_timestamp(row.get("at") or ""),
        step=int(row.get("step") or 0),
        bucket_start=float(row.get("bucket_start") or 0),
        metric=row.get("metric") or "",
        segment=row.get("segment") or "",
        champion=tuple(json.loads(row.get("champion") or "[]")),
        challenger=tuple(json.loads(row.get("challenger") or "[]")),
        from_version=int(row.get("from_version") or 0),
        to_version=int(row.get("to_version") or 0),
        watermark=float(row.get("watermark") or 0),
        lag_seconds=float(row.get("lag_seconds") or 0),
        log_capitals=json.loads(row.get("log_capitals") or "{}"),
        detail=json.loads(row.get("detail") or "{}"),
        writer=row.get("writer") or "",
    )
