"""What one function does, statement by statement, and whose objects it does it to.

A small abstract interpreter.  For each variable it keeps where the object may come from: an
argument, a variable of the module, or (nothing kept) from the function itself.  Branches are both
taken and joined, loops are gone through twice.  So ``x = list(x)`` makes a new object of a
parameter, and ``if out is None: out = zeros(3)`` leaves it one that may be the caller's.

Facts hold always, or under a *condition* on one parameter: ``if seed is None: ...`` is done unless
a seed is given, ``if verbose: ...`` only if that is.

A *cache* is no fact: what is stored in a variable of the module is looked up there by the same
function, and what is stored does not depend on what was there.

Calls of the package's own functions are not followed here but listed; `purity` puts them together.
In doubt nothing is said: an unknown function is taken for one that changes nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from . import known
from .expressions import Expressions
from .sources import Class, Function, Module, Outside, Sources, imports, statements
from .values import FRESH, NONE, Facts, Origin, Origins, Value, join, joined, owned, spelled

DEPTH = 20
"""Calls that are followed to learn what a function's result shares with its arguments."""


class Flow:
    """Facts about functions, each worked out once."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self._facts: dict[Function, Facts] = {}
        self._depth = 0

    def facts(self, function: Function) -> Facts:
        """What ``function`` does."""
        found = self._facts.get(function)
        if found is None:
            found = self._facts[function] = Facts()
            self._walk(function, {})
        return found

    def nested(self, function: Function, enclosing: dict[str, Value]) -> None:
        """Look at a function inside another one, whose variables are ``enclosing``."""
        if function not in self._facts:
            self._facts[function] = Facts()
            self._walk(function, enclosing)

    def _walk(self, function: Function, enclosing: dict[str, Value]) -> None:
        walk = _Walk(self, function, self._facts[function], enclosing)
        try:
            walk.run()
        except RecursionError:
            walk.conditions.clear()
            walk.note("unknown", "is too long or too deep to be looked into", function.node)

    def returns(self, function: Function) -> Origins:
        """Which of its arguments the result of ``function`` may be."""
        if function not in self._facts and self._depth > DEPTH:
            return NONE
        self._depth += 1
        try:
            return self.facts(function).returns
        finally:
            self._depth -= 1


class _Walk(Expressions):
    """One way through a function."""

    def __init__(self, flow: Flow, function: Function, found: Facts, enclosing: dict[str, Value]) -> None:
        super().__init__(flow, function, found, enclosing)
        body = function.node.body if isinstance(function.node.body, list) else []
        self.globals = {n for s in statements(body) if isinstance(s, ast.Global) for n in s.names}
        self.locals = set(_stored(function.node)) - self.globals
        self.flags: dict[str, dict[str, Value]] = {}
        """What was known where a variable was set to True."""

    def run(self) -> None:
        """Go through it."""
        node = self.function.node
        collecting = {a.arg for a in (node.args.vararg, node.args.kwarg) if a is not None}
        for parameter in self.function.parameters:
            name = parameter.arg
            origin = frozenset({Origin(name, self.function)})
            # The tuple or dictionary that collects arguments is the function's own.
            self.env[name] = Value(NONE, origin) if name in collecting else Value(origin, origin, name)
        owner = self.function.owner
        receiver = self.function.receiver
        if owner is not None and receiver is not None:
            made = self.env[receiver]
            if "classmethod" in self.function.decorators or self.function.name.endswith("__new__"):
                self.env[receiver] = made._replace(ref=owner)
            else:
                self.env[receiver] = made._replace(instance=owner)
        if isinstance(node, ast.Lambda):
            self.found.returns |= self.value(node.body).origins
        else:
            self.block(node.body)

    # Statements ------------------------------------------------------------------------------------

    def block(self, body: list[ast.stmt]) -> bool:
        """Go through statements; whether they never reach their end."""
        added = 0
        ended = False
        for node in body:
            if self.statement(node):
                ended = True
                break
            if isinstance(node, ast.If) and not node.orelse and _leaves(node.body):
                rest = self.condition(node.test)[1]
                if rest is not None:
                    self.conditions.append(rest)
                    added += 1
        del self.conditions[len(self.conditions) - added :]
        return ended

    def statement(self, node: ast.stmt) -> bool:
        """Go through one statement; whether what follows is never reached."""
        match node:
            case ast.Return():
                self.leave(node)
                return True
            case ast.Raise():
                for part in (node.exc, node.cause):
                    self.optional(part)
                return True
            case ast.Assign():
                made = self.value(node.value)
                for target in node.targets:
                    self.assign(target, made, node.value)
            case ast.AnnAssign():
                if node.value is not None:
                    self.assign(node.target, self.value(node.value), node.value)
            case ast.AugAssign():
                self.augment(node)
            case ast.Delete():
                for target in node.targets:
                    if isinstance(target, (ast.Attribute, ast.Subscript)):
                        self.changes(self.value(target.value), node, target.value)
            case ast.Expr():
                self.value(node.value, used=False)
            case ast.If():
                return self.branch(node)
            case ast.For() | ast.AsyncFor():
                self.loop(node.body, node.orelse, node.target, node.iter)
            case ast.While():
                with self.under(self.condition(node.test)[0]):
                    self.loop(node.body, node.orelse, None, node.test)
            case ast.With() | ast.AsyncWith():
                for item in node.items:
                    made = self.value(item.context_expr)
                    if item.optional_vars is not None:
                        self.assign(item.optional_vars, made, item.context_expr)
                return self.block(node.body)
            case ast.Try():
                return self.attempt(node)
            case ast.Match():
                self.match(node)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self.define(node)
            case ast.ClassDef():
                self.env[node.name] = FRESH
            case ast.Import() | ast.ImportFrom():
                for name, full in imports(node, self.module.source):
                    if name != "*":
                        self.env[name] = self.referred(self.sources.dotted(full), full, node)
            case ast.Assert():
                self.value(node.test)
            case _:
                pass
        return False

    def leave(self, node: ast.Return) -> None:
        """Return something."""
        if isinstance(node.value, ast.Name) and node.value.id in self.env:
            made = self.env[node.value.id]  # a function that is only returned is not called here
        else:
            self.returning = True
            made = self.optional(node.value)
            self.returning = False
        self.found.returns |= frozenset(o for o in made.origins if o.owner is self.function)

    def branch(self, node: ast.If) -> bool:
        """Both branches, joined."""
        self.refusing = all(isinstance(n, ast.Raise) for n in node.body) and not node.orelse
        self.value(node.test)
        self.refusing = False
        then, otherwise = self.condition(node.test)
        before = dict(self.env)
        self.recall(node.test)
        self.refine(node.test, True)
        with self.under(then):
            first = self.block(node.body)
        after = self.env
        self.env = before
        self.refine(node.test, False)
        with self.under(otherwise):
            second = self.block(node.orelse)
        if second:
            self.env = after
        elif not first:
            one = {n: owned(v, self.env.get(n, v), then) for n, v in after.items()}
            two = {n: owned(v, after.get(n, v), otherwise) for n, v in self.env.items()}
            self.env = joined(one, two)
        return first and second

    def recall(self, test: ast.expr) -> None:
        """In ``if changed: ...`` a variable is no one's that was no one's where ``changed = True`` was said."""
        for name, then in self.flags.get(spelled(test), {}).items():
            now = self.env.get(name)
            if now is not None:
                self.env[name] = now._replace(origins=now.origins & then.origins, held=now.held & then.held)

    def refine(self, test: ast.expr, holds: bool) -> None:
        """Where ``x is None`` holds, x is nothing that can be changed."""
        if isinstance(test, ast.Compare) and isinstance(test.left, ast.Name) and len(test.ops) == 1:
            other = test.comparators[0]
            is_none = isinstance(test.ops[0], ast.Is if holds else ast.IsNot)
            known_as = self.env.get(test.left.id)
            if is_none and known_as is not None and isinstance(other, ast.Constant) and other.value is None:
                self.env[test.left.id] = known_as._replace(origins=NONE, held=NONE)

    def loop(self, body: list[ast.stmt], orelse: list[ast.stmt], target: ast.expr | None, source: ast.expr) -> None:
        """Twice through the body, so that what the first round leaves meets the second."""
        for _ in range(2):
            before = dict(self.env)
            made = self.value(source)
            if target is not None:
                self.each(target, made, source)
            self.block(body)
            self.env = joined(before, self.env)
        self.block(orelse)

    def attempt(self, node: ast.Try) -> bool:
        """The body to its end, or to anywhere in it and then a handler."""
        before = dict(self.env)
        ended = self.block(node.body) or self.block(node.orelse)
        ends = [] if ended else [self.env]
        start = joined(before, self.env)
        for handler in node.handlers:
            self.env = dict(start)
            if handler.name:
                self.env[handler.name] = FRESH
            if not self.block(handler.body):
                ends.append(self.env)
        self.env = ends[0] if ends else start
        for other in ends[1:]:
            self.env = joined(self.env, other)
        return self.block(node.finalbody) or not ends

    def match(self, node: ast.Match) -> None:
        """Each case as a branch."""
        subject = self.value(node.subject)
        before = dict(self.env)
        ends = [before]
        for case in node.cases:
            self.env = dict(before)
            for part in ast.walk(case.pattern):
                name = getattr(part, "name", None) or getattr(part, "rest", None)
                if isinstance(name, str):
                    self.env[name] = join(subject.inside, subject)
            self.optional(case.guard)
            if not self.block(case.body):
                ends.append(self.env)
        self.env = ends[0]
        for other in ends[1:]:
            self.env = joined(self.env, other)

    def define(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        """A function inside this one."""
        made = self.inner.get(node)
        if made is None:
            made = self.inner[node] = Function(self.module, f"{self.function.name}.{node.name}", node)
            self.env[node.name] = Value(ref=made)
            self.flow.nested(made, {**self.enclosing, **self.env})
        self.env[node.name] = Value(ref=made)

    def assign(self, target: ast.expr, made: Value, source: ast.expr) -> None:
        """Bind or store a value."""
        if isinstance(target, ast.Name):
            if target.id in self.globals:
                self.changes_shared(target.id, {target.id}, target, source, True)
            else:
                self.env[target.id] = made
                if isinstance(source, ast.Constant) and source.value is True:
                    self.flags[target.id] = joined(self.flags.get(target.id, self.env), self.env)
        elif isinstance(target, (ast.Tuple, ast.List)):
            parts = source.elts if isinstance(source, (ast.Tuple, ast.List)) else []
            plain = len(parts) == len(target.elts) and not any(isinstance(e, ast.Starred) for e in target.elts)
            values = [self.value(p) for p in parts] if plain else [made.inside] * len(target.elts)
            for place, part in enumerate(target.elts):
                self.assign(part, values[place], parts[place] if plain else source)
        elif isinstance(target, ast.Starred):
            self.assign(target.value, Value(NONE, made.held), source)
        elif isinstance(target, (ast.Attribute, ast.Subscript)):
            holder = self.value(target.value)
            shared = target if isinstance(target, ast.Attribute) else target.value
            if isinstance(target, ast.Subscript):
                self.value(target.slice)
            whole = isinstance(target, ast.Attribute)
            if isinstance(holder.ref, (Class, Module, Outside)) and not holder.origins:
                text = ast.unparse(shared)
                self.changes_shared(text, {text}, target, source, whole)
            else:
                self.changes(holder, target, shared, source, whole)
            if not whole:
                self.put(target.value, made)

    def augment(self, node: ast.AugAssign) -> None:
        """``x += y``: of numbers and text a new object, of lists and arrays the same one."""
        target = node.target
        self.value(node.value)
        if isinstance(target, ast.Name):
            if target.id in self.globals:
                self.note("global", f"changes {target.id}", node)
                return
            old = self.env.get(target.id) or self.enclosing.get(target.id, FRESH)
            if old.origins and (old.array or self.is_mutable(target.id, old, node.value)):
                self.changes(old, node, target)
            else:
                self.env[target.id] = FRESH
            return
        shared = target if isinstance(target, ast.Attribute) else target.value
        holder = self.value(target.value)
        if isinstance(holder.ref, (Class, Module, Outside)) and not holder.origins:
            self.note("global", f"changes {ast.unparse(shared)}", node)
        else:
            self.changes(holder, node, shared, shared)

    def is_mutable(self, name: str, value: Value, added: ast.expr) -> bool:
        """Whether the function treats the variable as one that holds a list or an array."""
        if isinstance(added, (ast.List, ast.ListComp)):
            return True
        names = {name, *(o.name for o in value.origins if o.owner is self.function)}
        for node in ast.walk(self.function.node):
            if isinstance(node, ast.Attribute) and node.attr in known.ARRAY_ATTRIBUTES and spelled(node.value) in names:
                return True
            if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and spelled(node.value) in names:
                return True
        annotations = (ast.unparse(p.annotation) for p in self.function.parameters if p.arg in names and p.annotation)
        return any(word in a.lower() for a in annotations for word in ("list", "array", "deque", "set[", "bytearray"))


def _stored(function: ast.AST) -> Iterator[str]:
    """The names that a function binds itself."""
    waiting = list(ast.iter_child_nodes(function))
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Name) and isinstance(node.ctx, (ast.Store, ast.Del)):
            yield node.id
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
            continue
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from ((a.asname or a.name).partition(".")[0] for a in node.names)
        elif isinstance(node, (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            continue
        elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
            yield node.name
        waiting += ast.iter_child_nodes(node)


def _leaves(body: list[ast.stmt]) -> bool:
    return bool(body) and isinstance(body[-1], (ast.Return, ast.Raise))
