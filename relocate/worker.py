"""The supervisor of a worker: starts executors, watches them, replaces them, says what there is.

One process, which never imports a designated module and never runs a call, so that it can always
answer.  Clients keep one connection to it, on the worker's address; calls go to the executors
directly.  The supervisor

* lets in whom the keys allow, and gives them the *ticket* that executors ask for;
* tells all clients at once when an executor comes, goes or dies, and of what (`wire.Obituary`);
* interrupts a running call on request, and ends the executor that does not heed;
* drains on SIGTERM; ends at once on a second one, on SIGINT, and when its program is gone.

Executors write the running call's id on a *slate*, memory shared with the supervisor: so an
obituary names the one call that is to blame, and an interrupt cannot hit the next call.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import json
import logging
import mmap
import os
import secrets
import select
import signal
import socket as sockets
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import FrameType
from typing import IO, TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import zmq

from . import __version__, capability, channel, config, embedded, executor, keys, session, wire
from .errors import ConfigError, RelocateError, RemoteProtocolError, WrongKey
from .places import end_of

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
HEED = 0.5
"""Seconds an interrupted call has to end before its executor is ended."""


@dataclass(frozen=True)
class Settings:
    """What a worker is started with."""

    listen: str
    executors: int
    modules: tuple[str, ...] = ()
    keys: str = ""
    ports: tuple[int, ...] = ()
    parent: int | None = None
    metrics: str = ""

    @property
    def is_ipc(self) -> bool:
        """Whether it listens on a Unix socket."""
        return self.listen.startswith("ipc://")


@dataclass
class Slot:
    """One place for an executor, and the process that is in it."""

    number: int
    incarnation: int = -1
    process: subprocess.Popen[bytes] | None = None
    slate: Any = None
    endpoint: str = ""
    started: float = 0.0
    start_at: float = 0.0
    quick_ends: int = 0
    condemned: tuple[bytes, float] | None = None
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
        self._reports: collections.deque[tuple[Slot, int, dict[str, Any]]] = collections.deque()
        self._ear, self._mouth = sockets.socketpair()
        self._ear.setblocking(False)
        self._mouth.setblocking(False)
        self._signals = 0
        self._draining = self._asked_to_drain = False
        self._status: int | None = None
        # An embedded worker is on the machine of its only client.
        self._capability = None if settings.parent is not None else capability.offered()
        self._authenticator: Any = None
        self._metrics: Metrics | None = None
        self._counting = threading.Lock()
        self._ended = 0
        """Calls of executors that are gone; counted for the metrics only."""
        self._deaths: collections.Counter[str] = collections.Counter()
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
        url = config.check_url(self._settings.listen) if self._settings.is_ipc else self._settings.listen
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        channel.configure(self._socket, HEARTBEAT)
        self._socket.rcvhwm = UNREAD
        self._socket.router_mandatory = True
        self._socket.linger = 500
        if not self._settings.is_ipc:
            self._use_keys(url)
        elif answers(url):  # libzmq would put its own socket in the place of the other worker's
            raise ConfigError(f"cannot listen on {url}: the address is taken; is another worker running?")
        try:
            channel.bind(self._socket, resolved(url))
        except zmq.ZMQError as error:
            if error.errno == zmq.EADDRINUSE:
                raise ConfigError(f"cannot listen on {url}: the address is taken; is another worker running?") from None
            raise ConfigError(f"cannot listen on {url}: {error.strerror}") from None
        last = channel.bound_to(self._socket)
        port = last.rpartition(":")[2]
        self.url = url if self._settings.is_ipc else f"{url.rpartition(':')[0]}:{port}"
        if port in map(str, self._settings.ports[: len(self._slots)]):
            raise ConfigError(f"port {port} of --ports is the one it listens on")
        if self._settings.metrics:
            from .metrics import Metrics

            self._metrics = Metrics(self._settings.metrics, self._families)

    def _families(self) -> Iterable[Any]:
        """The worker's metrics; asked for by another thread."""
        from .metrics import of_worker

        slates = [slot.slate for slot in self._slots if slot.slate is not None]
        with self._counting:
            calls = self._ended + sum(map(ended, slates))
        return of_worker(
            executors=len(self._slots),
            ready=len([slot for slot in self._slots if slot.endpoint]),
            running=len([slate for slate in slates if bytes(slate[executor.RUNNING]) != executor.NOTHING]),
            clients=len(self._clients),
            draining=self._draining,
            calls=calls,
            deaths=dict(self._deaths),
        )

    def _use_keys(self, url: str) -> None:
        from zmq.auth.thread import ThreadAuthenticator

        loopback = embedded.is_loopback(url)
        try:
            mine = keys.load(self._settings.keys, create=loopback)
        except WrongKey as error:
            raise ConfigError(f"{url} can be reached from other machines, so keys are needed: {error}") from None
        self._socket.curve_server = True
        self._socket.curve_secretkey = mine.secret
        self._key, self._secret = keys.pair()
        self._authenticator = ThreadAuthenticator(self._context)
        self._authenticator.start()
        self._authenticator.configure_curve_callback(domain="*", credentials_provider=self)

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether the client that holds ``key`` (in Z85) may come in; called by the authenticator."""
        from zmq.utils import z85

        public = z85.decode(key)
        # Read anew, so that `relocate keys allow` works on a running worker.
        try:
            if public in keys.load(self._settings.keys).peers:
                return True
        except (RelocateError, OSError) as error:
            # It would end the authenticator's thread, and nobody could come in any more.
            log.error("a client was refused: %s", error)
            return False
        log.warning("a client was refused; to let it in: relocate keys allow %s", public.hex())
        return False

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
        now = time.monotonic()
        for slot in self._slots:
            if slot.process is None and not self._draining and now >= slot.start_at:
                try:
                    self._start(slot)
                except OSError as error:  # no memory, no processes, no files left
                    self._failed(slot, f"cannot start an executor: {error.strerror}")
                    self._back_off(slot)
                    self._publish()
        polled: list[tuple[Any, int]] = [(self._socket, zmq.POLLIN), (self._ear.fileno(), zmq.POLLIN)]
        for ready, _ in zmq.zmq_poll(polled, self._patience(now)):
            if ready is self._socket:
                self._message()
            else:
                with contextlib.suppress(BlockingIOError):
                    self._ear.recv(4096)
        while self._reports:
            self._report(*self._reports.popleft())
        self._see_to_condemned()
        if self._draining and all(slot.process is None for slot in self._slots):
            self._status = 0

    def _patience(self, now: float) -> int:
        """Milliseconds until something is due."""
        due = [s.start_at for s in self._slots if s.process is None and not self._draining]
        due += [s.condemned[1] for s in self._slots if s.condemned is not None]
        return max(0, int((min(due) - now) * 1000) + 1) if due else -1

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        if number == signal.SIGINT or self._signals > 1:
            self._status = 128 + number
        else:
            self._asked_to_drain = True  # the loop does it: this handler may have come between any two lines

    def _drain(self) -> None:
        self._draining = True
        for slot in self._slots:
            self._tell(slot, drain=True)
        self._publish()

    def _end(self) -> None:
        for slot in self._slots:
            if slot.process is not None:
                self._kill(slot)
        if self._authenticator is not None:
            self._authenticator.stop()
        if self._metrics is not None:
            self._metrics.stop()
        self._socket.close()
        signal.set_wakeup_fd(-1)
        self._ear.close()
        self._mouth.close()
        if self._settings.is_ipc:
            channel.unbind(self._settings.listen)
            for slot in self._slots:
                executor.unbind(self._bind_url(slot))
            if self._settings.parent is not None:
                with contextlib.suppress(OSError):
                    os.rmdir(os.path.dirname(self._settings.listen.removeprefix("ipc://")))

    # Executors -------------------------------------------------------------------------------------

    def _start(self, slot: Slot) -> None:
        slot.incarnation += 1
        slot.endpoint = ""
        slot.condemned = None
        slot.started = time.monotonic()
        with shared_file() as file:
            file.truncate(executor.SLATE)
            slot.slate = mmap.mmap(file.fileno(), executor.SLATE)
            posix: dict[str, Any] = {"pass_fds": [file.fileno()], "process_group": 0} if os.name == "posix" else {}
            flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
            slot.process = subprocess.Popen(
                [sys.executable, *flags, "-P", "-c", embedded.boot("executor")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=embedded.environment(),
                **posix,
            )
            self._tell(
                slot,
                ticket=self._ticket.hex(),
                slate=file.fileno() if posix else None,
                secret=self._secret.hex(),
                bind=self._bind_url(slot),
                modules=list(self._settings.modules),
                embedded=self._settings.parent is not None,
                counts=bool(self._settings.metrics),
                supervisor=os.getpid(),
                heartbeat=HEARTBEAT,
            )
        threading.Thread(target=self._watch, args=(slot, slot.incarnation, slot.process), daemon=True).start()

    def _bind_url(self, slot: Slot) -> str:
        if self._settings.is_ipc:
            return f"{self._settings.listen}.{slot.number}.{slot.incarnation}"
        host = resolved(self._settings.listen).rpartition(":")[0]
        return f"{host}:{self._settings.ports[slot.number] if self._settings.ports else '*'}"

    def _watch(self, slot: Slot, incarnation: int, process: subprocess.Popen[bytes]) -> None:
        """In a thread: pass on an executor's reports, and its end."""
        assert process.stdout is not None
        # A process that the function started may hold the pipe open: the end of the executor, not
        # of the stream, is what counts.
        reader = threading.Thread(target=self._read, args=(slot, incarnation, process.stdout), daemon=True)
        reader.start()
        process.wait()
        reader.join(0.2)
        self._post(slot, incarnation, {"ended": process.returncode})

    def _read(self, slot: Slot, incarnation: int, stream: Any) -> None:
        with stream:
            for line in stream:
                self._post(slot, incarnation, json.loads(line))

    def _post(self, slot: Slot, incarnation: int, what: dict[str, Any]) -> None:
        self._reports.append((slot, incarnation, what))
        with contextlib.suppress(OSError):  # closed: the worker is ending
            self._mouth.send(b"\0")

    def _tell(self, slot: Slot, **what: Any) -> None:
        if slot.process is not None and slot.process.stdin is not None:
            with contextlib.suppress(OSError):
                slot.process.stdin.write(json.dumps(what).encode() + b"\n")
                slot.process.stdin.flush()

    def _report(self, slot: Slot, incarnation: int, what: dict[str, Any]) -> None:
        if incarnation != slot.incarnation:
            return
        if "ready" in what:
            slot.endpoint, slot.failure = what["ready"], ""
            self._publish()
            if self.on_ready is not None and all(s.endpoint for s in self._slots):
                self.on_ready(self.url, len(self._slots))
                self.on_ready = None
        elif "failed" in what:
            self._failed(slot, what["failed"])
            if self._settings.modules and not any(s.endpoint for s in self._slots):
                self._status = 1
        elif "ended" in what:
            self._buried(slot, what["ended"])

    def _buried(self, slot: Slot, code: int) -> None:
        assert slot.process is not None
        call = bytes(slot.slate[executor.RUNNING])
        with self._counting:
            self._ended += ended(slot.slate)
            slot.slate[:] = bytes(executor.SLATE)
        if not self._draining:
            self._deaths[end_of(code)] += 1
        was_ready = bool(slot.endpoint)
        self._kill(slot)
        slot.endpoint = ""
        unused = call == executor.NOTHING and (not was_ready or time.monotonic() - slot.started < QUICK)
        # Killed from outside, unless it was the kernel because the import of the modules takes too much memory.
        excused = code == -signal.SIGKILL and (was_ready or not self._settings.modules)
        if unused and not excused:
            self._back_off(slot)
        else:
            slot.quick_ends = 0
        if self._settings.is_ipc:
            executor.unbind(self._bind_url(slot))
        if not self._draining and not slot.failure:
            log.info("executor %d.%d ended with status %d", slot.number, slot.incarnation, code)
        self._publish([wire.Obituary(slot.number, slot.incarnation, code, call)])

    def _failed(self, slot: Slot, reason: str) -> None:
        """Note why there is no executor in ``slot``, and say so unless it was said before."""
        if reason != slot.failure:
            log.warning("%s", reason)
        slot.failure = reason

    def _back_off(self, slot: Slot) -> None:
        slot.quick_ends += 1
        slot.start_at = time.monotonic() + min(0.1 * 2**slot.quick_ends, 5.0)

    def _kill(self, slot: Slot) -> None:
        """End the executor and whatever it started."""
        assert slot.process is not None
        with contextlib.suppress(OSError):
            if os.name == "posix":
                os.killpg(slot.process.pid, signal.SIGKILL)
            else:
                slot.process.kill()
        slot.process.wait()
        if slot.process.stdin is not None:
            with contextlib.suppress(OSError):
                slot.process.stdin.close()
        slot.process = None

    def _see_to_condemned(self) -> None:
        now = time.monotonic()
        for slot in self._slots:
            if slot.condemned is not None and now >= slot.condemned[1]:
                call, slot.condemned = slot.condemned[0], None
                if slot.process is not None and bytes(slot.slate[executor.RUNNING]) == call:
                    with contextlib.suppress(OSError):
                        slot.process.kill()

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
        if bytes(slot.slate[executor.RUNNING]) != message.call:
            self._tell(slot, withdraw=message.call.hex())  # it may wait there
            return
        slot.slate[executor.CANCELLED] = message.call
        if not message.gentle:
            slot.condemned = (message.call, time.monotonic() + HEED)
        if os.name == "posix":
            with contextlib.suppress(OSError):
                slot.process.send_signal(signal.SIGINT)

    def _executors(self) -> list[wire.Executor]:
        if self._draining:
            return []
        return [wire.Executor(s.number, s.incarnation, s.endpoint) for s in self._slots if s.endpoint]

    def _publish(self, obituaries: list[wire.Obituary] | None = None) -> None:
        troubled = [s for s in self._slots if s.quick_ends >= TROUBLE]
        trouble = ""
        if len(troubled) == len(self._slots):
            trouble = troubled[0].failure or "they end as soon as they are started"
        change = wire.Change(self._executors(), obituaries or [], self._draining, trouble)
        for identity in list(self._clients):
            self._send(identity, change)

    def _send(self, identity: bytes, message: wire.Message) -> None:
        try:
            self._socket.send_multipart([identity, *wire.pack(message)])
        except zmq.ZMQError:
            self._clients.pop(identity, None)  # it has gone


def ended(slate: Any) -> int:
    """How many calls have ended on an executor."""
    return int.from_bytes(slate[executor.ENDED], "little")


def shared_file() -> IO[bytes]:
    """A file to share memory with another process; where the system can, it lies in no folder, which may be full."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("relocate"), "w+b")
    return tempfile.TemporaryFile()


def answers(url: str) -> bool:
    """Whether somebody listens on the Unix socket at ``url``, or may: it is busy, or another user's."""
    path = url.removeprefix("ipc://")
    with sockets.socket(sockets.AF_UNIX) as probe:
        return stat.S_ISSOCK(mode(path)) and probe.connect_ex(path) not in (errno.ECONNREFUSED, errno.ENOENT)


def mode(path: str) -> int:
    """The mode of what is at ``path``, 0 if nothing is."""
    try:
        return os.lstat(path).st_mode
    except OSError:
        return 0


def resolved(url: str) -> str:
    """``url`` in the form that libzmq binds to: numeric host, or ``*`` for all interfaces."""
    parts = urlsplit(url)
    host, _, port = parts.netloc.rpartition(":")
    if parts.scheme != "tcp":
        return url
    if host in ("0.0.0.0", "*"):
        return f"tcp://0.0.0.0:{port if port != '0' else '*'}"
    try:
        family: Literal[sockets.AddressFamily.AF_UNSPEC] = sockets.AF_UNSPEC
        found = sockets.getaddrinfo(host.strip("[]"), None, family, sockets.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(f"cannot listen on {url}: {host}: {error.strerror}") from None
    address = str(sorted(found, key=lambda f: f[0] != sockets.AF_INET)[0][4][0])
    if ":" in address:
        address = f"[{address}]"
    return f"tcp://{address}:{port if port != '0' else '*'}"


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
