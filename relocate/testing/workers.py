"""Real worker processes for tests of what a program does when a worker dies, freezes or is cut off.

    with Workers() as workers:
        desk = workers.start(executors=2)
        handle = workers.enable(modules=["shop"])
        desk.kill()

They are started by ``relocate worker``, with keys, sockets and cache in a folder of their own.  When
the block ends they end, whatever state they are in, and the folder is removed.  The pytest fixture
`relocate_workers` is such a block.  Linux only, but for what needs no relay.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import relocate

HERE, THERE = "127.0.0.2", "127.0.0.1"
"""Where clients connect, to the relay, and where the worker is: the ports are the same, as a client
finds executors by their ports, on the host by which it knows the supervisor."""
PORTS = range(20_000, 32_000)
"""Below those that the system gives to programs that ask for any."""
PATIENCE = 30.0
"""Seconds in which a process has to start or to end."""


class WorkerFailed(AssertionError):
    """A worker did not start or did not end; the message has what it said."""


class Worker:
    """One ``relocate worker``.  Made by `Workers.start`."""

    def __init__(
        self, folder: Path, number: int, executors: int, modules: Iterable[str], environment: dict[str, str], ipc: bool
    ) -> None:
        self.executors = executors
        self.log = folder / f"worker-{number}.log"
        """What it says on standard error."""
        self._relay: subprocess.Popen[str] | None = None
        if ipc:
            self.url = listen = f"ipc://{folder}/{number}"
        else:
            ports = self._begin_relay(executors)
            self.url, listen = f"tcp://{HERE}:{ports[0]}", f"tcp://{THERE}:{ports[0]}"
        self._command = [sys.executable, "-m", "relocate", "worker", "--listen", listen, "-n", str(executors)]
        self._command += ["--keys", str(folder / "keys"), "--modules", ",".join(modules)]
        if not ipc:
            self._command += ["--ports", f"{ports[1]}-{ports[-1]}"]
        self._environment = environment
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        """The process id of the supervisor."""
        assert self._process is not None, "the worker is not running"
        return self._process.pid

    def executor_pids(self) -> list[int]:
        """The process ids of the executors, oldest first."""
        return children(self.pid)[: self.executors]  # then what they have started, and the one in reserve

    def start(self) -> None:
        """Start, and wait until all executors are ready; `Workers.start` has done so.

        Raises:
            WorkerFailed: it ended, or was not ready in time.
        """
        assert self._process is None, "the worker is running"
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE)
        if not ready or not self._process.stdout.readline().startswith("relocate: ready"):
            self.kill()
            raise WorkerFailed(f"{' '.join(self._command)} did not become ready: {self.log.read_text('utf-8')}")
        self._tell(listen=True)

    def kill(self) -> None:
        """End the worker and its executors at once, as `kill -9` does."""
        if self._process is None:
            return
        self._tell(listen=False)
        family = [self._process.pid, *children(self._process.pid)]
        for pid in family:
            _signal(pid, signal.SIGKILL)
        self._gone(family)

    def stop(self) -> int:
        """Drain it with SIGTERM: what runs is finished, what waits goes elsewhere.  Its exit status.

        Raises:
            WorkerFailed: it did not end in time.
        """
        assert self._process is not None, "the worker is not running"
        family = [self._process.pid, *children(self._process.pid)]
        self._tell(listen=False)
        self._process.send_signal(signal.SIGTERM)
        return self._gone(family)

    def restart(self) -> None:
        """Kill it, if it runs, and start it again at the same address."""
        self.kill()
        self.start()

    def kill_executor(self, index: int = 0) -> int:
        """End one executor, by age, the oldest first; the supervisor starts another.  Its process id."""
        pid = self.executor_pids()[index]
        _signal(pid, signal.SIGKILL)
        _until(lambda: not alive(pid), f"the end of executor {pid}")
        return pid

    def freeze(self) -> None:
        """Stop all its processes, as a machine that is suspended."""
        for pid in (self.pid, *children(self.pid)):
            _signal(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on."""
        for pid in (self.pid, *children(self.pid)):
            _signal(pid, signal.SIGCONT)

    def cut_off(self) -> None:
        """Pull the cable: connections fall silent, and who connects anew is refused."""
        self._tell_relay(cut=True)

    def restore(self) -> None:
        """Undo `cut_off` and `slow_down`."""
        self._tell_relay(cut=False, delay=0, rate=0)

    def slow_down(self, bytes_per_second: float = 0, delay: float = 0) -> None:
        """Make the line slow.

        Args:
            bytes_per_second: that it carries each way, at most; 0: no limit.
            delay: seconds that each way takes more.
        """
        self._tell_relay(rate=bytes_per_second, delay=delay)

    def end(self) -> None:
        """End the worker and its relay, whatever state they are in."""
        self.kill()
        if self._relay is not None:
            with contextlib.suppress(OSError):
                self._relay.kill()
            self._relay.communicate()

    def __repr__(self) -> str:
        return f"<relocate worker at {self.url}, {'running' if self._process is not None else 'ended'}>"

    def _gone(self, family: list[int]) -> int:
        """Wait for the end of all; the supervisor's exit status."""
        assert self._process is not None
        try:
            status = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise WorkerFailed(f"{self} did not end: {self.log.read_text('utf-8')}") from None
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process = None
        _until(lambda: not any(map(alive, family)), f"the end of {self}'s executors")
        return status

    def _begin_relay(self, executors: int) -> list[int]:
        for _ in range(100):
            first = random.SystemRandom().choice(PORTS[: -executors - 1])
            ports = list(range(first, first + executors + 1))
            with self.log.open("a") as log:
                self._relay = subprocess.Popen(
                    [sys.executable, "-m", "relocate.testing.relay", HERE, THERE, *map(str, ports)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    start_new_session=True,
                )
            try:
                self._tell_relay(listen=True)
            except WorkerFailed:
                self._relay.kill()
                self._relay.communicate()
                continue
            return ports
        raise WorkerFailed(f"there are no {executors + 1} free ports in a row on {HERE}")

    def _tell(self, **command: Any) -> None:
        if self._relay is not None:
            self._tell_relay(**command)

    def _tell_relay(self, **command: Any) -> None:
        if self._relay is None:
            raise ValueError(f"{self.url}: only a worker on tcp has a relay that can do that")
        assert self._relay.stdin is not None
        assert self._relay.stdout is not None
        self._relay.stdin.write(json.dumps(command) + "\n")
        self._relay.stdin.flush()
        error = json.loads(self._relay.stdout.readline() or '"it has ended"')
        if error is not None:
            raise WorkerFailed(f"the relay of {self.url}: {error}")


class Workers:
    """Starts workers, and ends them all."""

    def __init__(self) -> None:
        # Unix sockets have short addresses, and pytest's folders long ones.
        self.folder = Path(tempfile.mkdtemp(prefix="relocate-test-"))
        self.keys = self.folder / "keys"
        """Folder of the key that both sides use."""
        self.started: list[Worker] = []
        self._handles: list[relocate.Handle] = []

    def start(
        self, executors: int = 1, modules: Iterable[str] = (), *, ipc: bool = False, **environment: str
    ) -> Worker:
        """A running worker.

        It listens on TCP, behind a relay, unless ``ipc``.  It finds the modules that this process
        finds, unless ``environment`` has another PYTHONPATH.

        Args:
            executors: how many.
            modules: imported before it is ready.
            ipc: it listens on a Unix socket.
            **environment: of its processes, beside this one's.

        Raises:
            WorkerFailed: it did not become ready; the message has what it said.
        """
        made = Worker(self.folder, len(self.started), executors, modules, {**self.environment(), **environment}, ipc)
        self.started.append(made)
        made.start()
        return made

    def environment(self) -> dict[str, str]:
        """For a worker that is not started by this: nothing of this process's configuration, all its modules."""
        path = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
        around = {k: v for k, v in os.environ.items() if not k.startswith("RELOCATE_")}
        return {**around, "PYTHONPATH": path}

    def enable(self, **given: Any) -> relocate.Handle:
        """`relocate.enable`, with this folder's key, and all workers unless ``workers`` is given.

        It is disabled when this block ends, if not before.
        """
        defaults = {
            "workers": ",".join(worker.url for worker in self.started),
            "keys": self.keys,
            "cache": self.folder / "cache",
        }
        handle = relocate.enable({**defaults, **given})
        self._handles.append(handle)
        return handle

    def close(self) -> None:
        """End everything, and remove the folder."""
        for handle in self._handles:
            handle.disable()
        for worker in self.started:
            worker.end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


# Processes -----------------------------------------------------------------------------------------


def children(pid: int) -> list[int]:
    """The process ids of all that ``pid`` has started, and of what they have, oldest first."""
    table = _processes()
    found = [pid]
    for parent in found:
        found += sorted((p for p, (_, above, _) in table.items() if above == parent), key=lambda p: table[p][2])
    return found[1:]


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    return _processes().get(pid, ("X",))[0] not in "XZ"


def _processes() -> dict[int, tuple[str, int, int]]:
    """State, parent and time of start of every process: fields 3, 4 and 22 of proc(5)'s ``stat``."""
    found = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            fields = file.read_text("utf-8", "replace").rpartition(")")[2].split()
            found[int(file.parent.name)] = fields[0], int(fields[1]), int(fields[19])
    return found


def _until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise WorkerFailed(f"waited {PATIENCE:g} s in vain for {what}")
        time.sleep(0.005)


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
