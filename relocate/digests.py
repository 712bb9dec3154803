"""Which version of a module's code there is.

The *digest* names it: the module's name, the Python version, and the content of every source and
extension file of the module.  It travels with every call, so that no result ever comes from another
version than the one described.  The *fingerprint* is cheaper and says less: whether files may have changed.
"""

from __future__ import annotations

import importlib.machinery
import os
import sys
import types
from typing import Any

from blake3 import blake3

_SUFFIXES = tuple(importlib.machinery.all_suffixes())
_INSTALLED = frozenset({"site-packages", "dist-packages"})


def digest(module: types.ModuleType) -> bytes:
    """32 bytes that name the version of ``module``'s code."""
    return _digest(module, _SUFFIXES)


def source_digest(module: types.ModuleType) -> bytes:
    """The same of its Python sources alone, which are those of another machine that has the same version."""
    return _digest(module, (".py",))


def _digest(module: types.ModuleType, suffixes: tuple[str, ...]) -> bytes:
    hasher = blake3(f"{module.__name__}\0{sys.version_info[:2]}\0{getattr(module, '__version__', '')}\0".encode())
    file = getattr(module, "__file__", None)
    spec = getattr(module, "__spec__", None)
    if file is None and spec is None:  # it has put another object in its place
        parent = sys.modules.get(module.__name__.rpartition(".")[0])
        spec = importlib.machinery.PathFinder.find_spec(module.__name__, getattr(parent, "__path__", None))
        file = spec.origin if spec is not None else None
    if getattr(module, "__path__", None):
        for folder in module.__path__:
            for path in sorted(_code_files(folder, suffixes)):
                hasher.update(f"\0{os.path.relpath(path, folder)}\0".encode())
                _feed(hasher, path)
    elif file and os.path.isfile(file) and file.endswith(suffixes):
        _feed(hasher, file)
    elif spec is not None and hasattr(spec.loader, "get_source") and spec.origin not in ("built-in", "frozen"):
        hasher.update((spec.loader.get_source(module.__name__) or "").encode())
    else:
        hasher.update(sys.version.encode())
    return hasher.digest()


def _code_files(folder: str, suffixes: tuple[str, ...] = _SUFFIXES) -> list[str]:
    found = []
    for root, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if f != "__pycache__"]
        found += [os.path.join(root, f) for f in files if f.endswith(suffixes) and not f.endswith(".pyc")]
    return found


def _feed(hasher: Any, path: str) -> None:
    with open(path, "rb") as file:
        hasher.update(file.read())


def fingerprint(file: str | None, path: list[str]) -> list[tuple[str, int, int]]:
    """Names, sizes and modification times that change when a module's code may have changed.

    Of a package among the program's own files all code files; of an installed one, which installers
    replace as a whole, what lies directly in its folder: to look at thousands of files would take
    longer than everything else at import.
    """
    names: list[str] = [file] if file and not path else []
    for folder in path:
        if _INSTALLED.isdisjoint(folder.split(os.sep)):
            names += _code_files(folder)
        else:
            names += [folder, *(entry.path for entry in os.scandir(folder) if entry.name.endswith(_SUFFIXES))]
    found = []
    for name in sorted(names):
        try:
            status = os.stat(name)
        except OSError:
            continue
        found.append((name, status.st_size, status.st_mtime_ns))
    return found
