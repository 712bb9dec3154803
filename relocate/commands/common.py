"""What the commands share: how they end on a mistake, and options."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NoReturn

import click
from click.shell_completion import CompletionItem

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


def counted(number: int, noun: str) -> str:
    """So many of them."""
    return f"{number} {noun}{'s' * (number != 1)}"


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


def pids(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """For the shell: the running programs."""
    with contextlib.suppress(Exception):
        from .. import control

        return [CompletionItem(name) for name in control.running() if name.startswith(incomplete)]
    return []


def names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """For the shell: names of the running program's name space."""
    return _entries(context, incomplete, "/", "/")


def functions(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """For the shell: modules and functions of the running program, by their full names."""
    return _entries(context, incomplete, ".", "/chan/")


def _entries(context: click.Context, incomplete: str, dot: str, root: str) -> list[CompletionItem]:
    """What is below the part of ``incomplete`` that is whole; nothing if no program, or more than one, can be asked."""
    with contextlib.suppress(Exception):
        from .. import control

        (program,) = [context.params.get("pid")] if context.params.get("pid") else control.running()
        home = incomplete.rpartition(dot)[0]
        path = root + home.replace(dot, "/").strip("/")
        found = control.ask(str(program), "ls", timeout=QUICK, path=path)["entries"]
        whole = [f"{home}{dot}{entry}" if home or dot == "/" else entry for entry in found]
        return [CompletionItem(name) for name in whole if name.startswith(incomplete)]
    return []


QUICK = 1.0
"""Seconds that a completion waits for the program."""
PID = click.option(
    "--pid",
    default="",
    metavar="PID",
    help="Of which program, if several run; see `relocate ps`.",
    shell_complete=pids,
)


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
