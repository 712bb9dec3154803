"""A client's registries for one name: who they say is there is mounted and bound as they say.

A directory is also a place of its own in the name space, on which nothing ever runs: while it has
heard nothing yet it is ``starting``, so that calls wait, then ``down``; and its error is what a call is
told that finds no worker.

What the registries name no longer goes only when the client's own connection to it is down: the
client's evidence is better than theirs, and a registry that is cut off from its workers harms nobody.
Of each module the workers of one version are bound.  Which one, most of the workers decide that are named
or connected: a registry that has only just begun to hear of them takes a client from nobody here, either.

The links' thread does all of it.  All steps of an answer are one change of the name space, so that no
call sees one without the others.
"""

from __future__ import annotations

import logging
import platform
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import zmq

from . import config, connection, contact, leases, session, wire
from .errors import ConfigError, IncompatibleWorker, RelocateError, WorkerError, WorkerUnreachable
from .mounts import LiveNamespace, free_name
from .namespace import Namespace, Snapshot, Where, join, split
from .places import Link, Seat

log = logging.getLogger("relocate")

LIMIT = 32
"""Workers for each name that a client asks for."""
ALL = "/chan"
"""The name of everything that is called."""
ANSWER = 5.0
"""Seconds that `survey` waits."""


class Directory:
    """Registries that are alternatives for one another, and the workers that they name.

    Args:
        specs: their addresses, as configured.
        modules: the designated names, of modules and of classes in them.
        rank: at which the best workers are bound; each label that one lacks costs one.
        namespace: where they are mounted.
        links: gives the links of the handle.
    """

    local = False
    seats: tuple[Seat, ...] = ()

    def __init__(
        self,
        specs: list[str],
        modules: list[str],
        rank: int,
        namespace: LiveNamespace,
        links: Callable[[], list[Link]],
    ) -> None:
        self.specs = specs
        self.registries = dict(map(config.registry, specs))
        self.name = free_name(specs[0], namespace.snapshot.mounts)
        self.state = "starting"
        self.error: RelocateError | None = None
        self._modules = modules
        self._rank = rank
        self._namespace = namespace
        self._links = links
        self._view = leases.View()
        self._mounted: dict[str, tuple[str, wire.Mount]] = {}
        """Of each address the place's name, and what was told of it."""
        self._contacts: list[contact.Contact] = []
        self._asked: dict[str, float] = {}

    @property
    def ranks(self) -> int:
        """How many ranks its workers take."""
        return 1 + max(map(len, self.registries.values()))

    # For the handle ------------------------------------------------------------------------------

    def begin_anew(self) -> None:
        """The connections are gone, with their thread; what was mounted stays."""
        self._contacts = []
        self._asked.clear()
        if not self._mounted:
            self.state, self.error = "starting", None

    def troubles(self) -> list[dict[str, Any]]:
        """The registries that do not answer, or name nobody, told as `Handle.workers` tells of workers."""
        found = [(r.url, r.state, r.error) for r in self._contacts if r.state != "up"]
        if not self._mounted and len(found) < len(self._contacts):
            found.append((", ".join(self.registries), self.state, self.error))
        return [
            {
                "name": self.name,
                "url": f"{config.REGISTRY}{url}",
                "state": state,
                "executors": 0,
                "outstanding": 0,
                "error": str(error) if error else None,
            }
            for url, state, error in found
        ]

    # For the links' thread -----------------------------------------------------------------------

    def open(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        folder: str,
        turn: threading.Condition,
        on_change: Callable[[], None],
    ) -> None:
        """Begin to ask."""
        self._turn, self._on_change = turn, on_change
        self._contacts = [
            contact.Contact(
                context,
                url,
                folder,
                connection.myself(),
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

    def polled(self) -> connection.Polled:
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
        named = self._view.wanted(time.monotonic())
        links = {link.url: link for link in self._links()}
        elsewhere = {url for url in links if url not in self._mounted}
        crowded = len(self._mounted) > 2 * LIMIT
        standing = {
            url: mount
            for url, (_, mount) in self._mounted.items()
            if not crowded and url in links and links[url].state not in ("down", "refused")
        }
        wanted = leases.of_one_version(standing | named, named)
        gone = {name: url for url, (name, _) in self._mounted.items() if url not in wanted}
        taken = dict(self._namespace.snapshot.mounts)
        told: dict[str, wire.Mount] = {}
        """By the name of the place."""
        for url, mount in wanted.items():
            name, before = self._mounted.get(url, ("", None))
            if url not in elsewhere and (before is None or before.binds != mount.binds):
                name = name or free_name(url, taken)
                told[name], taken[name] = mount, url
        if gone or told:
            self._rebind(gone, told)
        with self._turn:
            if self._judge() or gone or told:
                self._on_change()

    def _rebind(self, gone: dict[str, str], told: dict[str, wire.Mount]) -> None:
        """Unmount the places ``gone``, and bind those that were ``told`` of as was told, in one step."""
        self._namespace.change(lambda snapshot: self._bound(snapshot, gone, told), f"the registry {self.name}")
        for link in self._links():  # they are connected by this thread, later
            if link.name in told:
                link.hint = told[link.name].key
        for url in gone.values():
            del self._mounted[url]
        self._mounted.update({mount.url: (name, mount) for name, mount in told.items()})

    def _bound(self, snapshot: Snapshot, gone: Iterable[str], told: dict[str, wire.Mount]) -> Snapshot:
        begun = Namespace(snapshot)
        for name in [*gone, *(name for name in told if name in snapshot.mounts)]:
            if name in snapshot.mounts:  # unless the program has unmounted it
                begun.unmount(f"/n/{name}")
        for name, mount in told.items():
            begun.mount(mount.url, name)
            for bind in mount.binds:
                old = bind.name
                union = [element.target for element in begun.snapshot.unions.get(split(old), ())]
                if old != ALL and not union:
                    # Bound over itself, a name leads on to where it led before.
                    begun.bind(old, old, Where.AFTER, 0)
                elif old != ALL and split(old) not in union:
                    continue  # the program has bound it itself
                begun.bind(f"/n/{name}{old}", old, Where.AFTER, self._rank + bind.rank)
        for bound, elements in begun.snapshot.unions.items():
            if [element.target for element in elements] == [bound]:
                begun.unmount(join(bound))
        return begun.snapshot

    def _judge(self) -> bool:
        """How things stand; whether that has changed."""
        states = {registry.state for registry in self._contacts}
        before = self.state, str(self.error)
        errors = [registry.error for registry in self._contacts if registry.error is not None]
        if self._view.complete or self._mounted:
            self.state = "down"
            where = ", ".join(self.registries)
            self.error = WorkerError(
                f"the registry at {where} named {len(self._mounted)} worker{'s' * (len(self._mounted) != 1)}"
                if self._mounted
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


def check(mount: wire.Mount, registry: str) -> None:
    """Refuse a step that no registry should give.

    Raises:
        IncompatibleWorker: saying which.
    """
    try:
        config.check_url(mount.url)
    except ConfigError as error:
        raise IncompatibleWorker(f"the registry at {registry} names a worker: {error}") from None
    for bind in mount.binds:
        parts = bind.name.split("/")
        if parts[:2] != ["", "chan"] or not all(map(str.isidentifier, parts[2:])) or not 0 <= bind.rank < 1000:
            where = f"{bind.name[:80]!r} at {bind.rank}"
            raise IncompatibleWorker(f"the registry at {registry} binds {mount.url} over {where}")


def survey(url: str, folder: str) -> list[dict[str, Any]]:
    """All offers that the registry at ``url`` knows, as data.

    Args:
        url: its address.
        folder: of the keys.

    Raises:
        RelocateError: it cannot be reached, or does not answer.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    found: list[wire.Offers] = []
    asked = contact.Contact(
        context,
        url,
        folder,
        connection.myself(),
        on_up=lambda registry: registry.send(wire.Survey()),
        on_message=lambda registry, message: found.append(message) if isinstance(message, wire.Offers) else None,
        on_down=lambda registry: None,
    )
    until = time.monotonic() + ANSWER
    try:
        while not found or found[-1].more:
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
        for part in found
        for offer, key, lease in part.offers
    ]
