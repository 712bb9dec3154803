"""Proxies: generated functions behave like the real ones, everything else is where it should be."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import math
import pickle
import sys
import traceback
import types
import typing
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from conftest import Place
from hypothesis import example, given
from hypothesis import strategies as st

from relocate import describing, digests, interface, testing
from relocate.lookalikes import BuiltinProxy, Placeholder
from relocate.proxy import ProxyModule, Registry, namespace_of, populate
from relocate.target import Target

Sent = tuple[str, tuple[Any, ...], dict[str, Any]]


class Far:
    """The far side: runs what stubs send, on the real module, and notes it."""

    def __init__(self, *modules: types.ModuleType) -> None:
        self.modules = {m.__name__: m for m in modules}
        self.sent: list[Sent] = []
        self.digests: list[bytes] = []
        self.installed = True
        self.registry = Registry(self.call, self.real, lambda name: None, self.modules.__contains__)

    def call(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.sent.append((target.member, args, dict(kwargs)))
        self.digests.append(target.described.digest)
        function: Any = self.modules[target.module]
        for part in target.member.split("."):
            function = getattr(function, part)
        return function(*args, **kwargs)

    def real(self, name: str, member: str = "") -> types.ModuleType:
        if not self.installed:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return self.modules[name]

    def proxy(self, name: str) -> Any:
        made = ProxyModule(name)
        populate(made, describing.describe(self.modules[name]), self.registry)
        return made


def both(source: str, **names: object) -> tuple[Any, Any, Far]:
    """The real module, its proxy, and what lies between."""
    real = testing.module("shop", source, **names)
    far = Far(real)
    return real, far.proxy("shop"), far


# Parameter lists ---------------------------------------------------------------------------------

DEFAULTS = ["0", "1", "None", "'x'", "MARK", "[]", "(1, 2)"]
VALUES: list[Any] = [0, 1, None, "x", [], (1, 2), 7, {"k": 1}]


@st.composite
def parameter_lists(draw: st.DrawFn) -> str:
    """All kinds of parameters, in all orders that Python allows."""
    only, either, keyword = (draw(st.integers(0, 3)) for _ in range(3))
    first_default = draw(st.integers(0, only + either))
    head = [f"p{i}" for i in range(only)] + [f"e{i}" for i in range(either)]
    head = [n if i < first_default else f"{n}={draw(st.sampled_from(DEFAULTS))}" for i, n in enumerate(head)]
    if only:
        head.insert(only, "/")
    star = draw(st.sampled_from(["", "*args"]))
    if star or keyword:
        head.append(star or "*")
    for i in range(keyword):
        default = draw(st.none() | st.sampled_from(DEFAULTS))
        head.append(f"k{i}" if default is None else f"k{i}={default}")
    if draw(st.booleans()):
        head.append("**more")
    return ", ".join(head)


names = st.sampled_from(["p0", "p1", "e0", "e1", "e2", "k0", "k1", "k2", "other", "self", "args", "more"])


def outcome(function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> tuple[str, Any]:
    try:
        return "returned", function(*args, **kwargs)
    except TypeError as error:
        return "raised", str(error)


@given(
    parameters=parameter_lists(),
    args=st.lists(st.sampled_from(VALUES), max_size=7),
    kwargs=st.dictionaries(names, st.sampled_from(VALUES), max_size=4),
)
@example(parameters="p0=0, /, e0=1, *args, k0=0, **more", args=[0, 1, 7], kwargs={"p0": 1})
@example(parameters="p0=0, p1=1, /, e0=MARK", args=[7, 1], kwargs={"e0": None})
@example(parameters="e0=MARK, *args", args=[], kwargs={"e0": 5})
def test_a_stub_takes_gives_and_refuses_what_the_function_does(
    parameters: str, args: list[Any], kwargs: dict[str, Any]
) -> None:
    real, proxy, far = both(f"def f({parameters}): return locals()", MARK=object())
    expected = outcome(real.f, args, kwargs)
    assert outcome(proxy.f, args, kwargs) == expected
    # A wrong call never gets as far as the traffic.
    assert len(far.sent) == (expected[0] == "returned")


@given(parameters=parameter_lists())
def test_a_stub_shows_the_same_parameters(parameters: str) -> None:
    real, proxy, _ = both(f"def f({parameters}) -> int: 'Doc.'", MARK=object())
    assert str(inspect.signature(proxy.f)) == str(inspect.signature(real.f))
    assert inspect.getdoc(proxy.f) == "Doc."


def test_a_default_that_cannot_travel_is_left_out() -> None:
    _, proxy, far = both("def f(a, b=MARK, *, c=MARK): return b is MARK, c is MARK", MARK=object())
    assert proxy.f(1) == (True, True)
    assert proxy.f(1, c=2) == (True, False)
    assert far.sent == [("f", (1,), {}), ("f", (1,), {"c": 2})]
    default = inspect.signature(proxy.f).parameters["b"].default
    assert isinstance(default, Placeholder)
    with pytest.raises(TypeError, match="exists only on the worker; leave the argument out"):
        pickle.dumps(default)


@pytest.mark.parametrize("module", ["textwrap", "json", "statistics", "colorsys", "shlex", "fnmatch"])
def test_the_standard_librarys_functions_show_and_refuse_the_same(module: str) -> None:
    real = importlib.import_module(module)
    far = Far(real)
    proxy = far.proxy(module)
    functions = [n for n, f in vars(real).items() if inspect.isfunction(f) and f.__module__ == module]
    assert functions
    for name in functions:
        one, other = getattr(real, name), getattr(proxy, name)
        assert str(inspect.signature(one)) == str(inspect.signature(other))
        for said in ("__name__", "__qualname__", "__module__", "__doc__"):
            assert getattr(other, said) == getattr(one, said)
        wrong = {"no_such_parameter": 1}
        if not any(p.kind is p.VAR_KEYWORD for p in inspect.signature(one).parameters.values()):
            assert outcome(other, [], wrong) == outcome(one, [], wrong)
    assert far.sent == []


def test_a_decorated_function_is_called_as_it_takes_and_shown_as_it_says() -> None:
    source = (
        "import functools\n"
        "def deco(g):\n"
        "    @functools.wraps(g)\n"
        "    def wrapper(*args): return g(*args, 1)\n"
        "    return wrapper\n"
        "@deco\n"
        "def f(a, b): return a, b"
    )
    _, proxy, _ = both(source)
    assert proxy.f(5) == (5, 1)
    assert str(inspect.signature(proxy.f)) == "(a, b)"


def test_c_functions_work_with_and_without_signatures_and_do_not_bind() -> None:
    far = Far(math)
    proxy = far.proxy("math")

    class Holder:
        hypot = proxy.hypot

    assert Holder().hypot(3.0, 4.0) == 5.0
    assert proxy.isclose(1.0, 1.1, rel_tol=0.2) is True
    assert far.sent == [("hypot", (3.0, 4.0), {}), ("isclose", (1.0, 1.1), {"rel_tol": 0.2})]
    assert isinstance(proxy.hypot, BuiltinProxy)
    assert repr(proxy.hypot) == repr(math.hypot)
    assert str(inspect.signature(proxy.floor)) == str(inspect.signature(math.floor))


def test_the_source_of_a_function_is_found(place: Place) -> None:
    place.write("geo/__init__.py", "from ._core import area, ring, cached, later, wrapped\n")
    place.write(
        "geo/_core.py",
        """
        import functools


        def area(r):
            "Doc."
            return r * r


        def ring(n):
            yield n


        @functools.cache
        def cached(a):
            return a


        async def later():
            return 1


        @functools.wraps(area)
        def wrapped(*args):
            return area(*args)
    """,
    )
    program = """
        import inspect, geo
        for name in ("area", "ring", "cached", "later", "wrapped"):
            function = getattr(geo, name)
            print(inspect.getsource(function), inspect.getsourcefile(function), inspect.getsourcelines(function)[1])
        print(geo.area.__code__.co_filename, geo.area(2))
    """
    script = str(place.write("main.py", program))
    done = place.relocate("run", "-M", "geo", "-w", "1", script)
    assert done.stdout == place.python(script).stdout, done.stderr
    assert "return r * r" in done.stdout


def test_a_file_is_looked_for_where_its_module_is() -> None:
    there, here = "/far/geo/__init__.py", "/near/geo/__init__.py"
    assert interface.here("/far/geo/_core.py", there, here) == "/near/geo/_core.py"
    assert interface.here("/far/geo/sub/a.py", there, here) == "/near/geo/sub/a.py"
    assert interface.here("/else/deco.py", there, here) == "/else/deco.py"
    assert interface.here("/far/geo/_core.py", there, None) == "/far/geo/_core.py"


def test_a_function_that_has_only_moved_is_the_same() -> None:
    first, second = testing.module("shop", "def f(): return 1"), testing.module("shop", "\n\ndef f(): return 2")
    far = Far(first)
    proxy = far.proxy("shop")
    kept = proxy.f
    far.modules["shop"] = second
    populate(proxy, describing.describe(second), far.registry)
    assert proxy.f is kept
    assert kept() == 2


def test_a_wrapped_functions_own_attributes_are_those_of_the_local_copy() -> None:
    source = (
        "import functools\n"
        "@functools.lru_cache(maxsize=7)\n"
        "def cached(a): return a\n"
        "cached.unit = 'm'\n"
        "@functools.singledispatch\n"
        "def show(a): return 'any'\n"
        "@show.register\n"
        "def _(a: int): return 'int'\n"
        "show.limits = (1, 2)"
    )
    real, proxy, far = both(source)
    far.installed = False
    assert (proxy.cached.unit, proxy.show.limits) == ("m", (1, 2))
    assert callable(proxy.show.register)
    assert {"cache_clear", "unit"} <= set(dir(proxy.cached))
    assert not hasattr(proxy.cached, "nothing")
    with pytest.raises(AttributeError, match=r"attribute of shop.cached needs the real module, .* not installed here"):
        proxy.cached.cache_clear()
    far.installed = True
    assert proxy.cached(5) == 5
    assert proxy.cached.cache_parameters() == {"maxsize": 7, "typed": False}
    assert proxy.cached.cache_info().currsize == 1  # the far side is here, in this test
    proxy.cached.cache_clear()
    assert real.cached.cache_info().currsize == 0
    proxy.show.register(str, lambda a: "text")
    assert real.show("x") == "text"
    assert proxy.show.dispatch(int)(1) == "int"


def test_a_ufuncs_methods_are_there() -> None:
    _, proxy, far = both("import numpy\nadd = numpy.frompyfunc(lambda a, b: a + b, 2, 1)")
    assert (proxy.add.nin, proxy.add.nout) == (2, 1)
    assert proxy.add.reduce([1, 2, 3]) == 6
    assert far.sent == []


HINTS = """
import functools
import typing
from collections.abc import Callable
class Point: pass
T = typing.TypeVar('T')
def f(a: Point, b: list[Point], c: Point | None, d: Callable[[Point], int], e: int, g: 'Point' = 1) -> T: pass
def g(a: typing.Optional['Point'], b: typing.Literal['-x'], c: Point, d: typing.Any, *e: dict[str, T]): pass
@functools.wraps(f)
def wrapped(*args): pass
@functools.cache
def cached(a: Point, b: tuple[Point, ...] = ()) -> 'list[Point]': pass
"""


@pytest.mark.parametrize("name", ["f", "g", "wrapped", "cached"])
@pytest.mark.parametrize("postponed", [False, True])
def test_type_hints_are_those_of_the_function(monkeypatch: pytest.MonkeyPatch, name: str, postponed: bool) -> None:
    source = "from __future__ import annotations\n" * postponed + HINTS
    real = types.ModuleType("shop")
    monkeypatch.setitem(sys.modules, "shop", real)
    exec(source, vars(real))
    far = Far(real)
    expected = typing.get_type_hints(getattr(real, name))
    proxy = far.proxy("shop")
    monkeypatch.setitem(sys.modules, "shop", proxy)
    assert typing.get_type_hints(getattr(proxy, name)) == expected


def test_a_type_variable_is_the_real_one(monkeypatch: pytest.MonkeyPatch) -> None:
    real = testing.module("shop", "import logging, typing\nT = typing.TypeVar('T')\nlog = logging.getLogger('shop')")
    monkeypatch.setitem(sys.modules, "shop", real)
    far = Far(real)
    proxy = far.proxy("shop")
    monkeypatch.setitem(sys.modules, "shop", proxy)
    assert proxy.T is real.T
    far.installed = False
    assert proxy.log is real.log


SEVERAL = """
def count(n, *, step=1):
    for i in range(n):
        if (yield i * step): return 'sent'
    return 'ended'
def failing(n):
    try: yield n
    finally: raise LookupError(n)
async def later(a, b=2): return a + b
async def each(n):
    for i in range(n): yield i
"""


def test_generator_and_coroutine_functions_are_such() -> None:
    real, proxy, _ = both(SEVERAL)
    for ask in (inspect.isgeneratorfunction, inspect.iscoroutinefunction, inspect.isgenerator, inspect.isfunction):
        for name in ("count", "failing", "later"):
            assert ask(getattr(proxy, name)) == ask(getattr(real, name))
    assert inspect.isgenerator(proxy.count(1))
    assert str(inspect.signature(proxy.count)) == "(n, *, step=1)"


def test_a_stub_of_a_generator_function_delegates_and_sends_nothing_before_the_first_item() -> None:
    _, proxy, far = both(SEVERAL)
    with pytest.raises(TypeError, match=r"count\(\) missing 1 required positional argument"):
        proxy.count()
    items = proxy.count(3, step=5)
    assert far.sent == []
    assert (next(items), next(items)) == (0, 5)
    assert far.sent == [("count", (3,), {"step": 5})]
    with pytest.raises(StopIteration) as stopped:
        items.send(True)
    assert stopped.value.value == "sent"
    with pytest.raises(KeyError):
        proxy.count(2).throw(KeyError)
    begun = proxy.failing(4)
    assert next(begun) == 4
    with pytest.raises(LookupError, match="4"):
        begun.close()
    assert list(proxy.count(3)) == [0, 1, 2]


def test_a_stub_of_a_coroutine_function_awaits() -> None:
    _, proxy, far = both(SEVERAL)
    with pytest.raises(TypeError, match=r"later\(\) missing 1 required positional argument"):
        proxy.later()
    waiting = proxy.later(1)
    assert far.sent == []
    assert asyncio.run(waiting) == 3

    async def collect() -> list[int]:
        return [i async for i in proxy.each(3)]

    assert asyncio.run(collect()) == [0, 1, 2]


@pytest.mark.parametrize("name", ["fail", "items", "later", "cached"])
def test_a_traceback_goes_from_the_caller_to_the_function(name: str) -> None:
    source = """
import functools
def fail(): 1 / 0
def items():
    yield 1
    1 / 0
async def later(): 1 / 0
@functools.cache
def cached(): 1 / 0
"""
    _, proxy, _ = both(source)
    run: dict[str, Callable[[], object]] = {
        "fail": proxy.fail, "items": lambda: list(proxy.items()), "later": lambda: asyncio.run(proxy.later()),
        "cached": proxy.cached,
    }  # fmt: skip
    with pytest.raises(ZeroDivisionError) as caught:
        run[name]()
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert [frame.name for frame in frames if frame.name in run] == [name]
    assert not [frame for frame in frames if "relocate" in Path(frame.filename).parent.name]


def test_a_python_function_binds_when_a_class_holds_it() -> None:
    _, proxy, _ = both("def f(self, x): return type(self).__name__, x")

    class Holder:
        f = proxy.f

    far_name, x = Holder().f(3)
    assert (far_name, x) == ("Holder", 3)


# What is not a function --------------------------------------------------------------------------


def test_constants_and_documentation_are_there_without_the_real_module() -> None:
    _, proxy, far = both("'Doc.'\n__all__ = ['LIMIT']\nLIMIT = {'a': (1, 2.5)}")
    far.installed = False
    assert (proxy.LIMIT, proxy.__doc__, proxy.__all__, proxy.__name__) == ({"a": (1, 2.5)}, "Doc.", ["LIMIT"], "shop")
    assert isinstance(proxy, types.ModuleType)


def test_what_another_library_owns_is_that_librarys() -> None:
    _, proxy, _ = both("import numpy\nfrom numpy import ndarray\nfrom math import floor")
    assert proxy.ndarray is numpy.ndarray
    assert proxy.numpy is numpy
    assert proxy.floor is math.floor


def test_a_class_is_the_real_one_or_says_what_to_install() -> None:
    real, proxy, far = both("class Plain: pass\nMARK = object()")
    far.installed = False
    with pytest.raises(AttributeError, match=r"class shop.Plain needs the real module, which is not installed here"):
        _ = proxy.Plain
    assert not hasattr(proxy, "MARK")
    far.installed = True
    assert proxy.Plain is real.Plain
    assert proxy.MARK is real.MARK


def test_an_exception_class_is_rebuilt_once_without_the_real_module(monkeypatch: pytest.MonkeyPatch) -> None:
    real = testing.module("shop", "class Broken(ValueError):\n    'Doc.'\n    code = 7\nAlias = Broken")
    monkeypatch.setitem(sys.modules, "shop", real)
    far = Far(real)
    far.installed = False
    proxy = far.proxy("shop")
    assert proxy.Broken is proxy.Alias is not real.Broken
    assert (proxy.Broken.__name__, proxy.Broken.__module__, proxy.Broken.__doc__) == ("Broken", "shop", "Doc.")
    assert (proxy.Broken.__bases__, proxy.Broken.code) == ((ValueError,), 7)


def test_lazy_names_are_listed_and_found() -> None:
    source = (
        "__all__ = ['late', 'price']\n"
        "def __getattr__(name):\n"
        "    if name == 'late': return 5\n"
        "    if name == 'price': return lambda n: n * 3\n"
        "    raise AttributeError(name)\n"
        "def __dir__(): return __all__\n"
    )
    _, proxy, _ = both(source)
    assert proxy.late == 5
    assert {"late", "price"} <= set(dir(proxy))
    assert proxy.price(2) == 6


def test_names_of_a_modules_class_are_there(place: Place) -> None:
    module = """
        import sys, types
        class Shop(types.ModuleType):
            LIMIT = 5
            def price(self, n, *, times=3):
                return n * times
            @property
            def unit(self):
                return "m"
        {0}
    """
    program = """
        import relocate
        with relocate.enable(modules=["one", "two"], workers=1) as handle:
            import inspect, one, two
            for shop in (one, two):
                print(shop.LIMIT, shop.unit, shop.price(2), shop.price(2, times=4), inspect.signature(shop.price))
            print(handle.statistics().remote, sorted({"LIMIT", "price", "unit"} - set(dir(one))), shop.absent)
    """
    place.write("one.py", module.format("sys.modules[__name__].__class__ = Shop"))
    place.write("two.py", module.format("sys.modules[__name__] = Shop(__name__)"))
    done = place.python(str(place.write("main.py", program)))
    assert done.stdout.splitlines() == ["5 m 6 8 (n, *, times=3)"] * 2, done.stderr
    assert "AttributeError: module 'two' has no attribute 'absent'" in done.stderr


def test_a_missing_name_is_pythons_own_error() -> None:
    _, proxy, far = both("x = 1")
    with pytest.raises(AttributeError, match="module 'shop' has no attribute 'y'"):
        _ = proxy.y
    assert not hasattr(proxy, "__wrapped__")
    assert far.sent == []


def test_the_dictionary_holds_every_name_and_can_be_patched() -> None:
    real, proxy, _ = both("def f(): return 1\nclass Plain: pass\nx = 1")
    assert {"f", "Plain", "x"} <= set(vars(proxy))
    assert vars(proxy)["Plain"] is real.Plain
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proxy, "f", lambda: 2)
        assert proxy.f() == 2
    assert proxy.f() == 1
    del proxy.x
    assert not hasattr(proxy, "x")


def test_a_late_name_can_be_deleted_before_it_is_made() -> None:
    _, proxy, _ = both("class Plain: pass")
    del proxy.Plain
    assert not hasattr(proxy, "Plain")
    assert "Plain" not in dir(proxy)


def test_two_names_of_one_function_are_one_object(monkeypatch: pytest.MonkeyPatch) -> None:
    real = testing.module("shop", "def f(): pass\nalias = f")
    monkeypatch.setitem(sys.modules, "shop", real)
    proxy = Far(real).proxy("shop")
    assert proxy.alias is proxy.f


def test_a_stub_pickles_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    _, proxy, _ = both("def f(): pass")
    monkeypatch.setitem(sys.modules, "shop", proxy)
    assert pickle.loads(pickle.dumps(proxy.f)) is proxy.f


# Refresh -----------------------------------------------------------------------------------------


def test_another_version_keeps_what_is_the_same_and_dismisses_the_rest() -> None:
    first = testing.module("shop", "def same(a): return 1\ndef other(a): return 1\ndef gone(): pass\nx = 1\nold = 1")
    second = testing.module(
        "shop", "def same(a): return 2\ndef other(a, b): return 2\ndef new(): return 2\nx = 2", __version__="2"
    )
    far = Far(first)
    proxy = far.proxy("shop")
    same, other, gone = proxy.same, proxy.other, proxy.gone
    far.modules["shop"] = second
    populate(proxy, describing.describe(second), far.registry)
    old, new = digests.digest(first), digests.digest(second)

    assert proxy.same is same
    assert proxy.other is not other
    assert proxy.x == 2
    assert not hasattr(proxy, "gone")
    assert not hasattr(proxy, "old")
    assert same(0) == 2
    assert proxy.other(0, 1) == 2
    assert proxy.new() == 2
    assert far.digests == [new] * 3
    # The dismissed ones keep the digest with which a worker refuses them.
    with pytest.raises(TypeError):
        other(0)
    with pytest.raises(AttributeError):
        gone()
    assert far.digests[3:] == [old] * 2


def test_a_version_and_back_again_serves_the_first_functions() -> None:
    first = testing.module("shop", "def f(a): return 1")
    second = testing.module("shop", "def f(a, b): return 2", __version__="2")
    far = Far(first)
    proxy = far.proxy("shop")
    for module, args, expected in ((second, (0, 0), 2), (first, (0,), 1), (second, (0, 0), 2)):
        far.modules["shop"] = module
        populate(proxy, describing.describe(module), far.registry)
        assert proxy.f(*args) == expected
        assert far.digests[-1] == digests.digest(module)


def test_namespace_of_makes_nothing() -> None:
    _, proxy, _ = both("class Plain: pass\nx = 1")
    assert "Plain" not in namespace_of(proxy)
    assert namespace_of(proxy)["x"] == 1


@pytest.mark.parametrize("installed", [True, False])
def test_an_exception_class_of_a_module_in_c_is_the_real_one_if_that_is_here(installed: bool) -> None:
    far = Far(zlib)
    far.installed = installed
    error = far.proxy("zlib").error
    assert (error is zlib.error) is installed
    assert (error.__module__, error.__qualname__, error.__bases__) == ("zlib", "error", (Exception,))


def test_what_a_decorator_has_wrapped_can_be_called() -> None:
    source = """
import functools
def plus(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs) + 1
    return wrapper
@plus
def twice(n, *, by=2):
    return n * by
"""
    _, proxy, far = both(source)
    assert (proxy.twice(3), proxy.twice.__wrapped__(3), proxy.twice.__wrapped__(3, by=5)) == (7, 6, 15)
    assert [name for name, *_ in far.sent] == ["twice"]
    far.installed = False
    with pytest.raises(AttributeError, match="needs the real module, which is not installed here"):
        proxy.twice.__wrapped__(3)
