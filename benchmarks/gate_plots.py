"""The plots of docs/gate-figures.md."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.gate_results import Cell
from benchmarks.gate_traffic import Firsts, Floats

#: Releases that fell by a look are drawn at so many looks, evenly on the logarithmic axis.
_POINTS: Final = 160
_LOOKS_PER_HOUR: Final = 120


def write_plots(cells: Mapping[str, Cell], folder: Path) -> None:
    """Write gate-false-rollback.svg and gate-requests.svg, the same bytes for the same figures."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams |= {"svg.hashsalt": "gate", "svg.fonttype": "none", "font.size": 9, "axes.grid": True}
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True, layout="constrained")
    for axis, name, title in (
        (axes[0], "aa-plain", "identical versions, 1 % of errors"),
        (axes[1], "aa-week", "rates and weights drifting"),
    ):
        for rule, firsts in cells[name].firsts.items():
            hours, share = _fallen(firsts)
            axis.plot(hours, share, label=rule)
        axis.axhline(5, color="black", linewidth=0.8, linestyle=":")
        axis.set(xscale="log", xlabel="hours (120 looks each)", title=title)
    axes[0].set(ylabel="falsely rolled back, %", ylim=(0, 100))
    axes[0].legend(loc="upper left")
    _save(figure, folder / "gate-false-rollback.svg")

    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True, layout="constrained")
    for axis, names, title in (
        (axes[0], ("errors-1-5", "latency", "judge", "errors-1-2"), "worse versions, rolled back"),
        (axes[1], ("equal-2pp", "equal-1pp"), "equal versions, advanced"),
    ):
        for name in names:
            ((what, firsts),) = cells[name].firsts.items()
            requests = np.sort(firsts.requests)
            share = 100 * np.arange(1, len(requests) + 1) / len(requests)
            keep = np.unique(np.linspace(0, len(requests) - 1, _POINTS).astype(int))
            (line,) = axis.plot(requests[keep], share[keep], label=what)
            floor = cells[name].measured[0].floor
            axis.axvline(floor, color=line.get_color(), linewidth=0.8, linestyle="--")
        axis.set(xscale="log", xlabel="challenger requests (dashed: Wald's floor)", title=title)
        axis.legend(loc="lower right")
    axes[0].set(ylabel="releases decided, %", ylim=(0, 100))
    _save(figure, folder / "gate-requests.svg")


def _fallen(firsts: Firsts) -> tuple[Floats, Floats]:
    """Hours, and the percentage of releases rolled back by then."""
    last = float(firsts.look[np.isfinite(firsts.look)].max(initial=2.0))
    looks = np.unique(np.geomspace(1, max(last, 2_880.0), _POINTS).astype(int))
    share = (firsts.look[None, :] <= looks[:, None]).mean(axis=1)
    return looks / _LOOKS_PER_HOUR, 100 * share


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None})
