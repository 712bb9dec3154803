"""The command ``relocate check``: finds sources, prints verdicts; runs a program and compares its calls."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from . import purity
from .config import ENV_REPORT
from .errors import ConfigError
from .purity import Finding, Source, Verdict
from .verify import DIFFER

DEPTH = 10_000
"""Limit of recursion while sources are looked into: expressions can be nested deeply."""
SHOWN = 3
"""Findings of one function that are shown; ``--json`` has all."""


def verdicts(name: str) -> list[Verdict]:
    """The verdicts on a module and all below it, but for its tests.

    Raises:
        ConfigError: there is no such module, or it cannot be read.
    """
    spec = find_spec(name)
    if spec is None:
        raise ConfigError(f"there is no module {name!r} here{_hint(name)}")
    if source(name) is None and spec.submodule_search_locations is None:
        return list(compiled(name))
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, DEPTH))
    try:
        return purity.check(name, source, below(spec))
    except SyntaxError as error:
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        where = f"{error.filename}:{error.lineno}"
        raise ConfigError(f"{where}: cannot be read as Python {version}: {error.msg}") from None
    finally:
        sys.setrecursionlimit(limit)


def find_spec(name: str) -> ModuleSpec | None:
    """Where the module is.  Neither it nor a package around it is imported for that."""
    top, *parts = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # it is loaded, and has none
        return None
    for part in parts:
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = _inside(f"{spec.name}.{part}", spec.submodule_search_locations)
    return spec


def _inside(name: str, folders: Iterable[str]) -> ModuleSpec | None:
    """Where a module is that lies in one of these folders.

    `PathFinder` would not do: of a folder without ``__init__.py`` it wants to know the package around it,
    which is not imported.
    """
    portions: list[str] = []
    for folder in folders:
        finder = pkgutil.get_importer(folder)
        found = finder.find_spec(name, None) if finder is not None else None
        if found is None:
            continue
        if found.loader is not None:
            return found
        portions += found.submodule_search_locations or []
    if not portions:
        return None
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = portions
    return spec


def source(name: str) -> Source | None:
    """The source of a module; None if there is none."""
    spec = find_spec(name)
    if spec is not None and spec.loader is None:  # a folder without __init__.py
        return Source(name, name, "", True, "")
    get = getattr(spec.loader, "get_source", None) if spec is not None else None
    if spec is None or get is None:
        return None
    try:
        text = get(name)
    except (ImportError, OSError, SyntaxError):
        return None
    if text is None:
        return None
    path = spec.origin or name
    if path == "frozen":
        path = getattr(spec.loader_state, "filename", None) or name
    beside = Path(path).with_suffix(".pyi")
    stub = beside.read_text("utf-8") if beside.is_file() else ""
    return Source(name, path, text, spec.submodule_search_locations is not None, stub)


def below(spec: ModuleSpec) -> list[str]:
    """The names of all modules below a package, without tests."""
    found = []
    for info in pkgutil.iter_modules(spec.submodule_search_locations or [], f"{spec.name}."):
        last = info.name.rpartition(".")[2]
        if last in ("tests", "test", "conftest", "__main__") or last.startswith("test_"):
            continue
        found.append(info.name)
        if info.ispkg and (inner := find_spec(info.name)) is not None:
            found += below(inner)
    return found


def compiled(name: str) -> Iterator[Verdict]:
    """The verdicts on a module without source: nothing is known of its functions but for some names."""
    try:
        module = importlib.import_module(name)
    except Exception as error:
        raise ConfigError(f"{name} cannot be imported: {type(error).__name__}: {error}") from error
    exported = getattr(module, "__all__", None)
    for label, value in sorted(vars(module).items()):
        inside = getattr(value, "__module__", name) in (name, None)
        public = label in exported if exported is not None else not label.startswith("_") and inside
        if public and callable(value) and not isinstance(value, type):
            yield purity.without_source(f"{name}.{label}")


def _hint(name: str) -> str:
    import difflib

    parent, _, last = name.rpartition(".")
    spec = find_spec(parent) if parent else None
    path = list(spec.submodule_search_locations or []) if spec is not None else None if parent else sys.path
    names = [m.name for m in pkgutil.iter_modules(path)] if path is not None else []
    near = difflib.get_close_matches(last, names, 1)
    if spec is not None and spec.submodule_search_locations is None:
        return f"; {parent} is a module, with none below it"
    if near:
        return f"; did you mean {name.removesuffix(last)}{near[0]}?"
    return "; a module is named with dots and must be importable from here (PYTHONPATH)"


# For people, and for programs ----------------------------------------------------------------------

COLOURS = {"impure": "red", "unknown": "yellow"}


def show(found: dict[str, list[Verdict]]) -> None:
    """Print the verdicts on each module."""
    console = Console(highlight=False, soft_wrap=True)
    every = [verdict for verdicts in found.values() for verdict in verdicts]
    width = min(max((len(v.name) for v in every), default=0), 60)
    for verdict in every:
        line = Text(f"{verdict.name:<{width}}  ")
        line.append(headline(verdict), COLOURS.get(verdict.verdict, "green"))
        if verdict.findings and not verdict.path:
            line.append(f" ({verdict.findings[0].what})", "dim")
        if verdict.compiled and verdict.verdict == "pure":
            line.append(f" (trusts compiled {_several([n.rpartition('.')[2] for n in verdict.compiled])})", "dim")
        console.print(line)
        if verdict.verdict != "changes self" and verdict.path:
            for text in _lines(verdict.findings):
                console.print(Text(f"    {text}"))
    if every:
        console.print()
    for name, verdicts in found.items():
        unfit = sum(not v.fit for v in verdicts)
        counts = Counter(v.verdict for v in verdicts)
        parts = ", ".join(f"{counts[kind]} {kind}" for kind in purity.VERDICTS if counts[kind])
        line = Text(f"{name}: {_count(len(verdicts), 'function')}{': ' if parts else ''}{parts}; ")
        line.append("fit" if not unfit else f"{unfit} not fit", "green" if not unfit else "red")
        console.print(line)


def headline(verdict: Verdict) -> str:
    """The verdict with the parameters that it depends on."""
    text = verdict.verdict
    if verdict.given:
        text += f" if {_are_given(verdict.given)}"
    if verdict.unless:
        text += f"{' and' if verdict.given else ''} unless {_are_given(verdict.unless)}"
    if verdict.changing:
        text += f", changes arguments if {_are_given(verdict.changing)}"
    return text


def _lines(findings: Sequence[Finding]) -> Iterator[str]:
    """The findings, one for each thing that is done; the others are counted."""
    kinds: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        kinds.setdefault((finding.kind, finding.what), []).append(finding)
    for shown, several in enumerate(kinds.values()):
        if shown == SHOWN:
            yield f"and {_count(len(kinds) - SHOWN, 'more thing')} (--json has all)"
            return
        more = f" (and {_count(len(several) - 1, 'more place')})" if len(several) > 1 else ""
        yield f"{several[0]._replace(path=shortened(several[0].path))}{more}"


def shortened(path: str) -> str:
    """A path as seen from here, or from the folder on the path of imports that it is in."""
    for folder in (os.getcwd(), *sorted(filter(None, sys.path), key=len, reverse=True)):
        inside = path.removeprefix(os.path.join(folder, ""))
        if inside != path and "site-packages" not in Path(inside).parts:
            return inside
    return path


def _several(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= SHOWN else f"{', '.join(names[:SHOWN])} and {len(names) - SHOWN} more"


def _are_given(names: Sequence[str]) -> str:
    return f"{_several(names)} {'is' if len(names) == 1 else 'are'} given"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def as_data(found: dict[str, list[Verdict]]) -> list[dict[str, Any]]:
    """The same for programs."""
    return [
        {
            "module": name,
            "fit": all(v.fit for v in verdicts),
            "functions": [
                {
                    "name": v.name,
                    "path": v.path,
                    "line": v.line,
                    "verdict": v.verdict,
                    "fit": v.fit,
                    "given": v.given,
                    "unless": v.unless,
                    "changing": v.changing,
                    "compiled": v.compiled,
                    "findings": [
                        {
                            "kind": f.kind,
                            "what": f.what,
                            "path": f.path,
                            "line": f.line,
                            "source": f.source,
                            "way": f.way,
                            "if given": f.condition.parameter if f.condition and f.condition.given else None,
                            "unless given": f.condition.parameter if f.condition and not f.condition.given else None,
                        }
                        for f in v.findings
                    ],
                }
                for v in verdicts
            ],
        }
        for name, verdicts in found.items()
    ]


def report(modules: Sequence[str], as_json: bool) -> int:
    """Check the modules and print what is found; the exit status."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as for the program, which will be run from here
    found = {name: verdicts(name) for name in modules}
    if as_json:
        print(json.dumps(as_data(found), indent=2))
    else:
        show(found)
    return 0 if all(v.fit for verdicts in found.values() for v in verdicts) else 1


# A program run with its calls compared -------------------------------------------------------------

NOT_COMPARED = (
    "not compared are generators and coroutines, calls that ran here, what a second run would do twice, "
    "and what --sample leaves out"
)


def compare(command: Sequence[str], environment: dict[str, str]) -> int:
    """Run a program whose environment asks for verification, and tell what differed; the exit status.

    Raises:
        ConfigError: not one call was compared.
    """
    with tempfile.TemporaryDirectory(prefix="relocate-") as folder:
        file = Path(environment.setdefault(ENV_REPORT, str(Path(folder) / "report.json")))
        before = file.stat().st_mtime_ns if file.is_file() else 0
        # What differs is told at the end.
        ignored = f"ignore:{DIFFER}"
        environment["PYTHONWARNINGS"] = ",".join(filter(None, [environment.get("PYTHONWARNINGS"), ignored]))
        status = _run(command, environment)
        written = file.is_file() and file.stat().st_mtime_ns != before
        seen = json.loads(file.read_text("utf-8")) if written else {}
    verified, differing = seen.get("verified", 0), seen.get("differing", 0)
    if not verified:
        if status:
            return status
        if seen.get("calls", 0):
            raise ConfigError(f"no call was compared, of {_count(seen['calls'], 'call')}: {NOT_COMPARED}")
        raise ConfigError(
            "no call was compared: no function of a designated module was called; "
            "is the right module named by -M, and installed here too?"
        )
    console = Console(highlight=False, soft_wrap=True, stderr=True)
    for found in seen["differences"].values():
        console.print(Text(found["call"], "bold"))
        sides = {found["worker"]: found["there"], "here": found["here"]}
        for side, value in sides.items():
            console.print(Text(f"    {side}: {found['at']} is {value}"))
        if found["note"]:
            console.print(Text(f"    {found['note']}"))
    if verified < seen["calls"]:
        console.print(Text(NOT_COMPARED, "dim"))
    line = Text(f"relocate: {_count(seen['calls'], 'call')}, {verified} compared: ")
    line.append(f"{differing} differed" if differing else "none differed", "red" if differing else "green")
    console.print(line)
    return 1 if differing else status


def _run(command: Sequence[str], environment: dict[str, str]) -> int:
    """Run the program; its exit status.  Ctrl-C is the program's to handle."""
    process = subprocess.Popen(command, env=environment)
    while True:
        try:
            status = process.wait()
            return status if status >= 0 else 128 - status
        except KeyboardInterrupt:
            continue
