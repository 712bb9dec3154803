"""The name space: mount, bind, unmount, resolve, ls; unions, ranks, snapshots."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relocate.errors import ConfigError
from relocate.namespace import Namespace, Snapshot, Where, join, split


def mounted(*places: str) -> Namespace:
    space = Namespace()
    for place in places:
        space.mount(f"tcp://{place}:1", place)
    return space


def leads(space: Namespace, path: str) -> list[tuple[str, int, str]]:
    return [(t.place, t.rank, "/".join(t.name)) for t in space.resolve(path)]


def test_a_name_space_shows_what_leads_where() -> None:
    space = Namespace()
    space.mount("tcp://desk:7000", "desk")
    space.bind("/n/desk/chan", "/chan")
    space.bind("/n/desk/chan", "/chan", "after", rank=1)
    assert repr(space) == "/chan -> /n/desk/chan, rank 0\n/chan -> /n/desk/chan, rank 1"


def test_an_unbound_name_leads_nowhere() -> None:
    assert leads(mounted("a"), "/chan/m/f") == []


def test_a_mounted_name_leads_to_its_place() -> None:
    assert leads(mounted("a"), "/n/a/chan/m/f") == [("a", 0, "m/f")]


def test_a_name_that_is_bound_over_itself_leads_on_to_where_it_led_before() -> None:
    space = mounted("a", "b")
    space.bind("/n/a/chan", "/chan")
    space.bind("/chan/m", "/chan/m", "after", rank=0)
    space.bind("/n/b/chan/m", "/chan/m", "after", rank=1)
    assert leads(space, "/chan/m/f") == [("a", 0, "m/f"), ("b", 1, "m/f")]


def test_a_change_is_one_step() -> None:
    space = mounted("a")
    seen = []

    def how(before: Snapshot) -> Snapshot:
        begun = Namespace(before)
        begun.mount("tcp://b:1", "b")
        begun.bind("/n/b/chan", "/chan")
        seen.append(space.snapshot)
        return begun.snapshot

    before = space.snapshot
    space.change(how)
    assert seen == [before]
    assert leads(space, "/chan/m") == [("b", 0, "m")]


def test_the_longest_bound_prefix_wins() -> None:
    space = mounted("a", "b", "c")
    space.bind("/n/a/chan", "/chan")
    space.bind("/n/b/chan/m", "/chan/m")
    space.bind("/n/c/chan/m/f", "/chan/m/f")
    assert leads(space, "/chan/m/f") == [("c", 0, "m/f")]
    assert leads(space, "/chan/m/g") == [("b", 0, "m/g")]
    assert leads(space, "/chan/k/f") == [("a", 0, "k/f")]
    assert leads(space, "/chan/mm/f") == [("a", 0, "mm/f")]


def test_a_name_leads_to_itself_elsewhere_and_to_nothing_else() -> None:
    space = mounted("a")
    with pytest.raises(ConfigError, match="not the same module"):
        space.bind("/n/a/chan/old", "/chan/new")


def test_after_adds_spares_before_adds_a_favourite() -> None:
    space = mounted("a", "b", "c")
    space.bind("/n/a/chan", "/chan")
    space.bind("/n/b/chan", "/chan", Where.AFTER)
    space.bind("/n/c/chan", "/chan", "before")
    assert leads(space, "/chan/m") == [("c", 0, "m"), ("a", 1, "m"), ("b", 2, "m")]


def test_one_rank_is_shared_in_the_order_of_binding() -> None:
    space = mounted("a", "b", "c")
    space.bind("/n/c/chan", "/chan", "after", 1)
    space.bind("/n/b/chan", "/chan", "after", 0)
    space.bind("/n/a/chan", "/chan", "after", 0)
    assert leads(space, "/chan/m") == [("b", 0, "m"), ("a", 0, "m"), ("c", 1, "m")]


def test_replace_drops_the_union() -> None:
    space = mounted("a", "b")
    space.bind("/n/a/chan", "/chan")
    space.bind("/n/b/chan", "/chan")
    assert leads(space, "/chan/m") == [("b", 0, "m")]


def test_ranks_add_up_along_a_chain_of_bindings() -> None:
    space = mounted("a", "b")
    space.bind("/n/a/chan", "/pool")
    space.bind("/n/b/chan", "/pool", "after")
    space.bind("/pool", "/chan", "after", 2)
    assert leads(space, "/chan/m") == [("a", 2, "m"), ("b", 3, "m")]


def test_a_circle_of_bindings_ends() -> None:
    space = mounted("a")
    space.bind("/two", "/one")
    space.bind("/one", "/two")
    space.bind("/n/a/chan", "/two", "after")
    assert leads(space, "/one/m") == [("a", 1, "m")]


def test_a_snapshot_is_not_disturbed_by_later_verbs() -> None:
    space = mounted("a", "b")
    space.bind("/n/a/chan", "/chan")
    snapshot = space.snapshot
    space.bind("/n/b/chan", "/chan")
    space.unmount("/n/a")
    assert [t.place for t in snapshot.resolve(("chan", "m"))] == ["a"]
    assert [t.place for t in space.snapshot.resolve(("chan", "m"))] == ["b"]


def test_unmount_undoes_one_element_a_union_or_a_mount() -> None:
    space = mounted("a", "b", "c")
    for place in "abc":
        space.bind(f"/n/{place}/chan", "/chan", "after")
    space.unmount("/chan", "/n/b/chan")
    assert [t.place for t in space.resolve("/chan/m")] == ["a", "c"]
    space.unmount("/n/a")
    assert [t.place for t in space.resolve("/chan/m")] == ["c"]
    space.unmount("/chan")
    assert space.resolve("/chan/m") == ()
    assert space.ls("/n") == ["b", "c"]


def test_ls_lists_the_names_below() -> None:
    space = mounted("a", "b")
    space.bind("/n/a/chan/m", "/chan/m")
    space.bind("/n/a/chan/m/f", "/chan/m/f")
    assert space.ls() == ["chan", "n"]
    assert space.ls("/n") == ["a", "b"]
    assert space.ls("/chan") == ["m"]
    assert space.ls("/chan/m") == ["f"]


@pytest.mark.parametrize(
    ("new", "old", "says"),
    [
        ("/n/b/chan", "/chan", "'/n/b/chan'"),
        ("/n/a", "/chan", "'/n/a'"),
        ("/n/a/chan", "/n/x", "'/n/x' cannot be bound over"),
        ("/n/a/chan", "/", "'/' cannot be bound over"),
        ("n/a/chan", "/chan", "'n/a/chan' is not an absolute name"),
        ("/n/a/chan", "/chan/../x", "contains a dot component"),
    ],
)
def test_a_wrong_bind_names_the_remedy_and_changes_nothing(new: str, old: str, says: str) -> None:
    space = mounted("a")
    before = space.snapshot
    with pytest.raises(ConfigError) as caught:
        space.bind(new, old)
    assert says in str(caught.value)
    assert space.snapshot is before


def test_a_wrong_mount_or_unmount_is_an_error() -> None:
    space = mounted("a")
    with pytest.raises(ConfigError, match="cannot name a place"):
        space.mount("tcp://x:1", "x/y")
    with pytest.raises(ConfigError, match="nothing is bound or mounted at '/chan'"):
        space.unmount("/chan")
    space.bind("/n/a/chan", "/chan")
    with pytest.raises(ConfigError, match="'/n/a/chan/m' is not bound over '/chan'"):
        space.unmount("/chan", "/n/a/chan/m")


words = st.text("abc", min_size=1, max_size=2)


@given(st.lists(words))
def test_split_is_the_inverse_of_join(parts: list[str]) -> None:
    assert split(join(tuple(parts))) == tuple(parts)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([None, 0, 1, 2])), min_size=1, max_size=8))
def test_resolve_is_sorted_by_rank_and_loses_nothing(binds: list[tuple[str, int | None]]) -> None:
    space = mounted("a", "b", "c")
    for place, rank in binds:
        space.bind(f"/n/{place}/chan", "/chan", Where.AFTER, rank)
    found = space.resolve("/chan/m/f")
    assert [t.rank for t in found] == sorted(t.rank for t in found)
    assert sorted(t.place for t in found) == sorted(place for place, _ in binds)
