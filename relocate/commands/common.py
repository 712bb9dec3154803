"""What the commands share: how they end on a mistake, and options."""

from __future__ import annotations

from typing import Any, NoReturn

import click


def fail(text: str, status: int = 2) -> NoReturn:
    """End with one line."""
    click.secho("relocate: ", err=True, nl=False, fg="red")
    click.echo(text, err=True)
    raise SystemExit(status)


def warn(text: str) -> None:
    """Say in one line what the user should know; it is no mistake."""
    click.secho("relocate: ", err=True, nl=False, fg="yellow")
    click.echo(text, err=True)


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
