"""Classes that are not installed here: made of a worker's source, or opaque values whose methods run there."""

from __future__ import annotations

import copyreg
import io
import pickle
import sys
import types
from typing import Any

import cloudpickle
import pytest
from conftest import Place

from relocate import opaque
from relocate.values import dumps, loads

REAL = """
class Plain:
    def __init__(self, n):
        self.n = n
class Slots:
    __slots__ = ("a", "b")
    def __init__(self):
        self.a, self.b = 1, [2]
class Both(Slots):
    def __init__(self):
        super().__init__()
        self.c = 3
class Made:
    def __init__(self, n=0, m=0):
        self.n, self.m = n, m
    def __reduce__(self):
        return Made, (self.n, self.m)
class Stated:
    def __init__(self):
        self.n = (1, 2, 3)
    def __getstate__(self):
        return self.n
    def __setstate__(self, state):
        self.n = state
class New:
    def __new__(cls, *, n):
        made = super().__new__(cls)
        made.n = n
        return made
    def __getnewargs_ex__(self):
        return (), {"n": self.n}
class Items(list):
    pass
class Pairs(dict):
    pass
def build(n):
    return Built(n)
class Built(Plain):
    def __reduce__(self):
        return build, (self.n,)
"""


class There:
    """A worker, in this process: while it is entered, the module is there."""

    def __init__(self) -> None:
        self.module: Any = types.ModuleType("there")
        exec(REAL, vars(self.module))
        self.reading = False

    def __enter__(self) -> Any:
        sys.modules["there"] = self.module
        return self.module

    def __exit__(self, *_: object) -> None:
        del sys.modules["there"]

    def ask(self, function: str, module: str, name: str, args: tuple[Any, ...]) -> Any:
        """As a call does it: by pickle, there and back."""
        data = dumps(args)
        with self:
            value = getattr(opaque, function)(*loads(data))
            answer = dumps(iter(list(value)) if isinstance(value, types.GeneratorType) else value)
        return self.read(answer)

    def reads(self) -> bool:
        return self.reading

    def read(self, segments: Any) -> Any:
        before, self.reading = self.reading, True
        try:
            return loads(segments)
        finally:
            self.reading = before

    def bring(self, text: str) -> Any:
        """A value from there."""
        with self:
            data = dumps(eval(text, vars(self.module)))
        return self.read(data)

    def take(self, value: Any) -> Any:
        """A value there."""
        data = dumps(value)
        with self:
            return loads(data)


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> There:
    """A module that is not here."""
    made = There()
    monkeypatch.setattr(opaque, "_made", {})
    monkeypatch.setattr(opaque, "askers", [made])
    return made


def shown(value: Any) -> Any:
    state = value.__reduce_ex__(4)
    return (
        type(value),
        state[1:3],
        list(value) if isinstance(value, list) else None,
        dict(getattr(value, "__dict__", {})),
    )


@pytest.mark.parametrize(
    "text",
    [
        "Plain(5)",
        "Slots()",
        "Both()",
        "Made(1, 2)",
        "Stated()",
        "New(n=4)",
        "Items([1, [2]])",
        "Pairs(a=1)",
        "Built(3)",
    ],
)
def test_a_value_goes_back_as_what_it_was(there: There, text: str) -> None:
    value = there.bring(text)
    name = text.partition("(")[0]
    assert isinstance(type(value), opaque.StandIn)
    assert name == "Built" or repr(value) == f"<there.{name} object, whose class is not installed here>"
    with there as module:
        real = eval(text, vars(module))
    for _ in range(2):
        back = there.take(value)
        assert shown(back) == shown(real)
        value = there.read(dumps(pickle.loads(pickle.dumps(value))))


def test_its_data_are_here_and_what_is_set_travels(there: There) -> None:
    value, both = there.bring("Plain([1])"), there.bring("Both()")
    assert (value.n, both.a, both.b, both.c) == ([1], 1, [2], 3)
    value.n, value.new, both.a = 7, 8, 9
    assert vars(there.take(value)) == {"n": 7, "new": 8}
    assert there.take(both).a == 9


def test_a_class_is_one_and_says_what_it_is(there: There) -> None:
    kind = there.bring("Plain")
    assert kind is there.bring("[Plain]")[0] is opaque.stand_in("there", "Plain") is type(there.bring("Plain(1)"))
    assert repr(kind) == "<class 'there.Plain', which is not installed here>"
    assert isinstance(kind(4), kind)
    assert kind(4).n == 4
    assert not isinstance(there.bring("Slots()"), kind)
    assert there.take(kind).__module__ == "builtins" or there.take(kind) is there.module.Plain
    assert pickle.loads(cloudpickle.dumps(lambda: kind))() is kind
    with pytest.raises(TypeError, match=r"^<class 'there.Plain'.*> cannot be a base: install its module here$"):
        type("Mine", (kind,), {})


def test_special_methods_are_those_that_the_class_has(there: There) -> None:
    items, plain = there.bring("Items([1, 2])"), there.bring("Plain(1)")
    assert (len(items), items[0], 2 in items, list(items), items == [1, 2]) == (2, 1, True, [1, 2], True)
    with pytest.raises(TypeError, match="unhashable"):
        hash(items)
    assert {plain: 1}[plain] == 1
    assert bool(plain)
    for wrong in (len, list):
        with pytest.raises(TypeError):
            wrong(plain)
    assert not hasattr(plain, "nothing")


def test_without_a_worker_what_is_not_here_is_an_error() -> None:
    made = There()
    with made:
        data = pickle.dumps(made.module.Plain(1))
    with pytest.raises(ModuleNotFoundError):
        loads([data])
    with pytest.raises(ModuleNotFoundError):
        opaque.Unpickler(io.BytesIO(data)).load()


def test_the_way_to_pickle_stand_ins_is_known() -> None:
    assert copyreg.dispatch_table[opaque.StandIn] is opaque.by_name


# Real workers ----------------------------------------------------------------------------------------

CART = """
    import os
    import onlythere

    class Cart:
        LIMIT = 3
        def __init__(self, items=()):
            self.items, self.pid = list(items), None
        def add(self, item, *, count=1):
            self.items += [item] * count
            self.pid = os.getpid()
            return self
        @property
        def size(self):
            return len(self.items)
        @classmethod
        def of(cls, *items):
            return cls(items)
        def __len__(self):
            return len(self.items)
        def __add__(self, other):
            return Cart(self.items + other.items)
        def __eq__(self, other):
            return isinstance(other, Cart) and self.items == other.items
        def each(self):
            yield from self.items
        def __enter__(self):
            return self
        def __exit__(self, *error):
            self.left = error[0].__name__
            return True
        def fail(self):
            raise KeyError("from there")

    def make(*items):
        return Cart(items)
    def count(cart):
        return len(cart.items), type(cart).__name__
    def grown(cart):
        cart.items.append("g")
        return cart
    class Items(list):
        def total(self):
            return sum(self)
    class Pairs(dict):
        pass
    def held():
        return Items([1, 2]), Pairs(a=1)
    def thing():
        return [onlythere.Thing(5)]
"""

PURE = {
    "pure/__init__.py": "from .model import Model, Odd, make\n",
    "pure/model.py": """
        from .sub.base import Base
        class Model(Base):
            def fit(self, x):
                self.x = x
                return self
        class Odd(Exception):
            def __init__(self, what):
                super().__init__(what)
                self.code = self.coded()
            def coded(self):
                return 7
        def make(x):
            if x < 0:
                raise Odd("negative")
            return Model().fit(x)
    """,
    "pure/sub/__init__.py": "",
    "pure/sub/base.py": "class Base:\n    def name(self):\n        return type(self).__name__\n",
}


def test_a_class_that_is_not_here_is_made_of_the_workers_source(place: Place) -> None:
    for name, text in PURE.items():
        place.write(f"there/{name}", text)
    worker = place.worker("--executors", "1", PYTHONPATH=str(place.folder / "there"))
    program = """
        import inspect, pickle, pure
        model = pure.make(3)
        print(type(model) is pure.Model, model.fit(4).x, model.name(), isinstance(model, pure.sub.base.Base))
        class Mine(pure.Model):
            pass
        print(Mine().name(), inspect.getsource(pure.Model).split()[1], pickle.loads(pickle.dumps(model)).x)
        try:
            pure.make(-1)
        except pure.Odd as error:
            print(error.code, error)
    """
    done = place.relocate("run", "-M", "pure", "-w", worker.url, str(place.write("main.py", program)))
    assert done.stdout == "True 4 Model True\nMine Model(Base): 4\n7 negative\n", done.stderr


def test_what_cannot_be_real_here_is_opaque_and_its_methods_run_there(place: Place) -> None:
    place.write("there/cart.py", CART)
    place.write(
        "there/onlythere.py",
        "class Thing:\n    def __init__(self, n): self.n = n\n    def twice(self): return self.n * 2\n",
    )
    worker = place.worker("--executors", "2", PYTHONPATH=str(place.folder / "there"))
    program = """
        import cart, copy, os, pickle
        c = cart.make(1, 2)
        print(c, type(c) is cart.Cart, c.items, cart.count(c))
        print(c.add(3, count=2) is c, c.items, c.size, c.pid == os.getpid(), len(c), list(c.each()))
        print((c + c).items, c == cart.make(1, 2, 3, 3), cart.Cart.of(9).items, cart.Cart([7]).items, cart.Cart.LIMIT)
        print(cart.grown(c) is c, c.items, pickle.loads(pickle.dumps(c)) == c, copy.deepcopy(c).items)
        with c as same:
            raise ValueError
        print(same is c, c.left)
        try:
            c.fail()
        except KeyError as error:
            print(error)
        items, pairs = cart.held()
        items.append(5)
        items[0] = 7
        pairs["b"] = 2
        print(list(items), items.total(), sorted(pairs), pairs.get("b"))
        thing, = cart.thing()
        print(thing, thing.n, thing.twice())
        try:
            thing.nothing
        except AttributeError as error:
            print(error)
    """
    done = place.relocate("run", "-M", "cart", "-w", worker.url, str(place.write("main.py", program)))
    assert done.stdout.splitlines() == [
        "<cart.Cart object, whose class is not installed here> True [1, 2] (2, 'Cart')",
        "True [1, 2, 3, 3] 4 False 4 [1, 2, 3, 3]",
        "[1, 2, 3, 3, 1, 2, 3, 3] True [9] [7] 3",
        "True [1, 2, 3, 3, 'g'] True [1, 2, 3, 3, 'g']",
        "True ValueError",
        "'from there'",
        "[7, 2, 5] 14 ['a', 'b'] 2",
        "<onlythere.Thing object, whose class is not installed here> 5 10",
        "'Thing' object has no attribute 'nothing'",
    ], done.stderr
