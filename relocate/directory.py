"""A client's registries for one name: who they say is there is mounted and bound as they say.

A directory is also a place of its own in the name space, on which nothing ever runs: while it has
heard nothing yet it is ``starting``, so that calls wait, and its error is what a call is told that
finds no worker.

What the registries name no longer goes only when the client's own connection to it is not up: the
client's evidence is better than theirs, and a registry that is cut off from its workers harms nobody.
The links' thread does all of it; the driver's lock is held while the name space changes, so that no
call sees one step of several.
"""

from __future__ import annotations

import logging
import platform
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import zmq

from . import config, contact, leases, session, wire
from .errors import ConfigError, IncompatibleWorker, RelocateError, WorkerError, WorkerUnreachable
from .namespace import Namespace, Where
from .places import Link, Seat, place_name

log = logging.getLogger("relocate")

LIMIT = 32
"""Workers for each name that a client asks for."""
ANSWER = 5.0
"""Seconds that `survey` waits."""


class Directory:
    """Registries that are alternatives for one another, and the workers that they name.

    Args:
        specs: their addresses, as configured.
        modules: the designated names.
        rank: at which the best workers are bound; each label that one lacks costs one.
        namespace: where they are mounted.
        links: all links of the handle; the workers' are added and removed.
    """

    local = False
    seats: tuple[Seat, ...] = ()

    def __init__(
        self, specs: list[str], modules: list[str], rank: int, namespace: Namespace, links: list[Link]
    ) -> None:
        self.specs = specs
        self.registries = dict(map(config.registry, specs))
        self.name = "registry@" + urlsplit(next(iter(self.registries))).netloc
        self.state = "starting"
        self.error: RelocateError | None = None
        self._modules = modules
        self._rank = rank
        self._namespace = namespace
        self._links = links
        self._view = leases.View()
        self._mounts: dict[str, tuple[wire.Mount, Link]] = {}
        self._contacts: list[contact.Contact] = []
        self._asked: dict[str, float] = {}

    @property
    def ranks(self) -> int:
        """How many ranks its workers take."""
        return 1 + max(map(len, self.registries.values()))

    # For the handle ------------------------------------------------------------------------------

    def adopt(self, links: list[Link]) -> None:
        """The handle begins anew with ``links``: those of the same names are the ones that were mounted."""
        self._links = links
        named = {link.name: link for link in links}
        self._mounts = {url: (mount, named[link.name]) for url, (mount, link) in self._mounts.items()}
        self._contacts = []
        self._asked.clear()
        if not self._mounts:
            self.state, self.error = "starting", None

    def troubles(self) -> list[dict[str, Any]]:
        """How things stand with each registry that does not answer, as `Handle.workers` says it of workers."""
        return [
            {
                "name": self.name,
                "url": f"{config.REGISTRY}{registry.url}",
                "state": registry.state,
                "executors": 0,
                "outstanding": 0,
                "error": str(registry.error) if registry.error else None,
            }
            for registry in self._contacts
            if registry.state != "up"
        ] + [
            {
                "name": self.name,
                "url": self.specs[0],
                "state": "down",
                "executors": 0,
                "outstanding": 0,
                "error": str(self.error),
            }
            for _ in range(not self._mounts and any(registry.state == "up" for registry in self._contacts))
        ]

    # For the links' thread -----------------------------------------------------------------------

    def open(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        folder: str,
        turn: threading.Condition,
        places: dict[str, Any],
        on_change: Callable[[], None],
    ) -> None:
        """Begin to ask."""
        self._turn, self._places, self._on_change = turn, places, on_change
        self._contacts = [
            contact.Contact(
                context,
                url,
                folder,
                contact.myself(),
                on_up=self._ask,
                on_message=self._message,
                on_down=self._lost,
            )
            for url in self.registries
        ]

    def close(self) -> None:
        """End the connections; what is known stays."""
        for registry in self._contacts:
            registry.close()
        self._contacts = []

    def polled(self) -> contact.Polled:
        """What to poll for it."""
        return [polled for registry in self._contacts for polled in registry.polled()]

    def serve(self, ready: Any) -> bool:
        """See to a socket that is ready; False: it is none of its own."""
        return any(registry.serve(ready) for registry in self._contacts)

    def tend(self) -> None:
        """What is to be done now and then."""
        now = time.monotonic()
        for registry in self._contacts:
            registry.tend()
            if registry.state == "up" and now - self._asked[registry.url] > max(registry.lease / 3, 0.05):
                self._ask(registry)
        self._review()

    def _ask(self, registry: contact.Contact) -> None:
        self._asked[registry.url] = time.monotonic()
        labels = self.registries[registry.url]
        registry.send(wire.Lookup(1, self._modules, session.PYTHON, platform.node(), labels, LIMIT, watch=True))

    def _lost(self, registry: contact.Contact) -> None:
        self._view.lost(registry.url)
        self._review()

    def _message(self, registry: contact.Contact, message: wire.AnyMessage) -> None:
        if not isinstance(message, wire.Steps):
            return
        now = time.monotonic()
        registry.lease = message.lease
        for mount in message.mounts:
            check(mount, registry.url)
        self._view.answered(registry.url, message, now)
        self._review()

    def _review(self) -> None:
        """Mount what is named, unmount what is not and cannot be reached; say how things stand."""
        wanted = self._view.wanted(time.monotonic())
        with self._turn:
            changed = False
            for url, mount in wanted.items():
                known = self._mounts.get(url)
                if known is None:
                    changed = self._mount(mount) or changed
                elif known[0].binds != mount.binds:
                    self._namespace.unmount(f"/n/{known[1].name}")
                    self._bind(mount, known[1])
                    changed = True
            for url, (_, link) in list(self._mounts.items()):
                if url not in wanted and (link.state != "up" or len(self._mounts) > 2 * LIMIT):
                    self._unmount(url, link)
                    changed = True
            changed = self._judge() or changed
            if changed:
                self._on_change()

    def _mount(self, mount: wire.Mount) -> bool:
        name = place_name(mount.url)
        mounts = self._namespace.snapshot.mounts
        if mount.url in mounts.values():
            return False  # it is configured by its own address as well
        if name in mounts:
            name = f"{name}@{urlsplit(mount.url).netloc or mount.url.removeprefix('ipc://').replace('/', '.')}"
        link = Link(name, mount.url)
        link.offered, link.hint = True, mount.key
        self._places[name] = link
        self._bind(mount, link)
        self._links.append(link)
        return True

    def _bind(self, mount: wire.Mount, link: Link) -> None:
        self._mounts[mount.url] = mount, link
        self._namespace.mount(mount.url, link.name)
        for old, rank in mount.binds:
            union = [element.target for element in self._namespace.snapshot.unions.get(split(old), ())]
            if old != "/chan" and not union:
                # Bound over itself, a name leads on to where it led before.
                self._namespace.bind(old, old, Where.AFTER, 0)
            elif old != "/chan" and split(old) not in union:
                continue  # the program has bound it itself
            self._namespace.bind(f"/n/{link.name}{old}", old, Where.AFTER, self._rank + rank)

    def _unmount(self, url: str, link: Link) -> None:
        mount, _ = self._mounts.pop(url)
        self._namespace.unmount(f"/n/{link.name}")
        for old, _ in mount.binds:
            union = self._namespace.snapshot.unions.get(split(old), ())
            if [element.target for element in union] == [split(old)]:
                self._namespace.unmount(old)
        self._places.pop(link.name, None)
        link.leaving = True

    def _judge(self) -> bool:
        """How things stand; whether that has changed."""
        states = {registry.state for registry in self._contacts}
        before = self.state, str(self.error)
        errors = [registry.error for registry in self._contacts if registry.error is not None]
        if self._view.complete or self._mounts:
            self.state = "down"
            where = ", ".join(self.registries)
            self.error = WorkerError(
                f"the registry at {where} named {len(self._mounts)} workers"
                if self._mounts
                else f"the registry at {where} knows no worker for Python {'.'.join(map(str, session.PYTHON))} "
                f"that offers {', '.join(self._modules) or 'anything'}"
            )
        elif states & {"starting", "up"}:
            self.state = "starting"
            best = max(self._contacts, key=lambda registry: registry.state == "up")
            self.error = WorkerUnreachable(
                f"the registry at {best.url} is still being told of the workers"
                if best.state == "up"
                else contact.nobody_at(best.url)
            )
        elif states:
            self.state = "refused" if states == {"refused"} else "down"
            self.error = errors[0] if errors else None
        return before != (self.state, str(self.error))


def split(name: str) -> tuple[str, ...]:
    """The components of a name that was checked."""
    return tuple(name.split("/")[1:])


def check(mount: wire.Mount, registry: str) -> None:
    """Refuse a step that no registry should give.

    Raises:
        IncompatibleWorker: saying which.
    """
    try:
        config.check_url(mount.url)
    except ConfigError as error:
        raise IncompatibleWorker(f"the registry at {registry} names a worker: {error}") from None
    for old, rank in mount.binds:
        parts = split(old)
        if parts[0] != "chan" or not all(part.isidentifier() for part in parts) or not 0 <= rank < 1000:
            raise IncompatibleWorker(f"the registry at {registry} binds {mount.url} over {old[:80]!r} at {rank}")


def survey(url: str, folder: str) -> list[dict[str, Any]]:
    """All offers that the registry at ``url`` knows, as data.

    Args:
        url: its address.
        folder: of the keys.

    Raises:
        RelocateError: it cannot be reached, or does not answer.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    found: list[list[tuple[wire.Offer, bytes, float]]] = []
    asked = contact.Contact(
        context,
        url,
        folder,
        contact.myself(),
        on_up=lambda registry: registry.send(wire.Survey()),
        on_message=lambda registry, message: found.append(message.offers) if isinstance(message, wire.Offers) else None,
        on_down=lambda registry: None,
    )
    until = time.monotonic() + ANSWER
    try:
        while not found:
            asked.tend()
            if asked.error is not None:
                raise asked.error
            if time.monotonic() > until:
                raise WorkerUnreachable(f"the registry at {url} does not answer; is it one?")
            for ready, _ in zmq.zmq_poll(asked.polled(), asked.patience()):
                asked.serve(ready)
    finally:
        asked.close()
        context.term()
    return [
        {
            "url": offer.url,
            "key": key.hex(),
            "lease": max(0.0, lease),
            "executors": offer.executors,
            "relocate": offer.version,
            "python": ".".join(map(str, offer.python)),
            "host": offer.host,
            "modules": [
                {"name": m.name, "version": m.version, "digest": m.digest.hex(), "interface": m.interface.hex()}
                for m in offer.modules
            ],
            "labels": offer.labels,
            "capabilities": offer.capabilities,
        }
        for offer, key, lease in found[0]
    ]
