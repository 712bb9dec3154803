"""Calls run where they cost least, and are counted there."""

from __future__ import annotations

import sys
import threading
import time
from types import ModuleType
from typing import Any

import pytest
from conftest import Place

import relocate
from relocate.errors import ArgumentError, ConfigError
from relocate.observe import Counters
from relocate.placement import Placement
from relocate.target import Target

SOURCE = """
import time
def tiny(n): return n + 1
def heavy(seconds):
    time.sleep(seconds)
    return seconds
def fail(): raise LookupError("no")
def count(n):
    yield from range(n)
"""


@pytest.fixture
def shop() -> ModuleType:
    made = ModuleType("shop")
    exec(SOURCE, made.__dict__)
    return made


class Described:
    name = "shop"


class Function:
    home = "shop"
    awaits = False

    def __init__(self, name: str, generates: bool = False) -> None:
        self.qualname = name
        self.name = f"shop.{name}"
        self.generates = generates


def target(name: str, generates: bool = False) -> Target:
    return Target(Described, name, Function(name, generates))  # type: ignore[arg-type]


def placement(shop: ModuleType, there: Any, **options: Any) -> tuple[Placement, Counters]:
    counters = Counters()
    return Placement(lambda name, member: shop, there, counters, **options), counters


def never(*_: object) -> Any:
    raise AssertionError("it was sent away")


def test_a_tiny_call_stays_and_is_counted_here(shop: ModuleType) -> None:
    made, counters = placement(shop, never)
    tiny = target("tiny")
    assert [made.call(tiny, (n,), {}) for n in range(100)] == list(range(1, 101))
    found = counters.statistics()
    assert (found.calls, found.local, found.returned) == (100, 100, 100)


def test_a_heavy_call_leaves(shop: ModuleType) -> None:
    sent: list[Any] = []
    made, _ = placement(shop, lambda target, args, kwargs: sent.append(args) or args[0])
    heavy = target("heavy")
    for _ in range(30):
        assert made.call(heavy, (0.003,), {}) == 0.003
    assert len(sent) >= 20


def test_what_raises_here_is_counted_and_not_wrapped(shop: ModuleType) -> None:
    made, counters = placement(shop, never)
    with pytest.raises(LookupError, match="no"):
        made.call(target("fail"), (), {})
    assert counters.statistics().raised == 1


def test_what_has_no_local_copy_or_generates_is_sent(shop: ModuleType) -> None:
    made, _ = placement(shop, lambda target, args, kwargs: target.member)
    assert made.call(target("elsewhere"), (), {}) == "elsewhere"
    assert made.call(target("count", generates=True), (3,), {}) == "count"


def test_what_could_not_be_sent_says_nothing_of_the_cost(shop: ModuleType) -> None:
    def refuse(*_: object) -> Any:
        raise ArgumentError("it cannot travel")

    made, _ = placement(shop, refuse)
    elsewhere = target("elsewhere")
    with pytest.raises(ArgumentError):
        made.call(elsewhere, (), {})
    assert made.costs.of("shop.elsewhere", 0).tried_there == 0


def test_of_a_call_that_had_to_wait_for_a_start_or_an_import_nothing_is_learned(shop: ModuleType) -> None:
    def slow(*_: object) -> float:
        time.sleep(0.2)
        if len(waited) < 3:
            made.delayed()
            waited.append(1)
        return 0.0

    waited: list[int] = []
    made, _ = placement(shop, slow)
    heavy = target("heavy")
    made.call(heavy, (0.15,), {})
    for _ in range(3):
        made.call(heavy, (0.15,), {})
    (estimate,) = made.costs._known.values()
    assert (len(waited), estimate.tried_there, estimate.tried_here) == (3, 0, 1)
    made.call(heavy, (0.15,), {})
    assert estimate.tried_there == 1


def test_calls_of_several_threads_leave_however_long_executors_take_to_start(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write(
        "shop_of_five.py",
        "import sys\nif 'RELOCATE_EXECUTOR' in __import__('os').environ:\n    __import__('time').sleep(2)\n" + SOURCE,
    )
    monkeypatch.syspath_prepend(str(place.folder))
    folder = str(place.folder / "kept")
    with relocate.enable(modules=["shop_of_five"], workers="4", placement="auto", cache=folder, keys=folder) as handle:
        import shop_of_five

        def several() -> None:
            for _ in range(12):
                shop_of_five.heavy(0.04)

        threads = [threading.Thread(target=several) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert handle._placement is not None
        known = handle._placement.costs._known
        (estimate,) = [found for (name, _), found in known.items() if name == "shop_of_five.heavy"]
        assert estimate.there.count > 0
        assert max(estimate.there._buckets) < 8  # less than a second


def test_after_a_reload_the_function_is_the_new_one(shop: ModuleType) -> None:
    made, _ = placement(shop, never)
    tiny = target("tiny")
    assert made.call(tiny, (1,), {}) == 2
    shop.tiny = lambda n: n + 100  # type: ignore[attr-defined]
    made.forget()
    assert made.call(tiny, (1,), {}) == 101


def test_all_can_stay(shop: ModuleType) -> None:
    made, _ = placement(shop, never, always=True)
    assert made.call(target("heavy"), (0.01,), {}) == 0.01
    assert made.call(target("heavy"), (0.01,), {}) == 0.01


@pytest.mark.parametrize("way", ["auto", "local", "remote"])
def test_where_calls_run_is_configured(place: Place, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    place.write("shop_of_three.py", SOURCE)
    monkeypatch.syspath_prepend(str(place.folder))
    folder = str(place.folder / "kept")
    with relocate.enable(modules=["shop_of_three"], workers="2", placement=way, cache=folder, keys=folder) as handle:
        import shop_of_three

        assert [shop_of_three.tiny(n) for n in range(10)] == list(range(1, 11))
        assert list(shop_of_three.count(3)) == [0, 1, 2]
        assert handle.statistics().members["shop_of_three.count"].local == (way == "local")
        threads = [threading.Thread(target=shop_of_three.heavy, args=(0.02,)) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        members = handle.statistics().members
        tiny, heavy = members["shop_of_three.tiny"], members["shop_of_three.heavy"]
        assert (tiny.remote, tiny.local) == ((10, 0) if way == "remote" else (0, 10))
        assert heavy.remote + heavy.local == 20
        if way != "auto":
            assert heavy.remote == (20 if way == "remote" else 0)


def test_another_placement_is_named() -> None:
    with pytest.raises(ConfigError, match="placement: 'automatic' is none of remote, auto, local"):
        relocate.enable(modules=["shop"], placement="automatic")


@pytest.mark.parametrize(("way", "local"), [("auto", 5), ("local", 5), ("remote", 0)])
def test_where_calls_run_can_be_said_on_the_command_line(place: Place, way: str, local: int) -> None:
    place.write("shop_of_four.py", SOURCE)
    program = place.write("go.py", "import shop_of_four\nprint([shop_of_four.tiny(n) for n in range(5)])\n")
    done = place.relocate("run", "-M", "shop_of_four", "-w", "1", "--placement", way, "--summary", str(program))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[1, 2, 3, 4, 5]\n"
    assert f"{local} here" in done.stderr


def test_another_placement_is_named_by_the_command(place: Place) -> None:
    done = place.relocate("run", "-M", "colorsys", "--placement", "there", "go.py")
    assert done.returncode == 2
    assert "'there' is not one of 'remote', 'auto', 'local'" in done.stderr


def test_calls_resume_here_when_the_worker_goes_and_leave_again_when_it_is_back(place: Place) -> None:
    place.write(
        "quick.py",
        """
import os, time
def where():
    there = "RELOCATE_EXECUTOR" in os.environ
    time.sleep(0.001 if there else 0.05)
    return there
""",
    )
    worker = place.worker("-n", "1")
    program = """
import sys, time, relocate
handle = relocate.enable(modules=["quick"], workers=sys.argv[1], placement="auto")
import quick
def leaves(wanted):
    until = time.monotonic() + 60
    while quick.where() is not wanted and time.monotonic() < until: pass
    return time.monotonic() < until
for wanted in (True, False, True):
    print(leaves(wanted), flush=True)
    input()
"""
    client = place.start(sys.executable, "-W", "ignore", "-c", program, worker.url, talk=True)
    assert client.stdin is not None
    assert client.stdout is not None
    for change in (worker.process.kill, lambda: place.worker("-n", "1", listen=worker.url), lambda: None):
        assert client.stdout.readline() == "True\n"
        change()
        worker.process.poll()
        client.stdin.write("\n")
        client.stdin.flush()
    assert client.wait(60) == 0
