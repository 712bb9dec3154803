"""Messages to frames and back."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relocate import wire
from relocate.errors import RemoteProtocolError
from relocate.values import dumps

ID = bytes(range(16))


def call() -> wire.Call:
    return wire.Call(ID, "m", "f", b"d" * 32)


@pytest.mark.parametrize("lease", [float("nan"), float("inf"), -1.0, 1e9])
def test_a_lease_is_a_time_that_ends(lease: float) -> None:
    for message in (wire.Leased(1, lease), wire.Steps(1, lease, [])):
        with pytest.raises(RemoteProtocolError):
            wire.unpack(wire.pack(message))


def test_one_can_count_on_from_any_incarnation() -> None:
    with pytest.raises(RemoteProtocolError):
        wire.unpack(wire.pack(wire.Leased((1 << 64) - 1, 0.0)))


def copied(frames: list[wire.Buffer]) -> list[wire.Buffer]:
    return [bytes(frames[0]), *(bytearray(f) for f in frames[1:])]


ids = st.binary(min_size=16, max_size=16)
texts = st.text(max_size=20)
executors = st.builds(wire.Executor, st.integers(0, 99), st.integers(0, 99), texts)
obituaries = st.builds(wire.Obituary, st.integers(0, 99), st.integers(0, 99), st.integers(-64, 255), ids, st.booleans())
output = st.lists(st.tuples(texts, texts), max_size=3)
pythons = st.tuples(st.integers(0, 99), st.integers(0, 99))
messages = st.one_of(
    st.builds(wire.Hello, st.integers(0, 99), texts, pythons, texts),
    st.builds(wire.Welcome, texts, texts, pythons, ids, st.lists(executors, max_size=3), st.binary(max_size=32)),
    st.builds(wire.Change, st.lists(executors, max_size=3), st.lists(obituaries, max_size=3), st.booleans(), texts),
    st.builds(wire.Refused, texts, texts),
    st.builds(wire.Cancel, st.integers(0, 99), ids),
    st.builds(wire.Open, st.integers(0, 99), pythons, ids, st.none() | st.lists(texts, max_size=3)),
    st.builds(wire.Describe, ids, texts),
    st.builds(
        wire.Call, ids, texts, texts, ids, st.binary(max_size=9), st.none() | st.tuples(st.integers(0, 99), st.just(1))
    ),
    st.builds(wire.Ask, ids, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)),
    st.builds(wire.Answer, ids, st.integers(0, 9), st.integers(0, 9), st.booleans()),
    st.builds(wire.Returned, ids, st.integers(0, 9), output),
    st.builds(wire.Raised, ids, st.integers(0, 9), output),
    st.builds(wire.Rejected, ids, texts, texts),
)


@given(messages)
def test_a_message_comes_back_equal(message: wire.AnyMessage) -> None:
    frames = wire.pack(message)
    assert len(frames) == 1
    assert wire.unpack(copied(frames)) == (message, [])


lengths = st.sampled_from([0, 1, 100, wire.INLINE, wire.INLINE + 1, wire.CHUNK, wire.CHUNK + 1, 3 * wire.CHUNK])


@given(st.lists(lengths, max_size=4))
def test_segments_come_back_in_frames_of_bounded_size(sizes: list[int]) -> None:
    segments = [bytes([i]) * size for i, size in enumerate(sizes)]
    if sizes == [0]:
        return  # one empty segment is no pickle
    frames = wire.pack(call(), segments)
    assert max(len(f) for f in frames[1:] or [b""]) <= wire.CHUNK
    _, back = wire.unpack(copied(frames))
    assert [bytes(b) for b in back] == segments


def test_a_small_value_is_one_frame() -> None:
    assert len(wire.pack(call(), dumps(((2, 3), {})))) == 1


def test_nothing_is_copied_on_the_way_out() -> None:
    array = np.zeros(4 * wire.CHUNK, np.uint8)
    frames = wire.pack(call(), dumps(array))
    array[0], array[-1] = 7, 8
    assert len(frames) == 1 + 4  # the pickle is small, and travels in the header
    assert frames[1][0] == 7
    assert frames[4][-1] == 8


# Frames that are not messages --------------------------------------------------------------------

header = msgspec.msgpack.encode


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b""],
        [b"\xc1"],
        [b"\x80"],
        [header(["unknown", 1])],
        [header(["cancel", "slot", ID])],
        [header(["cancel", 1])],
        [header({"type": "cancel"})],
        [header(["refused", "a", "b"]), b"more"],
        [header(["call", ID, "m", "f", b"d", b"", None, b"body", []]), b"more"],
        [header(["call", ID, "m", "f", b"d", b"", None, b"", [3]])],
        [header(["call", ID, "m", "f", b"d", b"", None, b"", [3]]), b"four"],
        [header(["call", ID, "m", "f", b"d", b"", None, b"", [3]]), b"abc", b"more"],
        [header(["call", ID, "m", "f", b"d", b"", None, b"", [-1]]), b""],
        [header(["call", ID, "m", "f", b"d", b"", None, b"", [2**62]]), b"abc"],
        [header(["call", ID, "m", "f", b"d", b"", None, b"", [wire.CHUNK + 1]]), b"x" * (wire.CHUNK + 1)],
        [header(["call", ID, "m", "f", b"d", b"", None, b"", [0] * (wire.MAX_SEGMENTS + 1)])],
    ],
    ids=range(17),
)
def test_malformed_frames_are_the_peers_error(frames: list[bytes]) -> None:
    with pytest.raises(RemoteProtocolError):
        wire.unpack(frames)


def test_text_that_is_not_utf8_is_the_peers_error() -> None:
    with pytest.raises(RemoteProtocolError):
        wire.unpack([header(["refused", "aa", "bb"]).replace(b"aa", b"\xff\xfe")])


@given(st.binary(max_size=200), st.lists(st.binary(max_size=20), max_size=3))
def test_noise_is_a_message_or_the_peers_error(first: bytes, rest: list[bytes]) -> None:
    try:
        message, _ = wire.unpack([first, *rest])
    except RemoteProtocolError:
        return
    assert isinstance(message, wire.Message)


@given(messages, st.integers(0), st.integers(0, 255))
def test_a_damaged_byte_is_a_message_or_the_peers_error(message: wire.Message, at: int, byte: int) -> None:
    frame = bytearray(wire.pack(message)[0])
    frame[at % len(frame)] = byte
    try:
        damaged, _ = wire.unpack([bytes(frame)])
    except RemoteProtocolError:
        return
    assert isinstance(damaged, wire.Message)


@given(
    call=ids,
    names=st.tuples(texts, texts),
    digest=st.binary(max_size=32),
    body=st.binary(min_size=1, max_size=300) | st.just(b"x" * wire.INLINE),
)
def test_what_is_filled_in_is_what_would_have_been_encoded(
    call: bytes, names: tuple[str, str], digest: bytes, body: bytes
) -> None:
    assert [wire.Template(*names, digest).filled(call, body)] == wire.pack(wire.Call(call, *names, digest), [body])
    assert [wire.returned(call, body)] == wire.pack(wire.Returned(call, 0, []), [body])
    assert wire.body_of(wire.returned(call, body), call) == body


@given(messages)
def test_what_is_no_plain_result_has_no_body(message: wire.Message) -> None:
    header = bytes(wire.pack(message)[0])
    assert wire.body_of(header, getattr(message, "call", ID)) is None


@pytest.mark.parametrize(
    "said",
    [
        {"waiting": 1},
        {"output": [("stdout", "x")]},
        {"refers": True},
        {"tail": True},
        {"said": 3},
        {"ambient": b"x"},
        {"sizes": [3]},
        {"call": ID[::-1]},
        {"body": b""},
    ],
    ids=lambda said: next(iter(said)),
)
def test_a_result_that_says_more_is_no_plain_one(said: dict[str, object]) -> None:
    plain: dict[str, object] = {"call": ID, "waiting": 0, "output": [], "body": b"body"}
    assert wire.body_of(wire.encode(wire.Returned(**plain)), ID) == b"body"  # type: ignore[arg-type]
    assert wire.body_of(wire.encode(wire.Returned(**plain | said)), ID) is None  # type: ignore[arg-type]


@given(messages)
def test_what_says_no_more_than_what_a_call_returned_is_its_result(message: wire.Message) -> None:
    header = bytes(wire.pack(message)[0])
    found = wire.result_of(header, getattr(message, "call", ID))
    usual = type(message) is wire.Returned and wire.Returned(message.call, 0, [], message.body, message.sizes)
    assert found == (message if message == usual else None)


def test_a_result_of_another_call_is_not_that_of_this_one() -> None:
    header = wire.encode(wire.Returned(ID, 0, [], sizes=[3]))
    assert wire.result_of(header, ID) == wire.Returned(ID, 0, [], sizes=[3])
    assert wire.result_of(header, ID[::-1]) is None


def test_what_begins_as_a_result_and_is_none_is_the_peers_error() -> None:
    with pytest.raises(RemoteProtocolError):
        wire.result_of(wire.returned(ID, b"body")[:-1], ID)


@given(st.binary(max_size=20))
def test_nor_is_noise_between_its_ends(noise: bytes) -> None:
    whole = wire.returned(ID, b"body")
    at = whole.index(b"\xc4\x04body")
    found = wire.body_of(whole[:at] + noise + whole[at + 6 :], ID)
    assert found is None or msgspec.msgpack.decode(noise) == found
