"""The client's sockets: a channel carries one call at a time from one thread to one executor.

The calling thread does its own I/O: each hop to another thread would cost as much as the rest of
our code.  When no answer comes soon the socket's monitor is polled together with the socket, so that
the death of the peer is an event and not a time-out; ZMTP heartbeats, answered by the peer's I/O
thread even while it computes, turn a frozen or cut-off peer into the same event.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import stat
import sys
import time
from collections.abc import Callable
from types import BuiltinFunctionType
from typing import Any, Protocol

import zmq
import zmq.backend

from . import policy, session, wire
from .errors import ConfigError, RemoteProtocolError, WorkerError
from .keys import Keys

MONITORED = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_CONNECT_RETRIED
    | zmq.EVENT_DISCONNECTED
)
SOON = 5
"""Milliseconds to wait for a message alone.  To wait in recv costs half of what a poll costs, so that
calls that are not long begin with it; whatever else may happen is noticed so much later."""
LOOK = 0.00015
"""Seconds to look for a result that should come at once, before the thread sleeps.  To be woken takes a good part of a
small call, and who has slept finds cold caches."""
GLANCE = 200
"""Milliseconds of one poll.  A signal that comes just before a poll begins does not end it, and
Ctrl-C must not wait for the answer."""
HUGE = 32 << 20
"""Bytes from which on malloc never keeps what is freed (glibc's DEFAULT_MMAP_THRESHOLD_MAX)."""
MORE = int(zmq.SNDMORE)
SMALL = zmq.COPY_THRESHOLD
"""Bytes up to which a frame is copied."""
send_frame: Any = zmq.backend.Socket.send
"""What `zmq.Socket.send` ends in, which looks at arguments first that are never given here."""
READABLE = int(zmq.POLLIN)
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


def configure(socket: zmq.Socket[bytes], heartbeat: float) -> None:
    """Options that every relocate socket has."""
    socket.linger = 0
    socket.sndhwm = 0
    socket.rcvhwm = 0
    socket.setsockopt(zmq.HEARTBEAT_IVL, max(1, int(heartbeat * 200)))
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, max(1, int(heartbeat * 1000)))
    socket.setsockopt(zmq.HANDSHAKE_IVL, 10_000)
    socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_FRAME)
    socket.setsockopt(zmq.IPV6, 1)


def bind(socket: zmq.Socket[bytes], url: str) -> None:
    """Bind ``socket`` to ``url``; to a Unix socket only this user can then connect.

    Raises:
        zmq.ZMQError: it cannot be bound.
        ConfigError: what is at the path of a Unix socket is none.
    """
    if not url.startswith("ipc://"):
        socket.bind(url)
        return
    path = url.removeprefix("ipc://")
    # libzmq would remove whatever is there.
    if os.path.lexists(path) and not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise ConfigError(f"cannot listen on {url}: there is a {'folder' if os.path.isdir(path) else 'file'} already")
    if not os.path.isdir(os.path.dirname(path)):
        raise ConfigError(f"cannot listen on {url}: there is no folder {os.path.dirname(path)}")
    if sys.platform == "linux":
        socket.setsockopt(zmq.IPC_FILTER_UID, os.getuid())
    before = os.umask(0o177)
    try:
        socket.bind(url)
    finally:
        os.umask(before)


def unbind(url: str) -> None:
    """Remove the Unix socket that `bind` made at ``url``, if it is still there."""
    path = url.removeprefix("ipc://")
    with contextlib.suppress(OSError):
        if url.startswith("ipc://") and stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)


def bound_to(socket: zmq.Socket[bytes]) -> str:
    """The address that ``socket`` was bound to last, its port filled in."""
    endpoint = socket.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(endpoint, bytes)
    return endpoint.rstrip(b"\0").decode()


def send(socket: zmq.Socket[bytes], frames: list[wire.Buffer], to: bytes = b"") -> None:
    """Send a message of one frame or several.  Only small ones are copied: to lend them to libzmq costs more.

    Args:
        socket: where.
        frames: the message.
        to: the peer's identity, if the socket has several.
    """
    if to:
        send_frame(socket, to, MORE, True)
    last = frames[-1]
    if len(frames) > 1:
        for frame in frames[:-1]:
            send_frame(socket, frame, MORE, len(frame) < SMALL)
    send_frame(socket, last, 0, len(last) < SMALL)


def receive(socket: zmq.Socket[bytes], header: bytes | None = None) -> tuple[wire.AnyMessage, list[wire.Buffer], int]:
    """The next message, its segments, and the bytes of all; the chunks of a long segment are put together as read.

    For peers that are known: whether frames follow a small message is not looked at, as that takes as long as to read
    it; they would be read as the next message.

    Args:
        socket: where.
        header: its first frame, if that has been read.

    Raises:
        zmq.Again: there is none.
        RemoteProtocolError: it is no message, or what follows the header is not what it announces.
    """
    header = socket.recv() if header is None else header
    try:
        message = wire.decode(header)
        body = getattr(message, "body", None)
        if body and not message.sizes:  # type: ignore[union-attr]
            return message, [body], len(header)
        return message, *_rest(socket, message, header)
    except RemoteProtocolError:  # the next message begins after this one's last frame
        while socket.getsockopt(zmq.RCVMORE):
            socket.recv(copy=False)
        raise


def _rest(socket: zmq.Socket[bytes], message: wire.AnyMessage, header: bytes) -> tuple[list[wire.Buffer], int]:
    """The segments of a message of which ``header`` has been read, and the bytes of all."""
    frames: list[wire.Buffer] = [header]
    more = socket.getsockopt(zmq.RCVMORE)
    for size in wire.sizes_of(message):
        if size > wire.CHUNK:
            frames.append(_whole(socket, size))
            more = socket.getsockopt(zmq.RCVMORE)
        elif more and size:
            frame = socket.recv(copy=False)
            frames.append(frame.buffer)
            more = frame.more
    if more:
        raise RemoteProtocolError("more frames than announced")
    return wire.segments_of(message, frames), sum(map(len, frames))


def _whole(socket: zmq.Socket[bytes], size: int) -> wire.Whole:
    made = room(size)
    view = memoryview(made)
    for start in range(0, size, wire.CHUNK):
        part = view[start : start + wire.CHUNK]
        if not socket.getsockopt(zmq.RCVMORE) or socket.recv_into(part) != len(part):
            raise RemoteProtocolError("segments do not match their announced sizes")
    return made


def room(size: int) -> wire.Whole:
    """Memory for ``size`` bytes.

    Large pieces come fresh from the kernel whoever asks for them, and to get them in pages of 4 KiB
    takes six times as long as to fill them.  Others are NumPy's where it is loaded, as it is where arrays travel:
    a bytearray is filled with zeros first, which takes as long as to fill it with what is read.
    """
    empty = getattr(sys.modules.get("numpy"), "empty", None)
    if size < HUGE and type(empty) is BuiltinFunctionType:  # else it is a stub of ours, or not all there yet
        made: wire.Whole = empty(size, "B")
        return made
    if size < HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return bytearray(size)
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_HUGEPAGE)
    except OSError:  # the kernel has no large pages, or not so much memory: then this says so
        return bytearray(size)
    return memory


def keep_freed_memory() -> None:
    """Let malloc keep freed pieces of less than `HUGE` for the next message, not return them to the kernel.

    glibc does so from when a piece that large was freed for the first time, which is therefore done
    here, without touching it: nothing can be read.  Other systems' malloc does not mind.
    """
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.read(nothing, HUGE - (8 << 10))
    os.close(nothing)


_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_give_way: Callable[[], object] | None = getattr(os, "sched_yield", None) if _cores > 1 else None


def look(has_come: Callable[[], object]) -> None:
    """Look for something that should come at once, and give way to others in between."""
    if _give_way is not None:
        end = time.monotonic() + LOOK
        while not has_come():
            _give_way()  # which may take long, if others need the processor, or Python
            if time.monotonic() > end:
                return


def read_event(monitor: zmq.Socket[bytes]) -> int:
    """Take one event from a socket's monitor (zmq_socket_monitor(3): 16 bits, 32 bits of value, address).

    pyzmq's own reader of it comes with asyncio, which takes longer to import than all the rest.
    """
    return int.from_bytes(monitor.recv_multipart()[0][:2], sys.byteorder)


def use_client_keys(socket: zmq.Socket[bytes], keys: Keys, server: bytes) -> None:
    """Speak CURVE as a client, to a server that must hold ``server``."""
    socket.curve_publickey = keys.public
    socket.curve_secretkey = keys.secret
    socket.curve_serverkey = server


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
        if read is None and deadline < policy.NEVER and (deadline - time.monotonic()) * 1000 < SOON:
            self._await(deadline)
        while True:
            try:
                received = receive(self._socket, read)
            except zmq.Again:
                received = None
            if received is None:  # not where that is handled: it would be the context of an interrupt
                self._await(deadline)
                continue
            message, segments, size = received
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
                found = _rest(self._socket, message, header)
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
