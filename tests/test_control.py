"""The control socket: who finds it, who may use it, what it answers, and that nothing of it is left."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Place, until

from relocate import config, control
from relocate.control import Control, ask, running
from relocate.errors import ConfigError, RelocateError
from relocate.handle import Handle


@pytest.fixture(autouse=True)
def runtime(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("r")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    return folder


def fail(kind: str) -> None:
    raise {"mistake": ConfigError, "failure": RelocateError, "defect": ZeroDivisionError}[kind](f"a {kind}")


@pytest.fixture
def listening() -> Iterator[Control]:
    made = Control({"double": lambda number: number * 2, "fail": fail, "big": lambda: "x" * 3_000_000})
    yield made
    made.stop()


def me() -> str:
    return str(os.getpid())


def test_a_verb_is_asked_for_by_name(listening: Control) -> None:
    assert list(running()) == [me()]
    assert ask(me(), "double", number=21) == 42
    assert ask(me(), "big") == "x" * 3_000_000


@pytest.mark.parametrize(
    ("verb", "arguments", "error", "says"),
    [
        ("fail", {"kind": "mistake"}, ConfigError, "a mistake"),
        ("fail", {"kind": "failure"}, RelocateError, "a failure"),
        ("fail", {"kind": "defect"}, RelocateError, "a defect"),
        ("double", {"numbr": 1}, ConfigError, "numbr"),
        ("halve", {}, ConfigError, "'halve' is not known to this program's version of relocate"),
    ],
)
def test_what_fails_there_is_an_error_here(
    listening: Control, verb: str, arguments: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says) as caught:
        ask(me(), verb, **arguments)
    assert type(caught.value) is error
    assert ask(me(), "double", number=1) == 2


@pytest.mark.parametrize("line", [b"nonsense\n", b'{"verb": 3}\n', b'{"verb": "double", "more": 1}\n', b"\xff\n"])
def test_garbage_is_answered_and_harms_nothing(listening: Control, line: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(listening.path))
        peer.sendall(line)
        answer = json.loads(peer.makefile().readline())
    assert answer["error"]
    assert answer["mistake"]
    assert ask(me(), "double", number=1) == 2


def test_who_sends_without_an_end_is_cut_off(listening: Control) -> None:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(listening.path))
        with pytest.raises(ConnectionError):
            peer.sendall(b"x" * 8 * control.LONGEST)
    assert ask(me(), "double", number=1) == 2


def test_only_its_user_can_reach_it(listening: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stat.S_IMODE(listening.path.parent.stat().st_mode) == 0o700
    mine = os.geteuid()
    asked: list[int] = []

    def other() -> int:  # the folder is looked at first, here; then the peer is, there
        asked.append(1)
        return mine if len(asked) == 1 else mine + 1

    monkeypatch.setattr(os, "geteuid", other)
    with pytest.raises(RelocateError, match="another user's"):
        ask(me(), "double", number=1)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_who_gets_at_the_socket_is_not_answered(listening: Control) -> None:
    for folder in listening.path.parents:
        if folder.stat().st_mode & 0o001 == 0:
            folder.chmod(0o755)
    listening.path.chmod(0o777)
    program = """
import os, socket, sys
if len(sys.argv) > 2:
    os.setuid(54321)
peer = socket.socket(socket.AF_UNIX)
peer.connect(sys.argv[1])
peer.settimeout(20)
try:
    peer.sendall(b'{"verb": "double", "arguments": {"number": 1}}\\n')
    print(peer.recv(100))
except ConnectionError:
    print(b"")
"""
    command = [sys.executable, "-c", program, str(listening.path)]
    answers = [subprocess.run([*command, *more], capture_output=True, text=True).stdout for more in ([], ["demoted"])]
    assert answers == ['b\'{"value":2,"error":null,"mistake":false}\\n\'\n', "b''\n"]


@pytest.mark.parametrize("what", ["open", "file", "link"])
def test_a_folder_that_is_not_ones_own_is_refused(runtime: Path, tmp_path: Path, what: str) -> None:
    folder = control.folder()
    if what == "open":
        folder.mkdir(mode=0o755)
    elif what == "file":
        folder.touch()
    else:
        folder.symlink_to(tmp_path)
    with pytest.raises(RelocateError, match="only you can enter; remove it, or set XDG_RUNTIME_DIR"):
        Control({})
    with pytest.raises(RelocateError, match="only you can enter"):
        list(running())


def test_what_a_killed_program_left_is_removed(listening: Control, runtime: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(control.folder() / "1"))
    assert list(running()) == [me()]
    assert os.listdir(control.folder()) == [me()]


def test_nothing_is_left_when_the_last_one_ends(runtime: Path) -> None:
    first, second = Control({"number": lambda: 1}), Control({"number": lambda: 2})
    assert list(running()) == [me(), f"{me()}.2"]
    assert ask(f"{me()}.2", "number") == 2
    first.stop()
    assert list(running()) == [f"{me()}.2"]
    second.stop()
    assert list(running()) == []
    assert list(runtime.iterdir()) == []
    assert not [t for t in threading.enumerate() if t.name == "relocate-control"]
    with pytest.raises(ConfigError, match="no relocated program 1 is running; see 'relocate ps'"):
        ask("1", "number")


def test_a_program_that_does_not_answer_is_not_waited_for_for_ever() -> None:
    control._own_folder()
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(control.folder() / "7"))
        silent.listen()
        with pytest.raises(RelocateError, match="program 7 does not answer"):
            ask("7", "about", timeout=0.05)


# Of real programs ----------------------------------------------------------------------------------

PROGRAM = """
import os, sys, relocate
handle = relocate.enable(modules=["work"], workers=1)
import work
work.echo(1)
"""


def sockets(place: Place) -> list[str]:
    folder = place.home / "run" / f"relocate-run-{os.geteuid()}"
    return sorted(os.listdir(folder)) if folder.exists() else []


def test_a_program_can_be_looked_at_once_it_has_links_and_leaves_nothing(place: Place) -> None:
    program = place.start(
        sys.executable,
        "-c",
        "import relocate\nrelocate.enable(modules=['work'], workers=1, early=False)\n"
        "print(1, flush=True); input()\nimport work\nwork.echo(1)\nprint(2, flush=True); input()",
        talk=True,
    )
    assert program.stdout is not None
    assert program.stdin is not None
    assert program.stdout.readline() == "1\n"
    assert sockets(place) == []
    program.stdin.write("\n")
    program.stdin.flush()
    assert program.stdout.readline() == "2\n"
    assert sockets(place) == [str(program.pid)]
    program.communicate("\n")
    assert place.left_behind() == []


def test_a_forked_child_has_its_own(place: Place) -> None:
    done = place.python(
        "-W",
        "ignore",
        "-c",
        PROGRAM
        + """
from relocate import config, control
parent = os.getpid()
if (child := os.fork()) == 0:
    before = list(control.running())
    work.echo(2)
    print(before == [str(parent)], sorted(control.running()) == sorted([str(parent), str(os.getpid())]), flush=True)
    handle.disable()
    os._exit(0)
os.waitpid(child, 0)
print(list(control.running()) == [str(parent)], control.ask(str(parent), "statistics")["calls"])
""",
    )
    assert (done.stdout, done.stderr) == ("True True\nTrue 1\n", "")
    assert place.left_behind() == []


def test_a_program_without_a_safe_place_for_it_runs_as_well(place: Place) -> None:
    (place.home / "run" / f"relocate-run-{os.geteuid()}").mkdir(mode=0o755)
    done = place.python("-c", PROGRAM + "print(work.echo(3))")
    assert (done.stdout, done.stderr) == ("3\n", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_program_is_not_listed_and_its_worker_removes_what_it_left(place: Place, number: int) -> None:
    program = place.start(sys.executable, "-c", PROGRAM + "print(1, flush=True); input()", talk=True)
    assert program.stdout is not None
    assert program.stdout.readline() == "1\n"
    assert sockets(place) == [str(program.pid)]
    os.kill(program.pid, number)
    program.wait()
    until(lambda: place.left_behind() == [], "the end of the worker's files")


def test_a_long_name_of_the_temporary_folder_hides_no_program(place: Place) -> None:
    folder = place.home / ("x" * 60) / ("y" * 60)
    folder.mkdir(parents=True)
    program = PROGRAM + "from relocate import control; print(str(os.getpid()) in control.running(), control.folder())"
    done = place.python("-c", program, TMPDIR=str(folder))
    assert (done.stdout, done.stderr) == (f"True /tmp/relocate-run-{os.geteuid()}\n", "")


def test_who_only_looks_at_workers_is_not_listed() -> None:
    handle = Handle(config.load({"workers": "tcp://127.0.0.1:1"}))
    try:
        handle.workers()
        assert list(running()) == []
    finally:
        handle.close()
