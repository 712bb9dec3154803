"""Offers that expire: what a registry knows of the workers, and what a client makes of its answers.

Rules:

* An offer stands for one lease; the worker repeats it three times as often.  One that is not
  repeated expires, one that is withdrawn is gone at once.
* A lease grows with the most offers that there were, so that to hear their repetitions costs a bounded
  share of a processor, and who starts again has heard from all within one lease.  Nobody waits for it:
  most ends are told by the connection.
* Each connection of a worker to a registry is an *incarnation*, numbered upward.  What comes of an
  older one than is known, or of one that has ended, is a late message, and is not heeded; the answer
  says so, and a worker that lives takes a higher number.
* An address belongs to the key that announced it first, until that offer has expired.
* A client gets at most ``limit`` workers for each name.  Offers and clients lie on one ring (Karger et
  al., "Consistent hashing and random trees", 1997): a client takes those that follow it.  So clients
  spread over the workers, several registries name the same ones, and a worker that comes or goes
  concerns few.
* Of each module the workers of one version are named: that which most of them offer, at a tie the newer
  one.  So a fleet that is brought to another version worker by worker gives nobody two at a time.
* Who prefers labels gets workers that bear them at rank 0; each label that is missing costs a rank.
* A registry that was stopped for a while (a suspended machine) lets nobody pay for it: the time is
  added to every lease.

Nothing here reads a clock or does I/O.
"""

from __future__ import annotations

import heapq
import re
from bisect import bisect_left, insort
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat
from operator import itemgetter
from typing import NamedTuple

from blake3 import blake3

from . import wire

REMEMBERED = 10
"""Leases for which the end of a worker is remembered, so that its late messages are known for what they are."""
EACH = 0.003
"""Seconds of a lease for each offer, if that is more: three times what a new connection costs the registry."""
SPACE = 1 << 64
"""Points on the ring."""

Labels = tuple[tuple[str, str], ...]
Group = tuple[tuple[int, int], str, Labels, str, bytes]
"""Python version, the only host from which it can be reached (or empty), labels; version and digest of the module."""
ANYTHING = wire.Module("")
"""What is offered by who does not name modules."""


def point(text: str) -> int:
    """Where ``text`` lies on the ring."""
    return int.from_bytes(blake3(text.encode()).digest(8), "big")


def path_of(module: str) -> str:
    """The name of ``module`` in the name space; of no module, that of all."""
    return "/".join(["/chan", *module.split(".")]) if module else "/chan"


def prefixes(module: str) -> Iterator[str]:
    """``module`` and the packages that it is in."""
    while module:
        yield module
        module = module.rpartition(".")[0]


def concerns(name: str, module: str) -> bool:
    """Whether an offer of ``name`` (empty: anything) may be one of ``module`` (empty: all), or of a part of it."""
    return not name or not module or name == module or name.startswith(module + ".") or module.startswith(name + ".")


class Found(NamedTuple):
    """The answer to a look-up."""

    mounts: list[wire.Mount]
    missing: list[str]
    """The modules that nobody offers."""
    whole: bool
    """Whether this is all that there is, so that any client would get the same."""


@dataclass(slots=True)
class Entry:
    """An offer that stands."""

    offer: wire.Offer
    incarnation: int
    key: bytes
    expires: float


class Leases:
    """The offers that a registry knows.

    Args:
        lease: seconds for which an offer stands; longer if there are many.
    """

    def __init__(self, lease: float) -> None:
        self.lease = lease
        self.touched: set[str] = set()
        """Names of modules (empty: any) of which offers have come, gone or changed; for the caller to clear."""
        self._entries: dict[str, Entry] = {}
        """In the order in which they expire: no lease is shorter than one before it."""
        self._ended: dict[str, tuple[int, float]] = {}
        """The last incarnation of workers that are gone, and until when to remember it; in that order."""
        self._index = Index()
        self._looked = float("-inf")

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def announce(self, message: wire.Announce, key: bytes, now: float) -> wire.Leased:
        """Take an offer, or take it anew, from the holder of ``key``; the answer."""
        offer, incarnation = message.offer, message.incarnation
        self.lease = max(self.lease, EACH * len(self._entries))
        known = self._entries.get(offer.url)
        if known is not None and known.key != key:
            return wire.Leased(incarnation, 0.0, f"{offer.url} is offered by the holder of another key")
        ended = self._ended.get(offer.url, (-1, 0.0))[0]
        newest = max(known.incarnation if known else -1, ended)
        if incarnation < newest or incarnation == ended:
            return wire.Leased(newest, 0.0, f"{offer.url} was announced anew, or its end was seen, since")
        if known is None or _matters(known.offer, key) != _matters(offer, key):
            if known is not None:
                self._drop(known)
            self._index.add(offer)
            self.touched.update(_names(offer))
        else:
            del self._entries[offer.url]
        self._ended.pop(offer.url, None)
        self._entries[offer.url] = Entry(offer, incarnation, key, now + self.lease)
        return wire.Leased(incarnation, self.lease)

    def withdraw(self, url: str, incarnation: int, key: bytes, now: float) -> bool:
        """End an offer, on its worker's word or because its connection is lost; False: there is no such offer."""
        known = self._entries.get(url)
        if known is None or known.key != key or incarnation < known.incarnation:
            return False
        self._end(known, now)
        return True

    def expire(self, now: float) -> list[wire.Offer]:
        """End the offers whose time has come.  To be called often: three times in a lease at least."""
        gap, self._looked = now - self._looked, now
        if self.lease / 3 < gap < float("inf"):
            for entry in self._entries.values():
                entry.expires += gap
        gone = []
        for entry in self._entries.values():
            if entry.expires > now:
                break
            gone.append(entry)
        for entry in gone:
            self._end(entry, now)
        while self._ended and (url := next(iter(self._ended))) and self._ended[url][1] <= now:
            del self._ended[url]
        return [entry.offer for entry in gone]

    def lookup(self, query: wire.Lookup, position: int) -> Found:
        """What the client at that ``position`` on the ring is to mount and bind."""
        mounts, missing, whole = self._index.find(query, position)
        found = [wire.Mount(url, self._entries[url].key, tuple(binds)) for url, binds in mounts.items()]
        return Found(found, missing, whole)

    def _end(self, entry: Entry, now: float) -> None:
        self._drop(entry)
        self._ended.pop(entry.offer.url, None)
        self._ended[entry.offer.url] = entry.incarnation, now + REMEMBERED * self.lease

    def _drop(self, entry: Entry) -> None:
        del self._entries[entry.offer.url]
        self._index.remove(entry.offer)
        self.touched.update(_names(entry.offer))


def _names(offer: wire.Offer) -> list[str]:
    return [module.name for module in offer.modules or (ANYTHING,)]


def _matters(offer: wire.Offer, key: bytes) -> tuple[object, ...]:
    """What clients are told of an offer."""
    return dict(_groups(offer)), key


def _groups(offer: wire.Offer) -> Iterator[tuple[str, Group]]:
    """The names of what is offered, each with its group."""
    labels = tuple(sorted(offer.labels.items()))
    for module in offer.modules or (ANYTHING,):
        yield module.name, (offer.python, offer.host, labels, module.version, module.digest)


def _newness(version: str) -> list[int]:
    return [int(number) for number in re.findall("[0-9]{1,9}", version)]


class Ring:
    """Addresses on the ring, in order."""

    def __init__(self) -> None:
        self._held: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._held)

    def add(self, url: str) -> None:
        """Put ``url`` in its place."""
        insort(self._held, (point(url), url))

    def remove(self, url: str) -> None:
        """Take ``url`` out."""
        del self._held[bisect_left(self._held, (point(url), url))]

    def follow(self, position: int) -> Iterator[tuple[int, str]]:
        """All, from ``position`` on and around, each with its distance."""
        held = self._held
        start = bisect_left(held, (position, ""))
        for i in range(start, len(held)):
            yield held[i][0] - position, held[i][1]
        for i in range(start):
            yield held[i][0] - position + SPACE, held[i][1]


class Index:
    """Which addresses offer a module: rings by name and by `Group`."""

    def __init__(self) -> None:
        self._rings: dict[str, dict[Group, Ring]] = {}
        self._below: dict[str, set[str]] = {}
        """Of each package the names below it that are offered."""

    def add(self, offer: wire.Offer) -> None:
        """Note ``offer``."""
        for name, group in _groups(offer):
            self._rings.setdefault(name, {}).setdefault(group, Ring()).add(offer.url)
            for package in prefixes(name.rpartition(".")[0]):
                self._below.setdefault(package, set()).add(name)

    def remove(self, offer: wire.Offer) -> None:
        """Forget ``offer``."""
        for name, group in _groups(offer):
            groups = self._rings[name]
            groups[group].remove(offer.url)
            if not groups[group]:
                del groups[group]
            if not groups:
                del self._rings[name]
                for package in prefixes(name.rpartition(".")[0]):
                    self._below[package].discard(name)
                    if not self._below[package]:
                        del self._below[package]

    def find(self, query: wire.Lookup, position: int) -> tuple[dict[str, list[wire.Bind]], list[str], bool]:
        """Of each address what to bind it over; the modules that nobody offers; whether that is all.

        A query that names no module is for all of them.
        Who offers a module is bound over the module's name, or over that of the part that it offers;
        who offers anything, over that of all.
        """
        binds: dict[str, list[wire.Bind]] = {}
        missing: list[str] = []
        anybody, whole = self._take(query, "", [""], position, binds)
        for module in dict.fromkeys(query.modules) or [name for name in self._rings if name]:
            below = self._below.get(module, ()) if query.modules else ()
            parts = [(module, list(prefixes(module))), *((name, [name]) for name in below)]
            taken = [self._take(query, target, names, position, binds) for target, names in parts]
            whole = whole and all(all_of_them for _, all_of_them in taken)
            if not anybody and not any(count for count, _ in taken):
                missing.append(module)
        return binds, missing, whole

    def _take(
        self,
        query: wire.Lookup,
        target: str,
        names: Iterable[str],
        position: int,
        binds: dict[str, list[wire.Bind]],
    ) -> tuple[int, bool]:
        """Bind who offers one of ``names`` over ``target``, up to the limit; how many, and whether that was all."""
        path = path_of(target)
        ranked: dict[wire.Bind, list[Ring]] = {}
        for name in names:
            for labels, digest, ring in self._of_one_version(name, query):
                rank = len(query.labels.items() - labels)
                ranked.setdefault(wire.Bind(path, rank, name, digest), []).append(ring)
        taken: set[str] = set()
        for rank in sorted({bind.rank for bind in ranked}):
            follow = [
                zip(ring.follow(position), repeat(bind))
                for bind, rings in ranked.items()
                if bind.rank == rank
                for ring in rings
            ]
            for (_, url), bind in heapq.merge(*follow, key=itemgetter(0)):
                if url in taken:
                    continue
                if len(taken) == query.limit:
                    return query.limit, False
                taken.add(url)
                binds.setdefault(url, []).append(bind)
        return len(taken), True

    def _of_one_version(self, name: str, query: wire.Lookup) -> list[tuple[Labels, bytes, Ring]]:
        """The rings of ``name`` that are for that client: labels, and the digest that all of them have."""
        fit = [
            (labels, version, digest, ring)
            for (python, host, labels, version, digest), ring in self._rings.get(name, {}).items()
            if python == query.python and host in ("", query.host)
        ]
        count: dict[tuple[bytes, str], int] = {}
        for _, version, digest, ring in fit:
            count[digest, version] = count.get((digest, version), 0) + len(ring)
        best = max(count, key=lambda each: (count[each], _newness(each[1]), each), default=None)
        return [(labels, digest, ring) for labels, version, digest, ring in fit if (digest, version) == best]


class View:
    """What several registries for one name say, as one client sees it.

    What a registry has said goes on to count while it is silent: until the lease of its answer ends, and
    without an end if no other registry answers.
    """

    def __init__(self) -> None:
        self._answers: dict[str, tuple[wire.Steps, float]] = {}
        self._silent: set[str] = set()

    @property
    def complete(self) -> bool:
        """Whether there is anything to go by: workers, or the word of a registry that there is none."""
        return any(steps.mounts or steps.complete for steps, _ in self._answers.values())

    def answered(self, registry: str, steps: wire.Steps, now: float) -> None:
        """Note an answer of the registry at that address."""
        self._silent.discard(registry)
        self._answers[registry] = steps, now + steps.lease

    def lost(self, registry: str) -> None:
        """Note that it does not answer any more."""
        self._silent.add(registry)

    def wanted(self, now: float) -> dict[str, wire.Mount]:
        """The workers to be mounted, by their addresses."""
        alone = self._answers.keys() <= self._silent
        found: dict[str, wire.Mount] = {}
        for registry, (steps, until) in self._answers.items():
            if registry not in self._silent or alone or now < until:
                for mount in steps.mounts:
                    found.setdefault(mount.url, mount)
        return found


def nearest(mounts: Iterable[wire.Mount], position: int, limit: int) -> list[wire.Mount]:
    """Of ``mounts`` from elsewhere those that the client at ``position`` is given: best rank first, then nearest."""
    ordered = sorted(mounts, key=lambda m: (min(bind.rank for bind in m.binds), (point(m.url) - position) % SPACE))
    return ordered[:limit]


def of_one_version(mounts: dict[str, wire.Mount], named: Container[str]) -> dict[str, wire.Mount]:
    """``mounts``, by their addresses, without the binds of other versions of a module than one: see above.

    At a tie it is the version of who is ``named`` now.
    """
    count: dict[str, dict[bytes, tuple[int, int]]] = {}
    for url, mount in mounts.items():
        for module, digest in {bind.module: bind.digest for bind in mount.binds}.items():
            all_of_them, now = count.setdefault(module, {}).get(digest, (0, 0))
            count[module][digest] = all_of_them + 1, now + (url in named)
    best = {module: max(digests, key=lambda d: (digests[d], d)) for module, digests in count.items()}
    kept = {}
    for url, mount in mounts.items():
        binds = tuple(bind for bind in mount.binds if bind.digest == best[bind.module])
        if binds:
            kept[url] = mount if binds == mount.binds else wire.Mount(url, mount.key, binds)
    return kept
