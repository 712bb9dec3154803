"""How a program is started so that it is relocated: its command and its environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from . import config
from .errors import ConfigError

VALUED = ("-M", "--module", "-w", "--workers", "--config", "--report", "--sample", "--tolerance")


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


def prepared(
    modules: tuple[str, ...], workers: tuple[str, ...], file: str | None, report: str | None, target: list[str]
) -> tuple[list[str], dict[str, str]]:
    """The command that runs a program relocated, and its environment.

    Raises:
        ConfigError: it cannot be run, or nothing would be relocated.
    """
    if not target:
        raise ConfigError("nothing to run; name a script, -m module or -c code (see relocate run --help)")
    environment = dict(os.environ)
    if file:
        environment[config.ENV_CONFIG] = os.path.abspath(file)
    if modules:
        environment[config.ENV_MODULES] = ",".join(modules)
    if workers:
        environment[config.ENV_WORKERS] = ",".join(workers)
    if report:
        environment[config.ENV_REPORT] = os.path.abspath(report)
    environment.pop(config.ENV_REPORT_PID, None)
    if report and not Path(report).absolute().parent.is_dir():
        raise ConfigError(f"--report {report}: there is no folder {Path(report).absolute().parent}")
    os.environ.update(environment)
    found = config.load(None)
    if not found.modules:
        raise ConfigError("no module is designated; use -M MODULE, -c FILE.toml, or a relocate.toml")
    for line in unknown_modules(found, target):
        print(f"relocate: {line}", file=sys.stderr)
    # The found file is named, so that the program may change its folder, and so that the
    # interpreter activates relocation for it.
    environment.setdefault(config.ENV_MODULES, ",".join(found.modules))
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


def unknown_modules(found: config.Config, target: list[str]) -> list[str]:
    """What is to be said of designated names that are no modules here, if calls are to run here."""
    import difflib
    import pkgutil
    from importlib.machinery import PathFinder

    if not all(spec.startswith("local:") for rank in config.ranks(found.workers) for spec in rank):
        return []  # they may be on the workers
    folder = str(Path(target[0]).parent) if target[0] not in ("-m", "-c") else "."
    said = []
    for name in (m for m in found.modules if not m.startswith("!")):
        path, walked = [folder, *sys.path], ""
        for part in name.split("."):
            walked = f"{walked}.{part}" if walked else part
            if walked in sys.builtin_module_names or walked in sys.modules:
                path = list(getattr(sys.modules.get(walked), "__path__", []))
                continue
            spec = PathFinder.find_spec(walked, path)
            if spec is None:
                names = [m.name for m in pkgutil.iter_modules(path)]
                near = difflib.get_close_matches(part, names, 1)
                hint = f"did you mean {walked.removesuffix(part)}{near[0]}?" if near else "only modules are designated"
                said.append(f"there is no module {walked!r} here; {hint}")
                break
            path = list(spec.submodule_search_locations or [])
    return said


def activation_is_installed() -> bool:
    """Whether a started Python will read the line that activates relocation."""
    import site

    folders = [*site.getsitepackages(), site.getusersitepackages()]
    return any((Path(folder) / "relocate-modules.pth").exists() for folder in folders)
