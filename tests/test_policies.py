"""Policies of users: composed, configured, offered by packages."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Place as Folder
from test_policy import LOCAL, NOW, Pending, Place, Seat

import relocate
from relocate import errors, policies, testing
from relocate.cost import ENOUGH
from relocate.errors import ConfigError
from relocate.policy import NEVER, SCAN, Decision, GiveUp, Pool, Run, RunHere, Wait, decide
from relocate.testing import Clock, Network, Program

EXAMPLES = Path(__file__).parent.parent / "examples"


def named(name: str, *seats: Seat) -> Place:
    made = Place(seats=list(seats))
    made.name = name  # type: ignore[attr-defined]
    return made


def gpu(place: object) -> bool:
    return str(getattr(place, "name", "")).startswith("gpu")


def go(policy: policies.Policy, *ranks: list[Place], name: str = "shop.price", chance: float = 0.0) -> Decision:
    call = Pending()
    call.name = name  # type: ignore[attr-defined]
    return policy(call, [Pool(places) for places in ranks], NOW, chance)  # type: ignore[arg-type]


def test_only_some_places_are_known_and_the_local_copy() -> None:
    here, there = named("gpu1", Seat("a")), named("desk", Seat("b"))
    assert go(policies.only(gpu), [there, here], chance=0.0) == Run(here.seats[0])
    assert go(policies.only(gpu), [there], [LOCAL]) == RunHere()


def test_preferred_places_are_taken_while_they_can() -> None:
    here, there = named("gpu1", Seat("a")), named("desk", Seat("b"))
    policy = policies.prefer(gpu)
    assert go(policy, [there, here]) == Run(here.seats[0])
    assert go(policy, [there], [here]) == Run(here.seats[0])
    here.seats[0].outstanding = 1
    assert go(policy, [there, here]) == Run(there.seats[0])
    there.seats[0].outstanding = 1
    assert go(policy, [there, here]) == Wait(1.0, hopeful=True)


def test_calls_have_policies_of_their_own() -> None:
    here, there = named("gpu1", Seat("a")), named("desk", Seat("b"))
    policy = policies.when(lambda call: call.name == "shop.heavy", policies.only(gpu), policies.here)
    assert go(policy, [there, here], [LOCAL], name="shop.heavy") == Run(here.seats[0])
    assert go(policy, [there, here], [LOCAL]) == RunHere()
    assert go(policy, [there, here]) == GiveUp()


def test_among_many_places_too_what_is_taken_and_given_back_is_known() -> None:
    places = [named(f"{'gpu' if i % 2 else 'desk'}{i}", Seat(str(i))) for i in range(4 * SCAN)]
    pool = Pool(places)
    policy = policies.only(gpu)
    taken = []
    for i in range(2 * SCAN):
        decision = policy(Pending(), [pool], NOW, i / (2 * SCAN))  # type: ignore[arg-type]
        assert isinstance(decision, Run)
        decision.seat.outstanding += 1  # type: ignore[misc]
        pool.changed(decision.seat)
        taken.append(decision.seat)
    assert len(set(map(id, taken))) == 2 * SCAN
    assert policy(Pending(), [pool], NOW, 0.5) == Wait(1.0, hopeful=True)  # type: ignore[arg-type]
    taken[3].outstanding = 0  # type: ignore[misc]
    pool.changed(taken[3])
    assert policy(Pending(), [pool], NOW, 0.5) == Run(taken[3])  # type: ignore[arg-type]


# In a program ---------------------------------------------------------------------------------------


@pytest.fixture
def program() -> Program:
    network = Network(Clock())
    for name in ("desk", "gpu"):
        network.worker(name, modules=[testing.module("shop", "def price(n): return n * 3")])
    return Program(network, [["desk", "gpu"]])


def test_a_programs_calls_go_where_its_policy_says(program: Program) -> None:
    proxy = program.load("shop")
    program.driver.policy = policies.only(gpu)
    for n in range(10):
        assert proxy.price(n) == 3 * n
    assert set(program.statistics().workers) == {"gpu/0"}


def test_a_policy_is_told_what_such_calls_take(program: Program) -> None:
    told: list[tuple[float, float]] = []

    def spy(call: policies.Call, *given: Any) -> Decision:
        told.append((call.typical, call.hedge_after))
        return decide(call, *given)

    proxy = program.load("shop")
    program.driver.policy = spy
    for n in range(2 * ENOUGH):
        proxy.price(n)
    assert told[0] == (0.0, NEVER)
    assert 0 < told[-1][0] <= told[-1][1] < NEVER


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (lambda *_: 1 / 0, "shop.price: the policy failed: ZeroDivisionError: division by zero"),
        (lambda *_: "desk", "shop.price: the policy gave 'desk', which is no decision"),
    ],
)
def test_a_policy_that_fails_is_named_and_holds_no_seat(program: Program, policy: object, said: str) -> None:
    proxy = program.load("shop")
    program.driver.policy = policy  # type: ignore[assignment]
    with pytest.raises(errors.PolicyError) as caught:
        proxy.price(1)
    assert str(caught.value) == said
    program.driver.policy = decide
    assert proxy.price(1) == 3


def test_a_call_that_waits_hears_of_the_failure_itself(program: Program) -> None:
    proxy = program.load("shop")
    clock = program.network.clock
    for worker in program.network.workers.values():
        worker.occupy(0, 1.0)

    def fail() -> None:
        program.driver.policy = lambda *_: 1 / 0  # type: ignore[assignment, return-value]

    clock.after(0.5, fail)
    with pytest.raises(errors.PolicyError):
        proxy.price(1)
    assert clock.now() == pytest.approx(1.0, abs=0.1)


# By name --------------------------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that offers policies to others."""
    (tmp_path / "gpu_first.py").write_text(
        "from relocate.policies import prefer\npolicy = prefer(lambda place: 'gpu' in place.name)\nnone = 5\n"
    )
    info = tmp_path / "gpu_first-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gpu-first\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[relocate.policies]\ngpu-first = gpu_first:policy\nbroken = gpu_first:missing\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize("name", ["gpu-first", "gpu_first:policy"])
@pytest.mark.usefixtures("installed")
def test_a_policy_is_found_by_its_name(name: str) -> None:
    here, there = named("gpu1", Seat("a")), named("desk", Seat("b"))
    assert go(policies.find(name), [there, here]) == Run(here.seats[0])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cpu-first", r"no installed package offers 'cpu-first' \(broken, gpu-first\); write module:attribute"),
        ("broken", r"'broken' \(gpu_first:missing\) cannot be loaded: .*missing"),
        ("gpu_first:other", r"'gpu_first:other' cannot be loaded: .*other"),
        ("nowhere:policy", r"'nowhere:policy' cannot be loaded: No module named 'nowhere'"),
        ("gpu_first:none", r"'gpu_first:none' is a int, not a function like relocate\.policy\.decide"),
    ],
)
@pytest.mark.usefixtures("installed")
def test_what_is_no_policy_is_named(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        policies.find(name)
    with pytest.raises(ConfigError, match=said):
        relocate.enable(modules=["colorsys"], policy=name)


def test_a_policy_may_lie_beside_the_script_and_leave_no_worker(place: Folder) -> None:
    place.write("beside/pol.py", "from relocate.policies import only\npolicy = only(lambda place: False)\n")
    script = place.write("beside/main.py", "import work\nprint(work.echo(1))\n")
    file = place.write("pol.toml", "modules = ['work']\nworkers = '1'\npolicy = 'pol:policy'\n")
    for _ in range(2):  # the second time the interface is in the cache
        done = place.relocate("run", "--config", str(file), str(script))
        assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
        assert "work is not relocated: the policy leaves none of embedded\n" in done.stderr
    place.write("beside/pol.py", "")
    done = place.relocate("run", "--config", str(file), str(script))
    assert "work is not relocated: policy: 'pol:policy' cannot be loaded: " in done.stderr


def test_the_example_sends_calls_where_it_says(place: Folder) -> None:
    keys = str(place.folder / "keys")
    sockets = place.home / "run"
    sockets.mkdir(parents=True, exist_ok=True)
    urls = [f"ipc://{sockets}/{name}" for name in ("gpu-desk", "attic")]
    for url in urls:
        place.worker("--executors", "1", "--keys", keys, listen=url)
    done = place.python(str(EXAMPLES / "policy.py"), RELOCATE_WORKERS=",".join(urls), RELOCATE_KEYS=keys)
    assert done.returncode == 0, done.stderr
    said = dict(line.rsplit(": ", 1) for line in done.stdout.splitlines())
    assert {os.path.basename(where): calls for where, calls in said.items()} == {"0": "10 calls"}
    assert sorted(said.values()) == ["10 calls", "10 calls"]


if sys.platform != "linux":
    del test_the_example_sends_calls_where_it_says
