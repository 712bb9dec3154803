"""Interfaces kept on disk: used while the code is as it was, never in the way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from relocate import describing, interface, testing
from relocate.cache import Cache

SHOP = describing.describe(testing.module("shop", "def price(n): return n\nLIMIT = 3"))
DATA = interface.encode(SHOP)


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """The file that the module's code is in."""
    file = tmp_path / "shop.py"
    file.write_text("def price(n): return n")
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def kept(folder: Path, code: Path | None, path: list[str] | None = None) -> Cache:
    cache = Cache(str(folder), "local")
    cache.put("shop", str(code) if code else None, path or [], SHOP, DATA)
    return cache


def test_what_was_kept_is_found_by_a_second_start(folder: Path, code: Path) -> None:
    kept(folder, code)
    assert Cache(str(folder), "local").get("shop", str(code), []) == SHOP


def test_a_module_without_files_here_is_found_too(folder: Path) -> None:
    assert kept(folder, None).get("shop", None, []) == SHOP


def test_other_workers_another_module_or_another_file_have_their_own(folder: Path, code: Path) -> None:
    cache = kept(folder, code)
    assert Cache(str(folder), "tcp://desk:7000").get("shop", str(code), []) is None
    assert cache.get("bank", str(code), []) is None
    assert cache.get("shop", None, []) is None


def test_a_changed_file_is_described_anew(folder: Path, code: Path) -> None:
    cache = kept(folder, code)
    status = code.stat()
    code.write_text("def price(n): return n + 1")
    os.utime(code, ns=(status.st_atime_ns, status.st_mtime_ns))  # the size alone tells
    assert cache.get("shop", str(code), []) is None
    code.write_text("def price(n): return n")
    os.utime(code, ns=(status.st_atime_ns, status.st_mtime_ns + 1))  # the time alone tells
    assert cache.get("shop", str(code), []) is None


def test_a_new_file_in_a_package_counts_and_data_does_not(folder: Path, code: Path) -> None:
    cache = kept(folder, code, [str(code.parent)])
    (code.parent / "data.txt").write_text("x")
    assert cache.get("shop", str(code), [str(code.parent)]) == SHOP
    (code.parent / "more.py").write_text("")
    assert cache.get("shop", str(code), [str(code.parent)]) is None


def test_what_is_forgotten_is_gone_and_can_be_forgotten_again(folder: Path, code: Path) -> None:
    cache = kept(folder, code)
    cache.forget("shop", str(code))
    cache.forget("shop", str(code))
    assert cache.get("shop", str(code), []) is None


@pytest.mark.parametrize("content", [b"", b"\xc1", b"\x90", b"\x80", b"\xa3abc", DATA[:-1], b"\xc0"])
@pytest.mark.parametrize("kind", ["interfaces", "names"])
def test_a_damaged_entry_is_as_good_as_none(folder: Path, code: Path, kind: str, content: bytes) -> None:
    cache = kept(folder, code)
    [entry] = (folder / kind).iterdir()
    entry.write_bytes(content)
    assert cache.get("shop", str(code), []) is None
    cache.put("shop", str(code), [], SHOP, DATA)
    assert cache.get("shop", str(code), []) == SHOP


def test_a_cache_that_cannot_be_written_is_silent(tmp_path: Path, code: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    cache = kept(tmp_path / "file", code)
    assert cache.get("shop", str(code), []) is None
    cache.forget("shop", str(code))


def test_nothing_but_entries_is_left(folder: Path, code: Path) -> None:
    kept(folder, code)
    kept(folder, code)
    found = sorted(p.relative_to(folder).parts[0] for p in folder.rglob("*") if p.is_file())
    assert found == ["interfaces", "names"]
    assert (folder / "interfaces" / SHOP.digest.hex()).read_bytes() == DATA


def test_without_a_folder_it_is_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    cache = Cache("", "local")
    cache.put("shop", str(code), [], SHOP, DATA)
    assert (tmp_path / "home/relocate/names").is_dir()


def test_text_that_was_compiled_before_is_not_compiled_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("it was compiled again")

    first = Cache(str(folder), "local").compiled("x = 6 * 7", "<stubs>")
    monkeypatch.setattr("builtins.compile", refuse)
    second = Cache(str(folder), "local").compiled("x = 6 * 7", "<stubs>")
    assert second == first
    found: dict[str, int] = {}
    exec(second, found)
    assert found["x"] == 42
    with pytest.raises(AssertionError, match="again"):
        Cache(str(folder), "local").compiled("x = 6 * 8", "<stubs>")


@pytest.mark.parametrize("damaged", [b"", b"\xff", b"N", b"garbage"])
def test_code_that_cannot_be_read_is_compiled_anew(folder: Path, damaged: bytes) -> None:
    Cache(str(folder), "local").compiled("x = 1", "<stubs>")
    [file] = (folder / "code").iterdir()
    file.write_bytes(damaged)
    assert Cache(str(folder), "local").compiled("x = 1", "<stubs>").co_consts[0] == 1
    assert file.read_bytes() != damaged


def test_a_folder_that_cannot_be_written_does_not_stand_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    assert Cache(str(tmp_path / "cache"), "local").compiled("x = 1", "<stubs>").co_filename == "<stubs>"
