"""How a program is started so that it is relocated: its command and its environment."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import config
from .errors import ConfigError

VALUED = (
    "-M",
    "--module",
    "--methods",
    "-w",
    "--workers",
    "--config",
    "--keys",
    "--report",
    "--sample",
    "--tolerance",
    "--placement",
)


def split(args: list[str]) -> tuple[list[str], list[str]]:
    """The options of ``relocate run``, and the program with its arguments.

    ``-c`` means two things: before a file that ends in ``.toml`` the configuration, otherwise the
    program's text, as for ``python -c``.
    """
    mine: list[str] = []
    rest = list(args)
    while rest:
        word = rest[0]
        if word == "-c" and len(rest) > 1 and rest[1].endswith(".toml"):
            mine += ["--config", rest[1]]
            del rest[:2]
        elif word in ("-m", "-c") or not word.startswith("-") or word == "-":
            break
        elif word == "--":
            del rest[0]
            break
        elif word in VALUED:
            mine += rest[:2]
            del rest[:2]
        else:
            mine.append(word)
            del rest[0]
    return mine, rest


@dataclass(frozen=True)
class Options:
    """What the command line says of how a program is relocated."""

    modules: tuple[str, ...] = ()
    workers: tuple[str, ...] = ()
    file: str | None = None
    report: str | None = None
    keys: str = ""
    fallback: bool = True
    summary: bool = False
    methods: tuple[str, ...] = ()
    placement: str = ""


def prepared(options: Options, target: list[str]) -> tuple[list[str], dict[str, str]]:
    """The command that runs a program relocated, and its environment.

    Raises:
        ConfigError: it cannot be run, or nothing would be relocated.
    """
    modules, workers, file, report = options.modules, options.workers, options.file, options.report
    if not target:
        if not _is_fed():
            raise ConfigError("nothing to run; name a script, -m module or -c code (see relocate run --help)")
        target = ["-"]
    if target[0] == "-c" and len(target) > 1 and _is_file(target[1]):
        raise ConfigError(
            f"-c {target[1]}: this is a file, and no program text; "
            "write --config FILE if it is the configuration, or leave out -c if it is the program"
        )
    given: dict[str, Any] = {}
    if modules:
        given["modules"] = ",".join(modules)
    if options.methods:
        given["methods"] = ",".join(options.methods)
    if workers:
        given["workers"] = ",".join(workers)
    config.check(given, {"modules": "-M", "methods": "--methods", "workers": "-w"})
    environment = dict(os.environ)
    if file:
        environment[config.ENV_CONFIG] = os.path.abspath(file)
    if modules:
        environment[config.ENV_MODULES] = ",".join(modules)
    if options.methods:
        environment[config.ENV_METHODS] = ",".join(options.methods)
    if workers:
        environment[config.ENV_WORKERS] = ",".join(workers)
    if report:
        environment[config.ENV_REPORT] = report if report == "-" else os.path.abspath(report)
    if options.keys:
        environment[config.ENV_KEYS] = os.path.abspath(options.keys)
    if options.placement:
        environment[config.ENV_PLACEMENT] = options.placement
    if not options.fallback:
        environment[config.ENV_FALLBACK] = "0"
    if options.summary:
        environment[config.ENV_SUMMARY] = "1"
    environment.pop(config.ENV_REPORT_PID, None)
    if report and report != "-" and not Path(report).absolute().parent.is_dir():
        raise ConfigError(f"--report {report}: there is no folder {Path(report).absolute().parent}")
    os.environ.update(environment)
    found = config.load(None)
    if not found.modules and not found.methods:
        raise ConfigError("no module is designated; use -M MODULE, -c FILE.toml, or a relocate.toml")
    if (name := _own_name(target)) and found.designates(name):
        print(f"relocate: {name} is the program itself, which runs here; designate what it imports", file=sys.stderr)
    # The found file is named, so that the program may change its folder, and so that the
    # interpreter activates relocation for it.
    environment.setdefault(config.ENV_MODULES, ",".join(found.modules))
    environment.setdefault(config.ENV_METHODS, ",".join(found.methods))
    environment.setdefault(config.ENV_WORKERS, found.workers)
    if environment.get(config.ENV_EXECUTOR):
        raise ConfigError("this is a relocate executor; nothing is relocated here")
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    if not activation_is_installed():
        raise ConfigError(
            "relocate-modules.pth is not in a site-packages folder of this Python, so nothing would be relocated; "
            "install relocate-modules with pip, or call relocate.enable() in the program"
        )
    return [sys.executable, *flags, *target], environment


def _is_fed() -> bool:
    """Whether a program comes on standard input, as python would take it."""
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a name, say
        return False


def _own_name(target: list[str]) -> str:
    """The module that the program is, if it is one."""
    if target[0] == "-m":
        return target[1] if len(target) > 1 else ""
    return Path(target[0]).stem if target[0].endswith(".py") else ""


def activation_is_installed() -> bool:
    """Whether a started Python will read the line that activates relocation."""
    import site

    folders = [*site.getsitepackages(), site.getusersitepackages()]
    return any((Path(folder) / "relocate-modules.pth").exists() for folder in folders)
