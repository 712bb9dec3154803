"""What both ends of libzmq's sockets have in common: their options, messages on them, and memory for those."""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
import sys
from types import BuiltinFunctionType
from typing import Any

import zmq
import zmq.backend

from . import wire
from .errors import ConfigError, RemoteProtocolError
from .keys import Keys

SOON = 5
"""Milliseconds to wait for a message alone.  To wait in recv costs half of what a poll costs, so that
calls that are not long begin with it; whatever else may happen is noticed so much later."""
HUGE = 32 << 20
"""Bytes from which on malloc never keeps what is freed (glibc's DEFAULT_MMAP_THRESHOLD_MAX)."""
MORE = int(zmq.SNDMORE)
SMALL = zmq.COPY_THRESHOLD
"""Bytes up to which a frame is copied."""
send_frame: Any = zmq.backend.Socket.send
"""What `zmq.Socket.send` ends in, which looks at arguments first that are never given here."""
READABLE = int(zmq.POLLIN)


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
        return message, *rest(socket, message, header)
    except RemoteProtocolError:  # the next message begins after this one's last frame
        while socket.getsockopt(zmq.RCVMORE):
            socket.recv(copy=False)
        raise


def rest(socket: zmq.Socket[bytes], message: wire.AnyMessage, header: bytes) -> tuple[list[wire.Buffer], int]:
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
