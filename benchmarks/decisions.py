"""What a decision costs among few and many seats, nine in ten of which are taken."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from statistics import median

from report import Row
from simulation.clients import Place, Seat
from simulation.world import Call, Worker
from stage import Stage
from timing import ratio, take_turns

from relocate.budget import retries
from relocate.policy import Pool, Run, decide

COUNTS = (10, 100, 1_000, 10_000)
LIMIT = 10e-6
FLAT = 2.0
"""How many times longer the largest may take than the smallest: its memory is in no cache."""


def contestant(count: int) -> Callable[[], object]:
    """Take a seat, and give back the one that was taken longest ago."""
    pool = Pool([Place(Seat(Worker(i), 0, 2), 0) for i in range(count)])
    ranks = [pool]
    budget = retries()
    call = Call(0.0, 0.0, float("inf"), None)
    chance = random.Random(count).random
    held: deque[Seat] = deque()
    most = count * 18 // 10

    def turn() -> None:
        if len(held) >= most:
            back = held.popleft()
            back.outstanding -= 1
            pool.changed(back)
        decision = decide(call, ranks, 1.0, chance(), budget)
        assert isinstance(decision, Run)
        seat: Seat = decision.seat  # type: ignore[assignment]
        seat.outstanding += 1
        pool.changed(seat)
        held.append(seat)

    for _ in range(most):
        turn()
    return turn


def run(stage: Stage) -> Iterator[Row]:
    """One row for each number of seats."""
    turns = {str(count): contestant(count) for count in COUNTS}
    taken = take_turns(turns, rounds=stage.rounds(20), calls=stage.calls(2000), first=100)
    few = taken[str(COUNTS[0])]
    for count in COUNTS[1:]:
        found = ratio(taken[str(count)], few)
        yield Row(
            "decisions",
            f"a seat among {count:,}",
            f"among {COUNTS[0]}",
            median(taken[str(count)]),
            median(few),
            "us",
            found.middle,
            found.low,
            found.high,
            at_most=FLAT,
            note="taken and given back",
        )
        if count == COUNTS[-1]:
            yield Row(
                "decisions", f"at most, among {count:,}", "", median(taken[str(count)]), LIMIT, "us", 0.0, limit=LIMIT
            )
