"""A worker on another host (a network namespace) whose cable is pulled, or loses what is sent one way."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from relocate.testing.hosts import Host, possible
from relocate.testing.workers import Workers

from .ledger import Ledger, Row, milliseconds, relocated

LIMIT = 2.0
"""Seconds beyond the call: the aim for a frozen worker, which looks the same from here."""
APART = 3.0
"""Seconds that the cable stays out: long enough for every heartbeat to be missed."""
CALL = 0.02


class Unable(Exception):
    """This machine, or this user, cannot make the scenario."""


def down(quick: bool) -> Iterator[Row]:
    """The interface goes down and up again while calls run."""
    yield _apart("link-down", "cable pulled", Host.cut, quick)


def one_way(quick: bool) -> Iterator[Row]:
    """What one side sends is lost, and what the other sends arrives."""
    yield _apart("one-way", "replies lost", lambda host: host.lose(to_here=True), quick)
    yield _apart("one-way", "requests lost", lambda host: host.lose(to_here=False), quick)


def _apart(scenario: str, what: str, part: Callable[[Host], None], quick: bool) -> Row:
    times = 1 if quick else 10
    if not possible():
        raise Unable("needs root and iproute2, to make network namespaces")
    with Workers() as workers, Host() as host:
        near = workers.start(2, ["errands"])
        with _far(workers, host) as far, relocated(workers, workers=f"{far},{near.url}") as (errands, handle):
            ledger = Ledger(lambda number: errands.errand(number, CALL))  # type: ignore[no-any-return]
            with ledger.going_on(threads=4):
                for _ in range(times):
                    time.sleep(1)
                    part(host)
                    time.sleep(APART)
                    host.join()
                time.sleep(1)
            slowest = max(ledger.seconds, default=0.0) - CALL
            used = [name for name, seen in handle.statistics().workers.items() if name.startswith(host.address)]
            return ledger.row(
                scenario,
                f"{what} {times} times for {APART:g} s, one worker there, one here, 4 threads",
                handle,
                aim=f"0 failed, slowest ≤ {milliseconds(LIMIT)} beyond the call",
                figure=f"slowest {milliseconds(slowest)}",
                met=slowest <= LIMIT and bool(used),
            )


@contextmanager
def _far(workers: Workers, host: Host) -> Iterator[str]:
    """The URL of a worker on ``host``."""
    command = [*host.inside, sys.executable, "-m", "relocate", "worker", "--listen", f"tcp://{host.address}:0"]
    command += ["-n", "2", "--keys", str(workers.keys), "--modules", "errands"]
    with subprocess.Popen(
        command, env=workers.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            ready = re.search(r"ready on (\S+)", line)
            if ready is None:
                raise RuntimeError(f"the worker did not start: {line!r}")
            yield ready[1]
        finally:
            process.terminate()
