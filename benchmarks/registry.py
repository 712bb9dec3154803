"""The registry at scale: 10,000 workers that announce themselves, 1,000 clients that watch.

The registry is the real one, on tcp with CURVE.  Each worker and each client is a connection of its own that
says what the real one says.  Workers live in processes of this program's own, so that they can die:
run as a program, this is such a process.
"""

from __future__ import annotations

import contextlib
import json
import platform
import re
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import zmq
from report import Row
from stage import Stage

from relocate import contact, keys, leases, session, transport, wire

LIMIT = 0.1
"""Seconds in which clients are to learn of a change."""
LEASE = 10.0
"""Seconds, at least: with many workers it grows."""
CROWDS = 4
"""Processes in which the workers live."""
GLANCE = 0.5
"""Seconds between two looks of a worker at what the registry has answered."""
AT_ONCE = 200
"""Connections that are made at one time: a handshake may take 10 s at most."""
OFFERING = 10
"""Workers that offer one and the same of the modules that not all offer."""
KIB = 1 << 20
"""Memory is told in MiB, and shown in KiB."""
TABLE, MEMORY = 4 << 10, 64 << 10
"""Bytes that one worker may take in the registry, without and with its connection."""
LOOKUP = 1e-3
"""Seconds that one look-up may take."""


def run(stage: Stage) -> list[Row]:
    """The rows."""
    offers, clients = (200, 50) if stage.quick else (10_000, 1000)
    lease = max(LEASE, leases.EACH * offers)
    many = f"{offers:,} workers"
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, 65_000)
    rows = [row("table of the registry for one worker", table(offers) / KIB, TABLE / KIB, "KiB", "")]
    with ExitStack() as stack:
        with registry(stage) as (process, url):
            before = memory(process.pid)
            began = time.perf_counter()
            crowds = [stack.enter_context(crowd(stage, url, n, offers // CROWDS)) for n in range(CROWDS)]
            for other in crowds:
                assert json.loads(said(other)) == "announced"
            took = time.perf_counter() - began
            each = (memory(process.pid) - before) / offers
            rows.append(row("the same with its connection", each / KIB, MEMORY / KIB, "KiB", ""))
            rows.append(row(f"{many} connect and announce themselves", took, lease, "s", f"{offers / took:.0f}/s"))
            stack.callback(context.destroy, 0)
            watching = watchers(context, url, stage.folder / "keys", clients)
            rows += lookups(stage, watching)
            rows += changes(stage, crowds[0], watching, offers)
            busy = cpu(process.pid, 0.5 if stage.quick else 5.0)
            rows.append(row(f"processor time for the renewals of {many}", busy, 1.0, "s", "in each second"))
        with registry(stage, url):
            took = whole(context, url, stage.folder / "keys", crowds, offers)
        rows.append(row(f"a restarted registry knows {many} again", took, lease, "s", "one lease"))
    return rows


def lookups(stage: Stage, watching: list[Connection]) -> list[Row]:
    """Look-ups of several clients at once."""
    rows = []
    asking = [client.socket for client in watching[:16]]
    for module, who in (("shop.m1", f"{OFFERING} workers offer"), ("common", "all offer")):
        took = look_up(asking, module, 20 * stage.calls(1000))
        rows.append(row(f"a look-up of a module that {who}", took, LOOKUP, "us", f"{1 / took:.0f}/s"))
    return rows


def changes(stage: Stage, crowd: subprocess.Popen[str], watching: list[Connection], offers: int) -> list[Row]:
    """Deaths and new workers, until all clients have heard of each."""
    took: dict[str, list[float]] = {"die": [], "live": []}
    for n in range(2 if stage.quick else OFFERING):
        for verb, times in took.items():
            times.append(reach(crowd, watching, verb, n * (offers // OFFERING)))
    return [
        row(
            f"{what} reaches {len(watching):,} clients that watch",
            statistics.median(took[verb]),
            LIMIT,
            "ms",
            f"slowest {max(took[verb]) * 1e3:.0f} ms",
        )
        for verb, what in (("die", "a death"), ("live", "a new worker"))
    ]


def table(offers: int) -> float:
    """Bytes that one offer takes in the registry's table."""
    frames = [wire.pack(announcement(f"worker-{n}", n, offers // OFFERING)) for n in range(offers)]
    tracemalloc.start()
    held = leases.Leases(LEASE)
    for frame in frames:
        message, _ = wire.unpack(frame)
        assert isinstance(message, wire.Announce)
        held.announce(message, bytes(32), 0.0)
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(held) == offers
    return taken / offers


def whole(
    context: zmq.Context[zmq.Socket[bytes]], url: str, folder: Path, crowds: list[subprocess.Popen[str]], offers: int
) -> float:
    """Seconds until the registry, just started, knows all offers."""
    began = time.perf_counter()
    for other in crowds:
        order(other, "greet")
    (asking,) = connected(context, url, folder, ["survey"])
    count = 0
    while count < offers:
        assert time.perf_counter() < began + 100, f"it knows {count} of {offers}"
        time.sleep(1.0)
        asking.send(wire.Lookup(1, ["common"], session.PYTHON, limit=2 * offers))
        message = received(asking.socket)
        assert isinstance(message, wire.Steps)
        count = len(message.mounts)
    return time.perf_counter() - began


def row(case: str, ours: float, limit: float, unit: str, note: str) -> Row:
    """A figure and what it may be."""
    return Row("registry", case, "the aim", ours, limit, unit, ours / limit, limit=limit, note=note)


# The registry --------------------------------------------------------------------------------------


@contextmanager
def registry(stage: Stage, url: str = "tcp://127.0.0.1:0") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A registry, and its address."""
    command = [sys.executable, "-m", "relocate", "registry", "--listen", url]
    command += ["--keys", str(stage.folder / "keys"), "--lease", str(LEASE)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=stage.environment(), text=True
    ) as process:
        try:
            ready = re.search(r"ready on (\S+)", said(process))
            assert ready is not None
            yield process, ready[1]
        finally:
            process.terminate()


def said(process: subprocess.Popen[str]) -> str:
    """The next line of a process."""
    assert process.stdout is not None
    return process.stdout.readline()


def memory(pid: int) -> int:
    """Bytes that a process holds (proc(5), statm)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def cpu(pid: int, seconds: float) -> float:
    """Processor time that a process takes in each second of the next ``seconds`` (proc(5), stat)."""

    def taken() -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    before = taken()
    time.sleep(seconds)
    return (taken() - before) / seconds


# Clients -------------------------------------------------------------------------------------------


class Connection:
    """A DEALER that has said hello to the registry."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], url: str, mine: keys.Keys, name: str) -> None:
        self.name = name
        self.socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
        transport.configure(self.socket, contact.SILENCE)
        contact.calm(self.socket)
        self.socket.reconnect_ivl, self.socket.reconnect_ivl_max = contact.RECONNECT
        transport.use_client_keys(self.socket, mine, mine.public)
        self.socket.connect(url)
        self.greet()

    def greet(self) -> None:
        """Say hello."""
        self.send(wire.Hello(wire.PROTOCOL, "", session.PYTHON, self.name, "registry"))

    def send(self, message: wire.Message) -> None:
        """Send ``message``."""
        self.socket.send_multipart(wire.pack(message))


def connected(context: zmq.Context[zmq.Socket[bytes]], url: str, folder: Path, names: list[str]) -> list[Connection]:
    """Connections that are welcomed."""
    mine = keys.load(folder, create=True)
    made: list[Connection] = []
    for start in range(0, len(names), AT_ONCE):
        batch = [Connection(context, url, mine, name) for name in names[start : start + AT_ONCE]]
        for connection in batch:
            assert connection.socket.poll(60_000), "the registry does not answer"
            assert isinstance(received(connection.socket), wire.Welcome)
        made += batch
    return made


def received(socket: zmq.Socket[bytes]) -> wire.AnyMessage:
    """The next message."""
    return wire.unpack(list(socket.recv_multipart()))[0]


def lookup(module: str, query: int, *, watch: bool) -> wire.Lookup:
    """What a client asks."""
    return wire.Lookup(query, [module], session.PYTHON, platform.node(), {}, 32, watch)


def watchers(context: zmq.Context[zmq.Socket[bytes]], url: str, folder: Path, count: int) -> list[Connection]:
    """Clients that watch one module, which some workers offer."""
    made = connected(context, url, folder, [f"client {n}" for n in range(count)])
    for client in made:
        client.send(lookup("shop.m0", 1, watch=True))
    for client in made:
        assert isinstance(received(client.socket), wire.Steps)
    return made


def look_up(sockets: list[zmq.Socket[bytes]], module: str, count: int) -> float:
    """Seconds for one look-up of several clients that ask at once."""
    frames = wire.pack(lookup(module, 2, watch=False))
    began = time.perf_counter()
    for _ in range(count // len(sockets)):
        for socket in sockets:
            socket.send_multipart(frames)
        for socket in sockets:
            assert socket.recv_multipart()
    return (time.perf_counter() - began) / (count // len(sockets) * len(sockets))


def settle(clients: list[Connection]) -> None:
    """Read what has come, and keep the watches."""
    for client in clients:
        while client.socket.poll(0):
            client.socket.recv_multipart()
        client.send(lookup("shop.m0", 1, watch=True))
    for client in clients:
        client.socket.recv_multipart()


def reach(process: subprocess.Popen[str], clients: list[Connection], verb: str, worker: int) -> float:
    """Seconds from the end or the announcement of a worker until all clients have heard."""
    settle(clients)
    poller = zmq.Poller()
    for client in clients:
        poller.register(client.socket, zmq.POLLIN)
    order(process, verb, worker)
    began = json.loads(said(process))
    while poller.sockets:
        ready = poller.poll(20_000)
        assert ready, f"{len(poller.sockets)} clients have not heard"
        for socket, _ in ready:
            socket.recv_multipart()
            poller.unregister(socket)
    return time.monotonic() - float(began)


# Workers -------------------------------------------------------------------------------------------


def order(process: subprocess.Popen[str], verb: str, worker: int = 0) -> None:
    """Have the process of a crowd let a worker ``die`` or ``live``, or all ``greet`` a registry that comes back."""
    assert process.stdin is not None
    process.stdin.write(json.dumps([verb, worker]) + "\n")
    process.stdin.flush()


@contextmanager
def crowd(stage: Stage, url: str, number: int, size: int) -> Iterator[subprocess.Popen[str]]:
    """A process with many workers."""
    command = [sys.executable, __file__, url, str(stage.folder / "keys"), str(number), str(size)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=stage.environment(), text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def announcement(name: str, number: int, kinds: int) -> wire.Announce:
    """Of a worker: all offer one module, and each one of many ``kinds``."""
    modules = tuple(wire.Module(m, "1.0", bytes(32), bytes(32)) for m in ("common", f"shop.m{number % kinds}"))
    labels = {"region": ("eu", "us", "asia")[number % 3]}
    about = {"system": "Linux", "machine": "x86_64", "cores": "8", "memory": "32000 MiB"}
    offer = wire.Offer(f"tcp://{name}:7000", "0.1.0", session.PYTHON, 8, "", modules, labels, about)
    return wire.Announce(time.time_ns(), offer)


def live(url: str, folder: str, crowd: int, size: int) -> None:
    """The workers of one process: announce them, then let them die and come as told by standard input."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, 65_000)
    numbers = {f"worker-{n}": n for n in range(crowd, CROWDS * size, CROWDS)}
    alive: dict[int, Connection] = {}

    def announce(connection: Connection) -> None:
        alive[numbers[connection.name]] = connection
        connection.send(announcement(connection.name, numbers[connection.name], size * CROWDS // OFFERING))

    for connection in connected(context, url, Path(folder), list(numbers)):
        announce(connection)
    lease = LEASE
    for connection in alive.values():
        answer = received(connection.socket)
        assert isinstance(answer, wire.Leased), answer
        assert answer.lease
        lease = answer.lease
    print('"announced"', flush=True)
    renew(context, url, Path(folder), alive, announce, lease)


def renew(context: Any, url: str, folder: Path, alive: dict[int, Connection], announce: Any, lease: float) -> None:
    """Repeat all announcements three times in a lease, and obey."""
    looked = 0.0
    while True:
        began = time.monotonic()
        waiting = list(alive.values())
        while waiting or time.monotonic() < began + lease / 3:
            for connection in waiting[:20]:  # spread over the time, as those of many machines are
                announce(connection)
            del waiting[:20]
            left = began + lease / 3 - time.monotonic()
            pause = min(left / (len(waiting) / 20 + 1) if waiting else left, GLANCE)
            if zmq.zmq_poll([(0, zmq.POLLIN)], max(0, int(pause * 1000))):
                verb, number = json.loads(sys.stdin.readline())
                if verb == "greet":  # the real ones hear of it when the new connection stands
                    for connection in alive.values():
                        connection.greet()
                elif verb == "die":
                    gone = alive.pop(number)
                    waiting = [c for c in waiting if c is not gone]
                    print(time.monotonic(), flush=True)
                    gone.socket.close(0)
                elif verb == "live":
                    (new,) = connected(context, url, folder, [f"worker-{number}"])
                    print(time.monotonic(), flush=True)
                    announce(new)
            if time.monotonic() > looked + GLANCE:
                lease = hear(alive, announce) or lease
                looked = time.monotonic()


def hear(alive: dict[int, Connection], announce: Any) -> float:
    """Read what the registry has answered, and answer; the lease that it told last, or 0."""
    lease = 0.0
    for connection in list(alive.values()):
        with contextlib.suppress(zmq.Again):
            while True:
                answer, _ = wire.unpack(list(connection.socket.recv_multipart(zmq.DONTWAIT)))
                if isinstance(answer, wire.Refused):  # it is another registry by now
                    connection.greet()
                elif isinstance(answer, wire.Welcome):
                    announce(connection)
                elif isinstance(answer, wire.Leased):
                    lease = answer.lease or lease
    return lease


if __name__ == "__main__":
    live(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
