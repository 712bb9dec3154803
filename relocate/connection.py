"""A connection to a supervisor or a registry, which stands for as long as it is wanted.

Whoever has one polls its two sockets, and sees to what they tell.  The keys that are allowed here are
tried one after another, three times around, until the other side proves to hold one.  Where one was proved to be
held it is tried for longer, as a tunnel or a relay takes connections, and ends them, for a worker that is just being
restarted.  libzmq connects again by itself, but not to a Unix socket: its file is checked before each
connection, as it may be another's by then.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from . import __version__, channel, embedded, keys, session, transport, wire
from .chance import draw
from .errors import WorkerError, WorkerUnreachable, WrongKey

FIRST_CONTACT = 2.0
"""Seconds in which one that was never reached counts as starting, not as down."""
LOOK_AGAIN = 0.1
"""Seconds between two looks whether somebody is there on a Unix socket."""
ROUNDS = 3
"""Times that each key is tried."""
ROUNDS_PROVED = 10
"""The same for the one that was proved to be held."""
ROUND = 0.4
"""Seconds between two rounds."""
TRY_AGAIN = 5.0
"""Seconds after which one that refused is asked again: a key may have been allowed since."""

Polled = list[tuple[Any, int]]


class Connection:
    """A DEALER that says hello to who listens at an address.

    Args:
        context: of its socket.
        what: who listens there: ``worker`` or ``registry``.
        client: who this is, as the other side is told.
        configure: prepares the socket.
        pauses: milliseconds between two tries to connect, at first and at most.
        checked: whether a Unix socket may be another's: it is not in a folder of this program's own.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        what: str,
        client: str,
        *,
        configure: Callable[[zmq.Socket[bytes]], None],
        pauses: tuple[int, int],
        checked: bool = True,
    ) -> None:
        self.url = ""
        self.keys: keys.Keys | None = None
        self.server = b""
        """The key that the other side is to prove to hold."""
        self.socket: zmq.Socket[bytes] | None = None
        self.monitor: zmq.Socket[bytes] | None = None
        self.shaken = False
        """Whether hello has been said."""
        self._context = context
        self._what, self._client = what, client
        self._configure, self._pauses, self._checked = configure, pauses, checked
        self._candidates: list[bytes] = []
        self._failed = 0
        """Handshakes in a row that failed."""
        self._proved = False
        """Whether the only candidate was proved to be held."""
        self._again_at = 0.0

    def due(self) -> bool:
        """Whether it is time to connect."""
        return self.socket is None and time.monotonic() >= self._again_at

    def connect(self, url: str, folder: str, hint: bytes = b"") -> None:
        """Begin to connect.

        Args:
            url: tcp://host:port or ipc:///path.
            folder: of the keys.
            hint: the key that the other side is said to hold; tried alone, if it is allowed here.

        Raises:
            RelocateError: it cannot be.
        """
        self.url = url
        try:
            self._connect(folder, hint)
        except channel.Absent:
            self.wait(LOOK_AGAIN)
        except (OSError, zmq.ZMQError) as error:
            raise WorkerError(f"{url}: {error}") from error

    def _connect(self, folder: str, hint: bytes) -> None:
        if self.url.startswith("tcp:") and self.keys is None:
            self.keys = keys.load(folder, create=embedded.is_loopback(self.url))
            self._candidates = [hint] if hint in self.keys.peers else self.keys.peers
        if self._in_file_system:
            channel.check_socket_file(self.url)
        socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        self._configure(socket)
        # libzmq adds up to the first interval by chance to each, which is little where they have grown.
        socket.reconnect_ivl, socket.reconnect_ivl_max = (int(jittered(pause)) for pause in self._pauses)
        if self._in_file_system:
            socket.reconnect_ivl = channel.NEVER  # not before the file has been checked again
        if self.keys is not None:
            self.server = self._candidates[0]
            transport.use_client_keys(socket, self.keys, self.server)
        self.monitor = socket.get_monitor_socket(channel.MONITORED)
        self.socket = socket
        socket.connect(self.url)

    @property
    def _in_file_system(self) -> bool:
        return self._checked and self.url.startswith("ipc:")

    def polled(self) -> Polled:
        """What to poll for it."""
        if self.socket is None or self.monitor is None:
            return []
        return [(self.socket, zmq.POLLIN), (self.monitor, zmq.POLLIN)]

    def event(self) -> WorkerUnreachable | None:
        """See to what the monitor tells; the error, if the connection was lost.

        Raises:
            WrongKey: one side does not trust the other.
        """
        assert self.monitor is not None
        event = transport.read_event(self.monitor)
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self.shaken = True
            self.send(wire.Hello(wire.PROTOCOL, __version__, session.PYTHON, self._client, self._what))
        elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            assert self.keys is not None
            raise WrongKey(
                f"the {self._what} at {self.url} does not allow this side's key; "
                f"run there: relocate keys allow {self.keys.public.hex()} {keys.whose()}"
            )
        elif event == zmq.EVENT_DISCONNECTED and (self.shaken or self.keys is None):
            self.shaken = False
            self._look_again()
            return WorkerUnreachable(f"the connection to the {self._what} at {self.url} was lost")
        elif event == zmq.EVENT_CONNECT_RETRIED:
            self._look_again()
        elif self.keys is not None:
            self._wrong_server(self.keys)
        return None

    def _look_again(self) -> None:
        if self._in_file_system:
            self.close()
            self.wait(LOOK_AGAIN)

    def _wrong_server(self, mine: keys.Keys) -> None:
        """The peer did not prove to hold the key that was tried: try the next one.

        One that is ended in the middle of the handshake looks the same, so that each is tried more than once.
        """
        self.close()
        self._candidates = [*self._candidates[1:], self._candidates[0]]
        self._failed += 1
        rounds, rest = divmod(self._failed, len(self._candidates))
        if not rest:
            self.wait(ROUND)
        if rounds >= (ROUNDS_PROVED if self._proved else ROUNDS):
            raise WrongKey(
                f"the {self._what} at {self.url} holds no key that is allowed here "
                f"({len(mine.peers)} in {mine.folder}), or is not a relocate {self._what}; "
                "run 'relocate keys show' there and 'relocate keys allow KEY' here"
            )

    def send(self, message: wire.Message) -> None:
        """Send ``message``."""
        assert self.socket is not None
        self.socket.send_multipart(wire.pack(message))

    def receive(self) -> wire.AnyMessage:
        """The message that has come.

        Raises:
            RemoteProtocolError: it is none.
        """
        assert self.socket is not None
        frames: list[wire.Buffer] = list(self.socket.recv_multipart())
        return wire.unpack(frames)[0]

    def welcomed(self) -> None:
        """The other side is the right one: its key is tried no more."""
        if self.keys is not None:
            self._candidates = [self.server]
        self._proved = True
        self._failed = 0

    def wait(self, seconds: float) -> None:
        """Connect again after so long, or half of it more or less."""
        self._again_at = time.monotonic() + jittered(seconds)

    def refuse(self) -> None:
        """Give up for a while, and begin anew then: keys may be others."""
        self.close()
        self.keys = None
        self._proved = False
        self._failed = 0
        self.wait(TRY_AGAIN)

    def close(self, linger: int = 0) -> None:
        """End the connection, after ``linger`` milliseconds for what is still to be sent."""
        if self.socket is not None and self.monitor is not None:
            self.socket.disable_monitor()
            self.monitor.close(0)
            self.socket.close(linger)
        self.socket = self.monitor = None
        self.shaken = False


def jittered(time: float) -> float:
    """``time``, or up to half of it more or less.

    The clients that a worker or a registry has lost when it restarted do not all come back at the same moment.
    """
    return time * (0.5 + draw())


def myself() -> str:
    """This program, for people."""
    return f"{keys.whose()} {Path(sys.argv[0] or '-').name} {os.getpid()}"
