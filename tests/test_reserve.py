"""The process that a worker keeps in reserve once calls may have to be ended."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import Place, Worker, alive, until

import relocate

MODULE = """
import os, pathlib

here = pathlib.Path(__file__).parent
with open(here / "imported", "a") as file:
    print(os.getpid(), file=file)
kept = b"x" * (300 << 20) if (here / "hungry").exists() else b""

def pid():
    return os.getpid()

def deaf():
    sum(range(10**15))
"""


@pytest.fixture
def late(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module `late`, on the one executor of a worker."""
    place.write("late.py", MODULE)
    monkeypatch.syspath_prepend(str(place.folder))
    worker = place.worker("-n", "1", "--modules", "late", "--memory", "200MiB", listen=f"ipc://{place.home}/run/w")
    given: dict[str, Any] = {"workers": worker.url, "fallback": False, "cache": place.folder, "keys": place.folder}
    with relocate.enable(modules=["late"], **given):
        import late as module

        module.worker = worker
        yield module


def in_reserve(worker: Worker) -> psutil.Process:
    """The reserve, when it is there."""
    until(worker.reserve, "the reserve")
    (reserve,) = worker.reserve()
    return reserve


def imported(place: Place) -> list[int]:
    """The ids of the processes that have imported the module, in order."""
    return [int(line) for line in (place.folder / "imported").read_text().split()]


def too_late(module: Any) -> None:
    """A call whose executor is ended, as it hears no interrupt."""
    with pytest.raises(relocate.DeadlineExceeded), relocate.deadline(0.1):
        module.deaf()


def test_a_worker_that_has_seen_no_deadline_has_none(late: Any) -> None:
    assert late.pid() == late.worker.executors()[0].pid
    assert late.worker.reserve() == []


def test_it_takes_the_place_of_an_executor_that_is_ended_with_all_modules_imported_and_is_replaced(
    place: Place, late: Any
) -> None:
    with relocate.deadline(60):
        first = late.pid()
    reserve = in_reserve(late.worker)
    until(lambda: imported(place) == [first, reserve.pid], "the import of the module")
    too_late(late)
    assert late.pid() == reserve.pid
    second = in_reserve(late.worker)
    too_late(late)
    assert late.pid() == second.pid
    assert late.worker.executors()[0].pid == second.pid


def test_a_call_that_had_to_be_ended_brings_one_though_it_had_no_deadline(place: Place, late: Any) -> None:
    program = f"""
import relocate, signal
relocate.enable(modules=["late"], workers={late.worker.url!r}, keys={str(place.folder)!r}, fallback=False)
import late
signal.alarm(1)
signal.signal(signal.SIGALRM, signal.default_int_handler)
late.deaf()
"""
    before = late.pid()
    assert "KeyboardInterrupt" in place.python("-c", program).stderr
    assert late.pid() != before
    in_reserve(late.worker)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_it_ends_with_its_worker(place: Place, late: Any, how: signal.Signals) -> None:
    with relocate.deadline(60):
        late.pid()
    reserve = in_reserve(late.worker)
    late.worker.process.send_signal(how)
    late.worker.process.wait(30)
    until(lambda: not alive(reserve), "its end")
    if how != signal.SIGKILL:
        assert not [path for path in (place.home / "run").iterdir() if path.name.startswith("w")]


def test_that_it_is_killed_harms_nobody_and_the_next_late_call_brings_another(late: Any) -> None:
    with relocate.deadline(60):
        first = late.pid()
    reserve = in_reserve(late.worker)
    reserve.kill()
    until(lambda: not late.worker.reserve(), "its end")
    assert late.pid() == first
    too_late(late)
    assert late.pid() not in (first, reserve.pid)
    assert in_reserve(late.worker) != reserve


def test_it_may_take_as_much_memory_as_an_executor(place: Place, late: Any) -> None:
    Path(place.folder / "hungry").touch()
    with relocate.deadline(60):
        first = late.pid()
    until(lambda: len(imported(place)) == 2, "the reserve")
    until(lambda: not late.worker.reserve(), "its end")
    assert late.pid() == first == late.worker.executors()[0].pid
