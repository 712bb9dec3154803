"""``pytest --relocate-dist``: the tests themselves run on workers, and are reported as if they ran here.

pytest collects here as ever.  Then one thread for each executor takes a group of tests, those of one
file, and has them run there one by one (`items` is what they call).  This process's main thread tells
pytest what they said: it alone calls hooks.

A test is not pure, so the driver is not asked to run it: it might do so twice, or on any executor.
A test that crashes its executor has failed.  One that was lost for no reason of its own (its worker
was cut off, its executor killed from outside) runs once more.  An executor that has ended is replaced
by its supervisor, and gets a thread again.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import queue
import signal
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest

from . import ambient, config, digests, items, raising, restoring, session, values, wire
from .channel import Channel, Lost
from .errors import WorkerError
from .handle import Handle
from .links import Links
from .output import show
from .places import Seat, end_of
from .trip import obituary_of

BEGINNINGS = 3
"""Executors in a row that may end while they collect, before the run is given up."""


class Line:
    """The tests that are still to run, in groups of which one executor has one at a time."""

    def __init__(self, tests: Iterable[pytest.Item]) -> None:
        self._lock = threading.Lock()
        groups = itertools.groupby(tests, lambda test: test.path)
        self._groups = collections.deque(collections.deque(group) for _, group in groups)
        self.stopped = False

    def take(self) -> collections.deque[pytest.Item]:
        """The next group; empty if there is none."""
        with self._lock:
            return self._groups.popleft() if self else collections.deque()

    def give_back(self, group: collections.deque[pytest.Item]) -> None:
        """An executor has ended: others run the rest of its group."""
        with self._lock:
            if group:
                self._groups.appendleft(group)

    def __bool__(self) -> bool:
        return bool(self._groups) and not self.stopped


@dataclass(frozen=True)
class Said:
    """What an executor's thread has for the main thread."""

    test: pytest.Item | None
    """None: it is not about a test, and the run cannot go on."""
    events: list[items.Event] = field(default_factory=list)
    output: list[tuple[str, str]] = field(default_factory=list)
    failure: str = ""
    """Why there are no events."""
    late: bool = False
    """Whether the test was spoken of before: this is about what was torn down at the end."""


class Draining(Exception):
    """The executor runs nothing more: its worker is shutting down."""


class Crew:
    """The executors of one run."""

    def __init__(self, handle: Handle, line: Line, names: dict[pytest.Item, str], order: items.Order) -> None:
        self.said: queue.SimpleQueue[Said] = queue.SimpleQueue()
        self.executors: set[str] = set()
        """Labels of those that have run tests."""
        self._handle = handle
        self._line = line
        self._names = names
        self._order = order
        self._threads: list[threading.Thread] = []
        self._known: set[str] = set()
        self._running: dict[str, tuple[Seat, bytes]] = {}
        self._lost: set[pytest.Item] = set()
        self._failed_beginnings = 0
        self._gateways = itertools.count()
        self._digest = digests.digest(items)
        self._numbers = itertools.count(1)
        self._prefix = os.urandom(8)
        handle._fleet.start()
        links = handle._fleet.driver.links
        assert links is not None
        self._links: Links = links

    def muster(self) -> bool:
        """Put the executors to work that have come since; whether any is at work."""
        for link in self._handle._fleet.links:
            for seat in link.seats:
                if seat.id not in self._known and self._line and not self.is_hopeless:
                    self._known.add(seat.id)
                    thread = threading.Thread(target=self._work, args=(seat,), name=f"relocate-{seat.id}", daemon=True)
                    self._threads.append(thread)
                    thread.start()
        return any(thread.is_alive() for thread in self._threads)

    @property
    def is_hopeless(self) -> bool:
        """Whether executors end before they can run a test."""
        return self._failed_beginnings >= BEGINNINGS

    def troubles(self) -> str:
        """Why nobody works."""
        if self.is_hopeless:
            return f"{BEGINNINGS} executors in a row ended while they collected the tests"
        return self._handle._fleet.driver.troubles(("chan",))

    def interrupt(self) -> None:
        """Interrupt the tests that are running."""
        for seat, call in list(self._running.values()):
            self._links.cancel(seat, call)

    def join(self, seconds: float | None = None) -> None:
        """Wait for all to finish the test that they are at, for so many ``seconds`` altogether."""
        until = time.monotonic() + seconds if seconds is not None else None
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()) if until is not None else None)

    # In an executor's thread -------------------------------------------------------------------------

    def _work(self, seat: Seat) -> None:
        group: collections.deque[pytest.Item] = collections.deque()
        begun = False
        here: pytest.Item | None = None
        try:
            channel = self._links.open_channel(seat)
        except Lost:  # it has just ended
            self._failed_beginnings += 1
            return
        try:
            _, output = self._call(channel, seat, "begin", self._order_for(seat))
            begun, self._failed_beginnings = True, 0
            while group or (group := self._line.take()):
                here = group[0]
                following = self._names[group[1]] if len(group) > 1 else None
                try:
                    events, printed = self._call(channel, seat, "run", self._names[here], following)
                    said = Said(here, events, output + printed)
                except items.NotCollected as error:
                    said = Said(here, failure=str(error))
                group.popleft()
                self.executors.add(seat.label)
                self.said.put(said)
                output = []
                if self._line.stopped:
                    break
            last, here = here, None
            events, output = self._call(channel, seat, "end")
            if events and last is not None:
                self.said.put(Said(last, events, output, late=True))
            self._known.discard(seat.id)  # if another one ends, it may begin again
        except Lost:
            self._failed_beginnings += not begun
            failure = self._blame(seat, here) if here is not None else ""
            if failure:
                self.said.put(Said(group.popleft(), failure=failure))
        except Draining:
            pass
        except BaseException as error:
            self.said.put(Said(here, failure=f"{seat.label}: {type(error).__name__}: {error}"))
            if here is not None:  # its session is in a state that nobody knows
                group.popleft()
                with contextlib.suppress(Exception):
                    self._call(channel, seat, "end")
                    self._known.discard(seat.id)
        finally:
            self._running.pop(seat.id, None)
            channel.close()
            self._line.give_back(group)

    def _order_for(self, seat: Seat) -> items.Order:
        name = f"gw{next(self._gateways)}"
        known = sum(len(link.seats) for link in self._handle._fleet.links)
        owned = seat.link.is_embedded
        basetemp = os.path.join(self._order.basetemp, f"executor-{name}") if owned else ""
        return replace(self._order, executor=name, executors=known, owned=owned, basetemp=basetemp)

    def _call(self, channel: Channel, seat: Seat, member: str, *args: Any) -> tuple[Any, list[tuple[str, str]]]:
        """What the function of `items` returns, and what it printed."""
        call = self._prefix + next(self._numbers).to_bytes(8, "big")
        request = wire.Call(call, items.__name__, member, self._digest, ambient.capture())
        self._running[seat.id] = seat, call
        sent = restoring.Sent(args, {})
        printed: list[tuple[str, str]] = []
        answer = partial(_collects, printed)
        channel.send(request, wire.pack(request, sent.segments))
        reply, result, _ = channel.reply(answer)
        if isinstance(reply, (wire.Returned, wire.Raised)):
            value = sent.accept(result)[0] if reply.refers else values.loads(result)
            if isinstance(reply, wire.Raised):
                raise raising.rebuild(value, seat.label)
            return value, printed + reply.output
        if isinstance(reply, wire.Rejected) and reply.code == "draining":
            raise Draining
        raise WorkerError(reply.text if isinstance(reply, (wire.Rejected, wire.Refused)) else "it asks for something")

    def _blame(self, seat: Seat, test: pytest.Item) -> str:
        """Why ``test`` has failed, as its executor is gone; empty if it may run again."""
        obituary = obituary_of(seat, self._handle._fleet.driver.turn)
        outside = obituary is None or obituary.returncode == -signal.SIGKILL
        if outside and test not in self._lost:
            self._lost.add(test)
            return ""
        how = "was lost" if obituary is None else end_of(obituary.returncode)
        return f"the executor {seat.label} {how} while it ran this test"


class Distribution:
    """One run of pytest whose tests run on workers.

    Args:
        session: what was collected here.
        given: the configuration of the workers.
    """

    def __init__(self, session: pytest.Session, given: config.Config) -> None:
        self._session = session
        self._line = Line(session.items)
        self._handle = Handle(given)
        self._patience = given.patience
        order = items.Order(
            run=uuid.uuid4().hex,
            args=[str(arg) for arg in session.config.invocation_params.args],
            folder=str(session.config.invocation_params.dir),
            basetemp=str(session.config._tmp_path_factory.getbasetemp()),  # type: ignore[attr-defined]
            executor="",
            executors=0,
            owned=False,
        )
        self._crew = Crew(self._handle, self._line, items.named(session.items), order)
        self._ran = 0

    def run(self) -> None:
        """Run the tests.

        Raises:
            pytest.UsageError: nobody is there to run them, or they cannot be collected there.
            pytest.Session.Failed: so many have failed that it ends here.
            pytest.Session.Interrupted: a plugin has asked for it.
        """
        session = self._session
        try:
            self._run()
            self._crew.join()
            while not self._crew.said.empty():
                tell(session.config, self._crew.said.get())
        except (session.Failed, session.Interrupted):
            self._line.stopped = True
            self._crew.join()
            raise
        except BaseException:
            self._line.stopped = True
            self._crew.interrupt()
            self._crew.join(5)
            raise
        finally:
            self._handle.close()

    def _run(self) -> None:
        session, crew = self._session, self._crew
        seen = time.monotonic()
        while self._ran < len(session.items):
            if crew.muster():
                seen = time.monotonic()
            try:
                said = crew.said.get(timeout=0.05)
            except queue.Empty:
                if time.monotonic() - seen > self._patience or crew.is_hopeless:
                    raise pytest.UsageError(f"--relocate-dist: {crew.troubles()}") from None
                continue
            self._ran += not said.late
            tell(session.config, said)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)

    def __str__(self) -> str:
        tests, executors = self._ran, len(self._crew.executors)
        return f"relocate: {tests:,} test{'s'[: tests != 1]} on {executors:,} executor{'s'[: executors != 1]}"


def tell(configured: pytest.Config, said: Said) -> None:
    """Tell pytest what an executor's thread has said.

    Raises:
        pytest.UsageError: the run cannot go on.
    """
    test, hook = said.test, configured.hook
    if test is None:
        raise pytest.UsageError(f"--relocate-dist: {said.failure}")
    test.ihook.pytest_runtest_logstart(nodeid=test.nodeid, location=test.location)
    show(said.output)
    if said.failure:
        test.ihook.pytest_runtest_logreport(report=failed(test, said.failure))
    for kind, data in said.events:
        if kind == "report":
            report = hook.pytest_report_from_serializable(config=configured, data=data)
            test.ihook.pytest_runtest_logreport(report=report)
        elif kind == "warning":
            module, name = data["category"]
            category = getattr(sys.modules.get(module), name, UserWarning)
            warning = warnings.WarningMessage(data["text"], category, *data["file"])
            hook.pytest_warning_recorded.call_historic(kwargs={"warning_message": warning, **data["about"]})
        else:
            pytest.exit(**data)
    test.ihook.pytest_runtest_logfinish(nodeid=test.nodeid, location=test.location)


def failed(test: pytest.Item, why: str) -> pytest.TestReport:
    """The report of a test of which its executor said nothing."""
    return pytest.TestReport(
        nodeid=test.nodeid,
        location=test.location,
        keywords=dict.fromkeys(test.keywords, 1),
        outcome="failed",
        longrepr=why,
        when="call",
    )


def _collects(
    printed: list[tuple[str, str]], question: session.Question, segments: list[wire.Buffer]
) -> list[wire.Buffer]:
    """Keeps what is printed while a test runs; nothing was lent that could be asked for."""
    assert isinstance(question, wire.Said)
    printed += question.output
    return []
