"""The pytest plugin: a test suite with designated modules relocated, and fixtures for such suites.

* ``--relocate MODULE --relocate-workers SPEC`` relocates for the whole run, from before conftest
  files are imported, and ``--relocate-methods NAME`` methods of classes.  With pytest-xdist each worker
  process relocates by itself, and the controller sums up what they count.
* ``@pytest.mark.relocate("module", workers=...)`` relocates for one test.  Embedded executors are
  handed on from one such test to the next.
* ``--relocate-strict`` fails a test in which a designated function ran here.
* ``--relocate-dist`` runs the tests themselves on workers, see `dist`.
* The fixtures `relocate_workers` and `relocate_network`.

Only pytest imports this module.  In a run that asks for nothing, nothing heavy is loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from . import suite
from .errors import ConfigError
from .suite import Suite

if TYPE_CHECKING:
    from .testing import Network
    from .testing.workers import Workers

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
        "--relocate-methods",
        action="append",
        dest="relocate_methods",
        metavar="NAME",
        help="run the methods of the class NAME, or of all classes of the module NAME, on workers.",
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
    parser.addini("relocate_methods", "classes whose methods run on workers", type="args", default=[])
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
    modules, methods = suite.modules_of(early_config), suite.methods_of(early_config)
    if early_config.known_args_namespace.relocate_dist and not suite.is_executor():
        options = early_config.known_args_namespace
        for name, there in {
            "--relocate": modules,
            "--relocate-methods": methods,
            "pytest-xdist": suite.xdist_workers() or suite.is_controller(early_config),
            "--pdb": options.usepdb,
            "--cov": getattr(options, "cov_source", None),
        }.items():
            if there:
                raise pytest.UsageError(f"--relocate-dist runs the tests on workers and does not go with {name}")
    if not (modules or methods) or suite.is_executor() or suite.is_controller(early_config):
        return
    folders = [early_config.rootpath, early_config.invocation_params.dir, early_config.rootpath / "src"]
    path = [*map(str, early_config.getini("pythonpath")), *sys.path, *map(str, folders)]
    mine = _suite(early_config)
    tests = suite.tests_below(modules, path, early_config.getini("python_files"))
    given = {"modules": [*modules, *tests]} | ({"methods": methods} if methods else {})
    try:
        mine.for_the_run(given, suite.workers_of(early_config))
    except ConfigError as error:
        raise pytest.UsageError(f"relocate: {error}") from None


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Under ``--relocate-dist``, let workers run the tests."""
    option = session.config.option
    broken = session.testsfailed and not option.continue_on_collection_errors
    if not option.relocate_dist or suite.is_executor() or option.collectonly or broken or not session.items:
        return None  # pytest's own does it, or says what is wrong
    from .dist import Distribution

    try:
        given = suite.configured({"modules": [], "fallback": False}, suite.workers_of(session.config))
    except ConfigError as error:
        raise pytest.UsageError(f"relocate: {error}") from None
    session.config.stash[_DISTRIBUTION] = distribution = Distribution(session, given)
    distribution.run()
    return True


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    """Relocate for this test, if it is marked."""
    mine = _suite(item.config)
    mark = item.get_closest_marker("relocate")
    if mark is not None and not suite.is_executor():
        try:
            mine.for_a_test(mark)
        except ConfigError as error:
            pytest.fail(f"@pytest.mark.relocate: {error}", pytrace=False)
    mine.begin()
    return (yield)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Under ``--relocate-strict``, look where the test's calls ran."""
    try:
        result = yield
    except BaseException:
        _suite(item.config).begin()  # one failure is enough
        raise
    _check(item)
    return result


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """The same for what its fixtures do at their end; then undo what `pytest_runtest_setup` did."""
    try:
        result = yield
        _check(item, ends=True)
        return result
    finally:
        _suite(item.config).end_of_test()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In a worker process of pytest-xdist: leave the counts for the controller.  Else, fail a run that lacks something.

    That is under ``--relocate-strict``: of a module that was not relocated, no call is counted in any test.
    """
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[OUTPUT] = _suite(session.config).tally().as_data()
    elif session.exitstatus == pytest.ExitCode.OK and _lacking(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """In the controller of pytest-xdist: take in a worker process's counts."""
    data = getattr(node, "workeroutput", {}).get(OUTPUT)
    if data is not None:
        _suite(node.config).elsewhere.add_data(data, node.gateway.id)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """One line: what was called, where it ran, what it moved."""
    for said in _lacking(config):
        terminalreporter.write_line(f"ERROR --relocate-strict: {said}", red=True)
    tally = _suite(config).tally()
    if tally.used:
        terminalreporter.write_line(str(tally))
    if _DISTRIBUTION in config.stash:
        terminalreporter.write_line(str(config.stash[_DISTRIBUTION]))


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


_SUITE = pytest.StashKey[Suite]()
_DISTRIBUTION = pytest.StashKey[object]()


def _suite(config: pytest.Config) -> Suite:
    if _SUITE not in config.stash:
        config.stash[_SUITE] = Suite(config)
    return config.stash[_SUITE]


def _is_strict(config: pytest.Config) -> bool:
    strict = config.getoption("relocate_strict")
    return bool(config.getini("relocate_strict") if strict is None else strict)


def _lacking(config: pytest.Config) -> list[str]:
    """What was designated for the run and not relocated, if that is an error."""
    return _suite(config).tally().lacking() if _is_strict(config) else []


def _check(item: pytest.Item, *, ends: bool = False) -> None:
    if _is_strict(item.config):
        here = _suite(item.config).ran_here()
        if here:
            pytest.fail(f"ran here and not on a worker: {', '.join(here)}", pytrace=False)
        lacking = _suite(item.config).lacking() if ends else ()
        if lacking:
            pytest.fail("; ".join(lacking), pytrace=False)
