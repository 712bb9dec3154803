"""The commands that look at running programs and change their name spaces."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Place, Worker, until
from rich.console import Console

from relocate.commands import names, top

PROGRAM = """
import os, sys, relocate
handle = relocate.enable(modules=["work"], workers=sys.argv[1] if len(sys.argv) > 1 else 1)
import work
work.echo(1)
print("ready", flush=True)
for line in sys.stdin:
    print(getattr(work, line.strip())(), os.getpid(), flush=True)
"""


class Running:
    """A program that calls what it is told, and says which process ran it."""

    def __init__(self, place: Place, *arguments: str) -> None:
        self.process = place.start(sys.executable, "-c", PROGRAM, *arguments, talk=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n", self.process.communicate()
        self.pid = str(self.process.pid)

    def call(self, name: str) -> tuple[int, int]:
        """What ``work.name()`` gave, and this program's own process."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(name + "\n")
        self.process.stdin.flush()
        there, here = self.process.stdout.readline().split()
        return int(there), int(here)

    def runs_here(self, name: str = "pid") -> bool:
        there, here = self.call(name)
        return there == here


@pytest.fixture
def running(place: Place) -> Running:
    return Running(place)


@pytest.fixture
def desk(place: Place) -> Iterator[Worker]:
    worker = place.worker("--executors", "1")
    yield worker
    worker.stop()


def good(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_ps_lists_the_programs_that_run(place: Place) -> None:
    assert place.relocate("ps").returncode == 1
    running = Running(place)
    shown = good(place.relocate("ps"))
    assert shown.splitlines()[0].split() == ["pid", "age", "workers", "modules", "program"]
    assert shown.splitlines()[1].split()[0] == running.pid
    assert "1 of 1" in shown
    found = json.loads(good(place.relocate("ps", "--json")))
    assert list(found) == [running.pid]
    assert found[running.pid]["modules"] == ["work"]
    running.process.communicate()
    done = place.relocate("ps", "--json")
    assert (done.returncode, done.stdout, done.stderr) == (1, "{}\n", "")


def test_names_of_a_running_program_are_shown(place: Place, running: Running) -> None:
    shown = good(place.relocate("ls"))
    assert shown.startswith(f"program {running.pid}: -c\n")
    assert ["/chan", "/n/embedded/chan", "0"] in [line.split() for line in shown.splitlines()]
    found = json.loads(good(place.relocate("ls", "--json", "/chan/work/pid")))
    assert [aim["place"] for aim in found["leads to"]] == ["embedded", "local"]
    detailed = good(place.relocate("ls", "-l", "/chan/work", "--pid", running.pid))
    assert "pid embedded (rank 0), local (rank 1)" in [" ".join(line.split()) for line in detailed.splitlines()]
    for nowhere in ("/nowhere", "/chan/nope", "/chan/work/nothing"):
        done = place.relocate("ls", nowhere)
        assert done.returncode == 1
        assert done.stderr.startswith(f"relocate: there is no name {nowhere}")
    assert "work embedded (rank 0), local (rank 1)" in " ".join(good(place.relocate("ls", "-l")).split())


def test_without_a_running_program_ls_and_ps_say_so(place: Place) -> None:
    done = place.relocate("ps")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("relocate: none is running; a program that 'relocate run' starts is listed once")
    done = place.relocate("ls", RELOCATE_WORKERS="1")
    assert "/n/embedded/chan" in done.stdout
    assert (
        done.stderr == "relocate: no relocated program is running; this is what one that is started here would have\n"
    )
    assert place.relocate("ls", "-w", "1").stderr == ""


def test_what_is_shown_where_there_is_no_terminal_is_not_cut(place: Place) -> None:
    url = f"ipc:///{'long' * 20}"
    Running(place, f"1; {url}")
    for command in (("ls",), ("top", "--once", "--interval", "0.1")):
        assert url in good(place.relocate(*command)), command


def test_a_running_program_is_moved_about(place: Place, running: Running, desk: Worker) -> None:
    (executor,) = desk.executors()
    assert not running.runs_here()
    assert good(place.relocate("bind", "/n/local/chan/work/pid", "/chan/work/pid")) == ""
    assert running.runs_here()
    assert json.loads(good(place.relocate("ls", "--json", "/chan/work/pid")))["leads to"][0]["place"] == "local"
    assert good(place.relocate("mount", desk.url, "desk", "--pid", running.pid)) == "/n/desk\n"
    until(lambda: "up" in good(place.relocate("ls")).split("desk")[1].split("\n")[0], "the link to the desk")
    assert good(place.relocate("bind", "-b", "/n/desk/chan/work", "/chan/work")) == ""
    assert running.runs_here()  # the longer name still leads here
    assert good(place.relocate("unmount", "/n/local/chan/work/pid", "/chan/work/pid")) == ""
    assert running.call("pid")[0] == executor.pid
    assert good(place.relocate("unmount", "/n/desk")) == ""
    assert running.call("pid")[0] not in (executor.pid, running.process.pid)


@pytest.mark.parametrize("command", [("unmount", "/chan"), ("unmount", "/n/local"), ("ns", "load", "empty")])
def test_whatever_is_unbound_the_local_copy_runs_calls_where_it_may(place: Place, command: tuple[str, ...]) -> None:
    place.write("empty", "clear\n")
    running = Running(place)
    good(place.relocate(*command))
    if "/n/local" in command:
        assert not running.runs_here()
        good(place.relocate("unmount", "/n/embedded"))
    assert running.runs_here()
    assert running.runs_here()
    assert running.process.communicate()[1].count("runs here, not on a worker: nothing is bound at /chan/work/pid") == 1


def test_where_the_local_copy_may_not_run_calls_a_name_that_leads_nowhere_is_an_error(place: Place) -> None:
    program = """
import relocate
handle = relocate.enable(modules=["work"], workers=1, fallback=False)
import work
handle.namespace.unmount("/chan")
try:
    work.pid()
except relocate.NoWorkerLeft as error:
    print(error)
"""
    assert place.python("-c", program).stdout == "work.pid: nothing is bound at /chan/work/pid\n"


def test_that_nobody_answers_where_something_is_mounted_or_bound_is_said(place: Place, running: Running) -> None:
    url = "tcp://127.0.0.1:1"
    done = place.relocate("mount", url, "dead")
    said = f"nobody answers at {url}; is 'relocate worker --listen {url}' running there?"
    assert (done.returncode, done.stdout) == (0, "/n/dead\n")
    assert done.stderr == f"relocate: /n/dead is down: {said}\n"
    done = place.relocate("bind", "/n/dead/chan", "/chan")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"relocate: /n/dead/chan leads to dead, which is down: {said}\n"
    assert running.runs_here()


def test_a_bind_of_a_name_that_the_program_does_not_know_is_doubted(place: Place, running: Running) -> None:
    del running
    for name, meant in [("wrk", "work"), ("work/pdi", "work.pid")]:
        done = place.relocate("bind", f"/n/local/chan/{name}", f"/chan/{name}")
        name = name.replace("/", ".")
        assert done.stderr == (
            f"relocate: the program knows no module or function {name!r} so far; did you mean {meant}?\n"
        )
        assert done.returncode == 0


def test_a_name_space_is_saved_changed_and_loaded(place: Place, running: Running) -> None:
    saved = good(place.relocate("ns", "save"))
    assert saved.splitlines() == [
        "clear",
        "mount local:1 /n/embedded",
        "bind /n/embedded/chan /chan",
        "bind -a --rank 1 /n/local/chan /chan",
    ]
    good(place.relocate("ns", "save", "before"))
    assert (place.folder / "before").read_text("utf-8") == saved
    place.write("here", "bind /n/local/chan /chan")
    good(place.relocate("ns", "load", "here"))
    assert running.runs_here()
    members = good(place.relocate("ls", "/chan/work")).split()
    assert "touch_and_wait" in members
    assert "os" not in members  # which it imports
    assert place.relocate("ls", "/chan/work/nothing").returncode != 0
    good(place.relocate("ns", "load", "before"))
    assert not running.runs_here()
    place.write("wrong", "clear\nbind /n/attic/chan /chan\n")
    done = place.relocate("ns", "load", "wrong")
    assert (done.returncode, done.stderr) == (
        2,
        "relocate: wrong:2: '/n/attic/chan' leads nowhere; mounted below /n: local\n",
    )
    assert good(place.relocate("ns", "save")) == saved


@pytest.mark.parametrize(
    "command",
    [
        ("bind", "/n/local/chan", "/chan"),
        ("mount", "tcp://127.0.0.1:7000"),
        ("unmount", "/chan"),
        ("ns", "save"),
    ],
)
def test_without_a_running_program_that_is_said(place: Place, command: tuple[str, ...]) -> None:
    done = place.relocate(*command)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("relocate: no relocated program is running; it is listed by 'relocate ps' once")


def test_with_several_programs_one_must_be_named(place: Place, running: Running) -> None:
    other = Running(place)
    done = place.relocate("bind", "/n/local/chan", "/chan")
    assert done.returncode == 2
    first, second = sorted([running.pid, other.pid], key=int)
    assert done.stderr == (
        f"relocate: 2 relocated programs are running; name one with --pid: {first} (-c), {second} (-c)\n"
    )
    good(place.relocate("bind", "/n/local/chan", "/chan", "--pid", other.pid))
    assert other.runs_here()
    assert not running.runs_here()


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("bind", "/n/desk/chan", "/chan"), "'/n/desk/chan' leads nowhere; mounted below /n: embedded, local"),
        (("bind", "-a", "-b", "/n/local/chan", "/chan"), "-a and -b exclude each other"),
        (("mount", "desk"), "'desk' is not a worker's address; write tcp://host:port"),
        (("unmount", "/chan/x"), "nothing is bound or mounted at '/chan/x'"),
        (("unmount", "a", "b", "c"), "write relocate unmount [NEW] OLD"),
        (("ls", "--pid", "1"), "no relocated program 1 is running; see 'relocate ps'"),
        (("ns", "load", "missing"), "relocate: missing: No such file"),
        (("ns", "save", "/missing/file"), "relocate: /missing/file: No such file"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(place: Place, command: tuple[str, ...], says: str) -> None:
    Running(place)
    done = place.relocate(*command)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_of_names_is_loaded_at_start(place: Place, tmp_path: Path) -> None:
    file = place.write("names", "bind /n/local/chan/work /chan/work\n")
    place.write("main.py", "import os, work\nprint(work.pid() == os.getpid())")
    options = ("run", "-M", "work", "-w", "1", "main.py")
    assert good(place.relocate(*options)) == "False\n"
    assert good(place.relocate(*options, RELOCATE_NAMESPACE=str(file))) == "True\n"
    file.write_text("bund /n/local/chan /chan", "utf-8")
    done = place.relocate(*options, RELOCATE_NAMESPACE=str(file))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"relocate: {file}:1: 'bund' is not known; write one of: ")


def test_top_shows_what_calls_do(place: Place) -> None:
    running = Running(place, "2")
    running.call("pid")
    shown = good(place.relocate("top", "--once", "--interval", "0.1"))
    lines = [line.split() for line in shown.splitlines() if line]
    assert lines[0][:2] == ["program", f"{running.pid}:"]
    assert ["worker", "state", "executors", "running", "address"] in lines
    assert [line for line in lines if line[:3] == ["embedded", "up", "2"]]
    assert [line for line in lines if line[:1] == ["work"] and line[-1] == "2"]


def test_top_tells_programs_what_happened_in_each_interval(place: Place) -> None:
    running = Running(place)
    top = place.start(sys.executable, "-m", "relocate", "top", "--json", "--interval", "0.2")
    assert top.stdout is not None
    first = json.loads(top.stdout.readline())
    assert (first["pid"], first["queue"], first["running"]) == (running.process.pid, 0, 0)
    assert [worker["name"] for worker in first["workers"]] == ["embedded"]
    assert list(first["executors"]) == ["embedded/0"]
    calls, lately = 1, 0.0
    for _ in range(50):
        running.call("pid")
        calls += 1
        view = json.loads(top.stdout.readline())
        lately += view["calls/s"] * view["seconds"]
        if view["modules"]["work"]["p50"] is not None:
            assert 0 < view["modules"]["work"]["p50"] <= view["modules"]["work"]["p99"] < 30
            break
    else:
        pytest.fail("no call was seen")
    assert 1 <= round(lately) <= calls
    running.process.communicate()
    _, err = top.communicate(timeout=30)
    assert (top.returncode, err) == (0, f"program {running.pid} has ended\n")


def test_top_ends_with_ctrl_c(place: Place) -> None:
    Running(place)
    top = place.start(sys.executable, "-m", "relocate", "top", "--interval", "0.1")
    assert top.stdout is not None
    assert top.stdout.readline().startswith("program ")
    top.send_signal(signal.SIGINT)
    assert top.communicate(timeout=30)[1] == ""
    assert top.returncode == 0


def test_on_a_terminal_top_fills_the_screen_and_gives_it_back(place: Place) -> None:
    running = Running(place)
    terminal, inside = os.openpty()
    try:
        top = subprocess.Popen(
            [sys.executable, "-m", "relocate", "top", "--interval", "0.1"],
            cwd=place.folder,
            env={**place.environment, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"},
            stdin=inside,
            stdout=inside,
            stderr=inside,
        )
        place.started.append(top)
        os.close(inside)
        seen = b""
        while seen.count(b"embedded/0") < 2:
            seen += os.read(terminal, 65536)
        top.send_signal(signal.SIGINT)
        while b"\x1b[?1049l" not in seen:
            seen += os.read(terminal, 65536)
    finally:
        os.close(terminal)
    assert top.wait(30) == 0
    assert b"\x1b[?1049h" in seen
    assert f"program {running.pid}".encode() in seen


def test_an_address_with_brackets_is_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    worker = {
        "name": "[fe80::1]:7000",
        "url": "tcp://[fe80::1]:7000",
        "state": "down",
        "executors": 0,
        "outstanding": 0,
    }
    names.show({"workers": [{**worker, "error": "nobody answers at tcp://[fe80::1]:7000"}], "bindings": []})
    assert capsys.readouterr().out.count("[fe80::1]:7000") == 4
    sample = {
        "at": 0.0,
        "pid": 1,
        "workers": [worker],
        "outstanding": {"[fe80::1]:7000/0": 1},
        "queue": 2,
        "counts": {"returned": 0, "raised": 0, "failed": 0, "executors": {}, "modules": {}},
    }
    Console(markup=False, width=200).print(top.table(top.view(sample, {**sample, "at": 1.0})))
    shown = capsys.readouterr().out
    assert "p50 -, p99 -; 2 waiting, 1 running" in shown
    assert shown.count("[fe80::1]:7000") == 3


# explain -----------------------------------------------------------------------------------------


def test_explain_tells_where_the_next_call_goes_and_why(place: Place, running: Running) -> None:
    for _ in range(3):
        running.call("pid")
    told = good(place.relocate("explain", "work.pid"))
    assert told.startswith("work.pid: 3 calls ran on workers, 0 here\nthe next call goes to: embedded/0\n")
    assert "rank 0: embedded, up\n    embedded/0: ready, 0 calls, slowness" in told
    assert "has the module" in told
    assert " here" not in told.split("\n", 1)[1]  # nothing ran here: nothing is told of that
    found = json.loads(good(place.relocate("explain", "--json", "work.pid")))
    assert (found["next"], found["placement"], found["ran there"]) == ("embedded/0", "remote", 3)
    assert all("goes" not in cost for cost in found["costs"])
    assert [p["place"] for p in found["places"]] == ["embedded", "local"]
    good(place.relocate("bind", "/n/local/chan/work/pid", "/chan/work/pid"))
    assert json.loads(good(place.relocate("explain", "--json", "work.pid")))["next"] == "here"


def test_explain_tells_what_calls_cost(place: Place) -> None:
    place.write(
        "main.py", PROGRAM.replace("workers=sys.argv[1] if len(sys.argv) > 1 else 1", 'workers=1, placement="auto"')
    )
    process = place.start(sys.executable, "main.py", talk=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    told = good(place.relocate("explain", "work.echo"))
    assert "placement is auto: each call goes where such calls cost less" in told
    assert "the next one goes " in told
    process.communicate("")


@pytest.mark.usefixtures("running")
def test_explain_knows_no_function_that_was_not_imported(place: Place) -> None:
    done = place.relocate("explain", "work.ecko")
    assert done.returncode != 0
    assert "'work.ecko' is no relocated function that the program has imported; did you mean work.echo?" in done.stderr


def test_a_registry_that_works_is_no_place_of_its_own_in_what_is_shown(place: Place) -> None:
    registry = place.registry()
    desk = place.worker("--executors", "1", "--registry", registry.url)
    running = Running(place, f"registry+{registry.url}")
    name = desk.url.removeprefix("tcp://")
    assert not running.runs_here()
    told = good(place.relocate("explain", "work.pid"))
    assert f"rank 0: {name}, up" in told
    assert "registry@" not in told + good(place.relocate("ls"))
    places = {row["leads to"].split("/")[2] for row in json.loads(good(place.relocate("ls", "--json")))["bindings"]}
    assert places == {name, "local"}
