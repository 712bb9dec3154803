"""Key pairs, and the list of whom this side trusts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from relocate import keys
from relocate.errors import ConfigError, WrongKey

THEIRS = "ab" * 32


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a key."""
    keys.new(tmp_path / "keys")
    return tmp_path / "keys"


def test_a_new_key_is_private_and_comes_back(folder: Path) -> None:
    assert (folder / "secret").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    first, second = keys.load(folder), keys.load(folder)
    assert first == second
    assert (len(first.secret), len(first.public)) == (32, 32)
    assert first.secret != first.public
    assert sorted(p.name for p in folder.iterdir()) == ["secret"]


def test_two_keys_differ(folder: Path, tmp_path: Path) -> None:
    assert keys.new(tmp_path / "other").public != keys.load(folder).public


def test_a_key_is_never_written_over(folder: Path) -> None:
    before = (folder / "secret").read_text()
    with pytest.raises(FileExistsError):
        keys.new(folder)
    assert (folder / "secret").read_text() == before
    assert sorted(p.name for p in folder.iterdir()) == ["secret"]


def test_without_a_key_the_remedy_is_named_or_one_is_made(tmp_path: Path) -> None:
    with pytest.raises(WrongKey, match=f"make one with 'relocate keys new --keys {tmp_path}'"):
        keys.load(tmp_path)
    made = keys.load(tmp_path, create=True)
    assert keys.load(tmp_path, create=True) == made


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_secret_that_others_can_read_is_refused(folder: Path, mode: int) -> None:
    (folder / "secret").chmod(mode)
    with pytest.raises(WrongKey, match="can be read by others; run: chmod 600"):
        keys.load(folder)


def test_the_secret_is_not_shown(folder: Path) -> None:
    found = keys.load(folder)
    assert found.secret.hex() not in repr(found)
    assert repr(found.secret) not in repr(found)


def test_an_allowed_peer_is_trusted_and_listed_once(folder: Path) -> None:
    own = keys.load(folder).public
    assert keys.load(folder).peers == [own]
    assert keys.allow(THEIRS, "ann@desk", folder) == "ann@desk"
    assert keys.allow(THEIRS.upper(), "again", folder) == "again"
    assert keys.allow(THEIRS, "", folder) == "again"
    keys.allow("cd" * 32, "", folder)
    found = keys.load(folder)
    assert found.allowed == {bytes.fromhex(THEIRS): "again", bytes.fromhex("cd" * 32): ""}
    assert found.peers == [own, bytes.fromhex(THEIRS), bytes.fromhex("cd" * 32)]


def test_comments_and_empty_lines_are_passed_over(folder: Path) -> None:
    (folder / "allowed").write_text(f"# friends\n\n  {THEIRS}   ann and bob  \n")
    assert keys.load(folder).allowed == {bytes.fromhex(THEIRS): "ann and bob"}


def test_a_peer_is_allowed_after_a_last_line_without_an_end(folder: Path) -> None:
    (folder / "allowed").write_text(f"{THEIRS} ann")
    keys.allow("cd" * 32, "bob", folder)
    assert bytes.fromhex("cd" * 32) in keys.load(folder).allowed


def test_a_wrong_line_is_named(folder: Path) -> None:
    (folder / "allowed").write_text(f"{THEIRS}\nnonsense bob\n")
    with pytest.raises(ConfigError, match="allowed, line 2: 'nonsense' is not a key"):
        keys.load(folder)


@pytest.mark.parametrize("text", ["", "ab", "g" * 64, "ab" * 33, f"{THEIRS}\n{THEIRS}"])
def test_what_is_no_key_cannot_be_allowed(folder: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a key.*'relocate keys show' on the other side prints it"):
        keys.allow(text, "x", folder)
    assert not (folder / "allowed").exists()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"nonsense\n"])
def test_a_damaged_secret_is_named(folder: Path, content: bytes) -> None:
    (folder / "secret").write_bytes(content)
    with pytest.raises(ConfigError, match="secret does not hold a key"):
        keys.load(folder)


def test_a_damaged_secret_is_not_shown(folder: Path) -> None:
    damaged = (folder / "secret").read_text()[:60]
    (folder / "secret").write_text(damaged)
    with pytest.raises(ConfigError) as caught:
        keys.load(folder)
    assert damaged not in str(caught.value)


def test_show_gives_what_allow_takes(folder: Path, tmp_path: Path) -> None:
    keys.new(tmp_path / "other")
    key, _, name = keys.show(folder).partition(" ")
    assert keys.allow(key, name, tmp_path / "other") == keys.whose()
    assert keys.load(folder).public in keys.load(tmp_path / "other").peers


def test_whose_is_this_user_and_host() -> None:
    assert keys.whose().partition("@")[2] == os.uname().nodename


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "\x1b[31m", "a\u2028b"])
def test_a_name_is_one_line_of_text(folder: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="control characters"):
        keys.allow(THEIRS, name, folder)
    assert keys.listed(folder) == {}


@pytest.mark.parametrize("what", [THEIRS, THEIRS.upper(), "ann"])
def test_a_key_is_taken_back_and_the_rest_of_the_list_stays(folder: Path, what: str) -> None:
    (folder / "allowed").write_text(f"# friends\n{'cd' * 32} bob\n{THEIRS.upper()} ann\n")
    assert keys.revoke(what, folder) == {bytes.fromhex(THEIRS): "ann"}
    assert (folder / "allowed").read_text() == f"# friends\n{'cd' * 32} bob\n"


def test_a_name_takes_back_all_its_keys(folder: Path) -> None:
    for key in (THEIRS, "cd" * 32):
        keys.allow(key, "ann", folder)
    assert len(keys.revoke("ann", folder)) == 2
    assert keys.listed(folder) == {}


@pytest.mark.parametrize("what", ["nobody", "", "ef" * 32])
def test_what_is_not_listed_cannot_be_taken_back(folder: Path, what: str) -> None:
    keys.allow(THEIRS, "", folder)
    with pytest.raises(ConfigError, match=r"neither a key nor a name in .*allowed; see 'relocate keys list'"):
        keys.revoke(what, folder)


def test_a_line_that_is_no_text_is_named(folder: Path) -> None:
    (folder / "allowed").write_bytes(f"{THEIRS}\n".encode() + b"\xff\xfe\n")
    with pytest.raises(ConfigError, match="allowed, line 2: "):
        keys.load(folder)


def test_the_state_of_the_files_tells_of_every_change(tmp_path: Path) -> None:
    states = [keys.state(tmp_path)]
    for change in (
        lambda: keys.new(tmp_path),
        lambda: keys.allow(THEIRS, "desk", tmp_path),
        lambda: keys.allow(THEIRS, "rack", tmp_path),
        lambda: keys.revoke("rack", tmp_path),
    ):
        change()
        states.append(keys.state(tmp_path))
    assert len(set(states)) == len(states)
    assert keys.state(tmp_path) == states[-1]
