"""What the tests of real processes share: programs, workers, and the proof that nothing is left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from hypothesis import settings

from relocate.control import sweep

pytest_plugins = ["pytester"]

# The same examples at every run, however slow the machine is.
settings.register_profile("relocate", derandomize=True, deadline=None)
settings.load_profile("relocate")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that runs this in the background ignores Ctrl-C for it, and programs would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

WAIT = 30.0
"""Seconds: how long a test waits for an event before it fails; no test waits for time to pass."""


def until(condition: Callable[[], object], what: str, seconds: float = WAIT) -> None:
    """Wait for ``condition``, and fail naming ``what`` if it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"waited {seconds:g} s in vain for: {what}")
        time.sleep(0.005)  # polling an outside process: there is no event to wait for


def alive(process: psutil.Process) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def family(pid: int) -> list[psutil.Process]:
    """All descendants of ``pid``."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


@dataclass
class Worker:
    """A running ``relocate worker``."""

    process: subprocess.Popen[str]
    url: str
    keys: Path

    count: int = 0

    def executors(self) -> list[psutil.Process]:
        """Its executor processes, oldest first; one in reserve is younger than all."""
        children = psutil.Process(self.process.pid).children()
        return sorted(children, key=lambda child: child.create_time())[: self.count]

    def reserve(self) -> list[psutil.Process]:
        """The process that will be the next executor, if there is one."""
        executors = self.executors()
        return [child for child in psutil.Process(self.process.pid).children() if child not in executors]

    def stop(self) -> int:
        """Drain it; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WAIT)


@dataclass
class Place:
    """A folder with modules and programs in it, an empty home, and what was started there."""

    folder: Path
    home: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of everything started here: this one's, with the empty home."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RELOCATE_", "XDG_"))}
        runtime = self.home / "run"
        return {**kept, "HOME": str(self.home), "TMPDIR": str(runtime), "PYTHONPATH": str(self.folder)}

    def write(self, name: str, text: str) -> Path:
        """Write a file of the program."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"), "utf-8")
        return path

    def start(self, *command: str, talk: bool = False, **environment: str) -> subprocess.Popen[str]:
        """Start a command here; to ``talk`` to it is to write to its standard input."""
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env={**self.environment, **environment},
            stdin=subprocess.PIPE if talk else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def python(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run Python here to its end."""
        return self.run(sys.executable, *arguments, **environment)

    def relocate(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the command ``relocate`` here to its end."""
        return self.run(sys.executable, "-m", "relocate", *arguments, **environment)

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command here to its end."""
        process = self.start(*command, **environment)
        try:
            out, err = process.communicate(timeout=100)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            pytest.fail(f"{command} did not end\n{out}\n{err}")
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def worker(
        self, *arguments: str, listen: str = "tcp://127.0.0.1:0", prefix: tuple[str, ...] = (), **environment: str
    ) -> Worker:
        """Start a worker and wait until it is ready."""
        command = (*prefix, sys.executable, "-m", "relocate", "worker", "--listen", listen, *arguments)
        process = self.start(*command, **environment)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("relocate: ready on "):
            process.kill()
            pytest.fail(f"the worker did not start: {line}{process.communicate()[1]}")
        return Worker(process, line.split()[3], self.home / ".config" / "relocate" / "keys", int(line.split()[5]))

    def registry(self, *arguments: str, listen: str = "tcp://127.0.0.1:0", lease: float = 1.0) -> Worker:
        """Start a registry and wait until it is ready."""
        command = (sys.executable, "-m", "relocate", "registry", "--listen", listen, "--lease", str(lease))
        process = self.start(*command, *arguments)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("relocate: registry ready on "):
            process.kill()
            pytest.fail(f"the registry did not start: {line}{process.communicate()[1]}")
        return Worker(process, line.split()[4], self.home / ".config" / "relocate" / "keys")

    def offers(self, registry: Worker) -> list[dict[str, object]]:
        """What the registry knows."""
        done = self.relocate("registry", "ls", registry.url, "--json")
        assert done.returncode == 0, done.stderr
        found: list[dict[str, object]] = json.loads(done.stdout)
        return found

    def report(self, name: str = "report.json") -> dict[str, object]:
        """The statistics that a program wrote."""
        data: dict[str, object] = json.loads((self.folder / name).read_text("utf-8"))
        return data

    def left_behind(self) -> list[str]:
        """Files in the folder where sockets go, but for what killed programs left to be removed by the next one."""
        sweep(self.home / "run" / f"relocate-run-{os.geteuid()}")
        return sorted(p.name for p in (self.home / "run").iterdir())

    def clean(self) -> None:
        """End what was started and is still there."""
        for process in self.started:
            processes = [*family(process.pid)]
            with contextlib.suppress(OSError):
                process.kill()
            for child in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            try:
                process.communicate(timeout=WAIT)
            except subprocess.TimeoutExpired:
                pytest.fail(f"something that {process.args} has started goes on, and has its streams")


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A folder for a program, with nothing of this machine's configuration."""
    folder = tmp_path_factory.mktemp("program")
    # Unix sockets have short addresses, and pytest's folders long ones.
    home = tmp_path_factory.mktemp("h")
    (home / "run").mkdir(mode=0o700)
    here = Place(folder, home)
    here.write("work.py", WORK)
    yield here
    here.clean()


WORK = '''
    """A module that the tests relocate."""

    import ctypes
    import os
    import sys
    import time

    LIMIT = {"answer": 42}


    class WorkError(ValueError):
        """What `fail` raises."""


    def echo(value):
        """Give the value back."""
        return value


    def pid():
        return os.getpid()


    def wait(seconds, value=None):
        time.sleep(seconds)
        return value


    def spin(seconds):
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass
        return os.getpid()


    def fail(text, number=1):
        raise WorkError(text, number)


    def chain():
        try:
            1 / 0
        except ZeroDivisionError as error:
            error.add_note("a note")
            raise WorkError("outer") from error


    def leave(status):
        os._exit(status)


    def crash():
        ctypes.string_at(0)


    def apply(function, *args):
        return function(*args)


    def total(items):
        return sum(items)


    def count(n):
        for i in range(n):
            yield i


    def say(text):
        print(text)
        print("to stderr", file=sys.stderr)
        return len(text)


    def touch_and_wait(path, seconds):
        with open(path, "w") as file:
            file.write(str(os.getpid()))
        time.sleep(seconds)
        return os.getpid()
'''
