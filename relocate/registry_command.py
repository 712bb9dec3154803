"""``relocate registry``: serve one, or look into one."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import click

from . import config
from .errors import ConfigError

FOLDER = click.option(
    "--keys", "folder", type=click.Path(file_okay=False), default="", metavar="DIR", help="Key folder [default: yours]."
)


@click.group(
    "registry",
    invoke_without_command=True,
    short_help="Tell clients which workers there are, until it is stopped.",
    subcommand_metavar="[ls URL]",
)
@click.option("--listen", metavar="URL", help="tcp://host:port (port 0: any free one) or ipc:///path.")
@click.option("--parent", metavar="URL", default="", help="Registry that is asked for what this one does not know.")
@click.option(
    "--lease",
    type=click.FloatRange(0.2, 3600),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long an offer stands that its worker does not repeat; of thousands, 3 ms for each if that is more.",
)
@click.option("--quiet", "-q", is_flag=True, help="Say nothing but warnings.")
@FOLDER
@click.pass_context
def registry(context: click.Context, listen: str | None, parent: str, lease: float, quiet: bool, folder: str) -> None:
    """Tell clients which workers there are, until SIGTERM or Ctrl-C.

    \b
    Workers announce themselves:   relocate worker --listen tcp://0.0.0.0:7000 --registry tcp://host:6999
    clients are told of them:      relocate run -M pricing -w registry+tcp://host:6999 script.py

    Start several, and name all of them, so that any may fail.  Who may connect is decided by keys, as for
    workers; see `relocate keys --help`.
    """
    if context.invoked_subcommand is not None:
        return
    if not listen:
        raise ConfigError("--listen is missing; write for example: relocate registry --listen tcp://0.0.0.0:6999")
    from .registry import Registry, Settings

    logging.basicConfig(level=logging.WARNING if quiet else logging.INFO, format="relocate: %(message)s")
    if not listen.startswith("tcp://*:"):
        config.check_url(listen, "tcp://host:port or ipc:///path", config.REGISTRYS)
    if parent:
        parent = address(parent)
        if parent == listen:
            raise ConfigError(f"--parent {parent}: a registry is not its own parent")
    served = Registry(Settings(listen, parent, folder, lease))
    if not quiet:
        click.echo(f"relocate: registry ready on {served.url}")
    sys.stdout.flush()
    raise SystemExit(served.run())


@registry.command("ls", short_help="Show what the registry at URL knows.")
@click.argument("url")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@FOLDER
def ls(url: str, as_json: bool, folder: str) -> None:
    """Show the workers that the registry at URL knows: what they offer, and for how long that still stands."""
    from .directory import survey

    offers = survey(address(url), folder)
    if as_json:
        click.echo(json.dumps(offers, indent=2))
    else:
        show(offers)


def address(url: str) -> str:
    """A registry's address, also if it is written as clients write it."""
    return config.check_url(url.removeprefix("registry+"), "tcp://host:port or ipc:///path", config.REGISTRYS)


def announcement(
    registries: tuple[str, ...], labels: tuple[str, ...], advertise: str
) -> tuple[tuple[str, ...], str, dict[str, str]]:
    """What a worker is to announce, and where, from its options.

    Raises:
        ConfigError: naming the option that is wrong.
    """
    from .announcer import check_advertised

    if (labels or advertise) and not registries:
        raise ConfigError(f"{'--label' if labels else '--advertise'} is for registries; name one by --registry URL")
    urls = tuple(dict.fromkeys(map(address, registries)))
    return urls, check_advertised(advertise) if advertise else "", config.labels(labels, "--label")


def show(offers: list[dict[str, Any]]) -> None:
    """The offers for people."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "worker", "executors", "offers", "labels", "python", "lease", box=None, header_style="bold", pad_edge=False
    )
    for offer in offers:
        modules = ", ".join(f"{m['name']} {m['version']}".rstrip() for m in offer["modules"]) or "anything"
        labels = ", ".join(f"{k}={v}" for k, v in offer["labels"].items())
        table.add_row(
            offer["url"], str(offer["executors"]), modules, labels, offer["python"], f"{offer['lease']:.1f} s"
        )
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 250)  # what reads it cuts nothing off
    if offers:
        console.print(table)
    else:
        console.print("no worker is announced there")
