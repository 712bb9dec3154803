"""Threads that call at the same time: how much of the executors is used."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from statistics import median
from typing import Any

import tasks
from report import Row
from stage import Stage
from timing import ratio

TARGET = 0.95
CALL = 0.010


def run(stage: Stage) -> Iterator[Row]:
    """Three rows for each number of executors and kind of work.

    The ratio is the speed-up over calls made here, one after the other, divided by the number of
    executors.  What the machine itself withholds (processors that share a core, neighbours) shows in
    the row of the bare processes, which do the same work, and what relocate withholds in the third,
    which is their time divided by relocate's.
    """
    steps = calibrate()
    for width in sorted({1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1}):
        yield from _at(stage, width, steps)


def calibrate() -> int:
    """How many steps of `tasks.spin` take as long as a call should."""
    steps = 20_000
    samples = []
    for _ in range(20):
        began = time.perf_counter()
        tasks.spin(steps)
        samples.append(time.perf_counter() - began)
    return round(steps * CALL / median(samples))


def _at(stage: Stage, width: int, steps: int) -> Iterator[Row]:
    rounds, calls = stage.rounds(15), stage.calls(50)
    with (
        stage.relocated(f"tasks_parallel_{width}", str(width)) as (module, handle),
        ThreadPoolExecutor(width) as threads,
        get_context("spawn").Pool(width) as pool,
    ):
        wait_for(handle, width)
        variants: dict[str, tuple[Any, Any, float]] = {
            f"sleep of 10 ms, {width} thread(s)": (module.nap, tasks.nap, CALL),
            f"work of 10 ms, {width} thread(s)": (module.spin, tasks.spin, steps),
        }
        for case, (remote, local, argument) in variants.items():

            def relocated(remote: Any = remote, argument: Any = argument) -> None:
                together(threads, width, lambda: repeat(remote, argument, calls))

            def bare(local: Any = local, argument: Any = argument) -> None:
                pool.starmap(repeat, [(local, argument, calls)] * width, 1)

            def serial(local: Any = local, argument: Any = argument) -> None:
                repeat(local, argument, calls)

            taken = turns({"relocated": relocated, "bare": bare, "serial": serial}, rounds)
            for name in ("relocated", "bare"):
                found = ratio(taken["serial"], taken[name])
                yield Row(
                    "parallel",
                    case if name == "relocated" else f"{case.partition(',')[0]}, {width} bare process(es)",
                    f"calls made here, speed-up / {width}",
                    median(taken[name]) / calls,
                    median(taken["serial"]) / calls,
                    "ms",
                    found.middle,
                    found.low,
                    found.high,
                    at_least=TARGET if name == "relocated" else None,
                )
            beside = ratio(taken["bare"], taken["relocated"])
            yield Row(
                "parallel", case, f"{width} bare process(es)",
                median(taken["relocated"]) / calls, median(taken["bare"]) / calls, "ms",
                beside.middle, beside.low, beside.high, at_least=TARGET,
            )  # fmt: skip


def turns(contestants: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
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


def repeat(function: Callable[[Any], Any], argument: Any, times: int) -> None:
    """Call again and again."""
    for _ in range(times):
        function(argument)


def together(threads: ThreadPoolExecutor, width: int, work: Callable[[], None]) -> None:
    """Do ``work`` in ``width`` threads at once."""
    for future in [threads.submit(work) for _ in range(width)]:
        future.result()


def wait_for(handle: Any, executors: int) -> None:
    """Until all executors are up: the first one begins alone."""
    until = time.monotonic() + 30
    while sum(place["executors"] for place in handle.workers()) < executors:
        if time.monotonic() > until:
            raise RuntimeError("the executors did not start")
        time.sleep(0.01)
