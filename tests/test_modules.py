"""Real modules, as users have them: relocated, they give what they give locally."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec

import pytest
from conftest import Place

# Each program prints what must be the same either way; nothing in it knows of relocation.
PROGRAMS = {
    "skimage.restoration": """
        import numpy as np
        from skimage import data, restoration
        image = data.camera()[::8, ::8] / 255
        print(round(float(restoration.denoise_tv_chambolle(image, weight=0.1).sum()), 6))
        print(round(float(restoration.denoise_nl_means(image, patch_size=3).sum()), 6))
        print(restoration.__name__)
    """,
    "skimage.segmentation": """
        from skimage import data
        from skimage.segmentation import slic, felzenszwalb
        import skimage.segmentation
        image = data.astronaut()[::8, ::8]
        print(slic(image, n_segments=20).max(), felzenszwalb(image).max(), sorted(skimage.segmentation.__all__)[:3])
    """,
    "scipy.ndimage": """
        import inspect
        import numpy as np
        import scipy.ndimage as ndi
        from scipy.ndimage import gaussian_filter, label
        a = np.arange(400.0).reshape(20, 20)
        out = gaussian_filter(a, sigma=2)
        out[0, 0] = 1  # writable
        print(round(float(out.sum()), 6), label(a > 200)[1], ndi.center_of_mass(a))
        print(list(inspect.signature(ndi.median_filter).parameters)[:3], ndi.zoom(a, 0.5).shape)
    """,
    "scipy.signal": """
        import numpy as np
        from scipy import signal
        b, a = signal.butter(3, 0.1)
        print(np.round(signal.filtfilt(b, a, np.sin(np.arange(50.0))), 9).tolist()[:5])
        print(signal.find_peaks(np.sin(np.arange(30.0)))[0].tolist(), signal.windows.hann(4).tolist())
    """,
    "numpy.linalg": """
        import numpy as np
        from numpy.linalg import LinAlgError
        a = np.array([[2.0, 1.0], [1.0, 3.0]])
        print(np.linalg.norm(a), np.linalg.inv(a).round(9).tolist(), np.linalg.eigh(a).eigenvalues.round(9).tolist())
        try:
            np.linalg.inv(np.zeros((2, 2)))
        except LinAlgError as error:
            print(type(error).__module__, error)
        try:
            np.linalg.norm(a, bad=1)
        except TypeError as error:
            print(error)
        print(np.polyfit([0, 1, 2], [0, 1, 2], 1).round(6).tolist(), np.linalg.norm.__module__)
    """,
    "networkx.algorithms.centrality": """
        import networkx
        graph = networkx.karate_club_graph()
        print(max(networkx.betweenness_centrality(graph).items(), key=lambda i: i[1]))
        print(networkx.algorithms.centrality.degree_centrality(graph)[0])
        from networkx.algorithms.centrality import closeness_centrality
        print(closeness_centrality(graph, 0), networkx.betweenness_centrality.__name__)
        try:
            networkx.eigenvector_centrality(networkx.Graph())
        except networkx.NetworkXException as error:
            print(type(error).__name__, error)
    """,
    "statistics": """
        import statistics
        from fractions import Fraction
        print(statistics.mean([Fraction(1, 2), 3]), statistics.quantiles(range(10)))
        print(statistics.linear_regression([1, 2], [3, 4]))
        print(statistics.NormalDist(1, 2).cdf(1.5), statistics.Fraction is Fraction)
        try:
            statistics.mean([])
        except statistics.StatisticsError as error:
            print(error)
        try:
            statistics.mean()
        except TypeError as error:
            print(error)
    """,
    "textwrap": """
        import textwrap
        print(textwrap.fill("the quick brown fox jumps over the lazy dog", 20), textwrap.dedent("  a\\n   b"))
        print(textwrap.TextWrapper(width=10).wrap("one two three four"), textwrap.__all__)
    """,
    "colorsys": """
        from colorsys import *
        import colorsys
        print(rgb_to_hsv(0.2, 0.4, 0.4), hls_to_rgb(0.1, 0.2, 0.3), colorsys.ONE_THIRD, colorsys.__doc__[:20])
    """,
    "single": """
        import single
        from single import double, LIMIT
        print(double(21), LIMIT, single.double.__doc__, single.__file__[-9:], single.double(y=1, x=2))
        try:
            double()
        except TypeError as error:
            print(error)
    """,
    "changes": """
        import changes
        import numpy as np
        items, large, seen = [3, 1, 2], np.zeros(100_000), []
        changes.sort(items)
        print(items, changes.fill(large, 2.0) is large, large.sum(), changes.same(items) is items)
        print(changes.apply(lambda x: seen.append(x) or x * 2, 4), seen)
        later = changes.later(items)
        items.append(9)
        print(later(), changes.pick({"a": items})["a"] is items)
    """,
    "pack": """
        import typing
        import pack.sub.inner
        from pack import price, Option, PriceError
        hints = typing.get_type_hints(pack.halve)
        print(hints, hints["return"] is Option)
        print(price(Option(3.0)), pack.sub.inner.square(4), pack.VERSION, isinstance(Option(1), pack.core.Option))
        try:
            price(Option(-1.0))
        except PriceError as error:
            print(error.args, type(error).__qualname__)
        print(repr(pack.halve(Option(8.0))), pack.sub.__name__)
    """,
}

FILES = {
    "single.py": """
        LIMIT = [1, 2]
        def double(x, y=None):
            "Twice."
            return x * 2
    """,
    "changes.py": """
        def sort(items):
            items.sort()
        def fill(array, value):
            array[:] = value
            return array
        def same(value):
            return value
        def apply(function, value):
            return function(value)
        def later(items):
            def total():
                return twice(sum(items))
            return total
        def each(items):
            for item in items:
                yield twice(item)
        def every(items):
            def all():
                return list(each(items))
            return all
        def twice(value):
            "Double.\\n\\n>>> twice(21)\\n42\\n"
            return value * 2
        def pick(mapping):
            return mapping
    """,
    "pack/__init__.py": "from .core import Option, PriceError, halve, price\nVERSION = '1.2'\n",
    "pack/core.py": """
        from dataclasses import dataclass
        from .sub.inner import square
        @dataclass
        class Option:
            strike: float
        class PriceError(ValueError):
            pass
        def price(option: Option, rate: float = 0.5) -> float:
            if option.strike < 0:
                raise PriceError("negative", option.strike)
            return square(option.strike) * rate
        def halve(option: Option) -> Option:
            return Option(option.strike / 2)
    """,
    "pack/sub/__init__.py": "",
    "pack/sub/inner.py": "def square(x):\n    return x * x\n",
}


@pytest.mark.parametrize("module", PROGRAMS)
def test_a_program_gives_the_same_and_every_call_is_remote(place: Place, module: str) -> None:
    for name, text in FILES.items():
        place.write(name, text)
    script = place.write("main.py", PROGRAMS[module])
    plain = place.python(str(script))
    assert plain.returncode == 0, plain.stderr
    for _ in range(2):  # described by an executor, then from the cache
        under = place.relocate("run", "-M", module, "-w", "1", "--report", "report.json", str(script))
        assert (under.stdout, under.returncode) == (plain.stdout, 0), under.stderr
        seen = place.report()
        assert seen["remote"] > 0
        assert seen["local"] == 0
        assert seen["retried"] == 0


CALLED = ["later", "twice", "every", "each"]


def test_a_function_that_a_relocated_one_made_uses_the_real_functions(place: Place) -> None:
    place.write("changes.py", FILES["changes.py"])
    program = """
        import changes
        print(changes.later([1, 2])(), changes.twice(4), changes.every([1, 2])(), list(changes.each([3])))
    """
    script = place.write("main.py", program)
    done = place.relocate("run", "-M", "changes", "-w", "1", "--report", "report.json", str(script))
    assert done.stdout == "6 8 [2, 4] [6]\n"
    # `later` and `every` made functions here, whose own calls of `twice` and `each` are not the program's.
    once = {"remote": 1, "local": 0}
    assert place.report()["members"] == dict.fromkeys([f"changes.{n}" for n in CALLED], once)


def test_an_exception_class_that_was_rebuilt_is_the_real_modules_wherever_that_holds_it(place: Place) -> None:
    module = """
        class Broken(ValueError):
            pass
        class Worse(Broken):
            pass
        Made = type("Made", (ValueError,), {"__module__": __name__})
        ERRORS = (KeyError, Broken)
        def closed():
            kind = Broken
            return lambda: kind
        class Shop:
            Error = Broken
            closed = staticmethod(closed())
            def sell(self, kind=Broken):
                raise self.Error(kind, ERRORS)
            def worse(self):
                raise Worse
            def made(self):
                raise Made
    """
    program = """
        import builtins, shop
        usual = builtins.__build_class__
        Broken, Made = shop.Broken, shop.Made
        print(type(shop).__name__, Broken is vars(shop)["Shop"].Error)  # the real module is loaded by now
        try:
            shop.Shop().sell()
        except Broken as error:
            print(type(error) is Broken, error.args[0] is Broken, error.args[1][1] is Broken)
        print(shop.Shop.closed() is Broken, shop.Broken is Broken, usual is builtins.__build_class__)
        for name, kind in [("worse", Broken), ("made", Made)]:
            try:
                getattr(shop.Shop(), name)()
            except kind as error:
                print(type(error).__name__)
    """
    place.write("shop.py", module)
    done = place.relocate("run", "-M", "shop", "-w", "1", str(place.write("main.py", program)))
    assert done.stdout == "ProxyModule True\nTrue True True\nTrue True True\nWorse\nMade\n", done.stderr


@pytest.mark.parametrize("before", ["", "import shop; "])
def test_the_constants_of_a_proxy_are_those_that_the_classes_compare_with(place: Place, before: str) -> None:
    place.write(
        "shop.py",
        """
        HIDDEN = "== hidden =="
        PAIR = ("a", ["b"])
        LIMIT = 5.5
        class Shop:
            def has(self, *items):
                return [item is own for item, own in zip(items, (HIDDEN, PAIR, LIMIT))]
        """,
    )
    enable = "import relocate; relocate.enable(modules=['shop'], workers=1); import shop; shop.LIMIT = 7; "
    ask = "one = shop.Shop(); print(one.has(shop.HIDDEN, shop.PAIR, shop.LIMIT), shop.LIMIT, type(shop).__name__)"
    done = place.python("-c", before + enable + ask)
    assert (done.stdout, done.stderr) == ("[True, True, False] 7 ProxyModule\n", "")


def test_a_constant_that_was_imported_before_its_class_is_the_one_that_the_class_compares_with(place: Place) -> None:
    place.write(
        "shop.py",
        """
        HIDDEN, TABLE, OWN = "== hidden ==", {"a": [1]}, [0]
        class Shop:
            def has(self, hidden, table):
                return hidden is HIDDEN, table is TABLE
        """,
    )
    program = """
        import relocate
        with relocate.enable(modules=["shop"], workers=1):
            import shop
            shop.OWN = own = [0]
            from shop import HIDDEN, TABLE, Shop
            print(Shop().has(HIDDEN, TABLE), HIDDEN is shop.HIDDEN, TABLE is shop.TABLE, shop.OWN is own)
        print(HIDDEN is shop.HIDDEN)
        import shop
        print(Shop().has(HIDDEN, TABLE), HIDDEN is shop.HIDDEN)
    """
    done = place.python(str(place.write("main.py", program)))
    assert (done.stdout, done.stderr) == ("(True, True) True True True\nTrue\n(True, True) True\n", "")


def test_a_package_that_loads_its_parts_when_they_are_asked_for_runs_here_too(place: Place) -> None:
    package = """
        import importlib

        def __getattr__(name):
            if name != "double":
                raise AttributeError(name)
            return importlib.import_module("late._part").double

        def __dir__():
            return ["double"]
    """
    place.write("late/__init__.py", package)
    place.write("late/_part.py", "def double(x): return half(x) * 4\ndef half(x): return x / 2\n")
    program = """
        import relocate
        with relocate.enable(modules=["late"], workers=1) as handle:
            import late
            print(late.double(2))
            handle.namespace.bind("/n/local/chan/late/double", "/chan/late/double")
            print(late.double(3), handle.statistics().remote, handle.statistics().local)
        print(late.double(4))
    """
    done = place.python(str(place.write("main.py", program)))
    assert done.stdout == "4.0\n6.0 1 1\n8.0\n", done.stderr[-2000:]


def test_what_doctest_runs_is_relocated(place: Place) -> None:
    place.write("changes.py", FILES["changes.py"])
    script = place.write("main.py", "import doctest, changes\nprint(doctest.testmod(changes))\n")
    done = place.relocate("run", "-M", "changes", "-w", "1", "--report", "report.json", str(script))
    assert done.stdout.startswith("TestResults(failed=0, attempted=1")
    assert place.report()["members"] == {"changes.twice": {"remote": 1, "local": 0}}


def test_the_client_does_not_load_what_it_relocates(place: Place) -> None:
    program = """
        import json, sys
        import scipy.ndimage, networkx
        scipy.ndimage.gaussian_filter([1.0, 2.0], 1)
        networkx.betweenness_centrality(networkx.path_graph(3))
        names = [n for n, m in sys.modules.items() if n.startswith(("scipy.ndimage", "networkx.algorithms.centrality"))]
        print(json.dumps({n: type(sys.modules[n]).__name__ for n in names}))
    """
    script = place.write("main.py", program)
    done = place.relocate("run", "-M", "scipy.ndimage,networkx.algorithms.centrality", "-w", "1", str(script))
    kinds = json.loads(done.stdout)
    assert set(kinds.values()) == {"ProxyModule"}


def test_a_class_is_not_made_because_somebody_looks_at_modules(place: Place) -> None:
    place.write("shop/__init__.py", "class Item: ...\nprint('loaded')")
    place.write("shop/part.py", "def price(n): return 2 * n\nclass Part: ...\nprint('loaded')")
    place.write("here.py", "import contextvars\nvariable = contextvars.ContextVar('variable')")
    program = """
        import here, relocate
        here.variable.set(1)  # whose module is looked for
        with relocate.enable(modules=["shop"], workers=1):
            import shop.part
            print(shop.part.price(2))
    """
    done = place.python(str(place.write("main.py", program)))
    assert (done.stdout, done.stderr) == ("4\n", "")


def test_names_that_a_module_gives_when_it_is_asked_are_there_and_their_warnings_are_the_askers(place: Place) -> None:
    old = """
        import warnings

        def twice(n):
            return 2 * n

        class Thing: ...

        def __getattr__(name):
            if name in ("double", "other"):
                warnings.warn(f"{name} is twice now", DeprecationWarning, stacklevel=2)
                return twice if name == "double" else lambda n: n
            if name == "Old":
                return Thing
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    """
    place.write("old/__init__.py", old)
    place.write("old/part.py", "def half(n): return n / 2\n")
    program = """
        import old
        print(old.double(2), old.double is old.twice, old.other(3), old.Old is old.Thing, hasattr(old, "part"))
        from old import part, Old
        print(part.half(3), Old is old.Thing, old.part is part)
        try:
            old.nothing
        except AttributeError as error:
            print(error)
    """
    script = place.write("main.py", program)
    plain = place.python(str(script))
    assert plain.stderr.count("DeprecationWarning: double is twice now") == 1, plain.stderr
    under = place.relocate("run", "-M", "old", "-w", "1", "--report", "report.json", str(script))
    assert (under.stdout, under.stderr) == (plain.stdout, plain.stderr)
    assert place.report()["remote"] == 2


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("test.test_statistics") is None, reason="this Python comes without its tests, as Debian's"
)
def test_statistics_own_test_suite_with_every_call_in_an_executor(place: Place) -> None:
    suite = ("-m", "unittest", "test.test_statistics")
    plain = place.python(*suite)
    done = place.python(
        *suite,
        RELOCATE_MODULES="statistics",
        RELOCATE_WORKERS="2",
        RELOCATE_REPORT=str(place.folder / "report.json"),
    )
    assert verdict(done.stderr) == verdict(plain.stderr) == ["OK"], done.stderr
    seen = place.report()
    assert seen["remote"] == seen["calls"] > 100_000
    assert all(where["local"] == 0 for where in seen["members"].values())
    assert sys.version_info >= (3, 11)


def verdict(text: str) -> list[str]:
    """What unittest says at the end."""
    return text.splitlines()[-1:]
