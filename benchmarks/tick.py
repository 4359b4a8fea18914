"""What a tick of the gate costs as the inference table grows, beside the naive way of reading it.

Run as ``python -m benchmarks.tick``. Tables of several sizes get the same number of new rows, again and again; each
time one tick reads them (`InferenceTable.latest` and `changes`), and compares failures with the endpoint's counters
(`failures_logged`), from a real local workspace over HTTP. The goal: time and rows scanned are the same at every size,
within a factor. The naive way selects the release's whole table into pandas and aggregates there. Labels and scores
that come late are a part of their own, in `benchmarks.tick_late`. Sizes take turns, and every figure is a median over
the turns.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from statistics import median

import pandas as pd

from benchmarks.figures import Figure, add_json_option, report
from benchmarks.serving_sides import Server, act_on, client_seconds, machine_busy_seconds, start_workspace
from benchmarks.tick_late import LateTicks, fill_late
from benchmarks.tick_tables import START, fill, first_row_at, insert, rows_scanned, table_name
from release_pipeline.spec_gate import Metric
from release_pipeline.workspace.client import connect
from release_pipeline.workspace.inference_table import Delta, InferenceTable, MetricPlan, Window
from release_pipeline.workspace.sql.warehouse import Row, Value, Warehouse

FLAT = 1.5
"""Goal: the largest figure over the smallest one, for time and for rows scanned."""
COPIES = 100
"""Of the new rows of a turn so many more come again that came before."""
SIZES = [10**5 + blocks * 122_880 for blocks in (0, 8, 81)]
"""10^5, 10^6 and 10^7, and what makes each end at the same place of one of DuckDB's blocks of 122,880 rows."""
BETWEEN_READINGS = timedelta(seconds=30)
"""Of so long the table is compared with the endpoint's counters: a tick of the sensor."""
PAGE_ROWS = 50_000
"""Rows per statement of the naive way: a result has to fit the statement API's inline limit."""

GROUP = "get_json_object(request, '$.group')"
PLANS = (
    MetricPlan(Metric(name="errors", kind="errors"), 300),
    MetricPlan(Metric(name="slow", kind="slow"), 300, 380),
    MetricPlan(Metric(name="long", kind="expression", badness="least(length(response) / 60, 1)"), 300),
    MetricPlan(Metric(name="errors_by_group", kind="errors", segments=GROUP), 300, None, ("gold", "silver")),
)


Statements = list[tuple[str, Mapping[str, Value]]]


class Recorder(Warehouse):
    """The warehouse, and the statements of the tick that was last."""

    def __init__(self, inner: Warehouse) -> None:
        super().__init__(inner._client, inner.warehouse_id)
        self.sent: Statements = []

    def execute(self, statement: str, parameters: Mapping[str, Value] | None = None) -> list[Row]:
        """Run a statement and note it."""
        if not statement.lstrip().startswith(("DESCRIBE", "SHOW", "INSERT")):
            self.sent.append((statement, dict(parameters or {})))
        return super().execute(statement, parameters)


def main() -> int:
    """Measure, print, and return 1 when a goal is missed, 2 when the machine was too busy to tell."""
    parser = argparse.ArgumentParser(prog="benchmarks.tick", description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="rows before the ticks")
    parser.add_argument("--new-rows", type=int, default=5000, help="rows that each tick finds new")
    parser.add_argument("--repetitions", type=int, default=9, help="ticks per size")
    parser.add_argument("--naive-at-most", type=int, default=SIZES[1], help="largest size that is read the naive way")
    parser.add_argument("--late-at-most", type=int, default=SIZES[1], help="largest size with labels and scores")
    add_json_option(parser)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-tick-") as name:
        folder = Path(name)
        begin = time.perf_counter()
        fill(folder / "data", given.sizes)
        fill_late(folder / "data", late_sizes := [size for size in given.sizes if size <= given.late_at_most])
        _say(f"tables of {', '.join(f'{size:,}' for size in given.sizes)} rows: {time.perf_counter() - begin:.0f} s")
        with _workspace(folder) as server:
            bench = _Ticks(given.sizes, given.new_rows, server)
            for number in range(given.repetitions + 1):
                bench.turn(number)
            naive = [bench.naive(size) for size in given.sizes if size <= given.naive_at_most]
        # Before more rows come into the blocks that these ticks have read.
        figures = bench.figures(folder / "data")
        with _workspace(folder) as server:
            late = LateTicks(connect().warehouse, late_sizes, given.new_rows, bench.end, server)
            late.passes()
            for number in range(given.repetitions + 1):
                late.turn(number)
        figures += [*(late.figures() if late_sizes else []), *naive]
        return report("tick", figures, given.json, other_work=median([*bench.other_work, *late.other_work]))


@contextmanager
def _workspace(folder: Path) -> Iterator[Server]:
    """A server on the folder's tables, to which this process's clients speak."""
    server, url, token = start_workspace(folder)
    act_on(url, token, folder)
    try:
        yield server
    finally:
        server.stop()


class _Ticks:
    """Ticks over tables of all sizes."""

    def __init__(self, sizes: list[int], new_rows: int, server: Server) -> None:
        self._new_rows = new_rows
        self._server = server
        self.warehouse = Recorder(connect().warehouse)
        self._seconds: dict[int, list[float]] = {size: [] for size in sizes}
        self._cpu: dict[int, list[float]] = {size: [] for size in sizes}
        self._statements: dict[int, list[Statements]] = {size: [] for size in sizes}
        self.end = 0
        self.other_work: list[float] = []

    def turn(self, number: int) -> None:
        """New rows and a tick for every size; the first turn warms up and does not count."""
        # Every other turn backwards, so that no size always follows the same one.
        for size in list(self._seconds)[:: -1 if number % 2 else 1]:
            table = InferenceTable(self.warehouse, table_name(size))
            before = table.latest()
            assert before is not None
            first = number * self._new_rows
            self.end = first + self._new_rows
            self.warehouse.execute(insert(table.name, first - COPIES, self.end))
            self.warehouse.sent.clear()
            busy, cpu, own = machine_busy_seconds(), self._server.cpu_seconds(), client_seconds()
            begin = time.perf_counter()
            delta = self._tick(size, before.version)
            seconds = time.perf_counter() - begin
            used = self._server.cpu_seconds() - cpu
            if delta.rows != self._new_rows or delta.duplicates != COPIES:
                raise RuntimeError(f"a tick over {size:,} rows counted {delta.rows} new ones, not {self._new_rows}")
            if not number:
                continue
            self._statements[size].append(list(self.warehouse.sent))
            self._seconds[size].append(seconds)
            self._cpu[size].append(used)
            others = machine_busy_seconds() - busy - used - (client_seconds() - own)
            self.other_work.append(max(0.0, others / seconds / (os.cpu_count() or 1)))
            _say(f"{size:,} rows: {1000 * seconds:.0f} ms, {1000 * used:.0f} ms of the server's processor time")

    def _tick(self, size: int, after: int) -> Delta:
        """What a tick reads, with a new table object as every tick has one."""
        table = InferenceTable(self.warehouse, table_name(size))
        latest = table.latest()
        assert latest is not None
        windows = [Window(0, first_row_at(size), START), Window(1, START, None)]
        delta = table.changes(after, latest, first_version=1, windows=windows, plans=PLANS)
        newest = first_row_at(-self.end)
        table.failures_logged(newest - BETWEEN_READINGS, newest)
        return delta

    def naive(self, size: int) -> Figure:
        """The same counts from the release's whole table in pandas."""
        columns = "databricks_request_id, request_time, status_code, execution_duration_ms, request, response"
        name, pages = table_name(size), []
        begin = time.perf_counter()
        for page in range(-size, self.end, PAGE_ROWS):
            start, end = (first_row_at(-number) for number in (page, page + PAGE_ROWS))
            pages.append(
                pd.DataFrame(
                    self.warehouse.execute(
                        f"SELECT {columns}, served_entity_id FROM {name} WHERE request_time >= :start AND "
                        "request_time < :end",
                        {"start": start, "end": end},
                    )
                )
            )
        rows = pd.concat(pages).drop_duplicates("databricks_request_id")
        rows["bucket"] = pd.to_datetime(rows["request_time"]).astype("int64") // (300 * 10**9)
        rows["errors"] = rows["status_code"].astype(int) >= 400
        rows["slow"] = rows["execution_duration_ms"].astype(int) > 380
        rows["long"] = (rows["response"].str.len() / 60).clip(upper=1)
        rows.groupby(["bucket", "served_entity_id"])[["errors", "slow", "long"]].agg(["count", "sum"])
        seconds = time.perf_counter() - begin
        _say(f"{size:,} rows, the naive way: {seconds:.1f} s")
        return Figure(f"naive: all rows into pandas, {size:,} rows", seconds, "s")

    def figures(self, data_dir: Path) -> list[Figure]:
        """Time, processor time and rows scanned by size, each with its largest over its smallest."""
        # Blocks hold 122,880 rows, and a tick's rows lie in one or in two: only the median tells.
        scanned = {size: median(rows_scanned(data_dir, sent)) for size, sent in self._statements.items()}
        times = {size: median(found) for size, found in self._seconds.items()}
        return [
            *(Figure(f"tick, {size:,} rows", 1000 * seconds, "ms") for size, seconds in times.items()),
            Figure("tick: slowest size / quickest size", max(times.values()) / min(times.values()), "x", at_most=FLAT),
            *(
                Figure(f"server's processor time, {size:,} rows", 1000 * median(found), "ms")
                for size, found in self._cpu.items()
            ),
            *(Figure(f"rows scanned, {size:,} rows", rows, "rows") for size, rows in scanned.items()),
            Figure("rows scanned: most / fewest", max(scanned.values()) / min(scanned.values()), "x", at_most=FLAT),
        ]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
