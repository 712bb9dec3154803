"""A name space as text: what its lines do, what is told of mistaken ones, and that it is the same again."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relocate import config, nsfile
from relocate.errors import ConfigError
from relocate.handle import Handle
from relocate.mounts import LiveNamespace
from relocate.namespace import Snapshot

TEXT = """
# two machines
mount tcp://desk:7000 /n/desk    # the better one
mount tcp://attic:7000
bind /n/desk/chan /chan
bind -a /n/attic:7000/chan /chan
bind -a --rank 0 /n/local/chan/m /chan/m
bind -b /n/desk/chan/m /chan/m
"""


def leads(snapshot: Snapshot, path: str) -> list[tuple[str, int]]:
    return [(t.place, t.rank) for t in LiveNamespace(snapshot).resolve(path)]


def test_lines_mount_and_bind() -> None:
    made = nsfile.run(TEXT, "file", nsfile.EMPTY)
    assert made.mounts == {"local": "local", "desk": "tcp://desk:7000", "attic:7000": "tcp://attic:7000"}
    assert leads(made, "/chan/k/f") == [("desk", 0), ("attic:7000", 1)]
    assert leads(made, "/chan/m/f") == [("desk", 0), ("local", 1)]


def test_lines_are_added_to_what_was_there_unless_it_is_cleared() -> None:
    before = nsfile.run(TEXT, "file", nsfile.EMPTY)
    after = nsfile.run("bind /n/attic:7000/chan/x /chan/x\nunmount /n/desk/chan/m /chan/m", "file", before)
    assert leads(after, "/chan/x/f") == [("attic:7000", 0)]
    assert leads(after, "/chan/m/f") == [("local", 1)]
    assert nsfile.run("clear", "file", after) == nsfile.EMPTY


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\n\nbnd /n/local/chan /chan", "file:3: 'bnd' is not known; write one of: bind [-b|-a] [--rank N] NEW OLD"),
        ("bind /n/local/chan", "file:1: write bind [-b|-a] [--rank N] NEW OLD"),
        ("bind -c /n/local/chan /chan", "file:1: '-c' is not understood; write bind"),
        ("bind --rank x /n/local/chan /chan", "file:1: '--rank' is not understood; write bind"),
        ("# a\nbind /n/desk/chan /chan", "file:2: '/n/desk/chan' leads nowhere; mounted below /n: local"),
        ("mount desk:7000", "file:1: 'desk:7000' is not a worker's address; write tcp://host:port"),
        ("mount", "file:1: write mount URL [NAME]"),
        ("clear all", "file:1: write clear"),
        ("unmount /chan/x", "file:1: nothing is bound or mounted at '/chan/x'"),
        ("unmount a b c", "file:1: write unmount [NEW] OLD"),
        ("bind 'a b", "file:1: No closing quotation"),
    ],
)
def test_a_mistake_names_file_and_line_and_the_remedy(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        nsfile.run(text, "file", nsfile.EMPTY)
    assert says in str(caught.value)


PLACES = ("a", "b", "local")
NAMES = ("", "/m", "/m/f", "/k")
STEP = st.one_of(
    st.tuples(
        st.just("bind"),
        st.sampled_from(["", "-a ", "-b "]),
        st.sampled_from(["", "--rank 0 ", "--rank 3 "]),
        st.sampled_from(PLACES),
        st.sampled_from(NAMES),
    ),
    st.tuples(st.just("unmount"), st.sampled_from(PLACES)),
)


@given(st.lists(STEP, max_size=12))
def test_what_is_saved_and_loaded_is_the_same_again(steps: list[tuple[str, ...]]) -> None:
    made = nsfile.run("mount tcp://a:1 a\nmount ipc:///tmp/b b", "file", nsfile.EMPTY)
    for step in steps:
        if step[0] == "bind":
            _, where, rank, place, name = step
            line = f"bind {where}{rank}/n/{place}/chan{name} /chan{name}"
        else:
            line = f"unmount /n/{step[1]}"
        try:
            made = nsfile.run(line, "file", made)
        except ConfigError:
            continue  # unmounted before
    for begun in (nsfile.EMPTY, made, nsfile.run(TEXT, "file", nsfile.EMPTY)):
        assert nsfile.run(nsfile.text_of(made), "file", begun) == made


# At start ------------------------------------------------------------------------------------------


def test_a_program_loads_the_file_that_its_configuration_names(tmp_path: Path) -> None:
    (tmp_path / "names").write_text("clear\nmount tcp://desk:7000 desk\nbind /n/desk/chan/m /chan/m\n", "utf-8")
    (tmp_path / "relocate.toml").write_text('workers = 2\nnamespace = "names"\n', "utf-8")
    handle = Handle(config.load(tmp_path / "relocate.toml"))
    assert [link.name for link in handle._fleet.links] == ["desk"]
    assert handle.namespace.ls("/chan") == ["m"]
    assert [t.place for t in handle.namespace.resolve("/chan/m")] == ["desk"]


def test_a_mistake_in_that_file_ends_the_program_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "names"
    monkeypatch.setenv("RELOCATE_NAMESPACE", str(file))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"namespace: {file} cannot be read: .*No such file"):
        Handle(config.load())
    file.write_text("clear\nbind /n/desk/chan /chan\n", "utf-8")
    with pytest.raises(ConfigError, match=f"{file}:2: '/n/desk/chan' leads nowhere"):
        Handle(config.load())
