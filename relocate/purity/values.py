"""What is known of objects, and what is found out about functions."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .sources import Class, Found, Function


class Origin(NamedTuple):
    """Where an object comes from: ``owner``'s argument ``name``; or, without owner, a variable of a module."""

    name: str
    owner: Function | None = None


Origins = frozenset[Origin]
NONE: Origins = frozenset()


class Condition(NamedTuple):
    """When something is done: unless ``parameter`` is given, or only if it is."""

    parameter: str
    given: bool

    @property
    def opposite(self) -> Condition:
        """When it is not done."""
        return Condition(self.parameter, not self.given)


class Value(NamedTuple):
    """What is known of an object.

    ``origins`` are where it may come from, ``held`` where what is inside it may come from.
    ``parameter`` is set as long as it is exactly what the caller gave, ``ref`` if it is something
    of a module, ``receiver`` if that is a method, ``instance`` if its class is known, ``made`` if it
    is known how it was made.  ``selects`` marks masks and lists of places, ``array`` what is surely
    an array; ``condition`` is when it is any of its origins' at all.
    """

    origins: Origins = NONE
    held: Origins = NONE
    parameter: str | None = None
    ref: Found = None
    instance: Class | None = None
    receiver: Value | None = None
    made: dict[str, Given] | None = None
    selects: bool = False
    array: bool = False
    condition: Condition | None = None

    @property
    def inside(self) -> Value:
        """Something in it."""
        return Value(self.held, self.held, condition=self.condition)


FRESH = Value()


class Fact(NamedTuple):
    """Something that the function does itself; ``origin`` is whose object it changes."""

    kind: str
    what: str
    line: int
    condition: Condition | None = None
    origin: Origin | None = None


class Given(NamedTuple):
    """How a call fills a parameter: with the caller's own ``parameter``, with a constant, or otherwise.

    Not ``certain``: by ``**``, if at all.
    """

    value: Value
    parameter: str | None = None
    constant: tuple[Any] | None = None
    certain: bool = True


class Call(NamedTuple):
    """A call of a function of the package; ``given`` is None if it is only handed on."""

    function: Function
    line: int
    given: dict[str, Given] | None
    condition: Condition | None


@dataclass
class Facts:
    """All that one function does itself."""

    facts: dict[tuple[str, str, int], Fact] = field(default_factory=dict)
    calls: dict[tuple[int, ...], Call] = field(default_factory=dict)
    returns: Origins = NONE
    compiled: set[str] = field(default_factory=set)


def join(*values: Value) -> Value:
    """What is known of an object that is one of these."""
    first, *others = values
    for other in others:
        if first != other:
            first = _either(first, other)
    return first


def _either(one: Value, two: Value) -> Value:
    condition = one.condition if one.condition == two.condition else None
    if not one.origins or not two.origins:
        condition = one.condition or two.condition
    return Value(
        one.origins | two.origins,
        one.held | two.held,
        ref=one.ref if one.ref is two.ref else None,
        instance=one.instance if one.instance is two.instance else None,
        selects=one.selects and two.selects,
        array=one.array or two.array,
        condition=condition,
    )


def joined(one: dict[str, Value], two: dict[str, Value]) -> dict[str, Value]:
    """What is known of all variables after one of two ways."""
    return {
        name: join(one[name], two[name]) if name in one and name in two else one.get(name) or two[name]
        for name in {**one, **two}
    }


def owned(value: Value, other: Value, condition: Condition | None) -> Value:
    """``value`` of a branch taken under ``condition``: only then is it anybody's, if the ``other`` branch's is new."""
    if condition is None or not condition.given or not value.origins or value.condition is not None or other.origins:
        return value
    return value._replace(condition=condition)


def spelled(node: ast.AST | None) -> str:
    """A name, dotted or called, as it is written; empty for any other expression."""
    return ast.unparse(node) if isinstance(node, (ast.Name, ast.Attribute, ast.Call)) else ""
