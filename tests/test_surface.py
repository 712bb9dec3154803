"""What a program may ask of relocated functions and give to them: it prints what it prints plainly."""

from __future__ import annotations

import pytest
from conftest import Place
from test_forms import alike

MODULE = '''
    """Goods and prices.

    >>> add(1, 2)
    3
    """

    import array, bisect, heapq, logging, os, struct, sys, warnings

    log = logging.getLogger(__name__)
    VALUE = [1, 2]

    def add(a: int, b: int = 1, *rest: int, scale: float = 1.0, **more) -> float:
        """Add them.

        >>> add(2)
        3.0
        """
        return (a + b + sum(rest)) * scale

    class Trouble(Exception):
        """What goes wrong."""

    class Picky(Exception):
        """Its parameters are not its arguments."""
        def __init__(self, code, *, hint):
            super().__init__(f"code {code}")
            self.code, self.hint = code, hint

    class Reduced(Exception):
        def __init__(self, a, b):
            super().__init__(a)
            self.b = b
        def __reduce__(self):
            return type(self), (self.args[0], self.b)

    class Fixed(Exception):
        __slots__ = ("inner",)
        @property
        def code(self):
            return self.inner
        def __init__(self, inner):
            super().__init__(inner)
            self.inner = inner

    class Held(OSError):
        def __init__(self, text):
            import threading
            super().__init__(5, text)
            self.lock = threading.Lock()

    def fail(kind, *args, **kwargs):
        raise kind(*args, **kwargs)

    def chain(how):
        try:
            {}["missing"]
        except KeyError as error:
            error.add_note("looked it up")
            if how == "from":
                raise Trouble("caused") from error
            if how == "none":
                raise Trouble("alone") from None
            raise Trouble("in the middle")

    def group():
        try:
            1 / 0
        except ZeroDivisionError as error:
            raise ExceptionGroup("several", [ValueError("one"), Trouble("two"), error])

    def local():
        class Inner(LookupError):
            pass
        raise Inner("from inside")

    def deep(n):
        return 0 if n == 0 else 1 + deep(n - 1)

    def nest(n):
        made = []
        for _ in range(n):
            made = [made]
        return made

    def endless(n):
        return endless(n + 1)

    def pack_into(buffer, offset):
        struct.pack_into("<I", buffer, offset, 7)
    def fill(view):
        for i in range(len(view)):
            view[i] = i
    def put(view, at, data):
        view[at:at + len(data)] = data
        return bytes(view[:at + len(data)])
    def through(one, other):
        one[0] = 7
        return bytes(other)
    def read_into(view):
        import io
        return io.BytesIO(b"read").readinto(view)
    def sort(view):
        import numpy
        numpy.asarray(view).sort()
    def take(view):
        with view:
            return bytes(view)
    def part(view):
        return view[1:]
    def steps(view):
        for i in range(len(view)):
            view[i] = i + 1
            yield bytes(view)
    def look(view):
        return view.format, view.shape, view.strides, view.tolist()
    def find(view):
        return {view: 7}[view[:]], view.readonly
    def push(heap, item):
        heapq.heappush(heap, item)
        return heapq.nsmallest(2, heap)
    def insort(items, item):
        bisect.insort(items, item)
    def into(target, keys):
        for key in keys:
            target.setdefault(key, []).append(len(target))
        return len(target)
    def both(a, b):
        a.append(1)
        return a is b, len(b)
    def nested(value):
        value["list"][0]["set"].add(4)
        value["list"].append(value)
        value["tuple"][1].append("t")
        return value["list"]
    def out(function, a, out):
        import numpy
        return getattr(numpy, function)(a, a, out=out)
    def scale(array, by):
        array *= by
    def size(value):
        return len(value)
    def echo(value):
        return value
    def kind(value):
        return type(value).__name__
    def read(file):
        return file.read()
    def acquire(lock):
        return lock.acquire(False)
    def send(socket):
        return socket.fileno() >= 0
    def where():
        return os.getcwd(), os.environ.get("COLOUR")

    def say(*texts):
        for text in texts:
            print(text)
            print("err", text, file=sys.stderr)
        warnings.warn("a warning", UserWarning, stacklevel=2)
        log.warning("logged %s", texts)
        return len(texts)
    def warn(text, kind=UserWarning):
        warnings.warn(text, kind, stacklevel=2)
        return text
    def limits():
        return sys.getrecursionlimit()
    def decimals(text):
        import decimal
        return decimal.Decimal(text) / 3
    def errors():
        import numpy
        return numpy.geterr()["divide"], float(numpy.float64(1) / (numpy.float64(0) + 1))
    def number(x):
        import locale
        return locale.localeconv()["thousands_sep"], locale.setlocale(locale.LC_NUMERIC)
    def wait(seconds):
        import time
        time.sleep(seconds)
        return "waited"
'''

PROGRAMS = {
    # Introspection
    "dir, vars and help": """
        import goods, io, contextlib, pydoc
        print([n for n in dir(goods) if n[:2] != "__"] == sorted(n for n in vars(goods) if n[:2] != "__"))
        print(pydoc.render_doc(goods.add, renderer=pydoc.plaintext))
        text = pydoc.render_doc(goods, renderer=pydoc.plaintext)
        print(text)
        with contextlib.redirect_stdout(io.StringIO()) as said:
            help(goods.add)
        print("Add them." in said.getvalue(), goods.__doc__, goods.VALUE, goods.kind(3))
    """,
    "inspect": """
        import goods, inspect, typing
        f = goods.add
        print(inspect.signature(f), inspect.getdoc(f), inspect.getmodule(f) is goods, inspect.isfunction(f))
        print(inspect.getsource(f), inspect.getsourcelines(f)[1], inspect.getfile(f) == goods.__file__)
        print(inspect.getsource(goods)[:30], inspect.getsourcefile(goods) == goods.__file__, inspect.ismodule(goods))
        print(typing.get_type_hints(f), f.__annotations__, f.__defaults__, f.__kwdefaults__, f.__name__, f.__qualname__)
        print([n for n, _ in inspect.getmembers(goods, inspect.isfunction)], f.__module__, inspect.getcomments(f))
        print(inspect.getfullargspec(f), inspect.signature(goods.Picky), goods.Trouble.__doc__)
        print([n for n, _ in inspect.getmembers(goods, inspect.isclass)], goods.kind(1))
        print(inspect.signature(f).bind(1, scale=2.0).arguments, goods.__name__, goods.__spec__.name)
    """,
    "doctest": """
        import doctest, goods
        print(doctest.testmod(goods), goods.add(1))
    """,
    # Exceptions
    "exceptions with parameters of their own": """
        import goods
        for make in (lambda: goods.fail(goods.Picky, 3, hint="h"), lambda: goods.fail(goods.Reduced, 1, b=[2]),
                     lambda: goods.fail(goods.Fixed, (1, 2)), lambda: goods.fail(FileNotFoundError, 2, "no", "f.txt"),
                     lambda: goods.fail(UnicodeDecodeError, "utf-8", b"x", 0, 1, "bad"),
                     lambda: goods.fail(StopIteration, 4), lambda: goods.fail(SystemExit, 3),
                     lambda: goods.fail(KeyboardInterrupt), lambda: goods.fail(goods.Trouble)):
            try:
                make()
            except BaseException as error:
                kind = type(error)
                print(kind is getattr(goods, kind.__name__, kind), error.args, str(error), repr(error))
                print([getattr(error, n, None) for n in ("code", "hint", "b", "errno", "filename", "value", "reason")])
        try:
            goods.fail(goods.Fixed, 1)
        except goods.Fixed as error:
            try:
                error.code = 2
            except AttributeError as worse:
                print("read only")
    """,
    "chains, notes and groups": """
        import goods, traceback
        for how in ("from", "none", "context"):
            try:
                goods.chain(how)
            except goods.Trouble as error:
                print(error, repr(error.__cause__), repr(error.__context__), error.__suppress_context__)
                print(getattr(error.__context__, "__notes__", None))
                print("".join(traceback.format_exception(error)))
        try:
            goods.group()
        except* ValueError as found:
            print(found.exceptions)
        except* (goods.Trouble, ZeroDivisionError) as found:
            print([type(e).__name__ for e in found.exceptions], found.message)
            print("".join(traceback.format_exception(found)))
    """,
    "a traceback that nobody catches": """
        import goods, traceback
        try:
            goods.chain("from")
        except goods.Trouble:
            print(traceback.format_exc())
        try:
            goods.add("a")
        except TypeError:
            print(traceback.format_exc())
        try:
            goods.add()
        except TypeError as error:
            print(error)
    """,
    "a class that is local to a function": """
        import goods
        try:
            goods.local()
        except LookupError as error:
            print(type(error).__name__, error.args)
    """,
    "recursion": """
        import goods, sys
        try:
            goods.endless(1)
        except RecursionError as error:
            print(str(error)[:34])
        print(goods.deep(300))
        sys.setrecursionlimit(5000)
        print(goods.deep(3000), goods.limits())
        nest = []
        for i in range(200):
            nest = [nest]
        print(goods.size(nest))
    """,
    "large arguments": """
        import goods, numpy as np
        print(goods.size(bytes(50_000_000)), goods.size(np.zeros((3000, 1000))), goods.size("x" * 5_000_000))
        print(goods.size(list(range(300_000))), goods.size({i: str(i) for i in range(100_000)}))
        print(goods.echo(np.arange(1_000_000)).sum(), len(goods.echo(bytearray(3_000_000))))
    """,
    # Arguments that change
    "buffers": """
        import array, goods
        data, small = bytearray(16), array.array("I", [0] * 4)
        goods.pack_into(data, 4)
        goods.pack_into(small, 4)
        goods.fill(data)
        print(bytes(data), small)
    """,
    "views of memory": """
        import array, goods, mmap, numpy as np
        from multiprocessing import shared_memory
        data, large = bytearray(8), bytearray(100_000)
        goods.pack_into(memoryview(data), 4)
        print(goods.put(memoryview(data), 2, b"abc"), data, goods.put(memoryview(large)[50_000:], 3, b"xyz"))
        goods.fill(memoryview(large)[2:6])
        goods.fill(memoryview(large).cast("I")[4:40_000:9000])
        goods.fill(memoryview(large)[99_990:99_900:-7])
        print([(i, byte) for i, byte in enumerate(large) if byte], goods.read_into(memoryview(large)), large[:6])
        for view in (memoryview(b"text"), memoryview(bytes(100_000))[9:], memoryview(large).toreadonly()[::999]):
            for _ in range(2):
                try:
                    print(goods.find(view))
                    goods.fill(view)
                except TypeError as error:
                    print(error)
        mapped, numbers = mmap.mmap(-1, 100_000), array.array("d", range(3000))
        print(goods.put(memoryview(mapped)[7:], 0, b"map"), mapped[:11], goods.look(memoryview(numbers)[::700]))
        goods.fill(memoryview(numbers)[4::1000])
        shared = shared_memory.SharedMemory(create=True, size=100_000)
        print(goods.put(shared.buf, 1, b"shared"), bytes(shared.buf[:8]), numbers[4], numbers[1004])
        shared.close(), shared.unlink(), mapped.close()
        for array in (np.arange(12.0).reshape(3, 4), np.arange(90_000, dtype="i2").reshape(300, 300)):
            for part in (array, array.T, array[::2, 1:3], array[1, ::-1]):
                print(str(goods.look(memoryview(part)))[:200])
            goods.sort(memoryview(array[:, ::-1]))
            print(array[:2, :4], array.sum())
        for whole in (bytearray(9), bytearray(9999)):
            view = memoryview(whole)
            print(goods.through(view[2:5], view[1:4]), goods.through(view, view.toreadonly()), whole[:5])
            print(goods.put(view, 1, b"k"), goods.through(view, whole), goods.echo([view, {"v": view}])[1]["v"] is view)
            print(list(goods.steps(view[:3])), whole[:4])
            print(goods.take(view)[:4])
            try:
                print(len(view))
            except ValueError as error:
                print(error)
            whole.append(3)
            try:
                goods.fail(goods.Trouble, memoryview(whole)[1:])
            except goods.Trouble as error:
                print(bytes(error.args[0][:2]))
            whole.append(3)
    """,
    "heaps, sorted lists and dictionaries": """
        import collections, goods
        heap, items, found = [5, 9], [1, 3, 9], collections.defaultdict(list, a=[0])
        print(goods.push(heap, 2), heap, goods.insort(items, 4), items, goods.into(found, "abc"))
        print(dict(found), type(found))
        plain = {}
        print(goods.into(plain, "xy"), plain)
        one = [0]
        print(goods.both(one, one), one, goods.both([1], [2]))
        deep = {"list": [{"set": {1}}], "tuple": (1, [])}
        inner = deep["list"]
        print(goods.nested(deep) is inner, inner[1] is deep, deep["tuple"], deep["list"][0])
    """,
    "numpy": """
        import goods, numpy as np
        a, o = np.arange(5.0), np.zeros(5)
        print(goods.out("add", a, o) is o, o, goods.out("multiply", a, a) is a, a)
        large = np.ones((300, 300))
        goods.scale(large, 3)
        part = large[::2]
        goods.scale(part, 2)
        print(large.sum(), part.sum(), large[0, 0], large[1, 0])
    """,
    # What surrounds a call
    "ambient state": """
        import decimal, goods, locale, numpy as np, sys
        with decimal.localcontext() as context:
            context.prec = 5
            print(goods.decimals("1"))
        print(goods.decimals("1"), goods.errors())
        with np.errstate(divide="ignore"):
            print(goods.errors())
        sys.setrecursionlimit(1234)
        print(goods.limits(), goods.number(1))
        locale.setlocale(locale.LC_NUMERIC, "C.UTF-8")
        print(goods.number(1))
    """,
    "working directory and environment": """
        import goods, os
        print(goods.where(), os.getcwd())
    """,
    "output goes through the program's own streams, in order": """
        import contextlib, goods, io, logging, sys, warnings
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            print("before")
            goods.say("one", "two")
            print("after")
        print(out.getvalue().splitlines())
        print([line for line in err.getvalue().splitlines() if line.startswith(("err", "logged"))])
        print("a warning" in err.getvalue())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            goods.warn("seen")
            goods.warn("old", DeprecationWarning)
        print([(str(w.message), w.category.__name__, w.filename == __file__, w.lineno) for w in caught])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                goods.warn("an error")
            except UserWarning as error:
                print("raised", error)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            goods.warn("ignored")
        print(caught)
        records = []
        class Keep(logging.Handler):
            def emit(self, record):
                records.append((record.name, record.levelname, record.getMessage()))
        logging.getLogger("goods").addHandler(Keep())
        logging.getLogger("goods").propagate = False
        with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            goods.say("x")
        print(records)
    """,
    "mock.patch": """
        from unittest import mock
        import goods, math
        from goods import add
        real = goods.add
        with mock.patch("goods.add", return_value="mine") as fake:
            print(goods.add(1, 2), fake.call_args, add is real, goods.add is fake)
        print(goods.add is real, goods.add(1), add(2))
        with mock.patch.object(goods, "VALUE", [9]), mock.patch("goods.Trouble", KeyError):
            print(goods.VALUE, goods.Trouble)
        print(goods.VALUE, goods.Trouble.__name__)
        with mock.patch("goods.add", autospec=True) as fake:
            fake.return_value = 5
            print(goods.add(1))
            try:
                goods.add()
            except TypeError as error:
                print(error)
        with mock.patch("goods.nothing", 1, create=True):
            print(goods.nothing)
        print(hasattr(goods, "nothing"), goods.add is real)
        with mock.patch.multiple("goods", add=mock.DEFAULT, size=mock.DEFAULT) as fakes:
            print(sorted(fakes), goods.size is fakes["size"])
        with mock.patch("goods.size", wraps=goods.size) as spy:
            print(goods.size("abc"), spy.call_count)
        goods.add = lambda *a: "assigned"
        print(goods.add(1))
        del goods.add
        print(hasattr(goods, "add"))
        goods.add = real
        print(goods.add(1) == 2)
        with mock.patch.dict("goods.__dict__", {"extra": 1}):
            print(goods.extra)
        print(hasattr(goods, "extra"))
    """,
}


@pytest.fixture
def goods(place: Place) -> Place:
    place.write("goods.py", MODULE)
    return place


@pytest.mark.parametrize("what", PROGRAMS)
def test_a_program_prints_what_it_prints_plainly(goods: Place, what: str) -> None:
    assert alike(goods, PROGRAMS[what], "goods", "--no-fallback")["local"] == 0


def test_to_look_at_a_module_makes_no_traffic(goods: Place) -> None:
    program = """
        import doctest, importlib.metadata, importlib.resources, inspect, pkgutil, pydoc, relocate, typing
        with relocate.enable(modules=["goods", "networkx"], workers=1) as handle:
            import goods, networkx
            names = [*dir(goods), *vars(goods), goods.__doc__, goods.__file__, repr(goods.__spec__), repr(goods.add)]
            pydoc.render_doc(goods), pydoc.render_doc(goods.add)
            inspect.signature(goods.add), inspect.getsource(goods.add), inspect.getdoc(goods), inspect.getmembers(goods)
            inspect.getmodule(goods.add), inspect.getsource(goods), inspect.unwrap(goods.add)
            typing.get_type_hints(goods.add)
            doctest.DocTestFinder().find(goods)
            version = importlib.metadata.version("networkx")
            files = importlib.resources.files("networkx")
            text = (files / "conftest.py").read_text("utf-8")
            with importlib.resources.as_file(files / "conftest.py") as path:
                path.read_bytes()
            pkgutil.get_data("networkx", "conftest.py"), [entry.name for entry in files.iterdir()]
            print(handle.statistics().calls, version == networkx.__version__, len(text) > 100)
    """
    done = goods.python(str(goods.write("main.py", program)))
    assert done.stdout == "0 True True\n", done.stderr


def test_a_view_that_cannot_be_the_same_there_runs_here(goods: Place) -> None:
    program = """
        import ctypes, goods, io, numpy as np
        numbers, stream, array = (ctypes.c_int * 4)(), io.BytesIO(bytes(8)), np.zeros(5000, "u1")
        print(goods.add(1), goods.put(stream.getbuffer(), 1, b"abc"), stream.getvalue())
        print(goods.size(memoryview(numbers)))
        view = memoryview(array)[100:]
        part = goods.part(view)
        part[0] = 5
        print(array[101], part.obj is array)
        print(goods.through(view, array[::2]), array[100])
        view.release()
        try:
            goods.take(view)
        except ValueError as error:
            print(error)
    """
    report = alike(goods, program, "goods")
    assert (report["remote"], report["local"]) == (1, 5)


def test_a_view_is_compared_when_calls_are_made_twice(goods: Place) -> None:
    program = """
        import goods, relocate
        with relocate.enable(modules=["goods"], workers=1, verify=1.0) as handle:
            for size in (8, 9999):
                goods.put(memoryview(bytearray(size)), 2, b"abc")
            print(handle.statistics().remote, handle.statistics().verified)
    """
    done = goods.python(str(goods.write("main.py", program)))
    assert done.stdout == "2 2\n", done.stderr


UNFIT = {
    "file": ("open(__file__)", "read", "argument 1, of type TextIOWrapper, cannot travel"),
    "lock": ("threading.Lock()", "acquire", "argument 1, of type lock, cannot travel"),
    "socket": ("socket.socket()", "send", "argument 1, of type socket, cannot travel"),
    "view": ("memoryview((ctypes.c_int * 4)())", "size", "argument 1, of type memoryview, cannot travel"),
    "keyword": ("threading.Lock()", "add", "argument 'note', of type lock, cannot travel"),
}


@pytest.mark.parametrize("what", UNFIT)
@pytest.mark.parametrize("fallback", [True, False])
def test_what_cannot_travel_runs_here_or_is_named(goods: Place, what: str, fallback: bool) -> None:
    value, function, said = UNFIT[what]
    given = "1, note=value" if what == "keyword" else "value"
    program = f"""
        import ctypes, socket, threading, relocate
        handle = relocate.enable(modules=["goods"], workers=1, fallback={fallback})
        import goods
        value = {value}
        try:
            print(bool(goods.{function}({given})), handle.statistics().local)
        except relocate.ArgumentError as error:
            print(error)
        print(goods.add(1), handle.statistics().remote)
    """
    done = goods.python(str(goods.write("main.py", program)))
    first, second = done.stdout.splitlines()
    assert first == "True 1" if fallback else said in first, done.stderr
    assert second == "2.0 1"


def test_an_exception_that_cannot_travel_is_its_nearest_base_and_keeps_its_text(goods: Place) -> None:
    program = """
        import goods
        try:
            goods.fail(goods.Held, "has a lock")
        except OSError as error:
            print(type(error).__name__, error.errno, "has a lock" in str(error), error.__notes__)
    """
    done = goods.relocate("run", "-M", "goods", "-w", "1", "--no-fallback", str(goods.write("main.py", program)))
    assert done.stdout == (
        "Held 5 True ['relocate: of this exception cannot travel, and stayed on the worker: attribute lock']\n"
    ), done.stderr


def test_what_is_nested_too_deeply_to_travel_runs_here_and_nothing_crashes(goods: Place) -> None:
    program = """
        import goods
        deep = goods.nest(60_000)
        print(len(deep), goods.size(deep), goods.size([deep, deep]))
    """
    report = alike(goods, program + "    print(goods.add(1))\n", "goods")
    assert (report["remote"], report["local"]) == (1, 3)


def test_ctrl_c_ends_a_call_and_the_next_one_works(goods: Place) -> None:
    program = """
        import os, signal, threading, time
        import goods
        goods.add(1)
        threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT]).start()
        began = time.monotonic()
        try:
            goods.wait(60)
        except KeyboardInterrupt:
            print("interrupted", time.monotonic() - began < 30)
        print(goods.add(2))
    """
    done = goods.relocate("run", "-M", "goods", "-w", "1", "--no-fallback", str(goods.write("main.py", program)))
    assert done.stdout == "interrupted True\n3.0\n", done.stderr


def test_a_patch_is_not_seen_by_what_runs_on_a_worker(goods: Place) -> None:
    """What is patched here is called here; on a worker the module is what it is."""
    program = """
        from unittest import mock
        import goods
        with mock.patch("goods.deep", lambda n: "mine"):
            print(goods.deep(3), end=" ")
        print(goods.deep(3), end=" ")
        with mock.patch("goods.VALUE", [7]):
            print(goods.value(), goods.VALUE)
    """
    goods.write("goods.py", MODULE + "\n    def value():\n        return VALUE\n")
    done = goods.relocate("run", "-M", "goods", "-w", "1", str(goods.write("main.py", program)))
    assert done.stdout == "mine 3 [1, 2] [7]\n", done.stderr


def test_capsys_gets_what_a_relocated_function_prints(goods: Place) -> None:
    goods.write(
        "test_it.py",
        """
        import goods, pytest
        def test_output(capsys, caplog, recwarn):
            print("before")
            goods.say("one")
            print("after")
            said = capsys.readouterr()
            assert (said.out, said.err) == ("before\\none\\nafter\\n", "err one\\n")
            assert caplog.messages == ["logged ('one',)"]
            assert [str(w.message) for w in recwarn] == ["a warning"]
            with pytest.warns(UserWarning, match="x"):
                goods.warn("x")
        def test_descriptors(capfd):
            goods.say("two")
            assert capfd.readouterr().out == "two\\n"
        """,
    )
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--relocate", "goods", "--relocate-workers", "1")
    done = goods.python(*command, "--relocate-strict", "test_it.py")
    assert "2 passed" in done.stdout, done.stdout
    assert "3 on workers" in done.stdout


def test_stubs_of_a_type_checker_beside_the_module_are_left_alone(goods: Place) -> None:
    goods.write("goods.pyi", "def add(a: int) -> int: ...\n")
    program = "import goods\nprint(goods.__file__[-8:], goods.add(1), goods.__spec__.origin[-8:])\n"
    alike(goods, program, "goods")
    assert sorted(p.name for p in goods.folder.glob("goods*")) == ["goods.py", "goods.pyi"]
