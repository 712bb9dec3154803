"""Methods of designated classes: which are replaced, who gets the real ones, and what a remote one does."""

from __future__ import annotations

import copy
import functools
import inspect
import os
import pickle
import sys
import textwrap
import types
from typing import Any

import pytest
from conftest import Place

from relocate import testing
from relocate.config import Config, load
from relocate.errors import ConfigError
from relocate.methods import Methods
from relocate.target import Target

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


def test_a_public_name_is_looked_for_above_the_first_private_part() -> None:
    pack = testing.module("pack", "")
    part = testing.module("pack._part.inner", "class Late:\n    def go(self): return 1\nclass Other(Late): pass\n")
    pack.Late = part.Late  # type: ignore[attr-defined]
    far = Far("pack", more=(pack, testing.module("pack._part", ""), part))
    far.methods.executed(part)
    ((late, _), (other, _)) = next(iter(far.methods._made.values())).targets.values()
    assert (late.name, late.module, late.member) == ("pack.Late.go", "pack", "Late.go")
    assert (other.name, other.module, other.member) == ("pack._part.inner.Other.go", "pack._part.inner", "Other.go")


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


# In another process ----------------------------------------------------------------------------------

MODEL = """
    import os

    class Model:
        def __init__(self, rate=1):
            self.rate, self.seen, self.pids = rate, [], []

        def fit(self, data):
            self.total_ = sum(data)
            self.seen.append(data)
            return self.note()

        def note(self):
            self.pids.append(os.getpid())
            return self

        def predict(self, x):
            return x * self.total_ * self.rate

        def fit_predict(self, data, x):
            return self.fit(data).predict(x)

        def fail(self):
            self.seen.append("before")
            error = KeyError(self.rate, self)
            error.model = self
            raise error

        def lock(self):
            import threading
            self.guard = threading.Lock()

        def swap(self, view):
            view[0] = 9
            return self.note()

        def steps(self):
            for step in self.seen:
                self.pids.append(os.getpid())
                yield step

        @classmethod
        def load(cls, rate):
            return cls(rate).note()
"""


def program(place: Place, text: str, methods: str = "model.Model", *options: str, workers: str = "1") -> Any:
    """Its output, and what was called."""
    place.write("model.py", MODEL)
    script = place.write("main.py", "import os\nhere = os.getpid()\nfrom model import Model\n" + textwrap.dedent(text))
    done = place.relocate("run", *options, "--methods", methods, "-w", workers, "--report", "report.json", str(script))
    assert done.returncode == 0, done.stderr
    return done.stdout, place.report(), done.stderr


def test_the_object_is_the_real_one_and_has_its_new_state(place: Place) -> None:
    text = """
        model, data = Model(2), [1, 2, 3]
        print(model.fit(data) is model, model.total_, model.seen[0] is data, model.predict(10))
        print([pid == here for pid in model.pids], isinstance(model, Model), type(model).__module__)
        print(model.fit_predict([4], 1), len(model.seen), model.rate)
        try:
            model.fail()
        except KeyError as error:
            print(error.args[0], error.args[1] is model is error.model, model.seen[-1])
        print(list(model.steps())[-1], {pid == here for pid in model.pids}, len(model.pids))
        made = Model.load(3)
        print(type(made) is Model, made.rate, made.pids[0] == here)
    """
    out, report, err = program(place, text)
    assert (out, err) == (
        "True 6 True 120\n[False] True model\n8 2 2\n2 True before\nbefore {False} 5\nTrue 3 False\n",
        "",
    )
    names = ["fail", "fit", "fit_predict", "load", "predict", "steps"]
    assert report["members"] == {f"model.Model.{name}": {"remote": 1, "local": 0} for name in names}


def test_a_special_method_that_is_named_by_itself_is_relocated(place: Place) -> None:
    out, report, err = program(place, "print(vars(Model(2)))", methods="model.Model.__init__")
    assert (out, err) == ("{'rate': 2, 'seen': [], 'pids': []}\n", "")
    assert report["members"] == {"model.Model.__init__": {"remote": 1, "local": 0}}


def test_an_instance_of_a_local_class_travels(place: Place) -> None:
    place.write("mine.py", "from model import Model\nclass Far(Model):\n    def extra(self):\n        return 'far'\n")
    text = """
        from mine import Far

        class Mine(Model):
            def fit(self, data):
                self.mine = 1
                return super().fit([*data, 10])

            def predict(self, x):
                return -super().predict(x)

        mine = Mine()
        print(mine.fit([1]) is mine, mine.total_, mine.mine, mine.predict(2), type(mine) is Mine)
        print(mine.fit_predict([1], 1), [pid == here for pid in mine.pids])
        print(type(Mine.load(1)) is Mine, Far().fit([5]).total_, Far().extra())
    """
    out, report, _ = program(place, text)
    # `fit_predict` calls the local class's own methods, where it runs.
    assert out == "True 11 1 -22 True\n-11 [False, False]\nTrue 5 far\n"
    assert (report["remote"], report["local"]) == (5, 0)


def test_what_a_worker_lacks_of_the_program_travels_by_value(place: Place) -> None:
    place.write("there/model.py", MODEL + "\n    def apply(function, value):\n        return function(value)\n")
    place.write("helper.py", "import math\ndef twice(x):\n    return [math.floor(v) * 2 for v in x]\n")
    text = """
        import helper, model

        class Odd(KeyError):
            pass

        class Far(model.Model):
            def fit(self, data):
                return super().fit(helper.twice(data))

            def again(self, data):
                return model.Model.fit(self, data)

        class Told(Far):
            def note(self):
                if self.total_ > 10:
                    raise Odd(self.total_)
                return super().note()

        def doubled(values):
            return sum(helper.twice(values))
    """
    place.write("mine.py", textwrap.dedent(text).lstrip())
    main = """
        import os
        import mine, model
        far = mine.Far()
        print(far.fit([1]) is far, far.total_, far.pids[0] == os.getpid(), type(mine.Far.load(1)) is mine.Far)
        print(model.apply(mine.doubled, [2, 3]), model.apply(mine.Far, 2).rate)
        try:
            mine.Told().fit([9])
        except mine.Odd as error:
            print(type(error) is mine.Odd, error)
    """
    worker = place.worker("--executors", "1", PYTHONPATH=str(place.folder / "there"))
    script = place.write("main.py", main)
    options = ("-M", "model", "--methods", "model.Model", "-w", worker.url, "--report", "report.json")
    done = place.relocate(
        "run", *options, str(script), PYTHONPATH=f"{place.folder}{os.pathsep}{place.folder / 'there'}"
    )
    assert done.stdout == "True 2 False True\n10 2\nTrue 18\n", done.stderr
    assert (place.report()["remote"], place.report()["local"]) == (5, 0)


def test_what_cannot_travel_or_be_restored_runs_here(place: Place) -> None:
    text = """
        model = Model()
        model.lock()
        print(hasattr(model, "guard"), model.note().pids[0] == here)
        import numpy
        model = Model()
        model.whole = numpy.arange(3.0)
        print(model.swap(model.whole[:1]).whole, [pid == here for pid in model.pids])
    """
    out, report, _ = program(place, text)
    assert out == "True True\n[9. 1. 2.] [True]\n"
    assert (report["remote"], report["local"]) == (0, 3)


@pytest.mark.parametrize("early", [True, False])
def test_relocation_begins_and_ends_whenever_the_program_likes(place: Place, early: bool) -> None:
    place.write("model.py", MODEL)
    text = """
        import os, relocate, sys
        here = os.getpid()
        if {early}: import model
        with relocate.enable(modules=["model"], methods=["model.Model"], workers=1) as handle:
            import model
            one = model.Model()
            print(one.note().pids[0] == here, handle.statistics().remote)
            note = one.note
            with relocate.enable(methods=["model.Model.note"], workers=1) as second:
                print(note().pids[-1] == here, second.statistics().remote, handle.statistics().remote)
        print(note().pids[-1] == here, "note" in vars(model.Model), model.Model.note.__code__.co_varnames)
    """
    done = place.python(str(place.write("main.py", textwrap.dedent(text).format(early=early))))
    assert done.stdout == "False 1\nFalse 1 1\nTrue True ('self',)\n", done.stderr


def test_a_module_that_is_reloaded_runs_as_it_is_now(place: Place) -> None:
    path = place.write(
        "model.py", "class Model:\n    def say(self):\n        import os\n        return 'one', os.getpid()\n"
    )
    text = f"""
        import importlib, os, relocate, sys
        sys.dont_write_bytecode = True
        with relocate.enable(methods=["model.Model"], workers=1) as handle:
            import model
            first, pid = model.Model().say()
            source = open({str(path)!r}).read()
            open({str(path)!r}, "w").write(source.replace("one", "other"))
            importlib.reload(model)
            second, other = model.Model().say()
            print(first, second, os.getpid() in (pid, other), handle.statistics().remote)
    """
    done = place.python(str(place.write("main.py", textwrap.dedent(text))))
    assert (done.stdout, done.stderr) == ("one other False 2\n", "")


def test_a_method_can_be_bound_by_itself(place: Place) -> None:
    place.write("model.py", MODEL)
    text = """
        import os, relocate
        here = os.getpid()
        with relocate.enable(methods=["model"], workers=1) as handle:
            from model import Model
            name = "/chan/model/Model/note"
            handle.namespace.bind(f"/n/local{name}", name)
            model = Model().fit([1]).note()
            print([pid == here for pid in model.pids])
    """
    done = place.python(str(place.write("main.py", textwrap.dedent(text))))
    assert done.stdout == "[False, True]\n", done.stderr


def test_a_worker_with_another_version_does_not_get_the_object(place: Place) -> None:
    place.write("model.py", MODEL)
    place.write("other/model.py", textwrap.dedent(MODEL) + "\nVERSION = 2\n")
    worker = place.worker("--executors", "1", PYTHONPATH=str(place.folder / "other"))
    text = """
        model = Model().note().note()
        print([pid == here for pid in model.pids])
    """
    out, report, err = program(place, text, workers=worker.url)
    assert (out, report["local"]) == ("[True, True]\n", 2)
    assert err.count("model.Model.note runs here, not on a worker: this worker has another version of 'model'") == 1


def test_pytest_relocates_methods(place: Place) -> None:
    place.write("model.py", MODEL)
    place.write(
        "test_model.py",
        """
        import os
        import pytest
        from model import Model

        def test_all():
            assert Model().note().pids[0] != os.getpid()

        @pytest.mark.relocate(methods=["model.Model.predict"], workers=1)
        def test_mark():
            assert Model().note().pids[0] != os.getpid()
        """,
    )
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "test_model.py")
    done = place.python(*command, "--relocate-methods", "model", "--relocate-workers", "1", "-k", "all")
    assert "relocate: 1 call: 1 on workers" in done.stdout, done.stdout
    place.write("pytest.ini", "[pytest]\nrelocate_methods = model.Model\nrelocate_workers = 1\n")
    assert "relocate: 1 call: 1 on workers" in place.python(*command, "-k", "all").stdout
    (place.folder / "pytest.ini").unlink()
    done = place.python(*command, "-k", "mark")
    assert "1 failed" in done.stdout  # another method is designated
    done = place.python(*command, "--relocate-dist", "--relocate-methods", "model")
    assert "does not go with --relocate-methods" in done.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("-M", "model.Model"), ""),
        (("--methods", "model.Model.note"), ""),
        (("--methods", "model.Models"), "no module or class 'model.Models' here; did you mean model.Model?"),
        (("--methods", "model.Model.nota"), "class 'model.Model' has no method 'nota'; did you mean note?"),
        (("--methods", "model.Model.rate"), "class 'model.Model' has no method 'rate'"),
        (("--methods", "model.Model.__init__"), ""),
        (("--methods", "itertools.count"), "class 'itertools.count' has no method that can be relocated"),
        (("-M", "model.C.size"), "model.C.size is no method that can be relocated"),
        (("--methods", "wave.Wave_reads"), ""),  # nobody has imported it
    ],
)
def test_a_misspelt_name_is_told(place: Place, options: tuple[str, ...], says: str) -> None:
    place.write("model.py", MODEL + "\n    class C:\n        size = 1\n")
    done = place.relocate("run", *options, "-w", "1", "-c", "import model; model.Model().note()")
    assert (says in done.stderr) if says else (done.stderr == "")


def test_scikit_learns_estimators_stay_what_they_are(place: Place) -> None:
    text = """
        import inspect, os, pickle
        import numpy
        from sklearn.base import clone
        from sklearn.cluster import KMeans, MeanShift
        from sklearn.pipeline import make_pipeline

        data = numpy.random.default_rng(0).normal(size=(60, 2))
        model = KMeans(3, n_init=1, random_state=0)
        print(model.fit(data) is model, model.labels_.shape, (model.predict(data) == model.labels_).all())
        print(clone(model), list(inspect.signature(KMeans.fit).parameters), hasattr(model, "predict"))
        print(pickle.loads(pickle.dumps(model)).inertia_ == model.inertia_)
        print(len(set(make_pipeline(KMeans(2, n_init=1)).fit_predict(data))))
        print(MeanShift().fit_predict(data).shape)
    """
    script = place.write("main.py", text)
    plain = place.python(str(script))
    for option in ("-M", "--methods"):
        done = place.relocate("run", option, "sklearn.cluster.KMeans", "-w", "1", "--report", "r.json", str(script))
        assert (done.stdout, done.stderr) == (plain.stdout, plain.stderr)
        members = {f"sklearn.cluster.KMeans.{name}" for name in ("fit", "fit_predict", "predict")}
        assert place.report("r.json")["members"] == {name: {"remote": 1, "local": 0} for name in members}
