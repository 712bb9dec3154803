"""``relocate top``: what a running program's calls do, as they do it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from . import common
from .common import JSON, PID, columns, the

if TYPE_CHECKING:
    from rich.console import RenderableType

TOTALS = ("returned", "raised", "failed")
"""The outcomes, which together are all calls."""


@click.command(short_help="Show what a running program's calls do, as they do it.")
@PID
@click.option("--once", is_flag=True, help="Show one interval, and end.")
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two looks.",
)
@JSON
def top(pid: str, once: bool, interval: float, as_json: bool) -> None:
    """Show what a running program's calls do, as they do it, until the program ends, or Ctrl-C.

    Calls per second, their latencies, bytes and deaths are those of the last interval; queue and running are as
    of now.  With --json each interval is a line.
    """
    program = the(pid)
    shown = views(program, interval)
    try:
        if as_json:
            for view in shown:
                click.echo(json.dumps(view))
                if once:
                    return
        else:
            _show(shown, once)
            if once:
                return
    except KeyboardInterrupt:
        return
    click.echo(f"program {program} has ended", err=True)


def _show(shown: Iterator[dict[str, Any]], once: bool) -> None:
    from rich.live import Live

    console = common.console()
    if once or not console.is_terminal:
        for view in shown:
            console.print(table(view))
            if once:
                return
            console.print()
        return
    with Live(console=console, auto_refresh=False, screen=True) as live:
        for view in shown:
            live.update(table(view), refresh=True)


def views(program: str, interval: float) -> Iterator[dict[str, Any]]:
    """What happened in each interval, until the program ends."""
    from .. import control
    from ..errors import RelocateError

    before = control.ask(program, "sample")
    while True:
        time.sleep(interval)
        try:
            after = control.ask(program, "sample")
        except RelocateError:
            if program in control.running():
                raise
            return
        yield view(before, after)
        before = after


def view(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What happened between two samples, and how things stand at the second."""
    from ..latency import quantile

    seconds = max(after["at"] - before["at"], 1e-9)
    old, new = before["counts"], after["counts"]
    change = {key: new[key] - old[key] for key in new if isinstance(new[key], int)}
    executors = {}
    for label in sorted({*after["outstanding"], *new["executors"]}):
        calls, deaths = new["executors"].get(label, [0, 0])
        earlier, _ = old["executors"].get(label, [0, 0])
        executors[label] = {
            "up": label in after["outstanding"],
            "running": after["outstanding"].get(label, 0),
            "calls/s": (calls - earlier) / seconds,
            "calls": calls,
            "deaths": deaths,
        }
    modules = {}
    everything: dict[int, int] = {}
    for module, counts in sorted(new["modules"].items()):
        earlier = old["modules"].get(module, {})
        lately = {int(index): count - earlier.get(index, 0) for index, count in counts.items()}
        for index, count in lately.items():
            everything[index] = everything.get(index, 0) + count
        modules[module] = {
            "calls/s": sum(lately.values()) / seconds,
            "calls": sum(counts.values()),
            "p50": quantile(lately, 0.5),
            "p99": quantile(lately, 0.99),
        }
    return {
        "pid": after["pid"],
        "seconds": seconds,
        "calls/s": sum(change[key] for key in TOTALS) / seconds,
        "p50": quantile(everything, 0.5),
        "p99": quantile(everything, 0.99),
        "queue": after["queue"],
        "running": sum(after["outstanding"].values()),
        "lately": change,
        "total": {key: new[key] for key in change},
        "workers": after["workers"],
        "executors": executors,
        "modules": modules,
    }


def table(view: dict[str, Any]) -> RenderableType:
    """The same for people."""
    from rich.console import Group
    from rich.text import Text

    head = (
        f"program {view['pid']}: {view['calls/s']:.0f} calls/s, p50 {span(view['p50'])}, p99 {span(view['p99'])}; "
        f"{view['queue']} waiting, {view['running']} running"
    )
    said = []
    for key, total in view["total"].items():
        lately = view["lately"][key] / view["seconds"]
        shown = (f"{size(total)} ({size(lately)}/s)") if key.startswith("bytes") else f"{total:,} ({lately:.0f}/s)"
        said.append(f"{key.replace('_', ' ')} {shown}")
    colours = {"up": "green", "starting": "yellow"}
    workers = columns("worker", "state", "executors", "running", "address")
    for worker in view["workers"]:
        state = Text(worker["state"], style=colours.get(worker["state"], "red"))
        running = str(worker["outstanding"])
        workers.add_row(worker["name"], state, str(worker["executors"]), running, worker["url"])
    executors = columns("executor", "calls/s", "running", "calls", "deaths")
    for label, seen in view["executors"].items():
        row = (f"{seen['calls/s']:.0f}", str(seen["running"]), f"{seen['calls']:,}", str(seen["deaths"]))
        executors.add_row(label, *row, style=None if seen["up"] else "dim")
    modules = columns("module", "calls/s", "p50", "p99", "calls")
    for module, seen in view["modules"].items():
        spans = span(seen["p50"]), span(seen["p99"])
        modules.add_row(module, f"{seen['calls/s']:.0f}", *spans, f"{seen['calls']:,}")
    return Group(Text(head, style="bold"), Text(", ".join(said)), "", workers, "", executors, "", modules)


def span(seconds: float | None) -> str:
    """A span of time in the unit that suits it."""
    if seconds is None:
        return "-"
    for unit, length in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def size(octets: float) -> str:
    """An amount of bytes in the unit that suits it."""
    for unit in ("B", "KiB", "MiB"):
        if octets < 1000:
            return f"{octets:.3g} {unit}"
        octets /= 1024
    return f"{octets:.3g} GiB"
