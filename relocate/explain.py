"""Why the calls of a function go where they go, from what is known now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import policy
from .pool import has_room
from .trip import Trip

if TYPE_CHECKING:
    from .cost import Costs, Estimate
    from .driver import Driver
    from .places import Seat


def explain(
    driver: Driver, name: str, version: tuple[str, bytes], placement: str, measured: Costs | None
) -> dict[str, Any]:
    """Where the next call of a function would go, and all that decides it, as data.

    Args:
        driver: who decides.
        name: the function's full name.
        version: the module where it is found, and its digest as described.
        placement: as configured: remote, local or auto.
        measured: what calls cost here and there, if that decides.
    """
    path = ("chan", *name.split("."))
    now = driver.clock()
    trip = Trip(driver, name, version[0], path)
    trip.version = version
    with driver.turn.lock:
        decision = driver._decide(trip, now)
        ranks = [
            {
                "place": place.name,
                "rank": number,
                "state": place.state,
                "error": str(place.error) if place.error is not None and place.state != "up" else None,
                "executors": [_seat(seat, version, now) for seat in place.seats],
            }
            for number, rank in enumerate(driver.ranks(path))
            for place in rank
            if not _is_registry_that_works(place)
        ]
    known = [_cost(size, cost) for size, cost in sorted(_of(measured or driver.costs, name).items())]
    known = [cost for cost in known if cost["calls there"] or cost["calls here"]]
    if measured is None:  # it decides nothing
        for cost in known:
            del cost["goes"]
    found = {"function": name, "placement": placement, "next": _next(decision), "places": ranks, "costs": known}
    return found | {"waiting": driver.waiting()}


def _is_registry_that_works(place: Any) -> bool:
    """Whether a place is no worker, but stands for the workers that a registry has named, which are there too."""
    return hasattr(place, "troubles") and not place.troubles()


def _of(costs: Costs, name: str) -> dict[int, Estimate]:
    return {size: estimate for (known, size), estimate in list(costs._known.items()) if known == name}


def _seat(seat: Seat, version: tuple[str, bytes], now: float) -> dict[str, Any]:
    """What the policy knows of an executor."""
    state = "ready"
    if version in seat.unfit:
        state = f"not used, {seat.unfit[version].text}"
    elif seat.ejected_until > now:
        state = f"left out for {seat.ejected_until - now:.1f} s, as its answers came late"
    elif seat.avoid_until > now:
        state = f"avoided for {seat.avoid_until - now:.1f} s, as a call was lost there"
    elif seat.suspect:
        state = "probed with one call at a time"
    elif not has_room(seat):
        state = "busy"
    return {
        "executor": seat.label,
        "state": state,
        "calls": seat.outstanding,
        "slowness": round(seat.slowness(now), 2),
        "has the module": version[0] in seat.modules,
    }


def _cost(size: int, estimate: Estimate) -> dict[str, Any]:
    """What calls of one size class have cost, in seconds; None: that is not known."""
    there = estimate.there
    return {
        "size": 1 << size >> 1,
        "there": there.median or None,
        "there, 95 %": there.p95 if there.p95 < policy.NEVER else None,
        "calls there": there.count,
        "here": estimate._here or None,
        "calls here": estimate.tried_here,
        "goes": "here" if estimate.here else "there",
    }


def _next(decision: policy.Decision) -> str:
    if isinstance(decision, policy.Run):
        return str(getattr(decision.seat, "label", decision.seat.id))
    if isinstance(decision, policy.RunHere):
        return "here"
    if isinstance(decision, policy.Wait):
        return "the first executor that is free" if decision.hopeful else "a worker that may come up"
    return "nowhere: " + ("it would be too late" if isinstance(decision, policy.Expired) else "nobody can run it")
