"""Threads that call at the same time: how much of the executors is used."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from multiprocessing.pool import Pool
from statistics import median
from typing import Any

import tasks
from report import Row
from stage import Stage
from timing import ratio

TARGET = 0.95
CALL = 0.010


def run(stage: Stage) -> Iterator[Row]:
    """Five rows for each number of executors and kind of work.

    The ratio is the speed-up over calls made here, one after the other, divided by the number of
    executors.  With as many threads as executors an executor waits while a result travels and the next
    call comes; with twice as many that call is there already.  What the machine itself withholds
    (processors that share a core, neighbours) shows in the row of the bare processes, which do the same
    work, and what relocate withholds in the others, which are their time divided by relocate's.

    The kinds: calls that sleep for 10 ms; calls that have a processor for 10 ms, however fast it is: what makes it
    slower, as cold caches and shared cores do, shows only in the third kind, calls that do what takes 10 ms at
    the speed of the processor they are calibrated on.  That speed is not the other processor's, nor that of
    the next second, where the machine serves others too: the same work was seen to take 5.3 and 8.2 ms, of which
    the quartiles tell.
    """
    for width in sorted({1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1}):
        yield from _at(stage, width)


def calibrate(work: Callable[[int], object]) -> int:
    """How many steps of ``work`` take as long as a call should, at the speed that this machine has now."""
    steps = 20_000
    for _ in range(3):
        samples = []
        for _ in range(10):
            began = time.perf_counter()
            work(steps)
            samples.append(time.perf_counter() - began)
        steps = round(steps * CALL / median(samples))
    return steps


def _at(stage: Stage, width: int) -> Iterator[Row]:
    calls = stage.calls(50)
    spawn = get_context("spawn")
    taken: dict[str, dict[str, list[float]]] = {}
    # Of the same processes each figure would be as lucky as they are.
    for launch in range(stage.rounds(6)):
        cases: dict[str, tuple[str, float]] = {
            "sleep for": ("nap", CALL),
            "a processor for": ("occupy", CALL),
            "work of about": ("stretch", calibrate(tasks.stretch)),
        }
        with (
            stage.relocated(f"tasks_parallel_{width}_{launch}", str(width)) as (module, handle),
            ThreadPoolExecutor(2 * width) as threads,
            spawn.Pool(width, _begin, (left := spawn.Value("i"),)) as pool,
        ):
            wait_for(handle, width)
            for case, (name, argument) in cases.items():
                remote, here = getattr(module, name), getattr(tasks, name)
                contestants: dict[str, Callable[[], object]] = {
                    "relocated": partial(together, threads, width, remote, argument, width * calls),
                    "crowded": partial(together, threads, 2 * width, remote, argument, width * calls),
                    "bare": partial(apart, pool, width, left, here, argument, width * calls),
                    "serial": partial(repeat, here, argument, range(calls)),
                }
                for who, some in turns(contestants, stage.rounds(4)).items():
                    taken.setdefault(case, {}).setdefault(who, []).extend(some)
    for case, seconds in taken.items():
        names = {
            "relocated": f"{case} 10 ms, {width} thread(s), {width} executor(s)",
            "crowded": f"{case} 10 ms, {2 * width} threads, {width} executor(s)",
            "bare": f"{case} 10 ms, {width} bare process(es)",
        }
        for who, name in names.items():
            found = ratio(seconds["serial"], seconds[who])
            yield Row(
                "parallel",
                name,
                f"calls made here, speed-up / {width}",
                median(seconds[who]) / calls,
                median(seconds["serial"]) / calls,
                "ms",
                found.middle,
                found.low,
                found.high,
                at_least=None if who == "bare" else TARGET,
            )
        for who in ("relocated", "crowded"):
            beside = ratio(seconds["bare"], seconds[who])
            yield Row(
                "parallel", names[who], f"{width} bare process(es)",
                median(seconds[who]) / calls, median(seconds["bare"]) / calls, "ms",
                beside.middle, beside.low, beside.high, at_least=TARGET,
            )  # fmt: skip


def turns(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contestant in each round, each once to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    order = list(contestants.items())
    for number in range(rounds + 1):
        for name, work in order:
            began = time.perf_counter()
            work()
            if number:
                taken[name].append(time.perf_counter() - began)
        order.reverse()
    return taken


def repeat(function: Callable[[Any], Any], argument: Any, supply: Iterable[int]) -> None:
    """Call again and again, as often as there is something in the supply."""
    for _ in supply:
        function(argument)


def together(
    threads: ThreadPoolExecutor, count: int, function: Callable[[Any], Any], argument: Any, calls: int
) -> None:
    """Make calls from ``count`` threads; each makes the next one as soon as it can, as in a pool."""
    supply = iter(range(calls))
    for future in [threads.submit(repeat, function, argument, supply) for _ in range(count)]:
        future.result()


def apart(pool: Pool, count: int, left: Any, function: Callable[[Any], Any], argument: Any, calls: int) -> None:
    """The same in as many processes, which have the number of the calls that are left in common, and nothing else."""
    left.value = calls
    pool.starmap(_take, [(function, argument)] * count, 1)


_left: Any = None


def _begin(left: Any) -> None:
    global _left
    _left = left


def _take(function: Callable[[Any], Any], argument: Any) -> None:
    def supply() -> Iterator[int]:
        while True:
            with _left.get_lock():
                _left.value -= 1
                if _left.value < 0:
                    return
            yield 0

    repeat(function, argument, supply())


def wait_for(handle: Any, executors: int) -> None:
    """Until all executors are up: the first one begins alone."""
    until = time.monotonic() + 30
    while sum(place["executors"] for place in handle.workers()) < executors:
        if time.monotonic() > until:
            raise RuntimeError("the executors did not start")
        time.sleep(0.01)
