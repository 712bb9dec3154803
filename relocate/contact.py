"""A standing connection to a registry: of a client, of a worker that announces itself, of a registry below it.

Whoever has one polls its sockets in a loop of its own, hands it what is ready, and calls `tend` now
and then.

There are no ZMTP heartbeats: among ten thousand connections they would cost more than all else.  What
is said to a registry is repeated three times in a lease, and answered; so its silence tells enough.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import zmq

from . import transport, wire
from .connection import FIRST_CONTACT, Connection, Polled
from .errors import IncompatibleWorker, RelocateError, WorkerUnreachable

SILENCE = 5.0
"""Seconds without an answer after which a registry counts as cut off, or a lease if that is longer."""
RECONNECT = (100, 1000)
"""Milliseconds between two tries to connect, at first and at most."""


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
        self._folder = folder
        self._on_up, self._on_message, self._on_down = on_up, on_message, on_down
        self._connection = Connection(context, "registry", client, configure=configure, pauses=RECONNECT)
        self._began = self._heard = time.monotonic()

    def tend(self) -> None:
        """Connect if it is time to."""
        now = time.monotonic()
        if self._connection.due():
            try:
                self._connection.connect(self.url, self._folder)
            except RelocateError as error:
                self._refuse(error)
        if self.state == "up" and now - self._heard > max(self.lease, SILENCE):
            self.close()
            self._down(WorkerUnreachable(f"the registry at {self.url} does not answer"))
        if self.state == "starting" and now - self._began > FIRST_CONTACT:
            self._down(WorkerUnreachable(nobody_at(self.url)))

    def patience(self) -> int:
        """Milliseconds until `tend` should be called again, at most."""
        return 50 if self.state == "starting" or self._connection.socket is None else 250

    def polled(self) -> Polled:
        """What to poll for it."""
        return self._connection.polled()

    def serve(self, ready: Any) -> bool:
        """See to one of its sockets that is ready; False: it is not one of them."""
        connection = self._connection
        if ready is None or (ready is not connection.socket and ready is not connection.monitor):
            return False
        try:
            if ready is connection.socket:
                self._message()
            elif (lost := connection.event()) is not None:
                self._down(lost)
        except RelocateError as error:
            self._refuse(error)
        return True

    def send(self, message: wire.Message) -> bool:
        """Send ``message``, if the registry is there."""
        if self._connection.socket is None or self.state != "up":
            return False
        self._connection.send(message)
        return True

    def close(self, linger: int = 0) -> None:
        """End the connection, after ``linger`` milliseconds for what is still to be sent."""
        self._connection.close(linger)

    def _message(self) -> None:
        message = self._connection.receive()
        self._heard = time.monotonic()
        if isinstance(message, wire.Welcome):
            self.id = message.ticket
            self.state, self.error = "up", None
            self._connection.welcomed()
            self._on_up(self)
        elif isinstance(message, wire.Refused):
            self._refuse(IncompatibleWorker(f"{self.url} refused this side: {message.text}"))
        else:
            self._on_message(self, message)

    def _refuse(self, error: RelocateError) -> None:
        self._connection.refuse()
        self._down(error, "refused")

    def _down(self, error: RelocateError, state: str = "down") -> None:
        self.state, self.error = state, error
        self._on_down(self)


def configure(socket: zmq.Socket[bytes]) -> None:
    """Prepare a socket for a registry."""
    transport.configure(socket, SILENCE)
    calm(socket)


def calm(socket: zmq.Socket[bytes]) -> None:
    """Let the kernel find out, in minutes, about connections that are dead and silent; see above.

    When a registry starts again, ten thousand connect at once, and all handshakes go on side by side.  So they may
    take their time, as to give them up would be to begin them all anew; and whoever
    finds no room among those that wait to be accepted tries again soon, while the kernel, which doubles its
    pauses, would take half a minute.
    """
    socket.setsockopt(zmq.HEARTBEAT_IVL, 0)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 120_000)
    socket.setsockopt(zmq.CONNECT_TIMEOUT, 2000)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 60)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 10)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, 6)


def nobody_at(url: str) -> str:
    """What is said of an address where nobody answers."""
    return f"nobody answers at {url}; is 'relocate registry --listen {url}' running there?"
