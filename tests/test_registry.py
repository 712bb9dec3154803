"""Registries, workers that announce themselves and clients that configure nothing else: real processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import zmq
from conftest import Place, Worker, alive, until

from relocate import announcer, keys, session, transport, wire

CLIENT = """
import os, sys, relocate
handle = relocate.enable(modules=["work"], workers={workers!r}, fallback=False, patience=20)
import work

def ask():
    # One line to the test, one from it.
    print("ready", flush=True)
    return sys.stdin.readline()

def known():
    return sorted(w["url"] for w in handle.workers() if not w["name"].startswith("registry@"))
"""


@pytest.fixture(params=["tcp", "ipc"])
def listen(request: pytest.FixtureRequest, place: Place) -> str:
    """Every kind of address that a registry takes."""
    return "tcp://127.0.0.1:0" if request.param == "tcp" else f"ipc://{place.home}/run/r"


def client(place: Place, workers: str, program: str) -> subprocess.Popen[str]:
    """Start a client."""
    return place.start(sys.executable, "-c", CLIENT.format(workers=workers) + program, talk=True)


def said(process: subprocess.Popen[str]) -> str:
    """The next line that a client says."""
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        pytest.fail(f"the client has ended: {process.communicate()[1]}")
    return line


def told(process: subprocess.Popen[str]) -> None:
    """Let a client that asked go on."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def killed(worker: Worker) -> None:
    """Kill a worker, and wait for the end of its executors."""
    executors = worker.executors()
    worker.process.kill()
    until(lambda: not any(map(alive, executors)), "the end of the executors")


def known(place: Place, registry: Worker, count: int) -> list[dict[str, Any]]:
    """What the registry knows when it is so many offers."""
    found: list[dict[str, Any]] = []

    def enough() -> bool:
        found[:] = place.offers(registry)
        return len(found) == count

    until(enough, f"{count} offers")
    return found


# From announcement to call -------------------------------------------------------------------------


def test_a_client_that_names_only_a_registry_is_told_of_the_workers(place: Place, listen: str) -> None:
    registry = place.registry(listen=listen)
    workers = [place.worker("-n", "1", "--registry", registry.url) for _ in range(2)]
    known(place, registry, 2)
    program = "print(work.echo(7), flush=True)\nask()\nprint(*known())"
    process = client(place, f"registry+{registry.url}", program)
    assert [said(process), said(process)] == ["7", "ready"]
    told(process)
    assert said(process).split() == sorted(worker.url for worker in workers)
    assert registry.stop() == 0
    assert place.left_behind() == []


def test_a_worker_that_comes_later_is_used(place: Place) -> None:
    registry = place.registry()
    process = client(place, f"registry+{registry.url}", "print(work.echo(7))")  # it waits for somebody
    worker = place.worker("-n", "1", "--registry", registry.url)
    assert said(process) == "7"
    assert worker.stop() == 0


def test_an_offer_has_what_the_worker_has(place: Place) -> None:
    registry = place.registry()
    place.write("priced.py", '"""Prices."""\n\n__version__ = "2.5"\n\ndef price():\n    return 1\n')
    worker = place.worker(
        "-n", "2", "--modules", "work,priced", "--registry", registry.url, "--label", "region=eu", "--label", "gpu=a100"
    )
    (offer,) = known(place, registry, 1)
    until(lambda: known(place, registry, 1)[0]["executors"] == 2, "both executors")
    assert offer["url"] == worker.url
    assert [(m["name"], m["version"]) for m in offer["modules"]] == [("work", ""), ("priced", "2.5")]
    assert all(len(m["digest"]) == len(m["interface"]) == 64 for m in offer["modules"])
    assert offer["labels"] == {"region": "eu", "gpu": "a100"}
    assert offer["capabilities"]["system"] == os.uname().sysname
    assert offer["python"] == f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert offer["key"] == keys.load(worker.keys).public.hex()
    assert 0 < offer["lease"] <= 1
    shown = place.relocate("registry", "ls", registry.url).stdout.split("\n")
    assert shown[0].split() == ["worker", "executors", "offers", "labels", "python", "lease"]
    assert "work, priced 2.5" in shown[1]


def test_a_worker_with_the_label_is_preferred_and_the_others_are_spares(place: Place) -> None:
    registry = place.registry()
    here = place.worker("-n", "1", "--registry", registry.url, "--label", "region=eu")
    there = place.worker("-n", "1", "--registry", registry.url, "--label", "region=us")
    known(place, registry, 2)
    program = """
print(work.pid(), flush=True)
from relocate.namespace import join
print(*sorted((e.rank, join(e.target)) for e in handle.namespace.snapshot.unions["chan",]), flush=True)
ask()
print(work.pid())
"""
    process = client(place, f"registry+{registry.url}?region=us", program)
    assert int(said(process)) in [e.pid for e in there.executors()]
    assert f"(1, '/n/{here.url.removeprefix('tcp://')}/chan')" in said(process)
    assert said(process) == "ready"
    killed(there)
    told(process)
    assert int(said(process)) in [e.pid for e in here.executors()]


def test_a_module_is_called_only_where_it_is_offered(place: Place) -> None:
    registry = place.registry()
    place.write("other.py", "def f():\n    return 1\n")
    place.worker("-n", "1", "--modules", "other", "--registry", registry.url)
    worker = place.worker("-n", "1", "--modules", "work", "--registry", registry.url)
    known(place, registry, 2)
    process = client(
        place, f"registry+{registry.url}", "print(work.pid(), flush=True)\nprint(*known(), flush=True)\nask()"
    )
    assert int(said(process)) in [e.pid for e in worker.executors()]
    assert said(process) == worker.url
    told(process)


def test_methods_run_where_the_module_of_their_class_is_offered(place: Place) -> None:
    registry = place.registry()
    place.write("shapes.py", "import os\n\nclass Square:\n    def pid(self):\n        return os.getpid()\n")
    place.worker("-n", "1", "--modules", "work", "--registry", registry.url)
    worker = place.worker("-n", "1", "--modules", "shapes", "--registry", registry.url)
    known(place, registry, 2)
    program = "import shapes\nprint(shapes.Square().pid(), flush=True)\nask()"
    program = CLIENT.format(workers=f"registry+{registry.url}") + program
    process = place.start(
        sys.executable, "-c", program.replace('["work"]', '["work"], methods=["shapes.Square"]'), talk=True
    )
    assert int(said(process)) in [e.pid for e in worker.executors()]


def test_a_name_that_the_program_has_bound_stays_as_it_was_bound(place: Place) -> None:
    registry = place.registry()
    place.worker("-n", "1", "--modules", "work", "--registry", registry.url)
    known(place, registry, 1)
    program = """
handle.namespace.bind("/n/local/chan/work/pid", "/chan/work/pid")
print(work.pid() == os.getpid(), work.echo(1), handle.statistics().remote, flush=True)
"""
    assert said(client(place, f"registry+{registry.url}", program)) == "True 1 1"


# Ends ----------------------------------------------------------------------------------------------


def test_a_drain_withdraws_the_offer(place: Place) -> None:
    registry = place.registry(lease=600)
    worker = place.worker("-n", "1", "--registry", registry.url)
    known(place, registry, 1)
    assert worker.stop() == 0
    assert place.offers(registry) == []
    registry.process.terminate()
    assert "is withdrawn" in registry.process.communicate()[1]


def test_a_killed_worker_is_gone_with_its_connection(place: Place, listen: str) -> None:
    registry = place.registry(lease=600, listen=listen)
    worker = place.worker("-n", "1", "--registry", registry.url)
    known(place, registry, 1)
    worker.process.kill()
    known(place, registry, 0)


def test_a_worker_that_falls_silent_expires_and_comes_back(place: Place) -> None:
    registry = place.registry(lease=0.5)
    worker = place.worker("-n", "1", "--registry", registry.url)
    known(place, registry, 1)
    worker.process.send_signal(signal.SIGSTOP)
    known(place, registry, 0)
    worker.process.send_signal(signal.SIGCONT)
    known(place, registry, 1)


def test_clients_move_on_when_a_worker_is_killed_and_hear_of_its_successor(place: Place) -> None:
    registry = place.registry()
    first = place.worker("-n", "1", "--registry", registry.url)
    known(place, registry, 1)
    program = """
print(work.pid(), flush=True)
ask()
print(work.pid(), flush=True)
while known() != [sys.argv[1]]: pass
print("moved", flush=True)
"""
    second = place.worker("-n", "1")
    process = place.start(
        sys.executable, "-c", CLIENT.format(workers=f"registry+{registry.url}") + program, second.url, talk=True
    )
    executors = [e.pid for e in first.executors()]
    assert int(said(process)) in executors
    assert said(process) == "ready"
    assert second.stop() == 0
    killed(first)
    second = place.worker("-n", "1", "--registry", registry.url, listen=second.url)
    told(process)
    assert int(said(process)) in [e.pid for e in second.executors()]
    assert said(process) == "moved"


def test_a_worker_that_cannot_start_executors_offers_nothing(place: Place) -> None:
    registry = place.registry(lease=600)
    place.write(
        "sitecustomize.py",
        "import os\nif 'RELOCATE_EXECUTOR' in os.environ and os.path.exists('broken'):\n    os._exit(3)\n",
    )
    worker = place.worker("-n", "1", "--registry", registry.url)
    known(place, registry, 1)
    (place.folder / "broken").touch()
    worker.executors()[0].kill()
    known(place, registry, 0)
    (place.folder / "broken").unlink()
    known(place, registry, 1)


def test_an_executor_that_crashes_leaves_the_offer_as_it_is(place: Place) -> None:
    registry = place.registry(lease=600)
    place.worker("-n", "1", "--registry", registry.url)
    known(place, registry, 1)
    program = """
for _ in range(3):
    try:
        work.crash()
    except relocate.CrashingCall:
        print(work.echo(1), flush=True)
"""
    process = client(place, f"registry+{registry.url}", program)
    assert [said(process) for _ in range(3)] == ["1", "1", "1"]
    registry.process.terminate()
    said_by_it = registry.process.communicate()[1]
    assert said_by_it.count("is announced") == 1, said_by_it
    assert "gone" not in said_by_it
    assert "withdrawn" not in said_by_it


# The death of registries ---------------------------------------------------------------------------


def again(place: Place, registry: Worker, lease: float = 1.0) -> Worker:
    """The same registry, killed and started again."""
    registry.process.kill()
    registry.process.wait()
    return place.registry(listen=registry.url, lease=lease)


def test_a_restarted_registry_is_whole_again_within_a_lease(place: Place, listen: str) -> None:
    registry = place.registry(listen=listen, lease=600)
    workers = [place.worker("-n", "1", "--registry", registry.url) for _ in range(2)]
    known(place, registry, 2)
    registry = again(place, registry, lease=600)
    # A lease here is ten minutes: what is heard within the test's half a minute is heard at once.
    assert {offer["url"] for offer in known(place, registry, 2)} == {worker.url for worker in workers}


def test_a_client_that_asks_a_registry_that_is_not_whole_yet_waits(place: Place) -> None:
    registry = place.registry(lease=600)
    program = "handle.workers()\nprint(work.echo(1), handle.statistics().remote)"
    # With the fallback on, a client that is told that there is nobody would run the call here.
    program = CLIENT.format(workers=f"registry+{registry.url}").replace("fallback=False", "fallback=True") + program
    process = place.start(sys.executable, "-c", program)
    worker = place.worker("-n", "1", "--registry", registry.url)
    assert said(process) == "1 1"
    assert worker.stop() == 0


def test_of_two_registries_either_may_die(place: Place) -> None:
    registries = [place.registry() for _ in range(2)]
    both = [argument for registry in registries for argument in ("--registry", registry.url)]
    place.worker("-n", "1", *both)
    for registry in registries:
        known(place, registry, 1)
    name = ",".join(f"registry+{registry.url}" for registry in registries)
    running = client(place, name, "print(work.echo(1), flush=True)\nwhile ask(): print(work.echo(2), flush=True)")
    assert said(running) == "1"
    for registry in registries:
        registry.process.kill()
        registry.process.wait()
        assert said(running) == "ready"
        told(running)
        assert said(running) == "2"
        fresh = client(place, name, "print(work.echo(3))")  # with one of them left, or none but the new one
        assert said(fresh) == "3"
        again(place, registry)
        known(place, Worker(registry.process, registry.url, registry.keys), 1)


def test_with_all_registries_dead_nothing_that_is_known_is_lost(place: Place) -> None:
    registry = place.registry(lease=0.3)
    worker = place.worker("-n", "1", "--registry", registry.url)
    known(place, registry, 1)
    program = """
import time
print(work.echo(1), flush=True)
ask()
def registry_is_down(): return any(w["name"].startswith("registry@") and w["state"] == "down" for w in handle.workers())
while not registry_is_down(): time.sleep(0.01)
end = time.monotonic() + 5 * 0.3  # several leases
calls = 0
while time.monotonic() < end:
    calls += work.echo(1)
print(calls > 10, *known(), flush=True)
ask()
# A worker that dies and comes back meanwhile is found where it was.
print(work.echo(2), flush=True)
pid = os.fork()
if pid == 0:
    print("child", work.echo(3), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
"""
    process = client(place, f"registry+{registry.url}", program)
    assert [said(process), said(process)] == ["1", "ready"]
    registry.process.kill()
    told(process)
    assert said(process) == f"True {worker.url}"
    assert said(process) == "ready"
    worker.process.kill()
    worker.process.wait()
    place.worker("-n", "1", "--registry", registry.url, listen=worker.url)
    told(process)
    assert said(process) == "2"
    assert said(process) == "child 3"


@pytest.mark.slow
def test_all_registries_dead_for_a_minute_and_no_call_fails(place: Place) -> None:
    registries = [place.registry(lease=5) for _ in range(2)]
    both = [argument for registry in registries for argument in ("--registry", registry.url)]
    place.worker("-n", "1", *both)
    for registry in registries:
        known(place, registry, 1)
    program = """
import time
work.echo(1)
ask()
end = time.monotonic() + 62
while time.monotonic() < end:
    assert work.echo(1) == 1
    time.sleep(0.02)
seen = handle.statistics()
print(seen.calls > 1000, seen.remote == seen.calls, seen.retried, seen.failed)
"""
    process = client(place, ",".join(f"registry+{registry.url}" for registry in registries), program)
    assert said(process) == "ready"
    for registry in registries:
        registry.process.kill()
    told(process)
    assert said(process) == "True True 0 0"


# Parents -------------------------------------------------------------------------------------------


def test_what_a_registry_does_not_know_its_parent_tells(place: Place) -> None:
    parent = place.registry()
    child = place.registry("--parent", parent.url)
    place.write("other.py", "def f():\n    return 1\n")
    place.worker("-n", "1", "--modules", "other", "--registry", child.url)
    worker = place.worker("-n", "1", "--modules", "work", "--registry", parent.url)
    known(place, child, 1)
    known(place, parent, 1)
    program = "print(work.echo(1), *known(), flush=True)\nwhile known(): pass\nprint('gone')"
    process = client(place, f"registry+{child.url}", program)
    assert said(process) == f"1 {worker.url}"
    worker.process.kill()  # the parent tells the child of it, and the child the client
    assert said(process) == "gone"


def test_an_answer_of_the_parent_is_kept_for_its_lease_only(place: Place) -> None:
    parent = place.registry(lease=600)
    child = place.registry("--parent", parent.url)
    place.worker("-n", "1", "--modules", "work", "--registry", parent.url)
    known(place, parent, 1)
    with talking(child) as link:
        assert len(lookup(link, "work").mounts) == 1
        parent.process.kill()
        parent.process.wait()
        # Its lease was ten minutes; the child still knows.
        assert len(lookup(link, "work").mounts) == 1


def test_a_parent_is_asked_again_within_its_own_lease(place: Place) -> None:
    parent = place.registry(lease=0.4)
    child = place.registry("--parent", parent.url, lease=5)
    place.worker("-n", "1", "--modules", "work", "--registry", parent.url)
    known(place, parent, 1)
    with talking(child) as link:
        assert len(lookup(link, "work", watch=True).mounts) == 1
        assert link.hears_nothing(1000)  # for more than two leases of the parent's nothing changes


def test_registries_that_are_one_anothers_parents_find_an_end(place: Place) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    first = place.registry("--parent", f"tcp://127.0.0.1:{port}", lease=0.5)
    second = place.registry("--parent", first.url, listen=f"tcp://127.0.0.1:{port}", lease=0.5)
    with talking(first) as link:
        assert lookup(link, "no.such.module").mounts == []
        worker = place.worker("-n", "1", "--modules", "work", "--registry", second.url)
        until(lambda: lookup(link, "work").mounts, "the way through the parent")
        worker.process.kill()
        # What one has told the other does not come back as news.
        until(lambda: not lookup(link, "work").mounts, "the end of what is gone")
    second.process.terminate()
    assert "the parents form a loop" in second.process.communicate()[1]


# Messages ------------------------------------------------------------------------------------------


class Talk:
    """A connection that says what it is told to."""

    def __init__(self, registry: Worker) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        mine = keys.load(registry.keys)
        transport.use_client_keys(self._socket, mine, mine.public)
        self._socket.connect(registry.url)

    def send(self, message: wire.Message) -> None:
        """Say something."""
        self._socket.send_multipart(wire.pack(message))

    def receive(self) -> Any:
        """What the registry says."""
        assert self._socket.poll(20_000), "the registry says nothing"
        return wire.unpack(list(self._socket.recv_multipart()))[0]

    def hears_nothing(self, milliseconds: int) -> bool:
        """Whether nothing comes for so long."""
        return not self._socket.poll(milliseconds)

    def close(self) -> None:
        """Hang up."""
        self._socket.close(0)
        self._context.term()


@contextmanager
def talking(registry: Worker) -> Iterator[Talk]:
    """A connection that is welcomed."""
    link = Talk(registry)
    try:
        link.send(wire.Hello(wire.PROTOCOL, "0", session.PYTHON, "test", "registry"))
        assert isinstance(link.receive(), wire.Welcome)
        yield link
    finally:
        link.close()


def lookup(link: Talk, *modules: str, watch: bool = False) -> wire.Steps:
    """The last word on a question."""
    link.send(wire.Lookup(1, list(modules), session.PYTHON, os.uname().nodename, watch=watch))
    while not (answer := link.receive()).complete:
        pass
    return answer


def announcement(incarnation: int, url: str = "tcp://desk:7000", *modules: str) -> wire.Announce:
    named = tuple(map(wire.Module, modules))
    return wire.Announce(incarnation, wire.Offer(url, "0", session.PYTHON, 1, "", named))


def test_a_watch_tells_of_what_comes_and_goes(place: Place) -> None:
    registry = place.registry(lease=0.3)
    with talking(registry) as watching, talking(registry) as announcing:
        assert lookup(watching, "work", watch=True).mounts == []
        announcing.send(announcement(1))
        assert announcing.receive().lease == 0.3
        assert [mount.url for mount in watching.receive().mounts] == ["tcp://desk:7000"]
        announcing.send(announcement(1, "tcp://desk:7001", "other"))  # of no concern
        announcing.send(wire.Withdraw(1, "tcp://desk:7000"))
        assert watching.receive().mounts == []


def test_a_late_message_of_an_old_incarnation_is_refused(place: Place) -> None:
    registry = place.registry(lease=600)
    with talking(registry) as old, talking(registry) as new:
        new.send(announcement(2))
        assert new.receive().lease == 600
        old.send(announcement(1))
        answer = old.receive()
        assert (answer.lease, answer.incarnation) == (0, 2)
        old.send(wire.Withdraw(1, "tcp://desk:7000"))
        assert len(lookup(old, "work").mounts) == 1
    # The end of the old connection ended nothing; that of the new one did.
    known(place, registry, 0)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (wire.Hello(99, "0", session.PYTHON, "test", "registry"), "protocol 99"),
        (
            wire.Hello(wire.PROTOCOL, "0", session.PYTHON, "test"),
            "this is a registry, not a worker; write registry+tcp:",
        ),
        (wire.Survey(), "say hello first"),
    ],
)
def test_a_stranger_is_refused_and_told_why(place: Place, message: wire.Message, says: str) -> None:
    link = Talk(place.registry())
    link.send(message)
    assert says in link.receive().text
    link.close()


def test_who_says_hello_twice_loses_nothing(place: Place) -> None:
    registry = place.registry(lease=600)
    with talking(registry) as link:
        link.send(announcement(1))
        assert link.receive().lease
        link.send(wire.Hello(wire.PROTOCOL, "0", session.PYTHON, "test", "registry"))
        assert isinstance(link.receive(), wire.Welcome)
        assert len(place.offers(registry)) == 1


def test_a_client_of_another_minor_version_may_ask(place: Place) -> None:
    link = Talk(place.registry())
    link.send(wire.Hello(wire.PROTOCOL, "0", (3, 99), "test", "registry"))
    assert isinstance(link.receive(), wire.Welcome)
    link.close()


@pytest.mark.parametrize(
    ("url", "module", "says"),
    [
        ("tcp://desk", "work", "'tcp://desk' is not a worker's address"),
        ("tcp://desk:1", "a/b", "not the name of a module"),
    ],
)
def test_an_offer_that_no_client_could_use_is_not_taken(place: Place, url: str, module: str, says: str) -> None:
    with talking(place.registry()) as link:
        link.send(announcement(1, url, module))
        answer = link.receive()
        assert answer.lease == 0
        assert says in answer.trouble
        assert lookup(link, "work", "work").mounts == []  # it goes on, even with a name given twice


def test_many_offers_are_listed_in_several_messages(place: Place) -> None:
    registry = place.registry(lease=600)
    assert registry.process.stderr is not None
    # What it says of each would fill the pipe.
    threading.Thread(target=registry.process.stderr.read, daemon=True).start()
    with talking(registry) as link:
        for number in range(1, 2002):
            link.send(announcement(1, f"tcp://desk:{number}"))
            assert link.receive().lease
        assert len(place.offers(registry)) == 2001


def test_bytes_that_are_no_message_end_nothing(place: Place) -> None:
    registry = place.registry()
    with talking(registry) as link:
        link._socket.send_multipart([b"\xc1nonsense"])
        assert link.receive().code == "protocol"
        link._socket.send_multipart([b"x" * (300 << 10)])
        assert "at most" in link.receive().text
    assert place.offers(registry) == []


def test_a_worker_that_is_dropped_stays_for_whom_it_answers(place: Place) -> None:
    registry = place.registry(lease=600)
    worker = place.worker("-n", "1", "--registry", registry.url)
    known(place, registry, 1)
    program = (
        "print(work.echo(1), flush=True)\nask()\nprint(work.echo(2), handle.statistics().remote, flush=True)\nask()"
    )
    process = client(place, f"registry+{registry.url}", program + "\nwhile known(): pass\nprint('gone')")
    assert [said(process), said(process)] == ["1", "ready"]
    with talking(registry) as watching, talking(registry) as lying:
        assert len(lookup(watching, "work", watch=True).mounts) == 1
        lying.send(wire.Withdraw(1 << 62, worker.url))  # by the holder of the worker's own key
        assert watching.receive().mounts == []
    told(process)
    assert [said(process), said(process)] == ["2 2", "ready"]
    worker.process.kill()
    told(process)
    assert said(process) == "gone"


def test_a_worker_that_is_named_twice_is_mounted_once(place: Place) -> None:
    registries = [place.registry(), place.registry()]
    both = [argument for registry in registries for argument in ("--registry", registry.url)]
    worker = place.worker("-n", "1", *both)
    for registry in registries:
        known(place, registry, 1)
    first, second = (f"registry+{registry.url}" for registry in registries)
    program = "print(work.echo(1), *known(), flush=True)"
    assert said(client(place, f"{first};{second}", program)) == f"1 {worker.url}"
    assert said(client(place, f"{first},{worker.url}", program)) == f"1 {worker.url}"


# Lies ----------------------------------------------------------------------------------------------


class Liar:
    """A registry that says what it is told to."""

    def __init__(self, place: Place) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self.url = f"ipc://{place.home}/run/liar"
        transport.bind(self._socket, self.url)

    def wait(self, kind: type[wire.Message]) -> None:
        """Wait for such a message, whose sender is whom it will lie to."""
        while True:
            assert self._socket.poll(20_000), f"no {kind.__name__} has come"
            self._peer, *frames = self._socket.recv_multipart()
            message = wire.unpack(list(frames))[0]
            if isinstance(message, wire.Hello):
                self.say(wire.Welcome(self.url, "0", session.PYTHON, b"id", []))
            if isinstance(message, kind):
                return

    def say(self, message: wire.Message) -> None:
        """Tell the one who spoke last."""
        self._socket.send_multipart([self._peer, *wire.pack(message)])

    def close(self) -> None:
        """Be gone."""
        self._socket.close(0)
        self._context.term()
        transport.unbind(self.url)


@pytest.fixture
def liar(place: Place) -> Iterator[Liar]:
    """It is there."""
    lying = Liar(place)
    yield lying
    lying.close()


@pytest.mark.parametrize(
    ("url", "over", "lease"),
    [
        ("ipc:///tmp/no such", "/chan/work", 1.0),
        ("ipc:////", "/chan/work", 1.0),
        ("ipc:///tmp/a\0b", "/chan/work", 1.0),
        ("local:1", "/chan/work", 1.0),
        ("tcp://127.0.0.1:0", "/chan/work", 1.0),
        ("tcp://127.0.0.1:1", "xx/chan/work", 1.0),
        ("tcp://127.0.0.1:1", "/chan/../n", 1.0),
        ("tcp://127.0.0.1:1", "/chan/work", float("nan")),
    ],
)
def test_a_lying_registry_harms_no_other_worker(place: Place, liar: Liar, url: str, over: str, lease: float) -> None:
    worker = place.worker("-n", "1")
    program = """
def heard():
    # Of the registry that it lies, or of the worker that it names.
    told = [w for w in handle.workers() if w["name"] != sys.argv[1]]
    return any(w["state"] in ("refused", "down") or not w["name"].startswith("registry@") for w in told)

print(work.echo(1), flush=True)
while not heard(): pass
print(work.echo(2), *(w["state"] for w in handle.workers() if w["name"] == sys.argv[1]))
"""
    workers = f"{worker.url}, registry+{liar.url}"
    name = worker.url.removeprefix("tcp://")
    process = place.start(sys.executable, "-c", CLIENT.format(workers=workers) + program, name)
    liar.wait(wire.Lookup)
    liar.say(wire.Steps(1, lease, [wire.Mount(url, b"", (wire.Bind(over, 0),))]))
    assert said(process) == "1"
    assert said(process) == "2 up"


@pytest.mark.slow
def test_a_worker_outlives_what_a_registry_answers(place: Place, liar: Liar) -> None:
    worker = place.worker("-n", "1", "--registry", liar.url)
    liar.wait(wire.Announce)
    liar.say(wire.Leased((1 << 64) - 1, 0.0))  # no message could name a higher incarnation
    liar.wait(wire.Announce)
    assert said(client(place, worker.url, "print(work.echo(1))")) == "1"
    assert worker.stop() == 0


# Versions ------------------------------------------------------------------------------------------

PRICING = """
import sys, relocate
handle = relocate.enable(modules=["priced"], workers=sys.argv[1], fallback=False, patience=20)
import priced
while sys.stdin.readline():
    found = {priced.price() for _ in range(5)}
    print(*found, *sorted(w["url"] for w in handle.workers() if not w["name"].startswith("registry@")), flush=True)
"""


def priced(place: Place, registry: Worker, version: str, listen: str = "tcp://127.0.0.1:0") -> Worker:
    """A worker with that version of a module."""
    file = place.write(f"v{version}/priced.py", f"__version__ = {version!r}\n\ndef price():\n    return __version__\n")
    offers = ("-n", "1", "--modules", "priced", "--registry", registry.url)
    return place.worker(*offers, listen=listen, PYTHONPATH=str(file.parent))


def test_while_workers_get_another_version_one_by_one_a_client_sees_one_at_a_time(place: Place) -> None:
    registry = place.registry()
    workers = [priced(place, registry, "1.0") for _ in range(3)]
    known(place, registry, 3)
    process = place.start(sys.executable, "-c", PRICING, f"registry+{registry.url}", talk=True)

    def sees(version: str, *there: Worker) -> None:
        """Each call succeeds, with one version in each round, until the client knows just these workers."""
        expected = [version, *sorted(worker.url for worker in there)]

        def answer() -> bool:
            told(process)
            found, *urls = said(process).split()
            assert len(urls) == len([url for url in urls if url.startswith("tcp://")]), "two versions at once"
            return [found, *urls] == expected

        until(answer, f"{expected}")

    sees("1.0", *workers)
    workers[0].stop()
    workers[0] = priced(place, registry, "2.0")
    sees("1.0", *workers[1:])
    known(place, registry, 3)
    workers[1].stop()
    workers[1] = priced(place, registry, "2.0")
    sees("2.0", *workers[:2])
    workers[2].stop()
    workers[2] = priced(place, registry, "2.0")
    sees("2.0", *workers)


def test_a_registry_that_has_heard_of_few_yet_brings_no_other_version(place: Place) -> None:
    registry = place.registry(lease=600)
    workers = [priced(place, registry, "1.0") for _ in range(2)]
    known(place, registry, 2)
    process = place.start(sys.executable, "-c", PRICING, f"registry+{registry.url}", talk=True)
    urls = sorted(worker.url for worker in workers)
    told(process)
    assert said(process).split() == ["1.0", *urls]
    with talking(registry) as watching, talking(registry) as lying:
        for number, worker in enumerate(workers, 1):
            lying.send(wire.Withdraw(1 << 62, worker.url))
            until(lambda left=2 - number: len(place.offers(registry)) == left, "the end of an offer")
        priced(place, registry, "2.0")
        assert len(lookup(watching, "priced").mounts) == 1
    for _ in range(5):
        told(process)
        assert said(process).split() == ["1.0", *urls]


# Mistakes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["registry"], "--listen is missing"),
        (["registry", "--listen", "nonsense"], "write tcp://host:port or ipc:///path"),
        (["registry", "--listen", "tcp://127.0.0.1:0", "--parent", "7000"], "write tcp://host:port or ipc:///path"),
        (["registry", "--listen", "tcp://127.0.0.1:7", "--parent", "tcp://127.0.0.1:7"], "not its own parent"),
        (
            ["registry", "ls", "tcp://127.0.0.1:1"],
            "nobody answers at tcp://127.0.0.1:1; is 'relocate registry --listen",
        ),
        (["worker", "--listen", "tcp://127.0.0.1:0", "--registry", "x"], "write tcp://host:port or ipc:///path"),
        (["worker", "--listen", "tcp://127.0.0.1:0", "--label", "region=eu"], "--label is for registries"),
        (["worker", "--listen", "tcp://127.0.0.1:0", "--registry", "tcp://a:1", "--label", "eu"], "write name=value"),
        (
            ["worker", "--listen", "tcp://127.0.0.1:0", "--registry", "tcp://a:1", "--advertise", "tcp://0.0.0.0:1"],
            "clients cannot connect to that",
        ),
        (["run", "-M", "work", "-w", "registry+desk", "-c", "1"], "write registry+tcp://host:port"),
        (["run", "-M", "work", "-w", "registry+tcp://a:1?eu", "-c", "1"], "write name=value"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(place: Place, arguments: list[str], says: str) -> None:
    done = place.relocate(*arguments)
    assert done.returncode != 0
    assert done.stderr.count("\n") == 1, done.stderr
    assert says in done.stderr


def test_a_taken_address_is_one_line(place: Place) -> None:
    registry = place.registry()
    done = place.relocate("registry", "--listen", registry.url)
    assert done.returncode == 2
    assert done.stderr == (
        f"relocate: cannot listen on {registry.url}: the address is taken; is another registry running?\n"
    )


def test_a_worker_is_no_registry_and_a_registry_no_worker(place: Place) -> None:
    worker, registry = place.worker("-n", "1"), place.registry()
    assert "this is a worker, not a registry" in place.relocate("registry", "ls", worker.url).stderr
    program = CLIENT.format(workers=registry.url) + "work.echo(1)"
    assert f"write registry+{registry.url}" in place.python("-c", program).stderr


def test_with_no_registry_there_the_error_says_so(place: Place) -> None:
    program = CLIENT.format(workers="registry+tcp://127.0.0.1:1").replace("patience=20", "start_timeout=0.5")
    assert "nobody answers at tcp://127.0.0.1:1; is 'relocate registry" in place.python("-c", program).stderr


def test_where_a_registry_knows_nobody_the_error_says_so(place: Place) -> None:
    registry = place.registry(lease=0.2)
    program = CLIENT.format(workers=f"registry+{registry.url}").replace("patience=20", "start_timeout=2")
    assert "knows no worker for Python" in place.python("-c", program).stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_leaves_nothing(place: Place, number: signal.Signals) -> None:
    registry = place.registry(listen=f"ipc://{place.home}/run/r")
    registry.process.send_signal(number)
    assert registry.process.wait(10) == 0
    assert place.left_behind() == []


# Addresses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("listens", ["tcp://127.0.0.1:7000", "tcp://desk:7000", "ipc:///run/w"])
def test_an_address_that_says_where_it_is_is_announced_as_it_is(listens: str) -> None:
    assert announcer.reachable(listens, "tcp://rack:6999") == listens


@pytest.mark.parametrize("listens", ["tcp://0.0.0.0:7000", "tcp://*:7000", "tcp://[::]:7000"])
@pytest.mark.parametrize("registry", ["tcp://127.0.0.1:6999", "ipc:///run/r", "tcp://no.such.host.invalid:6999"])
def test_who_listens_everywhere_announces_one_address(listens: str, registry: str) -> None:
    found = announcer.reachable(listens, registry)
    assert announcer.check_advertised(found).endswith(":7000")


def test_a_worker_on_a_unix_socket_is_for_clients_of_its_host(place: Place) -> None:
    registry = place.registry()
    worker = place.worker("-n", "1", "--registry", registry.url, listen=f"ipc://{place.home}/run/w")
    assert known(place, registry, 1)[0]["host"] == os.uname().nodename
    process = client(place, f"registry+{registry.url}", "print(work.echo(1), *known())")
    assert said(process) == f"1 {worker.url}"
    with talking(registry) as link:
        link.send(wire.Lookup(1, ["work"], session.PYTHON, "elsewhere", watch=True))
        assert link.receive().mounts == []


def test_the_advertised_address_is_the_one_that_is_told(place: Place) -> None:
    registry = place.registry()
    worker = place.worker("-n", "1", "--registry", registry.url)
    name = worker.url.replace("127.0.0.1", "localhost")
    assert worker.stop() == 0
    place.worker("-n", "1", "--registry", f"registry+{registry.url}", "--advertise", name, listen=worker.url)
    assert known(place, registry, 1)[0]["url"] == name
    process = client(place, f"registry+{registry.url}", "print(work.echo(1), *known())")
    assert said(process) == f"1 {name}"


# Keys ----------------------------------------------------------------------------------------------


def test_a_registry_lets_in_only_who_holds_an_allowed_key(place: Place) -> None:
    registry = place.registry()
    place.relocate("keys", "new", "--keys", "theirs")
    done = place.relocate("registry", "ls", registry.url, "--keys", "theirs")
    assert done.returncode == 2
    assert "holds no key that is allowed here" in done.stderr
    place.relocate("keys", "allow", keys.load(registry.keys).public.hex(), "--keys", "theirs")
    done = place.relocate("registry", "ls", registry.url, "--keys", "theirs")
    assert "does not allow this side's key; run there: relocate keys allow" in done.stderr
    place.relocate("keys", "allow", keys.load(place.folder / "theirs").public.hex())
    assert place.relocate("registry", "ls", registry.url, "--keys", "theirs").returncode == 0


def test_a_worker_is_trusted_by_the_clients_own_list_not_on_the_word_of_the_registry(place: Place) -> None:
    registry = place.registry()
    place.relocate("keys", "new", "--keys", "theirs")
    place.relocate("keys", "allow", keys.load(registry.keys).public.hex(), "--keys", "theirs")
    place.relocate("keys", "allow", keys.load(place.folder / "theirs").public.hex())
    place.worker("-n", "1", "--registry", registry.url, "--keys", str(place.folder / "theirs"))
    known(place, registry, 1)
    # The client does trust the worker so far: its key is on the list.
    program = CLIENT.format(workers=f"registry+{registry.url}").replace("patience=20", "start_timeout=5, patience=5")
    assert place.python("-c", program + "print(work.echo(1))").stdout == "1\n"
    # A client with a key of its own trusts the registry only.
    place.relocate("keys", "new", "--keys", "mine")
    place.relocate("keys", "allow", keys.load(registry.keys).public.hex(), "--keys", "mine")
    place.relocate("keys", "allow", keys.load(place.folder / "mine").public.hex())
    program = program.replace("fallback", 'keys="mine", fallback')
    done = place.python("-c", program + "print(work.echo(1))")
    assert done.returncode != 0
    assert "holds no key that is allowed here" in done.stderr


@pytest.mark.slow
def test_a_registry_that_comes_back_with_another_key_is_refused_until_that_is_allowed(place: Place) -> None:
    registry = place.registry()
    worker = place.worker("-n", "1", "--registry", registry.url)
    known(place, registry, 1)
    program = """
def troubles():
    return " ".join(w["error"] or "" for w in handle.workers())

print(work.echo(1), flush=True)
while "holds no key that is allowed here" not in troubles(): pass
print(work.echo(2), handle.statistics().remote, flush=True)
while troubles(): pass
print(work.echo(3), handle.statistics().remote, *known(), flush=True)
"""
    process = client(place, f"registry+{registry.url}", program)
    assert said(process) == "1"
    registry.process.kill()
    registry.process.wait()
    place.relocate("keys", "new", "--keys", "theirs")
    place.relocate("keys", "allow", keys.load(registry.keys).public.hex(), "--keys", "theirs")
    place.registry("--keys", str(place.folder / "theirs"), listen=registry.url)
    assert said(process) == "2 2"  # what is known stays
    place.relocate("keys", "allow", keys.load(place.folder / "theirs").public.hex())
    assert said(process) == f"3 3 {worker.url}"
    known(place, registry, 1)  # the worker has come back to it, too
