"""The simulation is the same each time, and the policy does in it what is asked of it."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

HOME = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HOME))


@functools.cache
def result(scenario: str, way: str = "relocate", workers: int = 200, calls: int = 20_000) -> Any:
    """What one way of balancing makes of a scenario."""
    from simulation.clients import WAYS
    from simulation.scenarios import SCENARIOS, play

    found = next(s for s in SCENARIOS if s.name == scenario)
    found = replace(found, clients=min(found.clients, 500))
    return play(found, WAYS[way], way, workers=workers, calls=calls, seed=0)


def simulate(folder: Path, *arguments: str, hash_seed: int) -> tuple[str, bytes]:
    """The output and the figures of a small run."""
    command = [sys.executable, str(HOME / "simulate.py"), "--workers", "40", "--calls", "600", *arguments]
    command += ["--json", str(folder / "figures.json"), "--plot", str(folder / "figures.png")]
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, (folder / "figures.json").read_bytes()


def test_the_same_seed_gives_the_same_result_byte_for_byte(tmp_path: Path) -> None:
    scenarios = ("uniform", "slow", "rack", "failover", "overload", "flapping", "herd")
    first = simulate(tmp_path, *scenarios, hash_seed=1)
    picture = tmp_path / "figures.png"
    drawn = picture.read_bytes() if picture.exists() else b""
    assert simulate(tmp_path, *scenarios, hash_seed=2) == first
    assert (picture.read_bytes() if picture.exists() else b"") == drawn
    assert simulate(tmp_path, *scenarios, "--seed", "1", hash_seed=1) != first
    assert all(f"{name}: " in first[0] for name in scenarios)


@pytest.mark.slow
def test_every_scenario_and_way_is_played_to_its_end(tmp_path: Path) -> None:
    said, _ = simulate(tmp_path, hash_seed=0)
    assert said.count("least loaded (perfect)") == 11


def test_an_unknown_scenario_is_named() -> None:
    command = [sys.executable, str(HOME / "simulate.py"), "unform"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "unknown scenario 'unform'; choose from uniform, " in done.stderr


@pytest.mark.parametrize("scenario", ["uniform", "slow", "hole", "flapping", "rolling", "rack", "failover"])
def test_every_call_is_answered_with_few_attempts_more(scenario: str) -> None:
    found = result(scenario)
    assert found.failed == 0
    assert found.goodput >= 0.999
    assert found.extra <= 0.035


def test_a_worker_in_eight_that_is_ten_times_slower_hardly_shows() -> None:
    healthy, slow = result("uniform"), result("slow")
    assert slow.p99 <= 2 * healthy.p99
    assert slow.extra <= 0.03


@pytest.mark.parametrize("scenario", ["uniform", "clients", "skewed", "slow", "hole", "herd"])
def test_the_tail_is_shorter_than_with_round_robin_and_random(scenario: str) -> None:
    assert result(scenario).p99 < result(scenario, "round robin").p99
    assert result(scenario).p99 < result(scenario, "random").p99


def test_the_tail_is_near_the_bound() -> None:
    assert result("uniform").p99 <= 1.5 * result("uniform", "least loaded (perfect)").p99


def test_an_overload_of_ten_times_keeps_nine_tenths_of_the_peak_in_bounded_memory() -> None:
    found = result("overload")
    assert found.goodput >= 0.9
    assert found.line <= 2 * 200
    assert result("overload", "round robin").goodput < 0.3


def test_a_black_hole_gets_few_calls() -> None:
    assert result("hole").lost < 0.1 * result("hole", "round robin").lost


def test_a_worker_that_comes_back_is_not_trampled() -> None:
    assert 0 < result("herd").peak <= 20
