"""Deadlines that travel with calls: what executors and supervisors make of them, whatever the client does."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sys
import threading
import time
from typing import Any

import psutil
import pytest
from conftest import Place, alive, until

import relocate
from relocate import digests, wire
from relocate.restoring import Sent
from relocate.session import ServerSession

MODULE = """
import os, time, relocate

def left():
    return relocate.deadline.left()

def rest(seconds):
    time.sleep(seconds)
    return seconds

def mark(path, seconds=0.0):
    with open(path + ".draft", "x") as file:
        file.write(str(os.getpid()))
    os.rename(path + ".draft", path)
    time.sleep(seconds)

def deaf(path):
    mark(path)
    sum(range(10**15))

def tidy(path):
    mark(path)
    try:
        time.sleep(600)
    finally:
        mark(path + ".tidy")

def ask(function):
    return function()

async def ask_later(function):
    return function()

def further(keys):
    with relocate.enable(modules=["timely_inner"], workers=1, fallback=False, keys=keys, cache=keys):
        import timely_inner
        return timely_inner.left(), relocate.deadline.left()
"""


@pytest.fixture
def timely(place: Place, monkeypatch: pytest.MonkeyPatch) -> str:
    """The folder of keys and cache of programs that can import `timely`."""
    place.write("timely.py", MODULE)
    place.write("timely_inner.py", "import relocate\ndef left():\n    return relocate.deadline.left()\n")
    monkeypatch.syspath_prepend(str(place.folder))
    return str(place.folder / "kept")


def test_the_quickest_message_tells_how_far_apart_the_clocks_are() -> None:
    known = ServerSession(b"")
    assert known.here((100.0, 101.0), 205.0) == (205.0, 206.0)
    assert known.here((110.0, 112.0), 230.0) == pytest.approx((215.0, 217.0), abs=0.01), "it has lain unread"
    assert known.here((120.0, 121.0), 224.0) == (224.0, 225.0)
    assert known.here((130.0, 131.0), 300.0) == pytest.approx((234.0, 235.0), abs=0.01)


@pytest.mark.parametrize("rate", [1 - 5e-5, 1 + 5e-5])
def test_deadlines_keep_their_length_on_a_connection_that_lives_for_days_while_the_clocks_drift(rate: float) -> None:
    known = ServerSession(b"")
    for sent in range(0, 10 * 86400, 3600):
        read = 1000 + sent * rate + 0.001
        assert known.here((sent, sent + 0.5), read) == pytest.approx((read, read + 0.5), abs=1e-6)
    assert known.here((sent + 10, sent + 10.5), read + 20)[1] < read + 11, "one that has lain unread is still known"


@pytest.mark.parametrize("call", ["tidy", "deaf"])
@pytest.mark.parametrize("listen", ["tcp://127.0.0.1:0", "ipc"])
def test_a_late_call_ends_though_its_client_is_stopped(place: Place, timely: str, listen: str, call: str) -> None:
    where = f"ipc://{place.home}/w" if listen == "ipc" else listen
    worker = place.worker("-n", "1", listen=where)
    mark = place.folder / "mark"
    program = f"""
import relocate
relocate.enable(modules=["timely"], workers={worker.url!r}, keys={str(worker.keys)!r}, fallback=False)
import timely
timely.rest(0)
try:
    with relocate.deadline(0.5):
        timely.{call}({str(mark)!r})
except relocate.DeadlineExceeded:
    print("late")
"""
    client = place.start(sys.executable, "-c", program)
    until(mark.exists, "the call")
    client.send_signal(signal.SIGSTOP)
    executor = psutil.Process(int(mark.read_text()))
    if call == "deaf":
        until(lambda: not alive(executor), "its executor's end")
    else:
        until(mark.with_name("mark.tidy").exists, "the call's end")
        assert alive(executor)
    client.send_signal(signal.SIGCONT)
    assert client.communicate(timeout=30)[0] == "late\n"


@pytest.mark.parametrize("opened_before", [True, False])
def test_a_call_that_was_late_before_it_could_begin_is_not_begun_though_its_client_says_nothing(
    place: Place, timely: str, opened_before: bool
) -> None:
    given: dict[str, Any] = {"workers": "1", "fallback": False, "cache": timely, "keys": timely}
    begun, mark = place.folder / "begun", place.folder / "mark"
    with relocate.enable(modules=["timely"], **given) as handle:
        import timely as module

        module.rest(0.0)
        [seat] = handle._fleet.links[0].seats
        digest = digests.digest(handle._real("timely"))
        opened = seat.take() if opened_before else None
        before = threading.Thread(target=module.mark, args=(str(begun), 1.0))
        before.start()
        until(begun.exists, "the call before")
        if opened is None:
            assert handle._fleet.driver.links is not None
            opened = handle._fleet.driver.links.open_channel(seat)  # that it is opened lies unread, too
        now = time.monotonic()
        request = wire.Call(os.urandom(16), "timely", "mark", digest, due=(now, now + 0.2))
        opened.send(request, wire.pack(request, Sent((str(mark),), {}).segments))
        reply = opened.reply(lambda *_: [])[0]
        before.join()
        opened.close()
        assert isinstance(reply, wire.Rejected)
        assert reply.code == "late"
        assert not mark.exists()


def test_a_function_knows_how_much_time_is_left_and_so_do_those_it_calls(place: Place, timely: str) -> None:
    given: dict[str, Any] = {"workers": "2", "fallback": False, "cache": timely, "keys": timely}
    with relocate.enable(modules=["timely"], deadlines={"timely.ask": 500.0}, **given) as handle:
        import timely as module

        assert module.left() == relocate.deadline.left() == math.inf
        with relocate.deadline(100.0):
            assert 0 < module.left() < 100
            assert 0 < module.ask(relocate.deadline.left) < 100
        assert module.left() == math.inf
        # A configured one is also that of the functions that are called back, and of the calls they make.
        assert 100 < module.ask(lambda: handle and module.left()) < 500
        assert 100 < module.ask(lambda: handle and relocate.deadline.left()) < 500
        assert relocate.deadline.left() == math.inf


def test_an_executor_that_relocates_further_passes_the_deadline_on(place: Place, timely: str) -> None:
    given: dict[str, Any] = {"workers": "1", "fallback": False, "cache": timely, "keys": timely}
    with relocate.enable(modules=["timely"], **given):
        import timely as module

        with relocate.deadline(100.0):
            inner, outer = module.further(timely)
        assert 0 < outer < inner < 100


def test_a_task_whose_call_was_cancelled_does_not_keep_its_deadline(place: Place, timely: str) -> None:
    given: dict[str, Any] = {"workers": "1", "fallback": False, "cache": timely, "keys": timely}
    seen = threading.Event()

    class Slow:
        """Holds the thread that waits for the answer where the program has the call's deadline."""

        def __reduce__(self) -> tuple[type[int], tuple[()]]:
            seen.wait()
            return int, ()

    async def main() -> float:
        task = asyncio.current_task()
        assert task is not None

        def cancel() -> Slow:
            task.cancel()
            return Slow()

        try:
            await timely_module.ask_later(cancel)
        except asyncio.CancelledError:
            task.uncancel()
            return relocate.deadline.left()
        finally:
            seen.set()
        return 0.0

    with relocate.enable(modules=["timely"], deadlines={"timely.ask_later": 500.0}, **given):
        import timely as timely_module

        assert asyncio.run(main()) == math.inf
