"""The figures: rows, the table, the JSON file and the picture."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

VERSIONS = ("relocate-modules", "pyzmq", "msgspec", "numpy", "scipy", "scikit-learn", "execnet", "rpyc", "Pyro5")
SCALES = {
    "s": (1.0, "s"),
    "ms": (1e3, "ms"),
    "us": (1e6, "µs"),
    "MiB": (1.0, "MiB"),
    "KiB": (1024.0, "KiB"),
    "": (1.0, ""),
}


@dataclass
class Row:
    """One comparison.  ``ours`` and ``theirs`` are in seconds or MiB and are shown in ``unit``."""

    benchmark: str
    case: str
    against: str
    ours: float
    theirs: float
    unit: str
    ratio: float
    low: float = 0.0
    high: float = 0.0
    at_most: float | None = None
    at_least: float | None = None
    limit: float | None = None
    """What ``ours`` may be at most, where the target is not a ratio."""
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None if there is none."""
        if self.limit is not None:
            return self.ours <= self.limit
        if self.at_most is not None:
            return self.ratio <= self.at_most
        if self.at_least is not None:
            return self.ratio >= self.at_least
        return None

    @property
    def target(self) -> str:
        """The target, for people."""
        if self.limit is not None:
            return f"≤ {_amount(self.limit, self.unit)}"
        if self.at_most is not None:
            return f"≤ {self.at_most:.2f}"
        return f"≥ {self.at_least:.2f}" if self.at_least is not None else ""


def table(rows: list[Row]) -> Table:
    """The rows for people."""
    made = Table(header_style="bold", pad_edge=False, box=None)
    for name in ("case", "against"):
        made.add_column(name)
    for name in ("relocate", "other", "ratio", "quartiles", "target"):
        made.add_column(name, justify="right", no_wrap=True)
    made.add_column("")
    benchmark = ""
    for row in rows:
        if row.benchmark != benchmark:
            benchmark = row.benchmark
            made.add_row(Text(benchmark, style="bold cyan"))
        verdict = {True: "[green]met[/]", False: "[red]missed[/]", None: ""}[row.met]
        quartiles = f"{row.low:.2f} to {row.high:.2f}" if row.high else ""
        made.add_row(
            f"  {row.case}",
            f"{row.against}{f' ({row.note})' if row.note else ''}",
            _amount(row.ours, row.unit),
            _amount(row.theirs, row.unit),
            f"{row.ratio:.3f}",
            quartiles,
            row.target,
            verdict,
        )
    return made


def show(rows: list[Row], skipped: list[str]) -> None:
    """Print the table, and what could not be measured."""
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    console.print(table(rows))
    for line in skipped:
        console.print(f"skipped: {line}", style="yellow")


def write_json(rows: list[Row], skipped: list[str], path: Path, quick: bool) -> None:
    """Write everything, with what it was measured on."""
    data = {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "quick": quick,
        "machine": machine(),
        "rows": [{**asdict(row), "target": row.target, "met": row.met} for row in rows],
        "skipped": skipped,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", "utf-8")


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    versions = {}
    for name in VERSIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "system": platform.platform(),
        "processors": os.cpu_count(),
        "python": sys.version.split()[0],
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": versions,
    }


def plot(rows: list[Row], path: Path) -> bool:
    """Draw each row's ratio and its target; False if matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.benchmark, []).append(row)
    heights = [len(group) + 1.2 for group in groups.values()]
    figure, axes = pyplot.subplots(
        len(groups), 1, figsize=(9, 0.34 * sum(heights) + 0.8), height_ratios=heights, squeeze=False
    )
    colours = {True: "#2a9d5c", False: "#c8403a", None: "#7a8694"}
    for axis, (name, group) in zip(axes[:, 0], groups.items(), strict=True):
        values = [row.ours / row.limit if row.limit else row.ratio for row in group]
        places = range(len(group))
        axis.barh(places, values, color=[colours[row.met] for row in group], height=0.65)
        for place, row, value in zip(places, group, values, strict=True):
            target = 1.0 if row.limit else row.at_most if row.at_most is not None else row.at_least
            if target is not None:
                axis.plot([target, target], [place - 0.42, place + 0.42], color="black", linewidth=2)
            axis.text(value, place, f" {_amount(row.ours, row.unit) if row.limit else f'{row.ratio:.3g}'}", va="center")
        axis.set_yticks(places, [f"{row.case} / {row.against}" for row in group], fontsize=8)
        axis.invert_yaxis()
        axis.set_title(name, loc="left", fontsize=10, fontweight="bold")
        axis.set_xlim(0, max([*values, *(r.at_most or r.at_least or 0 for r in group)]) * 1.15)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle("relocate / other; the black mark is the target", fontsize=10)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return True


def _amount(value: float, unit: str) -> str:
    factor, name = SCALES[unit]
    return f"{value * factor:.3g} {name}" if abs(value * factor) < 1000 else f"{value * factor:.0f} {name}"
