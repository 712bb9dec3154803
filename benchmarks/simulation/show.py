"""The results as a table, as JSON and as pictures."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

from rich.table import Table
from rich.text import Text

from .scenarios import SCENARIOS, Result

COLUMNS = ("p50", "p99", "p99.9", "worst", "extra load", "imbalance", "goodput", "turned away", "lost")
COLOURS = ("#2a6f9d", "#7a8694", "#d98c2b", "#c8403a")


def cells(result: Result) -> list[str]:
    """One row, for people."""
    times = [_time(t) for t in (result.p50, result.p99, result.p999, result.worst)]
    shares = [f"{result.extra:.1%}", f"{result.imbalance:.2f}", f"{result.goodput:.1%}"]
    return [*times, *shares, str(result.failed), str(result.lost)]


def table(results: list[Result]) -> Table:
    """All rows, a group for each scenario."""
    made = Table(header_style="bold", pad_edge=False, box=None)
    made.add_column("")
    for name in COLUMNS:
        made.add_column(name, justify="right", no_wrap=True)
    said = {scenario.name: scenario.what for scenario in SCENARIOS}
    scenario = ""
    for result in results:
        if result.scenario != scenario:
            scenario = result.scenario
            made.add_row(Text(f"{scenario}: {said[scenario]}", style="bold cyan"))
        made.add_row(f"  {result.way}", *cells(result))
        if result.way == "relocate" and result.peak:
            made.add_row(Text(f"    at most {result.peak} attempts in 10 ms at the worker that came back", style="dim"))
    return made


def as_json(results: list[Result], workers: int, calls: int, seed: int) -> str:
    """The same for programs; equal for equal seeds, byte for byte."""
    data = {"workers": workers, "calls": calls, "seed": seed, "results": [asdict(r) for r in results]}
    return json.dumps(data, indent=2) + "\n"


def plot(results: list[Result], path: Path) -> bool:
    """Draw p50, p99 and p99.9 of each scenario and way; False if matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(r.scenario for r in results))
    ways = list(dict.fromkeys(r.way for r in results))
    figure, axes = pyplot.subplots(2, 1, figsize=(max(4.0, 1.1 * len(names) + 1), 7), sharex=True)
    width = 0.8 / len(ways)
    for i, way in enumerate(ways):
        mine = {r.scenario: r for r in results if r.way == way}
        at = [j + (i - (len(ways) - 1) / 2) * width for j, name in enumerate(names) if name in mine]
        rows = [mine[name] for name in names if name in mine]
        axes[0].bar(at, [r.p99 for r in rows], width, color=COLOURS[i % 4], label=way)
        axes[0].scatter(at, [r.p50 for r in rows], s=8, color="black", zorder=3, label="p50" if not i else None)
        axes[0].scatter(
            at, [r.p999 for r in rows], s=14, marker="_", color="black", zorder=3, label="p99.9" if not i else None
        )
        axes[1].bar(at, [100 * r.extra for r in rows], width, color=COLOURS[i % 4])
    axes[0].set_yscale("log")
    axes[0].set_ylabel("p99, seconds")
    axes[0].legend(fontsize=8, ncols=3)
    axes[1].set_ylabel("extra load, %")
    axes[1].set_yscale("symlog", linthresh=1)
    axes[1].set_xticks(range(len(names)), names, rotation=30, ha="right")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return True


def _time(seconds: float) -> str:
    if math.isnan(seconds):
        return "-"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
