"""The test kit itself: time, waiting, and what a simulated network does."""

from __future__ import annotations

import doctest
from typing import Any

import pytest

from relocate import testing, wire
from relocate.channel import Lost
from relocate.testing import Clock, Kill, Network, Program, Stuck, Turn

SHOP = testing.module("shop", "def price(n): n.append(3); return n")


def test_events_happen_in_the_order_of_their_time() -> None:
    clock = Clock()
    seen: list[tuple[str, float]] = []
    for name, seconds in (("c", 3.0), ("a", 1.0), ("b", 1.0), ("never", 9.0)):
        clock.after(seconds, lambda name=name: seen.append((name, clock.now())))  # type: ignore[misc]
    clock.advance(5.0)
    assert seen == [("a", 1.0), ("b", 1.0), ("c", 3.0)]
    assert clock.now() == 5.0
    assert not clock.idle


def test_an_event_may_take_time_itself() -> None:
    clock = Clock()
    clock.after(1.0, lambda: clock.advance(10.0))
    clock.after(2.0, lambda: None)
    clock.advance(3.0)
    assert (clock.now(), clock.idle) == (11.0, True)


def test_waiting_ends_with_a_notification_or_with_time() -> None:
    clock = Clock()
    turn = Turn(clock)

    def ring() -> None:
        with turn:
            turn.notify()

    clock.after(2.0, ring)
    with turn:
        assert turn.wait(1.0) is False
        assert clock.now() == 1.0
        assert turn.wait(5.0) is True
        assert clock.now() == 2.0
        assert turn.waits == [1.0, 5.0]


def test_a_bell_wakes_only_those_who_wait_for_it() -> None:
    clock = Clock()
    turn = Turn(clock)
    bell = turn.bell()

    def ring() -> None:
        with turn:
            turn.notify_all()

    clock.after(1.0, ring)
    with turn:
        assert bell.wait(3.0) is False


def test_waiting_for_a_condition_ends_when_it_holds() -> None:
    clock = Clock()
    turn = Turn(clock)
    held: list[int] = []

    def hold() -> None:
        held.append(1)
        with turn:
            turn.notify_all()

    clock.after(2.0, hold)
    with turn:
        assert turn.wait_for(lambda: bool(held), 1.0) is False
        assert turn.wait_for(lambda: bool(held), 9.0) is True
    assert clock.now() == 2.0


def test_a_wait_that_nothing_can_end_is_found() -> None:
    turn = Turn(Clock())
    with turn, pytest.raises(Stuck):
        turn.wait()


def test_waiting_without_the_lock_is_an_error() -> None:
    turn = Turn(Clock())
    for wrong in (turn.wait, turn.notify, turn.notify_all):
        with pytest.raises(RuntimeError, match="the lock is not held"):
            wrong()


def test_the_two_sides_share_no_memory() -> None:
    network = Network(Clock())
    network.worker("desk", modules=[SHOP])
    there: list[Any] = []
    shop = testing.module("shop", "def keep(value):\n    there.append(value)", there=there)
    network.worker("desk", modules=[shop])
    given = [1]
    Program(network, ["desk"]).load("shop").keep(given)
    assert there == [given]
    assert there[0] is not given


def test_a_killed_executor_comes_back_as_another_with_an_obituary() -> None:
    clock = Clock()
    network = Network(clock)
    desk = network.worker("desk", executors=2)
    desk.kill(1, Kill(-9, obituary=1.0, restart=2.0))
    assert [(s.slot, s.incarnation) for s in desk.link.seats] == [(0, 1), (1, 1)]
    clock.advance(1.0)
    assert [(s.slot, s.incarnation) for s in desk.link.seats] == [(0, 1)]
    assert desk.link.obituaries == {(1, 1): wire.Obituary(1, 1, -9, bytes(16))}
    clock.advance(1.0)
    assert [(s.slot, s.incarnation) for s in desk.link.seats] == [(0, 1), (1, 2)]


def test_a_channel_to_the_dead_is_lost() -> None:
    network = Network(Clock())
    desk = network.worker("desk")
    [seat] = desk.link.seats
    opened = network.open_channel(seat)
    desk.kill()
    describe = wire.Describe(b"c" * 16, "shop")
    opened.send(describe, wire.pack(describe))
    with pytest.raises(Lost):
        opened.reply(lambda *_: [])


def test_the_examples_in_the_documentation_are_right() -> None:
    from relocate.testing import clock

    assert doctest.testmod(clock) == (0, doctest.testmod(clock).attempted)
    assert doctest.testmod(clock).attempted == 4
