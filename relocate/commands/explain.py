"""``relocate explain``: why a function's calls go where they go."""

from __future__ import annotations

import json
from typing import Any

import click

from .common import JSON, PID, counted, functions, the


@click.command(short_help="Tell why a function's calls go where they go.")
@click.argument("function", shell_complete=functions)
@PID
@JSON
def explain(function: str, pid: str, as_json: bool) -> None:
    """Tell why the calls of FUNCTION (its full name) go where they go in a running program.

    From the live numbers: where its name leads, how the executors there are, and what its calls cost.
    """
    from .. import control

    found = control.ask(the(pid), "explain", function=function)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for line in told(found):
        click.echo(line)


def told(found: dict[str, Any]) -> list[str]:
    """The same for people."""
    lines = [f"{found['function']}: {counted(found['ran there'], 'call')} ran on workers, {found['ran here']} here"]
    stays = found["placement"] == "local"
    by_cost = found["placement"] == "auto"
    if stays:
        lines.append("placement is local: every call runs here that has a local copy")
    elif by_cost:
        lines.append("placement is auto: each call goes where such calls cost less; else as follows")
    lines.append(f"the next call {'that leaves ' if stays or by_cost else ''}goes to: {found['next']}")
    if found["waiting"]:
        lines.append(f"{counted(found['waiting'], 'call')} in line")
    for place in found["places"]:
        error = f", {place['error']}" if place["error"] else ""
        lines.append(f"rank {place['rank']}: {place['place']}, {place['state']}{error}")
        for seat in place["executors"]:
            warm = "has the module" if seat["has the module"] else "has not imported the module"
            calls = counted(seat["calls"], "call")
            lines.append(f"    {seat['executor']}: {seat['state']}, {calls}, slowness {seat['slowness']:g}, {warm}")
    for cost in found["costs"]:
        said = [
            f"{_time(cost[side])} {side} ({cost[f'calls {side}']} calls noted)" if cost[side] else f"none noted {side}"
            for side in ("there", "here")
            if cost[side] or by_cost
        ]
        verdict = f": the next one goes {cost['goes']}" if by_cost else ""
        lines.append(f"arguments of about {cost['size']} bytes: {', '.join(said)}{verdict}")
    return lines


def _time(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"
