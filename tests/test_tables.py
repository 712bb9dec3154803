"""What a module enters in tables of other modules when it is imported: programs that look there find it."""

from __future__ import annotations

import pytest
from conftest import Place

HUB = """
    import functools
    import weakref
    from collections import defaultdict, deque

    BY_FUNCTION = {}
    BY_NAME = {}
    ORDER = []
    PAIRS = deque()
    PICKED = set()
    EVENTS = defaultdict(list)
    NOTED = weakref.WeakKeyDictionary()
    NAMES = weakref.WeakValueDictionary()
    TOUCHED = weakref.WeakSet()
    CLASSES = {}

    class Book:
        pages = {}
        def __init__(self):
            self.lines = []

    class Line:
        def __init__(self, function, number):
            self.function = function
            self.number = number

    book = Book()

    def enter(**notes):
        def entered(function):
            name = function.__name__
            if name in BY_NAME:
                raise ValueError(f"{name} is entered twice")
            BY_NAME[name] = BY_FUNCTION[function] = None
            BY_NAME[name] = NAMES[name] = function
            BY_FUNCTION[function] = NOTED[function] = notes
            ORDER.append(function)
            PAIRS.append((name, function))
            PICKED.add(function)
            TOUCHED.add(function)
            EVENTS[notes["event"]].append(function)
            Book.pages[name] = Line(function, len(Book.pages))
            book.lines.append(function)
            return function
        return entered

    @functools.singledispatch
    def show(value):
        return "something"

    class Pen:
        @functools.singledispatchmethod
        def write(self, value):
            return "a line"

    def builtin(): ...

    enter(event="own")(builtin)
"""

SHOP = """
    import hub

    @hub.enter(event="sale", tax=[1, 2])
    def price(n):
        return 2 * n

    @hub.enter(event="sale")
    def count(text):
        return len(text)

    @hub.show.register
    def show_number(value: int):
        return f"number {value}"

    @hub.show.register
    def _(value: str):
        return f"text {value}"

    @hub.show.register
    def _(value: bytes):
        return f"bytes {value}"

    @hub.Pen.write.register
    def write_number(self, value: int):
        return f"digits {value}"

    class Item:
        pass

    def same(value):
        return value

    @hub.show.register
    def show_item(value: Item):
        return "item"

    hub.BY_NAME["_hidden"] = lambda n: n + 1
"""

LOOK = """
    import hub
    import shop

    def look():
        price = shop.price
        print(hub.BY_FUNCTION[price], hub.NOTED[price], hub.BY_NAME["price"] is price, hub.NAMES["price"] is price)
        print([f.__name__ for f in hub.ORDER], hub.ORDER[1] is price, list(hub.PAIRS)[1] == ("price", price))
        print(price in hub.PICKED, price in hub.TOUCHED, {k: len(v) for k, v in hub.EVENTS.items()})
        print(hub.EVENTS["sale"] == [price, shop.count], hub.book.lines == [hub.builtin, price, shop.count])
        line = hub.Book.pages["price"]
        print(type(line) is hub.Line, line.function is price, line.number)
        print(hub.show(3), hub.show(None), hub.show.dispatch(int) is shop.show_number)
        print(hub.Pen().write(3), hub.Pen().write(None), list(hub.BY_NAME))
        print([f(4) for f in hub.ORDER if f is price], hub.BY_NAME["price"](5))
"""


@pytest.mark.parametrize(
    ("program", "remote"),
    [
        ("import hub, shop, look; look.look()", 4),
        ("import shop, hub, look; look.look()", 4),
        ("import hub, shop, look; look.look(); shop.Item; look.look(); print(hub.show(shop.Item()))", 8),
        ("import shop; shop.Item; import hub, look; look.look()", 4),
        ("import hub, shop, look; print(hub.show('a'), hub.BY_NAME['_hidden'](1), hub.show('b')); look.look()", 4),
    ],
    ids=["the table first", "the module first", "a class is touched", "a class is touched before", "without a name"],
)
def test_a_program_that_looks_into_tables_finds_what_it_finds_plainly(place: Place, program: str, remote: int) -> None:
    for name, text in (("hub.py", HUB), ("shop.py", SHOP), ("look.py", LOOK), ("main.py", program)):
        place.write(name, text)
    plain = place.python("main.py")
    assert plain.returncode == 0, plain.stderr
    under = place.relocate("run", "-M", "shop", "-w", "1", "--report", "report.json", "main.py")
    assert (under.stdout, under.stderr) == (plain.stdout, "")
    assert (place.report()["remote"], place.report()["local"]) == (remote, 0)


STATE = """
    import hub

    def state():
        tables = [hub.BY_FUNCTION, hub.NOTED, hub.TOUCHED, hub.PICKED, hub.BY_NAME, hub.NAMES, hub.Book.pages]
        lists = [hub.ORDER, list(hub.PAIRS), hub.EVENTS, hub.book.lines]
        return [set(t) for t in tables], [{**t} for t in tables[4:]], str(lists), dict(hub.show.registry)
"""


@pytest.mark.parametrize("before", ["", "import shop"], ids=["never loaded", "loaded before"])
def test_after_disable_tables_are_as_they_were(place: Place, before: str) -> None:
    program = f"""
        import hub, relocate
        {before}
        from state import state

        was = state()
        with relocate.enable(modules=["shop"], workers="local:1"):
            import shop
            assert hub.ORDER[1] is shop.price and hub.BY_FUNCTION[shop.price]["tax"] == [1, 2]
            assert state() != was and hub.show(3) == "number 3"
        print(state() == was, hub.show(3))
    """
    for name, text in (("hub.py", HUB), ("shop.py", SHOP), ("state.py", STATE), ("main.py", program)):
        place.write(name, text)
    done = place.python("main.py")
    assert (done.stdout, done.stderr) == (f"True {'number 3' if before else 'something'}\n", "")


LOADS = """
    import typing, hub

    hub.LOADS.append(1)

    def price(n):
        return 2 * n

    hub.enter(price)

    @typing.overload
    def count(a: int) -> int: ...
    @typing.overload
    def count(a: str) -> str: ...
    def count(a):
        return a

    class Item:
        price = price

    hub.BY_CLASS[Item] = price
    hub.BY_NAME["hidden"] = lambda: 3
"""


@pytest.mark.parametrize(
    ("entered", "loads"), [("", 0), ("hub.BY_NAME['item'] = Item", 1), ("hub.LIST.append(Item)", 1)]
)
def test_the_real_module_is_loaded_for_a_table_of_classes_only(place: Place, entered: str, loads: int) -> None:
    place.write("hub.py", "BY_CLASS, BY_NAME, LIST, LOADS = {}, {}, [], []\ndef enter(f): BY_NAME[f.__name__] = f")
    place.write("shop.py", LOADS)
    with (place.folder / "shop.py").open("a") as file:
        file.write(entered + "\n")
    place.write(
        "main.py",
        """
        import hub, shop
        print(len(hub.LOADS), hub.BY_NAME["price"] is shop.price, hub.BY_NAME.get("item") or hub.LIST)
        print(hub.BY_NAME["hidden"](), len(hub.LOADS), list(hub.BY_CLASS), len(hub.LIST))
        """,
    )
    plain = place.python("main.py")
    under = place.relocate("run", "-M", "shop", "-w", "1", "main.py")
    assert (under.stdout[1:], under.stderr) == (plain.stdout[1:], "")
    assert int(under.stdout[0]) == loads


def test_odd_tables_and_objects_are_looked_at_without_their_own_methods_and_do_not_hide_others(place: Place) -> None:
    place.write(
        "hub.py",
        """
        class Lazy(dict):  # which imports whatever it knows of when it is asked
            def items(self): raise RuntimeError("something optional is missing")
            __iter__ = keys = values = items
        class Hidden(list):
            def __iter__(self): raise RuntimeError("not yet")
        class Unbound:
            @property
            def __class__(self): raise RuntimeError("not bound")
        LAZY, HIDDEN, ODD = Lazy(), Hidden(), {"odd": Unbound()}
        class Desk:
            def __init__(self): self.odd, self.table = {1: Unbound()}, {}
        DESK = Desk()
        """,
    )
    place.write("shop.py", "import hub\ndef price(n): return n\nhub.LAZY['price'] = hub.DESK.table['price'] = price\n"
                "hub.HIDDEN.append(price)\n")  # fmt: skip
    place.write(
        "main.py",
        """
        import relocate
        with relocate.enable(modules=["shop"], workers="local:1", fallback=False) as handle:
            import hub, shop
            print(hub.LAZY["price"] is hub.DESK.table["price"] is shop.price)
            print(shop.price(3), handle.statistics().remote)
        """,
    )
    done = place.python("main.py")
    assert (done.stdout, done.stderr) == ("True\n3 1\n", "")


def test_what_a_table_has_got_meanwhile_stays_and_one_that_takes_nothing_is_left_alone(place: Place) -> None:
    place.write("hub.py", "TABLE = {}\nclass Closed(dict): ...\nclosed = Closed()")
    place.write("shop.py", "import hub\ndef one(): ...\ndef two(): ...\nhub.TABLE.update(one=one, two=two, more=one)\n"
                "hub.closed['one'] = one")  # fmt: skip
    place.write(
        "main.py",
        """
        import hub, relocate
        def refuse(self, key, value): raise TypeError("closed")
        hub.Closed.__setitem__ = refuse
        hub.TABLE["one"] = 1
        with relocate.enable(modules=["shop"], workers="local:1"):
            import shop
            print(hub.TABLE == {"one": shop.one, "two": shop.two, "more": shop.one}, hub.closed)
            hub.TABLE["two"] = 2
        print(hub.TABLE)
        """,
    )
    done = place.python("main.py")
    assert (done.stdout, done.stderr) == ("True {}\n{'one': 1, 'two': 2}\n", "")


def test_a_child_forked_while_a_thread_loads_the_real_module_has_its_entries(place: Place) -> None:
    place.write("hub.py", "import threading\nTABLE = {}\ngate = begun = None")
    shop = """
        import hub

        def price(n):
            return 2 * n

        class Item: ...

        if hub.gate:
            hub.begun.set()
            hub.gate.wait()
        hub.TABLE["price"] = price
    """
    place.write("shop.py", shop)
    place.write(
        "main.py",
        """
        import os, threading, warnings
        import hub, relocate
        warnings.simplefilter("ignore")  # Python's own, of forks with threads
        hub.gate, hub.begun = threading.Event(), threading.Event()
        with relocate.enable(modules=["shop"], workers="local:1"):
            import shop
            thread = threading.Thread(target=lambda: shop.Item)
            thread.start()
            hub.begun.wait()
            assert not hub.TABLE
            child = os.fork()
            if not child:
                os._exit(hub.TABLE.get("price") is not shop.price)
            hub.gate.set()
            thread.join()
            print(os.waitpid(child, 0)[1], hub.TABLE["price"] is shop.price)
        """,
    )
    done = place.python("main.py")
    assert (done.stdout, done.stderr) == ("0 True\n", "")
