"""Generators as arguments stay where they are; the function that got one asks for its items.

The client lends: it keeps every item that it gave, so that the call can run again elsewhere, where
the same items are asked for from the start.  The executor borrows: an iterator that asks for one
item, then for two, four, ... up to ``AHEAD`` at a time.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator
from types import GeneratorType
from typing import Any

import cloudpickle

AHEAD = 1024

Ask = Callable[[int, int, int], tuple[list[Any], bool]]
"""``ask(lent, skip, count)`` -> the items, and whether that was the end; raises what they raise."""

asking: list[Ask] = []
"""In an executor: how the running call asks its caller."""


class Lender(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles like cloudpickle, but lends generators."""

    def __init__(self, file: io.BytesIO, take: Callable[[Any], bool], lent: list[Lent]) -> None:
        super().__init__(file, 5, buffer_callback=take)
        self._lent = lent

    @classmethod
    def dumps(cls, value: object, take: Callable[[Any], bool], lent: list[Lent] | None) -> bytes:
        """The pickle of ``value``; without ``lent``, generators are refused."""
        file = io.BytesIO()
        if lent is None:
            cloudpickle.Pickler(file, 5, buffer_callback=take).dump(value)
        else:
            lent.clear()
            cls(file, take, lent).dump(value)
        return file.getvalue()

    def reducer_override(self, value: Any) -> Any:
        """Generators by reference, everything else as cloudpickle does, but no copies of open files."""
        if isinstance(value, io.IOBase) and not isinstance(value, (io.BytesIO, io.StringIO)):
            raise pickle.PicklingError(f"an open file ({getattr(value, 'name', '?')}) is of this process")
        if type(value) is GeneratorType:
            self._lent.append(Lent(value))
            return borrow, (len(self._lent) - 1,)
        return super().reducer_override(value)


class Lent:
    """A generator that a call was given, and what it has yielded so far."""

    def __init__(self, generator: Iterator[Any]) -> None:
        self.generator = generator
        self._items: list[Any] = []
        self._ended = False
        self.error: BaseException | None = None

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
        count = min(count * 2, AHEAD)
