"""What labels and scores that come late cost a tick as tables grow; a part of `benchmarks.tick`.

One request in ten has a label, in a table of the user's with a change feed, and one in ten a judge's score. All of a
table's labels and scores lie within the release. Each tick finds as many new ones at every size: it looks up the labels
of the last hour, writes them to the score table, and counts what is new there. The first ticks also do the pass through
all older requests, a slice at a time; what the longest of them took is a figure of its own.
"""

import os
import time
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median

from benchmarks.figures import Figure
from benchmarks.serving_sides import Server, client_seconds, machine_busy_seconds
from benchmarks.tick_tables import MICROSECONDS_APART, START, first_row_at, insert, table_name
from release_pipeline.local_workspace.sql.engine import SqlEngine
from release_pipeline.rollout.table_reads import LOOK_SECONDS
from release_pipeline.spec_gate import Metric
from release_pipeline.workspace.budget import Budget
from release_pipeline.workspace.inference_table import InferenceTable, MetricPlan, Window
from release_pipeline.workspace.label_table import LabelSource
from release_pipeline.workspace.score_source import ScoreSource
from release_pipeline.workspace.score_table import Pass, ScoreTable, source_of
from release_pipeline.workspace.sql.warehouse import Warehouse
from release_pipeline.workspace.swept_source import due_pass

FLAT = 1.5
"""Goal: the slowest size over the quickest one."""
NTH = 10
"""One request in so many has a label, and one a score."""
COMMIT_ROWS = 500
"""Scores come in commits of so many."""
JUDGE = Metric(name="safe", kind="judge", scorer="Safety", settle_minutes=0)


def _label(size: int) -> Metric:
    badness = "CAST(label.wrong AS DOUBLE)"
    return Metric(name="wrong", kind="label", table=_truth(size), badness=badness, settle_minutes=0)


def _truth(size: int) -> str:
    return f"main.default.tick_{size}_truth"


def _scores(size: int) -> str:
    return f"main.default.tick_{size}_scores"


def _new_labels(size: int, first: int, end: int) -> str:
    return (
        f"INSERT INTO {_truth(size)} SELECT concat('request-', n), n % 7 = 0 FROM range({first}, {end}) AS numbers(n) "
        f"WHERE n % {NTH} = 0"
    )


def _new_scores(size: int, first: int, end: int, metric: Metric) -> str:
    at = f"timestamp_micros({int(START.timestamp())} * 1000000L + n * {MICROSECONDS_APART})"
    return (
        f"INSERT INTO {_scores(size)} SELECT '{metric.name}', concat('request-', n), {at}, "
        f"CASE WHEN n % 10 = 3 THEN 'e2' ELSE 'e1' END, NULL, (n % 4) / 4, {at}, '{source_of(metric)}' "
        f"FROM range({first}, {end}) AS numbers(n) WHERE n % {NTH} = 0"
    )


def fill_late(data_dir: Path, sizes: Iterable[int]) -> None:
    """Tables of labels and scores for inference tables that are filled; their commits are a day old."""
    engine = SqlEngine(data_dir, ("main",))
    feed = "TBLPROPERTIES ('delta.enableChangeDataFeed' = 'true')"
    for size in sizes:
        engine.execute(f"CREATE TABLE {_truth(size)} (request_id STRING, wrong BOOLEAN) {feed}")
        engine.execute(_new_labels(size, -size, 0))
        engine.execute(
            f"CREATE TABLE {_scores(size)} (metric STRING, request_id STRING, request_time TIMESTAMP, "
            f"served_entity_id STRING, segment STRING, badness DOUBLE, at TIMESTAMP, source STRING) {feed}"
        )
        for first in range(-size, 0, COMMIT_ROWS * NTH):
            for metric in (_label(size), JUDGE):
                engine.execute(_new_scores(size, first, min(first + COMMIT_ROWS * NTH, 0), metric))
        names = ", ".join(f"'{name}'" for name in (_truth(size), _scores(size)))
        with engine._transaction(write=True) as cursor:
            cursor.execute(
                "UPDATE __workspace.commits SET committed_at = committed_at - INTERVAL 1 DAY "
                f"WHERE full_name IN ({names})"
            )
    engine.close()


class _Clock:
    """Shows the event time of the newest row."""

    def __init__(self) -> None:
        self.at = START

    def now(self) -> datetime:
        return self.at


class LateTicks:
    """Ticks over labels and scores of all sizes; ``first`` is the number of the first new request."""

    def __init__(self, warehouse: Warehouse, sizes: list[int], new_rows: int, first: int, server: Server) -> None:
        self._warehouse = warehouse
        self._new_rows = new_rows
        self._first = first
        self._server = server
        self._clock = _Clock()
        self._seconds: dict[int, list[float]] = {size: [] for size in sizes}
        self._cpu: dict[int, list[float]] = {size: [] for size in sizes}
        self._passes: dict[int, list[float]] = {}
        self.other_work: list[float] = []

    def passes(self) -> None:
        """Looks until the first pass is done, at every size."""
        self._clock.at = START + self._first * timedelta(microseconds=MICROSECONDS_APART)
        for size in self._seconds:
            labels, _ = self._sources(size)
            seconds = self._passes[size] = list[float]()
            while due_pass(self._newest(size), first_row_at(size), self._clock.at) is not None:
                begin = time.perf_counter()
                labels.collect(first_row_at(size), Budget(LOOK_SECONDS))
                seconds.append(time.perf_counter() - begin)

    def turn(self, number: int) -> None:
        """New requests, labels and scores, and a tick, for every size; the first turn warms up and does not count."""
        first = self._first + number * self._new_rows
        end = first + self._new_rows
        self._clock.at = START + end * timedelta(microseconds=MICROSECONDS_APART)
        for size in list(self._seconds)[:: -1 if number % 2 else 1]:
            self._warehouse.execute(insert(table_name(size), first, end))
            before = self._sources(size)[1].latest()
            assert before is not None
            self._warehouse.execute(_new_labels(size, first, end))
            self._warehouse.execute(_new_scores(size, first, end, JUDGE))
            busy, cpu, own = machine_busy_seconds(), self._server.cpu_seconds(), client_seconds()
            begin = time.perf_counter()
            rows = self._tick(size, before.version)
            seconds = time.perf_counter() - begin
            used = self._server.cpu_seconds() - cpu
            others = machine_busy_seconds() - busy - used - (client_seconds() - own)
            if rows != 2 * self._new_rows // NTH:
                raise RuntimeError(f"a tick over {size:,} rows counted {rows} new labels and scores")
            if number:
                self._seconds[size].append(seconds)
                self._cpu[size].append(used)
                self.other_work.append(max(0.0, others / seconds / (os.cpu_count() or 1)))

    def figures(self) -> list[Figure]:
        """Time by size, the slowest over the quickest, and the longest look of a pass."""
        times = {size: median(found) for size, found in self._seconds.items()}
        return [
            *(Figure(f"late values, {size:,} rows", 1000 * seconds, "ms") for size, seconds in times.items()),
            Figure(
                "late values: slowest size / quickest size",
                max(times.values()) / min(times.values()),
                "x",
                at_most=FLAT,
            ),
            *(
                Figure(f"late values, server's processor time, {size:,} rows", 1000 * median(found), "ms")
                for size, found in self._cpu.items()
            ),
            *(Figure(f"first pass, {size:,} rows: looks", len(each), "looks") for size, each in self._passes.items()),
            *(
                Figure(f"first pass, {size:,} rows: longest look", max(each, default=0.0), "s")
                for size, each in self._passes.items()
            ),
        ]

    def _sources(self, size: int) -> tuple[LabelSource, ScoreSource]:
        """New objects, as every tick has them."""
        scores = ScoreTable(self._warehouse, _scores(size), InferenceTable(self._warehouse, table_name(size)))
        return LabelSource(_truth(size), (_label(size),), scores, self._clock), ScoreSource("s", (JUDGE,), scores)

    def _newest(self, size: int) -> Pass | None:
        labels, _ = self._sources(size)
        return labels.scores.newest_pass(labels.metrics[0], self._clock.at + timedelta(minutes=1))

    def _tick(self, size: int, after: int) -> int:
        """What a tick collects and counts; the number of its rows."""
        found = 0
        windows = [Window(0, first_row_at(size), START), Window(1, START, None)]
        for source in self._sources(size):
            source.collect(first_row_at(size), Budget(LOOK_SECONDS))
            latest = source.latest()
            assert latest is not None
            plans = [MetricPlan(metric, 300) for metric in source.metrics]
            found += source.changes(after, latest, windows=windows, plans=plans).rows
        return found
