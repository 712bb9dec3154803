"""The examples: the same result wherever the designated calls run, and nothing left behind."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import until

pytest.importorskip("skimage")
pytest.importorskip("matplotlib")
pytest.importorskip("networkx")

EXAMPLES = Path(__file__).parent.parent / "examples"
PHOTOGRAPHS = str(EXAMPLES / "photographs.py")
COMMUNITIES = str(EXAMPLES / "communities.py")
DEMO = str(EXAMPLES / "demo.py")
SKIMAGE = ("-M", "skimage.restoration", "-M", "skimage.segmentation")
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of somebody who has configured nothing, with a temporary folder that can be looked into."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RELOCATE_", "XDG_"))}
    for name, variable in (("home", "HOME"), ("temporary", "TMPDIR")):
        (tmp_path / name).mkdir()
        environment[variable] = str(tmp_path / name)
    return environment


def run(environment: dict[str, str], *words: str, cwd: Path) -> str:
    """What ``python words...`` prints."""
    done = subprocess.run(
        [sys.executable, *words], env=environment, cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def relocated(environment: dict[str, str], *words: str, cwd: Path) -> tuple[str, dict[str, Any]]:
    """What ``relocate run words...`` prints and reports."""
    said = run(environment, "-m", "relocate", "run", "-w", "2", "--report", "report.json", *words, cwd=cwd)
    return said, json.loads((cwd / "report.json").read_text("utf-8"))


def checksum(said: str) -> str:
    """The last line's."""
    found = re.fullmatch(r"checksum: ([0-9a-f]{64})", said.splitlines()[-1])
    assert found is not None, said
    return found[1]


def test_photographs_relocated_gives_the_same(environment: dict[str, str], tmp_path: Path) -> None:
    small = (PHOTOGRAPHS, "--pictures", "1", "--side", "64")
    plain = run(environment, *small, cwd=tmp_path)
    said, report = relocated(environment, *SKIMAGE, *small, cwd=tmp_path)
    assert checksum(said) == checksum(plain)
    # Thirteen ways to denoise, sixteen to divide.
    assert report["calls"] == report["remote"] == report["returned"] == 29
    assert report["local"] == report["retried"] == report["failed"] == 0
    assert sum(worker["calls"] for worker in report["workers"].values()) == 29
    assert len(report["workers"]) == 2
    assert all(where["local"] == 0 for where in report["members"].values())
    assert not list((tmp_path / "temporary").iterdir())


def test_photographs_does_not_depend_on_threads(environment: dict[str, str], tmp_path: Path) -> None:
    small = (PHOTOGRAPHS, "--pictures", "1", "--side", "64")
    sums = {checksum(run(environment, *small, "--threads", threads, cwd=tmp_path)) for threads in ("1", "5")}
    assert len(sums) == 1


@pytest.mark.parametrize("script", [PHOTOGRAPHS, COMMUNITIES])
def test_help(script: str, environment: dict[str, str], tmp_path: Path) -> None:
    said = run(environment, script, "--help", cwd=tmp_path)
    assert "--threads" in said
    assert "relocate" not in Path(script).read_text("utf-8")


@pytest.mark.parametrize("words", [("--pictures", "0"), ("--pictures", "99"), ("--threads", "0"), ("--side", "1")])
def test_photographs_refuses(words: tuple[str, str], environment: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, PHOTOGRAPHS, *words],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert words[0] in done.stderr


def test_communities_relocated_gives_the_same(environment: dict[str, str], tmp_path: Path) -> None:
    small = (COMMUNITIES, "--repeats", "3")
    plain = run(environment, *small, cwd=tmp_path)
    said, report = relocated(environment, "-M", "networkx.algorithms.centrality", *small, cwd=tmp_path)
    assert said == plain
    assert "Medici" in said
    assert report["remote"] == report["returned"] == report["calls"] > 48
    assert report["local"] == report["failed"] == 0


def start_demo(environment: dict[str, str], cwd: Path) -> subprocess.Popen[str]:
    """The demo, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-u", DEMO], env=environment, cwd=cwd, stdout=subprocess.PIPE, text=True, process_group=0
    )


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """All processes below ``process``."""
    return psutil.Process(process.pid).children(recursive=True)


def assert_nothing_left(tmp_path: Path, started: list[psutil.Process]) -> None:
    """Neither processes nor files."""
    assert not psutil.wait_procs(started, timeout=5)[1]
    assert not list((tmp_path / "temporary").iterdir())
    assert not list((tmp_path / "home").iterdir())


def test_demo_ends_everything_when_interrupted(environment: dict[str, str], tmp_path: Path) -> None:
    demo = start_demo(environment, tmp_path)
    assert demo.stdout is not None
    while "1/4" not in demo.stdout.readline():
        assert demo.poll() is None
    started = descendants(demo)
    assert started
    os.killpg(demo.pid, signal.SIGINT)
    said, _ = demo.communicate(timeout=10)
    assert demo.returncode == 130
    assert "interrupted" in said
    assert_nothing_left(tmp_path, started)


@pytest.fixture
def demo_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The demo, imported."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.delitem(sys.modules, "demo", raising=False)
    yield importlib.import_module("demo")
    sys.modules.pop("demo", None)


@pytest.mark.parametrize(
    ("checksums", "failures", "status", "text"),
    [
        (("a", "a", "a"), ("", "", ""), 0, "The checksums agree: a"),
        (("a", "a", "b"), ("", "", ""), 1, "The checksums do not agree"),
        (("a", "a", "a"), ("", "", "it ended [badly]"), 1, "it ended [badly]"),
        (("", "", ""), ("x", "y", "z"), 1, "The checksums do not agree"),
    ],
)
def test_demo_says_what_it_comes_to(
    checksums: tuple[str, ...],
    failures: tuple[str, ...],
    status: int,
    text: str,
    demo_module: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs = [
        demo_module.Run(title, checksum=found, failure=failure)
        for title, found, failure in zip(("one", "two", "three"), checksums, failures, strict=True)
    ]
    assert demo_module.verdict(demo_module.Console(width=100), runs) == status
    assert text in capsys.readouterr().out


def test_demo_notices_that_the_program_fails(
    demo_module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "fails.py"
    program.write_text("raise SystemExit('no photographs today')", "utf-8")
    monkeypatch.setattr(demo_module, "PROGRAM", program)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    run = demo_module.Demo(demo_module.Console(width=100), tmp_path / "folder").plain()
    assert run.failure == "it ended with status 1: no photographs today"
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_demo_ends_its_workers_when_interrupted(
    number: signal.Signals, environment: dict[str, str], tmp_path: Path
) -> None:
    demo = start_demo(environment, tmp_path)
    assert demo.stdout is not None
    while "2 TCP workers" not in demo.stdout.readline():
        assert demo.poll() is None
    until(lambda: len(descendants(demo)) >= 5, "the program, two supervisors, two executors")
    started = descendants(demo)
    os.killpg(demo.pid, number)
    demo.communicate(timeout=10)
    assert demo.returncode == 128 + number
    assert_nothing_left(tmp_path, started)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_demo(environment: dict[str, str], tmp_path: Path) -> None:
    demo = start_demo(environment, tmp_path)
    assert demo.stdout is not None
    said, started = "", []
    for line in demo.stdout:
        said += line
        if "4/4" in line:
            started += descendants(demo)
    assert demo.wait(10) == 0, said
    assert "killed the second worker" in said
    assert "The checksums agree" in said
    cells = [row.strip("│ ").split("│") for row in said.splitlines() if row.startswith("│")]
    counts = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in cells if len(row) == 4}
    assert counts["calls remote"] == ["-", "120", "120"]
    assert counts["calls local"] == ["-", "0", "0"]
    assert int(counts["retried"][2]) >= 1
    assert (tmp_path / "results" / "photographs.png").read_bytes().startswith(PNG)
    assert_nothing_left(tmp_path, started)


@pytest.mark.slow
def test_photographs_in_full(environment: dict[str, str], tmp_path: Path) -> None:
    plain = run(environment, PHOTOGRAPHS, "--output", "plain.png", cwd=tmp_path)
    said, report = relocated(environment, *SKIMAGE, PHOTOGRAPHS, "--output", "moved.png", cwd=tmp_path)
    assert checksum(said) == checksum(plain)
    assert (tmp_path / "moved.png").read_bytes() == (tmp_path / "plain.png").read_bytes()
    assert (tmp_path / "plain.png").read_bytes().startswith(PNG)
    # Per photograph: thirteen ways to denoise, sixteen to divide, one drawing of outlines.
    assert report["remote"] == 150
    assert report["local"] == 0


@pytest.mark.slow
def test_communities_in_full(environment: dict[str, str], tmp_path: Path) -> None:
    plain = run(environment, COMMUNITIES, cwd=tmp_path)
    said, report = relocated(environment, "-M", "networkx.algorithms.centrality", COMMUNITIES, cwd=tmp_path)
    assert said == plain
    assert report["local"] == 0
