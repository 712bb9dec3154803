"""Files of packages, sources and metadata that are only on a worker."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable
from importlib import resources as standard
from typing import Any

import pytest
from conftest import Place, Worker

from relocate import resources

INIT = '''
    """Pictures of things."""

    from .shop import price
'''
SHOP = '''
    """The shop."""

    import importlib.resources

    def price(n, rate=2):
        """What it costs."""
        # by the list
        return n * rate

    class Till:
        """Where money is kept."""
        def greet(self):
            return importlib.resources.files(__package__).joinpath("data/greeting.txt").read_text("utf-8")
'''
FILES = {
    "wares/__init__.py": INIT,
    "wares/shop.py": SHOP,
    "wares/data/greeting.txt": "gr\u00fc\u00df dich\nzwei\n",
    "wares/data/deep/er/numbers.bin": "\x00\x01",
    "wares/data/deep/empty.txt": "",
    "wares-1.5.dist-info/METADATA": "Metadata-Version: 2.1\nName: wares\nVersion: 1.5\nRequires-Dist: numpy\n",
    "wares-1.5.dist-info/RECORD": "wares/__init__.py,,\nwares/shop.py,,\n",
    "wares-1.5.dist-info/entry_points.txt": "[console_scripts]\nwares = wares:price\n",
    "other-2.dist-info/METADATA": "Metadata-Version: 2.1\nName: other\nVersion: 2\n",
    "other-2.dist-info/RECORD": "other.py,,\n",
}


def lay(place: Place, folder: str) -> None:
    for name, text in FILES.items():
        place.write(f"{folder}/{name}", text)


def as_folder(place: Place) -> Worker:
    lay(place, "there")
    return place.worker("--executors", "1", PYTHONPATH=str(place.folder / "there"))


def as_archive(place: Place) -> Worker:
    lay(place, "packed")
    with zipfile.ZipFile(place.folder / "wares.zip", "w") as archive:
        for path in sorted((place.folder / "packed").rglob("*")):
            archive.write(path, path.relative_to(place.folder / "packed"))
    return place.worker("--executors", "1", PYTHONPATH=str(place.folder / "wares.zip"))


LOOK = """
    import importlib.resources, pkgutil, sys
    import relocate
    relocate.enable(modules=["wares"], workers=URL, **dict(eval(sys.argv[1])))
    import wares
    top = importlib.resources.files("wares")
    print(sorted(entry.name for entry in top.iterdir() if entry.name != "__pycache__"))
    data = top / "data"
    print(data.is_dir(), data.is_file(), data.name, sorted((e.name, e.is_file()) for e in data.iterdir()))
    text = data.joinpath("greeting.txt")
    print(text.is_file(), text.is_dir(), text.read_text("utf-8").split(), text.read_bytes()[:4], text.name)
    with text.open("r", encoding="utf-8") as file:
        print([line.strip() for line in file])
    with text.open("rb") as file:
        print(file.read(2))
    print(top.joinpath("data", "deep", "er", "numbers.bin").read_bytes(), (data / "deep/empty.txt").read_bytes())
    with importlib.resources.as_file(text) as path:
        print(path.read_text("utf-8") == text.read_text("utf-8"), path.name.endswith("greeting.txt"))
    if sys.version_info >= (3, 12):
        with importlib.resources.as_file(data) as path:
            assert (path / "deep" / "er" / "numbers.bin").read_bytes() == b"\\0\\1"
    print(pkgutil.get_data("wares", "data/greeting.txt") == text.read_bytes())
    if sys.version_info >= (3, 13):
        assert importlib.resources.read_text("wares", "data", "greeting.txt", encoding="utf-8").endswith("zwei\\n")
        assert importlib.resources.is_resource("wares", "data", "greeting.txt")
    import warnings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        print("data" in importlib.resources.contents(wares))
    missing = top / "nothing.txt"
    print(missing.is_file(), missing.is_dir())
    for wrong in (missing.read_text, (top / "no" / "such").read_bytes, data.read_bytes, lambda: list(text.iterdir()),
                  lambda: pkgutil.get_data("wares", "nothing")):
        try:
            wrong()
        except OSError as error:
            print(type(error).__name__, end=" ")
    print()
"""
SEEN = [
    "['__init__.py', 'data', 'shop.py']",
    "True False data [('deep', False), ('greeting.txt', True)]",
    "True False ['grüß', 'dich', 'zwei'] b'gr\\xc3\\xbc' greeting.txt",
    "['grüß dich', 'zwei']",
    "b'gr'",
    "b'\\x00\\x01' b''",
    "True True",
    "True",
    "True",
    "False False",
    "FileNotFoundError FileNotFoundError IsADirectoryError NotADirectoryError FileNotFoundError ",
]


@pytest.mark.parametrize("begin", [as_folder, as_archive])
@pytest.mark.parametrize("keys", ["{}", "{'placement': 'auto', 'fallback': False}"])
def test_files_of_a_package_that_is_only_on_a_worker_are_read_from_there(
    place: Place, begin: Callable[[Place], Worker], keys: str
) -> None:
    script = place.write("main.py", LOOK.replace("URL", repr(begin(place).url)))
    done = place.python(str(script), keys, PYTHONUTF8="1")
    assert done.stdout.splitlines() == SEEN, done.stderr


def test_files_of_a_package_that_is_here_are_the_local_ones(place: Place) -> None:
    lay(place, "near")
    place.write("near/wares/data/greeting.txt", "local")
    program = """
        import importlib.resources, pkgutil, pathlib, sys, relocate
        sys.path.insert(0, "near")
        handle = relocate.enable(modules=["wares"], workers=1)
        import wares
        found = importlib.resources.files("wares") / "data" / "greeting.txt"
        print(isinstance(found, pathlib.Path), found.read_text(), pkgutil.get_data("wares", "data/greeting.txt"))
        print(importlib.resources.files(wares.shop) == importlib.resources.files("wares"), handle.statistics().calls)
    """
    done = place.python(str(place.write("main.py", program)))
    if done.stderr and "is not a package" in done.stderr:  # Python 3.11 takes packages only
        assert done.stdout == "True local b'local'\n"
    else:
        assert done.stdout == "True local b'local'\nTrue 0\n", done.stderr


def test_a_namespace_package_on_a_worker_has_files_too(place: Place) -> None:
    place.write("one/space/a/__init__.py", "def f():\n    return 1\n")
    place.write("one/space/text.txt", "one")
    place.write("two/space/more.txt", "two")
    worker = place.worker("-n", "1", PYTHONPATH=f"{place.folder / 'one'}:{place.folder / 'two'}")
    program = f"""
        import importlib.resources, relocate
        relocate.enable(modules=["space"], workers="{worker.url}")
        import space.a
        top = importlib.resources.files("space")
        print(space.a.f(), sorted(e.name for e in top.iterdir()), (top / "more.txt").read_text())
    """
    done = place.python(str(place.write("main.py", program)))
    assert done.stdout == "1 ['a', 'more.txt', 'text.txt'] two\n", done.stderr


def test_what_was_read_is_not_asked_for_again_until_a_reload(place: Place) -> None:
    worker = as_folder(place)
    program = f"""
        import importlib, importlib.resources, relocate
        handle = relocate.enable(modules=["wares"], workers="{worker.url}")
        import wares
        text = importlib.resources.files("wares") / "data" / "greeting.txt"
        print(text.read_text("utf-8")[:2], end=" ")
        open("there/wares/data/greeting.txt", "w").write("new")
        before = handle.statistics().calls
        print(text.read_text("utf-8")[:2], handle.statistics().calls - before, end=" ")
        importlib.reload(wares)
        print(text.read_text("utf-8"))
    """
    done = place.python(str(place.write("main.py", program)))
    assert done.stdout == "gr gr 0 new\n", done.stderr


def test_the_workers_source_of_a_class_reads_the_workers_files(place: Place) -> None:
    worker = as_folder(place)
    program = f"""
        import relocate
        relocate.enable(modules=["wares"], workers="{worker.url}")
        import wares.shop
        print(type(wares.shop.Till).__name__, wares.shop.Till().greet().split())
    """
    done = place.python(str(place.write("main.py", program)), PYTHONUTF8="1")
    assert done.stdout == "type ['grüß', 'dich', 'zwei']\n", done.stderr


def test_sources_of_what_is_only_on_a_worker_are_shown(place: Place) -> None:
    worker = as_folder(place)
    program = f"""
        import inspect, linecache, pydoc, relocate
        relocate.enable(modules=["wares"], workers="{worker.url}")
        import wares, wares.shop
        print(inspect.getsource(wares.price))
        print(inspect.getsource(wares.shop).splitlines()[0], inspect.getsourcelines(wares.shop.price)[1])
        print(inspect.getcomments(wares.shop.price), inspect.getdoc(wares.price), inspect.getmodule(wares.price))
        print(inspect.signature(wares.price), inspect.getsource(wares.shop.Till).splitlines()[1].strip())
        print("What it costs." in pydoc.render_doc(wares.shop, renderer=pydoc.plaintext))
        print(wares.__file__.endswith("__init__.py"), wares.__spec__.origin == wares.__file__)
    """
    done = place.python(str(place.write("main.py", program)))
    assert done.stdout == (
        'def price(n, rate=2):\n    """What it costs."""\n    # by the list\n    return n * rate\n\n'
        '"""The shop.""" 5\n'
        f"None What it costs. <module 'wares.shop' from '{place.folder}/there/wares/shop.py'>\n"
        '(n, rate=2) """Where money is kept."""\nTrue\nTrue True\n'
    ), done.stderr


def test_metadata_of_a_distribution_that_is_only_on_a_worker_are_found_by_its_name(place: Place) -> None:
    worker = as_folder(place)
    program = f"""
        import importlib.metadata as metadata, relocate
        with relocate.enable(modules=["wares"], workers="{worker.url}") as handle:
            before = metadata.version("pytest")
            import wares
            print(metadata.version("wares"), metadata.requires("wares"), metadata.metadata("wares")["Name"])
            print([e.value for e in metadata.distribution("wares").entry_points], metadata.version("pytest") == before)
            try:
                metadata.version("other")  # it is there, but has nothing of what is relocated
            except metadata.PackageNotFoundError as error:
                print(error)
        try:
            metadata.version("wares")
        except metadata.PackageNotFoundError as error:
            print(error)
    """
    done = place.python(str(place.write("main.py", program)))
    assert done.stdout.splitlines() == [
        "1.5 ['numpy'] wares",
        "['wares:price'] True",
        "No package metadata was found for other",
        "No package metadata was found for wares",
    ], done.stderr


@pytest.mark.parametrize("fallback", ["True", "False"])
def test_without_a_worker_a_file_is_a_clear_error(place: Place, fallback: str) -> None:
    worker = as_folder(place)
    program = f"""
        import importlib.resources, sys, relocate
        relocate.enable(modules=["wares"], workers="{worker.url}", fallback={fallback}, patience=0.3)
        import wares
        text = importlib.resources.files("wares") / "data" / "greeting.txt"
        print("ready", flush=True)
        sys.stdin.readline()
        try:
            text.read_text()
        except relocate.RelocateError as error:
            print(type(error).__name__, "wares (files)" in str(error))
    """
    script = place.write("main.py", program)
    client = place.start(sys.executable, "-W", "ignore", str(script), talk=True)
    assert client.stdout is not None
    assert client.stdout.readline() == "ready\n"
    worker.stop()
    out, err = client.communicate("\n", timeout=30)
    kind = "ModuleUnavailable" if fallback == "True" else "NoWorkerLeft"
    assert (out, client.returncode) == (f"{kind} True\n", 0), err


# Without processes -----------------------------------------------------------------------------------


class Answers:
    """A worker that knows one package, and counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[Any, ...]]] = []

    def __call__(self, function: str, package: str, args: tuple[Any, ...]) -> Any:
        self.asked.append((function, args[1:]))
        return getattr(resources, function)(*args)


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "MOST", 1000)
    sizes = {"a": 400, "b": 400, "c": 400, "large": 2000}
    asked: list[str] = []

    def ask(function: str, package: str, args: tuple[Any, ...]) -> bytes:
        asked.append(args[1])
        return bytes(sizes[args[1]])

    kept = resources.Kept(ask)
    for name in ("a", "b", "a", "c", "a", "b", "large", "large", "b"):
        assert kept.ask("content", "p", name) == bytes(sizes[name])
    assert asked == ["a", "b", "c", "b", "large", "large"]  # `a` was used after `b`, so `b` went for `c`
    kept.forget("p")
    kept.ask("content", "p", "b")
    assert asked[-1] == "b"


def test_nothing_is_asked_before_somebody_looks() -> None:
    answers = Answers()
    kept = resources.Kept(answers)
    entry = resources.Reader("relocate", kept).files() / "far.py"
    assert (entry.name, str(entry), answers.asked) == ("far.py", "relocate/far.py", [])
    assert entry.is_file()
    assert not entry.is_dir()
    assert entry.read_text("utf-8") == (standard.files("relocate") / "far.py").read_text("utf-8")
    with pytest.raises(ValueError, match="read only"):
        entry.open("w")
    assert [function for function, _ in answers.asked] == ["listing", "listing", "content"]
