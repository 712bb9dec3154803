"""The policy's rules, as tables and as properties."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relocate import budget
from relocate.health import Health
from relocate.policy import (
    NEVER,
    SCAN,
    SOON,
    Decision,
    Expired,
    GiveUp,
    Overloaded,
    Pool,
    Run,
    RunHere,
    Wait,
    decide,
    hedge,
    hedge_after,
)


@dataclass
class Pending:
    """A call as the policy sees it."""

    tried: Collection[str] = ()
    waited: float = 0.0
    patience: float = 30.0
    module: str = "shop"
    gpu: bool = False
    deadline: float = NEVER
    queued: bool = False
    may_wait: bool = True
    typical: float = 0.0
    hedge_after: float = NEVER


class Seat(Health):
    """A seat with nothing but what the policy looks at."""

    def __init__(
        self,
        id: str = "s",
        outstanding: int = 0,
        depth: int = 1,
        avoid_until: float = 0.0,
        modules: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.id = id
        self.outstanding = outstanding
        self.depth = depth
        self.avoid_until = avoid_until
        self.modules = modules

    def __repr__(self) -> str:
        return f"<{self.id}: {self.outstanding} of {self.depth}, not before {self.avoid_until}>"


@dataclass
class Place:
    state: str = "up"
    seats: list[Seat] = field(default_factory=list)
    local: bool = False


LOCAL = Place(local=True)
NOW = 100.0


def go(*ranks: list[Place], tried: tuple[str, ...] = (), waited: float = 0.0, chance: float = 0.0) -> Decision:
    return decide(Pending(tried, waited), [Pool(places) for places in ranks], NOW, chance)


def test_the_least_loaded_seat_of_the_best_rank_runs_the_call() -> None:
    idle = Seat("idle", outstanding=1, depth=4)
    busy = Seat("busy", outstanding=3, depth=4)
    spare = Seat("spare")
    assert go([Place(seats=[busy, idle])], [Place(seats=[spare])]) == Run(idle)


def test_equals_are_drawn_by_chance() -> None:
    seats = [Seat(str(i)) for i in range(4)]
    drawn = [go([Place(seats=seats)], chance=c) for c in (0.0, 0.25, 0.5, 0.99)]
    assert drawn == [Run(seat) for seat in seats]


def test_of_equals_one_that_has_run_the_module_is_preferred() -> None:
    warm, also, other = (
        Seat("warm", modules={"shop"}),
        Seat("also", modules={"shop", "x"}),
        Seat("other", modules={"x"}),
    )
    place = Place(seats=[Seat("cold"), warm, other, also])
    drawn = [go([place], chance=c) for c in (0.0, 0.25, 0.5, 0.75, 0.99)]
    assert drawn == [Run(warm), Run(warm), Run(also), Run(also), Run(also)]
    warm.outstanding = also.outstanding = 1  # with calls at the same time the others serve as ever
    assert go([place], chance=0.99) in (Run(place.seats[0]), Run(other))


@given(chance=st.floats(0, 1, exclude_max=True))
def test_of_many_equals_too_one_that_has_run_the_module_is_preferred(chance: float) -> None:
    seats = [Seat(str(i), depth=2) for i in range(SCAN * 2)]
    seats[5].modules = {"shop"}
    assert go([Place(seats=seats)], chance=chance) == Run(seats[5])
    seats[5].outstanding = 1
    assert go([Place(seats=seats)], chance=chance) != Run(seats[5])


def test_a_module_that_uses_a_gpu_prefers_seats_that_have_one_until_others_have_run_it() -> None:
    bare, equipped = Seat("bare"), Seat("equipped", outstanding=1, depth=2)
    equipped.gpus = 1
    pools = [Pool([Place(seats=[bare, equipped])])]
    for chance in (0.0, 0.9):
        assert decide(Pending(), pools, NOW, chance) == Run(bare)
        assert decide(Pending(gpu=True), pools, NOW, chance) == Run(equipped)
    bare.modules = {"shop"}  # from now on its answers tell how slow it is
    assert decide(Pending(gpu=True), pools, NOW, 0.0) == Run(bare)
    equipped.outstanding, bare.modules = 2, ()
    assert decide(Pending(gpu=True), pools, NOW, 0.0) == Run(bare), "nobody waits for a GPU"


def test_a_full_rank_is_waited_for_even_if_spares_or_the_local_copy_are_free() -> None:
    full = Place(seats=[Seat("a", outstanding=1), Seat("b", outstanding=1)])
    assert go([full], [Place(seats=[Seat("c")])], [LOCAL]) == Wait(1.0, hopeful=True)
    # Somebody is at work: that may take longer than the patience.
    assert go([full], [LOCAL], waited=31.0) == Wait(1.0, hopeful=True)


def test_a_dead_rank_is_passed_over_at_once() -> None:
    spare = Seat("spare")
    assert go([Place("down"), Place("refused")], [Place(seats=[spare])]) == Run(spare)
    assert go([Place("down")], [LOCAL]) == RunHere()


def test_the_seats_of_a_place_that_is_down_are_not_used() -> None:
    assert go([Place("down", [Seat()])]) == Wait(SOON, hopeful=False)


def test_a_place_that_starts_is_waited_for_within_the_patience() -> None:
    assert go([Place("starting")], [LOCAL]) == Wait(SOON / 4, hopeful=False)
    assert go([Place("starting")], [LOCAL], waited=30.0) == RunHere()
    assert go([Place("starting")], waited=30.0) == GiveUp()


def test_a_seat_that_failed_a_moment_ago_is_waited_for_one_that_failed_badly_is_not() -> None:
    assert go([Place(seats=[Seat(avoid_until=NOW + 0.2)])], [LOCAL]) == Wait(SOON / 4, hopeful=False)
    assert go([Place(seats=[Seat(avoid_until=NOW + 5.0)])], [LOCAL]) == RunHere()


def test_seats_that_are_ejected_get_calls_again_when_their_peers_have_gone() -> None:
    slow, other = Seat("slow", avoid_until=NOW + 5.0), Seat("other")
    slow.ejected_until, slow.suspect = NOW + 5.0, True
    assert go([Place(seats=[slow, other])], [LOCAL]) == Run(other)
    assert go([Place(seats=[slow, other])], [LOCAL], tried=("other",)) == RunHere()
    assert go([Place(seats=[slow])], [LOCAL]) == Run(slow)
    assert go([Place(seats=[slow])], [LOCAL], tried=("slow",)) == RunHere()
    slow.outstanding = 1
    assert go([Place(seats=[slow])], [LOCAL]) == Wait(1.0, hopeful=True)
    slow.outstanding, slow.avoid_until = 0, NOW + 6.0  # it has failed since
    assert go([Place(seats=[slow])], [LOCAL]) == RunHere()


def test_a_seat_that_was_tried_is_the_last_resort() -> None:
    tried, other = Seat("tried"), Seat("other", outstanding=3, depth=4)
    assert go([Place(seats=[tried, other])], tried=("tried",)) == Run(other)
    assert go([Place(seats=[tried])], [LOCAL], tried=("tried",)) == RunHere()
    assert go([Place(seats=[tried])], tried=("tried",)) == Run(tried)
    tried.outstanding = 1
    assert go([Place(seats=[tried])], tried=("tried",)) == Wait(1.0, hopeful=True)


def test_the_only_seat_is_avoided_no_longer_than_it_says() -> None:
    assert go([Place(seats=[Seat(avoid_until=NOW + 5.0)])]) == Wait(5.0, hopeful=False)
    assert go([Place(seats=[Seat(avoid_until=NOW + 5.0)])], waited=30.0) == GiveUp()


def test_without_hope_nobody_waits() -> None:
    assert go([Place("refused")]) == GiveUp()
    assert go() == GiveUp()
    assert go([Place("down")]) == Wait(SOON, hopeful=False)
    assert go([Place("down")], waited=30.0) == GiveUp()


@pytest.mark.parametrize("rising", [True, False])
def test_of_many_seats_each_pair_is_drawn_equally_often(rising: bool) -> None:
    count = SCAN + 2
    pairs = count * (count - 1)
    seats = [Seat(str(i), outstanding=i if rising else count - 1 - i, depth=99) for i in range(count)]
    wins: Counter[int] = Counter()
    for pair in range(pairs):
        decision = go([Place(seats=seats)], chance=(pair + 0.5) / pairs)
        assert isinstance(decision, Run)
        wins[decision.seat.outstanding] += 1
    # The seat with n calls is the better one of 2 * (count - 1 - n) ordered pairs; the worst never is.
    assert wins == {n: 2 * (count - 1 - n) for n in range(count - 1)}


seats = st.builds(
    Seat,
    id=st.sampled_from("abcdefgh"),
    outstanding=st.integers(0, 3),
    depth=st.integers(1, 3),
    avoid_until=st.sampled_from([0.0, NOW, NOW + 0.1, NOW + SOON, NOW + 9]),
)
remote = st.builds(
    Place, state=st.sampled_from(["up", "starting", "down", "refused"]), seats=st.lists(seats, max_size=12)
)
ranks_of_places = st.lists(st.lists(remote | st.just(LOCAL), max_size=3), max_size=3)


@given(
    ranks=ranks_of_places,
    tried=st.sets(st.sampled_from("abcdefgh")),
    waited=st.sampled_from([0.0, 29.9, 30.0, 99.0]),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_every_decision_is_one_that_the_rules_allow(
    ranks: list[list[Place]], tried: set[str], waited: float, chance: float
) -> None:
    decision = decide(Pending(tried, waited), [Pool(places) for places in ranks], NOW, chance)
    living = [p for rank in ranks for p in rank if p.state in ("up", "starting")]
    usable = [s for p in living for s in p.seats if s.avoid_until <= NOW]
    if isinstance(decision, Run) and decision.seat.avoid_until > NOW:
        peers = next(p for p in map(Pool, ranks) if any(decision.seat is s for s in p.seats)).seats
        assert 2 * sum(s.avoid_until > NOW for s in peers) > len(peers)
        assert not any(s.outstanding < s.depth for s in peers if s.avoid_until <= NOW and s.id not in tried)
        assert decision.seat.id not in tried
    elif isinstance(decision, Run):
        assert any(decision.seat is s for s in usable)
        assert decision.seat.outstanding < decision.seat.depth
        if decision.seat.id in tried:
            assert all(s.id in tried for s in usable)
            assert not any(p.local for p in living)
    elif isinstance(decision, RunHere):
        assert any(p.local for p in living)
    elif isinstance(decision, Wait):
        assert 0 < decision.seconds <= 10
        if decision.hopeful:
            assert any(s.outstanding >= s.depth for s in usable)
        else:
            assert waited < 30.0
    else:
        assert usable == []
        assert not any(p.local for p in living)
        assert waited >= 30.0 or all(p.state == "refused" for rank in ranks for p in rank)


# Many seats, panic, deadlines, budgets, hedges ------------------------------------------------------


def test_a_slow_seat_is_passed_over_until_the_others_are_as_slow_for_their_calls() -> None:
    slow, quick = Seat("slow", depth=9), Seat("quick", depth=9)
    slow.answered(NOW, 0.4, 0.1)
    slow.answered(NOW, 0.4, 0.1)
    assert go([Place(seats=[slow, quick])]) == Run(quick)
    quick.outstanding = 4
    assert go([Place(seats=[slow, quick])]) == Run(slow)


def test_the_queue_of_other_clients_counts_for_as_long_as_it_lasts() -> None:
    queue, free = Seat("queue"), Seat("free")
    queue.outstanding = 1
    queue.answered(NOW, 0.1, 0.1, waiting=3)
    queue.outstanding = 0
    assert queue.load(NOW) == 4
    assert queue.load(NOW + 0.31) == 1
    assert go([Place(seats=[queue, free])]) == Run(free)


def test_a_suspect_is_probed_with_one_call_while_others_go_to_the_next_rank() -> None:
    suspect, spare = Seat("suspect", depth=4), Seat("spare")
    suspect.failed(NOW - 1)
    ranks = [Place(seats=[suspect])], [Place(seats=[spare])]
    assert go(*ranks) == Run(suspect)
    suspect.outstanding = 1
    assert go(*ranks) == Run(spare)
    suspect.answered(NOW, 0.1, 0.1)
    assert go(*ranks) == Run(suspect)


@pytest.mark.parametrize("count", [3, 4 * SCAN])
def test_in_a_panic_seats_that_are_avoided_get_calls_when_the_others_are_full(count: int) -> None:
    seats = [Seat(str(i), avoid_until=NOW + 5) for i in range(count)]
    few, most = seats[: count // 2 + 1], seats[count // 2 + 1 :]
    for seat in most:
        seat.avoid_until, seat.outstanding = 0.0, 1
    decision = go([Place(seats=seats)])
    assert isinstance(decision, Run)
    assert decision.seat in few
    for seat in few[: len(few) // 2 + 1]:  # not more than half are avoided any more
        seat.avoid_until, seat.outstanding = 0.0, 1
    assert go([Place(seats=seats)]) == Wait(1.0, hopeful=True)


def test_in_a_panic_too_a_seat_that_failed_a_moment_ago_is_left_alone() -> None:
    seats = [Seat("a", avoid_until=NOW + 0.1), Seat("b", avoid_until=NOW + 0.2), Seat("c", outstanding=1)]
    assert go([Place(seats=seats)]) == Wait(1.0, hopeful=True)


def test_of_many_seats_those_that_become_full_or_avoided_are_not_drawn_and_come_back() -> None:
    seats = [Seat(str(i)) for i in range(100)]
    pool = Pool([Place(seats=seats)])
    draws = [((i * 37) % 100 + 0.5) / 100 for i in range(100)]
    for i, chance in enumerate(draws):
        decision = decide(Pending(), [pool], NOW, chance)
        assert isinstance(decision, Run), i
        assert decision.seat.outstanding == 0
        decision.seat.outstanding = 1
        pool.changed(decision.seat)
    assert decide(Pending(), [pool], NOW, 0.3) == Wait(1.0, hopeful=True)
    for seat in seats[:50]:
        seat.outstanding = 0
        seat.failed(NOW)
        pool.changed(seat)
    assert decide(Pending(), [pool], NOW, 0.3) == Wait(1.0, hopeful=True)
    later = decide(Pending(), [pool], NOW + 1, 0.3)
    assert isinstance(later, Run)
    assert later.seat in seats[:50]


def test_of_many_seats_one_that_was_tried_is_not_drawn_again() -> None:
    seats = [Seat(str(i)) for i in range(SCAN + 1)]
    tried = {seat.id for seat in seats[1:]}
    for chance in (0.0, 0.3, 0.6, 0.9):
        assert decide(Pending(tried), [Pool([Place(seats=seats)])], NOW, chance) == Run(seats[0])


def test_of_many_seats_one_that_has_warmed_up_since_is_found() -> None:
    seats = [Seat(str(i)) for i in range(100)]
    pool = Pool([Place(seats=seats)])
    decide(Pending(), [pool], NOW, 0.5)
    seats[77].modules = {"shop"}
    pool.warmed("shop", seats[77])
    assert {id(decide(Pending(), [pool], NOW, c / 10).seat) for c in range(10)} == {id(seats[77])}  # type: ignore[union-attr]


def test_a_call_is_not_begun_after_its_deadline_nor_after_a_wait_that_left_too_little() -> None:
    pool = Pool([Place(seats=[Seat()])])
    assert decide(Pending(deadline=NOW), [pool], NOW, 0.0) == Expired()
    assert decide(Pending(deadline=NOW + 1, typical=2.0, queued=True), [pool], NOW, 0.0) == Expired()
    assert isinstance(decide(Pending(deadline=NOW + 1, typical=2.0), [pool], NOW, 0.0), Run)


def test_nobody_waits_beyond_the_deadline() -> None:
    full = Pool([Place(seats=[Seat(outstanding=1)])])
    assert decide(Pending(deadline=NOW + 0.25), [full], NOW, 0.0) == Wait(0.25, hopeful=True)


def test_where_the_line_is_full_the_caller_hears_so() -> None:
    full = Pool([Place(seats=[Seat(outstanding=1)])])
    assert decide(Pending(may_wait=False), [full], NOW, 0.0) == Overloaded()
    # With nobody up there is no line: the patience bounds the wait.
    assert decide(Pending(may_wait=False), [Pool([Place("down")])], NOW, 0.0) == Wait(SOON, hopeful=False)


def test_a_further_attempt_waits_for_the_budget_a_first_one_does_not() -> None:
    pool = Pool([Place(seats=[Seat()])])
    spent = budget.Budget(0.2, 10.0)
    assert isinstance(decide(Pending(), [pool], 0.0, 0.0, spent), Run)
    waiting = decide(Pending({"other"}), [pool], 0.0, 0.0, spent)
    assert waiting == Wait(0.1, hopeful=True)
    assert isinstance(decide(Pending({"other"}), [pool], 0.11, 0.0, spent), Run)


def test_a_call_is_hedged_sooner_behind_another_but_never_if_it_may_not_be() -> None:
    usual = Pending(typical=0.1, hedge_after=0.4)
    assert (hedge_after(usual, behind=False), hedge_after(usual, behind=True)) == (0.4, 0.1)
    assert hedge_after(Pending(typical=0.1), behind=True) == NEVER


def test_a_hedge_goes_to_an_idle_seat_within_the_budget() -> None:
    on, busy, idle = Seat("on", outstanding=1), Seat("busy", outstanding=1, depth=4), Seat("idle")
    pool = Pool([Place(seats=[on, busy, idle])])
    hedges = budget.Hedges()
    hedges.calls.tokens = hedges.seconds = 1.0
    assert hedge(Pending(), [pool], NOW, 0.0, hedges, on) is idle
    assert hedge(Pending(), [pool], NOW, 0.0, hedges, on) is None
    # What has not begun costs nothing more elsewhere.
    assert hedge(Pending(), [pool], NOW, 0.0, hedges, on, begun=False) is idle
    idle.outstanding = 1
    assert hedge(Pending(), [pool], NOW, 0.0, hedges, on, begun=False) is None
    assert hedge(Pending(), [Pool([LOCAL])], NOW, 0.0, hedges, on, begun=False) is None
