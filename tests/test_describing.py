"""What `describing.describe` sees in a module."""

from __future__ import annotations

import bisect
import codecs
import importlib
import inspect
import json.encoder
import math
import sys
import types
import typing
import xml.parsers.expat
from pathlib import Path

import pytest

from relocate import describing, testing
from relocate.interface import Constant, Function, Interface, Opaque, RealClass, Reference, SimpleClass, Value


def described(source: str, **names: object) -> Interface:
    return describing.describe(testing.module("shop", source, **names))


def function(source: str, name: str = "f") -> Function:
    member = described(source).members[name]
    assert isinstance(member, Function)
    return member


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An importable package ``store`` with a private module behind it."""
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / "__init__.py").write_text("from ._inner import price\nfrom math import floor\n__all__ = ['price']\n")
    (folder / "_inner.py").write_text("def price(n): return n\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    # What is imported below must not outlive the test.
    for name in ("store", "store._inner"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        monkeypatch.delitem(sys.modules, name)
    importlib.invalidate_caches()
    return folder


def test_a_function_is_described_by_its_own_parameters() -> None:
    found = function("def f(a, /, b: int = 2, *c, d, e='x', **g) -> str: 'Doc.'")
    assert (found.home, found.qualname, found.name, found.label, found.doc) == ("shop", "f", "shop.f", "f", "Doc.")
    assert found.actual is not None
    assert [(p.name, p.kind, p.default is not None) for p in found.actual.parameters] == [
        ("a", 0, False), ("b", 1, True), ("c", 2, False), ("d", 3, False), ("e", 3, True), ("g", 4, False),
    ]  # fmt: skip
    assert (found.generates, found.awaits, found.builtin) == (False, False, False)


def test_generators_and_coroutines_are_marked() -> None:
    kinds = [function(source) for source in ("def f(): yield", "async def f(): pass", "async def f(): yield")]
    assert [(f.generates, f.awaits) for f in kinds] == [(True, False), (False, True), (True, True)]


def test_a_decorated_function_takes_one_list_and_shows_another() -> None:
    found = function(
        "import functools\n"
        "def deco(g):\n"
        "    @functools.wraps(g)\n"
        "    def wrapper(*args): return g(*args)\n"
        "    return wrapper\n"
        "@deco\n"
        "def f(a, b): pass"
    )
    assert found.actual is not None
    assert found.shown is not None
    assert [p.name for p in found.actual.parameters] == ["args"]
    assert [p.name for p in found.shown.parameters] == ["a", "b"]


def test_a_functions_own_attributes_are_values_or_names() -> None:
    found = function("import threading\ndef f(): pass\nf.unit = 'm'\nf.reset = f.__call__\nf.lock = threading.Lock()")
    assert (set(found.attributes), found.methods, found.objects) == ({"unit"}, ["reset"], ["lock"])


def test_members_are_what_they_are() -> None:
    shop = testing.module(
        "shop",
        "import math, numpy\n"
        "from numpy import ndarray\n"
        "LIMIT = (1, 'a', 2.5, None)\n"
        "MARK = object()\n"
        "class Broken(ValueError):\n    code = 7\n"
        "class Rich(ValueError):\n    def __init__(self): pass\n"
        "class Plain: pass\n",
    )
    members = describing.describe(shop).members
    assert members["math"] == Reference("math")
    assert members["ndarray"] == Reference("numpy", "ndarray")
    assert isinstance(members["LIMIT"], Constant)
    assert isinstance(members["MARK"], Opaque)
    assert members["MARK"].kind == "builtins.object"
    assert members["Plain"] == RealClass("shop", "Plain")
    assert members["Rich"] == RealClass("shop", "Rich")
    assert members["Broken"] == RealClass("shop", "Broken")  # nobody finds it under its name


def test_a_plain_exception_class_is_simple_where_it_is_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = testing.module("shop", "class Broken(ValueError):\n    'Doc.'\n    code = 7\n")
    monkeypatch.setitem(sys.modules, "shop", shop)
    found = describing.describe(shop).members["Broken"]
    assert isinstance(found, SimpleClass)
    assert (found.module, found.qualname, found.doc) == ("shop", "Broken", "Doc.")
    assert found.bases == [Reference("builtins", "ValueError")]
    assert set(found.members) == {"code"}


def test_an_exception_class_that_a_module_in_c_raises_is_that_modules() -> None:
    error = describing.describe(xml.parsers.expat).members["ExpatError"]
    assert xml.parsers.expat.ExpatError.__module__ == "xml.parsers.expat"
    assert error == Reference("pyexpat", "ExpatError")


def test_an_object_that_cannot_be_asked_for_attributes_is_there() -> None:
    source = "class Late:\n    def __getattr__(self, name): raise RuntimeError('not yet')\nlate = Late()\n"
    assert isinstance(described(source).members["late"], Opaque)


def test_a_private_module_in_python_is_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = testing.module("_shop", "def price(n): return n\n")
    monkeypatch.setitem(sys.modules, "_shop", inner)
    shop = testing.module("shop", "from _shop import price\n")
    assert describing.describe(shop).members["price"] == Reference("_shop", "price")


def test_what_can_be_called_and_subscribed_is_no_function() -> None:
    assert not isinstance(describing.describe(typing).members["Optional"], Function)


def test_c_functions_say_what_their_text_signature_says() -> None:
    members = describing.describe(math).members
    floor, hypot = members["floor"], members["hypot"]
    assert isinstance(floor, Function)
    assert isinstance(hypot, Function)
    assert floor.builtin
    assert floor.actual is not None
    assert [p.name for p in floor.actual.parameters] == ["x"]
    assert isinstance(members["pi"], Constant)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="before, such functions have no signature")
def test_a_c_function_made_without_its_module_does_not_take_what_it_calls_self() -> None:
    strict = describing.describe(codecs).members["strict_errors"]
    assert isinstance(strict, Function)
    assert strict.actual is not None
    assert strict.shown is not None
    assert [p.name for p in strict.actual.parameters] == ["object"]
    assert [p.name for p in strict.shown.parameters] == list(inspect.signature(codecs.strict_errors).parameters)


def test_a_function_that_names_its_module_by_a_second_name_is_at_home_under_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shop = testing.module("store.shop", "def price(n): return n\nprice.__module__ = 'shop'\n")
    monkeypatch.setitem(sys.modules, "store.shop", shop)
    monkeypatch.setitem(sys.modules, "shop", shop)
    price = describing.describe(shop).members["price"]
    assert isinstance(price, Function)
    assert (price.home, price.module) == ("store.shop", "shop")


def test_a_function_behind_a_private_module_is_counted_under_the_public_name(package: Path) -> None:
    found = describing.describe(importlib.import_module("store"))
    price = found.members["price"]
    assert isinstance(price, Function)
    assert (price.home, price.name) == ("store._inner", "store.price")
    assert found.members["floor"] == Reference("math", "floor")
    assert found.exported == ["price"]
    assert found.package
    assert found.path == [str(package)]


def test_a_modules_part_in_c_is_the_modules_own() -> None:
    found = describing.describe(bisect)
    insort = found.members["insort"]
    assert isinstance(insort, Function)
    assert (insort.home, insort.qualname, insort.name) == ("bisect", "insort_right", "bisect.insort_right")
    assert (insort.module, insort.label) == ("_bisect", "insort_right")  # as it says itself
    assert insort == found.members["insort_right"]
    ascii_only = describing.describe(json.encoder).members["c_encode_basestring_ascii"]
    assert isinstance(ascii_only, Function)
    assert ascii_only.home == "json.encoder"


def test_lazy_names_are_described_and_missing_ones_left_out() -> None:
    found = described(
        "__all__ = ['late', 'absent']\n"
        "def __getattr__(name):\n"
        "    if name == 'late': return 5\n"
        "    raise AttributeError(name)\n"
    )
    assert set(found.members) == {"late"}
    assert found.dynamic == ["late"]
    assert found.exported == ["late", "absent"]


def test_a_value_is_captured_in_the_simplest_faithful_form() -> None:
    import decimal

    assert describing.capture({"a": [1, (2.5, None)], "b": {b"c"}}).plain
    assert not describing.capture(decimal.Decimal(1)).plain
    assert describing.capture(decimal.Decimal(1)).pickled
    assert "decimal" in describing.capture(decimal.Decimal(1)).modules
    mark = object()
    assert describing.capture(mark) == Value(text=repr(mark))
    assert describing.capture(b"x" * (describing.PLAIN_LIMIT + 1)).plain == b""


def test_plain_means_exact_builtin_types() -> None:
    class Number(int):
        pass

    assert describing.is_plain([1, {"k": (True, ...)}])
    assert not describing.is_plain([Number(1)])
    assert not describing.is_plain({"k": Number(1)})
