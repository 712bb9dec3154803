"""Ten times as many calls as the executors can run: what is answered of the most that they can, and the memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
from report import Row
from stage import Stage

import relocate

EXECUTORS = 2
CALL = 0.020
"""Seconds that a call sleeps on its executor."""
TIMES = 10
QUEUE = 2
THREADS = 64
LEAST = 0.9
MOST = 32.0
"""MiB that the program may grow by."""


def run(stage: Stage) -> Iterator[Row]:
    """Goodput and memory of an open loop: calls come when they come, whether others are answered or not."""
    seconds = 1.0 if stage.quick else 10.0
    with (
        stage.relocated("tasks_overload", str(EXECUTORS), queue=QUEUE) as (module, handle),
        ThreadPoolExecutor(THREADS) as threads,
    ):
        nap: Callable[[float], Any] = module.nap
        until = time.monotonic() + 30
        while sum(place["executors"] for place in handle.workers()) < EXECUTORS and time.monotonic() < until:
            time.sleep(0.01)
        peak = _peak(threads, nap, seconds)
        before = psutil.Process().memory_info().rss
        answered, refused = _overload(threads, nap, TIMES * EXECUTORS / CALL, seconds)
        grown = max(psutil.Process().memory_info().rss - before, 1 << 12) / (1 << 20)
    yield Row(
        "overload",
        f"{TIMES} times the calls that can be run: time for each that is answered",
        "closed loop, all executors busy",
        seconds / max(answered, 1),
        seconds / peak,
        "ms",
        answered / peak,
        at_least=LEAST,
        note=f"{answered} answered, {refused} told at once that it is overloaded, in {seconds:g} s",
    )
    yield Row("overload", "memory that the program grows by", "the aim", grown, MOST, "MiB", grown / MOST, limit=MOST)


def _peak(threads: ThreadPoolExecutor, nap: Callable[[float], Any], seconds: float) -> int:
    """Calls that are answered in so many seconds when each thread waits for its answer."""
    end = time.monotonic() + seconds

    def repeat() -> int:
        done = 0
        while time.monotonic() < end:
            nap(CALL)
            done += time.monotonic() < end
        return done

    return sum(future.result() for future in [threads.submit(repeat) for _ in range(2 * EXECUTORS)])


def _overload(threads: ThreadPoolExecutor, nap: Callable[[float], Any], rate: float, seconds: float) -> tuple[int, int]:
    """How many of the calls that come at this rate are answered, and how many are refused."""
    counted = threading.Lock()
    answered = refused = 0

    def call() -> None:
        nonlocal answered, refused
        try:
            nap(CALL)
        except relocate.Overloaded:
            with counted:
                refused += 1
        else:
            with counted:
                answered += time.monotonic() < end

    began = time.monotonic()
    end = began + seconds
    calls = []
    for number in range(int(rate * seconds)):
        time.sleep(max(0.0, began + number / rate - time.monotonic()))
        calls.append(threads.submit(call))
    for each in calls:
        each.result()
    return answered, refused
