"""However a module is imported, and whatever is asked of it, a relocated program prints what it prints plainly."""

from __future__ import annotations

import textwrap
import zipfile

import pytest
from conftest import Place

FILES = {
    "pack/__init__.py": """
        \"\"\"A package.\"\"\"
        __all__ = ["price", "sub", "LIMIT"]
        LIMIT = 3
        from .core import price
        from . import sub
        hidden = 1
    """,
    "pack/core.py": "def price(n, rate=2):\n    return n * rate\n",
    "pack/sub/__init__.py": "from ..core import price as cost\nfrom .inner import deep\n",
    "pack/sub/inner.py": "from .. import core\ndef deep(n):\n    return core.price(n) + 1\n",
    "space/part/__init__.py": "def half(n):\n    return n / 2\n",
    "space/single.py": "def third(n):\n    return n / 3\n",
    "ring/__init__.py": "",
    "ring/a.py": "from . import b\ndef f(n):\n    return n + b.ONE\nTWO = 2\n",
    "ring/b.py": "import ring.a\nONE = 1\ndef g(n):\n    return n + ring.a.TWO\n",
    "itself.py": """
        import sys
        class Shop:
            def __init__(self):
                self.__name__ = __name__
            LIMIT = 7
            def price(self, n):
                return n * self.LIMIT
        sys.modules[__name__] = Shop()
    """,
    "tool.py": """
        import sys
        def double(n):
            return 2 * n
        if __name__ == "__main__":
            import pack
            print("main", sys.argv[1:], double(2), pack.price(3), __spec__.name)
    """,
    "runs/__init__.py": "",
    "runs/__main__.py": """
        import sys, pack
        from . import step
        print(sys.argv[1:], step.f(1), pack.price(2), __package__)
    """,
    "runs/step.py": "def f(n):\n    return n + 1\n",
    "caller.py": "from pack import price\nfrom pack.sub import deep as d\ndef call(n):\n    return price(n), d(n)\n",
}

IMPORTS = {
    "import": """
        import pack
        print(pack.price(1), pack.sub.deep(2), pack.sub.cost(3), pack.__name__, pack.__path__[0][-4:])
    """,
    "import as": """
        import pack.sub.inner as i, pack as p
        print(i.deep(1), p.price(2), i.__name__, p.sub.inner is i)
    """,
    "from import": """
        from pack import price, sub, LIMIT
        from pack.sub.inner import deep as d
        print(price(2), d(1), sub.cost(2), LIMIT)
    """,
    "import *": """
        from pack import *
        print(price(1), sub.deep(1), LIMIT, "hidden" in globals())
        print(sorted(n for n in globals() if not n.startswith("_")))
        from pack.core import *
        print(price(4))
    """,
    "import of what is not there": """
        try:
            from pack import nothing
        except ImportError as error:
            print(type(error).__name__, error.name, str(error).split("(")[0])
        try:
            import pack.nothing
        except ImportError as error:
            print(type(error).__name__, error.name, str(error).removesuffix(", here or on a worker"))
        try:
            import pack.core.price
        except ImportError as error:
            print(type(error).__name__, error)
        try:
            import packer
        except ImportError:
            packer = None
        try:
            import pack
        except ImportError:
            pack = None
        print(packer, pack.price(1))
    """,
    "relative import": """
        import caller, importlib
        print(caller.call(2), importlib.import_module(".core", "pack").price(3))
        from pack.sub.inner import core
        print(core.price(1))
    """,
    "namespace package": """
        import space.part, space.single
        from space.part import half
        import space
        print(half(3), space.single.third(9), getattr(space, "__file__", None), len(list(space.__path__)))
    """,
    "zipped": """
        import sys
        sys.path.insert(0, "zipped.zip")
        import parcel, parcel.inner, inspect, pkgutil
        print(parcel.weigh(2), parcel.inner.deep(3), "zipped.zip" in parcel.__file__, inspect.getsource(parcel.weigh))
        print(pkgutil.get_data("parcel", "data.txt"))
        import importlib.resources
        print(importlib.resources.files("parcel").joinpath("data.txt").read_text())
    """,
    "import_module": """
        import importlib, sys
        m = importlib.import_module("pack.core")
        print(m.price(2), m is sys.modules["pack.core"], importlib.import_module("pack").core is m)
        print(__import__("pack").core is m)
        print(__import__("pack.core", fromlist=["price"]) is m)
    """,
    "circular import": """
        import ring.b
        from ring import a
        print(a.f(1), ring.b.g(1), a.b is ring.b)
    """,
    "a module that replaces itself": """
        import itself
        from itself import LIMIT, price
        import sys
        print(itself.price(2), LIMIT, price(1), itself is sys.modules["itself"], itself.__name__)
    """,
    "two imports give one object": """
        import pack, pack.core, sys, importlib
        from pack import price
        from pack.core import price as again
        import pack as third
        print(price is again is pack.price is pack.core.price, third is pack, pack.sub.cost is price, price == again)
        print(hash(price) == hash(again), importlib.import_module("pack") is pack, {pack: 1}[third])
        print(price(1))
    """,
    "the parts of a spec": """
        import pack, pack.core, pack.sub, pkgutil, importlib.util
        for m in (pack, pack.core, pack.sub):
            s = m.__spec__
            print(s.name, s.origin == m.__file__, s.parent, s.has_location, m.__package__, m.__cached__ == s.cached)
            print(m.__loader__ is s.loader, hasattr(m, "__path__"), importlib.util.find_spec(m.__name__) is s)
        print([x.name for x in pkgutil.iter_modules(pack.__path__)])
        print([x.name for x in pkgutil.walk_packages(pack.__path__, "pack.")])
        print(pack.price(1), pack.core.__file__.endswith("core.py"), repr(pack)[:14])
        print(pkgutil.resolve_name("pack.sub:deep")(1), pkgutil.resolve_name("pack.core.price")(1))
    """,
}


def lay(place: Place) -> None:
    for name, text in FILES.items():
        place.write(name, text)
    with zipfile.ZipFile(place.folder / "zipped.zip", "w") as archive:
        archive.writestr("parcel/__init__.py", "def weigh(n):\n    return n * 5\n")
        archive.writestr("parcel/inner.py", "from . import weigh\ndef deep(n):\n    return weigh(n) + 1\n")
        archive.writestr("parcel/data.txt", "in the parcel")


ALL = "pack,space,ring,itself,parcel"


def alike(place: Place, program: str, modules: str = ALL, *options: str) -> dict[str, object]:
    """Run it plainly and relocated: it has to print the same; the report."""
    script = place.write("main.py", textwrap.dedent(program).strip("\n") + "\n")
    plain = place.python(str(script))
    assert plain.returncode == 0, plain.stderr
    done = place.relocate("run", "-M", modules, "-w", "1", *options, "--report", "report.json", str(script))
    assert (done.stdout, done.returncode) == (plain.stdout, 0), done.stderr
    assert "RelocateWarning" not in done.stderr
    report = place.report()
    assert report["remote"] > 0  # type: ignore[operator]
    return report


@pytest.mark.parametrize("form", IMPORTS)
def test_however_it_is_imported_it_is_the_same_and_remote(place: Place, form: str) -> None:
    lay(place)
    assert alike(place, IMPORTS[form])["local"] == 0


def test_a_module_that_cannot_be_reloaded_stays_what_it_was(place: Place) -> None:
    program = """
        import importlib
        with open("rate.py", "w") as file:
            file.write("LIMIT = 1\\ndef of(n):\\n    return n * 2\\n")
        import rate
        from rate import of
        rate.added = "mine"
        with open("rate.py", "w") as file:
            file.write("LIMIT = 20000\\ndef of(n):\\n    return n * 300\\nraise LookupError('broken')\\n")
        try:
            importlib.reload(rate)
        except ImportError as error:
            print(error)
        print(rate.of is of, rate.added, importlib.import_module("rate") is rate)
        with open("rate.py", "w") as file:
            file.write("LIMIT = 3\\ndef of(n):\\n    return n * 5000\\n")
        print(importlib.reload(rate) is rate, rate.of(1), rate.LIMIT, rate.added)
    """
    place.write("main.py", program)
    place.write("rate.py", "def of(n):\n    return n\n")
    done = place.relocate("run", "-M", "rate", "-w", "1", "main.py", PYTHONDONTWRITEBYTECODE="1")
    assert done.stdout == "'rate' cannot be described any more\nTrue mine True\nTrue 5000 3 mine\n", done.stderr
    assert "importing 'rate' fails: LookupError('broken')" in done.stderr


@pytest.mark.parametrize("arguments", [("-m", "tool", "x"), ("-m", "runs", "y"), ("-m", "pack.sub.inner")])
def test_python_m_runs_the_program_here_and_its_calls_there(place: Place, arguments: tuple[str, ...]) -> None:
    lay(place)
    plain = place.python(*arguments)
    assert plain.returncode == 0, plain.stderr
    done = place.python(*arguments, RELOCATE_MODULES="pack", RELOCATE_WORKERS="1", RELOCATE_REPORT="report.json")
    assert (done.stdout, done.returncode) == (plain.stdout, 0), done.stderr
    assert (place.report()["remote"], place.report()["local"]) == (0 if "inner" in arguments[1] else 1, 0)


def test_many_threads_import_at_once(place: Place) -> None:
    for number in range(12):
        other = f"from . import m{number + 1}" if number < 11 else ""
        place.write(f"many/m{number}.py", f"{other}\ndef f(n):\n    return n + {number}\n")
    place.write("many/__init__.py", "def g():\n    return 'g'\n")
    program = """
        import importlib, sys, threading
        sys.setswitchinterval(1e-6)
        begin, found = threading.Barrier(24), []
        def load(i):
            begin.wait(30)
            module = importlib.import_module(f"many.m{i % 12}")
            import many
            found.append((i % 12, module.f(1), many.g(), module is sys.modules[module.__name__]))
        threads = [threading.Thread(target=load, args=[i]) for i in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        print(sorted(set(found)), len(found))
    """
    assert alike(place, program, "many")["local"] == 0


def test_a_designated_part_of_a_local_package_is_relocated_and_the_rest_is_what_it_was(place: Place) -> None:
    program = """
        import numpy as np, numpy, numpy.linalg, sys
        a = np.array([[2.0, 1.0], [1.0, 3.0]])
        print(np.linalg.norm(a).round(6), np.polyfit([0, 1, 2], [0, 1, 4], 2).round(6).tolist())
        print(np.linalg.det(a).round(6), np.cov(a).shape, np.random.default_rng(1).multivariate_normal([0, 0], a).shape)
        print(type(a), numpy.add(1, 2), numpy.linalg is sys.modules["numpy.linalg"] is np.linalg)
    """
    report = alike(place, program, "numpy.linalg")
    assert report["local"] == 0


def test_what_the_interpreter_has_loaded_already_is_relocated_too(place: Place) -> None:
    program = """
        import sys
        print({"posixpath", "codecs", "stat", "genericpath"} <= set(sys.modules))
        import os, posixpath, json
        print(os.path.basename("a/b"), posixpath.join("a", "b"), json.dumps({"a": [1]}))
        print(json.loads("[1, 2]"), os.path is posixpath, open(__file__).read()[:6])
    """
    report = alike(place, program, "posixpath,json")
    assert {"posixpath.join", "json.dumps"} <= set(report["members"])  # type: ignore[call-overload]


LATE = """
    import functools, logging, sys
    import pack, pack.core, other
    from pack import price
    from pack.core import price as again
    from functools import partial

    HANDLERS, TABLE = [price, 3], {"a": {"b": price}}
    def default(f=price):
        return f(1)
    def made():
        f = pack.sub.deep
        return lambda: f(1)
    INNER, PART, MODULES = made(), partial(price, 2), (pack,)
    class Desk:
        cost = price
        def __init__(self):
            self.own = price
    DESK = Desk()
    events = []
    class Keep(logging.Handler):
        def emit(self, record):
            events.append(record.relocate)
    logger = logging.getLogger("relocate.events")
    logger.setLevel(logging.INFO)
    logger.addHandler(Keep())
    def state():
        loaded = [m for n, m in sorted(sys.modules.items()) if n.startswith("pack")]
        return list(map(id, (*loaded, price, again, other.price, other.core, other.s, pack)))
    before = state()

    import relocate
    handle = relocate.enable(modules=["pack"], workers=1)
"""


def test_what_was_not_reached_is_looked_for_when_asked_and_objects_are_not_asked_what_they_are(place: Place) -> None:
    place.write("pack.py", "def price(n): return n\n")
    program = """
    import logging, pack
    logging.basicConfig(level=logging.INFO)
    class Lazy:
        def __init__(self, held): self.held = held
        def __getattr__(self, name): raise RuntimeError("not bound yet")
        @property
        def __class__(self): raise RuntimeError("not bound yet")
    LAZY = Lazy(pack.price)
    import relocate
    with relocate.enable(modules=["pack"], workers=1) as handle:
        print(handle.unreached)
    logging.getLogger("relocate.events").setLevel(logging.INFO)
    with relocate.enable(modules=["pack"], workers=1) as handle:
        pass
    """
    done = place.python(str(place.write("main.py", program)))
    assert done.stdout == "('pack.price in an object of __main__.Lazy',)\n", done.stderr
    assert done.stderr.count("were not exchanged") == 1, done.stderr


def test_enabling_again_leaves_modules_importable_and_functions_picklable(place: Place) -> None:
    place.write("pack/__init__.py", "def price(n): return n\n")
    place.write("pack/sub.py", "def deep(n): return n + 1\n")
    program = """
    import importlib, pickle, sys, relocate
    relocate.enable(modules=["pack"], workers=1)
    import pack, pack.sub
    from pack.sub import deep
    handle = relocate.enable(modules=["pack"], workers=1)  # a notebook's cell is run again
    print(sys.modules["pack"] is pack, sys.modules["pack.sub"] is pack.sub, deep is pack.sub.deep)
    print(pickle.loads(pickle.dumps(deep)) is deep, importlib.reload(pack) is pack)
    print(deep(1), pack.price(1), handle.statistics().remote)
    handle.disable()
    print(deep(1), pack.price(1))
    """
    done = place.python(str(place.write("main.py", program)))
    assert done.stdout == "True True True\nTrue True\n2 1 2\n2 1\n", done.stderr


def test_a_reload_of_what_is_no_python_leaves_the_module_as_it_is(place: Place) -> None:
    place.write("rate.py", "def of(n): return n\n")
    program = """
    import importlib, relocate
    relocate.enable(modules=["rate"], workers=1)
    import rate
    with open("rate.py", "w") as file:
        file.write("def of(n: return n\\n")
    try:
        importlib.reload(rate)
    except SyntaxError as error:
        print(error.filename.endswith("rate.py"), error.lineno)
    print(rate.of(1))
    """
    done = place.python(str(place.write("main.py", program)))
    assert done.stdout == "True 1\n1\n", done.stderr


def test_enabling_late_exchanges_names_and_tells_what_it_could_not_reach(place: Place) -> None:
    lay(place)
    place.write("other.py", "from pack import price, core\nimport pack.sub as s\nHELD = {price: 1}\n")
    program = (
        LATE
        + """
    print(price(1), again(1), other.price(1), other.core.price(1), other.s.deep(1), pack.price(1), pack.sub.deep(1))
    print(handle.statistics().remote, handle.statistics().local)
    print(price is pack.price is other.price is again, state() == before)
    HANDLERS[0](1), DESK.own(1), INNER()
    print(handle.statistics().calls)
    print(*handle.unreached, sep="\\n")
    print([e["count"] for e in events if e["event"] == "not reached"])
    HANDLERS.clear()
    print("pack.core.price in a list in __main__.HANDLERS" in handle.unreached)
    handle.disable()
    print(state() == before, handle.unreached)
    print(pack.core is sys.modules["pack.core"], pack.sub.inner is sys.modules["pack.sub.inner"])
    """
    )
    done = place.python(str(place.write("main.py", program)))
    assert done.stdout.splitlines() == [
        "2 2 2 2 3 2 3",
        "7 0",
        "True False",
        "7",
        "pack in __main__.MODULES",
        "pack.price among the defaults of __main__.default",
        "pack.price in __main__.TABLE",
        "pack.price in a functools.partial in __main__.PART",
        "pack.price in a list in __main__.HANDLERS",
        "pack.price in an object of __main__.Desk",
        "pack.price in other.HELD",
        "pack.price in the class __main__.Desk",
        "pack.sub.deep in the closure of __main__.made.<locals>.<lambda>",
        "[9]",
        "False",
        "True ()",
        "True True",
    ], done.stderr
    assert "Warning" not in done.stderr
