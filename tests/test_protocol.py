"""PROTOCOL.md, the recorded frames in ``frames/`` and the code say the same.

A recorded message is a text file with one frame in hexadecimal digits a line.
"""

from __future__ import annotations

import re
import typing
from pathlib import Path

import msgspec
import pytest

from relocate import session, wire
from relocate.values import IN_BAND

FRAMES = Path(__file__).parent / "frames"
TEXT = (Path(__file__).parent.parent / "PROTOCOL.md").read_text("utf-8")
ID = bytes(range(16))
TICKET = bytes(range(32, 64))
DIGEST = bytes(range(64, 96))
SMALL = [b"\x80\x05K\x2a."]
ATOM = [b"\x2a"]
ATOMS = [b"\x92\x91\x2a\x80"]
LARGE = [b"\x80\x05N.", b"x" * (wire.INLINE + 1), b""]

Recorded = tuple[wire.Message, list[bytes]]


def messages() -> dict[str, Recorded]:
    """What each recorded file holds: a message, and the segments that it carries."""
    executors = [wire.Executor(0, 2, "7001"), wire.Executor(1, 0, "ipc:///run/w.1.0")]
    capability = wire.Capability(8, 16 << 30, 1, 2.5e7, 2 << 30)
    output = [("stdout", "one\n"), ("stderr", "two\n")]
    module = wire.Module("scipy", "1.14", DIGEST, TICKET)
    offer = wire.Offer("tcp://desk:7000", "0.1.0", (3, 11), 8, "desk", (module,), {"region": "eu"}, {"system": "Linux"})
    return {
        "hello": (wire.Hello(1, "0.1.0", (3, 11), "anna@laptop report.py 4711", "registry"), []),
        "welcome": (wire.Welcome("tcp://0.0.0.0:7000", "0.1.0", (3, 11), TICKET, executors, DIGEST, capability), []),
        "change": (wire.Change(executors[1:], [wire.Obituary(0, 2, -9, ID, True)], False, "no memory"), []),
        "refused": (wire.Refused("ticket", "the ticket is not one that this worker gave out"), []),
        "cancel": (wire.Cancel(1, ID, True), []),
        "announce": (wire.Announce(7, offer), []),
        "leased": (wire.Leased(7, 10.0, "another key"), []),
        "withdraw": (wire.Withdraw(7, "tcp://desk:7000"), []),
        "lookup": (wire.Lookup(1, ["scipy"], (3, 11), "desk", {"region": "eu"}, 8, True, [ID]), []),
        "steps": (
            wire.Steps(
                1, 10.0, [wire.Mount("tcp://desk:7000", TICKET, (wire.Bind("/chan/scipy", 1, "scipy", DIGEST),))], False
            ),
            [],
        ),
        "survey": (wire.Survey(), []),
        "offers": (wire.Offers([(offer, TICKET, 9.5)], True), []),
        "open": (wire.Open(1, (3, 11), TICKET, ["/home/anna/project"], 1000.0), []),
        "describe": (wire.Describe(ID, "scipy.ndimage"), []),
        "call": (wire.Call(ID, "scipy.ndimage", "label", DIGEST, b"ambient", (4, 16)), ATOMS),
        "call-large": (wire.Call(ID, "scipy.ndimage", "label", DIGEST, due=(1000.0, 1002.5)), LARGE),
        "said": (wire.Said(ID, 12, output), []),
        "invoke": (wire.Invoke(ID, 1, 3), SMALL),
        "ask": (wire.Ask(ID, 0, 3, 4), []),
        "answer": (wire.Answer(ID, 0, 3, True), SMALL),
        "returned": (wire.Returned(ID, 5, output, ambient=b"ambient"), ATOM),
        "raised": (wire.Raised(ID, 5, output), SMALL),
        "rejected": (wire.Rejected(ID, "draining", "the worker is shutting down"), []),
    }


TAGS: dict[str, type[wire.Message]] = {
    str(kind.__struct_config__.tag): kind for kind in typing.get_args(wire.AnyMessage)
}


def recorded(name: str) -> list[bytes]:
    """The frames in the file ``name``."""
    return [bytes.fromhex(line) for line in (FRAMES / f"{name}.hex").read_text("ascii").splitlines()]


def record() -> None:
    """Write the files anew, after a change of the protocol."""
    for name, (message, segments) in messages().items():
        lines = [bytes(frame).hex() + "\n" for frame in wire.pack(message, segments)]
        (FRAMES / f"{name}.hex").write_text("".join(lines), "ascii")


def section(heading: str) -> str:
    """What stands under ``heading``, whatever its height."""
    found = re.search(rf"^#+ {heading}\n(.*?)(?=^#|\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found is not None, f"PROTOCOL.md has no section {heading!r}"
    return found[1]


def table(text: str) -> list[list[str]]:
    """The rows of the tables in ``text``, without their heads."""
    rows = [[c.strip() for c in r.strip("|").split("|")] for r in text.splitlines() if r.startswith("|")]
    rules = [i for i, row in enumerate(rows) if set(row[0]) == {"-"}]
    return [row for i, row in enumerate(rows) if i not in rules and i + 1 not in rules]


def test_every_message_is_recorded_and_nothing_else() -> None:
    assert {p.stem for p in FRAMES.glob("*.hex")} == set(messages())
    assert {name.partition("-")[0] for name in messages()} == set(TAGS)


@pytest.mark.parametrize("name", list(messages()))
def test_encoding_gives_the_recorded_bytes(name: str) -> None:
    message, segments = messages()[name]
    assert [bytes(frame) for frame in wire.pack(message, segments)] == recorded(name)


@pytest.mark.parametrize("name", list(messages()))
def test_decoding_the_recorded_bytes_gives_the_message(name: str) -> None:
    expected, segments = messages()[name]
    found, carried = wire.unpack(recorded(name))
    assert [bytes(segment) for segment in carried] == segments
    for holder in (expected, found):
        for carrying in ("body", "sizes"):
            if hasattr(holder, carrying):
                setattr(holder, carrying, type(getattr(holder, carrying))())
    assert found == expected


@pytest.mark.parametrize("tag", sorted(TAGS))
def test_every_message_has_a_section_with_all_its_fields(tag: str) -> None:
    fields = [field for row in table(section(tag)) for field in row[0].split(", ")]
    assert fields == [f.name for f in msgspec.structs.fields(TAGS[tag])]


def test_the_states_are_those_of_the_session() -> None:
    shown = {(a, b, c) for a, b, c in table(section("States"))}
    tables = (session._CLIENT_SENDS, session._CLIENT_RECEIVES, session._SERVER_RECEIVES)
    held = {(s.name, str(k.__struct_config__.tag), n.name) for t in tables for (s, k), n in t.items()}
    assert shown == held


def test_the_codes_are_those_in_the_code() -> None:
    source = "".join(p.read_text("utf-8") for p in Path(wire.__file__).parent.glob("*.py"))
    used = {("refused", c) for c in re.findall(r'Refused\(\s*"(\w+)"', source)}
    used |= {("rejected", c) for c in re.findall(r'Rejected\([\w.]+, "(\w+)"', source)}
    assert {(row[0], row[1].strip("`")) for row in table(section("Errors"))} == used


def test_the_limits_are_those_in_the_code() -> None:
    assert f"Version {wire.PROTOCOL}." in TEXT
    assert wire.CHUNK == 1 << 20
    assert "cut into\n  frames of 1 MiB" in TEXT
    assert f"{IN_BAND >> 10} KiB stay inside" in TEXT
    assert f"at most {wire.INLINE >> 10} KiB travels" in TEXT
    assert f"| {wire.MAX_FRAME >> 20} MiB; a longer one" in TEXT
    assert f"| {wire.MAX_SEGMENTS:,} |" in TEXT
    assert f"| {wire.MAX_MESSAGE >> 30} GiB |" in TEXT
