"""``relocate worker``: real processes, real sockets, real signals."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time

import psutil
import pytest
from conftest import Place, alive, until

CLIENT = """
import os, sys, relocate
handle = relocate.enable(modules=["work"], workers="{url}", fallback=False, patience=5)
import work
"""


@pytest.fixture(params=["tcp", "ipc"])
def listen(request: pytest.FixtureRequest, place: Place) -> str:
    """Every kind of address that a worker takes."""
    return "tcp://127.0.0.1:0" if request.param == "tcp" else f"ipc://{place.home}/run/w"


def test_a_worker_serves_and_drains(place: Place, listen: str) -> None:
    worker = place.worker("--executors", "2", listen=listen)
    done = place.python("-c", CLIENT.format(url=worker.url) + "print(work.echo(7), work.pid())")
    assert done.stdout.split()[0] == "7", done.stderr
    assert int(done.stdout.split()[1]) in [e.pid for e in worker.executors()]
    executors = worker.executors()
    assert worker.stop() == 0
    assert not any(map(alive, executors))
    assert place.left_behind() == []


def test_sigterm_finishes_what_runs_and_takes_no_more(place: Place, listen: str) -> None:
    worker = place.worker("--executors", "1", listen=listen)
    mark = place.folder / "mark"
    program = (
        CLIENT.format(url=worker.url)
        + f"""
print(work.touch_and_wait({str(mark)!r}, 1.5))
try:
    work.echo(1)
except relocate.NoWorkerLeft as error:
    print("shut" in str(error) or "lost" in str(error) or "answers" in str(error))
"""
    )
    client = place.start(sys.executable, "-c", program)
    until(mark.exists, "the call to run")
    executor = worker.executors()[0].pid
    assert worker.stop() == 0
    out, err = client.communicate(timeout=30)
    assert out == f"{executor}\nTrue\n", err


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(place: Place, second: signal.Signals) -> None:
    worker = place.worker("--executors", "1")
    mark = place.folder / "mark"
    place.start(sys.executable, "-c", CLIENT.format(url=worker.url) + f"work.touch_and_wait({str(mark)!r}, 100)")
    until(mark.exists, "the call to run")
    executors = worker.executors()
    worker.process.send_signal(signal.SIGTERM)
    # The first signal is heeded when the executor's input says drain; the second must not be merged with it.
    until(lambda: psutil.Process(worker.process.pid).status() == psutil.STATUS_SLEEPING, "the drain")
    worker.process.send_signal(second)
    assert worker.process.wait(10) != 0
    until(lambda: not any(map(alive, executors)), "the end of the executors")


def test_a_dead_executor_is_replaced(place: Place) -> None:
    worker = place.worker("--executors", "2")
    (victim, other) = worker.executors()
    victim.kill()
    until(lambda: len([e for e in worker.executors() if alive(e)]) == 2 and not alive(victim), "the replacement")
    assert alive(other)
    done = place.python("-c", CLIENT.format(url=worker.url) + "print(work.echo(1))")
    assert done.stdout == "1\n", done.stderr


def test_executors_end_with_a_killed_supervisor(place: Place) -> None:
    worker = place.worker("--executors", "2")
    executors = worker.executors()
    worker.process.kill()
    until(lambda: not any(map(alive, executors)), "the end of the executors")


def test_an_executor_that_computes_in_c_ends_with_its_supervisor_too(place: Place) -> None:
    worker = place.worker("--executors", "1")
    mark = place.folder / "mark"
    # One regular expression that backtracks for ever holds the interpreter all the time.
    place.write(
        "hold.py", "import re\ndef on(path):\n    open(path, 'w').close()\n    re.match('(a+)+$', 'a' * 60 + 'b')\n"
    )
    program = f"""
import relocate
relocate.enable(modules=["hold"], workers="{worker.url}", fallback=False)
import hold
hold.on({str(mark)!r})
"""
    place.start(sys.executable, "-c", program)
    until(mark.exists, "the call to run")
    executors = worker.executors()
    worker.process.kill()
    until(lambda: not any(map(alive, executors)), "the end of the executor")


def test_a_taken_port_is_one_line(place: Place) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        url = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        done = place.relocate("worker", "--listen", url)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "is taken" in done.stderr
    assert url in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--listen", "nonsense"], "not a worker's address"),
        (["--listen", "7000"], "write tcp://host:port or ipc:///path\n"),
        (["--listen", "ipc://@name"], "a Unix socket needs an absolute path"),
        (["--listen", "ipc://name"], "a Unix socket needs an absolute path"),
        (["--listen", "ipc:///no/such/w"], "there is no folder /no/such\n"),
        (["--listen", "ipc:///tmp"], "there is a folder already"),
        (["--listen", "ipc:///" + 100 * "x"], "at most 93 bytes"),
        (["--listen", "tcp://127.0.0.1"], "not a worker's address"),
        (["--listen", "tcp://no.such.host.invalid:7000"], "no.such.host.invalid"),
        (["--listen", "tcp://127.0.0.1:0", "--modules", "no_such_module"], "no_such_module"),
        (["--listen", "tcp://127.0.0.1:0", "--executors", "2", "--ports", "7001"], "need 2 ports"),
        (["--listen", "tcp://127.0.0.1:0", "--executors", "1", "--ports", "0"], "each from 1 to 65535"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(place: Place, arguments: list[str], says: str) -> None:
    done = place.relocate("worker", *arguments)
    assert done.returncode != 0
    assert done.stderr.count("\n") == 1, done.stderr
    assert says in done.stderr


def test_executors_take_the_ports_they_are_given(place: Place) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    worker = place.worker("--executors", "1", "--ports", str(port))
    assert place.python("-c", CLIENT.format(url=worker.url) + "print(work.echo(1))").stdout == "1\n"
    listening = {c.laddr.port for c in worker.executors()[0].net_connections() if c.status == psutil.CONN_LISTEN}
    assert listening == {port}


def test_ipc_sockets_are_for_their_owner_only(place: Place) -> None:
    worker = place.worker("--executors", "1", listen=f"ipc://{place.home}/run/w")
    modes = {p.name: os.stat(p).st_mode & 0o077 for p in (place.home / "run").iterdir()}
    assert set(modes) == {"w", "w.0.0", "w.0.0.d"}
    assert set(modes.values()) == {0}
    assert worker.stop() == 0


def test_a_taken_unix_socket_is_left_to_its_worker(place: Place) -> None:
    url = f"ipc://{place.home}/run/w"
    first = place.worker("--executors", "1", listen=url)
    done = place.relocate("worker", "--listen", url)
    assert done.returncode == 2
    assert "is taken" in done.stderr
    assert place.python("-c", CLIENT.format(url=url) + "print(work.echo(1))").stdout == "1\n"
    assert first.stop() == 0


def test_a_file_that_is_no_socket_is_left_as_it_is(place: Place) -> None:
    path = place.home / "run" / "w"
    path.write_text("precious")
    done = place.relocate("worker", "--listen", f"ipc://{path}")
    assert done.returncode == 2
    assert done.stderr == f"relocate: cannot listen on ipc://{path}: there is a file already\n"
    assert path.read_text() == "precious"


def test_nor_is_one_in_the_place_of_an_executors_socket(place: Place) -> None:
    path = place.home / "run" / "w"
    beside = path.with_name("w.0.0")
    beside.write_text("precious")
    worker = place.worker("--executors", "1", listen=f"ipc://{path}")  # its second try is w.0.1
    assert beside.read_text() == "precious"
    assert worker.stop() == 0


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_unix_socket_answers_no_other_user_whatever_its_mode(place: Place) -> None:
    worker = place.worker("--executors", "1", listen=f"ipc://{place.home}/run/w")
    for folder in (place.home / "run", *(place.home / "run").parents):
        if folder.stat().st_mode & 0o001 == 0:
            os.chmod(folder, 0o755)
    for name in ("w", "w.0.0", "w.0.0.d"):
        os.chmod(place.home / "run" / name, 0o777)
    program = """
import os, sys, zmq
from relocate import session, wire
if len(sys.argv) > 2:
    os.setuid(54321)
socket = zmq.Context().socket(zmq.DEALER)
socket.linger = 0
socket.connect(sys.argv[1])
socket.send_multipart(wire.pack(wire.Cancel(0, bytes(16))))
print(bool(socket.poll(3000)))
"""
    for url in (worker.url, f"{worker.url}.0.0"):
        assert place.python("-c", program, url).stdout == "True\n"
        assert place.python("-c", program, url, "demoted").stdout == "False\n"
    program = """
import os, socket, sys
from relocate import direct, wire
if len(sys.argv) > 2:
    os.setuid(54321)
stream = socket.socket(socket.AF_UNIX)
stream.connect(sys.argv[1])
straight = direct.Stream(stream)
try:
    straight.send(wire.pack(wire.Cancel(0, bytes(16))))
    while True:
        try:
            print(wire.unpack(straight.receive())[0].code)
            break
        except direct.Nothing:
            pass
except direct.Ended:
    print("ended")
"""
    path = str(place.home / "run" / "w.0.0.d")
    assert place.python("-c", program, path).stdout == "protocol\n"
    done = place.python("-c", program, path, "demoted")
    assert done.stdout == "ended\n", done.stderr


def test_an_executor_that_is_killed_while_it_starts_is_not_started_again_at_once(place: Place) -> None:
    place.write("heavy.py", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    command = (sys.executable, "-m", "relocate", "worker", "-n", "1", "--modules", "heavy", "--listen")
    process = place.start(*command, f"ipc://{place.home}/run/w")
    assert process.stderr is not None
    assert "ended with status -9" in process.stderr.readline()
    began = time.monotonic()
    for _ in range(3):
        assert "ended with status -9" in process.stderr.readline()
    assert time.monotonic() - began > 1.3


def test_a_supervisor_needs_no_temporary_folder(place: Place) -> None:
    temporary = place.home / "temporary"
    temporary.mkdir()
    worker = place.worker("--executors", "1", listen=f"ipc://{place.home}/run/w", TMPDIR=str(temporary))
    temporary.rmdir()
    (victim,) = worker.executors()
    victim.kill()
    until(lambda: [e for e in worker.executors() if alive(e) and e != victim], "the replacement")
    assert worker.stop() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="limits of other processes")
def test_a_supervisor_that_cannot_start_executors_says_so_and_tries_again(place: Place) -> None:
    worker = place.worker("--executors", "1", listen=f"ipc://{place.home}/run/w")
    supervisor = psutil.Process(worker.process.pid)
    before = supervisor.rlimit(psutil.RLIMIT_NOFILE)
    supervisor.rlimit(psutil.RLIMIT_NOFILE, (3, before[1]))
    (victim,) = worker.executors()
    victim.kill()
    assert worker.process.stderr is not None
    said = worker.process.stderr.readline()
    while "cannot start an executor: Too many open files" not in said:
        assert "ended with status -9" in said
        said = worker.process.stderr.readline()
    supervisor.rlimit(psutil.RLIMIT_NOFILE, before)
    until(lambda: [e for e in worker.executors() if alive(e) and e != victim], "the replacement")
    assert worker.stop() == 0


def test_ports_are_not_the_one_that_the_supervisor_has(place: Place) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    done = place.relocate("worker", "--listen", f"tcp://127.0.0.1:{port}", "-n", "1", "--ports", str(port))
    assert done.returncode == 2
    assert done.stderr == f"relocate: port {port} of --ports is the one it listens on\n"


def test_a_port_of_an_executor_that_is_taken_is_named(place: Place) -> None:
    first, taken = neighbours()
    with first:
        port = first.getsockname()[1]
    with taken:
        taken.listen()
        command = (sys.executable, "-m", "relocate", "worker", "--listen", "tcp://127.0.0.1:0", "-n", "2")
        process = place.start(*command, "--ports", f"{port}-{port + 1}")
        assert process.stderr is not None
        reason = f"cannot listen on tcp://127.0.0.1:{port + 1}: the address is taken"
        assert process.stderr.readline() == f"relocate: {reason}\n"
    assert process.stdout is not None
    ready = process.stdout.readline()
    assert ready.startswith("relocate: ready on ")
    assert ready.endswith(" with 2 executors\n")
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30)[1] == ""


def neighbours() -> tuple[socket.socket, socket.socket]:
    """Two sockets that have a port and the next one."""
    while True:
        first, second = socket.socket(), socket.socket()
        first.bind(("127.0.0.1", 0))
        try:
            second.bind(("127.0.0.1", first.getsockname()[1] + 1))
        except (OSError, OverflowError):
            first.close()
            second.close()
        else:
            return first, second


def test_a_worker_whose_ports_are_all_taken_does_not_start(place: Place) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = place.relocate("worker", "--listen", "tcp://127.0.0.1:0", "-n", "1", "--ports", str(port))
    assert done.returncode == 2
    said = f"cannot listen on tcp://127.0.0.1:{port}: the address is taken; give other --ports"
    assert done.stderr == f"relocate: {said}\n"


def test_a_worker_whose_executors_are_not_up_drains_at_once(place: Place) -> None:
    place.write("slow.py", "import pathlib, time\npathlib.Path('begun').touch()\ntime.sleep(60)\n")
    command = (sys.executable, "-m", "relocate", "worker", "--listen", f"ipc://{place.folder}/w", "-n", "1")
    process = place.start(*command, "--modules", "slow")
    while not (place.folder / "begun").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


def test_a_worker_drains_at_once_while_it_waits_to_start_an_executor_again(place: Place) -> None:
    place.write("sitecustomize.py", "import os\nif 'RELOCATE_EXECUTOR' in os.environ: os._exit(3)\n")
    process = place.start(sys.executable, "-m", "relocate", "worker", "--listen", f"ipc://{place.folder}/w", "-n", "1")
    assert process.stderr is not None
    while process.stderr.readline() != "relocate: executor 0.3 ended with status 3\n":
        pass
    time.sleep(0.3)  # it waits for 1.6 s now
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


def test_a_result_that_is_too_large_for_a_message_is_the_calls_failure(place: Place) -> None:
    worker = place.worker("--executors", "1", listen=f"ipc://{place.home}/run/w")
    place.write(
        "large.py",
        """
        def lower():
            import relocate.wire
            relocate.wire.MAX_MESSAGE = 1 << 20

        def result():
            return bytes(2 << 20)
        """,
    )
    program = f"""
import relocate
relocate.enable(modules=["large", "work"], workers="{worker.url}", fallback=False)
import large, work
large.lower()
before = work.pid()
try:
    large.result()
except relocate.ArgumentError as error:
    print(error)
print(work.pid() == before)
"""
    done = place.python("-c", program)
    assert "at most 1,048,576" in done.stdout, done.stderr
    assert done.stdout.endswith("True\n")
