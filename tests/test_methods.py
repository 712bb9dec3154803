"""Methods of designated classes: which are replaced, who gets the real ones, and what a remote one does."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
import sys
import types
from typing import Any

import pytest

from relocate import testing
from relocate.config import Config, load
from relocate.errors import ConfigError
from relocate.methods import Methods
from relocate.proxy import Target

SHOP = '''
import abc, enum, functools, os

class When:
    """A method that is there under a condition."""
    def __init__(self, fn):
        self.fn = fn
        functools.update_wrapper(self, fn)
    def __get__(self, owner, kind=None):
        if owner is not None:
            if not owner.items:
                raise AttributeError("nothing is there")
            return functools.partial(self.fn, owner)
        return lambda *args, **kwargs: self.fn(*args, **kwargs)

class Base(abc.ABC):
    """What is below other classes."""
    def shared(self):
        return "shared"
    def changed(self):
        return "base"
    @abc.abstractmethod
    def must(self):
        """Nothing."""

class Cart(Base):
    """A cart."""
    LIMIT = 3
    def __init__(self, items=()):
        self.items = list(items)
    def __len__(self):
        return len(self.items)
    def __call__(self, x):
        return x
    @property
    def size(self):
        return len(self.items)
    @functools.cached_property
    def kept(self):
        return len(self.items)
    def add(self, item, /, *notes, count=LIMIT, mark=LIMIT) -> "Cart":
        """Put something in."""
        self.items += [item] * count
        return self
    def twice(self, item):
        return self.add(item, count=1).add(item, count=1)
    def changed(self):
        return "cart, " + super().changed()
    def must(self):
        return "done"
    def each(self):
        yield from self.items
    async def wait(self):
        return 1
    @classmethod
    def of(cls, *items):
        return cls(items)
    @staticmethod
    def price(n):
        return n * 2
    @When
    def first(self):
        return self.items[0]
    def _private(self):
        return 1

class _Hidden:
    def open(self):
        return 1

class Broken(ValueError):
    def say(self):
        return 1

class Kind(type):
    def make(cls):
        return 1

class Free:
    def go(self):
        return 1
'''

ADDED = ["Base.changed", "Base.shared"]


class Far:
    """Notes the remote calls of a module's methods, and runs them."""

    def __init__(self, *named: str, modules: tuple[str, ...] = (), more: tuple[types.ModuleType, ...] = ()) -> None:
        self.sent: list[str] = []
        self.shop: Any = sys.modules.setdefault("shop", types.ModuleType("shop"))
        exec(compile(SHOP, "shop.py", "exec", dont_inherit=True), vars(self.shop))
        self.real = {m.__name__: m for m in (self.shop, *more)}
        self.methods = Methods(named, modules, self.call, self.real.get)
        self.methods.executed(self.shop)

    def call(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """As a worker does it: the function by its name."""
        self.sent.append(target.member)
        assert len(target.described.digest) == 32
        assert target.own is not None
        return target.own(*args, **kwargs)

    @property
    def replaced(self) -> list[str]:
        return sorted(f"{holder.__name__}.{name}" for holder, name in self.methods._made)


@pytest.fixture(autouse=True)
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test puts among the modules is gone afterwards."""
    monkeypatch.setitem(sys.modules, "shop", types.ModuleType("shop"))


# Which ---------------------------------------------------------------------------------------------

CART = [
    "Base.shared", "Cart.__call__", "Cart.add", "Cart.changed", "Cart.each", "Cart.first", "Cart.must", "Cart.of",
    "Cart.price", "Cart.twice",
]  # fmt: skip


@pytest.mark.parametrize(
    ("named", "modules", "replaced"),
    [
        (["shop.Cart"], [], CART),
        ([], ["shop.Cart"], CART),
        (["shop"], [], sorted([*CART, "Base.changed", "Free.go"])),
        (["shop.Cart", "!shop.Cart.add", "!shop.Cart.of"], [], [c for c in CART if c[5:] not in ("add", "of")]),
        (["shop", "!shop.Cart", "!shop.Base"], [], ["Free.go"]),
        (["shop", "!shop.Cart", "!shop.Base", "shop.Cart.add"], [], ["Cart.add", "Free.go"]),
        (["shop.Cart.twice"], [], ["Cart.twice"]),
        (["shop._Hidden"], [], ["_Hidden.open"]),
        (["shop.Broken", "shop.Kind"], [], []),
        ([], ["shop"], []),
        (["sho", "shop.Nothing", "shop.Cart.nothing", "shop.Cart.add.more"], [], []),
    ],
)
def test_a_name_leads_to_a_class_a_method_or_a_modules_classes(
    named: list[str], modules: list[str], replaced: list[str]
) -> None:
    assert Far(*named, modules=tuple(modules)).replaced == replaced


def test_names_that_lead_somewhere_are_known() -> None:
    far = Far("shop.Cart", "shop.Cart.add", "shop.Nothing", "shop.Cart.nothing")
    assert far.methods.found == {"shop.Cart", "shop.Cart.add"}


def test_only_public_methods_defined_in_the_package_are_replaced() -> None:
    class Own(Far().shop.Cart):  # type: ignore[misc]
        pass

    far = Far("shop.Cart")
    cart = vars(far.shop.Cart)
    assert isinstance(cart["size"], property)
    assert isinstance(cart["kept"], functools.cached_property)
    assert (
        cart["_private"].__code__.co_filename
        == cart["__len__"].__code__.co_filename
        == cart["wait"].__code__.co_filename
    )
    outside = testing.module("outside", "class Mixin:\n    def help(self): return 1\n")
    shop = testing.module("inside", "class Item(Mixin):\n    def own(self): return 2\n", Mixin=outside.Mixin)
    for named, expected in [("inside.Item", ["own"]), ("inside.Item.help", ["help"])]:
        methods = Methods([named], [], far.call, {"inside": shop}.get)
        methods.executed(shop)
        assert [name for _, name in methods._made] == expected
        methods.undo()


def test_a_class_that_its_package_loads_late_is_found() -> None:
    pack = testing.module("pack", "def __dir__(): return ['Late']\n")
    part = testing.module(
        "pack._part", "class Late:\n    def go(self): return 1\nclass Other:\n    def go(self): pass\n"
    )
    far = Far("pack.Late", more=(pack, part))
    assert [m for m in ("pack", "pack._part", "pack.x.y", "pac", "packs") if far.methods.concerns(m)] == [
        "pack", "pack._part", "pack.x.y",
    ]  # fmt: skip
    far.methods.executed(pack)
    far.methods.executed(part)
    assert far.replaced == ["Late.go"]
    part.Late().go()
    assert far.sent == ["Late.go"]


def test_a_class_has_the_public_name_that_its_package_gives_it() -> None:
    pack = testing.module("pack", "")
    part = testing.module("pack._part", "class Late:\n    def go(self): return 1\n")
    far = Far("pack", more=(pack, part))
    with far.methods.executing(pack):
        with far.methods.executing(part):
            pass
        assert far.replaced == []  # its package is not ready
        pack.Late = part.Late  # type: ignore[attr-defined]
    ((target, package),) = [found for method in far.methods._made.values() for found in method.targets.values()]
    assert (target.name, target.module, target.member, package) == ("pack.Late.go", "pack", "Late.go", "pack")
    assert target.path == ("chan", "pack", "Late", "go")


def test_a_package_that_fails_leaves_nothing() -> None:
    pack = testing.module("pack", "")
    part = testing.module("pack._part", "class Late:\n    def go(self): return 1\n")
    far = Far("pack", more=(pack, part))

    def execute() -> None:
        with far.methods.executing(pack):
            with far.methods.executing(part):
                pass
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        execute()
    far.methods.executed(pack)
    assert far.replaced == []


# Who gets what ---------------------------------------------------------------------------------------

CALLS: list[tuple[str, Any, list[str]]] = [
    ("Cart().add(1, count=2).items", [1, 1], ["Cart.add"]),
    ("Cart().twice(1).items", [1, 1], ["Cart.twice"]),
    ("Cart.of(1, 2).items", [1, 2], ["Cart.of.__func__"]),
    ("Cart([1]).of(2).items", [2], ["Cart.of.__func__"]),
    ("Cart.price(2), Cart().price(3)", (4, 6), ["Cart.price"] * 2),
    ("list(Cart([1, 2]).each())", [1, 2], ["Cart.each"]),
    ("Cart([7]).first()", 7, ["Cart.first"]),
    ("Cart.first(Cart([7]))", 7, []),  # the descriptor's own function calls it
    ("hasattr(Cart(), 'first'), hasattr(Cart([1]), 'first')", (False, True), []),
    ("Cart()(5)", 5, ["Cart.__call__"]),
    ("Cart().shared()", "shared", ["Cart.shared"]),
    ("Cart().changed()", "cart, base", ["Cart.changed"]),
    ("len(Cart([1])), Cart([1]).size, Cart()._private()", (1, 1, 1), []),
    ("Free().go()", 1, []),
    ("Cart.twice(Mine(), 2).items", [2, 2], ["Cart.twice"]),
    ("Mine().add(1).items", [1, 0], ["Cart.add"]),
    ("Mine.of(1).items", [1], ["Cart.of.__func__"]),
    ("type(Mine.of(1)) is Mine", True, ["Cart.of.__func__"]),
    ("Other().shared()", "shared", []),
]


@pytest.mark.parametrize(("text", "value", "sent"), CALLS, ids=[c[0] for c in CALLS])
def test_the_programs_calls_are_remote_and_the_packages_own_are_not(text: str, value: Any, sent: list[str]) -> None:
    far = Far("shop.Cart")

    class Mine(far.shop.Cart):  # type: ignore[misc]
        def add(self, item: int, **more: Any) -> Any:
            if not more:
                super().add(item, count=1)
                self.items.append(0)
                return self
            self.items.append(item)
            return self

    class Other(far.shop.Base):  # type: ignore[misc]
        def must(self) -> None:
            pass

    assert eval(text, {**vars(far.shop), "Mine": Mine, "Other": Other}) == value
    assert far.sent == sent


def test_what_calls_a_method_with_other_objects_gets_the_real_one() -> None:
    far = Far("shop.Cart")
    with pytest.raises(TypeError, match=r"^Cart.shared\(\) missing 1 required|^Base.shared\(\) missing 1 required"):
        far.shop.Cart.shared()
    with pytest.raises(AttributeError):
        far.shop.Cart.twice(3, 4)
    assert far.sent == []


def test_what_doctest_runs_in_the_modules_name_is_the_program() -> None:
    far = Far("shop.Cart")
    exec(compile("Cart().add(1)", "<doctest shop[0]>", "exec"), vars(far.shop))
    assert far.sent == ["Cart.add"]


def test_a_stub_shows_what_the_method_shows() -> None:
    plain: Any = testing.module("shop", SHOP)
    far = Far("shop.Cart")
    for name in ("add", "of", "price", "__call__", "each"):
        real, stub = getattr(plain.Cart, name), getattr(far.shop.Cart, name)
        assert inspect.signature(stub) == inspect.signature(real)
        for what in ("__name__", "__qualname__", "__module__", "__doc__", "__annotations__"):
            assert getattr(stub, what) == getattr(real, what)
        assert inspect.isgeneratorfunction(stub) == inspect.isgeneratorfunction(real)
        assert type(vars(far.shop.Cart)[name]) is type(vars(plain.Cart)[name])
        assert stub.__code__.co_firstlineno == real.__code__.co_firstlineno
    assert inspect.getfullargspec(far.shop.Cart.add) == inspect.getfullargspec(plain.Cart.add)
    assert far.shop.Cart.add is far.shop.Cart.add
    assert pickle.loads(pickle.dumps(far.shop.Cart.add)) is far.shop.Cart.add
    cart = far.shop.Cart([1])
    assert pickle.loads(pickle.dumps(cart.twice))(2).items == [1, 2, 2]
    assert copy.copy(cart.twice) == cart.twice


def test_a_class_method_tells_a_wrong_call_by_itself() -> None:
    far = Far("shop.Cart")
    with pytest.raises(TypeError, match=r"Cart.price\(\) missing 1 required positional argument: 'n'"):
        far.shop.Cart.price()


def test_all_is_as_it_was_when_it_is_undone() -> None:
    far = Far("shop")
    plain = {
        name: dict(vars(kind)) for name, kind in vars(testing.module("shop", SHOP)).items() if isinstance(kind, type)
    }
    kept, cart = far.shop.Cart.twice, far.shop.Cart()
    far.shop.Free.go = replaced = lambda self: 5
    far.methods.undo()
    far.methods.undo()
    for name in ("Base", "Cart", "Free"):
        assert vars(getattr(far.shop, name)).keys() == plain[name].keys()
    assert far.shop.Free.go is replaced
    assert far.shop.Cart.twice is not kept
    assert kept(cart, 1).items == [1, 1]
    assert far.sent == []
    later: list[str] = []
    again = Methods(["shop.Cart"], [], lambda target, args, kwargs: later.append(target.member), far.real.get)
    again.executed(far.shop)
    kept(cart, 1)
    assert later == ["Cart.twice"]  # a later handle's


def test_the_same_class_is_not_replaced_twice() -> None:
    far = Far("shop", "shop.Cart", modules=("shop.Cart",))
    stub = far.shop.Cart.add
    far.methods.executed(far.shop)
    assert far.shop.Cart.add is stub
    far.shop.Cart().add(1)
    assert far.sent == ["Cart.add"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            {"methods": ["a-b"]},
            "methods: 'a-b' is not a class's dotted name; write for example 'sklearn.cluster.KMeans'",
        ),
        ({"methods": ["sys.x"]}, "methods: 'sys.x' cannot be relocated"),
        ({"methods": ["a.B", "!a.B"]}, "methods: 'a.B' is both designated and taken out"),
    ],
)
def test_a_mistaken_name_is_told(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=f"^the arguments: {says}"):
        load(None, **given)


def test_two_relocations_of_the_same_class_overlap() -> None:
    one = Config(methods=("a.B",))
    assert one.overlaps(Config(methods=("a.B.c",)))
    assert one.overlaps(Config(modules=("a.B",)))
    assert Config(methods=("a.B.c",)).overlaps(one)
    assert not one.overlaps(Config(methods=("a.C",), modules=("b",)))
