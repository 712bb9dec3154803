"""The process that runs calls, one at a time.

Started by the supervisor (`worker`), which sends on standard input, as lines of JSON, what is the same
for every slot; what is the slot's, perhaps much later; and then commands (``drain``).  The end of that
stream is the end of the supervisor, and of this process.  Reports go to what was standard output; file
descriptors 0 and 1 are then replaced, so that no function reads commands or writes into reports.

Calls run in the main thread, which alone can be interrupted.  It also reads and writes the sockets
itself (`reception`).
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import mmap
import os
import signal
import socket as sockets
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from operator import attrgetter
from types import FrameType, ModuleType
from typing import Any, TextIO

import zmq
from blake3 import blake3

from . import deadlines, describing, digests, direct, entries, interface, lending, memory, transport, wire
from .caller import Caller
from .errors import ConfigError
from .output import Output
from .reception import Peer, Reception
from .running import Answered, Runner

RUNNING = slice(0, 16)
CANCELLED = slice(16, 32)
NOTHING = bytes(16)
ENDED = slice(32, 40)
DUE = slice(40, 48)
WATCHED = 48
SLATE = 49
"""Bytes of the memory shared with the supervisor: the call that runs, the call to interrupt, how many calls
have ended here, if that is counted, until when the answer is wanted, if that is known, and whether the supervisor
looks at that."""
MOMENT = struct.Struct("<d")
WHILE = 0.1
"""Seconds between two messages that tell what a running function prints."""
MOST_WITHDRAWN = 1024

_getter = lru_cache(1024)(attrgetter)


class Executor:
    """The state of this process."""

    def __init__(self, settings: dict[str, Any], stream: TextIO, reports: TextIO) -> None:
        self._settings = settings
        self._stream = stream
        self._reports = reports
        self._slate: Any = bytearray(SLATE)
        if settings["slate"] is not None:
            self._slate = mmap.mmap(settings["slate"], SLATE)
        self._embedded: bool = settings["embedded"]
        self._counts: bool = settings["counts"]
        self._ended = 0
        self._commands: deque[dict[str, Any]] = deque()
        self._withdrawn: deque[bytes] = deque(maxlen=MOST_WITHDRAWN)
        """Calls that are not to be begun."""
        self._modules: dict[str, tuple[ModuleType, bytes]] = {}
        self._digests: dict[str, bytes] = {}
        """Of the sources alone, by module: calls of methods name them."""
        self._draining = False
        self._ear, self._mouth = sockets.socketpair()
        self._output = Output(self._written)
        self._said_at = 0.0
        self._running: tuple[Peer, wire.Call] | None = None
        """Whose call runs, and which."""
        self._caller: Caller | None = None
        """Of the running call, if it was asked or told something."""
        lending.asking[:] = [self._calling]
        self._runner = Runner(self._output)
        self._reception: Reception
        """Once it has a slot."""

    def _listening(self) -> Reception:
        url = self._settings["bind"]
        try:
            reception = Reception(
                url,
                bytes.fromhex(self._settings["ticket"]),
                self._settings["heartbeat"],
                bytes.fromhex(self._settings["secret"]),
                trusting=self._embedded,
                opened=self._opened,
            )
        except zmq.ZMQError as error:
            reason = "the address is taken" if error.errno == zmq.EADDRINUSE else error.strerror
            self.report(failed=f"cannot listen on {url}: {reason}")
            raise SystemExit(1) from None
        except (ConfigError, OSError) as error:
            self.report(failed=f"cannot listen on {url}: {error}" if isinstance(error, OSError) else str(error))
            raise SystemExit(1) from None
        reception.listen(self._ear.fileno())
        return reception

    def report(self, **what: Any) -> None:
        """Tell the supervisor."""
        try:
            self._reports.write(json.dumps(what) + "\n")
            self._reports.flush()
        except BrokenPipeError:
            end(self._settings)

    def run(self) -> int:
        """Serve until told to stop."""
        transport.keep_freed_memory()
        signal.signal(signal.SIGINT, self._interrupted)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.stdout, sys.stderr = self._output.stream("stdout"), self._output.stream("stderr")
        self._output.listen()
        for module in self._settings["modules"]:
            try:
                importlib.import_module(module)
            except ImportError as error:
                self.report(failed=f"cannot import {module!r}: {error}; install it here, or set PYTHONPATH")
                return 1
            with contextlib.suppress(Exception):  # who calls it is told
                self._module(module)
        place = read(self._stream)
        if place is None:
            return 1
        self._settings.update(place)
        self._reception = self._listening()
        threading.Thread(target=self._listen, name="relocate-commands", daemon=True).start()
        if self._settings["survey"]:
            self.report(offers=[self._offer(module) for module in self._settings["modules"]])
        self.report(ready=self._reception.endpoint)
        while True:
            try:
                if not self._step():
                    return 0
            except KeyboardInterrupt:
                continue  # the call that was to be interrupted had just ended

    def _step(self) -> bool:
        reception = self._reception
        if not reception.calls and reception.wait():
            self._ear.recv(4096)
        while self._commands:
            self._obey(self._commands.popleft())
        if self._draining:
            reception.take()
            for peer, message, _ in reception.calls:
                reception.send(peer, wire.Rejected(message.call, "draining", "the worker is shutting down"))
            reception.close()
            self._ear.close()
            return False
        if reception.calls:
            peer, message, segments = reception.calls.popleft()
            if message.call in self._withdrawn:
                self._withdrawn.remove(message.call)
                reception.send(peer, wire.Rejected(message.call, "draining", "it was taken back"))
                return True
            self._slate[RUNNING] = message.call
            if type(message) is wire.Call and message.due is not None:
                reply, result = self._answer_until(message.due[1], peer, message, segments)
            else:
                reply, result = self._answer(peer, message, segments)
            self._slate[RUNNING] = NOTHING
            if self._counts and isinstance(message, wire.Call):
                self._ended += 1
                self._slate[ENDED] = self._ended.to_bytes(8, "little")
            reception.send(peer, reply, result)
        return True

    def _answer_until(self, moment: float, peer: Peer, message: wire.Call, segments: list[wire.Buffer]) -> Answered:
        """The same for a call that is late from that moment on; the supervisor sees to that, whatever runs here."""
        if time.monotonic() >= moment:
            return wire.Rejected(message.call, "late", "its deadline passed before it could begin"), ()
        self._slate[DUE] = MOMENT.pack(moment)
        if not self._slate[WATCHED]:
            self.report(watch=True)
        with deadlines.until(moment):
            reply, result = self._answer(peer, message, segments)
        self._slate[DUE] = bytes(MOMENT.size)
        if isinstance(reply, wire.Raised) and self._slate[CANCELLED] == message.call and time.monotonic() >= moment:
            return wire.Rejected(message.call, "late", "its deadline passed while it ran"), ()  # not for the program
        return reply, result

    def _opened(self, message: wire.Open) -> None:
        """A client says who it is; an embedded worker's only one has its own import path."""
        if self._embedded and message.path is not None and message.path != sys.path:
            sys.path[:] = message.path
            importlib.invalidate_caches()

    def _answer(self, peer: Peer, message: wire.Call | wire.Describe, segments: list[wire.Buffer]) -> Answered:
        call = message.call
        try:
            module, digest = self._modules.get(message.module) or self._module(message.module)
        except ImportError as error:
            return wire.Rejected(call, "module", f"the worker cannot import {message.module!r}: {error}"), ()
        except BaseException as error:
            return wire.Rejected(call, "module", f"importing {message.module!r} fails: {error!r}"), ()
        if type(message) is wire.Describe:
            try:
                described = interface.encode(entries.describe(module, digest))
            except Exception as error:
                return wire.Rejected(call, "module", f"{message.module!r} cannot be described: {error!r}"), ()
            self._output.take()
            return wire.Returned(call, len(self._reception.calls), []), [described]
        if message.digest != digest and message.digest != self._sources(message.module, module):
            version = getattr(module, "__version__", None)
            which = f", {version}" if isinstance(version, str) else ""
            return wire.Rejected(call, "stale", f"this worker has another version of {message.module!r}{which}"), ()
        try:
            function = _getter(message.member)(module)
        except AttributeError as error:
            return wire.Rejected(call, "arguments", f"{type(error).__name__}: {error}"), ()
        self._running = peer, message
        self._said_at = 0.0
        reply = self._runner.run(message, function, segments, len(self._reception.calls))
        self._running, caller, self._caller = None, self._caller, None
        if caller is not None:
            caller.end()
            if caller.unfit:
                return wire.Rejected(call, "result", caller.unfit), ()
        return reply

    def _calling(self) -> Caller:
        """The caller of the running call."""
        if self._caller is None:
            assert self._running is not None
            peer, message = self._running
            # What is generated again would be said again.
            tell = partial(self._tell, peer) if message.stream is None else None
            self._caller = Caller(message.call, self._output, partial(self._ask, peer), tell)
        return self._caller

    def _written(self) -> None:
        """The running function has printed something; it is sent at once if nothing was for a while."""
        if self._running is None or threading.current_thread() is not threading.main_thread():
            return
        if self._running[1].stream is not None:
            return
        now = time.monotonic()
        if now > self._said_at + WHILE:
            if self._said_at:
                self._calling().say()
            self._said_at = now

    # Not interrupted between the parts of a message, as that would garble the next one; only while waiting.

    def _tell(self, peer: Peer, message: wire.Said) -> None:
        with self._uninterrupted():
            self._reception.send(peer, message)

    def _ask(
        self, peer: Peer, question: wire.Ask | wire.Invoke, segments: wire.Segments
    ) -> tuple[wire.Answer, list[wire.Buffer]]:
        if threading.current_thread() is not threading.main_thread():  # which alone is interrupted
            return self._reception.ask(peer, question, segments, lambda until: until())
        with self._uninterrupted() as before:

            def wait(until: Callable[[], Any]) -> Any:
                self._runner.interruptible = before
                try:
                    return until()
                finally:
                    self._runner.interruptible = False

            return self._reception.ask(peer, question, segments, wait)

    @contextlib.contextmanager
    def _uninterrupted(self) -> Iterator[bool]:
        """In the main thread; gives whether it was interruptible before."""
        runner = self._runner
        before, runner.interruptible = runner.interruptible, False
        try:
            yield before
        finally:
            runner.interruptible = before

    def _module(self, name: str) -> tuple[ModuleType, bytes]:
        found = self._modules.get(name)
        if found is None:
            module = importlib.import_module(name)
            found = self._modules[name] = module, digests.digest(module)
        return found

    def _sources(self, name: str, module: ModuleType) -> bytes:
        if name not in self._digests:
            self._digests[name] = digests.source_digest(module)
        return self._digests[name]

    def _offer(self, name: str) -> tuple[str, str, str, str]:
        """What registries are told of a module: its name, version, and the digests of its code and interface."""
        module, digest = self._module(name)
        version = getattr(module, "__version__", "")
        try:
            face = blake3(interface.encode(describing.describe(module, digest))).hexdigest()
        except Exception:  # a client that asks for it is told
            face = ""
        return name, version if isinstance(version, str) else "", digest.hex(), face

    def _obey(self, command: dict[str, Any]) -> None:
        if "drain" in command:
            self._draining = True
        if "withdraw" in command:
            self._withdrawn.append(bytes.fromhex(command["withdraw"]))

    def _listen(self) -> None:
        """In a thread: the supervisor's commands; its end is ours, whatever runs."""
        for line in self._stream:
            self._commands.append(json.loads(line))
            self._mouth.send(b"\0")
        end(self._settings)

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        if self._runner.interruptible and self._slate[CANCELLED] == self._slate[RUNNING]:
            raise KeyboardInterrupt


def unbind(url: str) -> None:
    """Remove the socket files of the executor at ``url``."""
    transport.unbind(url)
    if url.startswith("ipc://"):
        transport.unbind(url + direct.SUFFIX)


def read(stream: TextIO) -> dict[str, Any] | None:
    """What the supervisor says next; None: it has ended."""
    said: dict[str, Any] | None = json.loads(stream.readline() or "null")
    return said


def end(settings: dict[str, Any]) -> None:
    """End this process at once, and leave no socket file."""
    unbind(settings.get("bind", ""))
    os._exit(1)


def follow_parent() -> None:
    """Let the kernel end this process with the supervisor, where it can (Linux): even a call that
    holds the interpreter cannot outlive it."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def main() -> int:
    """Entry point of the process."""
    follow_parent()
    memory.volunteer()
    # Keep the pipes to the supervisor, and give functions nothing to read and stderr to write to.
    commands, reports = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    stream = os.fdopen(commands, "r", encoding="utf-8")
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 -- for as long as the process lives
    settings = read(stream)
    if settings is None or os.getppid() != settings["supervisor"]:
        os._exit(1)  # it has ended before the kernel was told to follow it
    return Executor(settings, stream, os.fdopen(reports, "w", encoding="utf-8")).run()
