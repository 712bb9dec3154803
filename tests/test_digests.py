"""The digest that names the version of a module's code."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from relocate import digests


def test_the_digest_names_the_content_of_every_code_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "store"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "_inner.py").write_text("def price(n): return n\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "store", raising=False)
    importlib.invalidate_caches()
    store = importlib.import_module("store")
    monkeypatch.delitem(sys.modules, "store")
    first = digests.digest(store)
    (package / "data.txt").write_text("not code")
    assert digests.digest(store) == first
    (package / "_inner.py").write_text("def price(n): return n + 1\n")
    second = digests.digest(store)
    (package / "more.py").write_text("")
    third = digests.digest(store)
    (package / "_inner.py").write_text("def price(n): return n\n")
    (package / "more.py").unlink()
    assert len({first, second, third}) == 3
    assert digests.digest(store) == first


def test_the_digest_of_a_module_that_replaces_itself_is_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    found = set()
    for limit in (1, 2):
        source = f"import sys, types\nsys.modules[__name__] = types.ModuleType(__name__)\nLIMIT = {limit}\n"
        (tmp_path / "replaced.py").write_text(source)
        monkeypatch.delitem(sys.modules, "replaced", raising=False)
        importlib.invalidate_caches()
        found.add(digests.digest(importlib.import_module("replaced")))
    monkeypatch.delitem(sys.modules, "replaced")
    assert len(found) == 2
