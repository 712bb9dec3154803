"""Designated names that are no modules and no classes, and what was probably meant.

Asked when a program has ended: until then it may extend its path.  Nothing is imported for it.
"""

from __future__ import annotations

import difflib
import pkgutil
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec

Find = Callable[[str, Sequence[str] | None], ModuleSpec | None]
"""``find(name, path)``: the spec of a module, looked for in its package's ``path``."""


def unknown(name: str, find: Find) -> str | None:
    """What is to be said of ``name`` if it is no module here; None if it is one, or may be a class."""
    path: list[str] | None = None
    walked = ""
    for part in name.split("."):
        parent, walked = walked, f"{walked}.{part}" if walked else part
        if walked in sys.modules:
            path = list(getattr(sys.modules[walked], "__path__", []))
            continue
        spec = find(walked, path)
        if spec is None:
            home = sys.modules.get(parent)
            if home is None and parent and part[:1].isupper():
                return None  # a class, by its name; nobody has imported its module
            kind = vars(home).get(part) if home is not None else None
            if isinstance(kind, type):
                return _of_class(kind, walked, name.removeprefix(walked).removeprefix("."))
            if callable(kind):
                return f"{walked!r} is a function; designate its module, {parent!r}"
            names = [m.name for m in pkgutil.iter_modules(path)]
            names += [n for n, value in vars(home).items() if isinstance(value, type)] if home is not None else []
            near = difflib.get_close_matches(part, names, 1)
            meant = ".".join(filter(None, [parent, near[0]])) if near else ""
            hint = f"did you mean {meant}?" if near else "only modules and classes are designated"
            return f"there is no module or class {walked!r} here; {hint}"
        path = list(spec.submodule_search_locations or [])
    return None


def _of_class(kind: type, name: str, method: str) -> str:
    if not method:
        return f"class {name!r} has no method that can be relocated"
    if hasattr(kind, method):
        return f"{name}.{method} is no method that can be relocated"
    near = difflib.get_close_matches(method, dir(kind), 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"class {name!r} has no method {method!r}{hint}"


def imported(name: str) -> str | None:
    """What is to be said of ``name`` if the program has imported a module of almost the same name."""
    depth = name.count(".")
    near = difflib.get_close_matches(name, [m for m in sys.modules if m.count(".") == depth], 1, 0.8)
    return f"no module {name!r} was imported; did you mean {near[0]}?" if near else None
