"""What a call of a relocated function is of: its name, and the version of its module.

A `Target` is made once, with its stub, and says the same to the driver at every call.  What changes is the digest in
its `Described`, when the module is described anew, and the `shortcut.Shortcut`s that its last calls have left, with
what was learned of those.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .interface import Function
    from .looking import Looking
    from .shortcut import Shortcut


class Described:
    """The version of one module that its proxy describes; shared by all of the module's targets."""

    __slots__ = ("digest", "name")

    def __init__(self, name: str, digest: bytes) -> None:
        self.name = name
        self.digest = digest


class Target:
    """One relocated function: what a call of it says to the driver."""

    __slots__ = (
        "awaits",
        "described",
        "generates",
        "home",
        "looking",
        "member",
        "name",
        "own",
        "path",
        "shortcuts",
        "special",
        "stays",
    )

    def __init__(
        self, described: Described, member: str, function: Function, own: Callable[..., Any] | None = None
    ) -> None:
        self.described = described
        self.own = own
        """The local copy, if it is at hand: that of a method, whose class is real."""
        self.member = member
        self.home = (function.home, function.qualname)
        self.name = function.name
        self.path = ("chan", *function.name.split("."))
        self.generates = function.generates
        self.awaits = function.awaits
        self.shortcuts: list[Shortcut] = []
        """Where its last calls went, if the next one may go there with nothing to decide."""
        self.looking: Looking | None = None
        """Whether it pays to look for its answers, once it has had a shortcut."""
        self.stays = False
        """Whether all calls run here: those of what the program has changed here."""
        self.special = self.generates or self.awaits
        """Whether its calls are more than a question and an answer, or run here."""

    def stay(self) -> None:
        """Let all calls run here from now on."""
        self.stays = self.special = True

    @property
    def module(self) -> str:
        """The module through which a worker finds the function."""
        return self.described.name

    def local(self, real: Callable[[str, str], ModuleType]) -> Any:
        """The local copy; ``real(module, member)`` gives its module.

        Raises:
            ImportError: that is not installed here.
            AttributeError: it has no such function.
        """
        if self.own is not None:
            return self.own
        function: Any = real(self.described.name, self.member)
        for part in self.member.split("."):
            function = getattr(function, part)
        return function


Call = Callable[[Target, tuple[Any, ...], dict[str, Any]], Any]
Real = Callable[..., ModuleType]
"""Gives the real module of a name; a second argument says which of its members will be asked for."""
