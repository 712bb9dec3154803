"""What a test suite relocates: for its whole run, and for single tests.

`pytest_plugin` has the hooks that drive this.  Nothing heavy is imported before something is to be
relocated.
"""

from __future__ import annotations

import collections
import importlib.util
import os
import sys
from collections.abc import Iterable
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .errors import ConfigError
from .tally import Tally

if TYPE_CHECKING:
    from .config import Config
    from .embedded import Child
    from .handle import Handle


class Suite:
    """What this process has relocated for its tests."""

    def __init__(self, config: pytest.Config) -> None:
        self.elsewhere = Tally()
        """What worker processes of pytest-xdist have counted."""
        self._config = config
        self._run: Handle | None = None
        self._test: Handle | None = None
        self._past = Tally()
        self._spare: dict[str, Child] = {}
        config.add_cleanup(self._end_spare)
        self._before: collections.Counter[str] = collections.Counter()

    def for_the_run(self, given: dict[str, Any], workers: str | None) -> None:
        """Relocate until pytest ends.

        Raises:
            ConfigError: the options or the configuration file are wrong.
        """
        from .handle import enable

        try:
            config = configured(given, workers)
        except ConfigError as error:  # what the options gave is named by them
            said = str(error)
            for key, option in (("modules", "--relocate"), ("workers", "--relocate-workers")):
                said = said.replace(f"the arguments: {key}:", f"{option}:")
            raise ConfigError(said) from None
        self._run = enable(config, early=False)
        self._config.add_cleanup(self._run.disable)

    def for_a_test(self, mark: pytest.Mark) -> None:
        """Relocate until `end_of_test`.

        Raises:
            ConfigError: the mark is wrong.
        """
        given = dict(mark.kwargs)
        named = given.pop("modules", [])
        modules = [*mark.args, *([named] if isinstance(named, str) else named)]
        if not modules and not given.get("methods"):
            raise ConfigError("no module is named")
        from .handle import Handle, _active

        for other in _active:
            if modules and any(map(other.config.designates, modules)):
                if given or not all(map(other.config.designates, modules)):
                    raise ConfigError(f"{', '.join(modules)}: the whole run has some of that relocated, in its own way")
                return
        workers = given.pop("workers", None)
        if workers is None:
            workers = workers_of(self._config)
        self._test = Handle(configured({**given, "modules": modules}, workers))
        for link in self._test._fleet.links:
            if link.spec in self._spare:
                link.child = self._spare.pop(link.spec)
        self._test.enable(early=False)

    def begin(self) -> None:
        """A test begins: remember the counts."""
        self._before = self._here()

    def end_of_test(self) -> None:
        """Undo what was enabled for one test; keep its executors for the next one."""
        handle, self._test = self._test, None
        if handle is None:
            return
        for link in handle._fleet.links:
            if link.is_embedded and link.child is not None:
                self._spare[link.spec], link.child = link.child, None
        handle.disable()
        self._past.add(handle.statistics())

    def ran_here(self) -> list[str]:
        """The designated functions that ran in this process since `begin`, which this call is too."""
        before, self._before = self._before, self._here()
        return [f"{name} ({count}x)" for name, count in sorted((self._before - before).items())]

    def tally(self) -> Tally:
        """All that was counted so far."""
        found = Tally()
        for other in (self.elsewhere, self._past):
            if other.used:
                found.add_data(other.as_data() or {})
        for handle in self._handles():
            found.add(handle.statistics())
        if self._run is not None:
            found.misspelt = set(self._run.misspelt(here=True))
        return found

    def lacking(self) -> list[str]:
        """What is designated for this test alone, and not relocated, each in a line that says why."""
        if self._test is None:
            return []
        found = Tally()
        found.add(self._test.statistics())
        found.misspelt = set(self._test.misspelt(here=True))
        return found.lacking()

    def _handles(self) -> list[Handle]:
        return [handle for handle in (self._run, self._test) if handle is not None]

    def _here(self) -> collections.Counter[str]:
        counted: collections.Counter[str] = collections.Counter()
        for handle in self._handles():
            counted.update({name: where.local for name, where in handle.statistics().members.items()})
        return counted

    def _end_spare(self) -> None:
        while self._spare:
            self._spare.popitem()[1].stop()


def configured(given: dict[str, Any], workers: Any) -> Config:
    """The configuration: ``given`` before what the environment and files say.

    Raises:
        ConfigError: it is wrong.
    """
    from . import config as configuration

    if workers is not None:
        given = {**given, "workers": workers}
    processes = xdist_workers()
    if not processes:
        return configuration.load(None, **given)
    config = configuration.load(None, **given, report="")  # it would be that of whichever process ends last
    if config.workers == "local":
        config = configuration.load(config, workers=f"local:{max(1, configuration.cores() // processes)}")
    return config


def modules_of(config: pytest.Config) -> list[str]:
    """The designated modules, by command line or configuration file."""
    given: list[str] = config.known_args_namespace.relocate_modules or config.getini("relocate")
    return [name for entry in given for name in entry.replace(",", " ").split()]


def methods_of(config: pytest.Config) -> list[str]:
    """The designated methods and classes, likewise."""
    given: list[str] = config.known_args_namespace.relocate_methods or config.getini("relocate_methods")
    return [name for entry in given for name in entry.replace(",", " ").split()]


def workers_of(config: pytest.Config) -> str | None:
    """The workers, likewise."""
    given: list[str] = config.known_args_namespace.relocate_workers
    return ",".join(given) if given else config.getini("relocate_workers") or None


def is_executor() -> bool:
    """Whether this process is itself one that runs calls for others."""
    return "RELOCATE_EXECUTOR" in os.environ  # as `config` calls it, which would load msgspec


def xdist_workers() -> int:
    """How many worker processes of pytest-xdist this one is among; 0 if it is none.

    Its variables in the environment do not tell alone: what a test starts inherits them.
    """
    frame = sys._getframe()
    while frame.f_back is not None:
        if frame.f_globals.get("__name__") == "__channelexec__":
            return int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
        frame = frame.f_back
    return 0


def is_controller(config: pytest.Config) -> bool:
    """Whether this process will leave its tests to worker processes of pytest-xdist."""
    options = config.known_args_namespace
    spread = getattr(options, "distload", False) or getattr(options, "dist", "no") != "no"
    return not xdist_workers() and bool(
        getattr(options, "numprocesses", None) or (spread and getattr(options, "tx", None))
    )


def tests_below(modules: Iterable[str], path: list[str], patterns: Iterable[str]) -> list[str]:
    """What lies below designated ``modules`` and is a test: it must stay here, as ``!name``.

    Folders called ``test`` or ``tests``, conftest files, and files that match ``patterns``, as
    pytest's ``python_files`` has them.
    """
    found = []
    for module in modules:
        for folder in _folders(module, path):
            for root, below, files in os.walk(folder):
                package = ".".join([module, *Path(root).relative_to(folder).parts])
                tests = [b for b in below if b in ("test", "tests")]
                tests += [
                    Path(file).stem
                    for file in files
                    if file == "conftest.py" or (file.endswith(".py") and any(Path(file).match(p) for p in patterns))
                ]
                found += [f"!{package}.{name}" for name in tests if name.isidentifier()]
                below[:] = [b for b in below if b.isidentifier() and b not in (*tests, "__pycache__")]
    return found


def _folders(module: str, path: list[str]) -> list[str]:
    """Where the package ``module`` lies; nothing is imported to find out."""
    walked, folders = "", path
    for part in module.split("."):
        walked = f"{walked}.{part}" if walked else part
        spec = PathFinder.find_spec(walked, folders)
        if spec is None and walked == part and part not in sys.modules:
            spec = importlib.util.find_spec(part)  # installed in a way of its own (editable, zipped)
        folders = list(spec.submodule_search_locations or []) if spec is not None else []
    return folders
