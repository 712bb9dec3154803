"""Other ways to call a function in another process of this machine.

Each is used as its manual shows, one worker process.  Those whose own serialisation has no arrays
(execnet, RPyC, Pyro5) carry them as pickled bytes.  RPyC and Pyro5 talk over Unix sockets.

Run as a program, this is the server of RPyC or Pyro5.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import tasks
from report import Row
from stage import Stage, child
from timing import ratio, take_turns

HERE = Path(__file__)
MIB = 1 << 20
CHUNK = 4 * MIB
"""RPyC copies all that is left to send for every piece that it has sent: fewer pieces than its own 64 kB."""


class Peer(NamedTuple):
    """One contestant: the two calls that are timed."""

    add: Callable[[int, int], int]
    echo: Callable[[Any], Any]


def run(stage: Stage) -> Iterator[Row]:
    """Rows for the small call and for the array, against each peer."""
    try:
        import numpy
    except ImportError:
        stage.skip("peers: numpy is not installed")
        return
    array = numpy.random.default_rng(0).random(64 * MIB // 8)
    with ExitStack() as stack:
        module, _ = stack.enter_context(stage.relocated("tasks_peers", "1"))
        peers = {"relocate": Peer(module.add, module.echo)}
        for name, (needs, connect) in PEERS.items():
            if needs and importlib.util.find_spec(needs) is None:
                stage.skip(f"peers: {needs} is not installed")
                continue
            peers[name] = stack.enter_context(connect(stage))
        for peer in peers.values():
            assert peer.add(2, 3) == 5
            assert numpy.array_equal(peer.echo(array), array)
        small = take_turns(
            {name: lambda peer=peer: peer.add(2, 3) for name, peer in peers.items()},
            rounds=stage.rounds(20),
            calls=stage.calls(100),
            first=10,
        )
        yield from _rows("add(2, 3)", "us", small)
        large = take_turns(
            {name: lambda peer=peer: peer.echo(array) for name, peer in peers.items()},
            rounds=stage.rounds(5),
            calls=1,
        )
        yield from _rows("64 MiB there and back", "ms", large)


def _rows(case: str, unit: str, taken: dict[str, list[float]]) -> Iterator[Row]:
    ours = taken.pop("relocate")
    for name, theirs in taken.items():
        found = ratio(ours, theirs)
        yield Row("peers", case, name, median(ours), median(theirs), unit, found.middle, found.low, found.high)


@contextmanager
def _executor(stage: Stage) -> Iterator[Peer]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield Peer(
            lambda a, b: pool.submit(tasks.add, a, b).result(),
            lambda value: pool.submit(tasks.echo, value).result(),
        )


@contextmanager
def _pool(stage: Stage) -> Iterator[Peer]:
    with get_context("spawn").Pool(1) as pool:
        yield Peer(
            lambda a, b: pool.apply(tasks.add, (a, b)),
            lambda value: pool.apply(tasks.echo, (value,)),
        )


@contextmanager
def _execnet(stage: Stage) -> Iterator[Peer]:
    import execnet

    group = execnet.Group()
    gateway = group.makegateway(f"popen//python={sys.executable}")
    channel = gateway.remote_exec(
        "import pickle\n"
        "for name, value in channel:\n"
        "    if name == 'add':\n"
        "        channel.send(value[0] + value[1])\n"
        "    else:\n"
        "        channel.send(pickle.dumps(pickle.loads(value), 5))\n"
    )

    def add(a: int, b: int) -> int:
        channel.send(("add", (a, b)))
        result: int = channel.receive()
        return result

    def echo(value: Any) -> Any:
        channel.send(("echo", pickle.dumps(value, 5)))
        return pickle.loads(channel.receive())

    try:
        yield Peer(add, echo)
    finally:
        channel.close()
        group.terminate(timeout=2)


@contextmanager
def _rpyc(stage: Stage) -> Iterator[Peer]:
    from rpyc.core import Channel, SocketStream
    from rpyc.utils.factory import connect_channel

    def connect() -> Any:
        channel = Channel(SocketStream.unix_connect(path), compress=False)
        return connect_channel(channel, config={"sync_request_timeout": None})

    SocketStream.MAX_IO_CHUNK = CHUNK
    path = str(stage.folder / "rpyc")
    with child([sys.executable, str(HERE), "rpyc", path], stage.environment()):
        connection = patiently(connect)
        root = connection.root
        add, echo = root.add, root.echo
        try:
            yield Peer(add, lambda value: pickle.loads(echo(pickle.dumps(value, 5))))
        finally:
            connection.close()


def patiently(connect: Callable[[], Any]) -> Any:
    """Connect as soon as the server listens."""
    until = time.monotonic() + 10
    while True:
        try:
            return connect()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)


@contextmanager
def _pyro(stage: Stage) -> Iterator[Peer]:
    import Pyro5.api

    path = str(stage.folder / "pyro")
    Pyro5.api.config.SERIALIZER = "marshal"  # the fastest of its own, and it takes bytes
    with (
        child([sys.executable, str(HERE), "pyro", path], stage.environment()) as (_, url),
        Pyro5.api.Proxy(url) as proxy,
    ):
        yield Peer(proxy.add, lambda value: pickle.loads(proxy.echo(pickle.dumps(value, 5))))


PEERS: dict[str, tuple[str, Callable[[Stage], AbstractContextManager[Peer]]]] = {
    "ProcessPoolExecutor": ("", _executor),
    "multiprocessing.Pool": ("", _pool),
    "execnet": ("execnet", _execnet),
    "RPyC": ("rpyc", _rpyc),
    "Pyro5": ("Pyro5", _pyro),
}


def _serve_rpyc(path: str) -> None:
    import rpyc
    from rpyc.utils.server import ThreadedServer

    class Service(rpyc.Service):  # type: ignore[misc]
        """The tasks."""

        def exposed_add(self, a: int, b: int) -> int:
            """The smallest call."""
            return a + b

        def exposed_echo(self, data: bytes) -> bytes:
            """What came, back again."""
            return pickle.dumps(pickle.loads(data), 5)

    rpyc.core.SocketStream.MAX_IO_CHUNK = CHUNK
    rpyc.core.Channel.COMPRESSION_THRESHOLD = sys.maxsize  # random numbers: it would take seconds for nothing
    server = ThreadedServer(Service, socket_path=path)
    print(path, flush=True)
    server.start()


def _serve_pyro(path: str) -> None:
    import Pyro5.api

    @Pyro5.api.expose
    class Service:
        """The tasks."""

        def add(self, a: int, b: int) -> int:
            """The smallest call."""
            return a + b

        def echo(self, data: bytes) -> bytes:
            """What came, back again."""
            return pickle.dumps(pickle.loads(data), 5)

    with Pyro5.api.Daemon(unixsocket=path) as daemon:
        print(daemon.register(Service()), flush=True)
        daemon.requestLoop()


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    {"rpyc": _serve_rpyc, "pyro": _serve_pyro}[sys.argv[1]](sys.argv[2])
