"""The first uses of a relocated package: by several threads at once, and of packages that load their parts late."""

from __future__ import annotations

from conftest import Place

PACKAGE = {
    "lab/__init__.py": "from .core import Thing, grow, weigh\nfrom . import util\n",
    "lab/core.py": """
import time
time.sleep({pause})
class Thing:
    def __init__(self, n): self.n = n
def grow(thing): return Thing(thing.n + 1)
def weigh(n): return n * 2
""",
    "lab/util.py": "from .core import Thing\ndef made(n): return Thing(n)\n",
}
ENABLED = """
import sys, threading, relocate
from concurrent.futures import ThreadPoolExecutor
handle = relocate.enable(modules=["lab"], workers=1)
import lab
"""


def written(place: Place, pause: float) -> None:
    for name, text in PACKAGE.items():
        place.write(name, text.replace("{pause}", str(pause)))


def test_a_thread_that_imports_while_another_one_loads_the_real_package_gets_the_proxies(place: Place) -> None:
    written(place, 0.3)
    program = """
import time
def touch():
    return lab.Thing(1).n
def imports():
    while not handle._reals._aside and not handle._reals.loaded: time.sleep(0.001)  # until that has begun
    import lab.core
    from lab import util
    return type(lab).__name__, type(lab.core).__name__, type(util).__name__, util.made(3).n
with ThreadPoolExecutor(2) as pool:
    first, second = pool.submit(touch), pool.submit(imports)
    print(first.result(60), second.result(60), type(sys.modules["lab.core"]).__name__, lab.grow(lab.Thing(1)).n)
"""
    done = place.python("-c", ENABLED + program)
    assert done.stdout == "1 ('ProxyModule', 'ProxyModule', 'ProxyModule', 3) ProxyModule 2\n", done.stderr


def test_many_threads_that_touch_classes_import_and_call_at_first(place: Place) -> None:
    written(place, 0.0)
    program = """
sys.setswitchinterval(1e-5)
def imports():
    import lab.core as core
    return core.grow(core.Thing(1)).n
def takes():
    from lab.util import made
    return made(2).n
uses = [lambda: lab.weigh(1), lambda: lab.Thing(2).n, imports, takes, lambda: len(dir(lab)) and 2]
begin = threading.Barrier(10)
def go(i):
    if i < 10: begin.wait()
    return uses[i % 5]()
with ThreadPoolExecutor(10) as pool:
    print(set(pool.map(go, range(50))))
"""
    for _ in range(3):
        done = place.python("-c", ENABLED + program)
        assert done.stdout == "{2}\n", done.stderr


def test_a_context_variable_that_is_set_loads_no_real_module(place: Place) -> None:
    written(place, 0.0)
    place.write("settings.py", "from contextvars import ContextVar\nmode = ContextVar('mode')\n")
    program = """
import decimal, settings
decimal.getcontext(), settings.mode.set("fast")
print(lab.weigh(1), list(handle._reals.loaded))
"""
    done = place.python("-c", ENABLED + program)
    assert done.stdout == "2 []\n", done.stderr


def test_a_package_that_writes_its_parts_into_its_dictionary_when_they_are_asked_for(place: Place) -> None:
    place.write(
        "lab/__init__.py",
        """
import importlib, sys
_where = {"weigh": "core", "Thing": "core", "core": ""}
def __getattr__(name):
    if name not in _where: raise AttributeError(name)
    module = importlib.import_module("lab.core")
    found = getattr(module, name) if _where[name] else module
    sys.modules["lab"].__dict__[name] = found
    return found
def __dir__(): return list(_where)
""",
    )
    place.write("lab/core.py", PACKAGE["lab/core.py"].replace("{pause}", "0"))
    program = """
print(lab.weigh(1), lab.Thing(4).n, lab.Thing is lab.core.Thing, lab.core.weigh is lab.weigh, lab.weigh(2))
print(handle.statistics().remote, handle.statistics().local)
"""
    done = place.python("-c", ENABLED + program)
    assert done.stdout == "2 4 True True 4\n2 0\n", done.stderr


def test_a_real_module_may_wait_for_a_thread_that_imports(place: Place) -> None:
    written(place, 0.0)
    place.write("other.py", "def made(n): return n\n")
    waits = """
import threading
def imports():
    import other
begun = threading.Thread(target=imports)
begun.start()
begun.join()
"""
    place.write("lab/core.py", waits + PACKAGE["lab/core.py"].replace("{pause}", "0"))
    program = """
from relocate import gate
gate.PATIENCE = 0.2
relocate.enable(modules=["lab", "other"], workers=1)
import lab, other
print(lab.Thing(3).n, other.made(4), type(other).__name__)
"""
    done = place.python("-c", "import relocate" + program)
    assert done.stdout == "3 4 ProxyModule\n", done.stderr


def test_who_wraps_import_while_a_real_module_is_loaded_goes_on(place: Place) -> None:
    written(place, 0.0)
    place.write(
        "lab/core.py",
        PACKAGE["lab/core.py"].replace("{pause}", "0")
        + """
import builtins
usual = builtins.__import__
def wraps(*args, **kwargs): return usual(*args, **kwargs)
builtins.__import__ = wraps
""",
    )
    place.write("more/__init__.py", "class Other: n = 5\n")
    program = """
more = relocate.enable(modules=["more"], workers=1)
import more
print(lab.Thing(1).n, more.Other.n)
import colorsys
print(colorsys.rgb_to_hsv(0, 0, 0))
"""
    done = place.python("-c", ENABLED + program)
    assert done.stdout == "1 5\n(0.0, 0.0, 0)\n", done.stderr


def test_a_real_module_that_forks_while_it_is_loaded_goes_on_in_the_child(place: Place) -> None:
    written(place, 0.0)
    place.write(
        "lab/core.py",
        PACKAGE["lab/core.py"].replace("{pause}", "0")
        + """
import os
Thing.child = os.fork() if "relocate.fleet" in __import__("sys").modules else 1
""",
    )
    program = """
import os
n = lab.Thing(1).n
child = lab.Thing.child
if not child:
    print("child", n, lab.weigh(4), flush=True)
    os._exit(0)
os.waitpid(child, 0)
print("parent", n)
"""
    done = place.python("-c", ENABLED + program)
    assert done.stdout == "child 1 8\nparent 1\n", done.stderr


def test_a_warning_of_a_real_module_is_told_of_its_caller(place: Place) -> None:
    written(place, 0.0)
    place.write("old.py", "import warnings\nwarnings.warn('old', DeprecationWarning, stacklevel=2)\n")
    place.write("lab/core.py", PACKAGE["lab/core.py"].replace("{pause}", "0") + "import old\n")
    done = place.python("-W", "always", "-c", ENABLED + "print(lab.Thing(1).n)")
    assert done.stdout == "1\n", done.stderr
    told = next(line for line in done.stderr.splitlines() if "old" in line)
    assert told.startswith(str(place.folder / "lab/core.py"))


def test_a_table_keeps_the_entries_of_other_packages_while_a_real_module_is_loaded(place: Place) -> None:
    written(place, 0.2)
    place.write("base.py", "REGISTRY = {}\ndef register(f): REGISTRY[f.__name__] = f; return f\n")
    place.write("plug.py", "from base import register\n@register\ndef scale(n): return n * 3\n")
    program = """
relocate.enable(modules=["plug"], workers=1)
import base, plug
missed, stop = [], threading.Event()
def looks():
    while not stop.is_set():
        if "scale" not in base.REGISTRY: missed.append(1)
thread = threading.Thread(target=looks)
thread.start()
n = lab.Thing(1).n
stop.set(); thread.join()
print(n, len(missed), base.REGISTRY["scale"](2))
"""
    done = place.python("-c", ENABLED + program)
    assert done.stdout == "1 0 6\n", done.stderr


def test_what_a_thread_imports_while_another_one_loads_the_real_package_is_a_part_of_the_proxy(place: Place) -> None:
    place.write(
        "lab/__init__.py",
        "import os, sys, time\nif 'here' in sys.argv: time.sleep(1.2)\nclass Thing: pass\ndef weigh(x): return x + 1\n",
    )
    place.write(
        "lab/slow.py",
        "import sys, time\nif 'here' not in sys.argv: time.sleep(0.9)\ndef made(x): return x\n",
    )
    program = """
sys.argv.append("here")
def imports():
    import lab.slow
lab.weigh(1)
thread = threading.Thread(target=imports)
thread.start()
while "lab.slow" not in sys.importing(): time.sleep(0.001)
lab.Thing
thread.join()
import lab.slow
print(lab.slow.made(3), type(lab).__name__, type(lab.slow).__name__)
"""
    begin = "import sys, time, importlib\nsys.importing = lambda: list(importlib._bootstrap._module_locks)\n"
    done = place.python("-c", begin + ENABLED + program)
    assert done.stdout == "3 ProxyModule ProxyModule\n", done.stderr


def test_an_interrupt_while_real_modules_take_the_place_of_proxies_loses_none(place: Place) -> None:
    written(place, 0.0)
    program = """
import lab.core, lab.util
proxies = {name: sys.modules[name] for name in ("lab", "lab.core", "lab.util")}
class Interrupted(dict):
    def __setitem__(self, name, module):
        super().__setitem__(name, module)
        raise KeyboardInterrupt
put = handle._reals._put
def interrupted(modules, held):
    del handle._reals._put
    handle._reals._aside = Interrupted()
    put(modules, handle._reals._aside)
handle._reals._put = interrupted
try:
    lab.Thing
except KeyboardInterrupt:
    print({name: sys.modules[name] for name in proxies} == proxies, lab.Thing(2).n, lab.weigh(1))
"""
    done = place.python("-c", ENABLED + program)
    assert done.stdout == "True 2 2\n", done.stderr
