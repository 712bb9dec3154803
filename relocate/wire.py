"""Messages to frames and back.  PROTOCOL.md is the specification; this file follows it.

Rules:

* A message is one ZeroMQ multipart message: a *header* (MessagePack array, first item the tag) and,
  if the values that it carries are not small, *chunk* frames.
* A value is given and taken as *segments* (see `values`).  The first travels inside the header if it is small;
  ``sizes`` lists the lengths of the others, which follow in chunks of at most ``CHUNK`` bytes.
* Frames are bounded for two reasons.  ZMTP heartbeats pause while a frame is being decoded, so one
  huge frame on a slow link looks like a death.  And the pipeline of chunks is faster: 64 MiB there
  and back takes less than half the time that one frame of 64 MiB takes.

Nothing here does I/O.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Annotated, ClassVar, final

import msgspec

from .errors import ArgumentError, RemoteProtocolError

PROTOCOL = 4
CHUNK = 1 << 20
INLINE = 16 << 10
MAX_FRAME = 16 << 20
"""The longest frame a receiver takes; a longer one ends the connection."""
MAX_GREETING = 4 << 10
"""The longest header taken from a peer that has not yet said who it is."""
MAX_SEGMENTS = 1 << 20
MAX_MESSAGE = 16 << 30
"""The most bytes that the values of one message may have."""

Whole = bytearray | mmap.mmap
"""A segment of several frames that whoever received them has put together, or a NumPy array of bytes; a single frame is
bytes or a memoryview."""
Buffer = bytes | memoryview | Whole
Segments = Sequence[Buffer]


class Message(msgspec.Struct, array_like=True, gc=False):
    """Base of all messages."""


# Client <-> supervisor ---------------------------------------------------------------------------


class Hello(Message, tag="hello"):
    """First message of a client to a supervisor, or to a registry, as ``to`` says."""

    protocol: int
    version: str
    python: tuple[int, int]
    client: str
    to: str = "worker"


class Executor(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """One executor as a supervisor announces it.

    ``endpoint`` is a bare port number (as text) for tcp: the client knows the host by the name it
    used itself.  For ipc it is a URL, for people.
    """

    slot: int
    incarnation: int
    endpoint: str


class Obituary(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """How an executor ended: its process's return code, the call that was running, whether it took too much memory."""

    slot: int
    incarnation: int
    returncode: int
    call: bytes
    memory: bool = False


class Capability(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """What a worker's machine has: see `health.Capability`.

    ``speed`` is in steps of `capability.spin` a second, ``each`` in bytes that an executor may take; 0: any.
    """

    cores: int
    memory: int
    gpus: int
    speed: float
    each: int = 0


class Welcome(Message, tag="welcome"):
    """Answer to `Hello`: who the worker is and what it has now."""

    name: str
    version: str
    python: tuple[int, int]
    ticket: bytes
    executors: list[Executor]
    key: bytes = b""
    capability: Capability | None = None


class Change(Message, tag="change"):
    """Pushed to every client when executors come or go."""

    executors: list[Executor]
    obituaries: list[Obituary] = []
    draining: bool = False
    trouble: str = ""


class Refused(Message, tag="refused"):
    """The connection is not accepted; it ends with this message."""

    code: str
    text: str


class Cancel(Message, tag="cancel"):
    """Interrupt the call, if it is still running on that executor; if it has not begun, do not begin it.

    ``gentle``: if it does not heed the interrupt, let it end by itself.
    """

    slot: int
    call: bytes
    gentle: bool = False


# Workers, clients and registries <-> registry -----------------------------------------------------

Seconds = Annotated[float, msgspec.Meta(ge=0, le=86400)]
"""Of a lease: neither NaN nor for ever."""
Incarnation = Annotated[int, msgspec.Meta(ge=0, lt=(1 << 63) - 1)]
"""Others count on from it, which has to have an end that no message can name."""


class Module(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A module that a worker offers: its version attribute, the digests of its code and of its interface."""

    name: str
    version: str = ""
    digest: bytes = b""
    interface: bytes = b""


class Offer(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """What a worker offers.  No modules: whatever can be imported there.  ``host``: only clients there reach it."""

    url: str
    version: str
    python: tuple[int, int]
    executors: int
    host: str = ""
    modules: tuple[Module, ...] = ()
    labels: dict[str, str] = {}
    capabilities: dict[str, str] = {}


class Announce(Message, tag="announce"):
    """From a worker: this is what I offer.  Repeated until it ends; answered by `Leased`."""

    incarnation: Incarnation
    offer: Offer


class Leased(Message, tag="leased"):
    """The offer stands for ``lease`` seconds; if that is 0 it was not taken, and ``trouble`` says why."""

    incarnation: Incarnation
    lease: Seconds
    trouble: str = ""


class Withdraw(Message, tag="withdraw"):
    """From a worker: the offer stands no more."""

    incarnation: Incarnation
    url: str


class Lookup(Message, tag="lookup"):
    """Who offers ``modules``?  Answered by `Steps`; with ``watch`` again whenever the answer changes."""

    query: int
    modules: list[str]
    python: tuple[int, int]
    host: str = ""
    labels: dict[str, str] = {}
    limit: int = 32
    watch: bool = False
    path: list[bytes] = []


class Bind(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A name that a worker is bound over, at that rank, because it offers ``module``, whose code has that ``digest``.

    Of a worker that offers anything there is neither.
    """

    name: str
    rank: int
    module: str = ""
    digest: bytes = b""


class Mount(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """Mount the worker at ``url``, and bind it over each of these names."""

    url: str
    key: bytes
    binds: tuple[Bind, ...]


class Steps(Message, tag="steps"):
    """All that a client is to mount and bind, good for ``lease`` seconds; not ``complete``: more may come."""

    query: int
    lease: Seconds
    mounts: list[Mount]
    complete: bool = True


class Survey(Message, tag="survey"):
    """All offers, please; answered by `Offers`."""


class Offers(Message, tag="offers"):
    """Each offer with the key of who announced it and the seconds that it still stands."""

    offers: list[tuple[Offer, bytes, float]]
    more: bool = False


# Client <-> executor -----------------------------------------------------------------------------


@final
class Open(Message, tag="open"):
    """First message on a channel.  No answer unless it is refused.  ``clock``: the client's, see `Call`."""

    protocol: int
    python: tuple[int, int]
    ticket: bytes
    path: list[str] | None = None
    clock: float | None = None


@final
class Describe(Message, tag="describe"):
    """Ask for a module's interface; answered by `Returned` with its encoding as the only segment."""

    call: bytes
    module: str
    digest: ClassVar[bytes] = b""


@final
class Call(Message, tag="call"):
    """Run ``module.member(*args, **kwargs)``; the value is ``(args, kwargs)``.

    ``ambient`` is the pickled state that the call depends on beside its arguments, if it is not the
    default.  ``stream`` asks for a piece of what the function generates: skip so many items, then
    give so many; the value of the answer is ``(items, whether that was the end)``.  ``due``: when it
    was sent and until when the answer is wanted, by the sender's clock, see `session.ServerSession.here`.
    """

    call: bytes
    module: str
    member: str
    digest: bytes
    ambient: bytes = b""
    stream: tuple[int, int] | None = None
    body: bytes = b""
    sizes: list[int] = []
    due: tuple[float, float] | None = None


class Said(Message, tag="said"):
    """From the executor, while a call runs: what it printed.

    ``position`` is how much it had printed before, in characters: a call that runs again says the same again.
    """

    call: bytes
    position: int
    output: list[tuple[str, str]]
    body: bytes = b""
    sizes: list[int] = []
    tail: bool = False


class Invoke(Message, tag="invoke"):
    """From the executor, while a call runs: call a function that was lent as an argument.

    The value is ``(args, kwargs)``; ``number`` counts such calls.  Without a value: the executor still waits.
    """

    call: bytes
    lent: int
    number: int
    body: bytes = b""
    sizes: list[int] = []


class Ask(Message, tag="ask"):
    """From the executor, while a call runs: items of an iterator that was lent as an argument."""

    call: bytes
    lent: int
    skip: int
    count: int


class Answer(Message, tag="answer"):
    """To `Ask`, the value is ``(items, whether that was the end)``; to `Invoke`, what the function returned.

    Or it is the description of what was raised.  ``skip`` is the number of an `Invoke`, and ``refers`` is as
    in `Returned`.
    """

    call: bytes
    lent: int
    skip: int
    raised: bool = False
    body: bytes = b""
    sizes: list[int] = []
    refers: bool = False


@final
class Returned(Message, tag="returned"):
    """The function returned; the value is its result.

    ``output`` is what it printed, after the first ``said`` characters, which came in `Said`; if that is
    long, ``tail`` is set and it is the last segment.
    ``refers``: the value is ``(result, changes)`` and refers to arguments (see `restoring`).
    ``ambient``: what the call did to the state beside its arguments (see `ambient`).
    """

    call: bytes
    waiting: int
    output: list[tuple[str, str]]
    body: bytes = b""
    sizes: list[int] = []
    tail: bool = False
    refers: bool = False
    said: int = 0
    ambient: bytes = b""


@final
class Raised(Message, tag="raised"):
    """The function raised; the value is the exception's description (see `raising`)."""

    call: bytes
    waiting: int
    output: list[tuple[str, str]]
    body: bytes = b""
    sizes: list[int] = []
    tail: bool = False
    refers: bool = False
    said: int = 0
    ambient: bytes = b""


@final
class Rejected(Message, tag="rejected"):
    """The function was not run: ``code`` is draining, late, stale, module, arguments, result or generator."""

    call: bytes
    code: str
    text: str


AnyMessage = (
    Hello
    | Welcome
    | Change
    | Refused
    | Cancel
    | Open
    | Describe
    | Call
    | Said
    | Invoke
    | Ask
    | Answer
    | Returned
    | Raised
    | Rejected
    | Announce
    | Leased
    | Withdraw
    | Lookup
    | Steps
    | Survey
    | Offers
)

SAYING = frozenset((Returned, Raised, Said))
"""The kinds that tell what a call printed.  Looked up by type: `isinstance`, which asks the metaclass of what it is
not, takes several times as long."""

_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode
"""The only frame of a message whose value, if any, is inside it."""
_output_decoder = msgspec.msgpack.Decoder(list[tuple[str, str]])
_decoder: msgspec.msgpack.Decoder[AnyMessage] = msgspec.msgpack.Decoder(AnyMessage)


_body_decoder = msgspec.msgpack.Decoder(bytes)

# What most short calls and their results say, put together from what they have in common.  To make a `Call` or a
# `Returned`, and to read it, takes several times as long.
_CALL, _RETURNED = (b"\x9a" + encode(tag) + b"\xc4\x10" for tag in ("call", "returned"))
"""Arrays of ten, which begin with the tag, and 16 bytes."""
_NOT_STREAMED = encode(None)
_NOT_LONG_NOR_DUE = encode([]) + encode(None)
_NOTHING_SAID = encode(0) + encode([])
_NOTHING_ELSE = encode([]) + encode(False) + encode(False) + encode(0) + encode(b"")
_BODY = len(_RETURNED) + 16 + len(_NOTHING_SAID)
"""Where the body begins."""


class Template:
    """What calls of one function have in common: all but their number and value, if nothing else travels with them.

    Args:
        module, member, digest: see `Call`.
    """

    __slots__ = ("_function", "digest")

    def __init__(self, module: str, member: str, digest: bytes) -> None:
        self.digest = digest
        self._function = encode(module) + encode(member) + encode(digest) + encode(b"") + _NOT_STREAMED

    def filled(self, call: bytes, body: bytes) -> bytes:
        """The only frame of one of them."""
        return b"".join((_CALL, call, self._function, encode(body), _NOT_LONG_NOR_DUE))


def returned(call: bytes, body: bytes) -> bytes:
    """The only frame of a `Returned` that says nothing but the result."""
    return b"".join((_RETURNED, call, _NOTHING_SAID, encode(body), _NOTHING_ELSE))


def body_of(header: bytes, call: bytes) -> bytes | None:
    """The body, if ``header`` is what `returned` gives for ``call``; None if it is anything else."""
    if header.startswith(_RETURNED + call + _NOTHING_SAID) and header.endswith(_NOTHING_ELSE):
        try:
            return _body_decoder.decode(header[_BODY : -len(_NOTHING_ELSE)]) or None
        except msgspec.MsgspecError:
            return None  # another message that ends in the same way
    return None


def result_of(header: bytes, call: bytes) -> Returned | None:
    """The message that begins with ``header``, if it says what ``call`` returned, and nothing else.

    Raises:
        RemoteProtocolError: it begins like one, and is none.
    """
    if not header.startswith(_RETURNED + call):
        return None
    message = decode(header)
    assert type(message) is Returned
    says_more = message.waiting or message.output or message.tail or message.refers or message.said or message.ambient
    return None if says_more else message


def pack(message: Message, segments: Segments = ()) -> list[Buffer]:
    """Frames of ``message`` carrying ``segments``."""
    if type(message) in SAYING and message.output:  # type: ignore[attr-defined]
        assert isinstance(message, (Returned, Raised, Said))
        if sum(len(text) for _, text in message.output) > INLINE:
            segments = [*segments, encode(message.output)]
            message.output, message.tail = [], True
    if segments and 0 < len(body := segments[0]) <= INLINE:
        message.body = body if type(body) is bytes else bytes(body)  # type: ignore[attr-defined]
        if len(segments) == 1:
            return [encode(message)]
        segments = segments[1:]
    elif not segments:
        return [encode(message)]
    sizes = [len(s) for s in segments]
    if len(sizes) > MAX_SEGMENTS or sum(sizes) > MAX_MESSAGE:
        raise ArgumentError(
            f"the values have {sum(sizes):,} bytes in {len(sizes):,} pieces; "
            f"at most {MAX_MESSAGE:,} in {MAX_SEGMENTS:,} travel at once"
        )
    message.sizes = sizes  # type: ignore[attr-defined]
    frames: list[Buffer] = [encode(message)]
    for segment in segments:
        view = memoryview(segment)
        size = len(view)
        if size <= CHUNK:
            if size:
                frames.append(segment)
        else:
            frames.extend(view[i : i + CHUNK] for i in range(0, size, CHUNK))
    return frames


def greeting(header: Buffer) -> list[Buffer]:
    """The frames of a message of which only ``header`` is wanted, from a peer that is not yet known.

    Raises:
        RemoteProtocolError: it is too long for that.
    """
    if len(header) > MAX_GREETING:
        raise RemoteProtocolError(f"a first message may have at most {MAX_GREETING} bytes")
    return [header]


def sizes_in(header: Buffer) -> list[int]:
    """The lengths of the segments that follow ``header``.

    Raises:
        RemoteProtocolError: it is not a header of this protocol.
    """
    return sizes_of(decode(header))


def decode(header: Buffer) -> AnyMessage:
    """The message that begins with ``header``.

    Raises:
        RemoteProtocolError: it is not a header of this protocol.
    """
    try:
        return _decoder.decode(header)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError, MemoryError) as error:
        raise RemoteProtocolError(f"not a message of protocol {PROTOCOL}: {error}") from None


def sizes_of(message: AnyMessage) -> list[int]:
    """The lengths of the segments that follow the header of ``message``.

    Raises:
        RemoteProtocolError: they are more than one message may have.
    """
    sizes: list[int] = getattr(message, "sizes", [])
    if len(sizes) > MAX_SEGMENTS or sum(sizes) > MAX_MESSAGE:
        raise RemoteProtocolError(f"{sum(sizes)} bytes in {len(sizes)} segments are more than one message may have")
    return sizes


def unpack(frames: Sequence[Buffer]) -> tuple[AnyMessage, list[Buffer]]:
    """The message and its segments.

    A segment of one frame is that frame's memory, not a copy; a longer one is put together once,
    writable, unless whoever received it has done so.

    Raises:
        RemoteProtocolError: the frames are not a message of this protocol.
    """
    message = decode(frames[0] if frames else b"")
    return message, segments_of(message, frames)


def segments_of(message: AnyMessage, frames: Sequence[Buffer]) -> list[Buffer]:
    """The segments of ``message``, of which these are the frames; see `unpack`."""
    body: bytes = getattr(message, "body", b"")
    segments: list[Buffer] = [body] if body else []
    if not getattr(message, "sizes", None):
        if len(frames) != 1:
            raise RemoteProtocolError("a message that announces no segments has further frames")
        return segments
    sizes = sizes_of(message)
    position = 1
    for size in sizes:
        count = -(-size // CHUNK)
        parts = frames[position : position + count]
        if parts and not isinstance(parts[0], bytes | memoryview) and len(parts[0]) == size:
            parts, count = [memoryview(parts[0])], 1
        position += count
        if len(parts) != count or sum(map(len, parts)) != size or size < 0:
            raise RemoteProtocolError("segments do not match their announced sizes")
        if count == 1:
            segments.append(parts[0])
        else:
            segments.append(bytearray().join(parts))
    if position != len(frames):
        raise RemoteProtocolError("more frames than announced")
    if type(message) in SAYING and message.tail:  # type: ignore[union-attr]
        assert isinstance(message, (Returned, Raised, Said))
        try:
            message.output = _output_decoder.decode(segments.pop())
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise RemoteProtocolError(f"the output of the call cannot be read: {error}") from None
    return segments


def size_of(segments: Segments) -> int:
    """Bytes of all segments together."""
    return sum(map(len, segments))
