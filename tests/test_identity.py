"""Types, functions and classes of a relocated module are real: programs that ask print what they print plainly."""

from __future__ import annotations

import pytest
from conftest import Place

KINDS = """
    import abc
    import dataclasses
    import enum
    import functools
    import typing
    from collections import namedtuple

    class Trouble(ValueError):
        code = 7
        def __init__(self, what, extra=None):
            super().__init__(what)
            self.extra = extra

    class Worse(Trouble):
        pass

    class Color(enum.Enum):
        RED = 1
        BLUE = 2
        @property
        def lower(self):
            return self.name.lower()

    class Mode(enum.Flag):
        READ = 1
        WRITE = 2

    Point = namedtuple("Point", "x y", defaults=[0])

    class Pair(typing.NamedTuple):
        left: int
        right: str = "r"

    @dataclasses.dataclass(order=True)
    class Item:
        name: str
        tags: list = dataclasses.field(default_factory=list)

    @dataclasses.dataclass(frozen=True, slots=True)
    class Frozen:
        n: int

    class Shape(abc.ABC):
        sides = 0
        @abc.abstractmethod
        def area(self): ...
        @classmethod
        def named(cls):
            return cls.__name__, cls.sides
        @staticmethod
        def unit():
            return "cm"
        @property
        def double(self):
            return 2 * self.area()

    class Square(Shape):
        sides = 4
        def __init__(self, a):
            self.a = a
        def area(self):
            return self.a ** 2
        def __add__(self, other):
            return Square(self.a + other.a)
        def __eq__(self, other):
            return isinstance(other, Square) and self.a == other.a
        def __hash__(self):
            return hash(self.a)
        def __getitem__(self, i):
            return self.a * i
        def __len__(self):
            return 4
        def __enter__(self):
            return self
        def __exit__(self, *error):
            self.left = error[0]
            return True

    @typing.runtime_checkable
    class Sized(typing.Protocol):
        def area(self) -> float: ...

    T = typing.TypeVar("T")
    class Box(typing.Generic[T]):
        def __init__(self, value: T): self.value = value

    def fail(kind, *args):
        raise kind(*args)
    def total(shapes):
        return sum(s.area() for s in shapes)
    def grown(shape):
        shape.a += 1
        return shape
    def make(kind, *args):
        return kind(*args)
    def same(value):
        return value
    def plus(a, b=1):
        "Adds."
        return a + b
    def kind_of(value):
        return type(value), type(value).__mro__[1].__name__, isinstance(value, Shape)

    @functools.singledispatch
    def show(value):
        return "object"

    @show.register
    def _(value: int):
        return "int"

    @functools.lru_cache
    def cached(x):
        return [x]

    @functools.wraps(plus)
    def wrapped(*args, **kwargs):
        return plus(*args, **kwargs)

    class Holder:
        def __init__(self):
            self.f = plus
    def own(holder):
        return holder.f is plus, holder

    def apply(function, *args):
        return function(*args)
    def held():
        return {"f": plus, "kinds": [Color, Item, Square]}
"""

PROGRAMS = {
    "exceptions": """
        from kinds import Trouble, Worse, fail
        import kinds
        try:
            fail(Worse, "a", 5)
        except Trouble as error:
            print(type(error) is kinds.Worse, error.args, error.extra, error.code, isinstance(error, ValueError))
        class Mine(Trouble):
            "A local one."
        for kind in (Mine, Trouble, KeyError):
            try:
                kinds.fail(kind, "b")
            except (Trouble, KeyError) as error:
                print(type(error) is kind, error)
        print(issubclass(Worse, Trouble), Trouble.__mro__[1], Worse.__base__ is Trouble)
    """,
    "enums": """
        import kinds
        from kinds import Color, Mode
        print(kinds.same(Color.RED) is Color.RED, Color(2), Color["BLUE"].lower, list(Color), Color.RED in Color)
        print(kinds.same(Mode.READ | Mode.WRITE) == Mode(3), isinstance(kinds.make(Color, 1), Color))
        print(kinds.same({Color.RED: 1})[Color.RED], hash(kinds.same(Color.BLUE)) == hash(Color.BLUE))
    """,
    "named tuples and dataclasses": """
        import dataclasses, kinds
        from kinds import Frozen, Item, Pair, Point
        p = kinds.same(Point(1))
        print(p, type(p) is Point, p.x, p._replace(y=3), Point._fields, kinds.make(Pair, 4), Pair.__annotations__)
        item = Item("a")
        print(kinds.same(item) is item, kinds.same([Item("b", [1])]) == [Item("b", [1])], Item("a") < Item("b"))
        print(dataclasses.asdict(kinds.make(Item, "c")), [f.name for f in dataclasses.fields(Item)])
        print(dataclasses.replace(kinds.make(Frozen, 1), n=2), {kinds.same(Frozen(1)): 1}[Frozen(1)])
        x, y = kinds.make(Point, 5, 6)
        match kinds.make(Item, "d"):
            case Item(name=name):
                print(x, y, name)
    """,
    "abstract classes and protocols": """
        import kinds
        from kinds import Box, Shape, Sized, Square
        try:
            Shape()
        except TypeError as error:
            print(error)
        class Circle(Shape):
            sides = 1
            def area(self):
                return 3
        print(kinds.total([Circle(), Square(2)]), isinstance(Circle(), Shape), issubclass(Square, Shape))
        class Other:
            def area(self):
                return 10
        print(isinstance(Other(), Sized), isinstance(3, Sized), kinds.total([Other()]), isinstance(Other(), Shape))
        Shape.register(Other)
        print(isinstance(Other(), Shape), Box[int].__origin__ is Box, kinds.make(Box, 3).value)
        print(kinds.kind_of(Circle())[0] is Circle, kinds.kind_of(Circle())[1:])
    """,
    "class attributes, methods, properties, operators, context managers": """
        import kinds
        from kinds import Square
        a, b = kinds.make(Square, 2), Square(3)
        print(Square.sides, Square.named(), a.named(), Square.unit(), a.unit(), a.double, (a + b).a, a == Square(2))
        print(hash(a) == hash(Square(2)), a[5], len(a), {a: 1}[Square(2)], a != b, bool(a))
        with kinds.make(Square, 1) as c:
            raise KeyError("swallowed")
        print(c.left, type(c) is Square)
        Square.sides = 44
        print(Square.named(), a.sides)
        a.new = 1
        print(kinds.grown(a) is a, a.a, a.new, vars(a))
    """,
    "local subclasses": """
        import kinds
        from kinds import Square
        class Mine(Square):
            def area(self):
                return super().area() + 100
            def own(self):
                return "own"
        m = Mine(2)
        print(kinds.total([m]), kinds.grown(m) is m, m.a, kinds.grown(m).own(), type(kinds.make(Mine, 3)) is Mine)
        def inside():
            class Deep(Mine):
                pass
            return Deep(4)
        d = inside()
        print(kinds.total([d]), type(kinds.same(d)).__name__, kinds.same(d) is d, kinds.kind_of(d)[2])
        class Point3(kinds.Point):
            @property
            def sum(self):
                return self.x + self.y
        print(kinds.same([Point3(1, 2)])[0].sum, kinds.make(Point3, 4).sum)
    """,
    "pickle and copy": """
        import copy, pickle, cloudpickle, kinds
        from kinds import plus, Square, Color, wrapped, show, cached
        for f in (plus, show, cached, kinds.Square, kinds.Color, kinds.Trouble, kinds.Point):
            print([pickle.loads(pickle.dumps(f, n)) is f for n in (0, 2, 5)], copy.copy(f) is f, copy.deepcopy(f) is f)
            print(pickle.loads(cloudpickle.dumps(f)) is f)
        print(pickle.loads(pickle.dumps(Square(3))) == Square(3), copy.deepcopy({"f": plus})["f"] is plus)
        print(pickle.loads(cloudpickle.dumps(lambda x: plus(x)))(4))
        print(pickle.loads(cloudpickle.dumps(lambda x: kinds.plus(x)))(4), kinds.apply(lambda x: kinds.plus(x), 4))
        holder = kinds.Holder()
        print(kinds.own(holder)[0], kinds.own(holder)[1] is holder)
        print(kinds.apply(plus, 3), kinds.same(plus) is plus, kinds.held()["f"] is plus)
        print([k is getattr(kinds, k.__name__) for k in kinds.held()["kinds"]], kinds.apply(Square, 3) == Square(3))
    """,
    "functools": """
        import functools, kinds
        p = functools.partial(kinds.plus, b=10)
        print(p(1), kinds.apply(p, 2), p.func is kinds.plus)
        @functools.wraps(kinds.plus)
        def mine(*args):
            return kinds.plus(*args)
        print(mine(1, 2), mine.__name__, mine.__doc__, mine.__wrapped__ is kinds.plus)
        kept = functools.lru_cache(kinds.plus)
        print(kept(1), kept(1), kept.cache_info().hits)
        print(kinds.show("a"), kinds.show(1), kinds.show.dispatch(int)(3), kinds.show.dispatch(str)("x"))
        print(sorted(k.__name__ for k in kinds.show.registry), len(kinds.show.registry), kinds.show.registry[int](1))
        @kinds.show.register
        def _(value: str):
            return "mine"
        print(kinds.show.dispatch(str)("x"), str in kinds.show.registry, kinds.show("x"), kinds.show(1))
        one = functools.singledispatch(kinds.plus)
        one.register(str, lambda a: a + "!")
        print(one(1), one("a"))
        print(functools.reduce(kinds.plus, [1, 2, 3]), sorted([3, 1], key=kinds.plus), list(map(kinds.plus, [1])))
        class Holder:
            method = kinds.plus
            static = staticmethod(kinds.plus)
            part = functools.partialmethod(kinds.same)
            def __add__(self, other):
                return other
        h = Holder()
        print(h.method(4), h.static(1), h.part() is h)
        print(kinds.cached(2), kinds.cached.cache_info()._fields, kinds.cached.__wrapped__(1))
    """,
    "comparison and hashing": """
        import sys, importlib, kinds
        from kinds import plus
        import kinds as again
        f = importlib.import_module("kinds")
        print(f is kinds is again is sys.modules["kinds"], f.plus is plus, plus == kinds.plus, plus != kinds.same)
        print(len({plus, kinds.plus, kinds.same}), {plus: 1}[f.plus], hash(plus) == hash(kinds.plus))
        print(kinds.Square is f.Square, kinds.Square == f.Square, len({kinds.Square, f.Square}), kinds == f)
        print(plus in [kinds.same, kinds.plus], bool(plus), callable(plus), callable(kinds.Square), type(kinds.Square))
        print(__import__("kinds").plus is plus, getattr(kinds, "plus") is vars(kinds)["plus"])
    """,
}


@pytest.mark.parametrize("what", PROGRAMS)
def test_a_program_that_asks_gets_what_it_gets_plainly(place: Place, what: str) -> None:
    place.write("kinds.py", KINDS)
    script = place.write("main.py", PROGRAMS[what])
    plain = place.python(str(script))
    assert plain.returncode == 0, plain.stderr
    under = place.relocate("run", "-M", "kinds", "-w", "1", "--report", "report.json", str(script))
    assert (under.stdout, under.stderr) == (plain.stdout, "")
    assert place.report()["local"] == (2 if what == "functools" else 0)  # of a function that is changed here


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_functions_classes_and_methods_go_to_a_pool_of_processes(place: Place, method: str) -> None:
    place.write("kinds.py", KINDS)
    program = f"""
        import functools, multiprocessing, os
        from concurrent.futures import ProcessPoolExecutor
        import kinds
        from kinds import Square, plus

        if __name__ == "__main__":
            context = multiprocessing.get_context("{method}")
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                print(list(pool.map(plus, [1, 2])), pool.submit(functools.partial(plus, b=5), 1).result())
                print(pool.submit(kinds.total, [Square(2)]).result(), pool.submit(Square, 3).result() == Square(3))
                print(pool.submit(Square(2).area).result(), pool.submit(kinds.show, 1).result())
                print(pool.submit(kinds.same, plus).result() is plus)
                try:
                    pool.submit(kinds.fail, kinds.Worse, "a").result()
                except kinds.Trouble as error:
                    print(type(error) is kinds.Worse, error)
            with context.Pool(1) as pool:
                print(pool.map(plus, [1, 2]), pool.apply(Square.named))
    """
    script = place.write("main.py", program)
    plain = place.python(str(script))
    assert plain.returncode == 0, plain.stderr
    options = ("-M", "kinds", "--methods", "kinds.Square", "-w", "1")
    under = place.relocate("run", *options, str(script))
    assert (under.stdout, under.stderr) == (plain.stdout, "")


def test_a_c_functions_proxy_does_not_become_a_method(place: Place) -> None:
    program = """
        import math, operator
        class Holder:
            close = math.isclose
            first = operator.itemgetter(0)
            neg = operator.neg
            def plain(self):
                return self.close(1, 1.0), self.neg(3)
        print(Holder().plain(), Holder.close is math.isclose, Holder().close is math.isclose, repr(math.isclose))
        print(math.isclose.__name__, math.isclose == Holder.close, {math.isclose: 1}[Holder.close])
    """
    script = place.write("main.py", program)
    plain = place.python(str(script))
    under = place.relocate("run", "-M", "math", "-w", "1", "--report", "report.json", str(script))
    assert (under.stdout, under.stderr) == (plain.stdout, "")
    assert place.report()["remote"] == 1


IN_C = """
    import bisect, copy, heapq, importlib, pickle, struct
    import cloudpickle

    heap, line, memory = [3, 9, 5], [1, 3], bytearray(8)
    heapq.heapify(heap)
    heapq.heappush(heap, 1)
    bisect.insort(line, 2)
    struct.pack_into("<I", memoryview(memory)[2:], 2, 7)
    print(heap, heapq.heappop(heap), heap, line, memory, struct.unpack("<2I", memory))
    for function in (heapq.heappush, bisect.insort, bisect.insort_right, struct.pack_into):
        print(function, function.__module__, function.__name__)
        for made in (pickle, cloudpickle):
            print(made.loads(made.dumps(function)) is function, copy.deepcopy(function) is function)
    print(bisect.insort is bisect.insort_right)
    importlib.reload(heapq)
    print(heapq.heappushpop([4, 6], 5), list(heapq.merge([1, 4], [2])))
    try:
        struct.pack("<I", "a")
    except struct.error as error:
        print(type(error), error)
"""


@pytest.mark.parametrize("before", ["", "import bisect, heapq, _heapq, struct; from heapq import heappush; "])
def test_functions_of_a_modules_part_in_c_are_relocated_like_its_others(place: Place, before: str) -> None:
    place.write("program.py", IN_C)
    plain = place.python("-c", f"{before}import program")
    enable = (
        "import relocate; relocate.enable(modules=['bisect', 'heapq', 'struct'], workers=1, report='report.json'); "
    )
    under = place.python("-W", "error", "-c", f"{before}{enable}import program")
    assert (under.stdout, under.stderr) == (plain.stdout, "")
    counts = {name: (where["remote"], where["local"]) for name, where in place.report()["members"].items()}
    once = ("heapify", "heappush", "heappop", "heappushpop", "merge")
    assert counts == {
        **{f"heapq.{name}": (1, 0) for name in once},
        "bisect.insort_right": (1, 0),
        "struct.pack_into": (1, 0),
        "struct.unpack": (1, 0),
        "struct.pack": (1, 0),
    }


def test_a_modules_part_in_c_keeps_its_own_functions(place: Place) -> None:
    program = """
        import _heapq, heapq, relocate
        real = id(heapq.heappush)
        with relocate.enable(modules=["heapq"], workers=1) as handle:
            print(id(heapq.heappush) == real, id(_heapq.heappush) == real, handle.statistics().unrelocated)
        print(id(heapq.heappush) == real)
    """
    done = place.python("-W", "error", str(place.write("main.py", program)))
    assert (done.stdout, done.stderr) == ("False True {}\nTrue\n", "")


def test_objects_that_functions_of_their_module_make_again_are_pickled_and_copied(place: Place) -> None:
    place.write(
        "shop.py",
        """
        import copyreg
        def again(cls, n):
            return cls(n)
        def _whole(shop):
            return again, (type(shop), shop.n)
        class Shop:
            def __init__(self, n):
                self.n = n
            def __reduce__(self):
                return again, (type(self), self.n)
        class Stall:
            def __init__(self, n):
                self.n = n
        copyreg.pickle(Stall, _whole)
        def larger(shop):
            return type(shop)(shop.n + 1)
        """,
    )
    program = """
        import copy, pickle, cloudpickle, shop
        class Kiosk(shop.Shop):
            pass
        for kind in shop.Shop, shop.Stall, Kiosk:
            one = kind([3])
            print(copy.copy(one).n is one.n, one.__reduce_ex__(4)[0] is None, shop.larger(kind(1)).n)
            for made in pickle, cloudpickle:
                for protocol in range(2, 6):
                    again = made.loads(made.dumps(one, protocol))
                    print(type(again) is kind, again.n)
    """
    script = place.write("main.py", program)
    plain = place.python(str(script))
    under = place.relocate("run", "-M", "shop", "-w", "1", "--report", "report.json", str(script))
    assert (under.stdout, under.stderr) == (plain.stdout, "")
    assert place.report()["members"]["shop.larger"] == {"remote": 3, "local": 0}


def test_pickling_is_as_it_was_when_relocation_ends(place: Place) -> None:
    program = """
        import copyreg, pickle, re, relocate
        was = copyreg.dispatch_table[re.Pattern]
        with relocate.enable(modules=["re"], workers=1):
            print(len(pickle.loads(pickle.dumps(re.compile("a+"))).findall("aa-a")))
        print(copyreg.dispatch_table[re.Pattern] is was, pickle.loads(pickle.dumps(re.compile("a+"))).pattern)
        with relocate.enable(modules=["re"], workers=1):
            re.compile("a+")
            copyreg.pickle(re.Pattern, str)
        print(copyreg.dispatch_table[re.Pattern])
    """
    done = place.python(str(place.write("main.py", program)))
    assert (done.stdout, done.stderr) == ("2\nTrue a+\n<class 'str'>\n", "")
