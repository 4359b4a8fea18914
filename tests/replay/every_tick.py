"""The same as the virtual clock, slowly and plainly: row by row, a look at every tick, nothing skipped."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from release_pipeline.gate.betting import log_e_value
from release_pipeline.gate.decision import decide, decide_first_release
from release_pipeline.gate.evidence import Bet, EvidenceState
from release_pipeline.gate.observations import Observation, Series, slice_seconds
from release_pipeline.gate.verdict import Action, HoldReason, Signals, Verdict
from release_pipeline.replay_log.frozen import Frozen
from release_pipeline.replay_log.log_table import ReleaseRows
from release_pipeline.replay_log.virtual_clock import ClockOptions
from release_pipeline.spec import ReleaseSpec

Path = dict[Series, list[tuple[float, int, float, float]]]


@dataclass
class Ended:
    verdict: Verdict
    at: float
    step: int | None
    requests: tuple[int, int]
    advances: list[tuple[int, float]]
    path: Path


def every_tick(rows: ReleaseRows, frozen: Frozen, spec: ReleaseSpec, options: ClockOptions) -> Ended:
    gate, start = spec.gate, frozen.started_at
    by_name = {metric.name: metric for metric in gate.metrics}
    state = EvidenceState.start(frozen.baselines, gate, buckets=frozen.buckets)
    order = [index for index in range(len(rows.arrived)) if rows.arrived[index] >= start]
    last = max(1, math.ceil((rows.arrived[order[-1]] - start) / options.tick_seconds)) if order else 1
    given = rows.percent is not None and options.step is None and not frozen.first_release
    step = options.step or 0
    starts = {step: start}
    advances: list[tuple[int, float]] = []
    longest, place, lags, watermark = 0.0, 0, list[float](), -math.inf
    requests = [0, 0]
    path: Path = {series: [] for series in frozen.bins}
    shown: dict[Series, Any] = {}
    known_percents = [100.0] if rows.percent is None else sorted(set(rows.percent))
    for tick in range(1, last + 1):
        now = start + tick * options.tick_seconds
        fresh = []
        while (
            place < len(order)
            and max(1, math.ceil((rows.arrived[order[place]] - start) / options.tick_seconds)) <= tick
        ):
            fresh.append(order[place])
            place += 1
        if given:
            assert rows.percent is not None
            for number, percent in enumerate(spec.ramp.steps):
                first = rows.requested[(rows.percent == percent) & rows.answered & rows.first]
                if percent in known_percents and len(first) and first.min() <= now:
                    step, starts[number] = number, float(first.min())
        if fresh:
            counts: dict[Series, dict[tuple[int, float], Any]] = {series: {} for series in frozen.bins}
            delays, brought = [0.0], False
            for index in fresh:
                in_step = rows.requested[index] >= start
                if rows.percent is not None:
                    in_step = 0 < rows.percent[index] < 100
                evidence = in_step and rows.answered[index]
                brought |= bool(rows.first[index] or not evidence)
                if not (rows.first[index] and evidence):
                    continue
                if given:
                    of = spec.ramp.steps.index(int(rows.percent[index]))  # type: ignore[index]
                else:
                    of = max(number for number, at in starts.items() if at <= rows.requested[index])
                delays.append(float(rows.arrived[index] - rows.requested[index]))
                requests[int(rows.challenger[index])] += 1
                for series, values in frozen.bins.items():
                    bins, length = by_name[series.metric].bins, slice_seconds(frozen.buckets[series.metric])
                    if values[index] == -2:
                        continue
                    key = (of, math.floor(rows.requested[index] / length) * length)
                    cell = counts[series].setdefault(key, [[0] * bins, [0] * bins, [0, 0]])
                    if values[index] == -1:
                        cell[2][int(rows.challenger[index])] += 1
                    else:
                        cell[int(rows.challenger[index])][values[index]] += 1
            longest = max(longest, *delays)
            if brought:
                lags = [*lags, max(delays)][-5:]
            trailing = (
                min(longest, 60 * gate.max_lag_minutes) if options.watermark_lag is None else options.watermark_lag
            )
            if brought:
                watermark = max(watermark, max(rows.arrived[index] for index in fresh) - trailing)
            state = state.add(_observations(counts, tick, step, watermark, by_name))
        moment = {"now": now, "step_started_at": starts[step], "ramp_started_at": start}
        moment["lag_seconds"] = max(lags) if lags else None
        share = spec.ramp.steps[step] / 100
        if frozen.first_release:
            verdict = decide_first_release(state, Signals(configured_share=1.0, **moment), spec)
        else:
            verdict = decide(state, Signals(configured_share=share, **moment), spec, step)
            if verdict.reason == HoldReason.SHARE_MISMATCH and not given:
                most = max(verdict.metrics, key=lambda metric: metric.champion_n + metric.challenger_n)
                share = most.challenger_n / (most.champion_n + most.challenger_n)
                verdict = decide(state, Signals(configured_share=share, **moment), spec, step)
        for series in path:
            margin = by_name[series.metric].margin is not None and not frozen.first_release
            harm = state.metric(*series).account(Bet.HARM if margin else Bet.ABOVE)
            good = state.metric(*series).account(Bet.NONINFERIORITY if margin else Bet.BELOW)
            won = harm.carried(), good.carried()
            if won != shown.get(series, ((0.0,) * 16, (0.0,) * 16)):
                shown[series] = won
                logs = (float(log_e_value(np.asarray(each))) for each in (won[0], good.at(step)))
                path[series].append((now, step, *(math.exp(min(700.0, log)) for log in logs)))
        if verdict.action is Action.ADVANCE and options.step is None:
            if step not in [number for number, _ in advances]:
                advances.append((step, now))
            if not given and tick < last:
                step += 1
                starts[step] = now
        elif verdict.action is not Action.HOLD:
            break
    final = None if frozen.first_release else step
    return Ended(verdict, now, final, (requests[0], requests[1]), advances, path)


def _observations(counts: Any, tick: int, step: int, watermark: float, by_name: Any) -> list[Observation]:
    found = []
    for series, cells in counts.items():
        bins = by_name[series.metric].bins
        for (of, bucket), (old, new, unjudged) in (
            cells or {(step, watermark): ([0] * bins, [0] * bins, [0, 0])}
        ).items():
            found.append(
                Observation(
                    ingest=tick, step=of, bucket_start=bucket, metric=series.metric, segment=series.segment,
                    champion=tuple(old), challenger=tuple(new), champion_unjudged=unjudged[0],
                    challenger_unjudged=unjudged[1], from_version=tick, to_version=tick, watermark=watermark,
                )
            )  # fmt: skip
    return found
