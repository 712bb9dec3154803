"""What a program pays before its first call: time and memory of imports, and of relocate being there at all.

Every sample is a process of its own, timed from just before it is started until it has imported, on
the clock that all processes share; the variants take turns.  Memory is the process's own high-water
mark, when what relocate loads in a thread is there too: `resource.getrusage` would count its parent's,
too, from before it became a program.
"""

from __future__ import annotations

import contextlib
import os
import site
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from report import Row
from stage import HERE, Stage
from timing import ratio

TIME_TARGET = 0.10
MEMORY_TARGET = 0.35
IMPORT_LIMIT = 0.015
LINE = HERE.parent / "relocate-modules.pth"
MODULES = ("sklearn.cluster", "scipy.ndimage")
PACKAGES = ("sklearn", "scipy")
REPORT = """
import time; now = time.monotonic()
import sys
for thread in sys.modules["threading"].enumerate() if "threading" in sys.modules else ():
    if thread.name == "relocate-start":
        thread.join()
try:
    with open("/proc/self/status") as file:
        peak = next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))
except OSError:
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1 << 20)
print(now, peak, int("zmq" in sys.modules), flush=True)
"""


@dataclass
class Sample:
    """One process."""

    seconds: float
    peak: float
    has_zmq: bool


def run(stage: Stage) -> Iterator[Row]:
    """Rows for the relocated import, for ``import relocate``, and for the line in the .pth file."""
    yield from _client(stage)
    yield from _import_relocate(stage)
    yield from _line(stage)


def start(python: str, program: str, environment: dict[str, str], folder: Path) -> Sample:
    """Run ``program`` and then the report, and wait for the end."""
    began = time.monotonic()
    done = subprocess.run(
        [python, "-c", program + REPORT], env=environment, cwd=folder, stdout=subprocess.PIPE, check=True, text=True
    )
    now, peak, has_zmq = done.stdout.split()[-3:]
    return Sample(float(now) - began, float(peak), has_zmq == "1")


def turns(variants: dict[str, tuple[str, str, dict[str, str]]], rounds: int, folder: Path) -> dict[str, list[Sample]]:
    """Samples of each variant, each once before to fill caches."""
    found: dict[str, list[Sample]] = {name: [] for name in variants}
    order = list(variants.items())
    for number in range(rounds + 1):
        for name, (python, program, environment) in order:
            sample = start(python, program, environment, folder)
            if number:
                found[name].append(sample)
        order.reverse()
    return found


def _client(stage: Stage) -> Iterator[Row]:
    """Rows for a client of `MODULES`, with the packages around them designated, and without.

    Without, Python runs the packages' own ``__init__`` here, and sklearn's imports most of sklearn and scipy.
    """
    try:
        import scipy  # noqa: F401
        import sklearn  # noqa: F401
    except ImportError as error:
        stage.skip(f"startup: {error.name} is not installed")
        return
    program = f"import {', '.join(MODULES)}\n"
    proxies = f"all(type(sys.modules[m]).__name__ == 'ProxyModule' for m in {MODULES!r})"
    check = f"import sys\n{program}assert {proxies}\n"
    variants = {
        "bare": (sys.executable, "", stage.environment()),
        "real": (sys.executable, program, stage.environment()),
    }
    for designated in (PACKAGES, MODULES):
        environment = stage.environment(RELOCATE_MODULES=",".join(designated), RELOCATE_WORKERS="1")
        # Fills the cache of interfaces, and shows that it is proxies that are imported.
        start(sys.executable, check, environment, stage.folder)
        variants[",".join(designated)] = (sys.executable, program, environment)
    found = turns(variants, stage.rounds(11), stage.folder)
    for designated in (PACKAGES, MODULES):
        for what, name, unit, target in (
            ("seconds", "time", "ms", TIME_TARGET),
            ("peak", "memory", "MiB", MEMORY_TARGET),
        ):
            bare, ours, theirs = ([getattr(s, what) for s in found[n]] for n in ("bare", ",".join(designated), "real"))
            for floor, note in ((0.0, "whole process"), (median(bare), "over bare Python")):
                share = ratio([v - floor for v in ours], [v - floor for v in theirs])
                yield Row(
                    "startup", f"client of {', '.join(designated)}: {name}", "real import",
                    median(ours) - floor, median(theirs) - floor, unit,
                    share.middle, share.low, share.high,
                    at_most=target if designated == PACKAGES else None, note=note,
                )  # fmt: skip


def _import_relocate(stage: Stage) -> Iterator[Row]:
    environment = stage.environment()
    found = turns(
        {"bare": (sys.executable, "", environment), "relocate": (sys.executable, "import relocate\n", environment)},
        stage.rounds(60),
        stage.folder,
    )
    assert not any(s.has_zmq for s in found["relocate"]), "import relocate imports zmq"
    bare, ours = ([s.seconds for s in found[n]] for n in ("bare", "relocate"))
    whole = ratio(ours, bare)
    yield Row(
        "startup", "import relocate: more than bare Python", "bare Python, whole process",
        median(a - b for a, b in zip(ours, bare, strict=True)), median(bare), "ms",
        whole.middle, whole.low, whole.high, limit=IMPORT_LIMIT, note="zmq is not imported",
    )  # fmt: skip


def _line(stage: Stage) -> Iterator[Row]:
    """The line in site-packages, when nothing is asked of it: in two virtual environments that differ in it only."""
    environment = stage.environment()
    pythons = {}
    for name in ("with", "without"):
        folder = stage.folder / f"venv-{name}"
        venv.create(folder, symlinks=os.name == "posix")
        pythons[name] = str(folder / ("Scripts" if os.name == "nt" else "bin") / "python")
        packages = next(folder.glob("lib*/python*/site-packages"), folder / "Lib" / "site-packages")
        if name == "with":
            (packages / LINE.name).write_bytes(LINE.read_bytes())
    found = turns({n: (p, "", environment) for n, p in pythons.items()}, stage.rounds(150), stage.folder)
    ours, theirs = ([s.seconds for s in found[n]] for n in ("with", "without"))
    whole = ratio(ours, theirs)
    yield Row(
        "startup", "interpreter start with the .pth file, unset", "without it",
        median(ours), median(theirs), "ms", whole.middle, whole.low, whole.high,
    )  # fmt: skip
    line = _processing(LINE.read_bytes())
    bare = median(theirs)
    yield Row(
        "startup", "processing of the .pth file, unset", "an interpreter start without it",
        line, bare, "us", line / bare,
    )  # fmt: skip


def _processing(content: bytes) -> float:
    """Seconds that `site` needs for a .pth file with ``content``."""
    kept = {k: os.environ.pop(k) for k in list(os.environ) if k.startswith("RELOCATE_")}
    samples = []
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "line.pth").write_bytes(content)
        with contextlib.ExitStack() as stack:
            stack.callback(os.environ.update, kept)
            for _ in range(500):
                began = time.perf_counter()
                site.addpackage(folder, "line.pth", set())  # type: ignore[attr-defined]
                samples.append(time.perf_counter() - began)
    return median(samples)
