"""Interfaces kept on disk, so that a second start describes nothing.

``interfaces/<digest>`` holds an encoded interface.  ``names/<key>`` says which digest a module had
last time, for these workers and this Python, and what its files here looked like then: if they have
changed, the entry does not count.  Where there are no files here, the entry counts, and the first
call finds out if it is stale, as the digest travels with it.  ``code/<key>`` holds compiled stubs.

A cache that cannot be read or written is as good as empty: it never stands in the way.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import sys
from pathlib import Path
from types import CodeType
from typing import Any

import msgspec
from blake3 import blake3

from . import digests
from . import interface as face

FORMAT = 5


class Cache:
    """The interfaces of one configuration's modules."""

    def __init__(self, folder: str, workers: str) -> None:
        self._folder = Path(folder) if folder else _default_folder()
        self._workers = workers

    def get(self, module: str, file: str | None, path: list[str]) -> face.Interface | None:
        """The interface of ``module``, whose code here is in ``file`` or the folders ``path``."""
        try:
            entry: dict[str, Any] = msgspec.msgpack.decode(self._name(module, file).read_bytes())
            if entry["fingerprint"] != _fingerprint(file, path):
                return None
            return face.decode((self._folder / "interfaces" / entry["digest"].hex()).read_bytes())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def put(self, module: str, file: str | None, path: list[str], interface: face.Interface, data: bytes) -> None:
        """Keep ``data``, the encoding of ``interface``."""
        entry = {"digest": interface.digest, "fingerprint": _fingerprint(file, path)}
        with contextlib.suppress(OSError):
            _write(self._folder / "interfaces" / interface.digest.hex(), data)
            _write(self._name(module, file), msgspec.msgpack.encode(entry))

    def compiled(self, text: str, name: str) -> CodeType:
        """The code of ``text``, which tracebacks call ``name``; to compile it takes most of the time of an import."""
        key = f"{FORMAT}\0{sys.version}\0{sys.flags.optimize}\0{name}\0{text}"
        path = self._folder / "code" / blake3(key.encode()).hexdigest()
        with contextlib.suppress(OSError, ValueError, EOFError, TypeError):
            code = marshal.loads(path.read_bytes())
            if isinstance(code, CodeType):
                return code
        code = compile(text, name, "exec", dont_inherit=True)
        with contextlib.suppress(OSError):
            _write(path, marshal.dumps(code))
        return code

    def forget(self, module: str, file: str | None) -> None:
        """Drop what is known of ``module``."""
        with contextlib.suppress(OSError):
            self._name(module, file).unlink(missing_ok=True)

    def _name(self, module: str, file: str | None) -> Path:
        key = f"{FORMAT}\0{module}\0{file}\0{self._workers}\0{sys.executable}\0{sys.version}"
        return self._folder / "names" / blake3(key.encode()).hexdigest()


def _fingerprint(file: str | None, path: list[str]) -> list[list[Any]]:
    return [list(entry) for entry in digests.fingerprint(file, path)]


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_bytes(data)
    os.replace(draft, path)


def _default_folder() -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_path("relocate"))
