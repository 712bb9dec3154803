"""``relocate ls``, ``ps``, ``mount``, ``bind``, ``unmount``, ``ns``: name spaces, of running programs above all."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import common
from .common import FOLDER, JSON, PID, chosen, columns, fail, programs, the, warn
from .common import names as below

if TYPE_CHECKING:
    from rich.console import Console

ANSWER = 3.0
"""Seconds to wait for news of a worker that was mounted: after two it counts as down."""


@click.command(short_help="Show the name space and what is alive.")
@click.argument("path", default="", shell_complete=below)
@click.option("-l", "detailed", is_flag=True, help="Tell of each entry where it leads; without PATH, below /chan.")
@PID
@click.option("-w", "--workers", multiple=True, metavar="WORKERS", help="Look at these, not at a running program.")
@click.option("--config", "-c", "file", type=click.Path(dir_okay=False), metavar="FILE", help="Configuration file.")
@FOLDER
@JSON
def ls(
    path: str, detailed: bool, pid: str, workers: tuple[str, ...], file: str | None, folder: str, as_json: bool
) -> None:
    """Show the name space and what is alive: of a running program, or else as it would be for one.

    PATH is a name below / (for example /n, /chan, or /chan/scipy/ndimage): its entries are listed,
    of a module its members, and where it leads.  The exit status is 1 if no worker is alive, or if
    there is no such name.
    """
    from .. import control

    given = workers or file or folder
    program = None if given or not control.available() else chosen(pid)
    if detailed and not path:
        path = "/chan"
    if program is not None:
        about = {"program": control.ask(program, "about")}
        found = about | control.ask(program, "ls", path=path, detailed=detailed)
    else:
        found = looked(path, detailed, workers, file, folder)
    if "why" in found:
        fail(f"there is no name {path}: {found['why']}", 1)
    if path.strip("/") and not (found["entries"] or found["leads to"]):
        fail(f"there is no name {path}; names begin with /chan or /n", 1)
    if program is None and not given:
        warn("no relocated program is running; this is what one that is started here would have")
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        show(found)
    raise SystemExit(0 if any(p["state"] == "up" for p in found["workers"]) else 1)


def looked(path: str, detailed: bool, workers: tuple[str, ...], file: str | None, folder: str) -> dict[str, Any]:
    """What a program that is started from here would find."""
    from .. import config, verbs
    from ..handle import Handle

    given: dict[str, Any] = {}
    if workers:
        given["workers"] = ",".join(workers)
    if folder:
        given["keys"] = folder
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as for the program, which will be run from here
    handle = Handle(config.load(file, **given))
    try:
        handle.workers(timeout=5.0)
        return verbs.look(handle, path, detailed=detailed)
    finally:
        handle.close()


def show(found: dict[str, Any]) -> None:
    """The same for people."""
    from rich.text import Text

    console = common.console()
    if "program" in found:
        console.print(f"program {found['program']['pid']}: {' '.join(found['program']['program'])}")
        console.print()
    table = columns("worker", "address", "state", "executors")
    colours = {"up": "green", "starting": "yellow"}
    for place in found["workers"]:
        colour = colours.get(place["state"], "red")
        state = Text(place["state"], style=colour)
        table.add_row(place["name"], place["url"], state, str(place["executors"]))
    console.print(table)
    for place in found["workers"]:
        if place["error"]:
            console.print(f"{place['name']}: {place['error']}", style="red", soft_wrap=True)
    console.print()
    if "bindings" in found:
        names = columns("name", "leads to", "rank")
        for row in found["bindings"]:
            names.add_row(row["name"], row["leads to"], str(row["rank"]))
        console.print(names)
    else:
        show_entries(console, found)


def show_entries(console: Console, found: dict[str, Any]) -> None:
    """What is below a name, and where it leads."""
    if "entries lead to" in found:
        table = columns("name", "leads to")
        for entry, aims in found["entries lead to"].items():
            table.add_row(entry, ", ".join(f"{aim['place']} (rank {aim['rank']})" for aim in aims) or "-")
        console.print(table)
    else:
        for entry in found["entries"]:
            console.print(entry)
    for aim in found["leads to"]:
        console.print(f"leads to {aim['place']} ({aim['name'] or 'everything it offers'}), rank {aim['rank']}")


@click.command()
@JSON
def ps(as_json: bool) -> None:
    """List the running relocated programs of this user.

    A program is listed from its first use of a relocated module on.  The exit status is 1 if there are none.
    """
    found = programs()
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif not found:
        warn("none is running; a program that 'relocate run' starts is listed once it has used a relocated module")
    else:
        table = columns("pid", "age", "workers", "modules", "program")
        for name, about in found.items():
            if "error" in about:
                table.add_row(name, "", "", "", about["error"])
                continue
            up = sum(worker["state"] == "up" for worker in about["workers"])
            alive = f"{up} of {len(about['workers'])}"
            program = " ".join(about["program"])
            table.add_row(name, age(time.time() - about["since"]), alive, ", ".join(about["modules"]), program)
        common.console().print(table)
    raise SystemExit(0 if found else 1)


def age(seconds: float) -> str:
    """A span of time in its largest unit."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


@click.command(short_help="Connect a running program to one more worker.")
@click.argument("url")
@click.argument("name", default="")
@PID
def mount(url: str, name: str, pid: str) -> None:
    """Connect a running program to the worker at URL, and print the name under which it is found.

    URL is tcp://host:port, ipc:///path, local:4 (executors that the program starts) or local (its own
    copies).  Calls go there when something is bound to it: relocate bind /n/NAME/chan /chan
    """
    from .. import control

    program = the(pid)
    mounted = control.ask(program, "mount", url=url, place=name)
    click.echo(mounted)
    until = time.monotonic() + ANSWER
    while True:
        places = control.ask(program, "about")["workers"]
        place = next((p for p in places if p["name"] == mounted.removeprefix("/n/")), None)
        if place is None or place["state"] != "starting" or time.monotonic() > until:
            break
        time.sleep(0.05)
    if place is not None and place["state"] in ("down", "refused"):
        warn(f"{mounted} is {place['state']}: {place['error']}")


@click.command(short_help="Let a name lead elsewhere, in a running program.")
@click.argument("new", shell_complete=below)
@click.argument("old", shell_complete=below)
@click.option("-b", "before", is_flag=True, help="Join NEW before what OLD leads to: it is preferred.")
@click.option("-a", "after", is_flag=True, help="Join NEW after it, as a spare.")
@click.option("--rank", type=click.IntRange(0), help="Place NEW at this rank; those of one rank share the load.")
@PID
def bind(new: str, old: str, before: bool, after: bool, rank: int | None, pid: str) -> None:
    """Let the name OLD lead to NEW in a running program, from the next call on.

    OLD is everything (/chan), a package, a module or a function (/chan/scipy/ndimage/zoom); the longest name
    wins.  NEW is the same name at a place that is mounted: /n/desk/chan/scipy/ndimage/zoom, or below
    /n/local/chan for the program's own copy.  Calls under way are not disturbed.
    """
    from .. import control

    if before and after:
        fail("-a and -b exclude each other")
    where = "before" if before else "after" if after else "replace"
    for doubt in control.ask(the(pid), "bind", new=new, old=old, where=where, rank=rank):
        warn(doubt)


@click.command(short_help="Undo a bind or a mount, in a running program.")
@click.argument("names", nargs=-1, required=True, metavar="[NEW] OLD", shell_complete=below)
@PID
def unmount(names: tuple[str, ...], pid: str) -> None:
    """Undo a bind of OLD (of NEW over it only, if that is named) or a mount (OLD is /n/NAME).

    A worker that is unmounted finishes the calls that it runs, and is then let go.
    """
    from .. import control

    if len(names) > 2:
        fail("write relocate unmount [NEW] OLD")
    control.ask(the(pid), "unmount", old=names[-1], new=names[0] if len(names) == 2 else None)


@click.group()
def ns() -> None:
    """Name spaces as text files.

    A file has lines as `mount tcp://desk:7000 /n/desk`, `bind -a /n/local/chan /chan`, `unmount /chan/scipy`,
    and `clear`, which begins anew.  A program loads one at its start if `namespace` in its configuration,
    or RELOCATE_NAMESPACE, names it.
    """


@ns.command(short_help="Write the name space of a running program.")
@click.argument("file", type=click.Path(allow_dash=True), default="-")
@PID
def save(file: str, pid: str) -> None:
    """Write the name space of a running program to FILE [default: standard output]."""
    from .. import control

    text = control.ask(the(pid), "save")
    if file == "-":
        click.echo(text, nl=False)
    else:
        Path(file).write_text(text, "utf-8")


@ns.command(short_help="Change the name space of a running program as a file says.")
@click.argument("file", type=click.Path(allow_dash=True), default="-")
@PID
def load(file: str, pid: str) -> None:
    """Change the name space of a running program as FILE says [default: standard input].

    All its lines take effect at once, or none if one is wrong.
    """
    from .. import control

    text = sys.stdin.read() if file == "-" else Path(file).read_text("utf-8")
    control.ask(the(pid), "load", text=text, origin="<stdin>" if file == "-" else file)
