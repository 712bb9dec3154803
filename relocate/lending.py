"""Generators as arguments stay where they are; the function that got one asks for its items.

The client lends: it keeps every item that it gave, so that the call can run again elsewhere, where
the same items are asked for from the start.  The executor borrows: an iterator that asks for one item
at a time, so that no more is taken than the function takes; from ``EXACT`` items on for two, four, ...
up to ``AHEAD``, as who has taken so many will most likely take all.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Collection, Iterator
from types import FunctionType, GeneratorType, ModuleType
from typing import Any

import cloudpickle

from . import opaque, reducers

EXACT = 64
AHEAD = 1024

Ask = Callable[[int, int, int], tuple[list[Any], bool]]
"""``ask(lent, skip, count)`` -> the items, and whether that was the end; raises what they raise."""

marks: dict[int, object] = {}
"""Each object() that a relocated module offers, by its id: functions compare arguments with it."""
asking: list[Ask] = []
"""In an executor: how the running call asks its caller."""


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


class Lender(Cloud):
    """Pickles like `Cloud`, but lends generators."""

    def __init__(self, lent: list[Lent], file: io.BytesIO, take: Callable[[Any], bool]) -> None:
        super().__init__(file, take)
        self._lent = lent

    def reducer_override(self, value: Any) -> Any:
        """Generators by reference."""
        if type(value) is GeneratorType:
            self._lent.append(Lent(value))
            return borrow, (len(self._lent) - 1,)
        if type(value) is object and id(value) not in marks:
            return NotImplemented  # only the caller knows it, and gets it back by its number
        return super().reducer_override(value)


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
    ask = asking[-1]
    skip, count = 0, 1
    while True:
        items, ended = ask(lent, skip, count)
        yield from items
        skip += len(items)
        if ended:
            return
        if skip >= EXACT:
            count = min(count * 2, AHEAD)
