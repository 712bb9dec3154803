"""The name space: which name leads where.  After Plan 9's and Inferno's (bind(1), namespace(6)).

Names are slash-separated paths.  Two subtrees matter:

* ``/n/<place>/chan/...`` is what is mounted: the modules that a place (a worker, or ``local``)
  offers.
* ``/chan/<module>/<member>`` is what programs see: ``/chan/scipy/ndimage/gaussian_filter``.  It
  leads nowhere by itself; names under ``/n`` are *bound* over it, at any height.

One invariant: **a snapshot never changes.**  Every verb makes a new table and swaps one reference.
A call resolves its name in the snapshot that it began with, so re-binding never disturbs a call
under way, and after a verb has returned no new call sees the old table.

A union keeps order and *ranks*: elements of one rank are alternatives of equal worth, those of a
higher rank are spares for when no lower one can serve.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from functools import cached_property

import msgspec

from .errors import ConfigError

Path = tuple[str, ...]


class Where(Enum):
    """How `Namespace.bind` joins a new element to the union that a name already has."""

    REPLACE = "replace"
    BEFORE = "before"
    AFTER = "after"


class Element(msgspec.Struct, frozen=True):
    """One element of a union: where the name leads, and how preferred that is (0 is best)."""

    target: Path
    rank: int = 0


class Target(msgspec.Struct, frozen=True):
    """What a name resolves to: a member of what ``place`` offers."""

    place: str
    rank: int
    name: Path


def split(path: str) -> Path:
    """The components of ``path``.

    Raises:
        ConfigError: the path is not absolute, or has an empty or a dot component.
    """
    if not path.startswith("/"):
        raise ConfigError(f"{path!r} is not an absolute name; write for example '/chan/scipy/ndimage'")
    parts = tuple(p for p in path.split("/") if p)
    if "." in parts or ".." in parts:
        raise ConfigError(f"{path!r} contains a dot component")
    return parts


def join(path: Path) -> str:
    """The inverse of `split`."""
    return "/" + "/".join(path)


class Snapshot(msgspec.Struct, frozen=True, dict=True):
    """An immutable name space."""

    mounts: Mapping[str, str] = msgspec.field(default_factory=dict)
    """place -> URL"""
    unions: Mapping[Path, tuple[Element, ...]] = msgspec.field(default_factory=dict)

    @cached_property
    def _resolved(self) -> dict[Path, tuple[Target, ...]]:
        return {}

    def resolve(self, path: Path) -> tuple[Target, ...]:
        """Where ``path`` leads, best rank first, order kept within a rank.

        The longest bound prefix wins: a function bound by itself overrides its module's binding.
        """
        found = self._resolved.get(path)
        if found is None:
            # Only a memo: a snapshot's answer to one path is always the same.
            found = tuple(sorted(self._walk(path, 0, frozenset()), key=lambda t: t.rank))
            self._resolved[path] = found
        return found

    def _walk(self, path: Path, rank: int, seen: frozenset[Path]) -> Iterator[Target]:
        for length in range(len(path), 0, -1):
            prefix = path[:length]
            union = self.unions.get(prefix)
            if union is None or prefix in seen:
                continue
            for element in union:
                yield from self._walk(element.target + path[length:], rank + element.rank, seen | {prefix})
            return
        if len(path) > 2 and path[0] == "n" and path[2] == "chan" and path[1] in self.mounts:
            yield Target(path[1], rank, path[3:])

    def ls(self, path: Path = ()) -> list[str]:
        """The names directly below ``path``, sorted."""
        names = set()
        known: list[Path] = [*self.unions, *(("n", place, "chan") for place in self.mounts)]
        for name in known:
            if len(name) > len(path) and name[: len(path)] == path:
                names.add(name[len(path)])
        return sorted(names)


class Namespace:
    """The mutable holder of the current `Snapshot`.  Verbs may be used from any thread."""

    def __init__(self, snapshot: Snapshot | None = None) -> None:
        self.snapshot = snapshot or Snapshot()
        self._lock = threading.Lock()

    def mount(self, url: str, place: str) -> str:
        """Let ``/n/<place>`` be what the worker at ``url`` offers; the name ``/n/<place>``.

        Raises:
            ConfigError: ``place`` is no word, or names another worker.
        """
        if not place or "/" in place or place.split() != [place] or place in (".", ".."):
            raise ConfigError(f"{place!r} cannot name a place; use a word without slashes")
        with self._lock:
            mounted = self.snapshot.mounts.get(place, url)
            if mounted != url:
                raise ConfigError(f"/n/{place} is {mounted} already; unmount that first, or choose another name")
            self._swap({**self.snapshot.mounts, place: url}, self.snapshot.unions)
        return join(("n", place))

    def bind(self, new: str, old: str, where: Where | str = Where.REPLACE, rank: int | None = None) -> None:
        """Make the name ``old`` lead to ``new``.

        Args:
            new: an existing name, as a rule below ``/n``.
            old: the name to bind over, at any height: a package, a module, a function.
            where: ``replace`` the union of ``old``; or join it ``before`` all others (preferred to
                them) or ``after`` them (a spare).
            rank: join at this rank instead; elements of one rank share the load.

        Raises:
            ConfigError: ``new`` names a place that is not mounted, or ``old`` is below ``/n``.
        """
        target, name = split(new), split(old)
        where = Where(where)
        if not name or name[0] == "n":
            raise ConfigError(f"{old!r} cannot be bound over; names below /n are what is mounted")
        with self._lock:
            if target[:1] == ("n",) and (len(target) < 3 or target[1] not in self.snapshot.mounts):
                mounted = ", ".join(self.snapshot.mounts) or "nothing"
                raise ConfigError(f"{new!r} leads nowhere; mounted below /n: {mounted}")
            if target[:1] == ("n",) and target[3:] != name[1:]:
                raise ConfigError(f"{new!r} is not the same module as {old!r}; a name leads to itself elsewhere")
            union = self.snapshot.unions.get(name, ())
            if where is Where.REPLACE:
                union = (Element(target, rank or 0),)
            elif where is Where.BEFORE:
                if rank is None:
                    union = tuple(Element(e.target, e.rank + 1) for e in union)
                union = (Element(target, rank or 0), *union)
            else:
                last = max((e.rank for e in union), default=-1) + 1
                union = (*union, Element(target, last if rank is None else rank))
            self._swap(self.snapshot.mounts, {**self.snapshot.unions, name: union})

    def unmount(self, old: str, new: str | None = None) -> None:
        """Undo a `bind` (all of ``old``'s union, or only its element ``new``) or a `mount` (``/n/<place>``).

        Raises:
            ConfigError: nothing is bound or mounted there.
        """
        name = split(old)
        with self._lock:
            mounts, unions = dict(self.snapshot.mounts), dict(self.snapshot.unions)
            if len(name) == 2 and name[0] == "n" and name[1] in mounts:
                del mounts[name[1]]
                for bound, union in list(unions.items()):
                    kept = tuple(e for e in union if e.target[:2] != name)
                    _put(unions, bound, kept)
            elif name in unions:
                kept = () if new is None else tuple(e for e in unions[name] if e.target != split(new))
                if kept == unions[name]:
                    raise ConfigError(f"{new!r} is not bound over {old!r}")
                _put(unions, name, kept)
            else:
                raise ConfigError(f"nothing is bound or mounted at {old!r}")
            self._swap(mounts, unions)

    def change(self, how: Callable[[Snapshot], Snapshot]) -> None:
        """Make of the table what ``how`` makes of it, as one step."""
        with self._lock:
            changed = how(self.snapshot)
            self._swap(changed.mounts, changed.unions)

    def resolve(self, path: str) -> tuple[Target, ...]:
        """`Snapshot.resolve` in the current snapshot."""
        return self.snapshot.resolve(split(path))

    def ls(self, path: str = "/") -> list[str]:
        """`Snapshot.ls` in the current snapshot."""
        return self.snapshot.ls(split(path))

    def __repr__(self) -> str:
        return "\n".join(
            f"{join(name)} -> {join(element.target)}, rank {element.rank}"
            for name, union in sorted(self.snapshot.unions.items())
            for element in union
        )

    def forked(self) -> None:
        """In a forked child: the thread that may have held the lock is not here."""
        self._lock = threading.Lock()

    def _swap(self, mounts: Mapping[str, str], unions: Mapping[Path, tuple[Element, ...]]) -> None:
        self.snapshot = Snapshot(mounts, unions)


def _put(unions: dict[Path, tuple[Element, ...]], name: Path, union: tuple[Element, ...]) -> None:
    if union:
        unions[name] = union
    else:
        unions.pop(name, None)
