"""What is slow and must not count as dead: a worker, a line, a call that holds the interpreter."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator

import relocate
from relocate.testing.workers import Workers

from .ledger import Ledger, Row, milliseconds, quantile, relocated

SLOWER = 10
RATE = 10e6 / 8
"""Bytes a second: 10 Mbit/s."""


def worker(quick: bool) -> Iterator[Row]:
    """One worker that is ten times slower than seven others, against eight that are alike."""
    calls = 400 if quick else 10_000
    found: dict[float, list[float]] = {}
    for slowness in (1, SLOWER):
        with Workers() as workers:
            for number in range(8):
                environment = {"ERRANDS_SLOWNESS": str(slowness)} if number == 0 else {}
                workers.start(1, ["errands"], ipc=True, **environment)
            with relocated(workers) as (errands, handle):
                # 5 to 15 ms, so that no call can be told by its length from one that waits.
                ledger = Ledger(lambda number: errands.errand(number, 0.005 + number % 101 / 10_000))  # type: ignore[no-any-return]
                ledger.run(calls, threads=4)
                found[slowness] = ledger.seconds
                extra = (handle.statistics().retried + handle.statistics().hedged) / calls
                p99 = quantile(ledger.seconds, 0.99)
                ratio = p99 / quantile(found[1], 0.99)
                yield ledger.row(
                    "slow-worker",
                    "8 workers alike, 4 threads" if slowness == 1 else f"one of 8 workers {slowness} times slower",
                    handle,
                    aim="" if slowness == 1 else "p99 ≤ twice that of 8 alike, ≤ 3 % extra calls",
                    figure=f"{extra:.1%} extra" if slowness == 1 else f"p99 {ratio:.2f} times that, {extra:.1%} extra",
                    met=slowness == 1 or (ratio <= 2 and extra <= 0.03),
                )


def link(quick: bool) -> Iterator[Row]:
    """64 MiB of arguments on a line of 10 Mbit/s, which takes 54 s."""
    size = (2 << 20) if quick else (64 << 20)
    load = random.Random(0).randbytes(size)
    checksum = zlib.crc32(load)
    with Workers() as workers:
        far = workers.start(2, ["errands"])
        with relocated(workers) as (errands, handle):
            far.slow_down(RATE)
            ledger = Ledger(lambda number: errands.weigh(number, load), lambda _: checksum)  # type: ignore[no-any-return]
            ledger.run(2, threads=2)
            yield _never_dead(ledger, handle, "slow-link", f"two calls at once with {size >> 20} MiB each, 10 Mbit/s")


def held(quick: bool) -> Iterator[Row]:
    """A call that holds the interpreter, over TCP and over a Unix socket."""
    seconds = 3 if quick else 60
    for ipc in (False, True):
        with Workers() as workers:
            workers.start(1, ["errands"], ipc=ipc)
            with relocated(workers) as (errands, handle):
                ledger = Ledger(lambda number: errands.hold(number, seconds))  # type: ignore[no-any-return]
                ledger.run(1, threads=1)
                where = "a Unix socket" if ipc else "TCP"
                yield _never_dead(ledger, handle, "held", f"a call holds the interpreter for {seconds} s, over {where}")


def _never_dead(ledger: Ledger, handle: relocate.Handle, scenario: str, case: str) -> Row:
    """The row of calls that must be made once, whatever they take."""
    seen = handle.statistics()
    deaths = sum(worker.deaths for worker in seen.workers.values())
    return ledger.row(
        scenario,
        case,
        handle,
        aim="0 false deaths",
        figure=f"{deaths} deaths, {seen.retried} retried; {milliseconds(max(ledger.seconds, default=0))}",
        met=deaths == seen.retried == 0,
    )
