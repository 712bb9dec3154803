"""The scenarios of `benchmarks/resilience.py` run, and no call is lost, doubled, wrong, hung or failed.

How long they take depends on the machine and is not tested.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from relocate.testing.hosts import possible

pytestmark = pytest.mark.timeout(300)

RUN = Path(__file__).parent.parent / "benchmarks" / "resilience.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program as `make results` does."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RELOCATE_")}
    command = [sys.executable, str(RUN), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280, check=False)


def rows_of(folder: Path, *names: str) -> list[dict[str, Any]]:
    """The rows of these scenarios, whose calls each had one right answer."""
    file, text = folder / "figures.json", folder / "figures.md"
    done = run(*names, "--quick", "--json", str(file), "--markdown", str(text))
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(file.read_text("utf-8"))["rows"]
    assert {row["scenario"] for row in rows} == set(names)
    for row in rows:
        assert row["calls"] > 0
        counts = {name: row[name] for name in ("failed", "doubled", "wrong", "lost", "hung")}
        assert set(counts.values()) == {0}, row
        assert row["case"] in text.read_text("utf-8")
        assert row["case"] in done.stdout
    return rows


@pytest.mark.slow
def test_calls_under_faults_of_all_kinds(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, "faults")
    assert row["calls"] == 2_000
    assert row["retried"] > 0, "no fault has struck a call"
    assert "killed" in row["note"]


@pytest.mark.slow
def test_calls_whose_executors_and_workers_are_killed_or_frozen(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "killed", "frozen")
    assert [row["calls"] for row in rows] == [5, 3, 3]
    assert all(row["retried"] >= row["calls"] for row in rows), "some call was not struck"


@pytest.mark.slow
def test_restarts_under_load(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, "restarts")
    assert row["calls"] > 100


@pytest.mark.slow
def test_a_slow_worker_among_others(tmp_path: Path) -> None:
    alike, slower = rows_of(tmp_path, "slow-worker")
    assert alike["calls"] == slower["calls"] == 400
    assert slower["retried"] <= 0.03 * slower["calls"] + 20, "more than the budget for hedges"


@pytest.mark.slow
def test_what_is_slow_or_busy_is_not_taken_for_dead(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "slow-link", "held")
    assert [row["retried"] for row in rows] == [0, 0, 0]
    assert all(row["met"] for row in rows), rows


@pytest.mark.slow
@pytest.mark.network
def test_a_cable_that_is_pulled_or_loses_one_way(tmp_path: Path) -> None:
    if not possible():
        pytest.skip("needs root and iproute2, to make network namespaces")
    rows = rows_of(tmp_path, "link-down", "one-way")
    assert len(rows) == 3
    assert all(row["retried"] > 0 for row in rows), "no call was under way"


@pytest.mark.slow
def test_calls_that_are_late(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "deadline")
    assert [row["calls"] for row in rows] == [5, 5, 5, 5]


def test_an_unknown_scenario_is_named() -> None:
    done = run("fault")
    assert done.returncode == 2
    assert "unknown scenario 'fault'" in done.stderr
    assert "one-way" in done.stderr
