"""When a seat is slow, suspect or ejected."""

from __future__ import annotations

import pytest

from relocate.health import EJECTED, FADE, LATE_ANSWERS, Capability, Health, eject, ejection

NOW = 100.0


def slow(count: int = LATE_ANSWERS, seconds: float = 1.0) -> Health:
    """A seat that has given so many late answers."""
    made = Health()
    for _ in range(count):
        made.answered(NOW, seconds, 0.1)
    return made


def test_a_peak_counts_in_full_and_fades() -> None:
    seat = slow(2)
    assert seat.slowness(NOW) == pytest.approx(10)
    assert seat.slowness(NOW + FADE) == pytest.approx(1 + 9 / 2.718, rel=0.01)
    assert seat.slowness(NOW + 10 * FADE) == pytest.approx(1, rel=0.01)


def test_a_single_peak_may_be_the_calls_doing() -> None:
    assert slow(1).slowness(NOW) == 1
    seat = slow(1)
    seat.answered(NOW, 0.1, 0.1)
    seat.answered(NOW, 1.0, 0.1)
    assert seat.slowness(NOW) == 1


def test_what_such_calls_take_anyway_is_no_peak() -> None:
    seat = Health()
    for _ in range(10):
        seat.answered(NOW, 0.25, 0.1, 0.26)
    assert seat.slowness(NOW) == 1
    for _ in range(2):
        seat.answered(NOW, 0.2, 0.1, 0.15)
    assert seat.slowness(NOW) == pytest.approx(2)


def test_who_is_outrun_by_a_hedge_is_late_but_has_not_answered() -> None:
    seat = Health()
    seat.failed(NOW)
    for _ in range(3):
        seat.took(NOW + 1, 1.0, 0.1)
    assert seat.slowness(NOW + 1) == pytest.approx(10)
    assert (seat.failures, seat.suspect) == (1, True)


def test_several_good_answers_outweigh_a_peak() -> None:
    seat = slow(2)
    seat.answered(NOW, 0.1, 0.1)
    assert seat.slowness(NOW) > 8
    for _ in range(15):
        seat.answered(NOW, 0.1, 0.1)
    assert seat.slowness(NOW) == 1


def test_slowness_is_in_units_of_what_the_function_takes() -> None:
    seat = Health()
    seat.answered(NOW, 60.0, 60.0)
    seat.answered(NOW, 0.001, 0.001)
    assert seat.slowness(NOW) == 1


def test_a_call_that_waited_behind_another_ran_since_that_ones_answer() -> None:
    seat = Health()
    assert seat.run(NOW, NOW - 3) == 3
    seat.answered(NOW - 1, 2.0, 0.1)
    assert seat.run(NOW, NOW - 3) == 1
    assert seat.run(NOW, NOW - 0.5) == 0.5
    assert seat.answers == 1


def test_an_unknown_function_tells_nothing() -> None:
    seat = Health(prior=2.0)
    seat.answered(NOW, 100.0, 0.0)
    assert seat.slowness(NOW) == 2


def test_what_is_noise_makes_no_difference() -> None:
    seat = Health()
    seat.outstanding = 1
    seat.answered(NOW, 0.14, 0.1)
    assert seat.load(NOW) == 2


def test_failures_in_a_row_are_avoided_ever_longer() -> None:
    seat = Health()
    avoided = []
    for _ in range(5):
        now = seat.avoid_until
        seat.failed(now)
        avoided.append(seat.avoid_until - now)
    assert avoided == pytest.approx([0.2, 1.0, 5.0, 10.0, 10.0])
    assert seat.suspect


def test_several_calls_lost_at_once_are_one_failure() -> None:
    seat = Health()
    seat.failed(NOW)
    seat.failed(NOW + 0.1)
    assert seat.failures == 1


def test_clients_come_back_at_different_times() -> None:
    early, late = Health(), Health()
    early.failed(NOW, 0.0)
    late.failed(NOW, 0.99)
    assert early.avoid_until < NOW + 0.2 < late.avoid_until


def test_an_answer_ends_suspicion() -> None:
    seat = Health()
    seat.failed(NOW)
    seat.answered(NOW + 1, 0.1, 0.1)
    assert (seat.failures, seat.suspect) == (0, False)


def test_late_answers_in_a_row_may_be_an_outlier_single_ones_are_not() -> None:
    seat = Health()
    found = [seat.answered(NOW, 1.0, 0.1) for _ in range(LATE_ANSWERS)]
    assert found == [False] * (LATE_ANSWERS - 1) + [True]
    other = Health()
    assert not any(other.answered(NOW, seconds, 0.1) for seconds in (1.0, 1.0, 0.1) * LATE_ANSWERS)


def test_what_the_scheduler_may_have_done_is_not_late() -> None:
    seat = Health()
    assert not any(seat.answered(NOW, 0.003, 0.0001) for _ in range(3 * LATE_ANSWERS))


def test_an_outlier_is_ejected_for_a_time_that_doubles_and_is_then_probed() -> None:
    peers = [slow(), Health(), Health()]
    ejected: list[Health] = []
    now = NOW
    for times in (1, 2, 3):
        assert eject(peers[0], peers, ejected, now)
        assert peers[0].avoid_until == pytest.approx(now + EJECTED * 2 ** (times - 1))
        assert ejected == [peers[0]]
        now = peers[0].avoid_until
        assert peers[0].suspect
        assert peers[0].answered(now, 1.0, 0.1), "one late answer to a probe is enough"
    peers[0].answered(now, 0.1, 0.1)
    assert not peers[0].suspect


def test_an_ejection_is_at_most_a_minute_and_is_forgotten_in_time() -> None:
    assert ejection(20) == 60
    seat = slow()
    eject(seat, [seat, Health()], [], NOW)
    now = seat.ejected_until
    seat.answered(now + 1, 0.1, 0.1)
    assert seat.ejections == 1
    seat.answered(now + 6, 0.1, 0.1)
    assert seat.ejections == 0


@pytest.mark.parametrize(("count", "most"), [(1, 0), (2, 1), (3, 1), (8, 4), (101, 50)])
def test_never_more_than_half_are_ejected(count: int, most: int) -> None:
    # A few quick ones, so that the others are outliers as long as they are less than half.
    peers = [Health() for _ in range(count)]
    ejected: list[Health] = []
    for seat in peers:
        for _ in range(LATE_ANSWERS):
            seat.answered(NOW, 1.0, 0.1)
        eject(seat, peers, ejected, NOW)
    assert len(ejected) <= most
    assert (len(ejected) > 0) == (most > 0)


def test_where_all_are_slow_nobody_is_ejected() -> None:
    peers = [slow() for _ in range(8)]
    assert not any(eject(seat, peers, [], NOW) for seat in peers)


def test_who_has_come_back_makes_room_for_another_ejection() -> None:
    peers = [slow(), slow(), Health(), Health(), Health()]
    ejected: list[Health] = []
    assert eject(peers[0], peers[:3], ejected, NOW)
    assert not eject(peers[1], peers[:3], ejected, NOW)
    later = peers[0].ejected_until + 1
    for _ in range(LATE_ANSWERS):
        peers[1].answered(later, 1.0, 0.1)
    assert eject(peers[1], peers, ejected, later)
    assert ejected == [peers[1]]


@pytest.mark.parametrize(
    ("offers", "expected"),
    [
        (Capability(), 1.0),
        (Capability(cores=4), 1.0),
        (Capability(cores=2), 2.0),
        (Capability(speed=2.0), 0.5),
        (Capability(cores=2, speed=2.0), 1.0),
        (Capability(memory=256 << 20), 2.0),
    ],
)
def test_capabilities_are_what_is_expected_at_first(offers: Capability, expected: float) -> None:
    assert offers.slowness(4) == pytest.approx(expected)
    assert Health(offers.slowness(4)).slowness(NOW) == pytest.approx(expected)


def test_who_is_known_to_be_slow_is_not_late_for_that() -> None:
    seat = Health(prior=5.0)
    for _ in range(2 * LATE_ANSWERS):
        assert not seat.answered(NOW, 0.0, 0.0)
        assert not seat.answered(NOW, 0.5, 0.1)
    assert seat.slowness(NOW) == pytest.approx(5)
    found = [seat.answered(NOW, 3.0, 0.1) for _ in range(LATE_ANSWERS)]
    assert found[-1]
    assert eject(seat, [seat, Health(), Health()], [], NOW)
