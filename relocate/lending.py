"""Generators and functions as arguments stay where they are; the function that got one asks its caller.

The client lends: it keeps every item and every result that it gave, so that the call can run again
elsewhere, where the same is asked for from the start.  The executor borrows:

* for a generator, an iterator that asks for one item at a time, so that no more is taken than the
  function takes; from ``EXACT`` items on for two, four, ... up to ``AHEAD``, as who has taken so many
  will most likely take all;
* for a function, a stand-in that asks for it to be called in the thread that made the call.

A function that provably nobody can tell from a copy travels by value, which is faster (`closures`).  Those of
installed packages travel by name, but for Python's own that look at the outside, which are lent.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import io
import pickle
import sys
from collections.abc import Callable, Collection, Iterator
from functools import partial
from types import BuiltinMethodType, FunctionType, GeneratorType, MappingProxyType, MethodType, ModuleType, NoneType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import cloudpickle

from . import opaque, reducers
from .origin import is_installed, is_named, is_stub

if TYPE_CHECKING:
    from .views import Shared

EMPTY = inspect.Parameter.empty
PLAIN = (NoneType, bool, int, float, complex, str, bytes)
"""Types of defaults and attributes that a stand-in shows."""
EXACT = 64
AHEAD = 1024


class Asking(Protocol):
    """How the running call of an executor asks its caller."""

    def begin(self) -> None:
        """The function runs from the start, perhaps again."""

    def items(self, lent: int, skip: int, count: int) -> tuple[list[Any], bool]:
        """The items of a generator, and whether that was the end; raises what they raise."""

    def invoke(self, lent: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a function returns; raises what it raises."""


marks: dict[int, object] = {}
"""Each object() that a relocated module offers, by its id: functions compare arguments with it."""
asking: list[Callable[[], Asking]] = []
"""In an executor: gives the caller of the running call."""


class Cloud(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles like cloudpickle, but nothing that would be something else at the other end."""

    lacking: Collection[str] = ()
    """Modules whose functions and classes go by value."""

    def __init__(self, file: io.BytesIO, take: Callable[[Any], bool]) -> None:
        super().__init__(file, 5, buffer_callback=take)

    def reducer_override(self, value: Any) -> Any:
        """As cloudpickle has it, but no copies of open files, no bytes for views of memory."""
        if isinstance(value, io.IOBase) and not isinstance(value, (io.BytesIO, io.StringIO)):
            raise pickle.PicklingError(f"an open file ({getattr(value, 'name', '?')}) is of this process")
        if type(value) is memoryview:
            raise pickle.PicklingError("a memoryview is of memory in this process")
        if type(value) is object:
            raise pickle.PicklingError("an object() is nothing but itself")
        if type(value) is MappingProxyType:  # cloudpickle has a plain dictionary behind it
            return MappingProxyType, tuple(gc.get_referents(value))
        if type(value) is FunctionType and (found := reducers.by_name(value)) is not None:
            return found
        if isinstance(value, opaque.StandIn):
            return opaque.by_name(value)
        return super().reducer_override(value) if not self.lacking else self._by_value(value)

    def _by_value(self, value: Any) -> Any:
        if isinstance(value, ModuleType) and value.__name__ in self.lacking:
            space = {name: item for name, item in vars(value).items() if name not in _OF_IMPORT}
            return cloudpickle.cloudpickle.dynamic_subimport, (value.__name__, space)
        if isinstance(value, FunctionType) and value.__module__ in self.lacking:
            return self._dynamic_function_reduce(value)
        if isinstance(value, type) and value.__module__ in self.lacking:
            return cloudpickle.cloudpickle._dynamic_class_reduce(value)
        return super().reducer_override(value)


_OF_IMPORT = frozenset({"__builtins__", "__cached__", "__loader__", "__spec__"})
"""What a module has from being imported."""


class Plain(pickle.Pickler):
    """Python's own pickler, which refuses functions that may have to stay here."""

    def __init__(self, file: io.BytesIO, take: Callable[[Any], bool]) -> None:
        super().__init__(file, 5, buffer_callback=take)

    def reducer_override(self, value: Any) -> Any:
        """Refuses the program's own functions."""
        kind = type(value)
        if kind is FunctionType and (found := reducers.by_name(value)) is not None:
            return found
        if (kind is FunctionType or kind is MethodType) and not is_installed(value.__module__):
            raise pickle.PicklingError("a function of the program's")
        if (kind is FunctionType or kind is BuiltinMethodType) and _has_effects(value):
            raise pickle.PicklingError("a function that does here what it does")
        return NotImplemented


class Lender(Cloud):
    """Pickles like `Cloud`, but lends generators, and functions that may not travel by value.

    Args:
        alone: whether nothing is lent that may change what other functions capture.
        bases: what views of memory are made of, see `again`.
    """

    def __init__(
        self,
        lent: Loans,
        file: io.BytesIO,
        take: Callable[[Any], bool],
        *,
        alone: bool = True,
        bases: Collection[tuple[int, int, Any]] = (),
    ) -> None:
        super().__init__(file, take)
        lent.clear()
        self._lent = lent
        self._alone = alone
        self._bases = bases
        self._shared: Shared | None = None
        self.depends = False
        """Whether a function travels by value and captures what one that is lent may change."""

    def reducer_override(self, value: Any) -> Any:
        """Generators and functions by reference."""
        kind = type(value)
        if kind is GeneratorType:
            self._lent.append(Lent(value))
            return borrow, (len(self._lent) - 1,)
        if kind is memoryview:
            if self._shared is None:
                from . import views  # not before a view is met

                self._shared = views.Shared(self._bases)
            return self._shared.reduce(value)
        if kind is FunctionType and (_is_of_a_class(value) or reducers.by_name(value) is not None):
            return super().reducer_override(value)
        if (kind is FunctionType or kind is MethodType) and not _travels_by_name(value):
            from . import closures  # not before a function is met: it loads much

            proof = closures.proof(value) if kind is FunctionType else None
            if proof is not None and (self._alone or not proof.depends):
                self.depends = self.depends or proof.depends
                return self._dynamic_function_reduce(value)
            return self._lend(value)
        if kind is BuiltinMethodType and (isinstance(value.__self__, io.IOBase) or _has_effects(value)):
            return self._lend(value)
        if kind is object and id(value) not in marks:
            return NotImplemented  # only the caller knows it, and gets it back by its number
        return super().reducer_override(value)

    def again(self) -> dict[str, Any] | None:
        """The settings of a second pickler, if all are known only now that everything has been met."""
        alone = not (self._lent and self.depends)
        bases = self._shared.bases(value for _, value in self.memo.copy().values()) if self._shared is not None else []
        return None if alone and not bases else {"alone": alone, "bases": bases}

    def _lend(self, value: Callable[..., Any]) -> Any:
        self._lent.append(Function(value))
        attributes = getattr(value, "__dict__", {})
        plain = {name: kept for name, kept in attributes.items() if isinstance(kept, PLAIN)}
        return stand_in, (len(self._lent) - 1, *_face(value)), plain or None


def _travels_by_name(value: Any) -> bool:
    """Whether a function or method is what workers have under its name."""
    if type(value) is MethodType:
        return is_installed(value.__module__) and is_installed(type(value.__self__).__module__)
    return is_stub(value) or (is_installed(value.__module__) and is_named(value) and not _has_effects(value))


def _has_effects(value: Any) -> bool:
    """Whether a function of Python's own reads or changes what is outside: `os.getenv`, `time.time`, `open`."""
    module = value.__module__
    if module not in sys.stdlib_module_names and module not in _PUBLIC:
        return False
    from .purity import known  # not before a function is met

    public = _PUBLIC.get(module, module)
    return known.of_call(f"{public}.{value.__qualname__}".removeprefix("builtins.")) is not None


_PUBLIC = {
    "posix": "os",
    "nt": "os",
    "posixpath": "os.path",
    "ntpath": "os.path",
    "genericpath": "os.path",
    "_io": "io",
}
"""Under which names what other modules define is known."""


def _is_of_a_class(value: FunctionType) -> bool:
    """Whether a function was made in the body of a class, which travels as a whole."""
    owner = value.__qualname__.rpartition(".")[0]
    return owner != "" and not owner.endswith("<locals>")


def _face(value: Callable[..., Any]) -> tuple[Any, ...]:
    """What a stand-in shows of the function: its names, its text, and its parameters as plain values."""
    parameters: list[tuple[str, int, bool, Any]] | None = None
    with contextlib.suppress(ValueError, TypeError):
        parameters = [
            (p.name, int(p.kind), p.default is not EMPTY, p.default if isinstance(p.default, PLAIN) else None)
            for p in inspect.signature(value).parameters.values()
        ]
    names = [getattr(value, name, None) for name in ("__name__", "__qualname__", "__module__", "__doc__")]
    return tuple(n if isinstance(n, str) else None for n in names), parameters


class Result(NamedTuple):
    """What became of one call of a function that was lent."""

    lent: int
    asked: bytes
    """Of the arguments."""
    value: Any
    error: BaseException | None
    sent: Any
    """As it was sent: whether it refers to the arguments, and segments; None if it cannot travel."""


def digest(segments: Any) -> bytes:
    """What tells the arguments of a function that was lent from others."""
    from blake3 import blake3

    found = blake3()
    for segment in segments:
        found.update(segment)
    return found.digest()


def _directly(run: Callable[[], Any]) -> Any:
    return run()


class Loans(list["Lent | Function"]):
    """What a call was lent, by number."""

    def __init__(self) -> None:
        super().__init__()
        self.here: Callable[[Callable[[], Any]], Any] = _directly
        """Does what the program sees, in the thread where that is expected."""
        self.results: list[Result] = []
        """Of all functions, in the order of their calls: a call that runs again gets the same."""

    @property
    def unfit(self) -> bool:
        """Whether what it asked for cannot travel."""
        return any(loan.unfit for loan in self)

    def replaying(self, dumps: Callable[[Any], bytes]) -> dict[int, Any]:
        """What stands here for those that were used on a worker, by the `id` of what was lent.

        Args:
            dumps: what tells arguments of functions apart.
        """
        at = [0]
        found: dict[int, Any] = {}
        for number, loan in enumerate(self):
            if isinstance(loan, Lent):
                if loan.begun:
                    found[id(loan.generator)] = loan.replay()
            elif any(result.lent == number for result in self.results):
                found[id(loan.function)] = partial(_replayed, self.results, at, number, loan.function, dumps)
        return found


def _replayed(
    results: list[Result],
    at: list[int],
    number: int,
    function: Callable[..., Any],
    dumps: Callable[[Any], bytes],
    /,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """The next of the ``results``, if it is of the same call; else ``function`` is called."""
    if at[0] < len(results):
        result = results[at[0]]
        at[0] += 1
        if result.lent == number and result.asked == dumps((args, kwargs)):
            if result.error is not None:
                raise result.error
            return result.value
        at[0] = len(results)
    return function(*args, **kwargs)


class Function:
    """A function that a call was given."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.error: BaseException | None = None
        self.unfit = False
        """Whether a result of it cannot travel."""


class Lent:
    """A generator that a call was given, and what it has yielded so far."""

    def __init__(self, generator: Iterator[Any]) -> None:
        self.generator = generator
        self._items: list[Any] = []
        self._ended = False
        self.error: BaseException | None = None
        self.unfit = False
        """Whether an item cannot travel."""

    def replay(self) -> Iterator[Any]:
        """All items from the first, as the generator would have given them."""
        skip, ended = 0, False
        while not ended:
            items, ended = self.give(skip, 1)
            yield from items
            skip += len(items)

    @property
    def begun(self) -> bool:
        """Whether the generator is not any more what it was."""
        return bool(self._items) or self._ended or self.error is not None

    def give(self, skip: int, count: int) -> tuple[list[Any], bool]:
        """Up to ``count`` items after the first ``skip``, and whether that was the end.

        Raises:
            BaseException: what the generator raised in the place of the item after ``skip``.
        """
        while len(self._items) < skip + count and not self._ended and self.error is None:
            try:
                self._items.append(next(self.generator))
            except StopIteration:
                self._ended = True
            except BaseException as error:
                self.error = error
        items = self._items[skip : skip + count]
        if not items and self.error is not None:
            raise self.error
        return items, self._ended and skip + len(items) == len(self._items)


def borrow(lent: int) -> Iterator[Any]:
    """The iterator that stands for the generator ``lent``; called by unpickling, in an executor."""
    return _borrowed(asking[-1]().items, lent)


def _borrowed(ask: Callable[[int, int, int], tuple[list[Any], bool]], lent: int) -> Iterator[Any]:
    skip, count = 0, 1
    while True:
        items, ended = ask(lent, skip, count)
        yield from items
        skip += len(items)
        if ended:
            return
        if skip >= EXACT:
            count = min(count * 2, AHEAD)


def stand_in(
    lent: int, names: tuple[str | None, ...], parameters: list[tuple[str, int, bool, Any]] | None
) -> Callable[..., Any]:
    """The function that stands for the function ``lent``; called by unpickling, in an executor."""
    invoke = asking[-1]().invoke

    def called_back(*args: Any, **kwargs: Any) -> Any:
        return invoke(lent, args, kwargs)

    for attribute, name in zip(("__name__", "__qualname__", "__module__", "__doc__"), names, strict=True):
        if name is not None or attribute == "__doc__":
            setattr(called_back, attribute, name)
    if parameters is not None:
        called_back.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                inspect.Parameter(name, inspect._ParameterKind(kind), default=default if has else EMPTY)
                for name, kind, has, default in parameters
            ]
        )
    return called_back
