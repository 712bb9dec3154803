"""Workers and executors that are killed, frozen, cut off, drained."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from relocate.testing.workers import Worker, Workers

from .ledger import Ledger, Row, milliseconds, quantile, relocated

SEED = 1
NO_LOSS = "0 lost, doubled, wrong, hung, failed"

# Faults of all kinds ---------------------------------------------------------------------------------


def _kill_executor(worker: Worker, chance: random.Random) -> None:
    pids = worker.executor_pids()
    if pids:
        _send(chance.choice(pids), signal.SIGKILL)


def _kill_worker(worker: Worker, chance: random.Random) -> None:
    worker.restart()


def _drain(worker: Worker, chance: random.Random) -> None:
    worker.stop()
    worker.start()


def _freeze_executor(worker: Worker, chance: random.Random) -> None:
    pids = worker.executor_pids()
    if pids:
        pid = chance.choice(pids)
        _send(pid, signal.SIGSTOP)
        time.sleep(chance.uniform(0.05, 2.0))
        _send(pid, signal.SIGCONT)


def _freeze_worker(worker: Worker, chance: random.Random) -> None:
    worker.freeze()
    time.sleep(chance.uniform(0.05, 2.0))
    worker.thaw()


def _cut_off(worker: Worker, chance: random.Random) -> None:
    worker.cut_off()
    time.sleep(chance.uniform(0.05, 2.0))
    worker.restore()


def _slow_down(worker: Worker, chance: random.Random) -> None:
    worker.slow_down(delay=chance.uniform(0.005, 0.1))
    time.sleep(chance.uniform(0.05, 1.0))
    worker.restore()


KINDS: dict[str, Callable[[Worker, random.Random], None]] = {
    "executor killed": _kill_executor,
    "worker killed": _kill_worker,
    "worker drained": _drain,
    "executor frozen": _freeze_executor,
    "worker frozen": _freeze_worker,
    "cut off": _cut_off,
    "line slowed": _slow_down,
}
OF_THE_LINE = ("cut off", "line slowed")


def faults(quick: bool) -> Iterator[Row]:
    """Calls under random faults of all kinds, which strike each worker by itself."""
    calls = 2_000 if quick else 100_000
    struck: Counter[str] = Counter()
    failures: list[BaseException] = []
    ending = threading.Event()

    def strike(worker: Worker, kinds: list[str], seed: int) -> None:
        chance = random.Random(seed)
        bag: list[str] = []
        try:
            while not ending.wait(chance.uniform(0.05, 0.5)):
                bag = bag or chance.sample(kinds, len(kinds))  # each once before any again
                kind = bag.pop()
                KINDS[kind](worker, chance)
                struck[kind] += 1
        except BaseException as error:
            failures.append(error)

    with Workers() as workers:
        victims = [(workers.start(2, ["errands"]), list(KINDS)) for _ in range(3)]
        victims.append((workers.start(2, ["errands"], ipc=True), [k for k in KINDS if k not in OF_THE_LINE]))
        with relocated(workers) as (errands, handle):
            ledger = Ledger(lambda number: errands.errand(number, number % 5 * 0.004))  # type: ignore[no-any-return]
            strikers = [
                threading.Thread(target=strike, args=(worker, kinds, SEED + i), daemon=True)
                for i, (worker, kinds) in enumerate(victims)
            ]
            for striker in strikers:
                striker.start()
            ledger.run(calls, threads=8)
            ending.set()
            for striker in strikers:
                striker.join()
            if failures:
                raise failures[0]
            yield ledger.row(
                "faults",
                f"8 threads, 4 workers of 2 executors, {struck.total()} faults of {len(struck)} kinds",
                handle,
                aim=NO_LOSS,
                figure="as counted",
                note=", ".join(f"{n} {kind}" for kind, n in sorted(struck.items())),
            )


# How long until the answer comes from elsewhere ------------------------------------------------------


def killed(quick: bool) -> Iterator[Row]:
    """From a kill until the answer comes from elsewhere, beyond what the call itself takes."""
    with Workers() as workers:
        for _ in range(3):
            workers.start(2, ["errands"])
        yield _until_elsewhere(workers, "executor", 5 if quick else 200, _end_executor, 0.05, 0.05)
    with Workers() as workers:
        for _ in range(3):
            workers.start(1, ["errands"])
        yield _until_elsewhere(workers, "worker", 3 if quick else 200, _end_worker, 0.05, 0.05)


def _end_executor(worker: Worker, family: list[int], pid: int) -> Callable[[], Any]:
    _send(pid, signal.SIGKILL)
    return lambda: time.sleep(0.2)


def _end_worker(worker: Worker, family: list[int], pid: int) -> Callable[[], Any]:
    for member in family:
        _send(member, signal.SIGKILL)
    return worker.restart


def frozen(quick: bool) -> Iterator[Row]:
    """From the moment at which all processes of a worker are stopped until the answer comes from elsewhere."""
    with Workers() as workers:
        for _ in range(3):
            workers.start(1, ["errands"])
        yield _until_elsewhere(workers, "worker", 3 if quick else 50, _freeze, 0.2, 2.0)


def _freeze(worker: Worker, family: list[int], pid: int) -> Callable[[], Any]:
    for member in family:
        _send(member, signal.SIGSTOP)
    return worker.thaw


def _until_elsewhere(
    workers: Workers,
    what: str,
    times: int,
    hurt: Callable[[Worker, list[int], int], Callable[[], Any]],
    seconds: float,
    limit: float,
) -> Row:
    """Let ``hurt`` strike who runs a call, ``times`` times; what it returns mends it again."""
    name = "frozen" if hurt is _freeze else "killed"
    delays: list[float] = []
    with relocated(workers) as (errands, handle):

        def call(number: int) -> tuple[int, int]:
            answer: tuple[int, int] = errands.marked(number, seconds, str(_mark(workers, number)))
            return answer

        ledger = Ledger(call)
        for number in range(times):
            families = {w: [w.pid, *w.executor_pids()] for w in workers.started}
            thread = threading.Thread(target=ledger.make, args=(number,), daemon=True)
            thread.start()
            pid = _runner(_mark(workers, number), thread)
            if pid is None:
                continue
            worker, family = next((w, f) for w, f in families.items() if pid in f)
            moment = time.perf_counter()
            mend = hurt(worker, family, pid)
            thread.join(60)
            mend()
            if number in ledger.ended:
                delays.append(ledger.ended[number] - moment - seconds)
        p99 = quantile(delays, 0.99)
        return ledger.row(
            name,
            f"{what} that runs the call, {times} times; until the answer, beyond the call's own {seconds * 1000:g} ms",
            handle,
            times=delays,
            aim=f"p99 ≤ {milliseconds(limit)}",
            figure=f"p99 {milliseconds(p99)}, slowest {milliseconds(max(delays, default=0))}",
            met=p99 <= limit,
            note=f"{times - len(delays)} calls ended before they could be struck" if len(delays) < times else "",
        )


def _mark(workers: Workers, number: int) -> Path:
    return workers.folder / f"mark-{number}"


def _runner(mark: Path, thread: threading.Thread) -> int | None:
    """The process that runs the call which makes ``mark``, once it does; None if the call ends before that is seen."""
    while thread.is_alive():
        with contextlib.suppress(FileNotFoundError):
            return int(mark.read_text())
        time.sleep(0.0005)  # the file of another process is no event
    return None


# Restarts --------------------------------------------------------------------------------------------


def restarts(quick: bool) -> Iterator[Row]:
    """Each worker in turn is drained, ends, and is started again, while calls go on."""
    times = 6 if quick else 100
    with Workers() as workers:
        for _ in range(3):
            workers.start(2, ["errands"])
        with relocated(workers) as (errands, handle):
            ledger = Ledger(lambda number: errands.errand(number, 0.01))  # type: ignore[no-any-return]
            with ledger.going_on(threads=4):
                for number in range(times):
                    worker = workers.started[number % 3]
                    worker.stop()
                    worker.start()
            yield ledger.row(
                "restarts",
                f"{times} rolling restarts (SIGTERM) of 3 workers, 4 threads",
                handle,
                aim="0 failed",
                figure="as counted",
            )


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
