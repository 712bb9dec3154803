"""A standing connection to a registry: of a client, of a worker that announces itself, of a registry below it.

Whoever has one polls its sockets in a loop of its own, hands it what is ready, and calls `tend` now
and then.  It says hello, tries the keys that are allowed one after another, and connects again for
as long as it lives.

There are no ZMTP heartbeats: among ten thousand connections they would cost more than all else.  What
is said to a registry is repeated three times in a lease, and answered; so its silence tells enough.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from . import __version__, channel, embedded, keys, session, wire
from .errors import IncompatibleWorker, RelocateError, WorkerError, WorkerUnreachable, WrongKey

SILENCE = 5.0
"""Seconds without an answer after which a registry counts as cut off, or a lease if that is longer."""
FIRST_CONTACT = 2.0
"""Seconds in which a registry that was never reached counts as starting, not as down."""
LOOK_AGAIN = 0.1
"""Seconds between two looks whether a registry on a Unix socket is there."""
TRY_AGAIN = 5.0
"""Seconds after which a registry that refused is asked again: a key may have been allowed since."""
RECONNECT = (100, 1000)
"""Milliseconds between two tries to connect, at first and at most."""

Polled = list[tuple[Any, int]]


def myself() -> str:
    """This program, for people."""
    return f"{keys.whose()} {Path(sys.argv[0] or '-').name} {os.getpid()}"


class Contact:
    """A standing connection to the registry at ``url``.

    ``state`` is ``starting``, ``up``, ``down`` (it may come back) or ``refused`` (it will not by itself);
    unless it is up, ``error`` says why.

    Args:
        context: of its socket.
        url: tcp://host:port or ipc:///path.
        folder: of the keys.
        client: who this is, as the registry is told.
        on_up: called when the registry has welcomed this side, at each connection.
        on_message: called with each message.
        on_down: called when it is not reached any more, or could not be.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        url: str,
        folder: str,
        client: str,
        *,
        on_up: Callable[[Contact], object],
        on_message: Callable[[Contact, wire.AnyMessage], object],
        on_down: Callable[[Contact], object],
    ) -> None:
        self.url = url
        self.state = "starting"
        self.error: RelocateError | None = None
        self.id = b""
        """Of the registry, in this life of it."""
        self.lease = SILENCE
        """Seconds in which what is said is repeated three times; for the owner to set."""
        self._context = context
        self._folder = folder
        self._client = client
        self._on_up, self._on_message, self._on_down = on_up, on_message, on_down
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._keys: keys.Keys | None = None
        self._server = b""
        self._candidates: list[bytes] = []
        self._shaken = False
        self._again_at = 0.0
        self._began = self._heard = time.monotonic()

    @property
    def _in_file_system(self) -> bool:
        return self.url.startswith("ipc:")

    def tend(self) -> None:
        """Connect if it is time to."""
        now = time.monotonic()
        if self._socket is None and now >= self._again_at:
            try:
                self._connect()
            except channel.Absent:
                self._again_at = now + LOOK_AGAIN
            except RelocateError as error:
                self._refuse(error)
            except (OSError, zmq.ZMQError) as error:
                self._refuse(WorkerError(f"{self.url}: {error}"))
        if self.state == "up" and now - self._heard > max(self.lease, SILENCE):
            self.close()
            self._down(WorkerUnreachable(f"the registry at {self.url} does not answer"))
        if self.state == "starting" and now - self._began > FIRST_CONTACT:
            self._down(WorkerUnreachable(nobody_at(self.url)))

    def patience(self) -> int:
        """Milliseconds until `tend` should be called again, at most."""
        return 50 if self.state == "starting" or self._socket is None else 250

    def polled(self) -> Polled:
        """What to poll for it."""
        if self._socket is None or self._monitor is None:
            return []
        return [(self._socket, zmq.POLLIN), (self._monitor, zmq.POLLIN)]

    def serve(self, ready: Any) -> bool:
        """See to one of its sockets that is ready; False: it is not one of them."""
        if ready is None or (ready is not self._socket and ready is not self._monitor):
            return False
        if ready is self._monitor:
            self._event()
        else:
            try:
                self._message()
            except RelocateError as error:
                self._refuse(error)
        return True

    def send(self, message: wire.Message) -> bool:
        """Send ``message``, if the registry is there."""
        if self._socket is None or self.state != "up":
            return False
        self._socket.send_multipart(wire.pack(message))
        return True

    def close(self, linger: int = 0) -> None:
        """End the connection, after ``linger`` milliseconds for what is still to be sent."""
        if self._socket is not None and self._monitor is not None:
            self._socket.disable_monitor()
            self._monitor.close(0)
            self._socket.close(linger)
        self._socket = self._monitor = None

    def _connect(self) -> None:
        if not self._in_file_system and self._keys is None:
            self._keys = keys.load(self._folder, create=embedded.is_loopback(self.url))
            self._candidates = self._keys.peers
        if self._in_file_system:
            channel.check_socket_file(self.url)
        socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        channel.configure(socket, SILENCE)
        calm(socket)
        # By chance, so that not all come back to a registry at the same moment.
        socket.reconnect_ivl, socket.reconnect_ivl_max = (int(t * (0.5 + random.random())) for t in RECONNECT)
        if self._in_file_system:
            socket.reconnect_ivl = channel.NEVER  # not before the file has been checked again
        if self._keys is not None:
            self._server = self._candidates[0]
            channel.use_client_keys(socket, self._keys, self._server)
        self._monitor = socket.get_monitor_socket(channel.MONITORED)
        self._socket = socket
        self._shaken = False
        socket.connect(self.url)

    def _event(self) -> None:
        assert self._socket is not None
        assert self._monitor is not None
        event = channel.read_event(self._monitor)
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._shaken = True
            hello = wire.Hello(wire.PROTOCOL, __version__, session.PYTHON, self._client, "registry")
            self._socket.send_multipart(wire.pack(hello))
        elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            assert self._keys is not None
            self._refuse(
                WrongKey(
                    f"the registry at {self.url} does not allow this side's key; "
                    f"run there: relocate keys allow {self._keys.public.hex()} {keys.whose()}"
                )
            )
        elif event == zmq.EVENT_DISCONNECTED and (self._shaken or self._keys is None):
            self._shaken = False
            self._down(WorkerUnreachable(f"the connection to the registry at {self.url} was lost"))
            self._look_again()
        elif event == zmq.EVENT_CONNECT_RETRIED:
            self._look_again()
        elif self._keys is not None:
            self._wrong_server()

    def _look_again(self) -> None:
        if self._in_file_system:
            self.close()
            self._again_at = time.monotonic() + LOOK_AGAIN

    def _wrong_server(self) -> None:
        """The peer did not prove to hold the key that was tried: try the next one."""
        assert self._keys is not None
        self.close()
        self._candidates = self._candidates[1:]
        if not self._candidates:
            count = len(self._keys.peers)
            self._refuse(
                WrongKey(
                    f"the registry at {self.url} holds no key that is allowed here ({count} in {self._keys.folder}), "
                    f"or is not a relocate registry; run 'relocate keys show' there and 'relocate keys allow KEY' here"
                )
            )

    def _message(self) -> None:
        assert self._socket is not None
        frames: list[wire.Buffer] = list(self._socket.recv_multipart())
        message, _ = wire.unpack(frames)
        self._heard = time.monotonic()
        if isinstance(message, wire.Welcome):
            self.id = message.ticket
            self.state, self.error = "up", None
            if self._keys is not None:
                self._candidates = [self._server]
            self._on_up(self)
        elif isinstance(message, wire.Refused):
            self._refuse(IncompatibleWorker(f"{self.url} refused this side: {message.text}"))
        else:
            self._on_message(self, message)

    def _refuse(self, error: RelocateError) -> None:
        self.close()
        self._again_at = time.monotonic() + TRY_AGAIN
        self._keys = None
        self._down(error, "refused")

    def _down(self, error: RelocateError, state: str = "down") -> None:
        self.state, self.error = state, error
        self._on_down(self)


def calm(socket: zmq.Socket[bytes]) -> None:
    """Let the kernel find out, in minutes, about connections that are dead and silent; see above.

    When a registry starts again, ten thousand connect at once.  So handshakes may take their time; and whoever
    finds no room among those that wait to be accepted tries again soon, while the kernel, which doubles its
    pauses, would take half a minute.
    """
    socket.setsockopt(zmq.HEARTBEAT_IVL, 0)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 30_000)
    socket.setsockopt(zmq.CONNECT_TIMEOUT, 2000)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 60)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 10)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, 6)


def nobody_at(url: str) -> str:
    """What is said of an address where nobody answers."""
    return f"nobody answers at {url}; is 'relocate registry --listen {url}' running there?"
