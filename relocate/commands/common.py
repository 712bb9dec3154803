"""What the commands share: how they end on a mistake, and options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDE = 10_000
"""Columns where there is no terminal: those who read it there do not want broken lines."""


def fail(text: str, status: int = 2) -> NoReturn:
    """End with one line."""
    click.secho("relocate: ", err=True, nl=False, fg="red")
    click.echo(text, err=True)
    raise SystemExit(status)


def warn(text: str) -> None:
    """Say in one line what the user should know; it is no mistake."""
    click.secho("relocate: ", err=True, nl=False, fg="yellow")
    click.echo(text, err=True)


def console() -> Console:
    """Where tables are shown: as wide as the terminal, or else as they are."""
    from rich.console import Console

    found = Console(highlight=False, markup=False)  # an address may be [fe80::1]
    return found if found.is_terminal else Console(highlight=False, markup=False, width=WIDE)


def columns(*heads: str) -> Table:
    """An empty table, in which nothing is cut off."""
    from rich.table import Column, Table

    return Table(*(Column(head, overflow="fold") for head in heads), box=None, header_style="bold", pad_edge=False)


FOLDER = click.option(
    "--keys", "folder", type=click.Path(file_okay=False), default="", metavar="DIR", help="Key folder [default: yours]."
)
JSON = click.option("--json", "as_json", is_flag=True, help="For programs.")
PID = click.option("--pid", default="", metavar="PID", help="Of which program, if several run; see `relocate ps`.")


def programs() -> dict[str, Any]:
    """The running relocated programs of this user, and what they say about themselves."""
    from .. import control
    from ..errors import RelocateError

    found: dict[str, Any] = {}
    for name in control.running():
        try:
            found[name] = control.ask(name, "about", timeout=2.0)
        except RelocateError as error:
            found[name] = {"error": str(error)}
    return found


def chosen(pid: str) -> str | None:
    """The program that is meant: ``pid``, or the only one; None if none runs."""
    if pid:
        return pid
    found = programs()
    if len(found) > 1:
        said = [f"{name} ({' '.join(about.get('program', ['?']))[:40]})" for name, about in found.items()]
        fail(f"{len(found)} relocated programs are running; name one with --pid: {', '.join(said)}")
    return next(iter(found), None)


def the(pid: str) -> str:
    """The program that is meant; an error if none runs."""
    program = chosen(pid)
    if program is None:
        fail("no relocated program is running; it is listed by 'relocate ps' once it has used a relocated module")
    return program
