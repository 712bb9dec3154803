"""Where a name leads now: places in ranks, and the pools of their seats among which the policy chooses.

Rules:

* A name is looked up again for each call; what was worked out of it is kept until the name space, the
  places, or what one of their seats is fit for changes.
* A seat that lacks the version of a module which a call is of is in no pool of such calls.  If it could not
  import the module it is asked again, after a while.
* `ranks` and what only reads them may be called by any thread, the rest with the lock of `seating` held.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import policy
from .namespace import Namespace, Snapshot
from .places import Link, Local, Part, Seat, room, trouble

if TYPE_CHECKING:
    from . import wire
    from .trip import Trip

AGAIN = 5.0
"""Seconds after which a module that could not be imported is asked for again: what was down may be back."""
SHARE = 10
"""And so many times what the vain try took, so that those are a small part of all time."""


class Ranks:
    """Where the names of one name space lead."""

    fallback = False
    """Whether the local copy is everybody's last spare, bound or not."""
    _spare = Local()
    _failing: Sequence[tuple[float, Seat, tuple[str, bytes], wire.Rejected]] = ()
    """What could not be imported where, and when it is asked for again."""
    _ask_again = policy.NEVER
    """The first of those times."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        self.places: dict[str, Link | Local] = {"local": Local()}
        self._ranks: tuple[Snapshot | None, dict[Any, list[list[Link | Local]]]] = (None, {})
        self._pools: dict[Any, policy.Pool] = {}
        """Of places that share a rank."""
        self.pools_of: dict[tuple[str, bool, str, bytes], list[policy.Pool]] = {}
        """What `pools` has worked out; another object when that holds no more."""
        self._large: list[policy.Pool] = []

    def ranks(self, path: tuple[str, ...]) -> list[list[Link | Local]]:
        """The places that ``path`` leads to now, best rank first."""
        snapshot, memo = self._ranks
        if snapshot is not self.namespace.snapshot:
            snapshot, memo = self._ranks = self.namespace.snapshot, {}
            self.pools_of = {}
        found = memo.get(path)
        if found is None:
            assert snapshot is not None
            found = memo[path] = self._ranked(snapshot, path)
        return found

    def pools(self, trip: Trip, here: bool) -> list[policy.Pool]:
        """The same, as the policy wants them, with or without the local copy; called with the lock held."""
        key = (trip.name, here, *trip.version)  # strings and bytes know their hashes, a path does not
        if self._ranks[0] is self.namespace.snapshot and (found := self.pools_of.get(key)) is not None:
            return found
        ranks = usable(self.ranks(trip.path), here, trip.version)
        made = self.pools_of[key] = [self._pool(tuple(rank)) for rank in ranks]
        return made

    def _pool(self, places: tuple[Link | Local | Part, ...]) -> policy.Pool:
        pool = self._pools.get(places)
        if pool is None:
            pool = self._pools[places] = policy.Pool(places)
            if pool.large:
                self._large.append(pool)
        return pool

    def _forget_pools(self) -> None:
        self._pools, self.pools_of, self._large = {}, {}, []

    def _ranked(self, snapshot: Snapshot, path: tuple[str, ...]) -> list[list[Link | Local]]:
        by_rank: dict[int, list[Link | Local]] = {}
        for aim in snapshot.resolve(path):
            if aim.place in self.places:
                by_rank.setdefault(aim.rank, []).append(self.places[aim.place])
        ranks = [by_rank[rank] for rank in sorted(by_rank)]
        if self.fallback and not any(place.local for rank in ranks for place in rank):
            ranks.append([self._spare])
        return ranks

    def _changed(self, seat: Seat) -> None:
        """Another number of calls is on this seat; called with the lock held."""
        for pool in self._large:
            pool.changed(seat)

    def _roomiest(self, trip: Trip, starved: Link) -> list[Link]:
        """The workers with the most memory, for a call that had too little on that one; itself if they have less."""
        links = [place for rank in self.ranks(trip.path) for place in rank if isinstance(place, Link)]
        fit = [link for link in links if any(trip.version not in seat.unfit for seat in link.seats)]
        rooms = [(room(link), link) for link in fit if link is not starved]
        most = max([size for size, _ in rooms], default=0)
        return [link for size, link in rooms if size == most] if most >= room(starved) else [starved]

    def _lacks(self, seat: Seat, version: tuple[str, bytes], reply: wire.Rejected, sent: float, now: float) -> None:
        """Note that a seat has not that version of a module, as it said to a call that was sent then.

        It may have it later if it could not import it, so that then it is asked again.
        """
        seat.unfit[version] = reply
        if reply.code == "module":
            again = now + max(AGAIN, SHARE * (now - sent))
            self._failing = [*self._failing, (again, seat, version, reply)]
            self._ask_again = min(self._ask_again, again)
        self.pools_of = {}

    def _forgive(self, now: float) -> None:
        """Let modules that could not be imported be asked for again, if it is time; called with the lock held."""
        for again, seat, version, reply in self._failing:
            if again <= now and seat.unfit.get(version) is reply:
                del seat.unfit[version]
        self._failing = [each for each in self._failing if each[0] > now]
        self._ask_again = min([each[0] for each in self._failing], default=policy.NEVER)
        self._forget_pools()

    def _refusal(self, trip: Trip) -> tuple[wire.Rejected, str] | None:
        """What an executor said, and its label, if each that is there, or starts, has refused such a call.

        Not of a call whose name leads here first, nor if another worker, that is down, may have the module.
        """
        ranks = self.ranks(trip.path)
        if not ranks or any(place.local for place in ranks[0]):
            return None
        if any(pool.seats or pool.starting for pool in self.pools(trip, False)):
            return None
        places = [place for rank in ranks for place in rank]
        seats = [seat for place in places for seat in place.seats if trip.version in seat.unfit]
        if not seats:
            return None
        said = min(seats, key=lambda seat: seat.unfit[trip.version].code != "stale")
        reply = said.unfit[trip.version]
        if not trip.version[1]:  # a description: who imports the module again asks again
            for seat in seats:
                del seat.unfit[trip.version]
            self.pools_of = {}
        elif reply.code == "module" and any(place.state == "down" for place in places):
            return None
        return reply, said.label

    def troubles(self, path: tuple[str, ...], version: tuple[str, bytes] = ("", b"")) -> str:
        """Why none of the places of ``path`` can run a call, of that version of a module if it is named."""
        said = [trouble(place, version) for rank in self.ranks(path) for place in rank if not place.local]
        return "; ".join(said) or f"nothing is bound at /{'/'.join(path)}"


def usable(ranks: list[list[Link | Local]], here: bool, version: tuple[str, bytes]) -> list[list[Link | Local | Part]]:
    """Of the places of each rank what can run calls of that version of a module, with or without the local copy."""

    def fits(seat: Seat) -> bool:
        return version not in seat.unfit

    return [
        [place if all(map(fits, place.seats)) else Part(place, fits) for place in rank if here or not place.local]
        for rank in ranks
    ]
