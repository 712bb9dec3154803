"""The supervisor of a worker: starts executors, watches them, replaces them, says what there is.

One process, which never imports a designated module and never runs a call, so that it can always
answer.  Clients keep one connection to it, on the worker's address; calls go to the executors
directly.  The supervisor

* lets in whom the keys allow, and gives them the *ticket* that executors ask for;
* tells all clients at once when an executor comes, goes or dies, and of what (`wire.Obituary`);
* interrupts a running call on request, or when its deadline has passed, and ends the executor that does not heed;
* drains on SIGTERM; ends at once on a second one, on SIGINT, and when its program is gone.

Once calls may have to be ended, a *reserve* is kept: a process that takes the place of an executor at once.

Executors write the running call's id on a *slate*, memory shared with the supervisor: so an
obituary names the one call that is to blame, and an interrupt cannot hit the next call.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import json
import logging
import os
import secrets
import select
import signal
import socket as sockets
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any

import zmq

from . import __version__, capability, control, executor, keys, memory, session, wire
from .announcer import Announcer
from .door import Door, resolved
from .errors import ConfigError, RemoteProtocolError
from .places import end_of
from .processes import Process, standing

if TYPE_CHECKING:
    from .metrics import Metrics

log = logging.getLogger("relocate.worker")

HEARTBEAT = 1.0
QUICK = 1.0
"""Seconds: an executor that ends sooner after its start than this, or before it was ready, counts as
unable to start."""
TROUBLE = 3
"""That many such ends in a row are told to the clients."""
UNREAD = 1000
"""Messages of one client that may wait here."""
LOOK = 0.1
"""Seconds between two looks at how much memory executors take, if that is limited, and at deadlines of calls."""
WATCH = 1.0
"""Seconds for which deadlines are looked at after there was one."""
HEED = 0.07
"""Seconds an interrupted call has to end before its executor is ended: a tenth of a second, with all else, until
the one in reserve has taken its place."""
HEEDING = 0.005
"""Seconds of processor time in which it could have."""
HEED_BUSY = 0.5
"""The same where the executor could not heed, as other processes have all processors."""


@dataclass(frozen=True)
class Settings:
    """What a worker is started with."""

    listen: str
    executors: int
    modules: tuple[str, ...] = ()
    keys: str = ""
    ports: tuple[int, ...] = ()
    parent: int | None = None
    registries: tuple[str, ...] = ()
    advertise: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    metrics: str = ""
    memory: int = 0
    """Bytes that each executor may take; 0: as many as there are."""

    @property
    def is_ipc(self) -> bool:
        """Whether it listens on a Unix socket."""
        return self.listen.startswith("ipc://")


@dataclass
class Condemned:
    """A call that was interrupted, and how long its executor has to heed that."""

    call: bytes
    at: float
    """When it is ended."""
    last: float
    """The same, however busy the machine is."""
    used: float
    """Processor time that it had before, see `standing`."""

    def is_spared(self, state: str, used: float, now: float) -> bool:
        """Whether the executor waits for a processor, and has not had one with which it could have heeded."""
        return state == "R" and used < self.used + HEEDING and now < self.last


@dataclass
class Slot:
    """One place for an executor, and the process that is in it."""

    number: int
    incarnation: int = -1
    process: Process | None = None
    endpoint: str = ""
    started: float = 0.0
    start_at: float = 0.0
    quick_ends: int = 0
    condemned: Condemned | None = None
    watched: float = 0.0
    """Until when deadlines of calls there are looked at; 0: they are not."""
    starved: bool = False
    """Whether it was ended as it took more memory than it may."""
    killed: bool = False
    """Whether the supervisor has ended it for another reason."""
    failure: str = field(default="")


class Supervisor:
    """The state of a worker's main process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ticket = secrets.token_bytes(32)
        self._key = self._secret = b""
        """Of the executors.  Only who was let in here learns the public one, and no handshake succeeds without."""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._slots = [Slot(i) for i in range(settings.executors)]
        self._clients: dict[bytes, str] = {}
        self._announcer: Announcer | None = None
        self._offered: tuple[wire.Module, ...] | None = None if settings.modules else ()
        """What registries are told; None: not yet known."""
        self._reserve: Process | None = None
        self._wants_reserve = False
        self._reports: collections.deque[tuple[Process, dict[str, Any]]] = collections.deque()
        self._ear, self._mouth = sockets.socketpair()
        self._ear.setblocking(False)
        self._mouth.setblocking(False)
        self._signals = 0
        self._draining = self._asked_to_drain = False
        self._status: int | None = None
        # An embedded worker is on the machine of its only client.
        self._capability = None if settings.parent is not None else capability.offered(settings.memory)
        self._metrics: Metrics | None = None
        self._counting = threading.Lock()
        self._ended = 0
        """Calls of executors that are gone; counted for the metrics only."""
        self._deaths: collections.Counter[str] = collections.Counter()
        self._toll = memory.Toll()
        """By the kernel, for want of memory, until an executor ended last."""
        signal.set_wakeup_fd(self._mouth.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)
        self.url = ""
        self.on_ready: Callable[[str, int], None] | None = None

    def bind(self) -> None:
        """Listen.

        Raises:
            ConfigError: the address is wrong, taken, or needs keys that are not there.
        """
        self._door = Door(self._context, self._settings.listen, self._settings.keys, HEARTBEAT, UNREAD, what="worker")
        self._socket, self.url = self._door.socket, self._door.url
        if self._door.key:
            self._key, self._secret = keys.pair()
        if self._door.port in map(str, self._settings.ports[: len(self._slots)]):
            raise ConfigError(f"port {self._door.port} of --ports is the one it listens on")
        if self._settings.ports and all(map(is_taken, urls := [self._bind_url(slot) for slot in self._slots])):
            raise ConfigError(f"cannot listen on {urls[0]}: the address is taken; give other --ports")
        of = self._settings
        if of.registries:
            self._announcer = Announcer(self._context, of.registries, of.keys, self.url, of.advertise, of.labels)
        if of.metrics:
            from .metrics import Metrics

            self._metrics = Metrics(of.metrics, self._families)

    def _families(self) -> Iterable[Any]:
        """The worker's metrics; asked for by another thread."""
        from .metrics import of_worker

        processes = [process for slot in self._slots if (process := slot.process) is not None]
        with self._counting:
            calls = self._ended + sum(process.ended() for process in processes)
        return of_worker(
            executors=len(self._slots),
            ready=len([slot for slot in self._slots if slot.endpoint]),
            running=len([process for process in processes if process.running()[0] != executor.NOTHING]),
            clients=len(self._clients),
            draining=self._draining,
            calls=calls,
            deaths=dict(self._deaths),
        )

    def run(self) -> int:
        """Serve until told to stop; the process's exit status."""
        try:
            while self._status is None:
                self._turn()
        finally:
            self._end()
        return self._status

    # The loop --------------------------------------------------------------------------------------

    def _turn(self) -> None:
        if self._asked_to_drain and not self._draining:
            self._drain()
        if self._draining and all(slot.process is None for slot in self._slots):
            self._status = 0
            return
        now = time.monotonic()
        for slot in self._slots:
            if slot.process is None and not self._draining and now >= slot.start_at:
                try:
                    self._start(slot)
                except OSError as error:  # no memory, no processes, no files left
                    self._failed(slot, f"cannot start an executor: {error.strerror}")
                    self._back_off(slot)
                    self._publish()
        self._see_to_reserve()
        polled: list[tuple[Any, int]] = [(self._socket, zmq.POLLIN), (self._ear.fileno(), zmq.POLLIN)]
        if self._announcer is not None:
            polled += self._announcer.polled()
        for ready, _ in zmq.zmq_poll(polled, self._patience(now)):
            if ready is self._socket:
                self._message()
            elif self._announcer is None or not self._announcer.serve(ready):
                with contextlib.suppress(BlockingIOError):
                    self._ear.recv(4096)
        while self._reports:
            self._report(*self._reports.popleft())
        self._see_to_late()
        self._see_to_condemned()
        if self._settings.memory:
            self._see_to_memory()
        if self._announcer is not None:
            ready = len(self._executors())
            if self._offered is not None and (ready or self._trouble()):  # without trouble there will be one soon
                self._announcer.update(ready, self._offered)
            self._announcer.tend()

    def _patience(self, now: float) -> int:
        """Milliseconds until something is due."""
        due = [s.start_at for s in self._slots if s.process is None and not self._draining]
        due += [s.condemned.at for s in self._slots if s.condemned is not None]
        if self._settings.memory or any(slot.watched for slot in self._slots):
            due.append(now + LOOK)
            watched = [s.process for s in self._slots if s.watched and s.process is not None]
            due += [moment for process in watched if (moment := process.running()[1]) > now]
        if self._announcer is not None:
            due.append(now + self._announcer.patience() / 1000)
        return max(0, int((min(due) - now) * 1000) + 1) if due else -1

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        if number == signal.SIGINT or self._signals > 1:
            self._status = 128 + number
        else:
            self._asked_to_drain = True  # the loop does it: this handler may have come between any two lines

    def _drain(self) -> None:
        self._draining = True
        if self._announcer is not None:
            self._announcer.withdraw()
        for slot in self._slots:
            if slot.process is not None and slot.endpoint:
                slot.process.tell(drain=True)
            elif slot.process is not None:  # it imports modules, perhaps for long, and runs nothing
                slot.killed = True
                slot.process.kill()
        self._drop_reserve()
        self._publish()

    def _end(self) -> None:
        for slot in self._slots:
            if slot.process is not None:
                slot.process.bury()
        self._drop_reserve()
        if self._announcer is not None:
            self._announcer.withdraw()
            self._announcer.close()
        if self._metrics is not None:
            self._metrics.stop()
        self._door.close()
        signal.set_wakeup_fd(-1)
        self._ear.close()
        self._mouth.close()
        if self._settings.is_ipc:
            for slot in self._slots:
                executor.unbind(self._bind_url(slot))
            if self._settings.parent is not None:
                if os.getppid() != self._settings.parent:  # it was killed
                    control.clean(self._settings.parent)
                with contextlib.suppress(OSError):
                    os.rmdir(os.path.dirname(self._settings.listen.removeprefix("ipc://")))

    # Executors -------------------------------------------------------------------------------------

    def _start(self, slot: Slot) -> None:
        slot.incarnation += 1
        slot.endpoint = ""
        slot.condemned = None
        slot.starved = slot.killed = False
        slot.watched = 0.0
        slot.started = time.monotonic()
        process, self._reserve = self._reserve, None
        slot.process = self._begin() if process is None or process.has_ended() else process
        slot.process.tell(
            bind=self._bind_url(slot),
            survey=self._announcer is not None and self._offered is None and slot.number == 0,
        )

    def _begin(self) -> Process:
        """A new process, which does what is the same for every slot, and waits for what is not."""
        return Process(
            self._post,
            ticket=self._ticket.hex(),
            secret=self._secret.hex(),
            modules=list(self._settings.modules),
            embedded=self._settings.parent is not None,
            counts=bool(self._settings.metrics),
            heartbeat=HEARTBEAT,
        )

    def _see_to_reserve(self) -> None:
        """Start it where it is wanted, but not while executors start: they need the processors."""
        if not self._wants_reserve or self._reserve is not None or self._draining:
            return
        if all(slot.process is None or slot.endpoint for slot in self._slots):
            try:
                self._reserve = self._begin()
            except OSError:  # there is no room for it
                self._wants_reserve = False

    def _drop_reserve(self) -> None:
        self._wants_reserve = False
        if self._reserve is not None:
            self._reserve.bury()
            self._reserve = None

    def _bind_url(self, slot: Slot) -> str:
        if self._settings.is_ipc:
            return f"{self._settings.listen}.{slot.number}.{slot.incarnation}"
        host = resolved(self._settings.listen).rpartition(":")[0]
        return f"{host}:{self._settings.ports[slot.number] if self._settings.ports else '*'}"

    def _post(self, process: Process, what: dict[str, Any]) -> None:
        """From another thread."""
        self._reports.append((process, what))
        with contextlib.suppress(OSError):  # closed: the worker is ending
            self._mouth.send(b"\0")

    def _report(self, process: Process, what: dict[str, Any]) -> None:
        if process is self._reserve and "ended" in what:
            self._drop_reserve()  # until calls may have to be ended again: it may not live here
            if what["ended"] == -signal.SIGKILL:
                self._toll.has(time.monotonic())  # if it was for want of memory, that was no executor's end
        slot = next((slot for slot in self._slots if slot.process is process), None)
        if slot is None:
            return
        if "ready" in what:
            slot.endpoint, slot.failure = what["ready"], ""
            self._publish()
            if self.on_ready is not None and all(s.endpoint for s in self._slots):
                self.on_ready(self.url, len(self._slots))
                self.on_ready = None
        elif "offers" in what:
            self._offered = tuple(
                wire.Module(name, version, bytes.fromhex(digest), bytes.fromhex(face))
                for name, version, digest, face in what["offers"]
            )
        elif "watch" in what:
            process.slate[executor.WATCHED] = 1
            slot.watched = time.monotonic() + WATCH
            self._wants_reserve = True
        elif "failed" in what:
            self._failed(slot, what["failed"])
            if self._settings.modules and not any(s.endpoint for s in self._slots):
                self._status = 1
        elif "ended" in what:
            self._buried(slot, what["ended"])

    def _buried(self, slot: Slot, code: int) -> None:
        assert slot.process is not None
        call = slot.process.running()[0]
        with self._counting:
            self._ended += slot.process.ended()
            slot.process.slate[:] = bytes(executor.SLATE)
        starved = self._is_starved(slot, code)
        if not self._draining:
            self._deaths[end_of(code)] += 1
        was_ready = bool(slot.endpoint)
        slot.process.bury()
        slot.process = None
        slot.endpoint = ""
        unused = call == executor.NOTHING and (not was_ready or time.monotonic() - slot.started < QUICK)
        # Killed from outside, unless it was the kernel because the import of the modules takes too much memory.
        excused = code == -signal.SIGKILL and not starved and (was_ready or not self._settings.modules)
        if unused and not excused:
            self._back_off(slot)
        else:
            slot.quick_ends = 0
        if self._settings.is_ipc:
            executor.unbind(self._bind_url(slot))
        if not self._draining and not slot.failure:
            why = ", for want of memory" if starved else ""
            log.info("executor %d.%d ended with status %d%s", slot.number, slot.incarnation, code, why)
        self._publish([wire.Obituary(slot.number, slot.incarnation, code, call, starved)])

    def _is_starved(self, slot: Slot, code: int) -> bool:
        """Whether an executor that has ended did so for want of memory: its own allowance, or the machine's."""
        if slot.starved or slot.killed or code != -signal.SIGKILL:
            return slot.starved
        return self._toll.has(time.monotonic())

    def _failed(self, slot: Slot, reason: str) -> None:
        """Note why there is no executor in ``slot``, and say so unless it was said before, of another slot perhaps."""
        if reason not in [other.failure for other in self._slots]:
            log.warning("%s", reason)
        slot.failure = reason

    def _back_off(self, slot: Slot) -> None:
        slot.quick_ends += 1
        slot.start_at = time.monotonic() + min(0.1 * 2**slot.quick_ends, 5.0)

    def _see_to_late(self) -> None:
        """Interrupt calls whose deadline has passed; their clients may be stopped, or cut off."""
        now = time.monotonic()
        for slot in self._slots:
            process = slot.process
            if not slot.watched or process is None:
                continue
            if now >= slot.watched:
                process.slate[executor.WATCHED] = 0
            call, moment = process.running()  # after that, as the executor looks at it after it has noted the moment
            if moment:
                process.slate[executor.WATCHED] = 1
                slot.watched = now + WATCH
                if now >= moment:
                    self._interrupt(slot, call)
            elif now >= slot.watched:
                slot.watched = 0.0

    def _see_to_condemned(self) -> None:
        now = time.monotonic()
        for slot in self._slots:
            condemned = slot.condemned
            if condemned is None or now < condemned.at:
                continue
            if slot.process is None or slot.process.running()[0] != condemned.call:
                slot.condemned = None
                continue
            if condemned.is_spared(*standing(slot.process.pid), now):
                condemned.at = now + HEED / 4
                continue
            slot.condemned = None
            slot.killed = True
            slot.process.kill()

    def _see_to_memory(self) -> None:
        """End the executors that take more memory than they may."""
        for slot in self._slots:
            if slot.process is not None and memory.of_process(slot.process.pid) > self._settings.memory:
                slot.starved = True
                if not slot.endpoint:
                    self._failed(slot, "an executor takes more than --memory before it is ready; allow it more")
                slot.process.kill()
        if self._reserve is not None and memory.of_process(self._reserve.pid) > self._settings.memory:
            self._drop_reserve()

    # Clients ---------------------------------------------------------------------------------------

    def _message(self) -> None:
        frames: list[wire.Buffer] = list(self._socket.recv_multipart())
        identity = bytes(frames[0])
        try:
            message, _ = wire.unpack(frames[1:] if identity in self._clients else wire.greeting(frames[1]))
        except RemoteProtocolError as error:
            self._send(identity, wire.Refused("protocol", str(error)))
            return
        if isinstance(message, wire.Hello):
            refusal = session.compatible(message.protocol, message.python, "the worker")
            if message.to != "worker":
                hint = "; leave out registry+ before its address" if message.to == "registry" else ""
                refusal = wire.Refused("protocol", f"this is a worker, not a {message.to}{hint}")
            if refusal is not None:
                refusal.text += f" (relocate {message.version} there, {__version__} here)"
                self._send(identity, refusal)
                return
            self._clients[identity] = message.client
            welcome = wire.Welcome(
                self.url, __version__, session.PYTHON, self._ticket, self._executors(), self._key, self._capability
            )
            self._send(identity, welcome)
        elif identity not in self._clients:
            self._send(identity, wire.Refused("protocol", "say hello first"))
        elif isinstance(message, wire.Cancel):
            self._cancel(message)

    def _cancel(self, message: wire.Cancel) -> None:
        if not 0 <= message.slot < len(self._slots):
            return
        slot = self._slots[message.slot]
        if slot.process is None:
            return
        if slot.process.running()[0] != message.call:
            slot.process.tell(withdraw=message.call.hex())  # it may wait there
            return
        self._interrupt(slot, message.call, gentle=message.gentle)

    def _interrupt(self, slot: Slot, call: bytes, *, gentle: bool = False) -> None:
        assert slot.process is not None
        slot.process.slate[executor.CANCELLED] = call
        if slot.condemned is not None and slot.condemned.call == call:
            return  # another interrupt would disturb it while it tidies up
        if not gentle:
            now = time.monotonic()
            slot.condemned = Condemned(call, now + HEED, now + HEED_BUSY, standing(slot.process.pid)[1])
            self._wants_reserve = True
        slot.process.interrupt()

    def _executors(self) -> list[wire.Executor]:
        if self._draining:
            return []
        return [wire.Executor(s.number, s.incarnation, s.endpoint) for s in self._slots if s.endpoint]

    def _trouble(self) -> str:
        """Why no executor can be started, or nothing."""
        if any(slot.quick_ends < TROUBLE for slot in self._slots):
            return ""
        return self._slots[0].failure or "they end as soon as they are started"

    def _publish(self, obituaries: list[wire.Obituary] | None = None) -> None:
        change = wire.Change(self._executors(), obituaries or [], self._draining, self._trouble())
        for identity in list(self._clients):
            self._send(identity, change)

    def _send(self, identity: bytes, message: wire.Message) -> None:
        try:
            self._socket.send_multipart([identity, *wire.pack(message)])
        except zmq.ZMQError:
            self._clients.pop(identity, None)  # it has gone


def is_taken(url: str) -> bool:
    """Whether somebody listens on the port of ``url``, of which the host is in numbers."""
    host, _, port = url.removeprefix("tcp://").rpartition(":")
    family = sockets.AF_INET6 if host.startswith("[") else sockets.AF_INET
    with sockets.socket(family) as probe:
        # As libzmq does: a connection that ended is nobody.
        probe.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def follow(parent: int) -> None:
    """Let this worker end when the process ``parent`` does (in a thread)."""

    def wait() -> None:
        try:
            # The pipe alone does not tell: children that the program forked hold it open too.
            watched: list[int] = [os.pidfd_open(parent), 0]
        except (OSError, AttributeError):
            watched = [0]
        if os.getppid() == parent:
            select.select(watched, [], [])
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=wait, name="relocate-parent", daemon=True).start()


def main() -> int:
    """Entry point of an embedded worker; its settings are the first line of standard input."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(1))  # until there is anything to end
    spec = json.loads(sys.stdin.buffer.readline() or b"null")
    if spec is None:
        return 1
    logging.basicConfig(format="relocate: %(message)s")
    supervisor = Supervisor(Settings(**spec))
    try:
        supervisor.bind()
    except ConfigError as error:
        print(f"relocate: {error}", file=sys.stderr)
        return 1
    follow(spec["parent"])
    return supervisor.run()
