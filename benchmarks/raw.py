"""The yardstick: plain pyzmq between two processes, DEALER to ROUTER, with the same sockets as relocate's.

Same options, heartbeats and CURVE; the client polls its socket and its monitor, the server its
socket and its standard input, as each must in order to notice the other's end.  Nothing else is
done: no checks, no states, no statistics, no choice of a place to run.

Run as a program, this is the server.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zmq
from stage import Stage, child
from zmq.utils import z85

HEARTBEAT = 1000
HERE = Path(__file__)


def configure(socket: zmq.Socket[bytes]) -> None:
    """The options of relocate's sockets."""
    socket.linger = 0
    socket.sndhwm = 0
    socket.rcvhwm = 0
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT // 5)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 10_000)
    socket.setsockopt(zmq.IPV6, 1)


class Client:
    """The caller's side."""

    def __init__(self, url: str, server_key: bytes) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        configure(self._socket)
        if server_key:
            self._socket.curve_publickey, self._socket.curve_secretkey = zmq.curve_keypair()
            self._socket.curve_serverkey = server_key
        self._monitor: zmq.Socket[bytes] = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._socket.connect(url)
        self._poll = [(self._socket, zmq.POLLIN), (self._monitor, zmq.POLLIN)]

    def call(self, request: bytes) -> bytes:
        """Send bytes, wait for bytes."""
        self._socket.send(request)
        self._wait()
        return self._socket.recv()

    def echo(self, value: Any) -> Any:
        """Send a value, wait for it to come back; large buffers out of band and not copied."""
        self._socket.send_multipart(frames(value), copy=False)
        self._wait()
        return value_of(self._socket.recv_multipart(copy=False))

    def _wait(self) -> None:
        for socket, _ in zmq.zmq_poll(self._poll, -1):
            if socket is self._monitor:
                raise RuntimeError("the server is gone")

    def close(self) -> None:
        """End the connection."""
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(0)
        self._context.term()


def frames(value: Any) -> list[Any]:
    """``value`` as a pickle and its buffers."""
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(value, 5, buffer_callback=buffers.append)
    return [data, *(b.raw() for b in buffers)]


def value_of(received: list[Any]) -> Any:
    """And back."""
    return pickle.loads(received[0].buffer, buffers=[f.buffer for f in received[1:]])


@contextmanager
def connected(stage: Stage, transport: str, reply: int = 0) -> Iterator[Client]:
    """A client of a server that answers ``reply`` bytes, over ipc or over tcp with CURVE."""
    url = f"ipc://{stage.folder}/raw" if transport == "ipc" else "tcp://127.0.0.1:*"
    public, secret = zmq.curve_keypair() if transport == "tcp" else (b"", b"")
    command = [sys.executable, str(HERE), url, secret.decode(), str(reply)]
    with child(command, stage.environment()) as (_, endpoint):
        client = Client(endpoint, public)
        try:
            yield client
        finally:
            client.close()


def serve(url: str, secret: str, size: int) -> None:
    """Answer each single frame with ``size`` bytes, each value with itself, until standard input ends."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
    configure(socket)
    if secret:
        socket.curve_server = True
        socket.curve_secretkey = secret.encode()
        assert len(z85.decode(secret.encode())) == 32
    socket.bind(url)
    print(socket.last_endpoint.rstrip(b"\0").decode(), flush=True)
    answer = os.urandom(size)
    poll: list[tuple[Any, int]] = [(socket, zmq.POLLIN), (0, zmq.POLLIN)]
    while True:
        for ready, _ in zmq.zmq_poll(poll, -1):
            if ready is not socket:
                os._exit(0)
            identity = socket.recv()
            received = socket.recv_multipart(copy=False)
            socket.send(identity, zmq.SNDMORE)
            if len(received) == 1:
                socket.send(answer)
            else:
                socket.send_multipart(frames(value_of(received)), copy=False)


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], int(sys.argv[3]))
