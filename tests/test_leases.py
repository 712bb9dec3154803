"""Offers that expire, and what clients are told of them: no clock, no network."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relocate import wire
from relocate.leases import EACH, SPACE, Leases, View, concerns, nearest, of_one_version, path_of, point

PYTHON = (3, 13)
KEY, OTHER = bytes(32), bytes(range(32))


def offer(url: str = "tcp://desk:7000", *modules: str, host: str = "", executors: int = 2, **labels: str) -> wire.Offer:
    named = tuple(wire.Module(m) for m in modules)
    return wire.Offer(url, "0.1.0", PYTHON, executors, host, named, labels)


def query(*modules: str, host: str = "", limit: int = 32, **labels: str) -> wire.Lookup:
    return wire.Lookup(1, list(modules), PYTHON, host, labels, limit)


def told(leases: Leases, asked: wire.Lookup, position: int = 0) -> dict[str, dict[str, int]]:
    """Of each address what it is bound over, and at which rank."""
    found = leases.lookup(asked, position).mounts
    return {mount.url: {bind.name: bind.rank for bind in mount.binds} for mount in found}


def filled(*offers: wire.Offer) -> Leases:
    leases = Leases(10)
    for each in offers:
        assert leases.announce(wire.Announce(1, each), KEY, 0).lease == 10
    return leases


# Leases --------------------------------------------------------------------------------------------


def test_a_lease_grows_with_the_offers_and_never_shrinks() -> None:
    leases = filled(*(offer(f"tcp://desk-{n}:7000") for n in range(3000)))
    last = wire.Announce(1, offer("tcp://desk:7000"))
    assert leases.announce(wire.Announce(1, offer("tcp://desk:1")), KEY, 0).lease == 10
    for n in range(3000, 5000):
        leases.announce(wire.Announce(1, offer(f"tcp://desk-{n}:7000")), KEY, 0)
    assert leases.announce(last, KEY, 0).lease == pytest.approx(EACH * 5001)
    for n in range(5000):
        leases.withdraw(f"tcp://desk-{n}:7000", 1, KEY, 1)
    assert leases.announce(last, KEY, 2).lease == pytest.approx(EACH * 5001)
    assert leases.expire(2 + EACH * 5000) == [offer("tcp://desk:1")]
    assert leases.expire(2.1 + EACH * 5001) == [offer("tcp://desk:7000")]


def test_an_offer_stands_for_one_lease_and_as_long_as_it_is_repeated() -> None:
    leases = filled(offer())
    for now in range(1, 13):
        if now % 3 == 0:
            leases.announce(wire.Announce(1, offer()), KEY, now)
        assert leases.expire(now) == []
    assert [leases.expire(now) for now in (15, 18, 21, 22)] == [[], [], [], [offer()]]
    assert told(leases, query("m")) == {}


def test_a_withdrawn_offer_is_gone_at_once() -> None:
    leases = filled(offer())
    assert leases.withdraw("tcp://desk:7000", 1, KEY, 1)
    assert len(leases) == 0
    assert not leases.withdraw("tcp://desk:7000", 1, KEY, 1)


@pytest.mark.parametrize("how", ["withdrawn", "expired"])
def test_a_late_message_of_a_dead_worker_is_not_heeded(how: str) -> None:
    leases = filled(offer())
    if how == "withdrawn":
        leases.withdraw("tcp://desk:7000", 1, KEY, 1)
    else:
        leases.expire(1)
        for now in range(2, 12):
            leases.expire(now)
    answer = leases.announce(wire.Announce(1, offer()), KEY, 12)
    assert answer.lease == 0
    assert "its end was seen" in answer.trouble
    assert len(leases) == 0


def test_a_late_message_harms_nobody_who_came_after() -> None:
    leases = filled(offer())
    leases.announce(wire.Announce(2, offer(executors=8)), KEY, 1)
    assert leases.announce(wire.Announce(1, offer(executors=1)), KEY, 2).lease == 0
    assert not leases.withdraw("tcp://desk:7000", 1, KEY, 2)
    assert [entry.offer.executors for entry in leases] == [8]


def test_a_worker_that_lives_after_all_is_told_what_number_to_pass() -> None:
    leases = filled(offer())
    leases.withdraw("tcp://desk:7000", 5, KEY, 1)
    refused = leases.announce(wire.Announce(1, offer()), KEY, 2)
    assert leases.announce(wire.Announce(refused.incarnation + 1, offer()), KEY, 2).lease == 10


def test_an_end_is_forgotten_in_time() -> None:
    leases = filled(offer())
    leases.withdraw("tcp://desk:7000", 1, KEY, 1)
    for now in range(2, 102):
        leases.expire(now)
    assert leases.announce(wire.Announce(1, offer()), KEY, 102).lease == 10


def test_an_address_belongs_to_the_key_that_announced_it() -> None:
    leases = filled(offer())
    assert "another key" in leases.announce(wire.Announce(9, offer(executors=1)), OTHER, 1).trouble
    assert not leases.withdraw("tcp://desk:7000", 9, OTHER, 1)
    assert [entry.key for entry in leases] == [KEY]


def test_time_in_which_the_registry_was_stopped_counts_against_nobody() -> None:
    leases = filled(offer())
    leases.expire(1)
    assert leases.expire(61) == []
    assert leases.expire(62) == []
    assert [leases.expire(now) for now in (65, 68, 70)] == [[], [], [offer()]]


def test_only_what_clients_are_told_touches_them() -> None:
    leases = filled(offer("tcp://desk:7000", "shop"))
    leases.touched.clear()
    leases.announce(wire.Announce(1, offer("tcp://desk:7000", "shop", executors=9)), KEY, 1)
    assert leases.touched == set()
    leases.announce(wire.Announce(1, offer("tcp://desk:7000", "bank")), KEY, 1)
    assert leases.touched == {"shop", "bank"}


# Look-ups ------------------------------------------------------------------------------------------


def test_who_offers_anything_is_bound_over_everything() -> None:
    leases = filled(offer())
    assert told(leases, query("shop")) == {"tcp://desk:7000": {"/chan": 0}}
    assert leases.lookup(query("shop"), 0).missing == []


@pytest.mark.parametrize(
    ("offered", "asked", "bound"),
    [
        ("shop", "shop", "/chan/shop"),
        ("shop", "shop.goods", "/chan/shop/goods"),
        ("shop.goods.rare", "shop.goods", "/chan/shop/goods/rare"),
        ("shop", "shopping", None),
        ("shopping", "shop", None),
        ("shop.goods", "shop.staff", None),
    ],
)
def test_a_module_is_bound_as_far_as_it_is_offered(offered: str, asked: str, bound: str | None) -> None:
    leases = filled(offer("tcp://desk:7000", offered))
    assert told(leases, query(asked)) == ({"tcp://desk:7000": {bound: 0}} if bound else {})
    assert leases.lookup(query(asked), 0).missing == ([] if bound else [asked])
    assert concerns(offered, asked) == (bound is not None)


def test_who_names_no_module_is_told_of_all() -> None:
    leases = filled(offer("tcp://a:1", "shop.goods"), offer("tcp://b:1"))
    assert told(leases, query()) == {"tcp://a:1": {"/chan/shop/goods": 0}, "tcp://b:1": {"/chan": 0}}


def test_each_label_that_is_missing_costs_a_rank() -> None:
    leases = filled(
        offer("tcp://a:1", region="eu", gpu="yes"), offer("tcp://b:1", region="us", gpu="yes"), offer("tcp://c:1")
    )
    ranks = {url: binds["/chan"] for url, binds in told(leases, query("m", region="eu", gpu="yes")).items()}
    assert ranks == {"tcp://a:1": 0, "tcp://b:1": 1, "tcp://c:1": 2}


def test_the_best_ranks_come_first_where_there_are_too_many() -> None:
    near = [offer(f"tcp://near{i}:1", region="eu") for i in range(5)]
    far = [offer(f"tcp://far{i}:1", region="us") for i in range(50)]
    found = told(filled(*far, *near), query("m", limit=8, region="eu"))
    assert len(found) == 8
    assert {url for url, binds in found.items() if binds["/chan"] == 0} == {each.url for each in near}


def test_another_python_and_another_host_are_not_for_this_client() -> None:
    leases = filled(offer("ipc:///run/w", host="desk"))
    assert told(leases, query("m", host="laptop")) == {}
    assert told(leases, query("m", host="desk")) == {"ipc:///run/w": {"/chan": 0}}
    assert leases.lookup(wire.Lookup(1, ["m"], (3, 11), "desk"), 0).missing == ["m"]


@given(st.integers(0, SPACE - 1), st.integers(0, 39))
def test_a_death_concerns_only_who_was_told_of_it_and_costs_them_one(position: int, dead: int) -> None:
    leases = filled(*(offer(f"tcp://w{i}:1") for i in range(40)))
    before = set(told(leases, query("m", limit=8), position))
    assert len(before) == 8
    leases.withdraw(f"tcp://w{dead}:1", 1, KEY, 1)
    after = set(told(leases, query("m", limit=8), position))
    gone = before & {f"tcp://w{dead}:1"}
    assert before - after == gone
    assert len(after) == 8


def test_clients_spread_over_the_workers() -> None:
    leases = filled(*(offer(f"tcp://w{i}:1") for i in range(100)))
    times: dict[str, int] = {}
    for client in range(1000):
        for url in told(leases, query("m", limit=10), point(f"client {client}")):
            times[url] = times.get(url, 0) + 1
    assert len(times) == 100
    assert max(times.values()) < 400  # 100 if they spread evenly


def test_an_answer_that_is_all_there_is_says_so() -> None:
    leases = filled(offer("tcp://a:1"), offer("tcp://b:1"))
    assert leases.lookup(query("m", limit=2), 0).whole
    assert not leases.lookup(query("m", limit=1), 0).whole


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["", "a", "a.b", "a.b.c", "d"]), st.booleans())))
def test_the_index_holds_what_the_offers_say(steps: list[tuple[int, str, bool]]) -> None:
    leases = Leases(10)
    model: dict[str, str] = {}
    for number, (worker, module, comes) in enumerate(steps):
        url = f"tcp://w{worker}:1"
        if comes:
            leases.announce(wire.Announce(number, offer(url, *filter(None, [module]))), KEY, 0)
            model[url] = module
        else:
            leases.withdraw(url, number, KEY, 0)
            model.pop(url, None)
        for asked in ("a", "a.b", "d"):
            expected = {u for u, m in model.items() if concerns(m, asked)}
            assert set(told(leases, query(asked))) == expected


def versions(**offered: str) -> Leases:
    """What workers offer of one module: names of workers, and its versions there."""
    leases = Leases(10)
    for name, version in offered.items():
        module = wire.Module("m", version, version.encode())
        leases.announce(wire.Announce(1, wire.Offer(f"tcp://{name}:1", "", PYTHON, 1, "", (module,))), KEY, 0)
    return leases


@pytest.mark.parametrize(
    ("offered", "named"),
    [
        ({"a": "1.9", "b": "1.9", "c": "1.10"}, {"tcp://a:1", "tcp://b:1"}),
        ({"a": "1.9", "b": "1.10"}, {"tcp://b:1"}),
        ({"a": "1.9", "b": "1.10", "c": "1.9", "d": "1.10"}, {"tcp://b:1", "tcp://d:1"}),
    ],
)
def test_workers_of_one_version_are_named(offered: dict[str, str], named: set[str]) -> None:
    leases = versions(**offered)
    assert set(told(leases, query("m"))) == named
    assert set(told(leases, query("m.part"))) == named


def test_a_worker_that_comes_back_with_another_version_is_news() -> None:
    leases = versions(a="1")
    leases.touched.clear()
    module = wire.Module("m", "2", b"2")
    leases.announce(wire.Announce(2, wire.Offer("tcp://a:1", "", PYTHON, 1, "", (module,))), KEY, 0)
    assert leases.touched == {"m"}
    (mount,) = leases.lookup(query("m"), 0).mounts
    assert mount.binds == (wire.Bind("/chan/m", 0, "m", b"2"),)


def mounts(**digests: str) -> dict[str, wire.Mount]:
    """Of one letter each: a worker, and the digests of the modules m, n and so on that it offers."""
    return {
        url: wire.Mount(
            url, KEY, tuple(wire.Bind(f"/chan/{m}", 0, m, d.encode()) for m, d in zip("mn", each, strict=False))
        )
        for url, each in digests.items()
    }


@pytest.mark.parametrize(
    ("known", "named", "kept"),
    [
        (mounts(a="1", b="1", c="2"), "abc", mounts(a="1", b="1")),
        (mounts(a="1", b="2"), "b", mounts(b="2")),
        (mounts(a="1", b="1", c="2"), "c", mounts(a="1", b="1")),
        (mounts(a="11", b="12", c="12"), "abc", {**mounts(a="1"), **mounts(b="12", c="12")}),
    ],
)
def test_a_client_binds_workers_of_one_version(
    known: dict[str, wire.Mount], named: str, kept: dict[str, wire.Mount]
) -> None:
    assert of_one_version(known, named) == kept


def test_who_offers_anything_goes_with_any_version() -> None:
    anything = {"x": wire.Mount("x", KEY, (wire.Bind("/chan", 0),))}
    assert of_one_version(mounts(a="1", b="2") | anything, "ax") == mounts(a="1") | anything


def test_workers_from_elsewhere_are_chosen_by_rank_and_then_by_the_ring() -> None:
    mounts = [wire.Mount(f"tcp://w{i}:1", KEY, (wire.Bind("/chan", i % 2),)) for i in range(10)]
    chosen = nearest(mounts, point("tcp://w4:1"), 3)
    assert [m.binds[0].rank for m in chosen] == [0, 0, 0]
    assert chosen[0].url == "tcp://w4:1"


def test_names_of_modules_are_names_in_the_name_space() -> None:
    assert path_of("scipy.ndimage") == "/chan/scipy/ndimage"
    assert path_of("") == "/chan"


# Views ---------------------------------------------------------------------------------------------


def steps(*urls: str, lease: float = 10, complete: bool = True) -> wire.Steps:
    return wire.Steps(1, lease, [wire.Mount(url, KEY, (wire.Bind("/chan", 0),)) for url in urls], complete)


def test_registries_for_one_name_are_taken_together() -> None:
    view = View()
    view.answered("r1", steps("a", "b"), 0)
    view.answered("r2", steps("b", "c"), 0)
    assert set(view.wanted(1)) == {"a", "b", "c"}


def test_what_no_registry_names_any_more_is_not_wanted() -> None:
    view = View()
    view.answered("r1", steps("a", "b"), 0)
    view.answered("r1", steps("b"), 1)
    assert set(view.wanted(1)) == {"b"}


def test_what_a_silent_registry_said_counts_until_its_lease_ends() -> None:
    view = View()
    view.answered("r1", steps("a"), 0)
    view.answered("r2", steps("b"), 0)
    view.lost("r1")
    assert set(view.wanted(9)) == {"a", "b"}
    assert set(view.wanted(11)) == {"b"}


def test_where_all_are_silent_all_that_is_known_goes_on_to_count() -> None:
    view = View()
    view.answered("r1", steps("a"), 0)
    view.answered("r2", steps("b"), 0)
    view.lost("r1")
    view.lost("r2")
    assert set(view.wanted(1e9)) == {"a", "b"}
    view.answered("r2", steps("c"), 1e9)
    assert set(view.wanted(1e9)) == {"c"}


def test_a_registry_that_is_not_whole_yet_has_not_said_that_there_is_nobody() -> None:
    view = View()
    assert not view.complete
    view.answered("r1", steps(complete=False), 0)
    assert not view.complete
    view.answered("r1", steps("a", complete=False), 0)
    assert view.complete
