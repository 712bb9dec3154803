"""What relocation does to a program that knows nothing of it: three runs, one result.

``photographs.py`` runs

1. as it is;
2. with ``skimage.restoration`` and ``skimage.segmentation`` on processes of this machine;
3. with them on two workers behind TCP, one of which is killed half-way through.

The demo needs no configuration and leaves nothing behind but ``results/photographs.png``: keys,
caches and reports are in a temporary folder, and every process that it starts ends with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any, NoReturn

import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

PROGRAM = Path(__file__).parent / "photographs.py"
PICTURE = Path("results") / "photographs.png"
PICTURES = 4
KILL_AFTER = 2
"""The worker is killed while the picture after this one is in work."""
MODULES = ("skimage.restoration", "skimage.segmentation")
RUN_LIMIT = 110.0
"""Seconds that one run may take, in case it hangs."""
READY_LIMIT = 30.0
"""Seconds that a worker may take to start."""
RELOCATE = (sys.executable, "-m", "relocate")


class Trouble(Exception):
    """The demo cannot go on; the text says why."""


@dataclass
class Run:
    """One run of the program, and what came of it."""

    title: str
    seconds: float = 0.0
    peak: int = 0
    checksum: str = ""
    failure: str = ""
    report: dict[str, Any] | None = None
    names: dict[str, str] = field(default_factory=dict)
    """What to call a worker, by its address."""


@dataclass
class Worker:
    """A worker that was started here."""

    name: str
    process: subprocess.Popen[str]
    url: str


# Processes ---------------------------------------------------------------------------------------


class Processes:
    """Every process that was started, so that none is left.

    Each is the head of a process group: Ctrl-C reaches only the demo, which then ends the others in
    an order and without their tracebacks on the screen.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *command: str, stderr: IO[str]) -> subprocess.Popen[str]:
        """Start ``command``; its output can be read line by line."""
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=self._environment,
            process_group=0,
        )
        self._started.append(process)
        return process

    def stop_all(self) -> None:
        """End what still runs: kindly, then not."""
        members = descendants(os.getpid())  # also one that was being started when Ctrl-C came
        for process in self._started:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        until = time.monotonic() + 3.0
        for process in self._started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
        kill([*members, *descendants(os.getpid())])
        for process in self._started:
            process.wait()
        self._started.clear()


def descendants(pid: int) -> list[psutil.Process]:
    """All processes below the process ``pid``."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """``process`` and all below it."""
    if process.poll() is not None:
        return []
    with contextlib.suppress(psutil.NoSuchProcess):
        return [psutil.Process(process.pid), *descendants(process.pid)]
    return []


def end(process: subprocess.Popen[str], members: list[psutil.Process]) -> None:
    """SIGKILL for ``members``, among them ``process``, and wait until they are gone."""
    kill(members)
    process.wait()


def kill(members: list[psutil.Process]) -> None:
    """SIGKILL for ``members``, and wait until they are gone."""
    for member in members:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(members, timeout=3)


def remove(folder: Path) -> None:
    """Delete ``folder``, in which a process that is just ending may still write."""
    until = time.monotonic() + 3.0
    while folder.exists() and time.monotonic() < until:
        shutil.rmtree(folder, ignore_errors=True)


def peak_memory(pid: int) -> int:
    """Bytes of memory that the process had at most so far; 0 if it is gone.

    Not from `os.wait4`: that counts the executors in, which are children of the program.
    """
    with contextlib.suppress(OSError, ValueError):
        status = Path(f"/proc/{pid}/status").read_text("utf-8")
        found = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
        return int(found[1]) * 1024 if found else 0
    with contextlib.suppress(psutil.Error):
        return int(psutil.Process(pid).memory_info().rss)
    return 0


# Showing -----------------------------------------------------------------------------------------


class Show:
    """Live bars on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    @contextlib.contextmanager
    def run(self, run: Run) -> Iterator[None]:
        """While ``run`` goes on."""
        if not self.console.is_terminal:
            self.console.print(f"{run.title} ...", soft_wrap=True)
            yield
            self.console.print(f"{run.title}: {outcome(run)}", soft_wrap=True)
            return
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("pictures")]
        with Progress(*columns, TimeElapsedColumn(), console=self.console) as self._progress:
            self._task = self._progress.add_task(run.title, total=PICTURES)
            try:
                yield
            finally:
                self._progress.update(self._task, description=f"{run.title}: {outcome(run)}")
        self._progress = self._task = None

    def picture(self, number: int, text: str) -> None:
        """A picture is done."""
        self.line(text)
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=number)

    def line(self, text: str, style: str = "dim") -> None:
        """Something happened."""
        self.console.print(f"  {text}", style=style, markup=False, highlight=False, soft_wrap=True)


def outcome(run: Run) -> str:
    """How a run went, in a word."""
    if run.failure:
        return "failed"
    return f"{run.seconds:.1f} s" if run.seconds else "not finished"


# Runs --------------------------------------------------------------------------------------------


class Demo:
    """The three runs, in a folder of their own."""

    def __init__(self, console: Console, folder: Path) -> None:
        self._folder = folder
        self._show = Show(console)
        # Neither the user's configuration nor a cache of earlier runs plays a part.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RELOCATE_")}
        for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR", "TMPDIR"):
            path = folder / name.lower()
            path.mkdir()
            environment[name] = str(path)
        # Sockets of the executors go where the temporary folder is, not where a session ended.
        environment.pop("XDG_RUNTIME_DIR", None)
        environment["PYTHONUNBUFFERED"] = "1"
        self.processes = Processes(environment)

    def plain(self) -> Run:
        """The program as it is."""
        return self._run(Run("plain"), sys.executable)

    def embedded(self) -> Run:
        """With executors of its own."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
        count = min(4, max(2, cores))
        run = Run(f"{count} embedded executors")
        report = self._folder / "embedded.json"
        options = [option for module in MODULES for option in ("-M", module)]
        return self._run(run, *RELOCATE, "run", *options, "-w", str(count), "--report", str(report), report=report)

    def killed(self) -> Run:
        """With two workers behind TCP, one of which is killed."""
        run = Run("2 TCP workers, 1 killed")
        self._show.line("starting two workers, each with keys of its own ...")
        client = self._keys("client")
        workers = [self._worker(name, client) for name in ("first", "second")]
        report = self._folder / "killed.json"
        file = self._folder / "two-workers.toml"
        file.write_text(
            f"modules = {json.dumps(MODULES)}\n"
            f"workers = {json.dumps([worker.url for worker in workers])}\n"
            f"keys = {json.dumps(str(client))}\n"
            f"report = {json.dumps(str(report))}\n",
            "utf-8",
        )
        victim = workers[1]

        def kill() -> None:
            # The next picture's calls are under way on both workers by now.  The supervisor goes
            # first, so that it starts no other executor and tells nobody.
            members = family(victim.process)
            if not members:
                raise Trouble(f"the {victim.name} worker had ended by itself")
            end(victim.process, members)
            self._show.line(
                f"killed the {victim.name} worker, {victim.url}: SIGKILL for {len(members)} processes", style="bold red"
            )

        self._run(run, *RELOCATE, "run", "-c", str(file), report=report, half_way=kill)
        for worker in workers:
            address = worker.url.removeprefix("tcp://")
            run.names[address] = f"({worker.name}{', killed' if worker is victim else ''})"
        return run

    def _keys(self, name: str) -> Path:
        """A folder with a new key pair."""
        folder = self._folder / f"keys-{name}"
        self._relocate("keys", "new", "--keys", str(folder))
        return folder

    def _relocate(self, *words: str) -> str:
        """What a short command prints."""
        with open(self._folder / "keys.log", "w+", encoding="utf-8") as errors:
            process = self.processes.start(*RELOCATE, *words, stderr=errors)
            said, _ = process.communicate(timeout=READY_LIMIT)
            if process.returncode:
                errors.seek(0)
                raise Trouble(f"relocate {' '.join(words)}: {errors.read().strip()}")
        return said.strip()

    def _worker(self, name: str, client: Path) -> Worker:
        """A worker that trusts the client, and that the client trusts."""
        mine = self._keys(name)
        for folder, other, label in ((mine, client, "client"), (client, mine, name)):
            key = self._relocate("keys", "show", "--keys", str(other)).split()[0]
            self._relocate("keys", "allow", "--keys", str(folder), key, label)
        with open(self._folder / f"{name}.log", "w", encoding="utf-8") as errors:
            process = self.processes.start(
                *RELOCATE, "worker", "--listen", "tcp://127.0.0.1:0", "--executors", "1",
                "--keys", str(mine), "--modules", ",".join(MODULES), stderr=errors,
            )  # fmt: skip
        assert process.stdout is not None
        until = time.monotonic() + READY_LIMIT
        while select.select([process.stdout], [], [], max(0.0, until - time.monotonic()))[0]:
            line = process.stdout.readline()
            if found := re.match(r"relocate: ready on (\S+) with", line):
                self._show.line(f"the {name} worker is ready on {found[1]}")
                return Worker(name, process, found[1])
            if not line:
                break
        log = (self._folder / f"{name}.log").read_text("utf-8").strip()
        raise Trouble(f"the {name} worker did not start: {log or f'not ready within {READY_LIMIT:.0f} s'}")

    def _run(
        self, run: Run, *prefix: str, report: Path | None = None, half_way: Callable[[], None] | None = None
    ) -> Run:
        """Run the program, watch it, and note what came of it in ``run``."""
        picture = self._folder / "photographs.png"
        picture.unlink(missing_ok=True)
        errors = self._folder / "program.log"
        with self._show.run(run), open(errors, "w", encoding="utf-8") as stderr:
            start = time.monotonic()
            process = self.processes.start(
                *prefix, str(PROGRAM), "--output", str(picture), "--pictures", str(PICTURES), stderr=stderr
            )
            for line in self._lines(process, run, start + RUN_LIMIT):
                if line.startswith("checksum: "):
                    run.checksum = line.removeprefix("checksum: ")
                elif found := re.match(r"(\d+)/\d+ ", line):
                    self._show.picture(int(found[1]), line)
                    if half_way is not None and int(found[1]) == KILL_AFTER:
                        time.sleep(0.3)
                        half_way()
            run.seconds = time.monotonic() - start
            run.failure = run.failure or self._failure(process, run, errors)
            if report is not None and report.exists():
                run.report = json.loads(report.read_text("utf-8"))
            elif report is not None and not run.failure:
                run.failure = "it wrote no report"
        if not run.failure:
            PICTURE.parent.mkdir(exist_ok=True)
            shutil.copyfile(picture, PICTURE)
        return run

    def _lines(self, process: subprocess.Popen[str], run: Run, until: float) -> Iterator[str]:
        """The lines that the program prints, to its end; its memory is looked at meanwhile."""
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                lines.put(line.rstrip("\n"))
            lines.put(None)

        threading.Thread(target=read, daemon=True).start()
        while True:
            run.peak = max(run.peak, peak_memory(process.pid))
            if time.monotonic() > until:
                end(process, family(process))
                run.failure = f"it was still running after {RUN_LIMIT:.0f} s"
                return
            try:
                line = lines.get(timeout=0.02)
            except queue.Empty:
                continue
            if line is None:
                break
            yield line
        while process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
            run.peak = max(run.peak, peak_memory(process.pid))

    @staticmethod
    def _failure(process: subprocess.Popen[str], run: Run, errors: Path) -> str:
        said = errors.read_text("utf-8").strip()
        if process.returncode:
            return f"it ended with status {process.returncode}: {said[-2000:]}"
        return "" if run.checksum else "it printed no checksum"


# The result --------------------------------------------------------------------------------------

LOOK: dict[str, Any] = {"title_justify": "left", "title_style": "bold", "header_style": "bold"}


def size(count: float) -> str:
    """``count`` bytes for people."""
    return f"{count / 1e6:.1f} MB"


def table(runs: list[Run]) -> Table:
    """The runs side by side."""
    found = Table(title=f"{PROGRAM.name}, three times", **LOOK)
    found.add_column("run")
    for run in runs:
        found.add_column(run.title, justify="right")

    def row(label: str, *cells: str, section: bool = False) -> None:
        found.add_row(label, *cells, end_section=section)

    def counted(key: str) -> list[str]:
        return ["-" if run.report is None else str(run.report[key]) for run in runs]

    row("seconds", *(f"{run.seconds:.1f}" for run in runs))
    row("peak memory", *(size(run.peak) for run in runs), section=True)
    row("calls remote", *counted("remote"))
    row("calls local", *counted("local"))
    row("retried", *counted("retried"))
    row("bytes out", *("-" if run.report is None else size(run.report["bytes_out"]) for run in runs))
    row("bytes in", *("-" if run.report is None else size(run.report["bytes_in"]) for run in runs), section=True)
    row("checksum", *(f"{run.checksum[:12]}..." if run.checksum else "none" for run in runs))
    return found


def executors(runs: list[Run]) -> Table:
    """Where the calls ran."""
    found = Table(title="Calls by executor", **LOOK)
    found.add_column("run")
    found.add_column("executor")
    found.add_column("calls", justify="right")
    for run in runs:
        title = run.title
        for seat, did in (run.report or {"workers": {}})["workers"].items():
            name = run.names.get(seat.rpartition("/")[0], "")
            found.add_row(title, f"{seat} {name}".strip(), str(did["calls"]))
            title = ""
        found.add_section()
    return found


def functions(runs: list[Run]) -> Table:
    """What the calls were."""
    reports = [(run.title, run.report) for run in runs if run.report is not None]
    found = Table(title="Calls by function (remote + local)", **LOOK)
    found.add_column("function", overflow="fold")
    for title, _ in reports:
        found.add_column(title, justify="right")
    for name in sorted({name for _, report in reports for name in report["members"]}):
        cells = []
        for _, report in reports:
            where = report["members"].get(name, {"remote": 0, "local": 0})
            cells.append(f"{where['remote']} + {where['local']}")
        found.add_row(name.removeprefix("skimage."), *cells)
    return found


def verdict(console: Console, runs: list[Run]) -> int:
    """Say what it comes to; the exit status."""
    console.print()
    console.print(table(runs))
    console.print()
    if any(run.report for run in runs):
        console.print(executors(runs))
        console.print()
        console.print(functions(runs))
        console.print()
    for run in runs:
        if run.failure:
            console.print(f"[bold red]failed:[/] {run.title}:", end=" ", soft_wrap=True)
            console.print(run.failure, markup=False, highlight=False, soft_wrap=True)
    checksums = {run.checksum for run in runs}
    agree = len(checksums) == 1 and "" not in checksums
    if agree:
        console.print(f"[bold green]The checksums agree:[/] {checksums.pop()}", highlight=False, soft_wrap=True)
    else:
        console.print("[bold red]The checksums do not agree:[/]", soft_wrap=True)
        for run in runs:
            console.print(f"  {run.checksum or 'none':64}  {run.title}", highlight=False, soft_wrap=True)
    if not all(run.failure for run in runs):
        console.print(f"Before and after, as a picture: {PICTURE}", highlight=False, soft_wrap=True)
    return 0 if agree and not any(run.failure for run in runs) else 1


def interrupted(number: int, frame: FrameType | None) -> NoReturn:
    """End on SIGTERM and SIGHUP as on Ctrl-C: through every ``finally``."""
    raise SystemExit(128 + number)


def main() -> int:
    """Run the demo; the exit status."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    console = Console()
    start = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="relocate-demo-"))
    demo = Demo(console, folder)
    try:
        runs = [demo.plain(), demo.embedded(), demo.killed()]
        status = verdict(console, runs)
    except Trouble as trouble:
        console.print(str(trouble), style="bold red", markup=False, soft_wrap=True)
        status = 1
    except KeyboardInterrupt:
        console.print("interrupted; ending what was started", soft_wrap=True)
        status = 130
    finally:
        # A second Ctrl-C must not keep this from being done.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        demo.processes.stop_all()
        remove(folder)
    if status != 130:
        console.print(f"The demo took {time.monotonic() - start:.0f} s.", highlight=False)
    return status


if __name__ == "__main__":
    sys.exit(main())
