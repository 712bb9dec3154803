"""The executor's side of ``pytest --relocate-dist``: one pytest session, whose tests are run as asked.

`begin` collects what the client collected, from the same arguments, once; `run` runs one test by
pytest's own protocol and gives back what pytest said of it; `end` tears down what is left.  The
client (`dist`) calls them one after the other, and each executor belongs to one run of pytest.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import threading
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest

Event = tuple[str, dict[str, Any]]
"""What pytest said: ``report``, ``warning`` or ``exit``, with its data."""


@dataclass(frozen=True)
class Order:
    """Which session it is, and how to collect it."""

    run: str
    """Tells one run of pytest from another."""
    args: list[str]
    """Of the command line."""
    folder: str
    """Where pytest was started."""
    basetemp: str
    """Folder of the temporary folders; empty: pytest's own choice."""
    executor: str
    """Name of this executor, in the manner of pytest-xdist: ``gw0``."""
    executors: int
    """How many there are, as far as is known."""
    owned: bool
    """Whether this process ends with the run anyway."""


class NotCollected(LookupError):
    """A test that the client has is not here; the message says why."""


class Elsewhere(pytest.Item):
    """Stands for the next test where it is not known yet: of the session, and of no folder or file."""

    def runtest(self) -> None:
        """Never run."""
        raise NotImplementedError


class Items:
    """A collected session."""

    def __init__(self, order: Order) -> None:
        from _pytest.config import _prepareconfig

        self.order = order
        self._events: list[Event] = []
        unhear()
        os.chdir(order.folder)
        config: Any = _prepareconfig(list(order.args))
        self._config = config
        # As pytest-xdist does: by this plugins know that the results go elsewhere.
        config.workerinput = {
            "workerid": order.executor,
            "workercount": order.executors,
            "testrunuid": order.run,
            "mainargv": order.args,
        }
        config.workeroutput = {}
        config.option.maxfail = 0  # the client counts
        config.option.usepdb = False
        config.option.basetemp = order.basetemp or None
        # Others want a terminal reporter to be there; what it reports, the client's does.
        self._nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 -- as long as the session
        with contextlib.redirect_stdout(self._nowhere):
            config._do_configure()
        config.pluginmanager.register(self, "relocate-items")
        self._failures: list[str] = []
        self.session = pytest.Session.from_config(config)
        config.hook.pytest_sessionstart(session=self.session)
        config.hook.pytest_collection(session=self.session)
        self._items = {name: item for item, name in named(self.session.items).items()}
        self._elsewhere: pytest.Item = Elsewhere.from_parent(self.session, name="elsewhere")
        self._last: pytest.Item | None = None

    def run(self, name: str, following: str | None) -> list[Event]:
        """See `run`."""
        item = self._items.get(name)
        if item is None:
            why = "\n".join(self._failures) or "it is not among what was collected there"
            raise NotCollected(f"{name} could not be collected on the worker: {why}")
        self._last = item
        try:
            nextitem = self._items.get(following or "", self._elsewhere)
            self._config.hook.pytest_runtest_protocol(item=item, nextitem=nextitem)
        except pytest.exit.Exception as error:
            self._events.append(("exit", {"reason": str(error.msg), "returncode": error.returncode}))
        return self._take()

    def end(self) -> list[Event]:
        """See `end`."""
        teardown = self.session._setupstate.teardown_exact
        call = pytest.CallInfo.from_call(lambda: teardown(None), when="teardown")
        if call.excinfo is not None and self._last is not None:
            report = self._config.hook.pytest_runtest_makereport(item=self._last, call=call)
            self.pytest_runtest_logreport(report)
        self._config.hook.pytest_sessionfinish(session=self.session, exitstatus=pytest.ExitCode.OK)
        self._config._ensure_unconfigure()
        self._nowhere.close()
        return self._take()

    def _take(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    # What pytest says --------------------------------------------------------------------------------

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep why something was not collected."""
        if report.failed:
            self._failures.append(f"{report.nodeid}: {report.longreprtext}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep a report for the client."""
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._events.append(("report", data))

    def pytest_warning_recorded(
        self,
        warning_message: warnings.WarningMessage,
        when: str,
        nodeid: str,
        location: tuple[str, int, str] | None,
    ) -> None:
        """Keep a warning for the client, which was also there when those of the collection came."""
        if when == "runtest":
            data = {
                "text": str(warning_message.message),
                "category": (warning_message.category.__module__, warning_message.category.__qualname__),
                "file": (warning_message.filename, warning_message.lineno),
                "about": {"when": when, "nodeid": nodeid, "location": location},
            }
            self._events.append(("warning", data))


def unhear() -> None:
    """Undo what an executor does to hear of warnings and log records: pytest hears of them itself.

    With other filters than Python's own it would report warnings that it does not report here.
    """
    filters: Any = warnings.filters
    everything = ("always", None, Warning, None, 0)
    if everything in filters:
        filters.remove(everything)
    with warnings.catch_warnings():
        pass  # `warnings` notices changes to its list only so
    logging.getLogger().handlers.clear()


def named(tests: Iterable[pytest.Item]) -> dict[pytest.Item, str]:
    """A name for each test that no other one has, and that is the same in each process.

    Node ids alone do not do: those of files outside of pytest's root folder have no file in them.
    """
    seen: collections.Counter[str] = collections.Counter()
    names = {}
    for test in tests:
        name = f"{test.path}, {test.nodeid}"
        seen[name] += 1
        names[test] = name if seen[name] == 1 else f"{name}, for the {seen[name]}th time"
    return names


_items: Items | None = None


def begin(order: Order) -> None:
    """Collect, if that is not done yet."""
    global _items
    if _items is not None and _items.order.run != order.run:
        os._exit(1)  # left over from a run that was killed; modules are to be imported anew
    if _items is None:
        _items = Items(order)


def run(name: str, following: str | None) -> list[Event]:
    """Run a test.

    Args:
        name: which, as `named` has it.
        following: the one that comes after it here: what that one needs too is not torn down.  None:
            it is not known yet; what the whole session has set up is kept.

    Raises:
        NotCollected: it is not here.
    """
    assert _items is not None
    return _items.run(name, following)


def end() -> list[Event]:
    """Tear down what is left; what goes wrong is said of the test that ran last.

    The process is of no use then: it has a test suite's modules in it.
    """
    global _items
    assert _items is not None
    ended, _items = _items, None
    try:
        return ended.end()
    finally:
        if not ended.order.owned:
            threading.Timer(0.2, os._exit, (0,)).start()  # after the answer
