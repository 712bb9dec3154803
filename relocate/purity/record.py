"""What is kept of a function while it is gone through: facts, calls, and under which conditions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from . import known
from .sources import Function
from .values import FRESH, Call, Condition, Fact, Facts, Given, Origin, Value, join, spelled


class Record:
    """The facts about one function, and its variables so far."""

    def __init__(self, function: Function, found: Facts) -> None:
        self.function = function
        self.module = function.module
        self.found = found
        self.env: dict[str, Value] = {}
        self.conditions: list[Condition] = []
        self.defaults = function.defaults
        self.returning = False
        """Whether an expression is worked out that is the result."""
        self.refusing = False
        """Whether a test is worked out that decides on nothing but an error."""

    # What is noted ---------------------------------------------------------------------------------

    def note(self, kind: str, what: str, node: ast.AST, origin: Origin | None = None) -> None:
        """Keep a fact; one that holds always rather than one under a condition."""
        if self.contradictory:
            return
        condition = self.conditions[0] if self.conditions else None
        if origin is not None and origin.owner is self.function and kind == "argument":
            condition = condition or optional(self.function, origin.name)
        line = getattr(node, "lineno", self.function.line)
        key = (kind, what, line)
        if key not in self.found.facts or condition is None:
            self.found.facts[key] = Fact(kind, what, line, condition, origin)

    def effect(self, effect: known.Effect | None, node: ast.AST, condition: Condition | None = None) -> None:
        """Keep what is known of a name."""
        if effect is not None and not (self.refusing and effect.kind == "environment"):
            with self.under(condition):
                self.note(effect.kind, effect.what, node)

    def changes(
        self, value: Value, node: ast.AST, target: ast.expr, stored: ast.AST | None = None, whole: bool = False
    ) -> None:
        """The object is changed in place.

        Args:
            value: the object.
            node: the place.
            target: how the program calls it; if ``whole``, its attribute that gets another value.
            stored: what is stored in it.
            whole: whether an attribute is exchanged, and not something in what it holds.
        """
        if value.condition is not None:
            with self.under(value.condition):
                self.changes(value._replace(condition=None), node, target, stored, whole)
            return
        text = ast.unparse(target)
        for origin in value.origins:
            names = {text} if whole else {text, origin.name}
            receiver = origin.owner.receiver if origin.owner is not None else None
            if origin.owner is None:
                self.changes_shared(text if whole else origin.name, names, node, stored, whole)
            elif origin.name == receiver and "classmethod" in origin.owner.decorators:
                self.changes_shared(f"the class's {_attribute(target)}", names, node, stored, whole)
            elif origin.name == receiver:
                self.note("self", "changes the object", node, origin)
            elif origin.owner is self.function and _mutable(self.defaults.get(origin.name)):
                if not self.caches(names, stored, whole):
                    self.note("global", f"keeps something in the default of {origin.name}", node)
            else:
                self.note("argument", f"changes {origin.name}", node, origin)

    def changes_shared(self, name: str, names: set[str], node: ast.AST, stored: ast.AST | None, whole: bool) -> None:
        """Something that outlives the call is changed."""
        if not self.caches(names, stored, whole):
            self.note("global", f"changes {name}", node)

    def caches(self, names: set[str], stored: ast.AST | None, whole: bool) -> bool:
        """Whether what is called ``names`` is used as a cache by this function: looked up, and filled if empty."""
        if stored is not None and any(spelled(n) in names for n in ast.walk(stored)):
            return False  # a counter, say: what is stored depends on what was there
        tested = read = False
        for node in ast.walk(self.function.node):
            if isinstance(node, (ast.If, ast.IfExp, ast.While)):
                tested = tested or any(_mentions(n, names) for n in ast.walk(node.test))
            elif isinstance(node, ast.Try):
                caught = any(spelled(h.type) in _MISSES for h in node.handlers)
                tested = tested or (caught and any(_mentions(n, names) for s in node.body for n in ast.walk(s)))
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                looked_up = node.func.attr in ("get", "setdefault") and spelled(node.func.value) in names
                tested, read = tested or looked_up, read or looked_up
            elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
                read = read or spelled(node.value) in names
        return tested and (read or whole)

    def calls(self, function: Function, node: ast.AST, given: dict[str, Given] | None) -> None:
        """Keep a call of a function of the package."""
        if self.contradictory:
            return
        line = getattr(node, "lineno", self.function.line)
        condition = self.conditions[0] if self.conditions else None
        key = (id(function), line, getattr(node, "col_offset", 0), getattr(node, "end_col_offset", 0) or 0)
        kept = self.found.calls.get(key)
        if kept is not None and kept.given is not None and given is not None:
            for name, other in kept.given.items():  # again, in a loop: what was known then holds too
                if name in given:
                    given[name] = given[name]._replace(value=join(given[name].value, other.value))
        if kept is None or given is not None:
            self.found.calls[key] = Call(function, line, given, condition)

    @property
    def contradictory(self) -> bool:
        """Whether the place cannot be reached: it is under a condition and its opposite."""
        return any(c.opposite in self.conditions for c in self.conditions)

    @contextmanager
    def under(self, condition: Condition | None) -> Iterator[None]:
        """What is noted meanwhile is done under the condition."""
        if condition is None:
            yield
            return
        self.conditions.append(condition)
        try:
            yield
        finally:
            self.conditions.pop()

    # Conditions ------------------------------------------------------------------------------------

    def condition(self, test: ast.expr) -> tuple[Condition | None, Condition | None]:
        """Under which condition on a parameter the test holds, and under which it does not."""
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            return self.condition(test.operand)[::-1]
        if isinstance(test, ast.BoolOp):
            parts = [self.condition(v) for v in test.values]
            some = (next((p[i] for p in parts if p[i] is not None), None) for i in range(2))
            first, second = some
            return (parts[0][0], second) if isinstance(test.op, ast.Or) else (first, None)
        if isinstance(test, ast.Name):
            name, default = self.parameter(test)
            if name is None or default is None:
                return None, None
            given = Condition(name, True)
            if default[0]:
                return None, given
            return given, Condition(name, False) if default[0] is None else None
        if isinstance(test, ast.Compare) and len(test.ops) == 1:
            return self.comparison(test.left, test.ops[0], test.comparators[0])
        return None, None

    def comparison(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> tuple[Condition | None, Condition | None]:
        """The same for a comparison of a parameter with a constant."""
        name, default = self.parameter(left)
        if name is None:
            return None, None
        if isinstance(op, (ast.Is, ast.IsNot)) and isinstance(right, ast.Constant) and right.value is None:
            given = Condition(name, True) if default is not None and default[0] is None else None
            found = (Condition(name, False), given)
            return found if isinstance(op, ast.Is) else found[::-1]
        if default is None:
            return None, None
        try:
            other = ast.literal_eval(right)
            holds = eval_comparison(op, default[0], other)
        except (ValueError, TypeError):
            return None, None
        given = Condition(name, True)
        return (None, given) if holds else (given, None)

    def parameter(self, node: ast.expr) -> tuple[str | None, tuple[Any] | None]:
        """The parameter that ``node`` still is, and its default if that is a constant."""
        if not isinstance(node, ast.Name):
            return None, None
        name = self.env.get(node.id, FRESH).parameter
        default = self.defaults.get(name) if name is not None else None
        return name, (default.value,) if isinstance(default, ast.Constant) else None


def optional(function: Function, parameter: str) -> Condition | None:
    """The condition that an argument is given at all: its default is nothing that can be changed."""
    return Condition(parameter, True) if parameter in function.defaults else None


def eval_comparison(op: ast.cmpop, left: Any, right: Any) -> bool:
    """Whether ``left op right`` holds."""
    match op:
        case ast.Eq() | ast.Is():
            return bool(left == right)
        case ast.NotEq() | ast.IsNot():
            return bool(left != right)
        case ast.Lt():
            return bool(left < right)
        case ast.LtE():
            return bool(left <= right)
        case ast.Gt():
            return bool(left > right)
        case ast.GtE():
            return bool(left >= right)
        case ast.In():
            return left in right
        case _:
            return left not in right


_MISSES = frozenset({"KeyError", "AttributeError", "NameError", "LookupError", "IndexError"})


def _mentions(node: ast.AST, names: set[str]) -> bool:
    """Whether the node is one of these, or ``hasattr`` of one."""
    if isinstance(node, ast.Call) and spelled(node.func) == "hasattr" and len(node.args) == 2:
        attribute = node.args[1].value if isinstance(node.args[1], ast.Constant) else ""
        return f"{spelled(node.args[0])}.{attribute!s}" in names
    return isinstance(node, (ast.Name, ast.Attribute)) and spelled(node) in names


def _mutable(default: ast.expr | None) -> bool:
    if isinstance(default, ast.Call):
        return spelled(default.func) in ("list", "dict", "set", "defaultdict", "collections.defaultdict")
    return isinstance(default, (ast.List, ast.Dict, ast.Set))


def _attribute(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else ast.unparse(node)
