"""Calls that run where they cost least, against all here and all on workers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from statistics import median
from typing import Any

import tasks
from parallel import calibrate
from report import Row
from stage import Stage
from timing import ratio, take_turns

OVERHEAD = 2e-6
WORST = 1.1
WAYS = ("auto", "local", "remote")
THREADS = 4


def run(stage: Stage) -> Iterator[Row]:
    """What a call that stays costs, and a mix of tiny, heavy and bulky calls from several threads."""
    with ExitStack() as stack:
        width = os.cpu_count() or 1
        modules: dict[str, Any] = {}
        for way in WAYS:
            # One after another: the handles of three modules are enabled at the same time.
            modules[way], _ = stack.enter_context(
                stage.relocated(f"tasks_placement_{way}", str(width), fallback=True, placement=way)
            )
        yield _stays(stage, modules["auto"])
        threads = stack.enter_context(ThreadPoolExecutor(THREADS))
        steps = calibrate(tasks.spin)
        turns = {way: _mix(threads, modules[way], steps, stage.calls(10)) for way in WAYS}
        for turn in turns.values():
            turn()  # what is learned is learned before; what is tried again is not
        taken: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(stage.rounds(10)):
            for way, turn in turns.items():
                began = time.perf_counter()
                turn()
                taken[way].append(time.perf_counter() - began)
        best = min(("local", "remote"), key=lambda way: median(taken[way]))
        found = ratio(taken["auto"], taken[best])
        other = median(taken["local" if best == "remote" else "remote"])
        yield Row(
            "placement",
            "a mix of calls",
            f"all {'here' if best == 'local' else 'on workers'}",
            median(taken["auto"]),
            median(taken[best]),
            "ms",
            found.middle,
            found.low,
            found.high,
            at_most=WORST,
            note=f"the other: {other * 1e3:.3g} ms; {THREADS} threads, {width} executors",
        )


def _stays(stage: Stage, module: Any) -> Row:
    calls = stage.calls(2000)
    remote, plain = module.add, tasks.add

    def repeat(function: Callable[[int, int], int]) -> Callable[[], None]:
        def many() -> None:
            for _ in range(100):
                function(2, 3)

        return many

    taken = take_turns(
        {"relocate": repeat(remote), "plain": repeat(plain)}, rounds=stage.rounds(20), calls=max(1, calls // 100)
    )
    more = median(taken["relocate"]) / 100 - median(taken["plain"]) / 100
    found = ratio(taken["relocate"], taken["plain"])
    return Row(
        "placement",
        "add(2, 3) that stays: more than a plain call",
        "a plain call",
        more,
        median(taken["plain"]) / 100,
        "us",
        found.middle,
        limit=OVERHEAD,
    )


def _mix(threads: ThreadPoolExecutor, module: Any, steps: int, heavy: int) -> Callable[[], None]:
    bulk = bytes(4 << 20)

    def one(_: int) -> None:
        for _ in range(heavy):
            for i in range(20):
                module.add(i, i)
            module.spin(steps)
            len(module.echo(bulk))

    def turn() -> None:
        list(threads.map(one, range(THREADS)))

    return turn
