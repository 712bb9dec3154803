"""What workers say of their machines, and what is made of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import Place, until

import relocate
from relocate import capability, testing, wire
from relocate.links import slowness
from relocate.testing import Clock, Network, Program


def test_this_machine_says_what_it_has() -> None:
    found = capability.offered()
    assert found.cores >= 1
    assert found.memory > 1 << 20
    assert found.gpus >= 0
    assert found.speed > 1000
    assert capability.offered().speed == found.speed, "it is measured once"


def test_a_worker_is_expected_to_be_as_slow_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capability, "speed", lambda: 1e7)
    assert slowness(None, 4) == 1
    assert slowness(wire.Capability(8, 64 << 30, 0, 2e7), 4) == 0.5
    assert slowness(wire.Capability(2, 64 << 30, 0, 1e7), 4) == 2


def test_the_faster_of_two_workers_is_taken_before_any_call_has_shown_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capability, "speed", lambda: 1e7)
    network = Network(Clock())
    for name, speed in (("slow", 0.5e7), ("fast", 4e7)):
        made = network.worker(name, modules=[testing.module("shop", "def price(n): return n * 3")], up=False)
        made.capability = wire.Capability(8, 64 << 30, 0, speed)
        made.start()
    for seed in range(5):
        program = Program(network, [["slow", "fast"]], seed=seed)
        program.load("shop").price(1)
        assert set(program.statistics().workers) == {"fast/0"}
        for link in network.links:  # as if nothing had been called
            link.seats[0].modules.clear()


def test_a_module_that_uses_a_gpu_goes_first_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capability, "speed", lambda: 1e7)
    network = Network(Clock())
    torch = testing.module("torch", "def relu(n): return max(n, 0)")
    net = testing.module("net", "def run(n): return n * 3", torch=torch)
    plain = testing.module("plain", "def run(n): return n * 3")
    for name, gpus in (("bare", 0), ("equipped", 1)):
        made = network.worker(name, modules=[net, plain], up=False)
        made.capability = wire.Capability(8, 64 << 30, gpus, 1e7 if gpus else 3e7)
        made.start()
    for seed in range(5):
        program = Program(network, [["bare", "equipped"]], seed=seed)
        for link in network.links:  # as if nothing had been called
            link.seats[0].modules.clear()
        program.load("net").run(1)
        assert set(program.statistics().workers) == {"equipped/0"}
        program.load("plain").run(1)
        assert set(program.statistics().workers) == {"bare/0", "equipped/0"}


@pytest.mark.parametrize(
    ("supplies", "found"),
    [
        ({}, None),
        ({"AC": {"type": "Mains", "online": "0"}}, None),
        ({"BAT0": {"type": "Battery", "status": "Discharging", "capacity": "55"}}, (0.55, True)),
        ({"BAT0": {"type": "Battery", "status": "Charging", "capacity": "55"}}, (0.55, False)),
        ({"BAT0": {"type": "Battery", "status": "Full", "capacity": "100"}}, (1.0, False)),
        (
            {
                "BAT0": {"type": "Battery", "status": "Discharging", "capacity": "20"},
                "BAT1": {"type": "Battery", "status": "Not charging", "capacity": "10"},
                "hid": {"type": "Battery", "scope": "Device", "status": "Discharging", "capacity": "90"},
                "odd": {"type": "Battery"},
            },
            (0.15, True),
        ),
    ],
)
def test_the_battery_that_this_machine_runs_on_is_known(
    tmp_path: Path, supplies: dict[str, dict[str, str]], found: tuple[float, bool] | None
) -> None:
    for name, files in supplies.items():
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text + "\n")
    assert capability.battery(tmp_path) == (found if found is None else (pytest.approx(found[0]), found[1]))


def test_a_worker_tells_its_clients(place: Place) -> None:
    worker = place.worker("--executors", "1", "--keys", str(place.folder / "keys"))
    place.write("told.py", "def f(n): return n\n")
    handle = relocate.enable(
        modules=["told"], workers=worker.url, keys=str(place.folder / "keys"), cache=str(place.folder / "cache")
    )
    with handle:
        until(lambda: handle.workers(5.0)[0]["state"] == "up", "the worker")
        [link] = handle._fleet.links
        assert link.capability is not None
        assert link.capability.cores >= 1
        assert link.seats[0].prior == slowness(link.capability, 1)


def test_a_placement_begins_with_what_the_workers_say() -> None:
    from relocate.observe import Counters
    from relocate.placement import Placement

    made = Placement(lambda *_: SimpleNamespace(f=abs), lambda *_: 0, Counters(), slowness=lambda: 0.25)  # type: ignore[arg-type, return-value]
    target = type("Target", (), {"name": "m.f", "member": "f", "awaits": False, "generates": False})()
    target.described = SimpleNamespace(name="m")
    made._way(target)
    assert made.costs.route.slowness == 0.25
