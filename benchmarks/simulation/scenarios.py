"""What happens to the workers, and which calls come."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .clients import Perfect
from .world import Call, World

MEAN = 0.04
"""Seconds that a call takes on average."""


@dataclass(frozen=True)
class Scenario:
    """One situation.

    ``load`` is of what the workers can do; ``happens`` gets the world and the seconds it lasts.
    """

    name: str
    what: str
    load: float = 0.7
    clients: int = 1
    subset: int = 0
    """How many workers each client knows; 0: all."""
    spares: float = 0.0
    """Share of the workers that are of the second rank."""
    long: float = 0.0
    """Share of the calls that take 30 times as long."""
    deadline: float = 60.0
    """Seconds after a call's arrival."""
    line: float = 1e6
    """Calls that may wait in the client for each worker."""
    happens: Callable[[World, float], None] | None = None


@dataclass
class Result:
    """What one way of balancing made of a scenario."""

    scenario: str
    way: str
    p50: float
    p99: float
    p999: float
    worst: float
    extra: float
    """Attempts beyond one for each call, as a share of the calls that were let in."""
    imbalance: float
    """Busiest worker's time at work, to the average."""
    goodput: float
    """Calls answered in time, of those that could have been at most."""
    failed: int
    lost: int
    line: int
    peak: int
    """Most attempts that came in a 10 ms to a worker that had just come back."""


def play(scenario: Scenario, way: type[Any], name: str, *, workers: int, calls: int, seed: int) -> Result:
    """One way of balancing, in one scenario."""
    world = World(workers, seed)
    draw = random.Random(seed + 1)
    calls = int(calls * min(max(scenario.load, 1.0), 5.0))  # an overload lasts, too
    mean = MEAN * (1 + 29 * scenario.long)
    span = calls * mean / (workers * scenario.load)
    if scenario.happens is not None:
        scenario.happens(world, span)
    count = scenario.clients
    line = int(scenario.line * workers / count)
    for i in range(count):
        known = world.workers
        if scenario.subset and scenario.subset < workers and way is not Perfect:
            known = [world.workers[(i * 7 + j) % workers] for j in range(scenario.subset)]
        if way is Perfect and i:
            world.clients.append(world.clients[0])  # they share what they know
            continue
        spares = int(len(known) * scenario.spares)
        world.clients.append(way(world, known, seed + 2 + i, line=line, spares=spares))
    said = world.clients
    world.clients = list(dict.fromkeys(said))

    def come() -> Iterator[Call]:
        now = 0.0
        for _ in range(calls):
            now += draw.expovariate(calls / span)
            work = MEAN * draw.lognormvariate(-0.125, 0.5)
            if draw.random() < scenario.long:
                work *= 30
            yield Call(now, work, now + scenario.deadline, said[draw.randrange(count)])

    world.feed(come())
    world.run()
    return _result(scenario, name, world, mean, span)


def _result(scenario: Scenario, name: str, world: World, mean: float, span: float) -> Result:
    tally = world.tally
    ordered = sorted(tally.latencies)

    def quantile(share: float) -> float:
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else float("nan")

    busy = [worker.busy for worker in world.workers]
    goodput = tally.in_time / tally.calls
    if scenario.load > 1.0:  # of what the workers can do in that time
        goodput = tally.meanwhile * mean / (len(world.workers) * span)
    peak = 0
    for times in world.arrivals.values():
        first = 0
        for last, when in enumerate(times):
            while times[first] < when - 0.01:
                first += 1
            peak = max(peak, last - first + 1)
    let_in = tally.calls - tally.failed
    return Result(
        scenario.name,
        name,
        quantile(0.5),
        quantile(0.99),
        quantile(0.999),
        ordered[-1] if ordered else float("nan"),
        (tally.attempts - let_in) / max(let_in, 1),
        max(busy) * len(busy) / max(sum(busy), 1e-9),
        goodput,
        tally.failed,
        tally.lost,
        tally.longest_line,
        peak,
    )


# What happens ------------------------------------------------------------------------------------


def _slow(world: World, span: float) -> None:
    for worker in world.workers[::8]:
        worker.slow = 10.0


def _hole(world: World, span: float) -> None:
    for worker in world.workers[:: max(len(world.workers) // 2, 100)]:
        worker.hole = True


def _rack(world: World, span: float) -> None:
    rack = world.workers[: max(len(world.workers) // 10, 2)]
    for i, worker in enumerate(rack):
        # Of a machine that loses power nobody hears; where only processes die the connections end.
        world.at(span / 3, lambda w, silent=bool(i % 2): world.kill(w, silent=silent), worker)
        world.at(span / 3 + 2.0, world.revive, worker)


def _flapping(world: World, span: float) -> None:
    for i, worker in enumerate(world.workers[::20]):
        when = 0.1 + (i % 10) * 0.1
        while when < span:
            world.at(when, world.kill, worker)
            world.at(when + 0.3, world.revive, worker)
            when += 1.3


def _rolling(world: World, span: float) -> None:
    step = span * 0.9 / len(world.workers)
    for i, worker in enumerate(world.workers):
        world.at(i * step, lambda w: world.kill(w, drain=True), worker)
        world.at(i * step + 0.3, world.revive, worker)


def _failover(world: World, span: float) -> None:
    for worker in world.workers[: len(world.workers) // 2]:
        world.at(span / 3, world.kill, worker)
        world.at(2 * span / 3, world.revive, worker)


def _death(world: World, span: float) -> None:
    victim = world.workers[len(world.workers) // 2]
    world.at(span / 2, world.kill, victim)
    world.at(span / 2 + 0.25, world.revive, victim)
    world.at(span / 2 + 0.25, lambda _: world.arrivals.setdefault(victim.number, []))


SCENARIOS = (
    Scenario("uniform", "all workers alike"),
    Scenario("clients", "the same, from 20 clients that know nothing of each other", clients=20),
    Scenario("skewed", "one call in a hundred takes 30 times as long", long=0.01),
    Scenario("slow", "one worker in eight is ten times slower", load=0.5, happens=_slow),
    Scenario("hole", "one worker in a hundred loses each call at once", happens=_hole),
    Scenario("rack", "a tenth of the workers die at once, half of them silently", load=0.6, happens=_rack),
    Scenario("failover", "all workers of the first rank die, and come back", load=0.35, spares=0.5, happens=_failover),
    Scenario("overload", "ten times as many calls as can be run", load=10.0, deadline=10 * MEAN, line=2.0),
    Scenario("flapping", "one worker in twenty comes and goes", happens=_flapping),
    Scenario("rolling", "all workers are restarted, one after another", load=0.6, happens=_rolling),
    Scenario("herd", "ten thousand clients learn of a death at once", clients=10_000, subset=40, happens=_death),
)
