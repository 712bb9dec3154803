"""The protocol's states, both roles, without I/O.

A *channel* connects one client thread to one executor and carries one call at a time.  What may
happen in which state is the tables below; a missing entry *is* the protocol error.

Client:    FRESH --open--> IDLE --call/describe--> BUSY --returned/raised/rejected--> IDLE
                                                   BUSY --said, ask, invoke, answer--> BUSY
           any   --refused--> CLOSED
Executor:  STRANGER --open--> KNOWN --call/describe/answer--> KNOWN
           STRANGER --open that is refused--> CLOSED

`open` is not answered unless it is refused, so that it travels together with the first call.
Before `open` has shown the ticket of an authenticated client, no byte is unpickled: headers are
MessagePack, and `ServerSession` gives out segments only of known peers.
"""

from __future__ import annotations

import hmac
import sys
from collections.abc import Sequence
from enum import IntEnum, auto

from . import wire
from .errors import LocalProtocolError, RemoteProtocolError

PYTHON = (sys.version_info[0], sys.version_info[1])
DRIFT = 1e-4
"""Seconds that one machine's clock gains on another one's in a second, at most; usual are a few millionths."""


class State(IntEnum):
    """Of either role.  Integers, because the hash of other members is computed in Python at each look-up."""

    FRESH = auto()
    IDLE = auto()
    BUSY = auto()
    STRANGER = auto()
    KNOWN = auto()
    CLOSED = auto()


_CLIENT_SENDS: dict[tuple[State, type], State] = {
    (State.FRESH, wire.Open): State.IDLE,
    (State.IDLE, wire.Call): State.BUSY,
    (State.IDLE, wire.Describe): State.BUSY,
    (State.BUSY, wire.Answer): State.BUSY,
}

_CLIENT_RECEIVES: dict[tuple[State, type], State] = {
    (State.BUSY, wire.Said): State.BUSY,
    (State.BUSY, wire.Ask): State.BUSY,
    (State.BUSY, wire.Invoke): State.BUSY,
    (State.BUSY, wire.Returned): State.IDLE,
    (State.BUSY, wire.Raised): State.IDLE,
    (State.BUSY, wire.Rejected): State.IDLE,
    (State.IDLE, wire.Refused): State.CLOSED,
    (State.BUSY, wire.Refused): State.CLOSED,
}

_SERVER_RECEIVES: dict[tuple[State, type], State] = {
    (State.STRANGER, wire.Open): State.KNOWN,
    (State.KNOWN, wire.Call): State.KNOWN,
    (State.KNOWN, wire.Describe): State.KNOWN,
    (State.KNOWN, wire.Answer): State.KNOWN,
}

Question = wire.Said | wire.Ask | wire.Invoke
"""What comes before the reply."""
QUESTIONS = frozenset((wire.Said, wire.Ask, wire.Invoke))
"""The same, to look up a type in; see `wire.SAYING`."""
Reply = wire.Returned | wire.Raised | wire.Rejected | wire.Refused | Question


class ClientSession:
    """The client's end of a channel."""

    def __init__(self) -> None:
        self.state = State.FRESH
        self._call = b""

    def send(self, message: wire.Open | wire.Call | wire.Describe | wire.Answer) -> None:
        """Note that ``message`` is being sent.

        Raises:
            LocalProtocolError: it may not be sent now.
        """
        following = _CLIENT_SENDS.get((self.state, type(message)))
        if following is None:
            raise LocalProtocolError(f"{type(message).__name__} may not be sent on a channel that is {self.state.name}")
        self.state = following
        if following is State.BUSY:
            self._call = message.call  # type: ignore[union-attr]

    def begin(self, call: bytes) -> None:
        """`send` of a `wire.Call` of that number.

        Raises:
            LocalProtocolError: it may not be sent now.
        """
        if self.state is not State.IDLE:
            raise LocalProtocolError(f"Call may not be sent on a channel that is {self.state.name}")
        self.state = State.BUSY
        self._call = call

    def end(self) -> None:
        """`came` of the `wire.Returned` that answers it."""
        self.state = State.IDLE

    def receive(self, frames: Sequence[wire.Buffer]) -> tuple[Reply, list[wire.Buffer]]:
        """The reply in ``frames``, and its segments.

        Raises:
            RemoteProtocolError: it is not an answer to the call that is under way.
        """
        message, segments = wire.unpack(frames)
        return self.came(message), segments

    def came(self, message: wire.AnyMessage) -> Reply:
        """Note that ``message`` has come, which is a reply.

        Raises:
            RemoteProtocolError: it is not an answer to the call that is under way.
        """
        following = _CLIENT_RECEIVES.get((self.state, type(message)))
        if following is None:
            state, self.state = self.state, State.CLOSED
            raise RemoteProtocolError(f"{type(message).__name__} came on a channel that is {state.name}")
        if following is not State.CLOSED and message.call != self._call:  # type: ignore[union-attr]
            self.state = State.CLOSED
            raise RemoteProtocolError("an answer to another call came")
        self.state = following
        return message  # type: ignore[return-value]


class ServerSession:
    """An executor's view of one client connection."""

    def __init__(self, ticket: bytes) -> None:
        self.state = State.STRANGER
        self._ticket = ticket
        self._ahead = float("inf")
        """How many seconds this side's clock is ahead of the client's, at most."""
        self._looked = 0.0

    def receive(self, frames: Sequence[wire.Buffer]) -> tuple[wire.AnyMessage, list[wire.Buffer]]:
        """The message in ``frames``, and its segments; or the `Refused` to send back.

        Raises:
            RemoteProtocolError: the message is not allowed now; the connection is closed.
        """
        message, segments = wire.unpack(frames)
        known = self.came(message)
        return known, segments if known is message else []

    def came(self, message: wire.AnyMessage) -> wire.AnyMessage:
        """Note that ``message`` has come: it, or the `Refused` to send back.

        Raises:
            RemoteProtocolError: it is not allowed now; the connection is closed.
        """
        following = _SERVER_RECEIVES.get((self.state, type(message)))
        if following is None:
            state, self.state = self.state, State.CLOSED
            raise RemoteProtocolError(f"{type(message).__name__} came from a client that is {state.name}")
        self.state = following
        if type(message) is wire.Open:
            refusal = self._check(message)
            if refusal is not None:
                self.state = State.CLOSED
                return refusal
        return message

    def here(self, due: tuple[float, float], now: float) -> tuple[float, float]:
        """The two moments of `wire.Call.due` by this side's clock, on which it is ``now``.

        How far apart the clocks are is seen from when messages were sent and read: the quickest of the
        connection tells best.  So a call that has waited here unread is known to have waited, if something
        was read sooner before.  Clocks of two machines do not run alike, so the difference may grow.
        """
        sent, until = due
        self._ahead = min(self._ahead + DRIFT * (now - self._looked), now - sent)
        self._looked = now
        return sent + self._ahead, until + self._ahead

    def _check(self, message: wire.Open) -> wire.Refused | None:
        if not hmac.compare_digest(message.ticket, self._ticket):
            return wire.Refused("ticket", "the ticket is not one that this worker gave out")
        return compatible(message.protocol, message.python, "the executor")


def compatible(protocol: int, python: tuple[int, int], here: str) -> wire.Refused | None:
    """Why a peer of these versions cannot work with this process; None if it can."""
    if protocol != wire.PROTOCOL:
        return wire.Refused("protocol", f"the client speaks protocol {protocol}, {here} speaks {wire.PROTOCOL}")
    if tuple(python) != PYTHON:
        theirs, ours = ".".join(map(str, python)), ".".join(map(str, PYTHON))
        return wire.Refused(
            "python", f"the client runs Python {theirs}, {here} runs Python {ours}; both need the same minor version"
        )
    return None
