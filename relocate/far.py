"""What is only on the workers: sources and files of modules, and what opaque values are asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from . import opaque
from .errors import ModuleUnavailable

if TYPE_CHECKING:
    from .resources import Kept
    from .target import Target

RESOURCES = "relocate.resources"


class Far:
    """Runs functions of `opaque` and `resources` on workers, for one handle; an `opaque.Asker`.

    Args:
        call: runs a call.
        set_inside: sets whether this thread's calls are relocate's own; whether they were.
        reads: whether they are.
    """

    def __init__(
        self,
        call: Callable[[Target, tuple[Any, ...], dict[str, Any]], Any],
        set_inside: Callable[[bool], bool],
        reads: Callable[[], bool],
    ) -> None:
        self._call = call
        self._set_inside = set_inside
        self.reads = reads
        self._targets: dict[tuple[str, str], Target] = {}

    def ask(self, function: str, module: str, name: str, args: tuple[Any, ...]) -> Any:
        """Run a function of `opaque` where ``module`` is.

        Raises:
            RelocateError: no worker could run it.
        """
        return self._run(opaque.__name__, function, module, name, args)

    def _run(self, home: str, function: str, module: str, name: str, args: tuple[Any, ...]) -> Any:
        target = self._targets.get((function, name))
        if target is None:
            target = self._targets[function, name] = _target(home, function, module, name)
        before = self._set_inside(False)
        try:
            return self._call(target, args, {})
        finally:
            self._set_inside(before)

    @cached_property
    def kept(self) -> Kept:
        """Files of packages, as workers have them."""
        from .resources import Kept

        return Kept(lambda function, package, args: self._run(RESOURCES, function, package, f"{package} (files)", args))

    def forget(self, module: str) -> None:
        """Drop what is kept of a module that is loaded anew."""
        if "kept" in self.__dict__:
            self.kept.forget(module)

    def forked(self) -> None:
        """In a forked child."""
        if "kept" in self.__dict__:
            self.kept.forked()

    def source(self, module: str) -> tuple[str, bool, str] | None:
        """A worker's source of ``module``, whether that is a package, and its file; None if there is none."""
        try:
            found: tuple[str, bool, str] | None = self.ask("source", module, f"{module} (source)", (module,))
        except Exception:  # whatever importing it raises there
            return None
        return found


def _target(home: str, function: str, module: str, name: str) -> Target:
    from . import digests
    from . import interface as face
    from .target import Described, Target

    def here(*args: Any) -> Any:
        raise ModuleUnavailable(f"{name} could not run on a worker, and {module!r} is not installed here", name=module)

    described = Described(home, digests.source_digest(importlib.import_module(home)))
    target = Target(described, function, face.Function(module, function, name, module, name, None, None), here)
    target.path = ("chan", *name.partition(" ")[0].split("."))  # where the module's own name leads
    return target
