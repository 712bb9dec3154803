"""The registry: which workers there are and what they offer, told to clients that ask, and when it changes.

One process, one thread, all of its knowledge in memory: a registry that is started again hears
everything anew, as workers announce themselves three times in a lease, and at once when a connection
comes back.  In its first lease it says of no module that nobody offers it.

* Who may connect is decided as at a worker; see `door`.
* A worker whose connection ends is dead: its offers end at once, not with their lease.  Which
  connection ended is known by its file descriptor; that it did is tried by sending.
* What a client watches is looked up again when an offer that may concern it changes, and sent if the
  answer is another one: whole, so that a lost message is mended by the next one.
* What is not known here is asked of the parent; see `upstream`.

Nothing that comes over the network is unpickled.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import secrets
import signal
import socket as sockets
import struct
import time
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import zmq

from . import __version__, config, leases, session, wire
from .door import Door
from .errors import ConfigError, RemoteProtocolError
from .upstream import PATIENCE, Upstream

log = logging.getLogger("relocate.registry")

LEASE = 10.0
"""Seconds that an offer stands, if nothing else is said and there are not very many."""
IO_THREADS = 2
"""Of libzmq: of what a new connection costs, most is done there."""
UNREAD = 1000
"""Messages of one client that may wait here."""
UNSENT = 1000
"""Messages that may wait to be sent to one client; one that reads no faster is forgotten."""
BURST = 200
"""Messages taken in before anything else is done."""
PACE = 0.02
"""Seconds at most for which changes are gathered before they are told: 100 ms later all have heard."""
TRIAL = 0.005
"""Seconds after the end of a connection was seen, to let the socket hear of it, too."""
MEMO = 10_000
"""Answers that are kept."""
PAGE = 1000
"""Offers that are listed in one message."""
LONGEST = 256 << 10
"""Bytes of a message."""


@dataclass(frozen=True)
class Settings:
    """What a registry is started with."""

    listen: str
    parent: str = ""
    keys: str = ""
    lease: float = LEASE


@dataclass(slots=True)
class Client:
    """Somebody who said hello."""

    position: int
    descriptor: int
    offers: dict[str, int] = field(default_factory=dict)
    """What it announced: addresses and incarnations."""
    key: bytes = b""
    watches: dict[int, Watch] = field(default_factory=dict)


@dataclass(slots=True)
class Watch:
    """A look-up whose answer is awaited, or watched."""

    lookup: wire.Lookup
    until: float
    sent: tuple[list[wire.Mount], bool] | None = None
    """What was told last."""
    forwarded: bool = False
    """Whether the parent has a part in the answer."""
    complete: bool = False


class Registry:
    """The state of the process."""

    def __init__(self, settings: Settings) -> None:
        self.leases = leases.Leases(settings.lease)
        self.id = secrets.token_bytes(16)
        self._began = time.monotonic()
        self._clients: dict[bytes, Client] = {}
        self._by_descriptor: dict[int, bytes] = {}
        self._suspects: collections.deque[tuple[float, bytes]] = collections.deque()
        self._dirty: set[tuple[bytes, int]] = set()
        self._dirty_since = 0.0
        self._watched: dict[str, set[tuple[bytes, int]]] = {}
        """Watches by the modules that they are for."""
        self._memo: dict[wire.Buffer, tuple[wire.Steps, list[wire.Buffer]]] = {}
        """Answers that are the same for all who ask so, until an offer changes."""
        self._tended = 0.0
        self._signals = 0
        self._ear, self._mouth = sockets.socketpair()
        self._ear.setblocking(False)
        self._mouth.setblocking(False)
        signal.set_wakeup_fd(self._mouth.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(IO_THREADS)
        context.set(zmq.MAX_SOCKETS, 65_000)
        self._door = Door(context, settings.listen, settings.keys, 0.0, UNREAD, what="registry")
        self._socket, self.url = self._door.socket, self._door.url
        self._socket.sndhwm = UNSENT
        self._monitor: zmq.Socket[bytes] = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._upstream: Upstream | None = None
        if settings.parent:
            self._upstream = Upstream(
                context, settings.parent, settings.keys, self.id, self.leases, self._parent_changed
            )

    def run(self) -> int:
        """Serve until told to stop; the process's exit status."""
        try:
            while not self._signals:
                self._turn()
        finally:
            self._end()
        return 0

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self._signals = number

    def _end(self) -> None:
        if self._upstream is not None:
            self._upstream.contact.close()
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._door.close()
        signal.set_wakeup_fd(-1)
        self._ear.close()
        self._mouth.close()

    # The loop --------------------------------------------------------------------------------------

    def _turn(self) -> None:
        polled: list[tuple[Any, int]] = [
            (self._socket, zmq.POLLIN), (self._monitor, zmq.POLLIN), (self._ear.fileno(), zmq.POLLIN),
        ]  # fmt: skip
        if self._upstream is not None:
            polled += self._upstream.contact.polled()
        idle = True
        for ready, _ in zmq.zmq_poll(polled, self._patience()):
            if ready is self._socket:
                idle = self._take()
            elif ready is self._monitor:
                self._ended()
            elif isinstance(ready, int):
                with contextlib.suppress(BlockingIOError):
                    self._ear.recv(4096)
            elif self._upstream is not None:
                self._upstream.contact.serve(ready)
        now = time.monotonic()
        self._try_suspects(now)
        # What waits to be read may be somebody's renewal; but nobody can put off the end of all leases by talking.
        if idle or now - self._tended > 3 * self.leases.lease:
            self._tend(now)
        if self.leases.touched:
            self._spread(now)
        if self._dirty and (idle or now - self._dirty_since > PACE):
            self._tell(now)

    def _patience(self) -> int:
        """Milliseconds until something is due."""
        if self._dirty:
            return 0
        wait = min(self.leases.lease / 10, 0.25)
        if self._upstream is not None:
            wait = min(wait, self._upstream.contact.patience() / 1000)
        if self._suspects:
            wait = min(wait, self._suspects[0][0] - time.monotonic())
        return max(0, int(wait * 1000) + 1)

    def _tend(self, now: float) -> None:
        """What is to be done now and then: offers and watches that expire, the parent."""
        if now - self._tended < min(self.leases.lease / 20, 0.25):
            return
        self._tended = now
        for offer in self.leases.expire(now):
            log.info("%s has expired", offer.url)
        for identity, client in self._clients.items():
            for query, watch in list(client.watches.items()):
                if watch.until < now:
                    self._unwatch(identity, query)
                elif not watch.complete:
                    self._mark((identity, query), now)
        if self._upstream is not None:
            self._upstream.tend(now)

    # Connections -----------------------------------------------------------------------------------

    def _ended(self) -> None:
        """Connections have ended: see whose."""
        with contextlib.suppress(zmq.Again):
            while True:
                event = self._monitor.recv_multipart(zmq.DONTWAIT)[0]
                descriptor = struct.unpack("=Hi", event)[1]
                if (identity := self._by_descriptor.get(descriptor)) is not None:
                    self._suspects.append((time.monotonic() + TRIAL, identity))

    def _try_suspects(self, now: float) -> None:
        while self._suspects and self._suspects[0][0] <= now:
            _, identity = self._suspects.popleft()
            if identity in self._clients:  # the descriptor may be another one's by now, who is there
                self._send(identity, wire.Leased(0, self.leases.lease))

    def _gone(self, identity: bytes) -> None:
        """Forget a client, and what it offers."""
        client = self._clients.pop(identity, None)
        if client is None:
            return
        if self._by_descriptor.get(client.descriptor) == identity:
            del self._by_descriptor[client.descriptor]
        for query in list(client.watches):
            self._unwatch(identity, query, client)
        for url, incarnation in client.offers.items():
            if self.leases.withdraw(url, incarnation, client.key, time.monotonic()):
                log.info("%s is gone: its connection has ended", url)

    # Messages --------------------------------------------------------------------------------------

    def _take(self) -> bool:
        """Take in messages; whether all."""
        for _ in range(BURST):
            try:
                frames = self._socket.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                return True
            self._message(frames)
        return False

    def _message(self, frames: list[zmq.Frame]) -> None:
        identity = frames[0].bytes
        client = self._clients.get(identity)
        try:
            if len(frames) < 2 or len(frames[1]) > LONGEST:
                raise RemoteProtocolError(f"a message to a registry may have at most {LONGEST} bytes")
            body: list[wire.Buffer] = [frame.buffer for frame in frames[1:]]
            message, _ = wire.unpack(body if client is not None else wire.greeting(body[0]))
        except RemoteProtocolError as error:
            self._send(identity, wire.Refused("protocol", str(error)))
            return
        if isinstance(message, wire.Hello):
            self._hello(identity, message, frames[1])
        elif client is None:
            self._send(identity, wire.Refused("protocol", "say hello first"))
        elif isinstance(message, wire.Announce):
            self._announce(identity, client, message)
        elif isinstance(message, wire.Withdraw):
            client.offers.pop(message.url, None)
            if self.leases.withdraw(message.url, message.incarnation, client.key, time.monotonic()):
                log.info("%s is withdrawn", message.url)
        elif isinstance(message, wire.Lookup):
            self._lookup(identity, client, message)
        elif isinstance(message, wire.Survey):
            now = time.monotonic()
            offers = [(entry.offer, entry.key, entry.expires - now) for entry in self.leases]
            for start in range(0, max(len(offers), 1), PAGE):
                more = start + PAGE < len(offers)
                self._send(identity, wire.Offers(offers[start : start + PAGE], more))

    def _hello(self, identity: bytes, message: wire.Hello, frame: zmq.Frame) -> None:
        refusal = session.compatible(message.protocol, session.PYTHON, "the registry")
        if message.to != "registry":
            refusal = wire.Refused("protocol", f"this is a registry, not a worker; write registry+{self.url}")
        if refusal is not None:
            self._send(identity, refusal)
            return
        if identity not in self._clients:
            descriptor = frame.get(zmq.SRCFD)
            assert isinstance(descriptor, int)
            if (before := self._by_descriptor.get(descriptor)) is not None:
                self._gone(before)  # its connection must have ended: the descriptor has been given anew
            key = b"" if self._door.is_ipc else frame.get("User-Id")
            self._clients[identity] = Client(leases.point(message.client), descriptor, key=bytes_of(key))
            self._by_descriptor[descriptor] = identity
        self._send(identity, wire.Welcome(self.url, __version__, session.PYTHON, self.id, []))

    def _announce(self, identity: bytes, client: Client, message: wire.Announce) -> None:
        url = message.offer.url
        known = url in client.offers
        if trouble := mistake(message.offer):
            answer = wire.Leased(message.incarnation, 0.0, trouble)
        else:
            answer = self.leases.announce(message, client.key, time.monotonic())
        if answer.lease:
            client.offers[url] = message.incarnation
            if not known:
                log.info("%s is announced", url)
        else:
            client.offers.pop(url, None)
            log.debug("not taken: %s", answer.trouble)
        self._send(identity, answer)

    def _lookup(self, identity: bytes, client: Client, message: wire.Lookup) -> None:
        now = time.monotonic()
        known = client.watches.get(message.query)
        if known is not None and known.lookup != message:
            self._unwatch(identity, message.query)
            known = None
        if known is None:
            known = client.watches[message.query] = Watch(message, 0.0)
            for module in set(message.modules or [""]):
                self._watched.setdefault(module, set()).add((identity, message.query))
        # One who asks only once is owed an answer, however short a lease is.
        known.until = now + (self.leases.lease if message.watch else max(self.leases.lease, 2 * PATIENCE))
        known.sent = None
        self._tell_one(identity, message.query, now)

    # Watches ---------------------------------------------------------------------------------------

    def _unwatch(self, identity: bytes, query: int, client: Client | None = None) -> None:
        watch = (client or self._clients[identity]).watches.pop(query)
        for module in set(watch.lookup.modules or [""]):
            watching = self._watched[module]
            watching.discard((identity, query))
            if not watching:
                del self._watched[module]

    def _mark(self, watch: tuple[bytes, int], now: float) -> None:
        if not self._dirty:
            self._dirty_since = now
        self._dirty.add(watch)

    def _spread(self, now: float) -> None:
        """Offers have changed: note whom that may concern."""
        touched, self.leases.touched = self.leases.touched, set()
        self._memo.clear()
        for module, watching in self._watched.items():
            if any(leases.concerns(name, module) for name in touched):
                for watch in watching:
                    self._mark(watch, now)

    def _parent_changed(self) -> None:
        now = time.monotonic()
        for identity, client in self._clients.items():
            for query, watch in client.watches.items():
                if watch.forwarded:
                    self._mark((identity, query), now)

    def _tell(self, now: float) -> None:
        """Tell those whose answers have changed."""
        dirty, self._dirty = self._dirty, set()
        for identity, query in dirty:
            self._tell_one(identity, query, now)

    def _tell_one(self, identity: bytes, query: int, now: float) -> None:
        client = self._clients.get(identity)
        watch = client.watches.get(query) if client is not None else None
        if client is None or watch is None:
            return
        steps, frames = self._steps(client, watch, now)
        told = steps.mounts, steps.complete
        watch.complete = steps.complete
        if told != watch.sent:
            watch.sent = told
            self._send_frames(identity, frames)
        if steps.complete and not watch.lookup.watch and query in client.watches:
            self._unwatch(identity, query, client)

    def _steps(self, client: Client, watch: Watch, now: float) -> tuple[wire.Steps, list[wire.Buffer]]:
        """The answer to a look-up as it is now, and its frames."""
        query = watch.lookup
        likewise = wire.pack(query)[0]
        if likewise in self._memo:
            return self._memo[likewise]
        found = self.leases.lookup(query, client.position)
        mounts, complete, lease = found.mounts, True, self.leases.lease
        watch.forwarded = False
        if found.missing:
            complete = now > self._began + self.leases.lease
            if self._upstream is not None:
                watch.forwarded = True
                more, last_word, lease = self._upstream.ask(found.missing, query, now)
                here = {mount.url for mount in mounts}
                mounts = mounts + leases.nearest((m for m in more if m.url not in here), client.position, query.limit)
                complete = last_word and (complete or bool(more))
        steps = wire.Steps(query.query, lease, mounts, complete)
        frames = wire.pack(steps)
        if found.whole and not found.missing and len(self._memo) < MEMO:
            self._memo[likewise] = steps, frames
        return steps, frames

    def _send(self, identity: bytes, message: wire.Message) -> None:
        self._send_frames(identity, wire.pack(message))

    def _send_frames(self, identity: bytes, frames: list[wire.Buffer]) -> None:
        try:
            self._socket.send_multipart([identity, *frames], zmq.DONTWAIT)
        except zmq.ZMQError:  # it has gone, or does not read
            self._gone(identity)


def mistake(offer: wire.Offer) -> str:
    """Why clients could make nothing of ``offer``, or nothing."""
    try:
        config.check_url(offer.url)
    except ConfigError as error:
        return f"no worker can be announced so: {error}"
    for module in offer.modules:
        if not all(part.isidentifier() for part in module.name.split(".")):
            return f"{module.name[:80]!r} is not the name of a module"
    if len({module.name for module in offer.modules}) < len(offer.modules):
        return "it offers a module twice"
    return ""


def bytes_of(key: Any) -> bytes:
    """A key that the socket tells in Z85."""
    from zmq.utils import z85

    return z85.decode(key) if key else b""
