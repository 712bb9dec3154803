"""``relocate keys``: who may talk to whom."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from .common import FOLDER


@click.group()
def keys() -> None:
    """Who may talk to whom.

    \b
    Once on each of the two machines:
        relocate keys new          make this side's key pair
        relocate keys show         print its public key
    and then on each, with what the other one printed:
        relocate keys allow KEY NAME
    `relocate keys list` shows who is allowed, `relocate keys revoke NAME` takes it back.
    """


@keys.command("new", short_help="Make this side's key pair, and print the public key.")
@FOLDER
def keys_new(folder: str) -> None:
    """Make this side's key pair (an existing one is left as it is) and print the public key."""
    from .. import keys as ring

    try:
        ring.new(folder)
    except FileExistsError:
        click.echo(f"there is a key in {Path(folder) if folder else ring.default_folder()} already:", err=True)
    click.echo(ring.show(folder))


@keys.command("show")
@FOLDER
def keys_show(folder: str) -> None:
    """Print this side's public key."""
    from .. import keys as ring

    click.echo(ring.show(folder))


@keys.command("allow", short_help="Trust the peer whose public key is KEY.")
@click.argument("key")
@click.argument("name", required=False, default="")
@FOLDER
def keys_allow(key: str, name: str, folder: str) -> None:
    """Trust the peer whose public key is KEY (NAME is a reminder of whose it is)."""
    from .. import keys as ring

    click.echo(f"allowed {ring.allow(key, name, folder) or key}")


@keys.command("list")
@FOLDER
def keys_list(folder: str) -> None:
    """Print the keys that are allowed here, beside this side's own."""
    from .. import keys as ring

    listed = ring.listed(folder)
    for key, name in listed.items():
        click.echo(f"{key.hex()} {name}".rstrip())
    if not listed:
        click.echo("nobody but this side's own key; relocate keys allow KEY lets another one in", err=True)


def peers(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """For the shell: the names of those that are allowed."""
    with contextlib.suppress(Exception):
        from .. import keys as ring

        allowed = ring.listed(context.params.get("folder") or "").values()
        return [CompletionItem(name) for name in sorted({*allowed}) if name and name.startswith(incomplete)]
    return []


@keys.command("revoke")
@click.argument("peer", metavar="KEY|NAME", shell_complete=peers)
@FOLDER
def keys_revoke(peer: str, folder: str) -> None:
    """Trust a peer no longer, told by its key or its name.

    What is connected stays so until the worker or the program is started again.
    """
    from .. import keys as ring

    for key, name in ring.revoke(peer, folder).items():
        click.echo(f"revoked {key.hex()} {name}".rstrip())
