"""What is said of functions, from their source alone."""

from __future__ import annotations

import doctest
import textwrap
from typing import Any

import pytest

from relocate import purity
from relocate.purity import Finding, Source, Verdict, verdicts


def look(text: str, name: str = "m", **others: str) -> dict[str, Verdict]:
    """The verdicts on a module, by the functions' names; ``others`` are modules too (``p__q`` is p.q)."""
    texts = {name: text, **{key.replace("__", "."): value for key, value in others.items()}}

    def find(wanted: str) -> Source | None:
        if wanted not in texts:
            return None
        package = any(other.startswith(f"{wanted}.") for other in texts)
        return Source(wanted, f"{wanted.replace('.', '/')}.py", textwrap.dedent(texts[wanted]), package)

    below = [key for key in texts if key.startswith(f"{name}.")]
    return {v.name.removeprefix(f"{name}."): v for v in purity.check(name, find, below)}


def one(text: str, **others: str) -> Verdict:
    """The verdict on the function ``f``."""
    return look(text, **others)["f"]


def kinds(verdict: Verdict) -> set[str]:
    return {f.kind for f in verdict.findings}


PURE = {
    "arithmetic": "def f(x): return 2 * x",
    "a list of its own": "def f(n):\n    made = []\n    made.append(n)\n    made[0] += 1\n    return made",
    "a copy of an argument": "def f(x):\n    x = list(x)\n    x.append(1)\n    x[0] = 2\n    return x",
    "a copy by slicing arithmetic": "def f(x):\n    y = x + 1\n    y[0] = 2\n    return y",
    "a copying method": "def f(x):\n    x = x.copy()\n    x[0] = 1\n    x.sort()\n    return x",
    "a deep copy": "import copy\ndef f(x):\n    y = copy.deepcopy(x)\n    y[0].append(1)\n    return y",
    "a copy if it is asked for": "def f(x, copy=True):\n    if copy:\n        x = list(x)\n    return x",
    "numbers counted down": (
        "def f(n):\n    total = 0\n    while n:\n"
        "        total += n\n        n -= 1\n    return total"
    ),
    "text put together": "def f(text):\n    text += '!'\n    return text",
    "a loop over an argument": "def f(rows):\n    for n in rows:\n        n += 1\n    return n",
    "a comprehension": "def f(rows): return {k: [v for v in vs] for k, vs in rows}",
    "lists in a dictionary": (
        "def f(g):\n    d = {}\n    for v in g:\n"
        "        d[v] = []\n        d[v].append(v)\n    return d"
    ),
    "a shadowed name": "cache = {}\ndef f(n):\n    cache = {}\n    cache[n] = 1\n    return cache",
    "a shadowed module": "import random\ndef f(random): return random.random()",
    "a shadowed built-in": "def open(x): return x\ndef f(x): return open(x)",
    "nonlocal": "def f():\n    n = 0\n    def up():\n        nonlocal n\n        n += 1\n    up()\n    return n",
    "a local list filled by an inner function": (
        "def f(n):\n    r = []\n    def put(x): r.append(x)\n"
        "    put(n)\n    return r"
    ),
    "a decorator's wrapper": "import time\ndef f(g):\n    def timed(): return g(), time.time()\n    return timed",
    "a seeded generator": "import random\ndef f(seed): return random.Random(seed).random()",
    "a seeded NumPy generator": "import numpy as np\ndef f(): return np.random.default_rng(3).normal()",
    "a generator given": "def f(rng): return rng.normal() + rng.random()",
    "a constant of the module": "SIZES = {1: 2}\ndef f(n): return SIZES.get(n, SIZES[1])",
    "print": "import sys\ndef f(x):\n    print(x)\n    print(x, file=sys.stderr)\n    sys.stdout.write('a')",
    "a cached function": "from functools import lru_cache\n@lru_cache(maxsize=None)\ndef f(n): return n",
    "a cache looked up with in": "C = {}\ndef f(n):\n    if n not in C:\n        C[n] = n * 2\n    return C[n]",
    "a cache looked up with get": (
        "C = {}\ndef f(n):\n    v = C.get(n)\n"
        "    if v is None:\n        v = C[n] = n\n    return v"
    ),
    "a cache looked up with try": (
        "C = {}\ndef f(n):\n    try:\n        return C[n]\n    except KeyError:\n        C[n] = v = n\n        return v"
    ),
    "a cache that is cut": (
        "C = {}\ndef f(n):\n    if n in C: return C[n]\n    if len(C) > 9: C.clear()\n    C[n] = n\n    return n"
    ),
    "something made once": "T = None\ndef f():\n    global T\n    if T is None:\n        T = [1]\n    return T",
    "something made once on an object": "import threading\nL = threading.local()\ndef f():\n"
    "    if not hasattr(L, 'x'):\n        L.x = 1\n    return L.x",
    "a cache in a default": "def f(n, seen={}):\n    if n not in seen:\n        seen[n] = n\n    return seen[n]",
    "path arithmetic": "import os.path\ndef f(a, b): return os.path.join(a, os.path.basename(b), os.sep)",
    "an error about the environment": "import os\ndef f(x):\n    if os.environ.get('A') != '1':\n"
    "        raise RuntimeError('no')\n    return x",
    "a loaded module asked for": "import sys\ndef f(x): return 'numpy' in sys.modules and sys.maxsize > x",
    "a generator function": "def f(n):\n    for i in range(n):\n        yield i",
    "a lambda": "f = lambda x: x + 1",
    "an object of its own": "class P:\n    def __init__(self): self.n = 0\n    def up(self): self.n += 1\n"
    "def f():\n    p = P()\n    p.up()\n    p.n = 3\n    return p.n",
    "a call through a value": "def f(g, x): return g(x)",
    "another package": "import numpy as np\ndef f(x): return np.linalg.norm(np.asarray(x))",
    "warnings": "import warnings\ndef f(x):\n    warnings.warn('careful')\n    return x",
    "new objects of a method": "def f(frame, other): return frame.append(other).update(1).sort()",
    "masked copies": (
        "import numpy as np\ndef f(x):\n    y = x[x > 0]\n    y[0] = 1\n"
        "    z = x[np.where(x)]\n    z += 1\n    return y, z"
    ),
    "a copy that a flag tells of": (
        "def f(x):\n    new = False\n    if len(x) > 3:\n        x = list(x)\n"
        "        new = True\n    if new:\n        x.append(1)\n    return x"
    ),
    "a copy made by another function": (
        "def take(x, copy=True):\n    if copy:\n        return x.copy()\n    return x\n"
        "def f(x, copy_x=True):\n    x = take(x, copy=copy_x)\n    x[0] = 1\n    return x"
    ),
    "recursion": "def f(n): return n and g(n - 1)\ndef g(n): return f(n)",
    "id as a key": "def f(x, memo=()): return 1 if id(x) in memo else 2",
    "a copy by a full slice": "def f(x):\n    y = x[:]\n    y.append(1)\n    return y",
    "keys": "def f(d):\n    for k, v in d.items():\n        k.append(v)",
    "one of two that are zipped": "def f(x, n):\n    for a, b in zip(x, [[] for _ in n]):\n        b.append(a)",
    "nothing": "def f(x):\n    if x is not None:\n        x = list(x)\n    x.append(1)",
    "a match statement": (
        "def f(x):\n    match x:\n        case [a, *b]:\n            b = list(b)\n"
        "            b.append(a)\n            return b\n    return None"
    ),
    "an asynchronous function": "async def f(x):\n    async with x as y:\n        return await y",
}  # fmt: skip


@pytest.mark.parametrize("text", PURE.values(), ids=PURE.keys())
def test_these_are_pure(text: str) -> None:
    found = one(text)
    assert (found.verdict, [str(f) for f in found.findings]) == ("pure", [])
    assert found.fit


IMPURE = {
    "global": ("global", "n = 0\ndef f():\n    global n\n    n += 1"),
    "a registry": ("global", "R = {}\ndef f(name, x):\n    if name in R: raise KeyError(name)\n    R[name] = x"),
    "a counter": ("global", "N = {}\ndef f(k):\n    N[k] = N.get(k, 0) + 1\n    return N[k]"),
    "a list of the module": ("global", "SEEN = []\ndef f(x): SEEN.append(x)"),
    "an alias of it": ("global", "SEEN = []\ndef f(x):\n    here = SEEN\n    here.append(x)"),
    "something in it": ("global", "ROWS = [[]]\ndef f(x):\n    for row in ROWS:\n        row.append(x)"),
    "an item deleted": ("global", "R = {}\ndef f(x): del R[x]"),
    "an attribute of a module": ("global", "import other\ndef f(x): other.level = x"),
    "an attribute of a class": ("global", "class A: n = 0\ndef f(): A.n = 1"),
    "a class method": ("global", "class A:\n    n = 0\n    @classmethod\n    def up(cls): cls.n += 1\ndef f(): A.up()"),
    "a mutable default": ("global", "def f(x, seen=[]):\n    seen.append(x)\n    return seen"),
    "globals()": ("global", "def f(x): globals()['a'] = x"),
    "a counter of itertools": ("global", "import itertools\nC = itertools.count()\ndef f(): return next(C)"),
    "the recursion limit": ("global", "import sys\ndef f(): sys.setrecursionlimit(9)"),
    "the decimal context": ("global", "from decimal import getcontext\ndef f(): getcontext().prec = 3"),
    "open": ("io", "def f(p):\n    with open(p) as file:\n        return file.read()"),
    "pathlib": ("io", "from pathlib import Path\ndef f(p): return Path(p).read_text()"),
    "a module of os": ("io", "import os\ndef f(p): return os.listdir(p)"),
    "os.path": ("io", "from os import path\ndef f(p): return path.exists(p)"),
    "a socket": ("io", "import socket as s\ndef f(): return s.create_connection(('a', 1))"),
    "a process": ("io", "from subprocess import run\ndef f(): return run(['ls'])"),
    "NumPy's files": ("io", "import numpy as np\ndef f(p): return np.load(p)"),
    "the standard input": ("io", "import sys\ndef f(): return sys.stdin.read()"),
    "time": ("time", "import time\ndef f(): return time.perf_counter()"),
    "time under another name": ("time", "from time import time as now\ndef f(): return now()"),
    "today": ("time", "import datetime as d\ndef f(): return d.datetime.now(), d.date.today()"),
    "a clock handed on": ("time", "import time\ndef f(g): return g(clock=time.monotonic)"),
    "random": ("random", "import random\ndef f(): return random.gauss(0, 1)"),
    "a name from random": ("random", "from random import choice as pick\ndef f(x): return pick(x)"),
    "NumPy's random": ("random", "import numpy as np\ndef f(): return np.random.rand(3)"),
    "an unseeded generator": ("random", "import numpy as np\ndef f(): return np.random.default_rng().normal()"),
    "a generator without a seed": ("random", "from random import Random\ndef f(): return Random().random()"),
    "a generator of the module": ("random", "import random\nR = random.Random(1)\ndef f(): return R.random()"),
    "uuid": ("random", "import uuid\ndef f(): return uuid.uuid4()"),
    "secrets": ("random", "import secrets\ndef f(): return secrets.token_hex()"),
    "urandom": ("random", "import os\ndef f(): return os.urandom(3)"),
    "environ": ("environment", "import os\ndef f(): return os.environ['HOME']"),
    "getenv": ("environment", "from os import getenv\ndef f(): return getenv('HOME')"),
    "getcwd": ("environment", "import os\ndef f(): return os.getcwd()"),
    "argv": ("environment", "import sys\ndef f(): return sys.argv[1:]"),
    "locale": ("environment", "import locale\ndef f(): return locale.localeconv()"),
    "sorting by id": ("identity", "def f(x): return sorted(x, key=id)"),
    "an id given back": ("identity", "def f(x): return id(x)"),
    "everything of a module": ("random", "from random import *\ndef f(): return randint(1, 2)"),
    "another name for it": ("time", "import time\nnow = time.time\ndef f(): return now()"),
    "another name for a function": ("time", "import time\ndef _g(): return time.time()\ng = _g\ndef f(): return g()"),
    "an import inside": ("time", "def f():\n    import time as t\n    return t.time()"),
    "in a comprehension": ("random", "import random\ndef f(n): return [random.random() for _ in range(n)]"),
    "in a lambda": ("random", "import random\ndef f(x): return sorted(x, key=lambda _: random.random())"),
    "in an inner function": ("time", "import time\ndef f():\n    def now(): return time.time()\n    return now() + 1"),
    "in an inner function handed on": ("time", (
        "import time\ndef f(x):\n"
        "    def k(_): return time.time()\n    return map(k, x)"
    )),
    "in a generator function": ("time", "import time\ndef f():\n    while True:\n        yield time.time()"),
    "in a decorated function": ("time", "import functools, time\n@functools.cache\ndef f(): return time.time()"),
    "in a default branch": ("time", (
        "import time\ndef f(x):\n    try:\n        return x()\n"
        "    except ValueError:\n        return time.time()"
    )),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "text"), IMPURE.values(), ids=IMPURE.keys())
def test_these_are_impure(kind: str, text: str) -> None:
    found = one(text)
    assert (found.verdict, kinds(found)) == ("impure", {kind})
    assert not found.fit


CHANGES = {
    "append": "def f(x): x.append(1)",
    "sort": "def f(x):\n    x.sort()\n    return x",
    "pop": "def f(x): return x.pop()",
    "an item": "def f(x): x[0] = 1",
    "an item of an item": "def f(x): x[0][1] = 1",
    "an attribute": "def f(x): x.name = 1",
    "an attribute by name": "def f(x): setattr(x, 'name', 1)",
    "an item deleted": "def f(x): del x[0]",
    "an item counted up": "def f(x): x[0] += 1",
    "an array counted up": "def f(x):\n    x *= 2\n    return x.reshape(-1)",
    "a list made longer": "def f(x): x += [1]",
    "an annotated list made longer": "def f(x: list[int], y): x += y",
    "a view": "import numpy as np\ndef f(x):\n    y = np.asarray(x).reshape(-1)\n    y[0] = 1",
    "an alias": "def f(x):\n    y = x\n    y.append(1)",
    "an element": "def f(rows):\n    for row in rows:\n        row.append(1)",
    "an element of a copy": "def f(rows):\n    for row in list(rows):\n        row.append(1)",
    "an element that is unpacked": "def f(rows):\n    for i, (a, b) in enumerate(rows):\n        a.append(b)",
    "one of two": "def f(x, y):\n    z = x if y else []\n    z.append(1)",
    "after a branch": "def f(x, n):\n    if n:\n        x = list(x)\n    x.append(1)",
    "in a loop": "def f(x):\n    y = []\n    for i in range(3):\n        y.append(1)\n        y = x",
    "through another list": "def f(x):\n    both = [x]\n    both[0].append(1)",
    "an output handed on": "import numpy as np\ndef f(x, out): return np.add(x, 1, out=out)",
    "heapq": "import heapq\ndef f(x): heapq.heappush(x, 1)",
    "NumPy": "import numpy as np\ndef f(x): np.fill_diagonal(x, 1)",
    "shuffle": "def f(x, rng): rng.shuffle(x)",
    "a written file": "def f(x, file): file.write(x)",
    "by a helper": "def g(a, b): b.append(a)\ndef f(x): g(1, x)",
    "by a helper that is given it by name": "def g(a, b=None): b.append(a)\ndef f(x): g(1, b=x)",
    "by a helper that gives it back": "def g(a): return a\ndef f(x): g(x).append(1)",
    "by an inner function": "def f(x):\n    def g(): x.append(1)\n    g()",
    "by an inner function that is given it": "def f(x):\n    def g(y): y.append(1)\n    g(x)",
    "by a method": "class A:\n    def up(self): self.n = 1\ndef g(a): A.up(a)\ndef f(x): g(x)",
    "with walrus": "def f(x):\n    if (y := x): y.append(1)",
}  # fmt: skip


@pytest.mark.parametrize("text", CHANGES.values(), ids=CHANGES.keys())
def test_these_change_their_arguments(text: str) -> None:
    found = one(text)
    assert (found.verdict, kinds(found)) == ("changes arguments", {"argument"})
    assert found.fit


# Conditions --------------------------------------------------------------------------------------

GIVEN = {
    "a seed": "import numpy as np\ndef f(n, seed=None): return np.random.default_rng(seed).normal(n)",
    "a seed by name": "import random\ndef f(seed=None):\n    r = random.Random(x=seed)\n    return r.random()",
    "a time": "import time\ndef f(seed=None):\n    if seed is None:\n        seed = time.time()\n    return seed",
    "a time unless there is one": "import time\ndef f(seed=None): return seed or time.time()",
    "a conditional expression": "import time\ndef f(seed=None): return time.time() if seed is None else seed",
    "what is left": (
        "import time\ndef f(seed=None):\n    if seed is not None:\n        return seed\n    return time.time()"
    ),
    "by a helper": (
        "import numpy as np\ndef check(seed):\n    if seed is None or seed is np.random:\n"
        "        return np.random.mtrand._rand\n    return seed\ndef f(x, seed=None): return check(seed).normal(x)"
    ),
    "by an object": (
        "import numpy as np\nclass A:\n    def __init__(self, n, seed=None):\n        self.seed = seed\n"
        "    def draw(self): return np.random.default_rng(self.seed).normal()\n"
        "def f(n, seed=None): return A(n, seed=seed).draw()"
    ),
}


@pytest.mark.parametrize("text", GIVEN.values(), ids=GIVEN.keys())
def test_these_are_pure_if_a_parameter_is_given(text: str) -> None:
    found = one(text)
    assert (found.verdict, found.given, found.unless) == ("pure", ("seed",), ())
    assert found.fit
    assert "unless seed is given" in str(found.findings[0])


UNLESS = {
    "a flag": "import time\ndef f(x, verbose=False):\n    if verbose:\n        print(time.time())\n    return x",
    "a level": "import time\ndef f(x, verbose=0):\n    if verbose > 1:\n        print(time.time())\n    return x",
    "a copy by default": "def f(x, verbose=False):\n    if not verbose:\n        x = x.copy()\n    x[0] = 1",
    "a copy if it is wanted": "def f(x, verbose=True):\n    x = x.copy() if verbose else x\n    x[0] = 1",
    "a copy that is not wanted": "def f(x, verbose=True):\n    if not verbose:\n        x.append(1)\n    return x",
    "a file": "def f(x, verbose=None):\n    if verbose is not None:\n        open(verbose)\n    return x",
    "a mode": "def f(x, verbose='no'):\n    if verbose == 'file':\n        open(x)\n    return x",
    "an output": "def f(n, verbose=None):\n    if verbose is None:\n        verbose = []\n    verbose.append(n)",
    "an output handed on": "def g(n, out=None): out[0] = n\ndef f(n, verbose=None): g(n, verbose)",
    "either call": "def g(p=None):\n    if p: open(p)\ndef f(x, verbose=None): return g() if x else g(verbose)",
    "and": "import time\ndef f(x, verbose=False): return verbose and time.time()",
    "by a helper": (
        "def g(x, loud=False):\n    if loud:\n        open(x)\ndef f(x, verbose=False): g(x, loud=verbose > 1)"
    ),
}


@pytest.mark.parametrize("text", UNLESS.values(), ids=UNLESS.keys())
def test_these_are_pure_unless_a_parameter_is_given(text: str) -> None:
    found = one(text)
    conditions = (found.changing, found.unless) if kinds(found) == {"argument"} else (found.unless, found.changing)
    assert (found.verdict, found.given, *conditions) == ("pure", (), ("verbose",), ())
    assert "if verbose is given" in str(found.findings[0])


def test_a_helper_that_is_given_what_it_needs_is_pure() -> None:
    helper = "import random\ndef g(seed=None, loud=False):\n    if loud: open('x')\n    return random.Random(seed)\n"
    assert one(helper + "def f(): return g(3)").findings == ()
    assert one(helper + "def f(): return g(seed=1, loud=False)").findings == ()
    assert one(helper + "def f(): return g()").verdict == "impure"
    assert one(helper + "def f(): return g(None)").verdict == "impure"
    assert kinds(one(helper + "def f(): return g(3, True)")) == {"io"}
    assert one(helper + "def f(x): return map(g, x)").findings == ()


def test_a_parameter_that_is_always_given_is_no_condition() -> None:
    helper = "def g(path=None, seen=None):\n    if path: open(path)\n    if seen is not None: seen.append(1)\n"
    found = one(helper + "def f(path, seen): g(path, seen)")
    assert (found.verdict, kinds(found)) == ("impure", {"io", "argument"})
    assert {f.condition for f in found.findings} == {None}
    found = one(helper + "def f(path=None, seen=None): g(path, seen)")
    assert (found.verdict, found.unless, found.changing) == ("pure", ("path",), ("seen",))


def test_an_inner_function_changes_what_the_outer_one_may_be_given() -> None:
    found = one("def f(out=None):\n    def put(): out.append(1)\n    put()")
    assert (found.verdict, found.changing) == ("pure", ("out",))


def test_what_is_too_deep_is_unknown() -> None:
    found = one("def f(x): return " + " + ".join(["x"] * 995))
    assert (found.verdict, found.findings[0].what) == ("unknown", "is too long or too deep to be looked into")


def test_what_happens_either_way_happens_always() -> None:
    text = "import time\ndef f(x=None):\n    if x is None:\n        return time.time()\n    return time.time() - x"
    assert one(text).verdict == "impure"


# Where it is found -------------------------------------------------------------------------------


def test_a_finding_names_the_place_and_the_way() -> None:
    found = one(
        "import time\n\ndef _now():\n    return time.time()\n\n"
        "def _twice(): return _now() * 2\ndef f(): return _twice()"
    )
    assert found.findings == (Finding("time", "reads the clock", "m.py", 4, "return time.time()", ("_twice", "_now")),)
    assert str(found.findings[0]) == "calls _twice > _now, which reads the clock, m.py:4: return time.time()"
    assert (found.path, found.line) == ("m.py", 7)


def test_private_helpers_are_not_listed() -> None:
    assert list(look("def _g(): pass\ndef f(): pass\nclass _P:\n    def h(self): pass")) == ["f"]


def test_all_decides_what_is_public() -> None:
    text = (
        "from os.path import join\n__all__ = ['_g'] + ['h', 'join']\n"
        "__all__ += ['k']\ndef _g(): 1\ndef f(): 1\ndef h(): 1\ndef k(): 1"
    )
    assert set(look(text)) == {"_g", "h", "k"}


def test_what_is_imported_is_not_the_modules() -> None:
    assert list(look("from os.path import join\nfrom helper import g\ndef f(): pass")) == ["f"]


def test_methods_of_public_classes_are_listed() -> None:
    found = look(
        """
        import time
        class A:
            def __init__(self): self.n = 0
            def up(self): self.n += 1
            def both(self, rows):
                self.n = 1
                rows.append(1)
            def now(self): return time.time()
            def get(self): return self.n
            def chain(self): self.up()
            def _hidden(self): return time.time()
            @property
            def size(self): return self.n
            @staticmethod
            def make(x): x.append(1)
            def __call__(self): return self.now()
        """
    )
    assert {name: v.verdict for name, v in found.items()} == {
        "A.up": "changes self",
        "A.both": "changes arguments",
        "A.now": "impure",
        "A.get": "pure",
        "A.chain": "changes self",
        "A.size": "pure",
        "A.make": "changes arguments",
        "A.__call__": "impure",
    }
    assert found["A.up"].fit


def test_inherited_methods_and_super_are_followed() -> None:
    found = look(
        """
        import time
        class Base:
            def __init__(self): self.at = time.time()
            def tick(self): return time.time()
        class A(Base):
            def __init__(self): super().__init__()
            def get(self): return self.tick()
        def f(): return A().get()
        def g(): return A
        """
    )
    assert {name: v.verdict for name, v in found.items()} == {
        "Base.__init__": "impure",
        "Base.tick": "impure",
        "A.__init__": "impure",
        "A.get": "impure",
        "f": "impure",
        "g": "pure",
    }


def test_other_modules_of_the_package_are_followed() -> None:
    found = look(
        "from .a import g\nfrom . import b\nfrom p.c import *\n"
        "def f(x): return g(x)\ndef h(x): b.put(x)\ndef k(): return t()",
        "p",
        p__a="from ._c import now as n\ndef g(x): return n()",
        p__b="def put(x): x.append(1)",
        p__c="from p._c import now as t",
        p___c="import time\ndef now(): return time.time()",
    )
    assert {name: v.verdict for name, v in found.items()} == {
        "g": "impure",
        "f": "impure",
        "h": "changes arguments",
        "k": "impure",
        "t": "impure",
        "b.put": "changes arguments",
    }
    assert found["f"].findings[0].way == ("a.g", "_c.now")


def test_functions_of_private_modules_are_listed_where_they_are_offered() -> None:
    found = look("from ._impl import *", "p", p___impl="__all__ = ['f']\ndef f(): pass\ndef g(): pass")
    assert list(found) == ["f"]
    assert found["f"].path == "p/_impl.py"


def test_lazily_loaded_names_are_found() -> None:
    package = (
        "import lazy_loader as lazy\n__getattr__, __dir__, __all__ = lazy.attach(__name__, submod_attrs={'_a': ['f']})"
    )
    assert list(look(package, "p", p___a="def f(): pass")) == ["f"]

    def find(name: str) -> Source | None:
        if name == "p":
            stub = "from ._a import f\n__all__ = ['f']\n"
            return Source(
                "p", "p.py", "import lazy_loader as lazy\nx = lazy.attach_stub(__name__, __file__)", True, stub
            )
        return Source(name, "a.py", "def f(): pass") if name == "p._a" else None

    assert [v.name for v in purity.check("p", find)] == ["p.f"]


def test_compiled_functions_of_the_package_are_unknown_and_trusted_when_called() -> None:
    found = look("from ._fast import fast\n__all__ = ['fast', 'f']\ndef f(x): return fast(x)", "p", p__q="")
    assert (found["fast"].verdict, found["fast"].fit) == ("unknown", False)
    assert (found["f"].verdict, found["f"].compiled) == ("pure", ("p._fast.fast",))


def test_the_output_of_a_compiled_function_is_changed() -> None:
    found = look("from . import _fast\ndef f(x, output=None): return _fast.smooth(x, output)", "p", p__q="")
    assert (found["f"].verdict, found["f"].changing) == ("pure", ("output",))


def test_code_that_is_made_as_it_runs_is_unknown() -> None:
    assert one("def f(x): return eval(x)").verdict == "unknown"
    assert one("def f(x): return eval('1 + 1')").verdict == "pure"
    assert one("def g(x): exec(x)\ndef f(x): g(x)").verdict == "unknown"


def test_methods_of_an_object_that_the_module_keeps() -> None:
    found = look(
        """
        class Box:
            def __init__(self): self.n = 0
            def put(self, x): self.n = x
            def get(self): return self.n
        _box = Box()
        put = _box.put
        get = _box.get
        def f(x): _box.put(x)
        """
    )
    assert {name: found[name].verdict for name in ("put", "get", "f")} == {
        "put": "impure",
        "get": "pure",
        "f": "impure",
    }


def test_a_name_that_is_known_needs_no_source() -> None:
    assert purity.without_source("time.time").verdict == "impure"
    assert purity.without_source("math.sin").verdict == "unknown"
    found = look("class R:\n    def randint(self): return 1\n_r = R()\nrandint = _r.randint", "random")
    assert (found["randint"].verdict, kinds(found["randint"])) == ("impure", {"random"})


def test_the_worst_decides() -> None:
    text = "import time\ndef f(x):\n    x.append(1)\n    exec(x)\n    return time.time()"
    assert (one(text).verdict, [f.kind for f in one(text).findings]) == ("impure", ["time", "argument", "unknown"])


def test_a_source_that_cannot_be_read_is_an_error() -> None:
    with pytest.raises(SyntaxError):
        look("def f(:")


@pytest.mark.parametrize("module", ["statistics", "textwrap", "colorsys"])
def test_modules_of_the_standard_library_that_are_pure(module: str) -> None:
    from relocate import check

    assert [str(f) for v in check.verdicts(module) for f in v.findings if f.condition is None] == []


def real(module: str) -> dict[str, Any]:
    from relocate import check

    return {v.name.removeprefix(f"{module}."): v for v in check.verdicts(module)}


def test_real_packages_are_told_right() -> None:
    found = real("sklearn.cluster")
    assert (found["k_means"].verdict, found["k_means"].given) == ("pure", ("random_state",))
    assert found["KMeans.fit"].verdict == "changes self"
    assert found["ward_tree"].verdict == "pure"
    found = real("scipy.ndimage")
    assert (found["gaussian_filter"].verdict, found["gaussian_filter"].changing) == ("pure", ("output",))
    assert {f.what for f in found["gaussian_filter"].findings} == {"changes output"}
    assert found["center_of_mass"].verdict == "pure"
    found = real("networkx.algorithms.centrality")
    assert {name for name, v in found.items() if v.verdict not in ("pure", "changes self")} == {
        "incremental_closeness_centrality"
    }
    found = real("skimage.restoration")
    assert found["denoise_nl_means"].verdict == "pure"
    assert found["unsupervised_wiener"].given == ("rng",)


def test_the_examples_in_the_documentation_are_right() -> None:
    found = doctest.testmod(verdicts)
    assert (found.failed, found.attempted) == (0, 3)
