"""Workers in memory: real links, seats, sessions and frames; simulated sockets, supervisors, deaths.

A `Network` stands in for `links.Links`: what supervisors say goes through its real handling of
messages.  A `Channel` stands in for `channel.ZmqChannel`: both real sessions and the real frames
are in its path, and frames are copied, so that nothing is shared between the two sides.
"""

from __future__ import annotations

import collections
import contextlib
import signal
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .. import channel, describing, digests, events, interface, lending, session, wire
from ..caller import Caller, Exchange
from ..connection import Connection
from ..errors import WorkerUnreachable
from ..executor import NOTHING
from ..links import Links
from ..output import Output
from ..places import Link, Seat
from ..policy import NEVER
from ..running import Answered, Runner
from .clock import Clock, Turn
from .faults import CutOff, Delay, Drain, Fault, Garble, Kill, Refuse

LATENCY = 0.0001
"""Seconds that a message takes one way."""
HEARTBEAT = 1.0
"""Seconds after which a peer that is cut off is given up."""


def module(name: str, source: str, **names: Any) -> types.ModuleType:
    """A module from source, in no `sys.modules`; ``names`` are put into it first.

    Its version is what it says as ``__version__``.
    """
    made = types.ModuleType(name)
    made.__dict__.update(names)
    exec(compile(source, f"<{name}>", "exec", dont_inherit=True), made.__dict__)
    return made


class Network(Links):
    """All workers of a simulation, and the client's links to them."""

    def __init__(self, clock: Clock, turn: Turn | None = None) -> None:
        self.clock = clock
        self.turn = turn or Turn(clock)
        self.workers: dict[str, Worker] = {}
        self.links: list[Link] = []
        self.cancelled: list[tuple[str, bytes]] = []
        """Seat and call of each cancellation that the driver has asked for."""
        self.on_death: Callable[[str], None] = lambda seat: None
        self.on_change: Callable[[], None] = self.turn.notify_all
        self.opened = 0
        self.closed = 0
        self._faults: dict[str, Fault] = {}
        # What the inherited handling of messages needs.
        self._turn = self.turn  # type: ignore[assignment]
        self._depth = 1
        self._on_death = lambda seat: self.on_death(seat)
        self._on_change = lambda: self.on_change()
        self._tell = events.emit

    def worker(
        self,
        name: str,
        executors: int = 1,
        modules: Iterable[types.ModuleType] = (),
        *,
        depth: int = 1,
        up: bool = True,
    ) -> Worker:
        """Add a worker with so many executors; unless ``up``, it is there but silent until `Worker.start`."""
        link = Link(name, f"tcp://{name}:7000")
        self._depth = depth
        made = self.workers[name] = Worker(self, link, executors, modules, depth)
        self.links.append(link)
        if up:
            made.start()
        return made

    def whenever(self, member: str, fault: Fault | None) -> None:
        """Let ``fault`` strike each call of ``member`` ('module.function'), on any worker."""
        if fault is None:
            self._faults.pop(member, None)
        else:
            self._faults[member] = fault

    def strikes(self, member: str) -> Fault | None:
        """The fault that strikes each call of ``member``."""
        return self._faults.get(member)

    def open_channel(self, seat: Seat) -> channel.ZmqChannel:
        """A new channel to ``seat``."""
        self.opened += 1
        executor = self.workers[seat.link.name].executors.get((seat.slot, seat.incarnation))
        return Channel(self, seat, executor)  # type: ignore[return-value]

    def cancel(self, seat: Seat, call: bytes, *, gentle: bool = False) -> None:
        """Note that ``call`` is not wanted any more."""
        self.cancelled.append((seat.id, call))

    def stop(self) -> None:
        """Nothing is running."""


class Worker:
    """A supervisor and its executors."""

    def __init__(
        self, network: Network, link: Link, executors: int, modules: Iterable[types.ModuleType], depth: int
    ) -> None:
        self.network = network
        self.link = link
        self.modules = {m.__name__: m for m in modules}
        self.executors: dict[tuple[int, int], Executor] = {}
        self.calls: list[str] = []
        """The members that were run here, in order."""
        self.capability: wire.Capability | None = None
        """What it says of its machine when it starts."""
        self._draining = False
        self._count = executors
        self._depth = depth
        self._incarnations: collections.Counter[int] = collections.Counter()
        self._faults: collections.deque[Fault | None] = collections.deque()
        self._socket = _Socket()
        # It never connects.
        self._connection = Connection(None, "worker", "", configure=str, pauses=(0, 0))  # type: ignore[arg-type]
        link.connection = self._connection

    # What a test does ------------------------------------------------------------------------------

    def start(self) -> None:
        """Come up, with all executors ready; or again, after `stop`."""
        self._connection.socket = self._socket  # type: ignore[assignment]
        self._draining = False
        for slot in range(self._count):
            self._begin(slot)
        announced = self._announced()
        self._say(
            wire.Welcome(self.link.name, "0", session.PYTHON, Executor.TICKET, announced, capability=self.capability)
        )

    def stop(self) -> None:
        """Go down without a word, with all executors: the link is lost."""
        for executor in self.executors.values():
            executor.alive = False
        self.executors.clear()
        self._connection.socket = None
        error = WorkerUnreachable(f"the connection to {self.link.name} was lost")
        self.network._down(self.link, error)

    def drain(self) -> None:
        """Shut down in order: nothing new is accepted."""
        self._draining = True
        for executor in self.executors.values():
            executor.draining = True
        self._say(wire.Change([], draining=True))

    def refuse(self, code: str, text: str) -> None:
        """Refuse the client, as for another protocol version."""
        with contextlib.suppress(AttributeError):
            self._say(wire.Refused(code, text))

    def install(self, *modules: types.ModuleType) -> None:
        """Put other versions in the place of modules."""
        self.modules.update({m.__name__: m for m in modules})

    def next(self, *faults: Fault | None) -> None:
        """Let these strike the next calls here, one each; None lets one pass."""
        self._faults.extend(faults)

    def kill(self, slot: int = 0, fault: Kill | None = None) -> None:
        """End the executor in ``slot`` now, whatever it does."""
        executor = next(e for (s, _), e in self.executors.items() if s == slot)
        executor.end(fault or Kill())

    def occupy(self, slot: int, seconds: float) -> None:
        """Let another thread of this program have the executor in ``slot`` for so long."""
        seat = next(s for s in self.link.seats if s.slot == slot)
        with self.network.turn:
            seat.outstanding += 1

        def leave() -> None:
            with self.network.turn:
                seat.outstanding -= 1
                self.network.on_change()

        self.network.clock.after(seconds, leave)

    # What its executors do -------------------------------------------------------------------------

    def fault(self, member: str) -> Fault | None:
        """What strikes the next call, of ``member``."""
        return (self._faults.popleft() if self._faults else None) or self.network.strikes(member)

    def bury(self, executor: Executor, fault: Kill, call: bytes) -> None:
        """Say that ``executor`` has ended, and start another in its place."""
        del self.executors[executor.slot, executor.incarnation]
        clock = self.network.clock
        if fault.obituary is not None:
            code = -signal.SIGKILL if fault.memory else fault.returncode
            obituary = wire.Obituary(executor.slot, executor.incarnation, code, call, fault.memory)
            clock.after(fault.obituary, lambda: self._say(wire.Change(self._announced(), [obituary], self._draining)))
        if fault.restart is not None:
            clock.after(fault.restart, lambda: self._restart(executor.slot))

    def _restart(self, slot: int) -> None:
        if self._connection.socket is not None and not self._draining:
            self._begin(slot)
            self._say(wire.Change(self._announced()))

    def _begin(self, slot: int) -> None:
        self._incarnations[slot] += 1
        executor = Executor(self, slot, self._incarnations[slot])
        self.executors[slot, executor.incarnation] = executor

    def _announced(self) -> list[wire.Executor]:
        if self._draining:
            return []
        return [wire.Executor(s, i, str(7001 + s)) for s, i in sorted(self.executors)]

    def _say(self, message: wire.Message) -> None:
        if self._connection.socket is not None:
            self._socket.frames = wire.pack(message)
            self.network._depth = self._depth
            self.network._message(self.link, self._connection)


class Executor:
    """One process that runs calls, without the process."""

    TICKET = b"t" * 32

    def __init__(self, worker: Worker, slot: int, incarnation: int) -> None:
        self.worker = worker
        self.slot = slot
        self.incarnation = incarnation
        self.alive = True
        self.draining = False
        self.running = NOTHING
        self._output = Output()
        # Lost: the executor was killed while it asked its caller.
        self.printing = _Printing(self._output)
        self._runner = Runner(self._output, (channel.Lost,))

    def end(self, fault: Kill) -> None:
        """Die."""
        if self.alive:
            self.alive = False
            self.worker.bury(self, fault, NOTHING if fault.before else self.running)

    def run(
        self,
        message: wire.Call | wire.Describe,
        segments: list[wire.Buffer],
        ask: Exchange,
        tell: Callable[[wire.Said], None],
    ) -> Answered:
        """What `relocate.executor` answers to the same message."""
        call = message.call
        module = self.worker.modules.get(message.module)
        if self.draining:
            return wire.Rejected(call, "draining", "the worker is shutting down"), ()
        if module is None:
            return wire.Rejected(call, "module", f"cannot import {message.module!r}: there is none"), ()
        if isinstance(message, wire.Describe):
            return wire.Returned(call, 0, []), [interface.encode(describing.describe(module))]
        if message.digest != digests.digest(module):
            return wire.Rejected(call, "stale", f"this worker has another version of {message.module!r}"), ()
        self.worker.calls.append(f"{message.module}.{message.member}")
        caller = Caller(call, self._output, ask, tell if message.stream is None else None)
        lending.asking[:] = [lambda: caller]
        try:
            function: Any = module
            for part in message.member.split("."):
                function = getattr(function, part)
        except AttributeError as error:
            return wire.Rejected(call, "arguments", f"{type(error).__name__}: {error}"), ()
        with self.printing:
            reply = self._runner.run(message, function, segments, 0)
        caller.over = True
        return (wire.Rejected(call, "result", caller.unfit), ()) if caller.unfit else reply


class _Printing:
    """While it is entered, what is printed is kept."""

    def __init__(self, output: Output) -> None:
        self._streams: list[Any] = [output.stream("stdout"), output.stream("stderr")]
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> None:
        self._own = sys.stdout, sys.stderr
        self._stack.enter_context(contextlib.redirect_stdout(self._streams[0]))
        self._stack.enter_context(contextlib.redirect_stderr(self._streams[1]))

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """While the program's own code runs, it prints to its own streams."""
        with contextlib.redirect_stdout(self._own[0]), contextlib.redirect_stderr(self._own[1]):
            yield

    def __exit__(self, *error: object) -> None:
        self._stack.close()


class Channel:
    """A connection to an executor that is a function call."""

    path = None
    hedged_from = 0.01

    def __init__(self, network: Network, seat: Seat, executor: Executor | None) -> None:
        self._network = network
        self._executor = executor
        self._client = session.ClientSession()
        self._server = session.ServerSession(Executor.TICKET)
        self._refusal: wire.Refused | None = None
        self._going: tuple[wire.Call | wire.Describe, list[wire.Buffer]] | None = None
        """What has been sent and has not arrived."""
        self._coming: tuple[float, list[wire.Buffer]] | None = None
        """An answer that is late, and when it comes."""
        self._last: list[wire.Buffer] = []
        """The frames that have come last."""
        self._seen: list[channel.Exchanged] = []
        """What `exchange` was told, and is not what it waited for."""
        self._closed = False
        opening = wire.Open(wire.PROTOCOL, session.PYTHON, seat.link.ticket)
        self._client.send(opening)
        message, _ = self._server.receive(_copied(wire.pack(opening)))
        if isinstance(message, wire.Refused):
            self._refusal = message

    def send(self, request: wire.Call | wire.Describe, frames: list[wire.Buffer]) -> None:
        """See `relocate.channel.Channel`."""
        assert not self._closed, "a channel was used after it was closed"
        self._client.send(request)
        self._going = request, frames

    def reply(self, answer: channel.Answer, deadline: float = NEVER) -> channel.Exchanged:
        """See `relocate.channel.Channel`; the deadline is one of the simulated clock."""
        assert not self._closed, "a channel was used after it was closed"
        while self._seen:
            seen, given, size = self._seen.pop(0)
            if not isinstance(seen, session.Question):
                return seen, given, size
            answer(seen, given)
        if self._going is None:
            return self._go_on(deadline)
        (request, frames), self._going = self._going, None
        self._network.clock.advance(LATENCY)
        executor = self._executor
        if executor is None or not executor.alive:
            raise channel.Lost("connection refused")
        if self._refusal is not None:
            return self._back(wire.pack(self._refusal))
        member = request.module if isinstance(request, wire.Describe) else f"{request.module}.{request.member}"
        fault = executor.worker.fault(member)
        if isinstance(fault, Kill) and fault.before:
            executor.end(fault)
        elif isinstance(fault, Refuse):
            return self._back(wire.pack(wire.Refused(fault.code, fault.text)))
        elif isinstance(fault, Garble):
            return self._back(list(fault.frames))
        elif isinstance(fault, Drain):
            executor.worker.drain()
        self._alive(executor)
        executor.running = request.call
        try:
            reply = self._run(executor, frames, fault, answer, deadline)
        finally:
            executor.running = NOTHING
        self._network.clock.advance(LATENCY)
        return self._back(reply)

    def exchange(
        self,
        call: bytes,
        frames: list[wire.Buffer],
        until: float,
        brief: bool,
        meanwhile: channel.Meanwhile | None = None,
    ) -> tuple[list[wire.Buffer], int] | None:
        """See `relocate.channel.Channel`; what is said meanwhile is not answered, as nothing was lent."""
        request = wire.decode(frames[0])
        assert isinstance(request, wire.Call)
        self.send(request, frames)
        if meanwhile is not None:
            meanwhile()

        def keep(question: session.Question, segments: list[wire.Buffer]) -> list[wire.Buffer]:
            self._seen.append((question, segments, 0))
            return []

        try:
            reply = self.reply(keep, max(until, self._network.clock.now() + self.hedged_from))
        except channel.TimeUp:
            return None
        header = self._last[0]
        assert isinstance(header, bytes)
        if wire.result_of(header, call) is None or self._seen or self._network.clock.now() > until:
            self._seen.append(reply)
            return None
        return reply[1:]

    def _run(
        self,
        executor: Executor,
        frames: list[wire.Buffer],
        fault: Fault | None,
        answer: channel.Answer,
        deadline: float,
    ) -> list[wire.Buffer]:
        message, segments = self._server.receive(_copied(frames))
        assert isinstance(message, (wire.Call, wire.Describe))

        def ask(asked: wire.Ask | wire.Invoke, segments: wire.Segments) -> tuple[wire.Answer, list[wire.Buffer]]:
            question, given, _ = self._back(wire.pack(asked, segments))
            assert isinstance(question, (wire.Ask, wire.Invoke))
            self._network.clock.advance(2 * LATENCY)
            self._alive(executor)
            with executor.printing.paused():
                frames = answer(question, given)
            answered, received = self._server.receive(_copied(frames))
            assert isinstance(answered, wire.Answer)
            return answered, received

        def tell(said: wire.Said) -> None:
            question, given, _ = self._back(wire.pack(said))
            assert isinstance(question, wire.Said)
            with executor.printing.paused():
                answer(question, given)

        reply, result = executor.run(message, segments, ask, tell)
        answered: list[wire.Buffer] = [reply] if isinstance(reply, bytes) else wire.pack(reply, result)
        if isinstance(fault, Delay):
            self._coming = self._network.clock.now() + fault.seconds, answered
            self._delay(deadline)
        elif isinstance(fault, Kill):
            executor.end(fault)
        elif isinstance(fault, CutOff):
            self._network.clock.advance(HEARTBEAT)
            raise channel.Lost("connection lost")
        self._alive(executor)
        return answered

    def _delay(self, deadline: float) -> None:
        clock = self._network.clock
        assert self._coming is not None
        clock.advance(max(0.0, min(self._coming[0], deadline) - clock.now()))
        if deadline < self._coming[0]:
            raise channel.TimeUp

    def _go_on(self, deadline: float) -> channel.Exchanged:
        """Wait for the answer that did not come in time before."""
        assert self._coming is not None
        assert self._executor is not None
        self._delay(deadline)
        self._alive(self._executor)
        self._network.clock.advance(LATENCY)
        frames, self._coming = self._coming[1], None
        return self._back(frames)

    def _alive(self, executor: Executor) -> None:
        if not executor.alive:
            self._network.clock.advance(LATENCY)
            raise channel.Lost("connection lost")

    def _back(self, frames: list[wire.Buffer]) -> channel.Exchanged:
        self._last = copied = _copied(frames)
        reply, segments = self._client.receive(copied)
        return reply, segments, sum(map(len, copied))

    def close(self) -> None:
        """See `relocate.channel.Channel`."""
        self._closed = True
        self._network.closed += 1


class _Socket:
    """The end of a link that a worker writes to."""

    def __init__(self) -> None:
        self.frames: list[wire.Buffer] = []
        self.sent: list[wire.AnyMessage] = []

    def recv_multipart(self) -> list[wire.Buffer]:
        return _copied(self.frames)

    def send_multipart(self, frames: list[wire.Buffer]) -> None:
        self.sent.append(wire.unpack(_copied(frames))[0])

    def disable_monitor(self) -> None: ...

    def close(self, linger: int = 0) -> None: ...


def _copied(frames: Iterable[wire.Buffer]) -> list[wire.Buffer]:
    """Memory of its own for each frame, writable like a received one."""
    first, *rest = (bytearray(f) for f in frames)
    return [bytes(first), *rest]
