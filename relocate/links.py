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
import random
import re
import socket as sockets
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zmq

from . import __version__, capability, channel, direct, embedded, events, keys, session, wire
from .errors import (
    IncompatibleWorker,
    RelocateError,
    RemoteProtocolError,
    WorkerError,
    WorkerUnreachable,
    WrongKey,
)
from .health import Capability
from .places import Link, Seat, end_of, nobody_at

if TYPE_CHECKING:
    from .directory import Directory

log = logging.getLogger("relocate")

FIRST_CONTACT = 2.0
"""Seconds in which a worker that was never reached counts as starting, not as down."""

START_ATTEMPTS = 3
"""How often in a row an embedded worker may end before it was of any use."""
LOOK_AGAIN = 0.1
"""Seconds between two looks whether a worker on a Unix socket is there."""
TRY_AGAIN = 5.0
"""Seconds after which a worker that refused is asked again: a key may have been allowed since."""


_unfinished: list[Any] = []
"""Contexts that cannot be ended; to collect them as garbage would wait for ever."""


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
        channel.keep_freed_memory()
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
        if any(not opened.closed for opened in list(self._channels)):
            _unfinished.append(self.context)  # its sockets belong to threads that still wait for answers
        else:
            self.context.term()

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
                self._close(link)
            for directory in self._directories:
                directory.close()

    def _turn_once(self) -> None:
        now = time.monotonic()
        for link in self.links:
            if link.socket is None and now >= link.again_at and not link.leaving:
                try:
                    self._connect(link)
                except channel.Absent:
                    link.again_at = now + jittered(LOOK_AGAIN)
                except RelocateError as error:
                    self._refuse(link, error)
                except (OSError, zmq.ZMQError) as error:
                    self._refuse(link, WorkerError(f"{link.spec}: {error}"))
        polled: list[tuple[Any, int]] = [(self._ear.fileno(), zmq.POLLIN)]
        owners: dict[Any, Link] = {}
        for link in self.links:
            if link.socket is not None and link.monitor is not None:
                polled += [(link.socket, zmq.POLLIN), (link.monitor, zmq.POLLIN)]
                owners[link.socket] = owners[link.monitor] = link
        soon = any(k.state == "starting" or k.socket is None for k in self.links)
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
            elif ready is owner.monitor:
                self._event(owner)
            elif owner.socket is not None:
                try:
                    self._message(owner)
                except RelocateError as error:
                    self._refuse(owner, error)
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
            self._close(link)
            link.attempts += 1
            link.again_at = now + min(0.05 * 2**link.attempts, 5.0)
            error = WorkerUnreachable(f"the embedded worker ended with status {code}")
            self._change(link, "starting" if link.attempts <= START_ATTEMPTS else "refused", error)
        unanswered = link.state == "starting" and not link.is_embedded and not link.shaken
        if unanswered and now - link.began > FIRST_CONTACT:
            self._change(link, "down", WorkerUnreachable(nobody_at(link.url)))

    def _connect(self, link: Link) -> None:
        if link.is_embedded:
            if link.child is None:
                link.child = embedded.start(int(link.spec.partition(":")[2]))
            link.url = link.child.url
        elif link.url.startswith("tcp:") and link.keys is None:
            link.keys = keys.load(self._keys_folder, create=embedded.is_loopback(link.url))
            link.candidates = link.keys.peers
            if link.hint in link.candidates:  # only among the keys that are allowed here
                link.candidates = [link.hint]
        if link.in_file_system:
            channel.check_socket_file(link.url)
        socket: zmq.Socket[bytes] = self.context.socket(zmq.DEALER)
        channel.configure(socket, self._heartbeat)
        # libzmq adds up to the first interval by chance to each, which is little where they have grown.
        socket.reconnect_ivl = int(jittered(10 if link.url.startswith("ipc:") else 100))
        socket.reconnect_ivl_max = int(jittered(2000)) if link.url.startswith("tcp:") else 200
        if link.in_file_system:
            socket.reconnect_ivl = channel.NEVER  # not before the file has been checked again
        if link.keys is not None:
            link.server = link.candidates[0]
            channel.use_client_keys(socket, link.keys, link.server)
        link.monitor = socket.get_monitor_socket(channel.MONITORED)
        link.socket = socket
        link.shaken = False
        socket.connect(link.url)

    def _close(self, link: Link) -> None:
        if link.socket is not None and link.monitor is not None:
            link.socket.disable_monitor()
            link.monitor.close(0)
            link.socket.close(0)
        link.socket = link.monitor = None

    def _event(self, link: Link) -> None:
        assert link.monitor is not None
        assert link.socket is not None
        event = channel.read_event(link.monitor)
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            link.shaken = True
            client = f"{keys.whose()} {Path(sys.argv[0] or '-').name} {os.getpid()}"
            hello = wire.Hello(wire.PROTOCOL, __version__, session.PYTHON, client)
            link.socket.send_multipart(wire.pack(hello))
        elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self._refuse(link, WrongKey(self._unknown_here(link)))
        elif event == zmq.EVENT_DISCONNECTED and not link.shaken and link.keys is not None:
            self._wrong_server(link)
        elif event == zmq.EVENT_DISCONNECTED:
            link.shaken = False
            self._down(link, WorkerUnreachable(f"the connection to the worker at {link.url} was lost"))
            if link.in_file_system:
                self._look_again(link)
        elif event == zmq.EVENT_CONNECT_RETRIED and link.in_file_system:
            self._look_again(link)
        elif event != zmq.EVENT_CONNECT_RETRIED and link.keys is not None:
            self._wrong_server(link)

    def _look_again(self, link: Link) -> None:
        self._close(link)
        link.again_at = time.monotonic() + jittered(LOOK_AGAIN)

    def _wrong_server(self, link: Link) -> None:
        """The peer did not prove to hold the key that was tried: try the next one."""
        assert link.keys is not None
        self._close(link)
        link.candidates = link.candidates[1:]
        if not link.candidates:
            count = len(link.keys.peers)
            self._refuse(
                link,
                WrongKey(
                    f"the worker at {link.url} holds no key that is allowed here ({count} in {link.keys.folder}), "
                    f"or is not a relocate worker; run 'relocate keys show' there and 'relocate keys allow KEY' here"
                ),
            )

    def _unknown_here(self, link: Link) -> str:
        assert link.keys is not None
        return (
            f"the worker at {link.url} does not allow this client's key; "
            f"run there: relocate keys allow {link.keys.public.hex()} {keys.whose()}"
        )

    def _message(self, link: Link) -> None:
        assert link.socket is not None
        frames: list[wire.Buffer] = list(link.socket.recv_multipart())
        message, _ = wire.unpack(frames)
        if link.doubted:
            with self._turn:
                link.trust()
                self._on_change()
        if isinstance(message, wire.Welcome):
            if message.ticket != link.ticket:
                self._forget(link)
            link.worker, link.ticket = message.name, message.ticket
            link.key = message.key or link.server
            link.capability = message.capability
            link.attempts = 0
            if link.keys is not None:
                link.candidates = [link.server]
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
        self._close(link)
        link.again_at = time.monotonic() + jittered(TRY_AGAIN)
        link.keys = None
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
        self._close(link)
        self.links.remove(link)
        if link.child is not None:  # it takes its time to end, which the other links need not wait for
            threading.Thread(target=link.child.stop, name="relocate-unmount").start()

    def _do_add(self, link: Link) -> None:
        self.links.append(link)

    def _do_drop(self) -> None:
        """Only to wake the thread: `_tend` sees to links that are leaving."""

    def _do_cancel(self, seat: Seat, call: bytes, gentle: bool) -> None:
        if seat.link.socket is not None and seat.link.shaken:
            seat.link.socket.send_multipart(wire.pack(wire.Cancel(seat.slot, call, gentle)))

    def _do_stop(self) -> None:
        self._stopping = True


def slowness(offered: wire.Capability | None, executors: int) -> float:
    """How slow each of so many executors of a worker is likely to be, before any call has shown it."""
    if offered is None:
        return 1.0
    relative = offered.speed / capability.speed()
    return Capability(offered.cores, offered.memory, relative).slowness(executors)


def jittered(time: float) -> float:
    """``time``, or up to half of it more or less.

    The clients that a worker has lost when it restarted do not all come back at the same moment.
    """
    return time * (0.5 + random.random())


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
