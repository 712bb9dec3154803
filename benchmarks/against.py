"""A small call of this checkout against that of another revision of it, in turns: ``python benchmarks/against.py REV``.

Ratios to bare pyzmq depend on what the machine does when its processors idle, and are another one on another day;
whether a change made calls slower shows only side by side.  Both revisions run on this interpreter, with
its packages.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import report
from timing import ratio

ROOT = Path(__file__).resolve().parent.parent
MODULE = "against_task"
WAYS = {"this machine": "1", "ZeroMQ on tcp with CURVE": ""}
"""The workers of each; those on tcp are started first."""
FIRST = 20
"""Calls in a row that are not counted: they find cold caches and sleeping threads."""
CLIENT = """
import sys, time
import relocate
handle = relocate.enable({{"modules": [{module!r}], "workers": {workers!r}, "keys": {keys!r}, "fallback": False}})
from {module} import add
assert add(2, 3) == 5
assert handle.statistics().remote == 1, "the call was not made on a worker"
print(relocate.__file__, flush=True)
for line in sys.stdin:
    taken = []
    for _ in range(int(line)):
        began = time.perf_counter()
        add(2, 3)
        taken.append(time.perf_counter() - began)
    print(sorted(taken[{first}:])[len(taken[{first}:]) // 2], flush=True)
handle.disable()
"""


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Compare a small call with that of another revision.")
    parser.add_argument("revision", metavar="REV", help="as git names it: a commit, a tag, a branch")
    parser.add_argument("--rounds", type=int, default=60, help="turns of each [default: 60]")
    parser.add_argument("--calls", type=int, default=200, help="calls in a row [default: 200]")
    parser.add_argument("--at-most", type=float, metavar="RATIO", help="exit with status 1 if a ratio is higher")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="against-") as folder, ExitStack() as stack:
        other = Path(folder) / "other"
        try:
            stack.enter_context(checked_out(options.revision, other))
        except subprocess.CalledProcessError as error:
            parser.error(f"{options.revision!r}: {error.stderr.strip()}")
        (Path(folder) / f"{MODULE}.py").write_text("def add(a, b):\n    return a + b\n")
        rows = [row(way, options, Path(folder), other) for way in WAYS]
    for each in rows:
        each.at_most = options.at_most
    report.show(rows, [])
    return 1 if any(each.met is False for each in rows) else 0


def row(way: str, options: argparse.Namespace, folder: Path, other: Path) -> report.Row:
    """The medians of both, and their ratio."""
    with ExitStack() as stack:
        calls: list[tuple[list[float], Callable[[int], float]]] = []
        for number, root in enumerate((ROOT, other)):
            keys = folder / f"keys{number}"
            environment = surroundings(root, folder)
            workers = WAYS[way] or stack.enter_context(worker(keys, environment, folder))
            calls.append(([], stack.enter_context(client(root, workers, keys, environment, folder))))
        for _ in range(options.rounds):
            for taken, call in calls:
                taken.append(call(options.calls))
            calls.reverse()
        calls = calls[::-1] if options.rounds % 2 else calls
        ours, theirs = (taken for taken, _ in calls)
    found = ratio(ours, theirs)
    return report.Row(
        "against",
        f"add(2, 3), {way}",
        options.revision,
        median(ours),
        median(theirs),
        "us",
        found.middle,
        found.low,
        found.high,
    )


@contextmanager
def checked_out(revision: str, folder: Path) -> Iterator[None]:
    """The files of ``revision`` in ``folder``, as a work tree of this repository.

    Raises:
        subprocess.CalledProcessError: there is no such revision.
    """

    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, capture_output=True, text=True)

    git("worktree", "add", "--detach", str(folder), revision)
    try:
        yield
    finally:
        git("worktree", "remove", "--force", str(folder))


def surroundings(root: Path, folder: Path) -> dict[str, str]:
    """The environment in which the package of ``root`` is imported, and nothing of this account is touched."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RELOCATE_")}
    return kept | {"PYTHONPATH": f"{root}{os.pathsep}{folder}", "XDG_CACHE_HOME": str(folder / "cache" / root.name)}


@contextmanager
def worker(keys: Path, environment: dict[str, str], folder: Path) -> Iterator[str]:
    """The URL of a worker with one executor."""
    command = [sys.executable, "-m", "relocate", "worker", "--listen", "tcp://127.0.0.1:0"]
    command += ["--executors", "1", "--keys", str(keys)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd=folder, text=True) as process:
        assert process.stdout is not None
        try:
            ready = re.search(r"ready on (\S+)", process.stdout.readline())
            if ready is None:
                raise RuntimeError("the worker did not start")
            yield ready[1]
        finally:
            process.terminate()


@contextmanager
def client(
    root: Path, workers: str, keys: Path, environment: dict[str, str], folder: Path
) -> Iterator[Callable[[int], float]]:
    """Gives the median of so many calls, after the first ones, of a program of its own; in seconds."""
    program = CLIENT.format(module=MODULE, workers=workers, keys=str(keys), first=FIRST)
    command = [sys.executable, "-c", program]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=folder, text=True
    ) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None
        used = stdout.readline().strip()
        if not Path(used).is_relative_to(root):
            raise RuntimeError(f"a client uses {used or 'nothing'} instead of what is in {root}")

        def call(count: int) -> float:
            stdin.write(f"{FIRST + count}\n")
            stdin.flush()
            return float(stdout.readline())

        yield call
        stdin.close()


if __name__ == "__main__":
    sys.exit(main())
