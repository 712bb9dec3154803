"""Expressions: what their values are, and what working them out does."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from . import known
from .record import Record
from .sources import Class, Found, Function, Outside, Sources, Variable
from .values import FRESH, NONE, Condition, Facts, Given, Origin, Value, join, owned, spelled

if TYPE_CHECKING:
    from .flow import Flow


class Expressions(Record):
    """The values of expressions, as the variables are now."""

    def __init__(self, flow: Flow, function: Function, found: Facts, enclosing: dict[str, Value]) -> None:
        super().__init__(function, found)
        self.flow = flow
        self.sources: Sources = flow.sources
        self.enclosing = enclosing
        self.inner: dict[ast.AST, Function] = {}
        self.locals: set[str] = set()

    def assign(self, target: ast.expr, made: Value, source: ast.expr) -> None:
        """Bind or store a value."""
        raise NotImplementedError

    def each(self, target: ast.expr, made: Value, source: ast.expr) -> None:
        """Bind what a loop goes through."""
        if isinstance(source, ast.Call) and isinstance(target, ast.Tuple):
            name, parts = spelled(source.func).rpartition(".")[2], target.elts
            if name == "zip" and len(parts) == len(source.args):
                for part, argument in zip(parts, source.args, strict=True):
                    self.each(part, self.value(argument), argument)
                return
            if name == "enumerate" and len(parts) == 2 and source.args:
                self.assign(parts[0], FRESH, source)
                self.each(parts[1], self.value(source.args[0]), source.args[0])
                return
            if name == "items" and len(parts) == 2 and not source.args:
                self.assign(parts[0], FRESH, source)  # a key cannot be changed
                self.assign(parts[1], made.inside, source)
                return
        self.assign(target, made.inside, source)

    def put(self, holder: ast.expr, made: Value) -> None:
        """Something is put into a variable's object; what is put deeper is lost sight of."""
        if isinstance(holder, ast.Name) and holder.id in self.env:
            old = self.env[holder.id]
            self.env[holder.id] = old._replace(held=old.held | made.origins)

    # Expressions -----------------------------------------------------------------------------------

    def optional(self, node: ast.expr | None) -> Value:
        """The value of ``node``, if there is one."""
        return self.value(node) if node is not None else FRESH

    def value(self, node: ast.expr, used: bool = True) -> Value:
        """What is known of an expression's value; what its evaluation does is noted."""
        match node:
            case ast.Name():
                return self.name(node)
            case ast.Constant():
                return FRESH
            case ast.Call():
                return self.call(node, used)
            case ast.Attribute():
                return self.attribute(node)
            case ast.Subscript():
                holder = self.value(node.value)
                returning, self.returning = self.returning, False
                place = self.value(node.slice)
                self.returning = returning
                if isinstance(node.slice, ast.Slice) and not any((node.slice.lower, node.slice.upper, node.slice.step)):
                    return Value(NONE, holder.held)  # x[:] is how lists are copied
                copied = place.selects or isinstance(node.slice, (ast.List, ast.Compare))
                return FRESH if copied else holder.inside._replace(array=holder.array)
            case ast.List() | ast.Tuple() | ast.Set():
                return self.container(node.elts)
            case ast.Dict():
                for key in node.keys:
                    self.optional(key)
                return self.container(node.values)
            case ast.Starred() | ast.Await():
                return self.value(node.value)
            case ast.NamedExpr():
                made = self.value(node.value)
                self.assign(node.target, made, node.value)
                return made
            case ast.IfExp():
                self.value(node.test)
                then, otherwise = self.condition(node.test)
                with self.under(then):
                    first = self.value(node.body)
                with self.under(otherwise):
                    second = self.value(node.orelse)
                return join(owned(first, second, then), owned(second, first, otherwise))
            case ast.BoolOp():
                made = self.value(node.values[0])
                then, otherwise = self.condition(node.values[0])
                with self.under(then if isinstance(node.op, ast.And) else otherwise):
                    for part in node.values[1:]:
                        made = join(made, self.value(part))
                return made
            case ast.Lambda():
                with self.scope(node.args):
                    self.value(node.body)
                return FRESH
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp():
                return self.comprehension(node.generators, [node.elt])
            case ast.DictComp():
                return self.comprehension(node.generators, [node.value], node.key)
            case ast.Compare():
                returning, self.returning = self.returning, False
                for part in (node.left, *node.comparators):
                    self.value(part)
                self.returning = returning
                return Value(selects=True)
            case ast.UnaryOp():
                made = self.value(node.operand)
                return Value(selects=isinstance(node.op, ast.Invert) or made.selects)
            case ast.BinOp():
                both = [self.value(node.left), self.value(node.right)]
                return Value(selects=any(v.selects for v in both))
            case _:
                for child in ast.iter_child_nodes(node):
                    if isinstance(child, ast.expr):
                        self.value(child)
                return FRESH

    def container(self, parts: list[ast.expr]) -> Value:
        """A new container of these."""
        made = [self.value(p) for p in parts]
        return Value(NONE, frozenset().union(*(v.origins for v in made)))

    def comprehension(
        self, generators: list[ast.comprehension], parts: list[ast.expr], key: ast.expr | None = None
    ) -> Value:
        """What a comprehension makes."""
        with self.scope(None):
            for generator in generators:
                self.each(generator.target, self.value(generator.iter), generator.iter)
                for test in generator.ifs:
                    self.value(test)
            self.optional(key)
            return self.container(parts)

    @contextmanager
    def scope(self, arguments: ast.arguments | None) -> Iterator[None]:
        """The variables of a lambda or a comprehension."""
        before = self.env
        self.env = dict(before)
        if arguments is not None:
            for argument in ast.walk(arguments):
                if isinstance(argument, ast.arg):
                    self.env[argument.arg] = FRESH
        try:
            yield
        finally:
            self.env = before

    def name(self, node: ast.Name) -> Value:
        """A variable, of the function, of one around it, or of the module."""
        found = self.env.get(node.id)
        if found is None and node.id in self.locals:
            return FRESH
        if found is None:
            found = self.enclosing.get(node.id)
            if found is not None:
                found = found._replace(parameter=None)
        if found is None:
            found = self.referred(self.sources.lookup(self.module, node.id), node.id, node)
        if isinstance(found.ref, Function) and found.ref in self.inner.values():
            self.calls(found.ref, node, None)
        return found

    def referred(self, found: Found, name: str, node: ast.AST) -> Value:
        """The value of something of a module."""
        if found is None:
            return Value(ref=Outside(name))
        if isinstance(found, Outside):
            self.effect(known.of_read(found.name) or known.of_reference(found.name), node)
        if isinstance(found, Variable):
            origin = frozenset({Origin(found.name)})
            made = (
                self.sources.expression(found.module, found.value.func) if isinstance(found.value, ast.Call) else None
            )
            return Value(origin, origin, ref=found, instance=made if isinstance(made, Class) else None)
        return Value(ref=found)

    def attribute(self, node: ast.Attribute) -> Value:
        """``x.y``."""
        holder = self.value(node.value)
        if node.attr == "__class__" and holder.instance is not None:
            return Value(ref=holder.instance)
        if holder.instance is not None and (method := self.sources.method(holder.instance, node.attr)) is not None:
            return Value(ref=method, receiver=holder)
        if holder.ref is not None and not isinstance(holder.ref, (Function, Variable)):
            found = self.sources.attribute(holder.ref, node.attr)
            if found is not None:
                made = self.referred(found, node.attr, node)
                return made._replace(receiver=holder) if isinstance(holder.ref, Class) else made
            if isinstance(holder.ref, Class):
                shared = frozenset({Origin(f"{holder.ref.name}.{node.attr}")})
                return Value(shared, shared)
        if node.attr in known.NEW_ATTRIBUTES:
            return FRESH
        return holder.inside._replace(array=holder.array and node.attr == "T")

    # Calls -----------------------------------------------------------------------------------------

    def call(self, node: ast.Call, used: bool) -> Value:
        """What a call gives; what it does is noted."""
        callee = self.callee(node.func)
        values = [self.argument(a) for a in node.args]
        named = {k.arg: self.argument(k.value) for k in node.keywords}
        for keyword in node.keywords:
            if keyword.arg in known.OUTPUTS and not isinstance(callee.ref, (Function, Class)):
                self.changes(named[keyword.arg], node, keyword.value)
            if keyword.arg == "key" and spelled(keyword.value) == "id":
                self.note("identity", "depends on id()", node)
        if isinstance(callee.ref, Function):
            return self.call_function(callee.ref, callee.receiver, node, values, named)
        if isinstance(callee.ref, Class):
            made = Value(instance=callee.ref)
            for name in ("__new__", "__init__", "__post_init__"):
                method = self.sources.method(callee.ref, name)
                if method is not None:
                    given = self.fill(method, made, node, values, named)
                    self.calls(method, node, given)
                    made = made._replace(made=given)
            return made
        if isinstance(callee.ref, Outside):
            return self.call_outside(callee.ref, node, values, named)
        if isinstance(node.func, ast.Attribute):
            return self.call_method(node, node.func, values, used)
        return FRESH

    def argument(self, node: ast.expr) -> Value:
        """A function that is handed on will be called, though nobody knows with what."""
        made = self.value(node)
        if isinstance(made.ref, Function) and isinstance(node, (ast.Name, ast.Attribute)):
            self.calls(made.ref, node, None)
        return made

    def callee(self, node: ast.expr) -> Value:
        """What is called."""
        if isinstance(node, ast.Name) and node.id in self.env:
            return self.env[node.id]
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Call) and spelled(node.value.func) == "super":
            owner, receiver = self.function.owner, self.function.receiver
            method = self.sources.method(owner, node.attr, skip=True) if owner is not None else None
            if method is not None and receiver is not None:
                return Value(ref=method, receiver=self.env.get(receiver))
            return FRESH
        made = self.value(node)
        if isinstance(made.ref, Variable) and isinstance(made.ref.value, (ast.Name, ast.Attribute)):
            # Another name for it (``now = time.time`` in the module).
            found = self.sources.expression(made.ref.module, made.ref.value)
            if isinstance(found, (Function, Class, Outside)):
                return Value(ref=found)
        return made

    def call_function(
        self,
        function: Function,
        receiver: Value | None,
        node: ast.Call,
        values: list[Value],
        named: dict[str | None, Value],
    ) -> Value:
        """A call of a function of the package."""
        given = self.fill(function, receiver, node, values, named)
        self.calls(function, node, given)
        if _copies(node):
            return FRESH
        made = [given[o.name].value for o in self.flow.returns(function) if o.name in given]
        return join(*made)._replace(parameter=None) if made else FRESH

    def fill(
        self,
        function: Function,
        receiver: Value | None,
        node: ast.Call,
        values: list[Value],
        named: dict[str | None, Value],
    ) -> dict[str, Given]:
        """How a call fills the parameters of ``function``."""
        given: dict[str, Given] = {}
        parameters = [p.arg for p in (*function.node.args.posonlyargs, *function.node.args.args)]
        vararg = function.node.args.vararg
        if function.receiver is not None and parameters and receiver is not None:
            through_class = isinstance(receiver.ref, Class)
            if not through_class or "classmethod" in function.decorators:
                given[parameters.pop(0)] = Given(receiver, receiver.parameter)
        for place, value in enumerate(values):
            argument = node.args[place]
            if isinstance(argument, ast.Starred):
                for name in parameters[place:]:
                    given[name] = Given(value.inside, certain=False)
                break
            if place < len(parameters):
                given[parameters[place]] = self.given(argument, value)
            elif vararg is not None:
                before = given.get(vararg.arg, Given(FRESH)).value
                given[vararg.arg] = Given(join(before, value))
        every = {p.arg for p in function.parameters}
        for keyword in node.keywords:
            if keyword.arg is None:
                for name in every - set(given):
                    given[name] = Given(FRESH, certain=False)
            elif keyword.arg in every:
                given[keyword.arg] = self.given(keyword.value, named[keyword.arg])
        return given

    def given(self, node: ast.expr, value: Value) -> Given:
        """How an argument is given."""
        if isinstance(node, ast.Constant):
            return Given(value, constant=(node.value,))
        receiver = self.function.receiver
        if isinstance(node, ast.Attribute) and receiver is not None and spelled(node.value) == receiver:
            return Given(value, f"{receiver}.{node.attr}")
        names = {self.env[n.id].parameter for n in ast.walk(node) if isinstance(n, ast.Name) and n.id in self.env}
        plain = isinstance(node, (ast.Name, ast.BinOp, ast.Compare, ast.BoolOp, ast.UnaryOp))
        return Given(value, names.pop() if plain and len(names) == 1 else None)

    def call_outside(
        self, callee: Outside, node: ast.Call, values: list[Value], named: dict[str | None, Value]
    ) -> Value:
        """A call of a built-in function, of one of another package, or of one without source."""
        name = callee.name
        if callee.compiled:
            self.found.compiled.add(name)
            for argument, value in zip(node.args, values, strict=False):
                written = frozenset(o for o in value.origins if o.name in known.OUTPUTS)
                self.changes(value._replace(origins=written), node, argument)
        self.effect(known.of_call(name), node)
        if name in known.SEEDED:
            self.seeded(node)
        if name in ("exec", "eval") and not (node.args and isinstance(node.args[0], ast.Constant)):
            self.note("unknown", "runs code that is made as it runs", node)
        if name == "id" and self.returning:
            self.note("identity", "depends on id()", node)
        if name == "globals":
            shared = frozenset({Origin("globals()")})
            return Value(shared, shared)
        if name == "decimal.getcontext":
            return Value(frozenset({Origin("the decimal context")}))
        if name == "type" and len(values) == 1 and values[0].instance is not None:
            return Value(ref=values[0].instance)
        place = known.CHANGED_ARGUMENT.get(name)
        if name == "next" and values and any(o.owner is None for o in values[0].origins):
            place = 0  # a counter of the module, say
        if place is not None and place < len(values):
            self.changes(values[place], node, node.args[place])
        if name in known.SAME and values and not _copies(node):
            return values[0]._replace(parameter=None, array=name.startswith("numpy."))
        if name in known.INSIDE:
            return Value(NONE, frozenset().union(*(v.held for v in (*values, *named.values()))))
        return Value(selects=name in known.SELECTS)

    def seeded(self, node: ast.Call) -> None:
        """A generator of random numbers is made."""
        seeds = [*node.args, *(k.value for k in node.keywords if k.arg in ("seed", "x", "entropy"))]
        if not seeds or (isinstance(seeds[0], ast.Constant) and seeds[0].value is None):
            self.effect(known.RANDOM, node)
            return
        name, default = self.parameter(seeds[0])
        if name is not None and default is not None and default[0] is None:
            self.effect(known.RANDOM, node, Condition(name, False))
        elif isinstance(seeds[0], ast.Attribute) and spelled(seeds[0].value) == self.function.receiver:
            self.effect(known.RANDOM, node, Condition(spelled(seeds[0]), False))

    def call_method(self, node: ast.Call, func: ast.Attribute, values: list[Value], used: bool) -> Value:
        """A call of a method of an object of unknown class."""
        holder = self.value(func.value)
        name = func.attr
        self.effect(known.of_method(name), node)
        if isinstance(holder.ref, Variable) and isinstance(holder.ref.value, ast.Call):
            made = self.sources.expression(holder.ref.module, holder.ref.value.func)
            if isinstance(made, Outside) and known.is_generator(made.name):
                self.note("random", f"draws from {holder.ref.name}, which the module keeps", node)
        if name in known.CHANGES or (name in known.CHANGES_SILENTLY and not used):
            self.changes(holder, node, func.value, ast.Tuple(node.args) if name != "setdefault" else None)
            if name in known.PUTS:
                for value in values:
                    self.put(func.value, value)
        place = known.CHANGED_BY_METHOD.get(name)
        if place is not None and place < len(values):
            self.changes(values[place], node, node.args[place])
        if holder.instance is not None and any(
            isinstance(base, Outside) and base.name in known.SEEDED for base in self.sources.line_of(holder.instance)
        ):
            self.changes(holder, node, func.value)  # a generator of random numbers moves on
        if name in known.SAME_METHODS:
            return holder._replace(parameter=None)
        if name in known.INSIDE_METHODS:
            return holder.inside if name not in ("items", "values", "copy") else Value(NONE, holder.held)
        return FRESH


def _copies(node: ast.Call) -> bool:
    """Whether a call is asked to copy, or perhaps asked (``copy=copy_x``)."""
    return any(
        (k.arg or "").startswith("copy") and not (isinstance(k.value, ast.Constant) and not k.value.value)
        for k in node.keywords
    )
