"""What a socket takes in: whole messages, put together as they come, and nothing of the next one."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import zmq

from relocate import channel, links, transport, wire
from relocate.errors import RemoteProtocolError, WorkerError

Pair = tuple[zmq.Socket[bytes], zmq.Socket[bytes]]
ID = b"0123456789abcdef"


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two connected sockets, configured as all are."""
    with zmq.Context() as context, context.socket(zmq.PAIR) as left, context.socket(zmq.PAIR) as right:
        for socket in (left, right):
            transport.configure(socket, 1.0)
            socket.rcvtimeo = transport.SOON
        left.bind("inproc://pair")
        right.connect("inproc://pair")
        yield left, right


def call() -> wire.Call:
    return wire.Call(ID, "m", "f", b"d" * 32)


@pytest.mark.parametrize(
    "sizes", [[3], [0, 3, 0], [wire.CHUNK], [5, wire.CHUNK + 1, 0, 3 * wire.CHUNK], [transport.HUGE + 1]]
)
def test_segments_arrive_whole_and_writable(pair: Pair, sizes: list[int]) -> None:
    left, right = pair
    sent = [bytes([i + 1]) * size for i, size in enumerate(sizes)]
    left.send_multipart(wire.pack(call(), sent), copy=False)
    _, segments, size = transport.receive(right)
    assert size > sum(sizes)
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
        [b"\x91" * 100_000, b"more"],
    ],
    ids=range(9),
)
def test_a_malformed_message_ends_where_it_ends(pair: Pair, frames: list[bytes]) -> None:
    left, right = pair
    left.send_multipart(frames)
    left.send_multipart(wire.pack(call()))
    with pytest.raises(RemoteProtocolError):
        transport.receive(right)
    assert transport.receive(right)[:2] == (call(), [])


def test_there_is_room_without_numpy_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if a stub is in its place, or a part of it."""
    for instead in (None, SimpleNamespace(empty=lambda *_: 1 / 0), SimpleNamespace()):
        monkeypatch.setitem(sys.modules, "numpy", instead)
        assert transport.room(5) == bytearray(5)


def test_where_nothing_comes_the_wait_has_an_end(pair: Pair) -> None:
    with pytest.raises(zmq.Again):
        transport.receive(pair[1])


@pytest.fixture
def listening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The path of a Unix socket in a folder of its own."""
    path = tmp_path_factory.mktemp("s") / "w"
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))
        yield path


def test_an_own_socket_is_trusted(listening: Path) -> None:
    channel.check_socket_file(f"ipc://{listening}")
    listening.parent.chmod(0o1777)
    channel.check_socket_file(f"ipc://{listening}")


def test_a_missing_socket_is_not_connected_to(listening: Path) -> None:
    for path in (f"{listening}x", f"{listening}/x", f"{listening.parent}x/w"):
        with pytest.raises(channel.Absent):
            channel.check_socket_file(f"ipc://{path}")


def test_an_executor_whose_socket_is_gone_is_lost(listening: Path) -> None:
    opening = wire.Open(wire.PROTOCOL, (3, 11), b"")
    with zmq.Context() as context, pytest.raises(channel.Lost):
        channel.ZmqChannel(context, f"ipc://{listening}.0.0", opening, 1.0, None, b"")


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_folder_that_others_can_write_into_is_not_trusted(listening: Path, mode: int) -> None:
    listening.parent.chmod(mode)
    with pytest.raises(WorkerError, match=f"chmod go-w {listening.parent}"):
        channel.check_socket_file(f"ipc://{listening}")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file to another user")
def test_nothing_of_another_users_is_trusted(listening: Path) -> None:
    for path in (listening, listening.parent):
        os.chown(path, 12345, 12345)
        with pytest.raises(WorkerError, match=f"{path} belongs to user 12345"):
            channel.check_socket_file(f"ipc://{listening}")
        os.chown(path, 0, 0)
    link = listening.parent.with_name("link")
    link.symlink_to(listening.parent)
    channel.check_socket_file(f"ipc://{link}/w")
    os.chown(link, 12345, 12345, follow_symlinks=False)
    with pytest.raises(WorkerError, match="link belongs to user 12345"):
        channel.check_socket_file(f"ipc://{link}/w")


def test_what_leads_to_a_socket_is_none(listening: Path) -> None:
    (listening.parent / "link").symlink_to(listening)
    with pytest.raises(WorkerError, match="link is not a socket"):
        channel.check_socket_file(f"ipc://{listening.parent}/link")


@pytest.mark.parametrize(
    ("worker", "said", "expected"),
    [
        ("tcp://[::1]:7000", "7003", "tcp://[::1]:7003"),
        ("ipc:///run/w", "ipc:///run/w.2.5", "ipc:///run/w.2.5"),
        ("ipc:///run/w", "ipc://@evil", "ipc:///run/w.2.5"),
        ("ipc:///run/w", "tcp://evil:7000", "ipc:///run/w.2.5"),
    ],
)
def test_an_executor_is_where_its_worker_is(worker: str, said: str, expected: str) -> None:
    assert links.endpoint(worker, wire.Executor(2, 5, said)) == expected


@pytest.mark.parametrize("said", ["ipc:///run/w", "tcp://evil:7000", "@evil:1", "", "7000x", "700000"])
def test_over_tcp_only_a_port_is_believed(said: str) -> None:
    with pytest.raises(RemoteProtocolError):
        links.endpoint("tcp://host:7000", wire.Executor(0, 0, said))


def test_a_channel_whose_making_is_interrupted_leaves_no_socket_open(monkeypatch: pytest.MonkeyPatch) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(wire, "pack", interrupted)
    opening = wire.Open(wire.PROTOCOL, "3.11", b"", None)
    with pytest.raises(KeyboardInterrupt):
        channel.ZmqChannel(context, "tcp://127.0.0.1:9", opening, 1.0, None, b"")
    ended = threading.Thread(target=context.term, daemon=True)
    ended.start()
    ended.join(10)
    assert not ended.is_alive()
