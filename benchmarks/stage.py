"""What the contestants need: a folder of their own, relocated copies of the tasks, workers."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import relocate
from relocate import direct

HERE = Path(__file__).parent
LABELS = {"straight": "this machine", "ipc": "ZeroMQ on ipc", "tcp": "ZeroMQ on tcp with CURVE"}
"""What each way to an executor is called."""
TRANSPORTS = {"straight": "ipc", "ipc": "ipc", "tcp": "tcp"}
"""What bare ZeroMQ uses that is compared with it."""


@dataclass
class Stage:
    """One run of the benchmarks."""

    folder: Path
    quick: bool
    skipped: list[str] = field(default_factory=list)

    def rounds(self, full: int) -> int:
        """How many rounds to make where a full run makes ``full``."""
        return 2 if self.quick else full

    def calls(self, full: int) -> int:
        """How many calls to make in a row where a full run makes ``full``."""
        return max(1, full // 10) if self.quick else full

    def skip(self, what: str) -> None:
        """Note what cannot be measured here."""
        self.skipped.append(what)

    @contextmanager
    def relocated(self, name: str, workers: str, **config: Any) -> Iterator[tuple[Any, relocate.Handle]]:
        """A relocated copy of the tasks as module ``name``, and its handle."""
        self.copy(name)
        handle = relocate.enable(
            {
                "modules": [name],
                "workers": workers,
                "fallback": False,
                "cache": str(self.folder / "cache"),
                "keys": str(self.folder / "keys"),
                **config,
            }
        )
        sys.path.insert(0, str(self.folder))
        try:
            module = importlib.import_module(name)
            assert module.add(2, 3) == 5
            if config.get("placement", "remote") == "remote":
                assert handle.statistics().remote == 1, "the call was not made on a worker"
            yield module, handle
        finally:
            handle.disable()
            sys.modules.pop(name, None)
            sys.path.remove(str(self.folder))

    @contextmanager
    def over(self, transport: str) -> Iterator[None]:
        """Let ZeroMQ carry calls to this machine, too, unless they go ``straight``."""
        before = direct.AVAILABLE
        direct.AVAILABLE = before and transport == "straight"
        try:
            yield
        finally:
            direct.AVAILABLE = before

    def copy(self, name: str) -> None:
        """Put a copy of the tasks into the folder as module ``name``."""
        path = self.folder / f"{name}.py"
        if not path.exists():
            shutil.copyfile(HERE / "tasks.py", path)
            importlib.invalidate_caches()

    @contextmanager
    def worker(self, executors: int = 1) -> Iterator[str]:
        """The URL of a worker on tcp, with CURVE, which finds copies of the tasks."""
        command = [sys.executable, "-m", "relocate", "worker", "--listen", "tcp://127.0.0.1:0"]
        command += ["--executors", str(executors), "--keys", str(self.folder / "keys")]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, env=self.environment(), cwd=self.folder, text=True
        ) as process:
            assert process.stdout is not None
            try:
                line = process.stdout.readline()
                ready = re.search(r"ready on (\S+)", line)
                if ready is None:
                    raise RuntimeError(f"the worker did not start: {line!r}")
                yield ready[1]
            finally:
                process.terminate()

    def environment(self, **more: str) -> dict[str, str]:
        """For child processes: the folder is on their path, and nothing of this account is touched."""
        # Installed packages are compiled; what is measured from a checkout has to be, too.
        dropped = ("RELOCATE_", "PYTHONDONTWRITEBYTECODE")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
        return kept | {"PYTHONPATH": str(self.folder), "XDG_CACHE_HOME": str(self.folder / "home")} | more


@contextmanager
def child(command: list[str], environment: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that says one line when it is ready, and ends when its standard input does."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.stdin.close()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
