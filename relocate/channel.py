"""The client's sockets: a channel carries one call at a time from one thread to one executor.

The calling thread does its own I/O: each hop to another thread would cost as much as the rest of
our code.  When no answer comes soon the socket's monitor is polled together with the socket, so that
the death of the peer is an event and not a time-out; ZMTP heartbeats, answered by the peer's I/O
thread even while it computes, turn a frozen or cut-off peer into the same event.
"""

from __future__ import annotations

import math
import os
import stat
import time
from collections.abc import Callable
from typing import Protocol

import zmq

from . import policy, session, wire
from .errors import WorkerError
from .keys import Keys
from .looking import look
from .transport import READABLE, SMALL, SOON, configure, read_event, receive, rest, send, send_frame, use_client_keys

MONITORED = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_CONNECT_RETRIED
    | zmq.EVENT_DISCONNECTED
)
GLANCE = 200
"""Milliseconds of one poll.  A signal that comes just before a poll begins does not end it, and
Ctrl-C must not wait for the answer."""
NEVER = 1 << 30
"""Milliseconds: a channel whose peer is gone is thrown away, it does not reconnect."""


class Lost(WorkerError):
    """The outcome of what was under way on a channel is unknown.  Never leaves the driver."""


class TimeUp(Exception):
    """The answer did not come in time.  Never leaves the driver."""


class Channel(Protocol):
    """A way to run calls, leased to one thread at a time."""

    hedged_from: float
    """Seconds after which a call on it may be hedged, see `hedging`; sooner, a second attempt costs about as much."""
    path: list[str] | None
    """This program's import path as the executor was told of it; None if that has its own."""

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""

    def send(self, request: wire.Call | wire.Describe, frames: list[wire.Buffer]) -> None:
        """Send ``frames``, those of ``request``.

        Raises:
            Lost: the peer is gone.
        """

    def reply(self, answer: Answer, deadline: float = policy.NEVER) -> Exchanged:
        """Wait for the reply to what was sent; meanwhile ``answer`` what the executor asks and says.

        Args:
            answer: gives what is to be sent back meanwhile.
            deadline: by `time.monotonic`.

        Raises:
            Lost: the peer died or was cut off; the outcome is unknown.
            TimeUp: the deadline passed before; the reply can be waited for again.
        """

    def exchange(
        self, call: bytes, frames: list[wire.Buffer], until: float, brief: bool, meanwhile: Meanwhile | None = None
    ) -> tuple[list[wire.Buffer], int] | None:
        """Send a call, and wait for what should come soon: the segments of its result, and the bytes received.

        For an idle channel on which an answer has come before.

        Args:
            call: its number.
            frames: those of the call.
            until: when the result must have come; by `time.monotonic`.
            brief: whether it should come at once, see `look`.
            meanwhile: what else there is to do, once the call is sent.

        Returns:
            None if nothing has come, or anything else, or later: `reply` gives what has come, or waits for it.

        Raises:
            Lost: the peer died or was cut off; the outcome is unknown.
            RemoteProtocolError: what comes is no message.
        """

    def close(self) -> None:
        """Give up the connection; nothing that is still queued is sent."""


Meanwhile = Callable[[], object]
Answer = Callable[[session.Question, list[wire.Buffer]], list[wire.Buffer]]
"""Gives the frames that answer what the executor asks, or none."""
Exchanged = tuple[session.Reply, list[wire.Buffer], int]
"""The reply, its segments, and the bytes received."""


class Absent(Lost):
    """There is no socket file: not any more, or a worker may yet make one."""


def check_socket_file(url: str) -> None:
    """Refuse a Unix socket that another user could have put there.  For just before each connection.

    Raises:
        Absent: there is none.
        WorkerError: the file or its folder belongs to somebody else, or others may put files there.
    """
    if not hasattr(os, "getuid"):
        return
    path = url.removeprefix("ipc://")
    folder = os.path.dirname(path)
    try:
        owned = ((folder, os.lstat(folder)), (folder, os.stat(folder)), (path, os.lstat(path)))
    except (FileNotFoundError, NotADirectoryError):
        raise Absent(f"there is no {path}") from None
    for name, status in owned:
        if status.st_uid not in (os.getuid(), 0):
            raise WorkerError(f"{name} belongs to user {status.st_uid}, not to you; nothing is sent there")
    mode = owned[1][1].st_mode
    if mode & (stat.S_IWGRP | stat.S_IWOTH) and not mode & stat.S_ISVTX:
        raise WorkerError(f"others can put a socket of theirs into {folder}; run: chmod go-w {folder}")
    if not stat.S_ISSOCK(owned[2][1].st_mode):
        raise WorkerError(f"{path} is not a socket; nothing is sent there")


class ZmqChannel:
    """A channel over a DEALER socket."""

    hedged_from = 0.01

    path: list[str] | None = None
    """This program's import path as the executor was told of it; None if that has its own."""

    _monitor: zmq.Socket[bytes] | None = None
    _connect_by: float | None = None
    """When the connection must have been made; None: it has been."""
    _lost = ""
    """Why it has ended."""
    _read: bytes | None = None
    """The header of a message of which `exchange` has read no more."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        url: str,
        opening: wire.Open,
        heartbeat: float,
        keys: Keys | None,
        server: bytes,
    ) -> None:
        if url.startswith("ipc:"):
            check_socket_file(url)
        self._heartbeat = heartbeat
        self._session = session.ClientSession()
        self._connected = False
        self._socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
        try:
            self._connect(url, opening, keys, server)
        except BaseException:  # Ctrl-C, say: a socket that is left open keeps its context from ending
            self.close()
            raise

    def _connect(self, url: str, opening: wire.Open, keys: Keys | None, server: bytes) -> None:
        heartbeat = self._heartbeat
        configure(self._socket, heartbeat)
        self._socket.rcvtimeo = SOON
        self._socket.reconnect_ivl = NEVER
        self._socket.connect_timeout = max(1, int(heartbeat * 1000))
        if keys is not None:
            use_client_keys(self._socket, keys, server)
        self._monitor = self._socket.get_monitor_socket(MONITORED)
        self._socket.connect(url)
        self._session.send(opening)
        self._socket.send_multipart(wire.pack(opening))
        self._poll = [(self._socket, zmq.POLLIN), (self._monitor, zmq.POLLIN)]

    def send(self, request: wire.Call | wire.Describe, frames: list[wire.Buffer]) -> None:
        """See `Channel`."""
        self._session.send(request)
        send(self._socket, frames)
        if not self._connected:
            self._connect_by = time.monotonic() + self._heartbeat

    def reply(self, answer: Answer, deadline: float = policy.NEVER) -> Exchanged:
        """See `Channel`."""
        read, self._read = self._read, None
        while True:
            if read is None:
                self._await(deadline)
            message, segments, size = receive(self._socket, read)
            self._connected, read = True, None
            reply = self._session.came(message)
            if type(reply) not in session.QUESTIONS:
                return reply, segments, size
            frames = answer(reply, segments)  # type: ignore[arg-type] # a question, by its type
            if frames:
                send(self._socket, frames)

    def exchange(
        self, call: bytes, frames: list[wire.Buffer], until: float, brief: bool, meanwhile: Meanwhile | None = None
    ) -> tuple[list[wire.Buffer], int] | None:
        """See `Channel`."""
        self._session.begin(call)
        if len(frames) == 1:
            send_frame(self._socket, frame := frames[0], 0, len(frame) < SMALL)
        else:
            send(self._socket, frames)
        if meanwhile is not None:
            meanwhile()
        if brief:
            look(self._has_come)
        header: bytes | None
        try:
            header = self._socket.recv()
        except zmq.Again:
            header = None
        if header is None:  # not where that is handled: it would be the context of an interrupt
            try:
                self._await(until)
            except TimeUp:
                return None
            header = self._socket.recv()
        if time.monotonic() <= until:
            if (body := wire.body_of(header, call)) is not None:
                self._session.end()
                return [body], len(header)
            if (message := wire.result_of(header, call)) is not None:
                found = rest(self._socket, message, header)
                self._session.end()
                return found
        self._read = header
        return None

    def _has_come(self) -> int:
        return int(self._socket.get(zmq.EVENTS)) & READABLE

    def _await(self, deadline: float) -> None:
        """Wait for a message; raises `Lost` if the peer's end comes first, `TimeUp` if the deadline does."""
        while True:
            left = GLANCE
            if deadline < policy.NEVER:
                left = max(0, min(GLANCE, math.ceil((deadline - time.monotonic()) * 1000)))
            ready = [polled for polled, _ in zmq.zmq_poll(self._poll, left)]
            if not ready and self._connect_by is not None and time.monotonic() > self._connect_by:
                raise Lost(f"no connection within {self._heartbeat:g} s")
            if self._monitor in ready:
                self._lost = self._lost or self._watch()
            if self._connected:
                self._connect_by = None
            if self._socket in ready:
                return
            if self._lost:
                if self._socket.poll(0):
                    return  # the answer came just before the end
                raise Lost(self._lost)
            if not ready and left < GLANCE:
                raise TimeUp

    def _watch(self) -> str:
        """Take one event from the monitor; why the channel is lost, or ''."""
        assert self._monitor is not None
        event = read_event(self._monitor)
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._connected = True
            return ""
        if event == zmq.EVENT_CONNECT_RETRIED:
            return "connection refused"
        if event == zmq.EVENT_DISCONNECTED:
            return "connection lost"
        return "handshake failed"

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return bool(self._socket.closed)

    def close(self) -> None:
        """See `Channel`."""
        if self._monitor is not None:
            self._socket.disable_monitor()
            self._monitor.close(0)
        self._socket.close(0)
