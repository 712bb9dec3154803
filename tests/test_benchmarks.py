"""The benchmarks run and report; how fast they are depends on the machine and is not tested."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

RUN = Path(__file__).parent.parent / "benchmarks" / "run.py"
WAYS = ("this machine", "ZeroMQ on ipc", "ZeroMQ on tcp with CURVE")
EXPECTED = {
    "calls": [f"add(2, 3), {way}" for way in WAYS],
    "arrays": [f"{size} MiB there and back, {way}" for way in WAYS for size in (1, 64)],
    "peers": ["add(2, 3)", "64 MiB there and back"],
    "parallel": [
        "sleep for 10 ms, 1 thread(s), 1 executor(s)",
        "a processor for 10 ms, 1 bare process(es)",
        "work of about 10 ms, 2 threads, 1 executor(s)",
    ],
    "startup": [
        "client of sklearn, scipy: time",
        "client of sklearn, scipy: memory",
        "import relocate: more than bare Python",
        "interpreter start with the .pth file, unset",
        "processing of the .pth file, unset",
    ],
    "placement": ["add(2, 3) that stays: more than a plain call", "a mix of calls"],
    "overload": [
        "10 times the calls that can be run: time for each that is answered",
        "memory that the program grows by",
    ],
    "decisions": ["a seat among 100", "a seat among 10,000"],
    "registry": [
        "table of the registry for one worker",
        "the same with its connection",
        "200 workers connect and announce themselves",
        "a look-up of a module that 10 workers offer",
        "a look-up of a module that all offer",
        "a death reaches 50 clients that watch",
        "a new worker reaches 50 clients that watch",
        "a restarted registry knows 200 workers again",
    ],
}
NEEDS = {
    "arrays": ("numpy",),
    "peers": ("numpy",),
    "startup": ("sklearn", "scipy"),
}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program as `make bench` does."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RELOCATE_")}
    command = [sys.executable, str(RUN), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280, check=False)


def rows_of(name: str, folder: Path) -> list[dict[str, Any]]:
    """The rows that a quick run of benchmark ``name`` writes."""
    file, picture = folder / "figures.json", folder / "figures.png"
    done = run(name, "--quick", "--json", str(file), "--plot", str(picture))
    assert done.returncode == 0, done.stderr
    data = json.loads(file.read_text("utf-8"))
    assert data["quick"] is True
    rows: list[dict[str, Any]] = data["rows"]
    assert {row["benchmark"] for row in rows} == {name}
    for row in rows:
        assert row["case"][:20].split()[0] in done.stdout
    return rows


def check(name: str, folder: Path) -> None:
    """Every expected row is there, with a positive ratio."""
    for module in NEEDS.get(name, ()):
        pytest.importorskip(module)
    rows = rows_of(name, folder)
    for case in EXPECTED[name]:
        found = [row for row in rows if row["case"] == case]
        assert found, f"no row {case!r}"
        for row in found:
            assert row["ratio"] > 0
            assert math.isfinite(row["ratio"])


def test_calls_are_reported(tmp_path: Path) -> None:
    check("calls", tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "name", ["arrays", "peers", "parallel", "startup", "decisions", "placement", "overload", "registry"]
)
def test_others_are_reported(name: str, tmp_path: Path) -> None:
    check(name, tmp_path)


@pytest.mark.slow
def test_an_unknown_benchmark_is_named() -> None:
    done = run("call")
    assert done.returncode == 2
    assert "unknown benchmark 'call'" in done.stderr
    assert "calls" in done.stderr


@pytest.mark.slow
def test_help_names_the_benchmarks() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in EXPECTED)


def test_a_revision_is_compared_with_another_one(tmp_path: Path) -> None:
    here = RUN.parent.parent
    if not (here / ".git").exists():
        pytest.skip("needs the repository")
    before = subprocess.run(["git", "worktree", "list"], cwd=here, capture_output=True, text=True, check=True).stdout
    command = [sys.executable, str(RUN.parent / "against.py"), "HEAD", "--rounds", "2", "--calls", "5"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert [way for way in ("this machine", "ZeroMQ on tcp with CURVE") if way not in done.stdout] == []
    after = subprocess.run(["git", "worktree", "list"], cwd=here, capture_output=True, text=True, check=True).stdout
    assert after == before
