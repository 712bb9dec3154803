"""The client's standing connections to supervisors: who is there, which executors they have.

One thread per program keeps one connection to each configured worker.  It is not in the path of any
call: calls read what it has learned.  It learns of executors that come and go, of the ends that
executors met (obituaries), and of the worker itself; it starts the embedded worker, and starts it
again if it dies; and it passes on what is not urgent (cancel).
"""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import re
import socket as sockets
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import zmq

from . import capability, channel, direct, embedded, events, session, transport, wire
from .connection import FIRST_CONTACT, Connection, myself
from .errors import (
    IncompatibleWorker,
    RelocateError,
    RemoteProtocolError,
    WorkerError,
    WorkerUnreachable,
)
from .health import Capability
from .places import Link, Seat, end_of, nobody_at

if TYPE_CHECKING:
    from .directory import Directory

log = logging.getLogger("relocate")

START_ATTEMPTS = 3
"""How often in a row an embedded worker may end before it was of any use."""
RECONNECT = (100, 2000)
"""Milliseconds between two tries to connect, at first and at most."""
RECONNECT_EMBEDDED = (10, 200)

_unfinished: list[tuple[zmq.Context[zmq.Socket[bytes]], weakref.WeakSet[channel.ZmqChannel]]] = []
"""Contexts with the channels that kept them from being ended; to collect them as garbage would wait for those."""


class Links:
    """All links of one handle, and the thread that tends them."""

    def __init__(
        self,
        links: list[Link],
        directories: Sequence[Directory] = (),
        *,
        depth: int,
        heartbeat: float,
        keys_folder: str,
        turn: threading.Condition,
        on_change: Callable[[], None],
        on_death: Callable[[str], None],
        tell: Callable[..., None] = events.emit,
    ) -> None:
        transport.keep_freed_memory()
        self.links = links
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.context.set(zmq.MAX_SOCKETS, 65_000)
        self._depth = depth
        self._heartbeat = heartbeat
        self._keys_folder = keys_folder
        self._turn = turn
        self._on_change = on_change
        self._on_death = on_death
        self._tell = tell
        self._commands: collections.deque[tuple[str, tuple[Any, ...]]] = collections.deque()
        self._ear, self._mouth = sockets.socketpair()
        self._ear.setblocking(False)
        self._channels: weakref.WeakSet[channel.ZmqChannel] = weakref.WeakSet()
        self._stopping = False
        self._directories = directories
        for directory in directories:
            directory.open(self.context, keys_folder, turn, on_change)
        self._thread = threading.Thread(target=self._run, name="relocate-links", daemon=True)
        self._thread.start()

    # From any thread ---------------------------------------------------------------------------

    def cancel(self, seat: Seat, call: bytes, *, gentle: bool = False) -> None:
        """Ask for ``call`` to be interrupted on ``seat``, or not to be begun.

        If it does not heed the interrupt its executor is killed, unless this is to be ``gentle``.
        """
        self._post("cancel", seat, call, gentle)

    def add(self, link: Link) -> None:
        """Tend one more link."""
        self._post("add", link)

    def drop(self, link: Link) -> None:
        """Give up a link to which no name leads any more, when the calls on it have ended."""
        link.leaving = True
        self._post("drop")

    def stop(self) -> None:
        """End the thread and close its sockets."""
        self._stopping = True
        self._post("stop")
        self._thread.join(5)
        self._mouth.close()
        self._ear.close()
        # Idle channels would keep the context from ending, and the program with it.
        for link in self.links:
            for seat in link.seats:
                seat.dismiss()
            if link.leaving and link.child is not None:
                link.child.stop()
        _unfinished.append((self.context, self._channels))
        for each in list(_unfinished):
            context, channels = each
            # Sockets that are open belong to threads that still wait for answers.
            if all(opened.closed for opened in list(channels)):
                with contextlib.suppress(ValueError):  # another thread ends it
                    _unfinished.remove(each)
                    context.term()

    def open_channel(self, seat: Seat) -> channel.Channel:
        """A new channel to ``seat``, for the calling thread."""
        link = seat.link
        path = import_path() if link.is_embedded else None
        opening = wire.Open(wire.PROTOCOL, session.PYTHON, link.ticket, path, time.monotonic())
        made = self._opened(seat, opening)
        made.path = None if path is None else sys.path[:]
        return made

    def _opened(self, seat: Seat, opening: wire.Open) -> channel.Channel:
        if direct.AVAILABLE and seat.endpoint.startswith("ipc:"):
            with contextlib.suppress(channel.Absent):
                return direct.DirectChannel(seat.endpoint, opening, self._heartbeat)
        link = seat.link
        made = channel.ZmqChannel(self.context, seat.endpoint, opening, self._heartbeat, link.keys, link.key)
        self._channels.add(made)
        return made

    def _post(self, verb: str, *arguments: Any) -> None:
        self._commands.append((verb, arguments))
        with contextlib.suppress(OSError):  # closed: then there is nobody left to tell
            self._mouth.send(b"\0")

    # In the links' thread ------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._turn_once()
        except Exception as error:
            # A defect of ours: calls must hear of it, not wait for a thread that is gone.
            log.exception("the links' thread failed")
            for link in self.links:
                self._change(link, "refused", WorkerError(f"{link.url}: relocate failed: {error!r}; please report it"))
        finally:
            for link in self.links:
                self._connection(link).close()
            for directory in self._directories:
                directory.close()

    def _turn_once(self) -> None:
        for link in self.links:
            if not link.leaving and self._connection(link).due():
                try:
                    self._connect(link)
                except RelocateError as error:
                    self._refuse(link, error)
                except OSError as error:
                    self._refuse(link, WorkerError(f"{link.spec}: {error}"))
        polled: list[tuple[Any, int]] = [(self._ear.fileno(), zmq.POLLIN)]
        owners: dict[Any, Link] = {}
        for link in self.links:
            for each in self._connection(link).polled():
                polled.append(each)
                owners[each[0]] = link
        soon = any(k.state == "starting" or self._connection(k).socket is None for k in self.links)
        for directory in self._directories:
            polled += directory.polled()
            soon = soon or directory.state == "starting"
        for ready, _ in zmq.zmq_poll(polled, 50 if soon else 250):
            owner = owners.get(ready)
            if owner is None and any(directory.serve(ready) for directory in self._directories):
                continue
            if owner is None:
                with contextlib.suppress(BlockingIOError):
                    self._ear.recv(4096)
            else:
                self._serve(owner, ready)
        while self._commands:
            verb, arguments = self._commands.popleft()
            getattr(self, f"_do_{verb}")(*arguments)
        for link in self.links[:]:
            self._tend(link)
        for directory in self._directories:
            directory.tend()

    def _tend(self, link: Link) -> None:
        now = time.monotonic()
        if link.leaving:
            self._let_go(link)
            return
        if link.child is not None and link.child.ended():
            link.child.clean()
            code, link.child = link.child.process.returncode, None
            link.attempts += 1
            self._connection(link).close()
            self._connection(link).wait(min(0.05 * 2**link.attempts, 5.0))
            error = WorkerUnreachable(f"the embedded worker ended with status {code}")
            self._change(link, "starting" if link.attempts <= START_ATTEMPTS else "refused", error)
        unanswered = link.state == "starting" and not link.is_embedded and not self._connection(link).shaken
        if unanswered and now - link.began > FIRST_CONTACT:
            self._change(link, "down", WorkerUnreachable(nobody_at(link.url)))

    def _connection(self, link: Link) -> Connection:
        if link.connection is None:
            link.connection = Connection(
                self.context,
                "worker",
                myself(),
                configure=lambda socket: transport.configure(socket, self._heartbeat),
                pauses=RECONNECT if link.spec.startswith("tcp:") else RECONNECT_EMBEDDED,
                checked=not link.is_embedded,
            )
        return link.connection

    def _connect(self, link: Link) -> None:
        if link.is_embedded:
            if link.child is None:
                link.child = embedded.start(int(link.spec.partition(":")[2]))
            link.url = link.child.url
        self._connection(link).connect(link.url, self._keys_folder, link.hint)

    def _serve(self, link: Link, ready: Any) -> None:
        """See to a socket of its that is ready."""
        connection = self._connection(link)
        try:
            if ready is connection.socket:
                self._message(link, connection)
            elif ready is connection.monitor and (lost := connection.event()) is not None:
                self._down(link, lost)
        except RelocateError as error:
            self._refuse(link, error)

    def _message(self, link: Link, connection: Connection) -> None:
        message = connection.receive()
        if link.doubted:
            with self._turn:
                link.trust()
                self._on_change()
        if isinstance(message, wire.Welcome):
            if message.ticket != link.ticket:
                self._forget(link)
            link.worker, link.ticket = message.name, message.ticket
            link.keys, link.key = connection.keys, message.key or connection.server
            link.capability = message.capability
            link.attempts = 0
            connection.welcomed()
            self._members(link, message.executors)
        elif isinstance(message, wire.Change):
            for obituary in message.obituaries:
                link.obituaries[obituary.slot, obituary.incarnation] = obituary
                if not message.draining:  # otherwise it ended as it was asked to
                    label = f"{link.name}/{obituary.slot}"
                    self._on_death(label)
                    end = end_of(obituary.returncode) + (", for want of memory" if obituary.memory else "")
                    self._tell("executor died", executor=label, end=end)
                while len(link.obituaries) > 1000:
                    del link.obituaries[next(iter(link.obituaries))]
            if message.draining:
                self._down(link, WorkerUnreachable(f"the worker at {link.url} is shutting down"))
            elif message.trouble:
                self._down(link, WorkerError(f"the worker at {link.url} cannot start executors: {message.trouble}"))
            else:
                self._members(link, message.executors)
        elif isinstance(message, wire.Refused):
            self._refuse(link, IncompatibleWorker(f"the worker at {link.url} refused this client: {message.text}"))

    def _forget(self, link: Link) -> None:
        """The supervisor is another one than before: so are its executors."""
        with self._turn:
            for seat in link.seats:
                seat.dismiss()
            link.seats = ()
            link.obituaries.clear()

    def _members(self, link: Link, executors: list[wire.Executor]) -> None:
        endpoints = [endpoint(link.url, executor) for executor in executors]
        prior = slowness(link.capability, len(executors))
        gpus = capability.gpus() if link.capability is None else link.capability.gpus
        with self._turn:
            known = {(s.slot, s.incarnation): s for s in link.seats}
            seats = []
            for executor, url in zip(executors, endpoints, strict=True):
                known_seat = known.pop((executor.slot, executor.incarnation), None)
                seats.append(known_seat or Seat(link, executor, url, self._depth, prior, gpus))
            for seat in known.values():
                seat.dismiss()
            link.seats = tuple(seats)
            link.error = None
            rises = link.state != "up" and bool(seats)
            link.state = "up" if seats else "starting"
            self._on_change()
        if rises:
            self._tell("worker up", worker=link.name, url=link.url, executors=len(seats))

    def _down(self, link: Link, error: RelocateError) -> None:
        self._change(link, "starting" if link.is_embedded else "down", error)

    def _refuse(self, link: Link, error: RelocateError) -> None:
        self._connection(link).refuse()
        self._change(link, "refused", error)

    def _change(self, link: Link, state: str, error: RelocateError | None = None) -> None:
        with self._turn:
            for seat in link.seats:
                seat.dismiss()
            falls = link.state == "up" or (state == "down" and link.state != "down")
            link.state, link.seats = state, ()
            link.error = error or link.error
            link.began = time.monotonic()
            self._on_change()
        if falls or state == "refused":
            self._tell("worker down", worker=link.name, url=link.url, state=state, reason=str(error or link.error))

    def _let_go(self, link: Link) -> None:
        """Close a link that was dropped, unless a call is still under way on it."""
        with self._turn:
            if any(seat.outstanding for seat in link.seats):
                return
            for seat in link.seats:
                seat.dismiss()
            link.state, link.seats = "down", ()
        self._connection(link).close()
        self.links.remove(link)
        if link.child is not None:  # it takes its time to end, which the other links need not wait for
            threading.Thread(target=link.child.stop, name="relocate-unmount").start()

    def _do_add(self, link: Link) -> None:
        self.links.append(link)

    def _do_drop(self) -> None:
        """Only to wake the thread: `_tend` sees to links that are leaving."""

    def _do_cancel(self, seat: Seat, call: bytes, gentle: bool) -> None:
        connection = self._connection(seat.link)
        if connection.shaken:
            connection.send(wire.Cancel(seat.slot, call, gentle))

    def _do_stop(self) -> None:
        self._stopping = True


def slowness(offered: wire.Capability | None, executors: int) -> float:
    """How slow each of so many executors of a worker is likely to be, before any call has shown it."""
    if offered is None:
        return 1.0
    relative = offered.speed / capability.speed()
    return Capability(offered.cores, offered.memory, relative).slowness(executors)


def endpoint(worker: str, executor: wire.Executor) -> str:
    """Where ``executor`` of the worker at that address listens: on the same host, or beside the same socket.

    Raises:
        RemoteProtocolError: it is said to be elsewhere.
    """
    if worker.startswith("ipc:"):
        return f"{worker}.{executor.slot}.{executor.incarnation}"
    if not re.fullmatch("[0-9]{1,5}", executor.endpoint):
        raise RemoteProtocolError(f"the worker at {worker} has an executor at {executor.endpoint[:80]!r}, not a port")
    return f"{worker.rpartition(':')[0]}:{executor.endpoint}"


def import_path() -> list[str]:
    """This program's import path with nothing relative in it."""
    return [os.path.abspath(p) for p in sys.path]
