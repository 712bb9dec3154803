"""The process that runs calls, one at a time.

Started by the supervisor (`worker`), which sends the settings as a first line of JSON on standard
input, then commands (``drain``); the end of that stream is the end of the supervisor, and of this
process.  Reports go to what was standard output; file descriptors 0 and 1 are then replaced,
so that no function reads commands or writes into reports.

Calls run in the main thread, which alone can be interrupted.  It also reads and writes the socket
itself: while a call runs, libzmq's own thread takes in further messages and answers heartbeats.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib
import json
import mmap
import os
import signal
import socket as sockets
import sys
import threading
import time
from collections import deque
from functools import partial
from types import FrameType, ModuleType
from typing import Any, TextIO

import zmq
from blake3 import blake3

from . import channel, interface, lending, raising, session, wire
from .errors import ArgumentError, ConfigError, RemoteProtocolError
from .output import Output
from .running import Runner

RUNNING = slice(0, 16)
CANCELLED = slice(16, 32)
NOTHING = bytes(16)
SLATE = 32
"""Bytes of the memory shared with the supervisor: the call that runs, the call to interrupt."""
MAX_SESSIONS = 65_536
MAX_STRANGERS = 1024
UNREAD = 16
"""Messages of one connection that may wait here; a client has an opening, a call and an answer under way."""
READABLE = int(zmq.POLLIN)


class Executor:
    """The state of this process."""

    def __init__(self, settings: dict[str, Any], stream: TextIO, reports: TextIO) -> None:
        self._settings = settings
        self._stream = stream
        self._reports = reports
        self._ticket = bytes.fromhex(settings["ticket"])
        self._slate: Any = bytearray(SLATE)
        if settings["slate"] is not None:
            self._slate = mmap.mmap(settings["slate"], SLATE)
        self._embedded: bool = settings["embedded"]
        self._sessions: dict[bytes, session.ServerSession] = {}
        self._strangers: dict[bytes, session.ServerSession] = {}
        """Connections that have not shown the ticket, or were refused: they push out no session."""
        self._queue: deque[tuple[bytes, wire.Call | wire.Describe, list[wire.Buffer]]] = deque()
        self._answers: deque[tuple[wire.Answer, list[wire.Buffer]]] = deque()
        self._commands: deque[dict[str, Any]] = deque()
        self._modules: dict[str, tuple[ModuleType, bytes]] = {}
        self._interruptible = False
        self._draining = False
        self._ear, self._mouth = sockets.socketpair()
        self._output = Output()
        self._runner = Runner(self._output, Interruptible(self))
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        channel.configure(self._socket, settings["heartbeat"])
        self._socket.rcvtimeo = channel.SOON
        self._socket.rcvhwm = UNREAD
        self._socket.router_mandatory = True
        if settings["secret"]:
            # The client's key was checked by the supervisor, which gave it the ticket; here the
            # handshake must need no thread of ours, as a call may hold the interpreter for minutes.
            self._socket.curve_server = True
            self._socket.curve_secretkey = bytes.fromhex(settings["secret"])
        self._poll: list[tuple[Any, int]] = [(self._socket, zmq.POLLIN), (self._ear.fileno(), zmq.POLLIN)]
        self._bind(settings["bind"])

    def _bind(self, url: str) -> None:
        try:
            channel.bind(self._socket, url)
        except zmq.ZMQError as error:
            reason = "the address is taken" if error.errno == zmq.EADDRINUSE else error.strerror
            self.report(failed=f"cannot listen on {url}: {reason}")
            raise SystemExit(1) from None
        except ConfigError as error:
            self.report(failed=str(error))
            raise SystemExit(1) from None
        self._endpoint = url if url.startswith("ipc://") else channel.bound_to(self._socket).rpartition(":")[2]

    def report(self, **what: Any) -> None:
        """Tell the supervisor."""
        try:
            self._reports.write(json.dumps(what) + "\n")
            self._reports.flush()
        except BrokenPipeError:
            end(self._settings)

    def run(self) -> int:
        """Serve until told to stop."""
        channel.keep_freed_memory()
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
        threading.Thread(target=self._listen, name="relocate-commands", daemon=True).start()
        if self._settings["survey"]:
            self.report(offers=[self._offer(module) for module in self._settings["modules"]])
        self.report(ready=self._endpoint)
        while True:
            try:
                if not self._step():
                    return 0
            except KeyboardInterrupt:
                continue  # the call that was to be interrupted had just ended

    def _step(self) -> bool:
        if not self._queue:
            self._await()
        while self._commands:
            self._obey(self._commands.popleft())
        if self._draining:
            self._take()
            for identity, message, _ in self._queue:
                self._send(identity, wire.Rejected(message.call, "draining", "the worker is shutting down"))
            self._socket.close(linger=2000)
            self._ear.close()
            return False
        if self._queue:
            identity, message, segments = self._queue.popleft()
            self._slate[RUNNING] = message.call
            reply, result = self._answer(identity, message, segments)
            self._slate[RUNNING] = NOTHING
            self._send(identity, reply, result)
        return True

    def _await(self) -> None:
        """Take in messages, or else wait for one or for a command."""
        if not self._take():
            for ready, _ in zmq.zmq_poll(self._poll, -1):
                if isinstance(ready, int):
                    self._ear.recv(4096)

    def _take(self) -> bool:
        """Take in all messages that have come or come soon; whether there was one."""
        while True:
            try:
                identity = self._socket.recv()
            except zmq.Again:
                return False
            known = self._sessions.get(identity)
            try:
                if known is not None and known.state is session.State.KNOWN:
                    frames = channel.receive(self._socket)
                else:  # of what a stranger sends only the header is kept
                    header = self._socket.recv_multipart()[0]
                    known = known or self._strangers.get(identity) or self._stranger(identity)
                    # An embedded worker's socket lies in its program's own folder; import paths may be long.
                    frames = [header] if self._embedded else wire.greeting(header)
                message, segments = known.receive(frames)
            except RemoteProtocolError as error:
                message, segments = wire.Refused("protocol", str(error)), []
            if isinstance(message, (wire.Call, wire.Describe)):
                self._queue.append((identity, message, segments))
            elif isinstance(message, wire.Answer):
                self._answers.append((message, segments))
            elif isinstance(message, wire.Refused):
                self._send(identity, message)
            elif isinstance(message, wire.Open):
                self._sessions[identity] = self._strangers.pop(identity)
                if self._embedded and message.path is not None and message.path != sys.path:
                    sys.path[:] = message.path
                    importlib.invalidate_caches()
            # Each client's channel carries one call at a time, so that of one alone nothing more can have come.
            if len(self._sessions) == 1 or not int(self._socket.get(zmq.EVENTS)) & READABLE:
                return True

    def _stranger(self, identity: bytes) -> session.ServerSession:
        for group, most in ((self._strangers, MAX_STRANGERS), (self._sessions, MAX_SESSIONS)):
            while len(group) >= most:
                del group[next(iter(group))]
        # A client may not choose its identity, or it could take over a known one.
        made = session.ServerSession(self._ticket if identity[:1] == b"\0" else os.urandom(32))
        self._strangers[identity] = made
        return made

    def _send(self, identity: bytes, reply: wire.Message, segments: wire.Segments = ()) -> None:
        try:
            frames = wire.pack(reply, segments)
        except ArgumentError as error:  # more than one message may have
            assert isinstance(reply, (wire.Returned, wire.Raised))
            frames = wire.pack(wire.Rejected(reply.call, "result", str(error)))
        try:
            self._socket.send(identity, zmq.SNDMORE)
            channel.send(self._socket, frames)
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:  # a client that is gone needs no answer
                raise

    def _answer(
        self, identity: bytes, message: wire.Call | wire.Describe, segments: list[wire.Buffer]
    ) -> tuple[wire.Message, wire.Segments]:
        call = message.call
        try:
            module, digest = self._module(message.module)
        except ImportError as error:
            return wire.Rejected(call, "module", f"the worker cannot import {message.module!r}: {error}"), ()
        except BaseException as error:
            return wire.Rejected(call, "module", f"importing {message.module!r} fails: {error!r}"), ()
        if isinstance(message, wire.Describe):
            try:
                described = interface.encode(interface.describe(module, digest))
            except Exception as error:
                return wire.Rejected(call, "module", f"{message.module!r} cannot be described: {error!r}"), ()
            self._output.take()
            return wire.Returned(call, len(self._queue), []), [described]
        if message.digest != digest:
            return wire.Rejected(call, "stale", f"this worker has another version of {message.module!r}"), ()
        try:
            function: Any = module
            for part in message.member.split("."):
                function = getattr(function, part)
        except AttributeError as error:
            return wire.Rejected(call, "arguments", f"{type(error).__name__}: {error}"), ()
        lending.asking[:] = [partial(self._ask, identity, call)]
        return self._runner.run(message, function, segments, len(self._queue))

    def _ask(self, identity: bytes, call: bytes, lent: int, skip: int, count: int) -> tuple[list[Any], bool]:
        """Items of an iterator that the caller has kept."""
        try:
            while True:
                # Not between the frames of a message: an interrupt there would garble the next one.
                self._interruptible = False
                # Asked again every second: a caller that is gone shows when it is written to.
                self._socket.send_multipart([identity, *wire.pack(wire.Ask(call, lent, skip, count))])
                until = time.monotonic() + 1
                while time.monotonic() < until:
                    self._interruptible = True
                    come = self._socket.poll(1000)
                    self._interruptible = False
                    if come:
                        self._take()
                    while self._answers:
                        answer, segments = self._answers.popleft()
                        if (answer.call, answer.lent, answer.skip) != (call, lent, skip):
                            continue
                        if answer.raised:
                            raise raising.load(segments, "caller")
                        items, ended = wire.loads(segments)
                        return items, ended
        finally:
            self._interruptible = True

    def _module(self, name: str) -> tuple[ModuleType, bytes]:
        found = self._modules.get(name)
        if found is None:
            module = importlib.import_module(name)
            found = self._modules[name] = module, interface.digest(module)
        return found

    def _offer(self, name: str) -> tuple[str, str, str, str]:
        """What registries are told of a module: its name, version, and the digests of its code and interface."""
        module, digest = self._module(name)
        version = getattr(module, "__version__", "")
        try:
            face = blake3(interface.encode(interface.describe(module, digest))).hexdigest()
        except Exception:  # a client that asks for it is told
            face = ""
        return name, version if isinstance(version, str) else "", digest.hex(), face

    def _obey(self, command: dict[str, Any]) -> None:
        if "drain" in command:
            self._draining = True

    def _listen(self) -> None:
        """In a thread: the supervisor's commands; its end is ours, whatever runs."""
        for line in self._stream:
            self._commands.append(json.loads(line))
            self._mouth.send(b"\0")
        end(self._settings)

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        if self._interruptible and self._slate[CANCELLED] == self._slate[RUNNING]:
            raise KeyboardInterrupt


class Interruptible:
    """While it is entered, an interrupt that is meant for the running call is one."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def __enter__(self) -> None:
        self._executor._interruptible = True

    def __exit__(self, *error: object) -> None:
        self._executor._interruptible = False


def end(settings: dict[str, Any]) -> None:
    """End this process at once, and leave no socket file."""
    channel.unbind(settings["bind"])
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
    # Keep the pipes to the supervisor, and give functions nothing to read and stderr to write to.
    commands, reports = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    stream = os.fdopen(commands, "r", encoding="utf-8")
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 -- for as long as the process lives
    settings = json.loads(stream.readline() or "null")
    if settings is None or os.getppid() != settings["supervisor"]:
        os._exit(1)  # it has ended before the kernel was told to follow it
    return Executor(settings, stream, os.fdopen(reports, "w", encoding="utf-8")).run()
