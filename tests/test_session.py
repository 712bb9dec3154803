"""The protocol's tables: what each role may send and receive in each state."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from relocate import session, wire
from relocate.errors import LocalProtocolError, RemoteProtocolError
from relocate.session import ClientSession, ServerSession, State

ID = b"c" * 16
TICKET = b"t" * 32

MAKE: dict[type, Callable[[], wire.AnyMessage]] = {
    wire.Hello: lambda: wire.Hello(wire.PROTOCOL, "0", session.PYTHON, "me"),
    wire.Welcome: lambda: wire.Welcome("w", "0", session.PYTHON, TICKET, []),
    wire.Change: lambda: wire.Change([]),
    wire.Refused: lambda: wire.Refused("ticket", "no"),
    wire.Cancel: lambda: wire.Cancel(0, ID),
    wire.Open: lambda: wire.Open(wire.PROTOCOL, session.PYTHON, TICKET),
    wire.Describe: lambda: wire.Describe(ID, "m"),
    wire.Call: lambda: wire.Call(ID, "m", "f", b"d"),
    wire.Said: lambda: wire.Said(ID, 0, []),
    wire.Ask: lambda: wire.Ask(ID, 0, 0, 1),
    wire.Invoke: lambda: wire.Invoke(ID, 0, 0),
    wire.Answer: lambda: wire.Answer(ID, 0, 0),
    wire.Returned: lambda: wire.Returned(ID, 0, []),
    wire.Raised: lambda: wire.Raised(ID, 0, []),
    wire.Rejected: lambda: wire.Rejected(ID, "stale", "s"),
}
REPLIES = (wire.Returned, wire.Raised, wire.Rejected)

SENT_BY_CLIENT = {
    (State.FRESH, wire.Open): State.IDLE,
    (State.IDLE, wire.Call): State.BUSY,
    (State.IDLE, wire.Describe): State.BUSY,
    (State.BUSY, wire.Answer): State.BUSY,
}
RECEIVED_BY_CLIENT = {
    (State.BUSY, wire.Said): State.BUSY,
    (State.BUSY, wire.Ask): State.BUSY,
    (State.BUSY, wire.Invoke): State.BUSY,
    **{(State.BUSY, reply): State.IDLE for reply in REPLIES},
    (State.IDLE, wire.Refused): State.CLOSED,
    (State.BUSY, wire.Refused): State.CLOSED,
}
RECEIVED_BY_EXECUTOR = {
    (State.STRANGER, wire.Open): State.KNOWN,
    (State.KNOWN, wire.Call): State.KNOWN,
    (State.KNOWN, wire.Describe): State.KNOWN,
    (State.KNOWN, wire.Answer): State.KNOWN,
}


def pairs(*states: State) -> list[object]:
    return [pytest.param(state, kind, id=f"{state.name}-{kind.__name__}") for state in states for kind in MAKE]


def client(state: State) -> ClientSession:
    """A session in ``state`` that has had a call before."""
    made = ClientSession()
    if state is not State.FRESH:
        made.send(MAKE[wire.Open]())  # type: ignore[arg-type]
        made.send(MAKE[wire.Call]())  # type: ignore[arg-type]
    if state is State.IDLE:
        made.receive(wire.pack(MAKE[wire.Returned]()))
    if state is State.CLOSED:
        made.receive(wire.pack(MAKE[wire.Refused]()))
    assert made.state is state
    return made


def server(state: State) -> ServerSession:
    made = ServerSession(TICKET)
    if state is not State.STRANGER:
        made.receive(wire.pack(MAKE[wire.Open]()))
    if state is State.CLOSED:
        with pytest.raises(RemoteProtocolError):
            made.receive(wire.pack(MAKE[wire.Open]()))
    assert made.state is state
    return made


CLIENT_STATES = (State.FRESH, State.IDLE, State.BUSY, State.CLOSED)


@pytest.mark.parametrize(("state", "kind"), pairs(*CLIENT_STATES))
def test_what_a_client_may_send(state: State, kind: type) -> None:
    session_ = client(state)
    following = SENT_BY_CLIENT.get((state, kind))
    if following is None:
        with pytest.raises(LocalProtocolError, match=f"{kind.__name__} may not be sent .* {state.name}"):
            session_.send(MAKE[kind]())  # type: ignore[arg-type]
    else:
        session_.send(MAKE[kind]())  # type: ignore[arg-type]
    assert session_.state is (following or state)


@pytest.mark.parametrize(("state", "kind"), pairs(*CLIENT_STATES))
def test_what_a_client_may_receive(state: State, kind: type) -> None:
    session_ = client(state)
    following = RECEIVED_BY_CLIENT.get((state, kind))
    if following is None:
        with pytest.raises(RemoteProtocolError, match=f"{kind.__name__} came on a channel that is {state.name}"):
            session_.receive(wire.pack(MAKE[kind]()))
        assert session_.state is State.CLOSED
    else:
        assert session_.receive(wire.pack(MAKE[kind]())) == (MAKE[kind](), [])
        assert session_.state is following


@pytest.mark.parametrize(("state", "kind"), pairs(State.STRANGER, State.KNOWN, State.CLOSED))
def test_what_an_executor_may_receive(state: State, kind: type) -> None:
    session_ = server(state)
    following = RECEIVED_BY_EXECUTOR.get((state, kind))
    if following is None:
        with pytest.raises(RemoteProtocolError, match=f"{kind.__name__} came from a client that is {state.name}"):
            session_.receive(wire.pack(MAKE[kind]()))
        assert session_.state is State.CLOSED
    else:
        assert session_.receive(wire.pack(MAKE[kind]())) == (MAKE[kind](), [])
        assert session_.state is following


@pytest.mark.parametrize("kind", [*REPLIES, wire.Said, wire.Ask, wire.Invoke], ids=lambda k: k.__name__)
def test_an_answer_to_another_call_closes_the_channel(kind: type) -> None:
    session_ = client(State.BUSY)
    other = MAKE[kind]()
    other.call = b"x" * 16  # type: ignore[union-attr]
    with pytest.raises(RemoteProtocolError, match="an answer to another call"):
        session_.receive(wire.pack(other))
    assert session_.state is State.CLOSED


@pytest.mark.parametrize(
    ("opening", "code", "says"),
    [
        (wire.Open(wire.PROTOCOL, session.PYTHON, b"x" * 32), "ticket", "not one that this worker gave out"),
        (wire.Open(wire.PROTOCOL, session.PYTHON, b""), "ticket", "not one that this worker gave out"),
        (wire.Open(wire.PROTOCOL + 1, session.PYTHON, TICKET), "protocol", "speaks protocol"),
        (wire.Open(wire.PROTOCOL, (2, 7), TICKET), "python", "the client runs Python 2.7"),
    ],
    ids=["wrong ticket", "no ticket", "protocol", "python"],
)
def test_a_wrong_opening_is_refused_and_closes(opening: wire.Open, code: str, says: str) -> None:
    session_ = ServerSession(TICKET)
    refusal, segments = session_.receive(wire.pack(opening))
    assert isinstance(refusal, wire.Refused)
    assert (refusal.code, segments) == (code, [])
    assert says in refusal.text
    assert session_.state is State.CLOSED


def test_a_stranger_gets_no_segment_read() -> None:
    frames = wire.pack(MAKE[wire.Call](), [b"a pickle"])
    session_ = ServerSession(TICKET)
    with pytest.raises(RemoteProtocolError):
        session_.receive(frames)
    with pytest.raises(RemoteProtocolError):
        session_.receive(wire.pack(MAKE[wire.Open]()))  # too late: the connection is closed
