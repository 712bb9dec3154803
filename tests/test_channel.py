"""What a socket takes in: whole messages, put together as they come, and nothing of the next one."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import zmq

from relocate import channel, wire
from relocate.errors import RemoteProtocolError

Pair = tuple[zmq.Socket[bytes], zmq.Socket[bytes]]
ID = b"0123456789abcdef"


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two connected sockets, configured as all are."""
    with zmq.Context() as context, context.socket(zmq.PAIR) as left, context.socket(zmq.PAIR) as right:
        for socket in (left, right):
            channel.configure(socket, 1.0)
            socket.rcvtimeo = channel.SOON
        left.bind("inproc://pair")
        right.connect("inproc://pair")
        yield left, right


def call() -> wire.Call:
    return wire.Call(ID, "m", "f", b"d" * 32)


@pytest.mark.parametrize(
    "sizes", [[3], [0, 3, 0], [wire.CHUNK], [5, wire.CHUNK + 1, 0, 3 * wire.CHUNK], [channel.HUGE + 1]]
)
def test_segments_arrive_whole_and_writable(pair: Pair, sizes: list[int]) -> None:
    left, right = pair
    sent = [bytes([i + 1]) * size for i, size in enumerate(sizes)]
    left.send_multipart(wire.pack(call(), sent), copy=False)
    _, segments = wire.unpack(channel.receive(right))
    assert [bytes(segment) for segment in segments] == sent
    assert not any(memoryview(segment).readonly for segment in segments if len(segment) > wire.INLINE)


def announcing(sizes: list[int]) -> bytes:
    message = call()
    message.sizes = sizes
    return bytes(wire.pack(message)[0])


@pytest.mark.parametrize(
    "frames",
    [
        [b"noise", b"more"],
        [announcing([3]), b"abc", b"more"],
        [announcing([3, 4]), b"abc"],
        [announcing([wire.CHUNK + 1]), b"abc"],
        [announcing([wire.CHUNK + 1]), b"x" * wire.CHUNK],
        [announcing([wire.CHUNK + 1]), b"x" * (wire.CHUNK + 1)],
        [announcing([wire.CHUNK + 1]), b"x" * wire.CHUNK, b"xy", b"z"],
        [announcing([wire.MAX_MESSAGE, 1]), b"abc"],
    ],
    ids=range(8),
)
def test_a_malformed_message_ends_where_it_ends(pair: Pair, frames: list[bytes]) -> None:
    left, right = pair
    left.send_multipart(frames)
    left.send_multipart(wire.pack(call()))
    with pytest.raises(RemoteProtocolError):
        wire.unpack(channel.receive(right))
    assert wire.unpack(channel.receive(right)) == (call(), [])


def test_where_nothing_comes_the_wait_has_an_end(pair: Pair) -> None:
    with pytest.raises(zmq.Again):
        channel.receive(pair[1])


def test_a_channel_whose_making_is_interrupted_leaves_no_socket_open(monkeypatch: pytest.MonkeyPatch) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(wire, "pack", interrupted)
    opening = wire.Open(wire.PROTOCOL, "3.11", b"", None)
    with pytest.raises(KeyboardInterrupt):
        channel.ZmqChannel(context, "ipc:///nowhere", opening, 1.0, None, b"")
    ended = threading.Thread(target=context.term, daemon=True)
    ended.start()
    ended.join(10)
    assert not ended.is_alive()
