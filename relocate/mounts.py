"""The name space of a running program: each place that is mounted in it has a link.

The rules:

1. A link is there before a name leads to it, and it is given up only after no name does.  So a call
   that is decided at any moment finds whoever its name leads to.
2. When a verb returns, no call that is decided later goes by the old table, and those that waited in
   line are decided by the new one.  Calls under way are left alone: their worker is let go when the
   last of them has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

from . import config
from .errors import ConfigError
from .namespace import Namespace, Path, Snapshot, Where, join
from .places import place_name

if TYPE_CHECKING:
    from .namespace import Element

LOCAL = "local"
"""The address, and the usual name, of the place where the local copies run."""

Mounts = Collection[tuple[str, str]]
"""Names and addresses of places."""


class LiveNamespace(Namespace):
    """A name space whose mounts are addresses of workers, and connected.

    Args:
        snapshot: what it is at first.
        connect: called with the places that are new, before the table changes.
        changed: called after the table has changed, with the places that are gone.
        tell: called for each event, see `events`.
    """

    def __init__(
        self,
        snapshot: Snapshot | None = None,
        *,
        connect: Callable[[Mounts], object] = bool,
        changed: Callable[[Mounts], object] = bool,
        tell: Callable[..., object] = lambda event, **fields: None,
    ) -> None:
        super().__init__(snapshot)
        self._connect = connect
        self._changed = changed
        self._tell = tell
        self._untold: list[tuple[str, str, str]] = []

    def mount(self, url: str, place: str = "") -> str:
        """Let ``/n/<place>`` be what the worker at ``url`` offers, and connect to it; its name.

        Args:
            url: ``tcp://host:port`` or ``ipc:///path``; ``local:4``, four executors that this program starts;
                ``local``, the local copies.
            place: its name; made of the address if none is given.

        Raises:
            ConfigError: the address or the name is wrong, or the name is taken.
        """
        spec = address(url)
        name = super().mount(spec, place.removeprefix("/n/") or free_name(spec, self.snapshot.mounts))
        self._tell_of_mounts()
        return name

    def bind(self, new: str, old: str, where: Where | str = Where.REPLACE, rank: int | None = None) -> None:
        """As `Namespace.bind`."""
        super().bind(new, old, where, rank)
        self._tell("bound", name=old, target=new, where=Where(where).value, rank=rank)

    def change(self, how: Callable[[Snapshot], Snapshot], origin: str = "the program") -> None:
        """As `Namespace.change`; ``origin`` says who wants it, for those who hear of events."""
        super().change(how)
        self._tell_of_mounts()
        self._tell("loaded", origin=origin)

    def unmount(self, old: str, new: str | None = None) -> None:
        """As `Namespace.unmount`."""
        super().unmount(old, new)
        self._tell_of_mounts()
        if not old.startswith("/n/"):
            self._tell("unbound", name=old, target=new or "anything")

    def _swap(self, mounts: Mapping[str, str], unions: Mapping[Path, tuple[Element, ...]]) -> None:
        before = self.snapshot.mounts.items()
        added, gone = mounts.items() - before, before - mounts.items()
        self._connect(added)
        super()._swap(mounts, unions)
        self._changed(gone)
        self._untold += [("mounted", *place) for place in added] + [("unmounted", *place) for place in gone]

    def _tell_of_mounts(self) -> None:
        """Outside of the lock: who listens may use these verbs."""
        while self._untold:
            event, place, url = self._untold.pop(0)
            self._tell(event, url=url, name=join(("n", place)))


def address(url: str) -> str:
    """What ``url`` mounts, as the configuration writes it.

    Raises:
        ConfigError: it is no address, or more than one.
    """
    if url == LOCAL:
        return url
    found = [spec for rank in config.ranks(url) for spec in rank]
    if len(found) > 1:
        raise ConfigError(f"{url!r} are {len(found)} addresses; mount one at a time")
    return found[0]


def free_name(spec: str, taken: Mapping[str, str]) -> str:
    """A name for the place ``spec`` that no other place has."""
    name = first = place_name(spec) if spec != LOCAL else LOCAL
    number = 1
    while taken.get(name, spec) != spec:
        number += 1
        name = f"{first}-{number}"
    return name
