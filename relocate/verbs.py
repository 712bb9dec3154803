"""What can be asked of a running program: its name space looked at and changed, its calls counted.

Each verb gives what JSON can hold.  The same functions serve ``relocate ls`` where no program runs.
"""

from __future__ import annotations

import difflib
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from . import __version__, describing
from . import interface as face
from .config import REGISTRY
from .errors import ModuleUnavailable
from .namespace import Snapshot, join, split

if TYPE_CHECKING:
    from collections.abc import Collection

    from .control import Verbs
    from .handle import Handle

DESCRIBED = 5.0
"""Seconds to wait for a worker to describe a module."""


def verbs(handle: Handle) -> Verbs:
    """The verbs of one handle, by their names."""
    began = time.time()
    space = handle.namespace

    def about() -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "program": [os.path.basename(sys.argv[0] or "-"), *sys.argv[1:]],
            "modules": list(handle.config.modules),
            "workers": handle._fleet.places(),
            "since": began,
            "relocate": __version__,
        }

    def save() -> str:
        from . import nsfile

        return nsfile.text_of(space.snapshot)

    def load(text: str, origin: str) -> None:
        from . import nsfile

        space.change(lambda begun: nsfile.run(text, origin, begun), origin)

    def bind(new: str, old: str, where: str = "replace", rank: int | None = None) -> list[str]:
        space.bind(new, old, where, rank)
        return doubts(handle, new, old)

    return {
        "about": about,
        "ls": lambda path="", detailed=False: look(handle, path, detailed=detailed),
        "resolve": lambda path: aims(space.snapshot, path),
        "mount": lambda url, place="": space.mount(url, place),
        "bind": bind,
        "unmount": lambda old, new=None: space.unmount(old, new),
        "save": save,
        "load": load,
        "statistics": handle.statistics,
        "sample": lambda: sample(handle),
        "explain": lambda function: reasons(handle, function),
    }


def sample(handle: Handle) -> dict[str, Any]:
    """What `relocate top` shows the change of, and what is under way now."""
    driver = handle._fleet.driver
    seats = [seat for link in handle._fleet.links for seat in link.seats]
    return {
        "at": time.monotonic(),
        "pid": os.getpid(),
        "workers": handle._fleet.places(),
        "outstanding": {seat.label: seat.outstanding for seat in seats},
        "queue": driver.waiting(),
        "counts": handle._counters.sample(),
    }


def reasons(handle: Handle, function: str) -> dict[str, Any]:
    """Why the calls of ``function`` go where they go; see `explain`.

    Raises:
        ModuleUnavailable: it is not designated, or no such function was called or imported yet.
    """
    from .explain import explain

    targets = {target.name: target for target in handle._registry.targets.values()}
    if function not in targets:
        near = difflib.get_close_matches(function, targets, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ModuleUnavailable(f"{function!r} is no relocated function that the program has imported{hint}")
    placement, driver = handle._placement, handle._fleet.driver
    mode, measured = handle.config.placement, None if placement is None else placement.costs
    described = targets[function].described
    found = explain(driver, function, (described.name, described.digest), mode, measured if mode == "auto" else None)
    counts = handle.statistics().members.get(function)
    return found | {"ran there": counts.remote if counts else 0, "ran here": counts.local if counts else 0}


def doubts(handle: Handle, new: str, old: str) -> list[str]:
    """What may be wrong with a bind of ``new`` over ``old``: nobody is there, or the program knows no such name."""
    said = [
        f"{new} leads to {place['name']}, which is {place['state']}: {place['error']}"
        for place in handle._fleet.places()
        if split(new)[:2] == ("n", place["name"]) and place["state"] in ("down", "refused")
    ]
    name = ".".join(split(old)[1:])
    modules = {m for m in (*handle.config.modules, *handle.config.methods) if not m.startswith("!")}
    targets = list(handle._registry.targets.values())
    known = {*modules, *handle._descriptions.specs, *(target.name for target in targets)}
    made = {target.module for target in targets}
    # Until a module's functions are made, its import may be under way.
    coming = any(name.startswith(f"{m}.") and not any(f"{n}.".startswith(f"{m}.") for n in made) for m in modules)
    if name and not coming and not any(n == name or n.startswith(f"{name}.") for n in known):
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        said.append(f"the program knows no module or function {name!r} so far{hint}")
    return said


def look(handle: Handle, path: str, *, detailed: bool = False) -> dict[str, Any]:
    """The workers and what is below ``path``, or all bindings if there is no path.

    Args:
        handle: of the program.
        path: a name below ``/chan`` or ``/n``.
        detailed: whether to tell of each entry where it leads.

    Raises:
        RelocateError: no worker answers.
    """
    places = handle._fleet.places()
    snapshot = handle.namespace.snapshot
    found: dict[str, Any] = {"workers": places}
    if not path:
        found["bindings"] = bindings(snapshot)
        return found
    try:
        found["entries"] = entries(handle, path, alive=any(place["state"] == "up" for place in places))
    except ModuleUnavailable as error:
        return found | {"entries": [], "leads to": [], "why": str(error)}
    found["leads to"] = aims(snapshot, path)
    if detailed:
        found["entries lead to"] = {entry: aims(snapshot, f"{path}/{entry}") for entry in found["entries"]}
    return found


def aims(snapshot: Snapshot, path: str) -> list[dict[str, Any]]:
    """Where ``path`` leads, as data."""
    return [{"place": t.place, "rank": t.rank, "name": "/".join(t.name)} for t in snapshot.resolve(split(path))]


def entries(handle: Handle, path: str, *, alive: bool) -> list[str]:
    """What is below ``path``: bound names, and the members of a module.

    Raises:
        RelocateError: no worker has the module, or the module not that member.
    """
    bound: list[str] = handle.namespace.ls(path)
    parts = split(path)
    parts = parts[2:] if parts[:1] == ("n",) else parts
    if parts[:1] == ("chan",):
        designated = [("chan", *m.split(".")) for m in handle.config.modules if not m.startswith("!")]
        depth = len(parts)
        bound = sorted({*bound, *(name[depth] for name in designated if len(name) > depth and name[:depth] == parts)})
    if parts[:1] != ("chan",) or len(parts) < 2 or not alive:
        return bound
    module = ".".join(parts[1:])
    try:
        return sorted({*bound, *_members(handle, module)})
    except ModuleUnavailable:
        home, _, member = module.rpartition(".")
        try:
            if member in _members(handle, home):
                return bound
        except (ModuleUnavailable, ValueError):
            pass
        if bound:
            return bound
        raise


def _members(handle: Handle, module: str) -> Collection[str]:
    """The members of ``module``, as it is where its name leads first; but not modules that it imports.

    Raises:
        ModuleUnavailable: it is not there.
    """
    if not handle._descriptions.leads_here(module):
        described = face.decode(handle._fleet.driver.describe(module, DESCRIBED))
    else:
        try:
            described = describing.describe(handle._reals.real(module))
        except (ImportError, ValueError) as error:
            raise ModuleUnavailable(f"{module!r} is not here: {error}", name=module) from None
    return [
        name
        for name, member in described.members.items()
        if not (isinstance(member, face.Reference) and not member.qualname and member.module != f"{module}.{name}")
    ]


def bindings(snapshot: Snapshot) -> list[dict[str, Any]]:
    """The unions of a name space, as data, but for what serves registries: nothing runs at such an element."""
    registries = {("n", place) for place, url in snapshot.mounts.items() if url.startswith(REGISTRY)}
    return [
        {"name": join(name), "leads to": join(element.target), "rank": element.rank}
        for name, union in sorted(snapshot.unions.items())
        for element in union
        if element.target != name and element.target[:2] not in registries
    ]
