"""Plain calls over channels: what comes soon, what comes late, and what is no plain result."""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import zmq

from relocate import channel, direct, looking, reception, session, wire
from relocate.errors import LocalProtocolError, RemoteProtocolError

TICKET = bytes(range(32))
OPENING = wire.Open(wire.PROTOCOL, session.PYTHON, TICKET)
NUMBERS = [bytes([n]) * 16 for n in range(4)]


AGES = 3600.0
Answers = Sequence[wire.Message | bytes | list[wire.Buffer]]
"""Messages, or their only frames, or all of them."""


class Desk:
    """An executor that gives each call the next of its answers; each is a function of the call's number."""

    def __init__(self, url: str) -> None:
        self._ear, self._mouth = os.pipe()
        self._reception = reception.Reception(url, TICKET, 1.0, b"", trusting=True, opened=lambda _: None)
        self._reception.listen(self._ear)
        self.answers: list[Callable[[bytes], Answers]] = []
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.bodies: list[bytes] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._reception.wait():
            while self._reception.calls:
                peer, message, segments = self._reception.calls.popleft()
                self.bodies += map(bytes, segments)
                self.may_answer.wait(10)
                for answer in self.answers.pop(0)(message.call):
                    if isinstance(answer, list):
                        self._reception._write(peer, answer)
                    else:
                        self._reception.send(peer, answer)

    def close(self) -> None:
        if not self._thread.is_alive():
            return
        os.write(self._mouth, b"x")
        self._thread.join(10)
        self._reception.close()
        os.close(self._ear)
        os.close(self._mouth)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(f"ipc://{tmp_path}/w")
    yield made
    made.close()


@pytest.fixture(params=["zeromq", "straight"])
def opened(request: pytest.FixtureRequest, desk: Desk, tmp_path: Path) -> Iterator[channel.Channel]:
    """A channel on which an answer has come."""
    with zmq.Context() as context:
        made: channel.Channel
        if request.param == "zeromq":
            made = channel.ZmqChannel(context, f"ipc://{tmp_path}/w", OPENING, 5.0, None, b"")
        elif direct.AVAILABLE:
            made = direct.DirectChannel(f"ipc://{tmp_path}/w", OPENING, 5.0)
        else:
            pytest.skip("Linux only")
        desk.answers.append(lambda call: [wire.returned(call, b"first")])
        first = wire.Call(NUMBERS[0], "m", "f", bytes(32))
        made.send(first, wire.pack(first, [b"body"]))
        assert made.reply(unasked)[1] == [b"first"]
        yield made
        made.close()


def unasked(question: session.Question, segments: list[wire.Buffer]) -> list[wire.Buffer]:
    raise AssertionError(question)


def soon(
    opened: channel.Channel, number: int, segments: wire.Segments = (b"body",), until: float = AGES
) -> tuple[list[wire.Buffer], int] | None:
    frames = wire.pack(wire.Call(NUMBERS[number], "m", "f", bytes(32)), segments)
    return opened.exchange(NUMBERS[number], frames, time.monotonic() + until, bool(number & 1))


def patiently(opened: channel.Channel, number: int, segments: wire.Segments = (b"body",)) -> tuple[list[bytes], int]:
    """As on a machine where all threads have their turn in time, whatever else this one does."""
    found, size = soon(opened, number, segments) or opened.reply(unasked)[1:]
    return list(map(bytes, found)), size


def test_a_plain_result_is_its_value(opened: channel.Channel, desk: Desk) -> None:
    desk.answers += [lambda call: [wire.returned(call, b"result")]] * 2
    for number in (1, 2):
        assert patiently(opened, number) == ([b"result"], len(wire.returned(NUMBERS[number], b"result")))
    assert desk.bodies == [b"body"] * 3


@pytest.mark.parametrize(
    "value",
    [
        [b"small"],
        [b"head", b"memory" * 1000],
        [b"head", b"x" * (wire.CHUNK + 1), b"", b"y"],
        [b"h" * (wire.INLINE + 1)],
    ],
    ids=["small", "in two segments", "of several frames", "long"],
)
def test_so_is_one_in_several_segments(opened: channel.Channel, desk: Desk, value: list[wire.Buffer]) -> None:
    desk.answers += [lambda call: [wire.pack(wire.Returned(call, 0, []), value)]] * 2
    for number in (1, 2):
        found, size = patiently(opened, number, value)
        assert found == value
        assert size == sum(map(len, wire.pack(wire.Returned(NUMBERS[number], 0, []), value)))
    assert desk.bodies == [b"body"] + value * 2


@pytest.mark.parametrize("opened", ["zeromq"], indirect=True)  # of a stream as much is read as was said
@pytest.mark.parametrize("frames", [[], [b"memory" * 1000, b"and more"], [b"memory"]], ids=["less", "more", "shorter"])
def test_a_value_of_which_there_is_less_or_more_than_was_said_is_the_peers_error(
    opened: channel.Channel, desk: Desk, frames: list[wire.Buffer]
) -> None:
    said = wire.pack(wire.Returned(NUMBERS[1], 0, []), [b"head", b"memory" * 1000])[0]
    desk.answers.append(lambda call: [[said, *frames]])
    with pytest.raises(RemoteProtocolError):
        patiently(opened, 1)


def test_a_brief_one_is_looked_for_and_one_that_does_not_come_is_waited_for(
    opened: channel.Channel, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_way: list[int] = []
    monkeypatch.setattr(looking, "_give_way", lambda: given_way.append(1))
    desk.answers += [lambda call: [wire.returned(call, b"result")]] * 2
    desk.may_answer.clear()
    assert soon(opened, 1, until=0.01) is None
    assert given_way != []
    desk.may_answer.set()
    assert opened.reply(unasked)[1] == [b"result"]
    given_way.clear()
    assert patiently(opened, 2)[0] == [b"result"]
    assert given_way == []


def test_what_is_late_is_waited_for(opened: channel.Channel, desk: Desk) -> None:
    desk.answers += [lambda call: [wire.returned(call, b"result")]] * 2
    desk.may_answer.clear()
    began = time.monotonic()
    assert soon(opened, 1, until=0.02) is None
    assert time.monotonic() - began >= 0.02
    with pytest.raises(channel.TimeUp):
        opened.reply(unasked, time.monotonic() + 0.001)
    desk.may_answer.set()
    reply, segments, _ = opened.reply(unasked)
    assert (type(reply), segments) == (wire.Returned, [b"result"])
    assert patiently(opened, 2)[0] == [b"result"]


@pytest.mark.skipif(not hasattr(resource, "RUSAGE_THREAD"), reason="only Linux tells how often a thread was woken")
def test_who_waits_is_not_woken_before_it_has_come(opened: channel.Channel, desk: Desk) -> None:
    desk.answers.append(lambda call: [wire.returned(call, b"result")])
    desk.may_answer.clear()
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    assert soon(opened, 2, until=0.3) is None
    with pytest.raises(channel.TimeUp):
        opened.reply(unasked, time.monotonic() + 0.3)
    assert resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before < 20
    desk.may_answer.set()
    assert opened.reply(unasked)[1] == [b"result"]


def test_a_signal_that_comes_again_and_again_prolongs_no_wait(opened: channel.Channel, desk: Desk) -> None:
    desk.answers.append(lambda call: [wire.returned(call, b"result")])
    desk.may_answer.clear()
    rescue = threading.Timer(8.0, desk.may_answer.set)
    rescue.start()
    before = signal.signal(signal.SIGALRM, lambda number, frame: None)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        assert soon(opened, 2, until=0.1) is None
        signal.setitimer(signal.ITIMER_REAL, 0.003, 0.003)
        with pytest.raises(channel.TimeUp):
            opened.reply(unasked, time.monotonic() + 0.1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        rescue.cancel()
    assert not desk.may_answer.is_set()
    desk.may_answer.set()
    assert opened.reply(unasked)[1] == [b"result"]


def test_what_there_is_to_do_meanwhile_is_done_once_the_call_is_sent(opened: channel.Channel, desk: Desk) -> None:
    desk.answers.append(lambda call: [wire.returned(call, b"result")])
    desk.may_answer.clear()
    frames = wire.pack(wire.Call(NUMBERS[1], "m", "f", bytes(32)), [b"body"])
    found = opened.exchange(NUMBERS[1], frames, time.monotonic() + AGES, False, desk.may_answer.set)
    assert found is not None
    assert found[0] == [b"result"]


def test_one_that_takes_longer_is_waited_for_as_long_as_it_may_take(opened: channel.Channel, desk: Desk) -> None:
    desk.answers.append(lambda call: [wire.returned(call, b"result")])
    desk.may_answer.clear()
    frames = wire.pack(wire.Call(NUMBERS[1], "m", "f", bytes(32)), [b"body"])
    later = threading.Timer(0.05, desk.may_answer.set)
    found = opened.exchange(NUMBERS[1], frames, time.monotonic() + AGES, False, later.start)
    assert found is not None
    assert found[0] == [b"result"]


@pytest.mark.parametrize("value", [[b"result"], [b"head", b"memory" * 1000]], ids=["small", "in two segments"])
def test_what_comes_later_than_it_should_is_given_as_a_reply(
    opened: channel.Channel, desk: Desk, value: list[wire.Buffer]
) -> None:
    desk.answers.append(lambda call: [wire.pack(wire.Returned(call, 0, []), value)])
    assert soon(opened, 1, until=-1.0) is None
    reply, segments, size = opened.reply(unasked)
    assert (type(reply), list(map(bytes, segments))) == (wire.Returned, value)
    assert size == sum(map(len, wire.pack(wire.Returned(NUMBERS[1], 0, []), value)))


def test_what_is_no_plain_result_is_given_as_a_reply(opened: channel.Channel, desk: Desk) -> None:
    desk.answers += [
        lambda call: [wire.Said(call, 0, [("stdout", "hello")]), wire.Raised(call, 0, [])],
        lambda call: [wire.returned(call, b"result")],
    ]
    assert soon(opened, 1) is None
    said: list[session.Question] = []

    def note(question: session.Question, segments: list[wire.Buffer]) -> list[wire.Buffer]:
        said.append(question)
        return []

    assert type(opened.reply(note)[0]) is wire.Raised
    assert [type(q) for q in said] == [wire.Said]
    assert patiently(opened, 2)[0] == [b"result"]


def test_an_answer_to_another_call_is_the_peers_error(opened: channel.Channel, desk: Desk) -> None:
    desk.answers.append(lambda call: [wire.returned(call[::-1][:15] + b"x", b"result")])
    assert soon(opened, 1) is None
    with pytest.raises(RemoteProtocolError, match="another call"):
        opened.reply(unasked)


def test_a_channel_carries_one_call_at_a_time(opened: channel.Channel, desk: Desk) -> None:
    desk.answers.append(lambda call: [wire.Rejected(call, "draining", "")])
    assert soon(opened, 1) is None
    with pytest.raises(LocalProtocolError):
        soon(opened, 2)
    assert type(opened.reply(unasked)[0]) is wire.Rejected


def test_a_peer_that_is_gone_is_lost(opened: channel.Channel, desk: Desk) -> None:
    desk.close()
    with pytest.raises(channel.Lost):
        patiently(opened, 1)
