"""Calls whose deadline passes: how soon their executor is free for others."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import relocate
from relocate.testing.workers import Workers

from .ledger import Ledger, Row, milliseconds, quantile, relocated

LIMIT = 0.1
"""Seconds from the deadline."""
GIVEN = 0.05
"""Seconds that each call may take."""
BUSY = "other work had the processors at times, and who gets none to heed with is given up to half a second"
"""Why it may take longer than `LIMIT`, as the supervisor's looks at the executor have shown."""
REST = 0.6
"""Seconds between two calls that end their executor: the worker has one in reserve again."""
SPINNERS = 4
"""Other processes, each of which wants a processor for itself."""


def deadline(quick: bool) -> Iterator[Row]:
    """A call is late; the next one comes at once, to the same worker, which has one executor."""
    times = 5 if quick else 200
    yield _until_free(times, "it heeds the interrupt, until the next call is answered", _heeding)
    with _spinning():
        case = f"the same, while {SPINNERS} other processes want all processors"
        yield _until_free(times, case, _heeding, aimed=False)
    times = 5 if quick else 50
    yield _until_free(times, "it hears no interrupt, until its executor is ended", _deaf)
    yield _until_free(times, "it hears no interrupt, until the next call is answered by a new executor", _replaced)


def _heeding(errands: Any, number: int, pid: int) -> float:
    moment = _late(lambda: errands.errand(number, 600.0))
    errands.errand(number, 0.0)
    return moment


def _deaf(errands: Any, number: int, pid: int) -> float:
    moment = _late(lambda: errands.deaf(number))
    while _runs(pid):
        time.sleep(0.0005)  # another process's child is no event
    return moment


def _replaced(errands: Any, number: int, pid: int) -> float:
    time.sleep(REST)
    moment = _late(lambda: errands.deaf(number))
    errands.errand(number, 0.0)
    return moment


def _late(call: Callable[[], object]) -> float:
    """The moment at which ``call`` should have ended."""
    with relocate.deadline(GIVEN) as moment:
        try:
            call()
        except relocate.DeadlineExceeded:
            return moment
    raise RuntimeError("the call was not late")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


def _until_free(times: int, case: str, strike: Callable[[Any, int, int], float], *, aimed: bool = True) -> Row:
    delays: list[float] = []
    with Workers() as workers:
        worker = workers.start(1, ["errands"], ipc=True)
        with relocated(workers) as (errands, handle):

            def call(number: int) -> tuple[int, int]:
                (pid,) = worker.executor_pids()
                moment = strike(errands, number, pid)
                delays.append(time.monotonic() - moment)
                answer: tuple[int, int] = errands.errand(number, 0.0)
                return answer

            ledger = Ledger(call)
            ledger.run(times, threads=1)
            ended = sum(seen.deaths for seen in handle.statistics().workers.values())
            p99 = quantile(delays, 0.99)
            row = ledger.row(
                "deadline",
                f"passes {times} times; {case}",
                handle,
                times=delays,
                aim=f"p99 ≤ {milliseconds(LIMIT)}" if aimed else "",
                figure=f"p99 {milliseconds(p99)}, {ended} executors ended",
                note=BUSY if aimed and p99 > LIMIT else "",
            )
            row.doubled = 0  # each call of the ledger's is several of the program's
            row.met = (p99 <= LIMIT or not aimed) and not (row.failed or row.wrong or row.lost or row.hung)
            return row


@contextmanager
def _spinning() -> Iterator[None]:
    with ExitStack() as stack:
        for _ in range(SPINNERS):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(process.kill)
        yield
