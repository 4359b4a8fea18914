"""The command ``replay``."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from release_pipeline.errors import SpecError
from release_pipeline.exit_codes import mistakes_are_sentences
from release_pipeline.waits import waiting


class _Share(click.ParamType[tuple[str, float]]):
    """``METRIC=SHARE``."""

    name = "METRIC=SHARE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        """Split and check."""
        metric, _, text = str(value).partition("=")
        try:
            share = float(text)
        except ValueError:
            share = -1.0
        if not metric or not 0 < share < 1:
            self.fail(f"{value!r} is no METRIC=SHARE with a share above 0 and below 1, such as errors=0.01.")
        return metric, share


@click.command()
@click.option("--spec", "spec_file", required=True, type=click.Path(path_type=Path),
              help="The release's defs.yaml.")  # fmt: skip
@click.option("--log", required=True, help="Parquet, CSV (also .gz), or a table catalog.schema.table in the workspace.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with every metric's path of e-values.")
@click.option("--tick-seconds", type=click.FloatRange(min=0, min_open=True),
              help="Time between two looks.  [default: automation.tick_seconds]")  # fmt: skip
@click.option("--watermark-lag", type=click.FloatRange(min=0),
              help="Seconds that the watermark trails the newest row.  [default: as live]")  # fmt: skip
@click.option("--min-step-seconds", type=int, help="Shortest time on a step.  [default: ramp.min_step_seconds]")
@click.option("--bucket-seconds", type=int,
              help="Length of event-time buckets.  [default: gate.bucket_seconds, or by the traffic]")  # fmt: skip
@click.option("--min-block-rows", type=int,
              help="Rows of both versions that close a block.  [default: gate.min_block_rows]")  # fmt: skip
@click.option("--alpha", type=float, help="Probability of a false rollback.  [default: gate.alpha]")
@click.option("--champion-level", type=_Share(), multiple=True,
              help="The champion's frozen level; may be repeated.  [default: from rows before the ramp]")  # fmt: skip
@click.option("--step", type=click.IntRange(min=1),
              help="Judge everything as this ramp step; 1 is the first.  [default: as verdicts go]")  # fmt: skip
@click.option("--require", multiple=True, metavar="METRIC",
              help="Must be shown before a step advances; guard or not; may be repeated.")  # fmt: skip
@click.option("--no-guard", multiple=True, metavar="METRIC", help="Does not roll back; may be repeated.")
@click.option("--champion-entity", multiple=True, metavar="ID",
              help="served_entity_id of the champion; may be repeated.")  # fmt: skip
@click.option("--challenger-entity", multiple=True, metavar="ID",
              help="served_entity_id of the challenger; may be repeated.")  # fmt: skip
def replay(spec_file: Path, log: str, as_json: bool, **options: Any) -> None:
    r"""Put logged releases through the gate, exactly as if live, on a virtual clock.

    The log has a row per request: arrived_at, request_time, request_id, arm (champion or challenger; or
    served_entity_id), status_code, execution_duration_ms, and a column per further metric with its badness from 0 to 1.
    release tells several releases apart, traffic_percent gives the steps. See docs/replay.md.

    \b
        release-pipeline replay --spec defs.yaml --log releases.parquet
        release-pipeline replay --spec defs.yaml --log main.agents.releases --min-step-seconds 60 --json

    Exit codes: 0 all is replayed, whatever the gate said; 1 the workspace's table could not be read; 2 a mistake in
    what was asked, or in the log.
    """
    with mistakes_are_sentences():
        text = _replay(spec_file, log, as_json, options)
    click.echo(text, nl=False)


def _replay(spec_file: Path, log: str, as_json: bool, options: dict[str, Any]) -> str:
    """Everything that is printed: nothing is before all releases are done."""
    from release_pipeline.replay_log.cells import CHALLENGER, CHAMPION
    from release_pipeline.replay_log.changed_spec import change_spec
    from release_pipeline.replay_log.frozen import freeze
    from release_pipeline.replay_log.log_table import LogTable
    from release_pipeline.replay_log.results import show, totals
    from release_pipeline.replay_log.virtual_clock import ClockOptions, run
    from release_pipeline.spec_file import read_spec

    spec = change_spec(
        read_spec(spec_file, with_model=False),
        {name: options[name] for name in ("bucket_seconds", "min_block_rows", "alpha")},
        {"min_step_seconds": options["min_step_seconds"]},
        require=options["require"],
        no_guard=options["no_guard"],
    )
    levels = dict(options["champion_level"])
    for name in levels:
        if name not in [metric.name for metric in spec.gate.metrics]:
            raise SpecError(f"--champion-level names {name}, which the gate does not have.")
    step = options["step"]
    if step is not None and step > len(spec.ramp.steps):
        raise SpecError(f"--step is {step}, but the ramp has {len(spec.ramp.steps)} steps.")
    both = set(options["champion_entity"]) & set(options["challenger_entity"])
    if both:
        raise SpecError(f"{sorted(both)[0]} is named by --champion-entity and by --challenger-entity; drop one.")
    arms = dict.fromkeys(options["champion_entity"], CHAMPION) | dict.fromkeys(options["challenger_entity"], CHALLENGER)
    clock = ClockOptions(
        tick_seconds=options["tick_seconds"] or spec.automation.tick_seconds,
        watermark_lag=options["watermark_lag"],
        step=None if step is None else step - 1,
    )
    results = []
    with waiting(f"reading {log}") as wait:
        table = LogTable(log, spec, arms)
        for release in wait.each(table.releases, "replaying"):
            rows = table.rows(release)
            results.append(run(rows, freeze(rows, table, spec, levels, clock.tick_seconds), spec, clock))
    if as_json:
        found = {"releases": [result.to_dict() for result in results], "totals": totals(results)}
        return json.dumps(found) + "\n"
    from io import StringIO

    from rich.console import Console

    colours = sys.stdout.isatty()
    width = Console().width if colours else 160
    console = Console(file=StringIO(), force_terminal=colours, width=width)
    with console.capture() as captured:
        show(results, console)
    return captured.get()
