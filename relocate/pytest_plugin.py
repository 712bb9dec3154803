"""The pytest plugin: a test suite with designated modules relocated, and fixtures for such suites.

* ``--relocate MODULE --relocate-workers SPEC`` relocates for the whole run, from before conftest
  files are imported.  With pytest-xdist each worker process relocates by itself, and the controller
  sums up what they count.
* ``@pytest.mark.relocate("module", workers=...)`` relocates for one test.  Embedded executors are
  handed on from one such test to the next.
* ``--relocate-strict`` fails a test in which a designated function ran here.
* ``--relocate-dist`` runs the tests themselves on workers, see `dist`.
* The fixtures `relocate_workers` and `relocate_network`.

Only pytest imports this module.  In a run that asks for nothing it loads nothing beyond itself.
"""

from __future__ import annotations

import collections
import importlib.util
import os
import sys
from collections.abc import Generator, Iterable, Iterator, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .errors import ConfigError

if TYPE_CHECKING:
    from .config import Config
    from .dist import Distribution
    from .embedded import Child
    from .handle import Handle
    from .observe import Statistics
    from .testing import Network
    from .testing.workers import Workers

COUNTED = ("calls", "remote", "local", "failed", "retried", "bytes_out", "bytes_in")
OUTPUT = "relocate"
"""The entry of xdist's ``workeroutput`` that holds a worker process's `Tally`."""


# What pytest asks ----------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options, on the command line and in the configuration file."""
    group = parser.getgroup("relocate", "modules that run on workers (relocate)")
    group.addoption(
        "--relocate",
        action="append",
        dest="relocate_modules",
        metavar="MODULE",
        help="run the functions of MODULE, and of all below it, on workers; may be given several times.",
    )
    group.addoption(
        "--relocate-workers",
        action="append",
        dest="relocate_workers",
        metavar="WORKERS",
        help="where: 4 (executors here), tcp://host:port; several with commas, spares after a semicolon.",
    )
    group.addoption(
        "--relocate-strict",
        action="store_true",
        default=None,
        dest="relocate_strict",
        help="fail a test in which a function that should run on a worker ran here.",
    )
    group.addoption(
        "--relocate-dist",
        action="store_true",
        dest="relocate_dist",
        help="run the tests themselves on the workers of --relocate-workers.",
    )
    parser.addini("relocate", "modules whose functions run on workers", type="args", default=[])
    parser.addini("relocate_workers", "where they run")
    parser.addini("relocate_strict", "fail tests in which they run here", type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark."""
    config.addinivalue_line(
        "markers",
        "relocate(*modules, workers=...): run the functions of these modules on workers during this test; "
        "other keys are those of relocate's configuration.",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Relocate for the whole run, if that is asked for."""
    modules = _modules(early_config)
    if early_config.known_args_namespace.relocate_dist and not is_executor():
        options = early_config.known_args_namespace
        for name, there in {
            "--relocate": modules,
            "pytest-xdist": _xdist_workers() or _is_controller(early_config),
            "--pdb": options.usepdb,
        }.items():
            if there:
                raise pytest.UsageError(f"--relocate-dist runs the tests on workers and does not go with {name}")
    if not modules or is_executor() or _is_controller(early_config):
        return
    folders = [early_config.rootpath, early_config.invocation_params.dir, early_config.rootpath / "src"]
    path = [*map(str, early_config.getini("pythonpath")), *sys.path, *map(str, folders)]
    relocation = _relocation(early_config)
    given = {"modules": [*modules, *tests_below(modules, path, early_config.getini("python_files"))]}
    try:
        relocation.for_the_run(given, _workers(early_config))
    except ConfigError as error:
        raise pytest.UsageError(f"relocate: {error}") from None


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Under ``--relocate-dist``, let workers run the tests."""
    option = session.config.option
    broken = session.testsfailed and not option.continue_on_collection_errors
    if not option.relocate_dist or is_executor() or option.collectonly or broken or not session.items:
        return None  # pytest's own does it, or says what is wrong
    from .dist import Distribution

    try:
        given = _configured({"modules": [], "fallback": False}, _workers(session.config))
    except ConfigError as error:
        raise pytest.UsageError(f"relocate: {error}") from None
    distribution = _relocation(session.config).distribution = Distribution(session, given)
    distribution.run()
    return True


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    """Relocate for this test, if it is marked."""
    relocation = _relocation(item.config)
    mark = item.get_closest_marker("relocate")
    if mark is not None and not is_executor():
        try:
            relocation.for_a_test(mark)
        except ConfigError as error:
            pytest.fail(f"@pytest.mark.relocate: {error}", pytrace=False)
    relocation.begin()
    return (yield)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Under ``--relocate-strict``, look where the test's calls ran."""
    try:
        result = yield
    except BaseException:
        _relocation(item.config).begin()  # one failure is enough
        raise
    _check(item)
    return result


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """The same for what its fixtures do at their end; then undo what `pytest_runtest_setup` did."""
    try:
        result = yield
        _check(item)
        return result
    finally:
        _relocation(item.config).end_of_test()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In a worker process of pytest-xdist: leave the counts for the controller."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[OUTPUT] = _relocation(session.config).tally().as_data()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """In the controller of pytest-xdist: take in a worker process's counts."""
    data = getattr(node, "workeroutput", {}).get(OUTPUT)
    if data is not None:
        _relocation(node.config).elsewhere.add_data(data, node.gateway.id)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """One line: what was called, where it ran, what it moved."""
    relocation = _relocation(config)
    tally = relocation.tally()
    if tally.used:
        terminalreporter.write_line(str(tally))
    if relocation.distribution is not None:
        terminalreporter.write_line(str(relocation.distribution))


# Fixtures ------------------------------------------------------------------------------------------


@pytest.fixture
def relocate_workers() -> Iterator[Workers]:
    """Real worker processes, to be started, killed, frozen and cut off; see `relocate.testing.workers`."""
    from .testing.workers import Workers

    with Workers() as workers:
        yield workers


@pytest.fixture
def relocate_network() -> Network:
    """A simulated network without workers, with a clock of its own; see `relocate.testing`."""
    from .testing import Clock, Network

    return Network(Clock())


# How it is done ------------------------------------------------------------------------------------


class Tally:
    """Counts, of several handles or processes."""

    def __init__(self) -> None:
        self.used = False
        self._counts: collections.Counter[str] = collections.Counter()
        self._executors: set[str] = set()

    def add(self, statistics: Statistics) -> None:
        """Add what a handle counted."""
        self.used = True
        for name in COUNTED:
            self._counts[name] += getattr(statistics, name)
        self._executors.update(label for label, seen in statistics.workers.items() if seen.calls)

    def as_data(self) -> dict[str, Any] | None:
        """The counts as xdist can send them; None if nothing was relocated."""
        return {**self._counts, "executors": sorted(self._executors)} if self.used else None

    def add_data(self, data: Mapping[str, Any], process: str = "") -> None:
        """Add another's `as_data`, which counted in ``process``: embedded executors are its own."""
        self.used = True
        for name in COUNTED:
            self._counts[name] += data.get(name, 0)
        self._executors.update(f"{process}:{e}" if e.startswith("embedded/") else e for e in data["executors"])

    def __str__(self) -> str:
        counts = self._counts
        where = f"{counts['remote']:,} on workers ({_count(len(self._executors), 'executor')})"
        said = [f"relocate: {_count(counts['calls'], 'call')}: {where}, {counts['local']:,} here"]
        said += [f"{counts['failed']:,} failed"] if counts["failed"] else []
        said += [f"{counts['retried']:,} retried", f"{_size(counts['bytes_out'])} out, {_size(counts['bytes_in'])} in"]
        return "; ".join(said)


class Relocation:
    """What this process has relocated for its tests."""

    def __init__(self, config: pytest.Config) -> None:
        self.elsewhere = Tally()
        """What worker processes of pytest-xdist have counted."""
        self.distribution: Distribution | None = None
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

        self._run = enable(_configured(given, workers), early=False)
        self._config.add_cleanup(self._run.disable)

    def for_a_test(self, mark: pytest.Mark) -> None:
        """Relocate until `end_of_test`.

        Raises:
            ConfigError: the mark is wrong.
        """
        given = dict(mark.kwargs)
        named = given.pop("modules", [])
        modules = [*mark.args, *([named] if isinstance(named, str) else named)]
        if not modules:
            raise ConfigError("no module is named")
        from .handle import Handle, _active

        for other in _active:
            if any(map(other.config.designates, modules)):
                if given or not all(map(other.config.designates, modules)):
                    raise ConfigError(f"{', '.join(modules)}: the whole run has some of that relocated, in its own way")
                return
        workers = given.pop("workers", None)
        if workers is None:
            workers = _workers(self._config)
        self._test = Handle(_configured({**given, "modules": modules}, workers))
        for link in self._test._links:
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
        for link in handle._links:
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
        return found

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


_KEY = pytest.StashKey[Relocation]()


def _relocation(config: pytest.Config) -> Relocation:
    if _KEY not in config.stash:
        config.stash[_KEY] = Relocation(config)
    return config.stash[_KEY]


def _check(item: pytest.Item) -> None:
    strict = item.config.getoption("relocate_strict")
    if strict or (strict is None and item.config.getini("relocate_strict")):
        here = _relocation(item.config).ran_here()
        if here:
            pytest.fail(f"ran here and not on a worker: {', '.join(here)}", pytrace=False)


def _configured(given: dict[str, Any], workers: Any) -> Config:
    """The configuration: ``given`` before what the environment and files say.

    Raises:
        ConfigError: it is wrong.
    """
    from . import config as configuration

    if workers is not None:
        given = {**given, "workers": workers}
    processes = _xdist_workers()
    if not processes:
        return configuration.load(None, **given)
    config = configuration.load(None, **given, report="")  # it would be that of whichever process ends last
    if config.workers == "local":
        config = configuration.load(config, workers=f"local:{max(1, configuration.cores() // processes)}")
    return config


def _modules(config: pytest.Config) -> list[str]:
    given: list[str] = config.known_args_namespace.relocate_modules or config.getini("relocate")
    return [name for entry in given for name in entry.replace(",", " ").split()]


def _workers(config: pytest.Config) -> str | None:
    given: list[str] = config.known_args_namespace.relocate_workers
    return ",".join(given) if given else config.getini("relocate_workers") or None


def is_executor() -> bool:
    """Whether this process is itself one that runs calls for others."""
    return "RELOCATE_EXECUTOR" in os.environ


def _xdist_workers() -> int:
    """How many worker processes of pytest-xdist this one is among; 0 if it is none.

    Its variables in the environment do not tell alone: what a test starts inherits them.
    """
    frame = sys._getframe()
    while frame.f_back is not None:
        if frame.f_globals.get("__name__") == "__channelexec__":
            return int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
        frame = frame.f_back
    return 0


def _is_controller(config: pytest.Config) -> bool:
    """Whether this process will leave its tests to worker processes of pytest-xdist."""
    options = config.known_args_namespace
    spread = getattr(options, "distload", False) or getattr(options, "dist", "no") != "no"
    return not _xdist_workers() and bool(
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


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _size(octets: float) -> str:
    for unit in ("B", "kB", "MB"):
        if octets < 1000:
            return f"{octets:.3g} {unit}"
        octets /= 1000
    return f"{octets:,.3g} GB"
