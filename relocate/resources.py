"""Files of packages, and metadata of distributions, that are only on a worker.

The client's side is a loader's: `Kept` has what a loader is asked for, and `Entry` stands for a file or a
folder, as `importlib.resources` has it.  Nothing is asked for before somebody looks.  What was asked for is
kept, ``MOST`` bytes of it for each handle: what was used longest ago is dropped first, and a larger file is
not kept at all.

The functions from `_entry` on run where the package is, and go through `importlib.resources` there, so
that it may lie in a zip file or consist of several folders.
"""

from __future__ import annotations

import errno
import importlib.resources
import io
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from importlib.metadata import Distribution, PackageNotFoundError
from importlib.resources.abc import Traversable, TraversableResources
from typing import IO, Any

MOST = 64 << 20
"""Bytes of files and of names in folders that are kept for each handle."""
LEAST = 64
"""Bytes that an answer counts at least, and each name in a folder."""

Ask = Callable[[str, str, tuple[Any, ...]], Any]
"""Runs a function of this module where a package is: ``ask(function, package, args)``."""


class Kept:
    """What was asked of workers for one handle."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._answers: OrderedDict[tuple[Any, ...], tuple[int, Any]] = OrderedDict()
        self._size = 0

    def ask(self, function: str, package: str, *args: Any) -> Any:
        """What ``function(package, *args)`` gives there, asked for once.

        Raises:
            OSError: what it raises there.
            RelocateError: no worker could run it.
        """
        key = (package, function, args)
        with self._lock:
            found = self._answers.get(key)
            if found is not None:
                self._answers.move_to_end(key)
                return found[1]
        answer = self._ask(function, package, (package, *args))
        size = LEAST + (len(answer) if isinstance(answer, bytes) else LEAST * len(answer or ()))
        with self._lock:
            if size <= MOST and key not in self._answers:
                self._answers[key] = size, answer
                self._size += size
                while self._size > MOST:
                    self._size -= self._answers.popitem(last=False)[1][0]
        return answer

    def forget(self, package: str) -> None:
        """Drop what is known of a package."""
        with self._lock:
            for key in [k for k in self._answers if k[0] == package]:
                self._size -= self._answers.pop(key)[0]

    def forked(self) -> None:
        """In a forked child: the thread that may have held the lock is not here."""
        self._lock = threading.Lock()


class Reader(TraversableResources):
    """What a loader gives for a package whose files are on a worker."""

    def __init__(self, package: str, kept: Kept) -> None:
        self._package = package
        self._kept = kept

    def files(self) -> Entry:
        """The package's folder."""
        return Entry(self._package, (), self._kept)


class Entry(Traversable):
    """A file or folder of a package, which need not be there."""

    def __init__(self, package: str, path: tuple[str, ...], kept: Kept) -> None:
        self._package = package
        self._path = path
        self._kept = kept

    @property
    def name(self) -> str:
        """Its name, without the folders above it."""
        return self._path[-1] if self._path else self._package.rpartition(".")[2]

    def _listing(self) -> dict[str, bool] | None:
        found: dict[str, bool] | None = self._kept.ask("listing", self._package, self._path)
        return found

    def is_dir(self) -> bool:
        """Whether it is a folder."""
        return self._listing() is not None

    def is_file(self) -> bool:
        """Whether it is a file; told by what is in its folder."""
        above = Entry(self._package, self._path[:-1], self._kept)._listing() if self._path else None
        return above is not None and above.get(self._path[-1]) is False

    def iterdir(self) -> Iterator[Entry]:
        """What is in the folder.

        Raises:
            OSError: it is none.
        """
        names = self._listing()
        if names is None:
            number = errno.ENOTDIR if self.is_file() else errno.ENOENT
            raise OSError(number, os.strerror(number), str(self))
        return iter([self / name for name in names])

    def joinpath(self, *descendants: str | os.PathLike[str]) -> Entry:
        """What lies below it; nothing is asked for."""
        parts = [part for text in descendants for part in os.fspath(text).replace(os.sep, "/").split("/")]
        return Entry(self._package, (*self._path, *(p for p in parts if p not in ("", "."))), self._kept)

    def __truediv__(self, child: str | os.PathLike[str]) -> Entry:
        return self.joinpath(child)

    def read_bytes(self) -> bytes:
        """What is in the file.

        Raises:
            OSError: it is none.
            RelocateError: no worker could be asked.
        """
        content: bytes = self._kept.ask("content", self._package, self._path)
        return content

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        """The same, as text."""
        with self.open("r", encoding, errors) as file:
            return str(file.read())

    def open(self, mode: str = "r", *args: Any, **kwargs: Any) -> IO[Any]:
        """The file, opened for reading.

        Args:
            mode: ``r`` or ``rb``.
            *args: as `io.TextIOWrapper` takes them: encoding, errors, newline.
            **kwargs: likewise.

        Raises:
            ValueError: another mode.
        """
        if mode not in ("r", "rt", "rb"):
            raise ValueError(f"{self} can be read only, not opened with mode {mode!r}")
        content = io.BytesIO(self.read_bytes())
        return content if mode == "rb" else io.TextIOWrapper(content, *args, **kwargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Entry) and (self._package, self._path) == (other._package, other._path)

    def __hash__(self) -> int:
        return hash((self._package, self._path))

    def __str__(self) -> str:
        return "/".join((self._package, *self._path))

    def __repr__(self) -> str:
        return f"<{self}, which is on a worker>"


def data(kept: Kept, package: str, folder: str, path: str) -> bytes:
    """What a loader's ``get_data`` gives for a path, which begins with the package's folder there.

    Raises:
        OSError: there is no such file.
    """
    inside = path.removeprefix(folder)
    if not folder or inside == path:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return Reader(package, kept).files().joinpath(inside).read_bytes()


class FarDistribution(Distribution):
    """A distribution that is only on a worker: what its metadata say, but not its files."""

    def __init__(self, texts: dict[str, str]) -> None:
        self._texts = texts

    def read_text(self, filename: str | os.PathLike[str]) -> str | None:
        """One of its files of metadata."""
        return self._texts.get(os.fspath(filename))

    def locate_file(self, path: str | os.PathLike[str]) -> Any:
        """Nothing of it is here.

        Raises:
            FileNotFoundError: always.
        """
        raise FileNotFoundError(errno.ENOENT, "it is on a worker", os.fspath(path))


# There -------------------------------------------------------------------------------------------


def _entry(package: str, path: tuple[str, ...]) -> Traversable:
    found = importlib.resources.files(package)
    for name in path:  # one by one: some of Python 3.11's take no more
        found = found / name
    return found


def listing(package: str, path: tuple[str, ...]) -> dict[str, bool] | None:
    """The names in a folder of a package, and whether each is a folder; None if it is none."""
    found = _entry(package, path)
    return {entry.name: entry.is_dir() for entry in found.iterdir()} if found.is_dir() else None


def content(package: str, path: tuple[str, ...]) -> bytes:
    """What is in a file of a package.

    Raises:
        OSError: it is none.
    """
    found = _entry(package, path)
    if not found.is_file():
        number = errno.EISDIR if found.is_dir() else errno.ENOENT
        raise OSError(number, os.strerror(number), str(found))
    return found.read_bytes()


TEXTS = ("METADATA", "PKG-INFO", "entry_points.txt", "top_level.txt", "WHEEL", "INSTALLER")


def metadata(package: str, name: str, packages: Collection[str]) -> dict[str, str] | None:
    """The metadata of the distribution ``name``, if it has one of these top-level packages; else None."""
    try:
        found = Distribution.from_name(name)
    except PackageNotFoundError:
        return None
    names = {file.parts[0].partition(".")[0] for file in found.files or ()}
    names.update((found.read_text("top_level.txt") or "").split())
    if names.isdisjoint(packages):
        return None
    texts = {text: found.read_text(text) for text in TEXTS}
    return {name: text for name, text in texts.items() if text is not None}
