"""The command line: ``relocate run``, ``check``, ``worker``; the others are in `commands` and `registry_command`."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from typing import Any

import click
from click.shell_completion import CompletionItem

from . import __version__, config, launch
from .commands import explain, keys, names, top
from .commands.common import FOLDER, fail
from .errors import ConfigError, RelocateError
from .registry_command import announcement, registry

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Reporting(click.Group):
    """A group whose commands end with one line on a mistake of the user's."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except RelocateError as error:
            fail(str(error))
        except OSError as error:
            fail(f"{error.filename or ''}: {error.strerror or error}".removeprefix(": "))


@click.group(cls=Reporting, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="relocate")
def main() -> None:
    """Run the heavy, pure modules of an unchanged program on other processes and machines.

    \b
    On this machine's cores, nothing to set up:
        relocate run -M scipy.ndimage script.py
    On a better machine (once: exchange keys, see `relocate keys --help`):
        there:  relocate worker --listen tcp://0.0.0.0:7000
        here:   relocate run -M scipy.ndimage -w tcp://there:7000 script.py
    While it runs: `relocate ps`, `ls` and `top` show it; `mount` and `bind` move its modules.

    \b
    Shell completion, for bash (zsh and fish likewise):
        eval "$(_RELOCATE_COMPLETE=bash_source relocate)"
    """


main.add_command(registry)

# run ---------------------------------------------------------------------------------------------


class RunCommand(click.Command):
    """Takes its own options up to the target; everything from there on is the program's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Split ``args`` at the target."""
        mine, target = launch.split(args)
        super().parse_args(ctx, mine)
        ctx.params["target"] = target
        return []


MODULE = click.option(
    "-M", "--module", "modules", multiple=True, metavar="MODULE", help="Designate MODULE and all below it."
)
METHODS = click.option(
    "--methods",
    multiple=True,
    metavar="NAME",
    help="Designate the methods of the class NAME, of all classes of the module NAME, or one method.",
)
WORKERS = click.option(
    "-w",
    "--workers",
    multiple=True,
    metavar="WORKERS",
    help="Where calls run: 4 (executors here), tcp://host:port; several with commas, spares after a semicolon.",
)
CONFIG = click.option(
    "--config", "file", type=click.Path(dir_okay=False), metavar="FILE", help="Configuration, as -c FILE.toml."
)
REPORT = click.option(
    "--report",
    type=click.Path(dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Write the statistics as JSON when the program ends; - for standard error.",
)


def programs(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """For the shell: scripts and folders where the program is to be named, any file among its arguments."""
    if context.params.get("target"):
        return [CompletionItem(incomplete, type="file")]
    folder, base = os.path.split(incomplete)
    found = []
    try:
        for entry in sorted(os.scandir(folder or "."), key=lambda e: e.name):
            if entry.name.startswith(base) and (base.startswith(".") or not entry.name.startswith(".")):
                name = os.path.join(folder, entry.name)
                if entry.is_dir():
                    found.append(CompletionItem(name + os.sep))
                elif entry.name.endswith(".py"):
                    found.append(CompletionItem(name))
    except OSError:
        return []
    return found


@main.command(
    cls=RunCommand,
    options_metavar="[OPTIONS]",
    short_help="Run a program with its designated modules relocated.",
    epilog="PROGRAM is a script, `-m module`, `-c code` or `-` (standard input), with its arguments, as for python.",
)
@MODULE
@METHODS
@WORKERS
@CONFIG
@FOLDER
@click.option("--no-fallback", is_flag=True, help="Never run a call here: with no worker left it is an error.")
@click.option(
    "--placement",
    type=click.Choice(["remote", "auto", "local"]),
    help="Where calls run: on workers, each where it costs less, or here.  [default: as configured, else remote]",
)
@REPORT
@click.option("--summary", is_flag=True, help="Say in one line when the program ends how many calls ran where.")
@click.argument("target", nargs=-1, metavar="PROGRAM [ARGS]...", type=click.UNPROCESSED, shell_complete=programs)
def run(
    modules: tuple[str, ...],
    methods: tuple[str, ...],
    workers: tuple[str, ...],
    file: str | None,
    folder: str,
    no_fallback: bool,
    placement: str | None,
    report: str | None,
    summary: bool,
    target: list[str],
) -> None:
    """Run an unchanged program with its designated modules relocated."""
    options = launch.Options(modules, workers, file, report, folder, not no_fallback, summary, methods, placement or "")
    command, environment = launch.prepared(options, target)
    if os.name == "posix":
        environment[config.ENV_REPORT_PID] = str(os.getpid())  # the process will be the program
        os.execve(sys.executable, command, environment)
    raise SystemExit(subprocess.run(command, env=environment, check=False).returncode)


# check -------------------------------------------------------------------------------------------


class CheckCommand(RunCommand):
    """With ``--run`` takes its options as ``relocate run`` does, otherwise in any order."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Split ``args`` at the program, if there is one."""
        if "--run" in launch.split(args)[0]:
            return super().parse_args(ctx, args)
        ctx.params["target"] = []
        return click.Command.parse_args(self, ctx, args)


@main.command(
    cls=CheckCommand,
    options_metavar="[--json] MODULE... | --run [-M MODULE]... [-w WORKERS]... PROGRAM",
    short_help="Tell whether modules are fit to be relocated.",
    epilog="The exit status is 0 if all is well, 1 if something is not fit or differs, 2 after a mistake.",
)
@click.argument("names", nargs=-1, metavar="")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--run", "runs", is_flag=True, help="Run PROGRAM, with its calls made twice: on workers and here.")
@MODULE
@WORKERS
@CONFIG
@REPORT
@click.option(
    "--sample",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Share of the calls that are made twice.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    show_default=True,
    help="Fraction by which numbers may differ.",
)
def check(
    names: tuple[str, ...],
    as_json: bool,
    runs: bool,
    modules: tuple[str, ...],
    workers: tuple[str, ...],
    file: str | None,
    report: str | None,
    sample: float,
    tolerance: float,
    target: list[str],
) -> None:
    """Tell whether modules are fit to be relocated.

    Of each MODULE, and of all below it, the source is read, and each public function is told to be
    pure, impure, to change its arguments, or unknown.  With --run a program is run, its calls are
    made twice, and the first difference of each function is told.
    """
    from . import check as checker

    if not runs:
        if modules or workers or file or report:
            fail("-M, -w, -c and --report are for --run; to check modules, name them: relocate check MODULE")
        if not names:
            fail("nothing to check; name a module: relocate check MODULE")
        raise SystemExit(checker.report([as_module(n) for n in names], as_json))
    if as_json:
        fail("--json is for modules; the report of a program that is run is JSON: --report FILE")
    command, environment = launch.prepared(launch.Options(modules, workers, file, report), target)
    environment |= {config.ENV_VERIFY: str(sample), config.ENV_TOLERANCE: str(tolerance)}
    raise SystemExit(checker.compare(command, environment))


def as_module(name: str) -> str:
    """A module's name, also if its file is named."""
    if os.sep in name or name.endswith(".py"):
        return os.path.relpath(name).removesuffix(".py").replace(os.sep, ".")
    return name


# worker ------------------------------------------------------------------------------------------


@main.command(short_help="Run calls for other programs, until it is stopped.")
@click.option("--listen", required=True, metavar="URL", help="tcp://host:port (port 0: any free one) or ipc:///path.")
@click.option(
    "--executors",
    "-n",
    type=click.IntRange(1, config.MOST_EXECUTORS),
    metavar="N",
    help="Processes that run calls [default: cores].",
)
@click.option("--modules", metavar="A,B", help="Import these before saying that the worker is ready.")
@FOLDER
@click.option("--ports", metavar="FIRST-LAST", help="Ports of the executors, for a firewall [default: any free ones].")
@click.option("--registry", "registries", multiple=True, metavar="URL", help="Announce it there; may be repeated.")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="For clients that prefer it: region=eu.")
@click.option("--advertise", metavar="URL", default="", help="Address that registries tell [default: worked out].")
@click.option("--metrics", default="", metavar="HOST:PORT", help="Metrics for Prometheus there; PORT: on this machine.")
@click.option("--memory", metavar="SIZE", help="Memory that each executor may take: 2GiB, 500MiB [default: any].")
@click.option("--quiet", "-q", is_flag=True, help="Say nothing but warnings.")
def worker(
    listen: str,
    executors: int | None,
    modules: str | None,
    folder: str,
    ports: str | None,
    registries: tuple[str, ...],
    labels: tuple[str, ...],
    advertise: str,
    metrics: str,
    memory: str | None,
    quiet: bool,
) -> None:
    """Run calls for other programs, until SIGTERM (finishes what runs) or Ctrl-C (ends at once).

    Beyond this machine only who holds an allowed key may connect; see `relocate keys --help`.
    """
    from .worker import Settings, Supervisor

    logging.basicConfig(level=logging.WARNING if quiet else logging.INFO, format="relocate: %(message)s")
    count = executors or config.cores()
    names = tuple(m.strip() for m in modules.split(",") if m.strip()) if modules else ()
    if not listen.startswith("tcp://*:"):
        config.check_url(listen, "tcp://host:port or ipc:///path")
    where = announcement(registries, labels, advertise)
    supervisor = Supervisor(
        Settings(listen, count, names, folder, port_range(ports, count), None, *where, metrics, size(memory))
    )
    supervisor.bind()
    supervisor.on_ready = None if quiet else announce
    raise SystemExit(supervisor.run())


def announce(url: str, executors: int) -> None:
    """Say that the worker is ready; scripts wait for this line."""
    print(f"relocate: ready on {url} with {executors} executor{'s' * (executors != 1)}", flush=True)


def port_range(text: str | None, count: int) -> tuple[int, ...]:
    """The ports that ``FIRST-LAST`` names."""
    if text is None:
        return ()
    first, dash, last = text.partition("-")
    if not (first.isdigit() and (last.isdigit() if dash else True)):
        raise ConfigError(f"--ports {text!r}: write FIRST-LAST, for example 7001-7008")
    ports = tuple(range(int(first), int(last or first) + 1))
    if len(ports) < count or not 0 < ports[0] <= ports[-1] <= 65535:
        raise ConfigError(f"--ports {text!r}: {count} executors need {count} ports, each from 1 to 65535")
    return ports


def size(text: str | None) -> int:
    """The bytes that ``text`` says; 0 if nothing does."""
    if text is None:
        return 0
    found = re.fullmatch(r"(\d+)(MiB|GiB)", text)
    if found is None or not int(found[1]):
        raise ConfigError(f"--memory {text!r}: write for example 500MiB or 2GiB")
    return int(found[1]) << {"MiB": 20, "GiB": 30}[found[2]]


# the others --------------------------------------------------------------------------------------

for command in (
    names.ls,
    names.ps,
    names.mount,
    names.bind,
    names.unmount,
    names.ns,
    top.top,
    explain.explain,
    keys.keys,
):
    main.add_command(command)


if __name__ == "__main__":
    main()
