"""The sockets of an executor: messages in, answers out.

Clients of other machines come by ZeroMQ, those of the same one straight (`direct`); both say the same.
The process's only thread that runs calls reads and writes here: while a call runs, libzmq's own
thread takes in further messages and answers heartbeats, and the kernel keeps what comes straight.
"""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import zmq

from . import direct, session, transport, wire
from .errors import ArgumentError, RemoteProtocolError

MAX_SESSIONS = 65_536
MAX_STRANGERS = 1024
UNREAD = 16
"""Messages of one connection that may wait here; a client has an opening, a call and an answer under way."""
READABLE = int(zmq.POLLIN)

Peer = bytes | direct.Stream
"""A connection: its identity with ZeroMQ, or itself."""


class Gone(ConnectionError):
    """Who is asked is not there any more."""


class Reception:
    """Where clients come.

    Args:
        url: to listen on, a free port if none is given.
        ticket: that clients have to show.
        heartbeat: seconds of silence after which a client of another machine counts as cut off.
        secret: the secret key of the executors; empty if the connections are not encrypted.
        trusting: whether the sockets lie in a folder of their only client's.
        opened: is told what a client says at first.

    Raises:
        zmq.ZMQError: it cannot listen.
        ConfigError: it cannot listen there.
    """

    def __init__(
        self,
        url: str,
        ticket: bytes,
        heartbeat: float,
        secret: bytes,
        *,
        trusting: bool,
        opened: Callable[[wire.Open], None],
    ) -> None:
        self._ticket = ticket
        self._trusting = trusting
        self._opened = opened
        self._sessions: dict[bytes, session.ServerSession] = {}
        self._strangers: dict[bytes, session.ServerSession] = {}
        """Connections that have not shown the ticket, or were refused: they push out no session."""
        self._streams: dict[int, tuple[direct.Stream, session.ServerSession]] = {}
        """By file descriptor."""
        self.calls: deque[tuple[Peer, wire.Call | wire.Describe, list[wire.Buffer]]] = deque()
        self.answers: deque[tuple[wire.Answer, list[wire.Buffer]]] = deque()
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        transport.configure(self._socket, heartbeat)
        self._socket.rcvtimeo = transport.SOON
        self._socket.rcvhwm = UNREAD
        self._socket.router_mandatory = True
        if secret:
            # The client's key was checked by the supervisor, which gave it the ticket; here the
            # handshake must need no thread of ours, as a call may hold the interpreter for minutes.
            self._socket.curve_server = True
            self._socket.curve_secretkey = secret
        transport.bind(self._socket, url)
        self._door: direct.Door | None = None
        if url.startswith("ipc://"):
            self.endpoint = url
            if direct.AVAILABLE:
                self._door = direct.Door(direct.file_of(url))
        else:
            self.endpoint = transport.bound_to(self._socket).rpartition(":")[2]
        self._ear = -1
        self._poll: list[tuple[Any, int]] = []

    def listen(self, ear: int) -> None:
        """Let `wait` end, too, when there is something to read from the file descriptor ``ear``."""
        self._ear = ear
        self._poll = [(self._socket, zmq.POLLIN), (ear, zmq.POLLIN)]
        if self._door is not None:
            self._poll.append((self._door.fileno(), zmq.POLLIN))
        self._poll += [(fd, zmq.POLLIN) for fd in self._streams]

    def wait(self) -> bool:
        """Take in messages, or else wait for one, or for the ear; whether that is it."""
        # Of libzmq's socket to read costs half of a poll; but who comes straight must not wait for that.
        if not self._streams and self._take():
            return False
        heard = False
        for ready, _ in zmq.zmq_poll(self._poll, -1):
            heard = heard or ready == self._ear
            self._come(ready)
        return heard

    def take(self) -> None:
        """Take in all messages that have come."""
        for ready, _ in zmq.zmq_poll(self._poll, 0):
            self._come(ready)

    def _come(self, ready: Any) -> None:
        if ready is self._socket:
            self._take()
        elif self._door is not None and ready == self._door.fileno():
            self._let_in(self._door)
        elif ready in self._streams:
            self._read(*self._streams[ready])

    def _take(self) -> bool:
        """Take in all of libzmq's messages that have come or come soon; whether there was one."""
        while True:
            try:
                identity = self._socket.recv()
                known = self._sessions.get(identity)
                if known is not None and known.state is session.State.KNOWN:
                    message, segments, _ = transport.receive(self._socket)
                    message = known.came(message)
                elif not self._socket.getsockopt(zmq.RCVMORE):
                    continue  # no identity, but what a client has sent beyond the end of a message
                else:  # of what a stranger sends only the header is kept
                    header = self._socket.recv_multipart()[0]
                    known = known or self._strangers.get(identity) or self._stranger(identity)
                    # An embedded worker's socket lies in its program's own folder; import paths may be long.
                    message, segments = known.receive([header] if self._trusting else wire.greeting(header))
            except zmq.Again:
                return bool(self.calls)
            except RemoteProtocolError as error:
                message, segments = wire.Refused("protocol", str(error)), []
            if type(message) is wire.Call and message.due is None:
                self.calls.append((identity, message, segments))
            else:
                if isinstance(message, wire.Open):
                    self._sessions[identity] = self._strangers.pop(identity)
                self._received(identity, message, segments, known)
            # Each client's channel carries one call at a time, so that of one alone nothing more can have come.
            if len(self._sessions) == 1 or not int(self._socket.get(zmq.EVENTS)) & READABLE:
                return True

    def _stranger(self, identity: bytes) -> session.ServerSession:
        for group, most in ((self._strangers, MAX_STRANGERS), (self._sessions, MAX_SESSIONS)):
            while len(group) >= most:
                del group[next(iter(group))]
        # A client may not choose its identity, or it could take over a known one.
        made = session.ServerSession(self._ticket if identity[:1] == b"\0" else os.urandom(32))
        self._strangers[identity] = made
        return made

    def _let_in(self, door: direct.Door) -> None:
        stream = door.let_in()
        if stream is not None:
            self._streams[stream.fileno()] = stream, session.ServerSession(self._ticket)
            self.listen(self._ear)

    def _read(self, stream: direct.Stream, known: session.ServerSession) -> None:
        """Take in the messages of a client that comes straight."""
        while True:
            try:
                message, segments = known.receive(stream.receive())
            except direct.Nothing:
                return
            except direct.Ended:
                self._forget(stream)
                return
            except RemoteProtocolError as error:
                message, segments = wire.Refused("protocol", str(error)), []
            self._received(stream, message, segments)  # its clock is ours
            if isinstance(message, wire.Refused):
                self._forget(stream)
                return
            if not stream.has_more:
                return

    def _forget(self, stream: direct.Stream) -> None:
        """A client that came straight is gone, and wants no answers any more."""
        if self._streams.pop(stream.fileno(), None) is not None:
            self.calls = deque(call for call in self.calls if call[0] is not stream)
            self.listen(self._ear)
        stream.close()

    def _received(
        self,
        peer: Peer,
        message: wire.AnyMessage,
        segments: list[wire.Buffer],
        known: session.ServerSession | None = None,
    ) -> None:
        if isinstance(message, wire.Call):
            if message.due is not None and known is not None:
                message.due = known.here(message.due, time.monotonic())
            self.calls.append((peer, message, segments))
        elif isinstance(message, wire.Describe):
            self.calls.append((peer, message, segments))
        elif isinstance(message, wire.Answer):
            self.answers.append((message, segments))
        elif isinstance(message, wire.Refused):
            self.send(peer, message)
        elif isinstance(message, wire.Open):
            if message.clock is not None and known is not None:
                known.here((message.clock, message.clock), time.monotonic())
            self._opened(message)

    def send(self, peer: Peer, message: wire.Message | bytes, segments: wire.Segments = ()) -> None:
        """Send a message, or its only frame, if the client is still there."""
        frames: list[wire.Buffer]
        if isinstance(message, bytes):
            frames = [message]
        else:
            try:
                frames = wire.pack(message, segments)
            except ArgumentError as error:  # more than one message may have
                assert isinstance(message, (wire.Returned, wire.Raised))
                frames = wire.pack(wire.Rejected(message.call, "result", str(error)))
        try:  # noqa: SIM105 -- contextlib.suppress takes as long as the rest
            self._write(peer, frames)
        except Gone:
            pass

    def _write(self, peer: Peer, frames: list[wire.Buffer]) -> None:
        if isinstance(peer, direct.Stream):
            try:
                peer.send(frames)
            except direct.Ended:
                self._forget(peer)
                raise Gone("the caller is gone") from None
            return
        try:
            transport.send(self._socket, frames, peer)
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
            raise Gone("the caller is gone") from None

    def ask(
        self,
        peer: Peer,
        question: wire.Ask | wire.Invoke,
        segments: wire.Segments,
        wait: Callable[[Callable[[], Any]], Any],
    ) -> tuple[wire.Answer, list[wire.Buffer]]:
        """The client's answer.

        Args:
            peer: who is asked.
            question: what.
            segments: its value.
            wait: calls a function that only waits, and may be interrupted there.

        Raises:
            Gone: the client is not there any more.
        """
        number = question.skip if isinstance(question, wire.Ask) else question.number
        about = (question.call, question.lent, number)
        self._write(peer, wire.pack(question, segments))
        # A client of libzmq's that is gone shows when it is written to; another one's stream ends.
        again = question if isinstance(question, wire.Ask) else wire.Invoke(*about[:2], number)
        polled: list[tuple[Any, int]] = [(self._socket if isinstance(peer, bytes) else peer.fileno(), zmq.POLLIN)]
        while True:
            until = time.monotonic() + 1
            while time.monotonic() < until:
                for ready, _ in wait(partial(zmq.zmq_poll, polled, 1000)):
                    self._come(ready)
                while self.answers:
                    answer, given = self.answers.popleft()
                    if (answer.call, answer.lent, answer.skip) == about:
                        return answer, given
                if isinstance(peer, direct.Stream) and peer.fileno() < 0:
                    raise Gone("the caller is gone")
            if isinstance(peer, bytes):
                self._write(peer, wire.pack(again))

    def close(self) -> None:
        """Let nobody in any more, send what is still to be sent."""
        self._socket.close(linger=2000)
        if self._door is not None:
            self._door.close()
        for stream, _ in self._streams.values():
            stream.close()
