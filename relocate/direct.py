"""A channel between processes of one machine: a stream over a Unix socket, without libzmq.

libzmq hands each message to a thread of its own, on both sides; to wake those takes longer than all
the rest of a small call.  Here the calling thread writes to the executor, and the executor to it.

Messages are those of `wire`.  Each begins with the length of its header and whether segments follow;
header and segments follow whole, as the stream itself does not come in frames.  The end of the peer is
the end of the stream, and a peer that is stopped shows in the state of its process.  Each side asks the
kernel whether the other one belongs to the same user.
"""

from __future__ import annotations

import os
import select
import socket as sockets
import struct
import time
from contextlib import suppress
from pathlib import Path

from . import channel, looking, policy, session, transport, wire
from .channel import Absent, Lost, TimeUp
from .errors import WorkerError

AVAILABLE = hasattr(sockets, "AF_UNIX") and hasattr(sockets, "SO_PEERCRED")
"""Who is at the other end, and how it is, is asked as Linux has it."""
SUFFIX = ".d"
"""Of the socket file, after the path of the executor's other socket."""
PREFIX = struct.Struct("<II")
ROOM = 1 << 16
SENT_AHEAD = 1 << 20
"""Bytes."""
PARTS = 512
"""Buffers that are written at once; the kernel takes 1024."""
GLANCE = 0.008
"""Seconds of one wait of the kernel's.  A handler that a program has for a signal which comes more often makes it begin
again and again, so that only what should come soon is waited for like that; all else costs a poll."""
LOOK = 0.2
"""Seconds of one poll: after them to look whether the peer is stopped; and a signal that comes just before it begins
does not end it."""
STALLED = 5.0
"""Seconds in which a message that has begun must go on."""
STOPPED = 1.0
"""The same if the peer's process is stopped: who waits could do something else meanwhile."""


class Nothing(Exception):
    """No message has begun to come."""


class Ended(Exception):
    """The peer is gone, or goes on with no message that it has begun."""


def _is_ours(error: OSError) -> bool:
    """Whether it is what the system says of a stream here, not what a handler of the program's raises on a signal."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code.co_filename == __file__


class Stream:
    """One end of a stream of messages."""

    def __init__(self, socket: sockets.socket) -> None:
        self._socket = socket
        # The kernel waits, not Python, which would poll before each read.
        wait = struct.pack("ll", 0, int(GLANCE * 1e6))
        socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVTIMEO, wait)
        socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDTIMEO, wait)
        # What fits is written without waiting for the reader; the kernel takes what it allows of it.
        socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, SENT_AHEAD)
        self._poll = select.poll()
        self._poll.register(socket, select.POLLIN)
        self._view = memoryview(bytearray(ROOM))
        """What has been read; the part of it between these two is not yet used."""
        self._start = self._end = 0
        self.peer, self.uid, _ = struct.unpack(
            "3i", socket.getsockopt(sockets.SOL_SOCKET, sockets.SO_PEERCRED, struct.calcsize("3i"))
        )
        """The peer's process and user."""

    def fileno(self) -> int:
        """Of the socket."""
        return self._socket.fileno()

    @property
    def has_more(self) -> bool:
        """Whether some of a further message has been read already."""
        return self._start < self._end

    def has_come(self, seconds: float = 0.0) -> bool:
        """Whether there is something to read, or will be within that time."""
        return self._start < self._end or bool(self._poll.poll(seconds * 1000))

    def send(self, frames: list[wire.Buffer], *, patient: bool = False) -> None:
        """Write a message.

        Args:
            frames: as `wire.pack` gives them.
            patient: whether to wait for as long as the peer lives, which may have other things to do.

        Raises:
            Ended: the peer is gone.
        """
        header = frames[0]
        head = PREFIX.pack(len(header), len(frames) > 1) + header
        try:
            if len(frames) > 1:
                self._write([memoryview(part) for part in (head, *frames[1:])], patient=patient)
                return
            try:
                sent = self._socket.send(head)
            except BlockingIOError:
                sent = 0
            if sent < len(head):
                self._write([memoryview(head)[sent:]], patient=patient)
        except OSError as error:  # a broken pipe, most likely
            if not _is_ours(error):
                raise
            raise Ended from None

    def _write(self, parts: list[memoryview], *, patient: bool) -> None:
        at, since = 0, 0.0
        while at < len(parts):
            try:
                sent = self._socket.sendmsg(parts[at : at + PARTS])
            except BlockingIOError:
                since = since or time.monotonic()
                if self._is_over(since, patient=patient):
                    raise Ended from None
                continue
            since = 0.0
            while at < len(parts) and sent >= len(parts[at]):
                sent -= len(parts[at])
                at += 1
            if sent:
                parts[at] = parts[at][sent:]

    def receive(self) -> list[wire.Buffer]:
        """The frames of the next message, segments whole.

        Raises:
            Nothing: none has begun to come in `GLANCE`.
            Ended: the peer is gone.
            RemoteProtocolError: what comes is no message.
        """
        if self._end - self._start < PREFIX.size:
            self._fill(PREFIX.size, begun=self._start < self._end)
        size, more = PREFIX.unpack_from(self._view, self._start)
        if size > wire.MAX_FRAME:
            raise Ended
        if self._end - self._start < PREFIX.size + size:
            self._fill(PREFIX.size + size, begun=True)
        start = self._start + PREFIX.size
        self._start = start + size
        header = bytes(self._view[start : self._start])
        if not more:
            return [header]
        return [header, *(self._whole(size) for size in wire.sizes_in(header) if size)]

    def _whole(self, size: int) -> wire.Whole:
        room = transport.room(size)
        view = memoryview(room)
        at = min(size, self._end - self._start)
        view[:at] = self._view[self._start : self._start + at]
        self._start += at
        while at < size:
            at += self._read(view[at:], begun=True)
        return room

    def _fill(self, size: int, *, begun: bool) -> None:
        """Let so many bytes be in the buffer."""
        kept = bytes(self._view[self._start : self._end])
        if size > len(self._view):
            self._view = memoryview(bytearray(size))
        self._view[: len(kept)] = kept
        self._start, self._end = 0, len(kept)
        while self._end < size:
            self._end += self._read(self._view[self._end :], begun=begun or self._end > 0)

    def _read(self, view: memoryview, *, begun: bool) -> int:
        since = 0.0
        while True:
            try:
                count = self._socket.recv_into(view)
            except BlockingIOError as error:
                if not _is_ours(error):
                    raise
                if not begun:
                    raise Nothing from None
                since = since or time.monotonic()
                if self._is_over(since):
                    raise Ended from None
            except OSError as error:
                if not _is_ours(error):
                    raise
                raise Ended from None
            else:
                if not count:
                    raise Ended
                return count

    def _is_over(self, since: float, *, patient: bool = False) -> bool:
        """Whether a message that has not gone on since then will not, most likely."""
        waited = time.monotonic() - since
        return (waited > STALLED and not patient) or (waited > STOPPED and self.is_stopped())

    def is_stopped(self) -> bool:
        """Whether the peer's process is stopped, as by SIGSTOP or a debugger."""
        try:
            status = Path(f"/proc/{self.peer}/stat").read_bytes()
        except (FileNotFoundError, ProcessLookupError):  # not any OSError: a signal's handler may raise one
            return False
        return status.rpartition(b")")[2].split()[0] in (b"T", b"t")

    def close(self) -> None:
        """Give up the connection."""
        self._socket.close()


class Door:
    """Where an executor lets clients of its machine in.

    Args:
        path: of the socket file; only its user can connect.
    """

    def __init__(self, path: str) -> None:
        self._socket = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
        self._socket.setblocking(False)
        # What a killed executor has left would be in the way; libzmq removes its own just so.
        transport.unbind(f"ipc://{path}")
        before = os.umask(0o177)
        try:
            self._socket.bind(path)
        finally:
            os.umask(before)
        self._socket.listen(128)

    def fileno(self) -> int:
        """Of the socket."""
        return self._socket.fileno()

    def let_in(self) -> Stream | None:
        """A new connection, if one has come, and of the same user."""
        try:
            socket, _ = self._socket.accept()
        except OSError:
            return None
        socket.setblocking(True)
        stream = Stream(socket)
        if stream.uid in (os.getuid(), 0):
            return stream
        stream.close()
        return None

    def close(self) -> None:
        """Let nobody in any more."""
        self._socket.close()


def file_of(url: str) -> str:
    """The path of the socket file of the executor at ``url``."""
    return url.removeprefix("ipc://") + SUFFIX


class DirectChannel:
    """A channel to an executor on this machine; see `channel.Channel`.

    Args:
        url: of the executor, ``ipc://path``.
        opening: says who is there.
        heartbeat: seconds that the executor may be stopped before it counts as lost.

    Raises:
        Absent: the executor has no such socket.
        WorkerError: it is somebody else's.
    """

    hedged_from = 0.01
    path: list[str] | None = None
    _read: list[wire.Buffer] | None = None
    """The frames of a message that `exchange` has read, and which is not what it waited for."""

    def __init__(self, url: str, opening: wire.Open, heartbeat: float) -> None:
        channel.check_socket_file(url + SUFFIX)
        socket = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
        try:
            try:
                socket.connect(file_of(url))
            except OSError as error:
                raise Absent(f"nobody listens at {file_of(url)}: {error}") from None
            self._stream = Stream(socket)
            if self._stream.uid not in (os.getuid(), 0):
                raise WorkerError(f"{url} belongs to user {self._stream.uid}, not to you; nothing is sent there")
            self._session = session.ClientSession()
            self._session.send(opening)
            self._opening = wire.pack(opening)
        except BaseException:
            socket.close()
            raise
        self._heartbeat = heartbeat
        self.closed = False

    def send(self, request: wire.Call | wire.Describe, frames: list[wire.Buffer]) -> None:
        """See `channel.Channel`."""
        self._session.send(request)
        try:
            if self._opening:
                self._stream.send(self._opening)
                self._opening = []
            self._stream.send(frames, patient=True)
        except Ended:
            raise Lost("connection lost") from None

    def reply(self, answer: channel.Answer, deadline: float = policy.NEVER) -> channel.Exchanged:
        """See `channel.Channel`."""
        try:
            while True:
                read, self._read = self._read, None
                got = read or self._await(deadline)
                reply, segments = self._session.receive(got)
                if type(reply) not in session.QUESTIONS:
                    return reply, segments, sum(map(len, got))
                if answers := answer(reply, segments):  # type: ignore[arg-type] # a question, by its type
                    self._stream.send(answers, patient=True)
        except Ended:
            raise Lost("connection lost") from None

    def exchange(
        self,
        call: bytes,
        frames: list[wire.Buffer],
        until: float,
        brief: bool,
        meanwhile: channel.Meanwhile | None = None,
    ) -> tuple[list[wire.Buffer], int] | None:
        """See `channel.Channel`."""
        self._session.begin(call)
        try:
            self._stream.send(frames, patient=True)
            if meanwhile is not None:
                meanwhile()
            if brief:
                looking.look(self._stream.has_come)
            read: list[wire.Buffer] = []
            if until - time.monotonic() < 2 * GLANCE:
                try:  # noqa: SIM105 -- contextlib.suppress takes as long as the rest
                    read = self._stream.receive()
                except Nothing:
                    pass
            if not read:  # not where that is handled: it would be the context of an interrupt
                read = self._await(until)
        except TimeUp:
            return None
        except Ended:
            raise Lost("connection lost") from None
        header = read[0]
        assert type(header) is bytes
        if time.monotonic() <= until:
            if (body := wire.body_of(header, call)) is not None:
                self._session.end()
                return [body], len(header)
            if (message := wire.result_of(header, call)) is not None:
                self._session.end()
                return wire.segments_of(message, read), sum(map(len, read))
        self._read = read
        return None

    def _await(self, deadline: float) -> list[wire.Buffer]:
        stopped = 0.0
        while True:
            if self._stream.has_come(min(max(deadline - time.monotonic(), 0.0), LOOK)):
                with suppress(Nothing):
                    return self._stream.receive()
            now = time.monotonic()
            if now >= deadline:
                raise TimeUp
            if not self._stream.is_stopped():
                stopped = 0.0
            elif now - (stopped := stopped or now) > self._heartbeat:
                raise Lost("the executor is stopped")

    def close(self) -> None:
        """See `channel.Channel`."""
        self.closed = True
        self._stream.close()
