"""Keys: who gets in, who does not, and what those who do not are told."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import zmq
from conftest import Place, Worker, until

from relocate import channel, keys, session, transport, wire

CLIENT = """
import relocate
handle = relocate.enable(modules=["work"], workers="{url}", keys="{keys}", fallback=False)
try:
    import work
    print(work.echo(1))
except ImportError as error:
    print(type(error.__cause__).__name__, error)
"""


def key(place: Place, name: str) -> str:
    """A new key folder ``name``; its public key."""
    done = place.relocate("keys", "new", "--keys", str(place.folder / name))
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[0]


@pytest.fixture
def locked(place: Place) -> Worker:
    """A worker with a key of its own that allows nobody else."""
    key(place, "server")
    return place.worker("--executors", "1", "--keys", str(place.folder / "server"))


def test_both_sides_that_allow_each_other_work(place: Place) -> None:
    server, client = key(place, "server"), key(place, "client")
    for folder, other in (("server", client), ("client", server)):
        assert place.relocate("keys", "allow", other, "them", "--keys", str(place.folder / folder)).returncode == 0
    worker = place.worker("--executors", "1", "--keys", str(place.folder / "server"))
    done = place.python("-c", CLIENT.format(url=worker.url, keys=place.folder / "client"))
    assert done.stdout == "1\n", done.stderr


def test_a_client_whose_key_is_not_allowed_is_told_what_to_do_there(place: Place, locked: Worker) -> None:
    server = place.relocate("keys", "show", "--keys", str(place.folder / "server")).stdout.split()[0]
    client = key(place, "client")
    place.relocate("keys", "allow", server, "--keys", str(place.folder / "client"))
    began = time.monotonic()
    done = place.python("-c", CLIENT.format(url=locked.url, keys=place.folder / "client"))
    assert time.monotonic() - began < 10  # told, not timed out
    assert done.stdout.startswith("WrongKey "), done.stdout + done.stderr
    assert f"relocate keys allow {client}" in done.stdout
    # The remedy works on the running worker.
    place.relocate("keys", "allow", client, "--keys", str(place.folder / "server"))
    done = place.python("-c", CLIENT.format(url=locked.url, keys=place.folder / "client"))
    assert done.stdout == "1\n", done.stderr


def test_a_worker_whose_key_is_not_allowed_is_a_wrong_key_not_a_time_out(place: Place, locked: Worker) -> None:
    key(place, "client")
    done = place.python("-c", CLIENT.format(url=locked.url, keys=place.folder / "client"))
    assert done.stdout.startswith("WrongKey "), done.stdout + done.stderr
    assert "relocate keys allow" in done.stdout
    assert locked.url in done.stdout


def test_a_worker_that_ends_in_the_middle_of_handshakes_is_no_wrong_key(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as ending:
        port = ending.getsockname()[1]
        client = place.start(sys.executable, "-c", CLIENT.format(url=f"tcp://127.0.0.1:{port}", keys=""))
        for _ in range(2):
            ending.accept()[0].close()
    place.worker("--executors", "1", listen=f"tcp://127.0.0.1:{port}")
    out, err = client.communicate(timeout=60)
    assert out == "1\n", err


def test_a_tunnel_that_ends_connections_while_its_worker_is_restarted_is_no_wrong_key(place: Place) -> None:
    worker = place.worker("--executors", "1")
    port = int(worker.url.rpartition(":")[2])
    text = f"""
import relocate
handle = relocate.enable(modules=["work"], workers="{worker.url}", keys="{worker.keys}", fallback=False)
import work
print(work.echo(1), flush=True)
input()
print(work.echo(2))
"""
    client = place.start(sys.executable, "-c", text, talk=True)
    assert client.stdin is not None
    assert client.stdout is not None
    assert client.stdout.readline() == "1\n"
    worker.process.kill()
    worker.process.wait()
    with socket.create_server(("127.0.0.1", port)) as ending:
        client.stdin.write("\n")
        client.stdin.flush()
        for _ in range(4):
            ending.accept()[0].close()
    place.worker("--executors", "1", listen=worker.url)
    out, err = client.communicate(timeout=60)
    assert out == "2\n", err


def test_one_of_several_allowed_keys_is_enough(place: Place, locked: Worker) -> None:
    server = place.relocate("keys", "show", "--keys", str(place.folder / "server")).stdout.split()[0]
    client = key(place, "client")
    for other in (key(place, "another"), key(place, "third"), server):
        place.relocate("keys", "allow", other, "--keys", str(place.folder / "client"))
    place.relocate("keys", "allow", client, "--keys", str(place.folder / "server"))
    done = place.python("-c", CLIENT.format(url=locked.url, keys=place.folder / "client"))
    assert done.stdout == "1\n", done.stderr


def test_with_fallback_the_program_goes_on_and_the_user_is_told(place: Place, locked: Worker) -> None:
    key(place, "client")
    text = CLIENT.format(url=locked.url, keys=place.folder / "client").replace(", fallback=False", "")
    done = place.python("-c", text)
    assert done.stdout == "1\n", done.stderr
    assert "RelocateWarning" in done.stderr
    assert "holds no key that is allowed here" in done.stderr


def test_beyond_loopback_a_worker_without_keys_does_not_start(place: Place) -> None:
    done = place.relocate("worker", "--listen", "tcp://0.0.0.0:0")
    assert done.returncode == 2
    assert "keys are needed" in done.stderr
    assert "relocate keys new" in done.stderr
    assert done.stderr.count("\n") == 1


def test_on_loopback_the_accounts_own_key_is_enough(place: Place) -> None:
    worker = place.worker("--executors", "1")
    done = place.python("-c", CLIENT.format(url=worker.url, keys=""))
    assert done.stdout == "1\n", done.stderr
    assert (place.home / ".config/relocate/keys/secret").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("mechanism", ["null", "plain"])
def test_null_and_plain_are_refused(locked: Worker, mechanism: str) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        if mechanism == "plain":
            socket.plain_username, socket.plain_password = b"user", b"password"
        monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        socket.connect(locked.url)
        socket.send_multipart(wire.pack(wire.Hello(wire.PROTOCOL, "x", session.PYTHON, "intruder")))
        assert monitor.poll(5000)
        assert int.from_bytes(monitor.recv_multipart()[0][:2], sys.byteorder) == zmq.EVENT_DISCONNECTED
        socket.disable_monitor()
        monitor.close()


class Trap:
    """Leaves a mark where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.path),)


def test_nothing_is_unpickled_before_authentication(place: Place) -> None:
    worker = place.worker("--executors", "1", listen=f"ipc://{place.home}/run/w")
    mark = place.folder / "mark"
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(f"{worker.url}.0.0")  # an executor, with the wrong ticket and with none
        call = wire.Call(bytes(16), "work", "echo", bytes(32))
        trap = [pickle.dumps(((Trap(mark),), {}))]
        for opening in (wire.Open(wire.PROTOCOL, session.PYTHON, b"guess"), None):
            if opening is not None:
                socket.send_multipart(wire.pack(opening))
                assert socket.poll(5000)
                assert isinstance(wire.unpack(socket.recv_multipart())[0], wire.Refused)
            socket.send_multipart(wire.pack(call, trap))
            assert socket.poll(5000)
            assert isinstance(wire.unpack(socket.recv_multipart())[0], wire.Refused)
    assert not mark.exists()


def test_a_chosen_identity_gets_nowhere(place: Place) -> None:
    worker = place.worker("--executors", "1", listen=f"ipc://{place.home}/run/w")
    ticket = _ticket(worker.url)
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.routing_id = b"chosen"
        socket.connect(f"{worker.url}.0.0")
        socket.send_multipart(wire.pack(wire.Open(wire.PROTOCOL, session.PYTHON, ticket)))
        assert socket.poll(5000)
        assert isinstance(wire.unpack(socket.recv_multipart())[0], wire.Refused)


def _ticket(url: str) -> bytes:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(url)
        socket.send_multipart(wire.pack(wire.Hello(wire.PROTOCOL, "x", session.PYTHON, "test")))
        assert socket.poll(5000)
        welcome, _ = wire.unpack(socket.recv_multipart())
        assert isinstance(welcome, wire.Welcome)
        return welcome.ticket


@pytest.mark.parametrize(
    ("hello", "says"),
    [
        (wire.Hello(99, "9.9", session.PYTHON, "new"), "protocol 99"),
        (wire.Hello(wire.PROTOCOL, "9.9", (3, 4), "old"), "Python 3.4"),
    ],
)
def test_another_version_is_told_both_sides(place: Place, hello: wire.Hello, says: str) -> None:
    worker = place.worker("--executors", "1", listen=f"ipc://{place.home}/run/w")
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(worker.url)
        socket.send_multipart(wire.pack(hello))
        assert socket.poll(5000)
        refused, _ = wire.unpack(socket.recv_multipart())
        assert isinstance(refused, wire.Refused)
        assert says in refused.text
        assert "9.9 there" in refused.text
        assert ".".join(map(str, session.PYTHON)) in refused.text or str(wire.PROTOCOL) in refused.text


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file to another user")
def test_a_socket_that_another_user_put_there_is_not_trusted(place: Place) -> None:
    worker = place.worker("--executors", "1", listen=f"ipc://{place.home}/run/w")
    os.chown(place.home / "run" / "w", 12345, 12345)
    demoted = f"""
import os
os.setuid(54321)
{CLIENT.format(url=worker.url, keys="")}
"""
    for folder in (place.folder, place.home, place.home / "run", place.folder.parent, place.folder.parent.parent):
        os.chmod(folder, 0o755)
    done = subprocess.run(
        [sys.executable, "-c", demoted.replace("os.setuid(54321)", "os.getuid = lambda: 54321")],
        env=place.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "belongs to user 12345" in done.stdout, done.stdout + done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_socket_that_another_user_puts_there_later_is_not_trusted(place: Place) -> None:
    run = place.home / "run"
    run.chmod(0o1777)
    for folder in run.parents:
        if folder.stat().st_mode & 0o001 == 0:
            folder.chmod(0o755)
    client = f"""
import relocate, time
handle = relocate.enable(modules=["work"], workers="ipc://{run}/w")
seen = None
until = time.monotonic() + 20
while "belongs to" not in str(seen) and time.monotonic() < until:
    state = handle.workers(timeout=0.1)[0]
    if state["error"] != seen:
        seen = state["error"]
        print(seen, flush=True)
"""
    process = place.start(sys.executable, "-c", client)
    assert process.stdout is not None
    assert "nobody answers" in process.stdout.readline()
    impostor = f"""
import os, zmq
os.setuid(54321)
socket = zmq.Context().socket(zmq.ROUTER)
socket.bind("ipc://{run}/w")
os.chmod("{run}/w", 0o777)
print("there", flush=True)
print(socket.recv_multipart(), flush=True)
"""
    other = place.start(sys.executable, "-c", impostor)
    assert other.stdout is not None
    assert other.stdout.readline() == "there\n"
    assert "w belongs to user 54321" in process.stdout.readline()
    other.kill()
    assert other.communicate()[0] == ""


def test_a_worker_on_a_unix_socket_may_come_later_and_again(place: Place) -> None:
    url = f"ipc://{place.home}/run/w"
    client = f"""
import relocate, sys
handle = relocate.enable(modules=["work"], workers="{url}", fallback=False, start_timeout=60, patience=60)
print("begun", flush=True)
import work
for _ in sys.stdin:
    print(work.echo(1), flush=True)
"""
    process = place.start(sys.executable, "-c", client, talk=True)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    for end in (signal.SIGKILL, signal.SIGTERM):  # the first leaves its socket file
        worker = place.worker("--executors", "1", listen=url)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "1\n"
        worker.process.send_signal(end)
        worker.process.wait()


def test_a_damaged_allow_list_refuses_and_works_again_when_it_is_mended(place: Place, locked: Worker) -> None:
    server = place.relocate("keys", "show", "--keys", str(place.folder / "server")).stdout.split()[0]
    client = key(place, "client")
    place.relocate("keys", "allow", server, "--keys", str(place.folder / "client"))
    allowed = place.folder / "server" / "allowed"
    allowed.write_text("no key\n")
    done = place.python("-c", CLIENT.format(url=locked.url, keys=place.folder / "client"))
    assert done.stdout.startswith("WrongKey "), done.stdout + done.stderr
    allowed.write_text(f"{client} mended\n")
    done = place.python("-c", CLIENT.format(url=locked.url, keys=place.folder / "client"))
    assert done.stdout == "1\n", done.stderr
    assert locked.stop() == 0


DEEP = b"\x91" * 100_000


@pytest.mark.parametrize("executor", [False, True])
@pytest.mark.parametrize(
    "header",
    [
        b"\x96\xa5hello\x01\xa1x\x92\x03\x0b\xa1c" + DEEP[:3000] + b"\xc0",
        b"\x96\xa4open\x01\x92\x03\x0b\xc4\x01t\xc0" + DEEP[:3000] + b"\xc0",
        b"\x96\xa4open\x01\x92\x03\x0b\xc4\x01t\xc0" + DEEP + b"\xc0",
        b"\xdd\xff\xff\xff\xff",
    ],
    ids=["hello", "open", "long", "many"],
)
def test_no_header_ends_a_process(place: Place, header: bytes, executor: bool) -> None:
    worker = place.worker("--executors", "1", listen=f"ipc://{place.home}/run/w")
    before = worker.executors()
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(worker.url + (".0.0" if executor else ""))
        socket.send(header)
        assert socket.poll(5000)
        assert isinstance(wire.unpack(socket.recv_multipart())[0], wire.Refused)
    assert _ticket(worker.url)
    assert worker.executors() == before


def test_what_waits_at_a_busy_executor_is_bounded(place: Place) -> None:
    worker = place.worker("--executors", "1", listen=f"ipc://{place.home}/run/w")
    mark = place.folder / "mark"
    program = f"""
import relocate
relocate.enable(modules=["work"], workers="{worker.url}", fallback=False)
import work
work.touch_and_wait({str(mark)!r}, 100)
"""
    place.start(sys.executable, "-c", program)
    until(mark.exists, "the call to run")
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.sndhwm = 1
        socket.connect(f"{worker.url}.0.0")
        sent = 0
        while sent < 100 and socket.poll(1000, zmq.POLLOUT):
            socket.send(bytes(1 << 20))
            sent += 1
    assert sent < 30


def test_who_was_not_let_in_cannot_speak_to_executors(place: Place) -> None:
    key(place, "client")
    worker = place.worker("--executors", "1")
    port = next(c.laddr.port for c in worker.executors()[0].net_connections() if c.status == psutil.CONN_LISTEN)
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        transport.use_client_keys(socket, keys.load(place.folder / "client"), keys.load(worker.keys).public)
        monitor = socket.get_monitor_socket(channel.MONITORED)
        socket.connect(f"tcp://127.0.0.1:{port}")
        assert monitor.poll(5000)
        assert transport.read_event(monitor) != zmq.EVENT_HANDSHAKE_SUCCEEDED
        socket.disable_monitor()
        monitor.close()


def test_an_executor_of_a_worker_keeps_its_own_import_path(place: Place) -> None:
    worker = place.worker("--executors", "1", listen=f"ipc://{place.home}/run/w")
    place.write("work.py", "raise ImportError('the right one')")
    place.write("other/work.py", "raise ImportError('the wrong one')")
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(f"{worker.url}.0.0")
        opening = wire.Open(wire.PROTOCOL, session.PYTHON, _ticket(worker.url), [str(place.folder / "other")])
        socket.send_multipart(wire.pack(opening))
        socket.send_multipart(wire.pack(wire.Describe(bytes(16), "work")))
        assert socket.poll(5000)
        answer, _ = wire.unpack(socket.recv_multipart())
    assert isinstance(answer, wire.Rejected)
    assert "the right one" in answer.text
