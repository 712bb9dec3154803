"""Channels between processes of one machine."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Place
from hypothesis import given
from hypothesis import strategies as st

from relocate import channel, direct, policy, reception, session, wire
from relocate.direct import DirectChannel, Door, Ended, Nothing, Stream

TICKET = bytes(range(32))
OPENING = wire.Open(wire.PROTOCOL, session.PYTHON, TICKET)


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is waited for in vain is not waited for long."""
    monkeypatch.setattr(direct, "GLANCE", 0.01)
    monkeypatch.setattr(direct, "STALLED", 0.05)


@pytest.fixture
def ends() -> Iterator[tuple[Stream, Stream]]:
    one, other = socket.socketpair()
    streams = Stream(one), Stream(other)
    yield streams
    for stream in streams:
        stream.close()


def test_a_client_that_takes_its_time_to_answer_is_asked_once(
    ends: tuple[Stream, Stream], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(0.0, 0.6)
    monkeypatch.setattr(reception.time, "monotonic", lambda: next(clock))
    desk = reception.Reception(f"ipc://{tmp_path}/w", TICKET, 1.0, b"", trusting=True, opened=lambda _: None)
    answer = wire.Answer(bytes(16), 0, 0)
    waits = iter(range(20))

    def wait(until: object) -> list[object]:
        if next(waits) == 19:
            desk.answers.append((answer, []))
        return []

    assert desk.ask(ends[0], wire.Invoke(bytes(16), 0, 0), [b"x"], wait) == (answer, [])
    monkeypatch.undo()
    assert isinstance(wire.unpack(ends[1].receive())[0], wire.Invoke)
    with pytest.raises(Nothing):
        ends[1].receive()
    desk.close()


def carried(segments: list[bytes], ends: tuple[Stream, Stream]) -> list[bytes]:
    """The segments of a message that has gone over a stream."""
    message = wire.Call(bytes(16), "m", "f", bytes(32))
    writer = threading.Thread(target=ends[0].send, args=(wire.pack(message, segments),), kwargs={"patient": True})
    writer.start()
    got, found = wire.unpack(ends[1].receive())
    writer.join()
    assert isinstance(got, wire.Call)
    assert got.module == "m"
    return [bytes(s) for s in found]


@given(sizes=st.lists(st.sampled_from([0, 1, 100, wire.INLINE, direct.ROOM, wire.CHUNK, wire.CHUNK + 1]), max_size=6))
def test_a_message_comes_as_it_went(sizes: list[int]) -> None:
    one, other = socket.socketpair()
    segments = [b"pickle", *(os.urandom(size) for size in sizes)]
    ends = Stream(one), Stream(other)
    assert carried(segments, ends) == segments
    assert carried([b"x"], ends) == [b"x"]
    for stream in ends:
        stream.close()


def test_a_long_header_comes_whole(ends: tuple[Stream, Stream]) -> None:
    path = [f"/folder/{n}" for n in range(20_000)]
    writer = threading.Thread(target=ends[0].send, args=(wire.pack(wire.Open(1, (3, 13), TICKET, path)),))
    writer.start()
    message, _ = wire.unpack(ends[1].receive())
    writer.join()
    assert isinstance(message, wire.Open)
    assert message.path == path


def test_messages_that_come_together_are_told_apart(ends: tuple[Stream, Stream]) -> None:
    for n in range(3):
        ends[0].send(wire.pack(wire.Ask(bytes(16), n, 0, 1)))
    for n in range(3):
        message, _ = wire.unpack(ends[1].receive())
        assert isinstance(message, wire.Ask)
        assert message.lent == n
        assert ends[1].has_more == (n < 2)


def test_nothing_is_not_the_end(ends: tuple[Stream, Stream]) -> None:
    with pytest.raises(Nothing):
        ends[1].receive()
    ends[0].close()
    with pytest.raises(Ended):
        ends[1].receive()
    with pytest.raises(Ended):
        ends[1].send([b"x"])


@pytest.mark.parametrize("sent", [b"\x10", b"\x10\x00\x00\x00\x00\x00\x00\x00part", b"\xff" * 8])
def test_a_message_that_does_not_go_on_is_the_end(sent: bytes) -> None:
    one, other = socket.socketpair()
    stream = Stream(other)
    one.sendall(sent)
    with pytest.raises(Ended):
        stream.receive()
    stream.close()
    one.close()


def test_who_does_not_read_is_left(ends: tuple[Stream, Stream]) -> None:
    frames: list[wire.Buffer] = wire.pack(wire.Call(bytes(16), "m", "f", bytes(32)), [bytes(8 << 20)])
    with pytest.raises(Ended):
        ends[0].send(frames)


def test_a_patient_writer_waits_for_whom_is_busy(ends: tuple[Stream, Stream]) -> None:
    frames: list[wire.Buffer] = wire.pack(wire.Call(bytes(16), "m", "f", bytes(32)), [bytes(8 << 20)])
    got: list[int] = []
    reader = threading.Timer(0.3, lambda: got.extend(map(len, ends[1].receive()[1:])))  # later than `STALLED`
    reader.start()
    ends[0].send(frames, patient=True)
    reader.join()
    assert got == [8 << 20]


def test_a_door_lets_its_user_in(tmp_path: Path) -> None:
    url = f"ipc://{tmp_path}/w"
    door = Door(direct.file_of(url))
    assert door.let_in() is None
    made = DirectChannel(url, OPENING, 1.0)
    stream = door.let_in()
    assert stream is not None
    assert (stream.uid, stream.peer) == (os.getuid(), os.getpid())
    assert not stream.is_stopped()
    made.send(wire.Describe(bytes(16), "m"), wire.pack(wire.Describe(bytes(16), "m")))
    with pytest.raises(channel.TimeUp):
        made.reply(lambda *_: [], 1.0)
    stream.close()
    made.close()
    door.close()
    assert made.closed


def test_a_door_takes_the_place_of_a_killed_one(tmp_path: Path) -> None:
    path = str(tmp_path / "door.d")
    killed = Door(path)
    killed.close()  # and the file stays, as after kill -9
    door = Door(path)
    made = DirectChannel(f"ipc://{path.removesuffix(direct.SUFFIX)}", OPENING, 1.0)
    assert door.let_in() is not None
    made.close()
    door.close()


def test_where_nobody_listens_is_nobody(tmp_path: Path) -> None:
    with pytest.raises(channel.Absent):
        DirectChannel(f"ipc://{tmp_path}/w", OPENING, 1.0)
    Door(f"{tmp_path}/w.d").close()
    with pytest.raises(channel.Absent):
        DirectChannel(f"ipc://{tmp_path}/w", OPENING, 1.0)


def received(stream: Stream) -> list[wire.Buffer]:
    while True:
        with contextlib.suppress(Nothing):
            return stream.receive()


def test_an_executor_gives_up_a_client_that_is_stopped_in_the_middle_of_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "STALLED", 1e9)
    door = Door(str(tmp_path / "door"))
    program = f"""
import os, signal, socket
from relocate import wire
from relocate.direct import PREFIX
head, *_ = wire.pack(wire.Call(bytes(16), "m", "f", bytes(32)), [bytes(1 << 20)])
with socket.socket(socket.AF_UNIX) as there:
    there.connect({str(tmp_path / "door")!r})
    there.sendall(PREFIX.pack(len(head), 1) + head + bytes(1000))
    os.kill(os.getpid(), signal.SIGSTOP)
"""
    with subprocess.Popen([sys.executable, "-c", program]) as client:
        try:
            select.select([door], [], [])
            stream = door.let_in()
            assert stream is not None
            with pytest.raises(Ended):
                received(stream)
            assert stream.is_stopped()
            stream.close()
        finally:
            client.kill()
    door.close()


def test_a_stopped_process_is_seen_to_be_stopped(tmp_path: Path) -> None:
    program = """
import socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print(flush=True)
input()
"""
    path = str(tmp_path / "w.d")
    process = subprocess.Popen(
        [sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    made = DirectChannel(f"ipc://{tmp_path}/w", OPENING, 0.05)
    process.send_signal(signal.SIGSTOP)
    request = wire.Describe(bytes(16), "m")
    made.send(request, wire.pack(request))
    with pytest.raises(channel.Lost, match="stopped"):
        made.reply(lambda *_: [], policy.NEVER)
    made.close()
    process.kill()
    process.communicate()


RUN = """
import os, signal, sys, threading, time, relocate
handle = relocate.enable(modules=["work"], workers={workers!r}, **{more})
import work
def kinds():
    return {{type(channel).__name__ for link in handle._fleet.links for seat in link.seats for channel in seat.idle}}
"""


def test_workers_of_this_machine_are_reached_straight(place: Place) -> None:
    worker = place.worker("--executors", "1", listen=f"ipc://{place.home}/run/w")
    for workers in ("1", worker.url):
        done = place.python("-c", RUN.format(workers=workers, more={}) + "print(work.echo(1), kinds())")
        assert done.stdout == "1 {'DirectChannel'}\n", done.stderr
    assert worker.stop() == 0
    assert place.left_behind() == []


def test_without_the_other_socket_it_goes_by_zeromq(place: Place) -> None:
    worker = place.worker("--executors", "1", listen=f"ipc://{place.home}/run/w")
    os.unlink(place.home / "run" / "w.0.0.d")
    done = place.python("-c", RUN.format(workers=worker.url, more={}) + "print(work.echo(1), kinds())")
    assert done.stdout == "1 {'ZmqChannel'}\n", done.stderr


def test_clients_of_both_kinds_take_turns_on_one_executor(place: Place) -> None:
    worker = place.worker("--executors", "1", listen=f"ipc://{place.home}/run/w")
    program = RUN.format(workers=worker.url, more={}) + "print(sum(work.echo(n) for n in range(2000)))\nprint(kinds())"
    straight = place.start(sys.executable, "-c", program)
    by_zeromq = "import relocate.direct\nrelocate.direct.AVAILABLE = False\n" + program
    other = place.start(sys.executable, "-c", by_zeromq)
    for client, kind in ((straight, "DirectChannel"), (other, "ZmqChannel")):
        out, err = client.communicate(timeout=60)
        assert out == f"{sum(range(2000))}\n{{'{kind}'}}\n", err


def test_large_arrays_go_there_and_back(place: Place) -> None:
    program = (
        RUN.format(workers="1", more={})
        + """
import numpy as np
for size in (10, 5000, 100_000, 10_000_000):
    sent = np.arange(size, dtype="f8")
    got = work.echo(sent + 0)
    print((got == sent).all(), got.flags.writeable)
"""
    )
    done = place.python("-c", program)
    assert done.stdout == "True True\n" * 4, done.stderr


def test_an_executor_that_is_stopped_is_left_for_another(place: Place) -> None:
    program = (
        RUN.format(workers="2", more={"heartbeat": 0.3})
        + """
def stop():
    pid = int(open("running").read())
    os.kill(pid, signal.SIGSTOP)
    stopped.append(pid)
stopped = []
def watch():
    while not os.path.exists("running") or not open("running").read():
        time.sleep(0.01)
    stop()
threading.Thread(target=watch).start()
import halting
print(halting.run("running") not in stopped, len(stopped), handle.statistics().retried)
os.kill(stopped[0], signal.SIGKILL)
""".replace("import halting", "")
    )
    place.write(
        "halting.py",
        """
import os, time
def run(path):
    if not os.path.exists(path):
        with open(path, "w") as file:
            file.write(str(os.getpid()))
        time.sleep(600)
    return os.getpid()
""",
    )
    program = program.replace('modules=["work"]', 'modules=["work", "halting"]').replace(
        "import work\n", "import work, halting\n", 1
    )
    done = place.python("-c", program)
    assert done.stdout == "True 1 1\n", done.stderr


def test_a_program_that_is_stopped_in_the_middle_of_its_call_keeps_no_executor(place: Place) -> None:
    """What it has begun to send and does not go on with is dropped."""
    worker = place.worker("--executors", "1", listen=f"ipc://{place.home}/run/w")
    half = socket.socket(socket.AF_UNIX)
    half.connect(f"{place.home}/run/w.0.0.d")
    half.sendall(b"\x00\x01\x00\x00")
    done = place.python("-c", RUN.format(workers=worker.url, more={}) + "print(work.echo(1))")
    assert done.stdout == "1\n", done.stderr
    half.close()
