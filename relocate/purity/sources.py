"""The names of modules, found in their source: nothing is imported, nothing is run.

A name leads to a function, a class, a module, a variable, or out of the package.  Only modules of
one top-level package are read, those that the names lead to.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple


class Source(NamedTuple):
    """The text of a module.

    ``stub`` is the text of the ``.pyi`` file beside it, from which a package may load its names
    lazily; ``package`` whether it has modules below it.
    """

    name: str
    path: str
    text: str
    package: bool = False
    stub: str = ""


Find = Callable[[str], Source | None]
"""Gives a module's source by its name; None if there is no such module, or it has none."""

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


@dataclass(eq=False)
class Function:
    """A function as it is written: of a module, of a class, or inside another function."""

    module: Module
    name: str
    node: FunctionNode
    owner: Class | None = None

    @property
    def line(self) -> int:
        """Where it begins."""
        return self.node.lineno

    @property
    def parameters(self) -> list[ast.arg]:
        """All of them, in the order in which arguments fill them; the collecting ones last."""
        a = self.node.args
        return [*a.posonlyargs, *a.args, *a.kwonlyargs, *(p for p in (a.vararg, a.kwarg) if p)]

    @property
    def defaults(self) -> dict[str, ast.expr]:
        """The default of each parameter that has one."""
        a = self.node.args
        positional = [*a.posonlyargs, *a.args]
        found = {p.arg: d for p, d in zip(positional[len(positional) - len(a.defaults) :], a.defaults, strict=True)}
        return found | {p.arg: d for p, d in zip(a.kwonlyargs, a.kw_defaults, strict=True) if d is not None}

    @property
    def required(self) -> set[str]:
        """The parameters that every call fills."""
        a = self.node.args
        return {p.arg for p in (*a.posonlyargs, *a.args, *a.kwonlyargs)} - set(self.defaults)

    @property
    def decorators(self) -> set[str]:
        """The last parts of its decorators' names."""
        nodes = [] if isinstance(self.node, ast.Lambda) else self.node.decorator_list
        names = (ast.unparse(n.func if isinstance(n, ast.Call) else n) for n in nodes)
        return {name.rpartition(".")[2] for name in names}

    @property
    def receiver(self) -> str | None:
        """The parameter that is the object, or the class, whose method it is."""
        a = self.node.args
        first = [*a.posonlyargs, *a.args][:1]
        return first[0].arg if self.owner is not None and first and "staticmethod" not in self.decorators else None


@dataclass(eq=False)
class Class:
    """A class of a module."""

    module: Module
    name: str
    node: ast.ClassDef
    methods: dict[str, Function] = field(default_factory=dict)
    attributes: dict[str, ast.expr | None] = field(default_factory=dict)


class Variable(NamedTuple):
    """Another name of a module, and the expression that it was given last."""

    module: Module
    name: str
    value: ast.expr | None


class Outside(NamedTuple):
    """A name that leads out of the package, or to what has no source; ``compiled`` if it is of the package."""

    name: str
    compiled: bool = False


@dataclass(eq=False)
class Module:
    """What a module binds, by name."""

    source: Source
    tree: ast.Module
    bound: dict[str, Function | Class | Variable] = field(default_factory=dict)
    imported: dict[str, str] = field(default_factory=dict)
    """What the imported names stand for, as dotted names."""
    stars: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Its dotted name."""
        return self.source.name

    def line(self, number: int) -> str:
        """One line of its source, bare."""
        return self.lines[number - 1].strip() if 0 < number <= len(self.lines) else ""

    @cached_property
    def lines(self) -> list[str]:
        """The lines of its source."""
        return self.source.text.splitlines()


Found = Function | Class | Module | Variable | Outside | None


class Sources:
    """The modules of one top-level package, read as they are needed."""

    def __init__(self, find: Find) -> None:
        self._find = find
        self._modules: dict[str, Module | None] = {}
        self._packages: set[str] = set()

    def module(self, name: str) -> Module | None:
        """The module of that name.

        Raises:
            SyntaxError: its source is not of this version of Python.
        """
        if name not in self._modules:
            source = self._find(name)
            self._modules[name] = _read(source) if source is not None else None
        return self._modules[name]

    def follow(self, name: str) -> None:
        """Look into the package of the module ``name`` from now on."""
        self._packages.add(name.partition(".")[0])

    def lookup(self, module: Module, name: str) -> Found:
        """What ``name`` is in ``module``."""
        return self._lookup(module, name, set())

    def dotted(self, name: str) -> Found:
        """What a full dotted name leads to."""
        return self._dotted(name, set())

    def attribute(self, holder: Found, name: str) -> Found:
        """What ``holder.name`` is, as far as can be seen; None for what an object has."""
        if isinstance(holder, Module):
            return self._lookup(holder, name, set()) or self._dotted(f"{holder.name}.{name}", set())
        if isinstance(holder, Outside):
            return Outside(f"{holder.name}.{name}", holder.compiled)
        if isinstance(holder, Class):
            return self.method(holder, name)
        return None

    def method(self, holder: Class, name: str, skip: bool = False) -> Function | None:
        """The method that instances of ``holder`` have under ``name``; ``skip`` leaves out its own."""
        for kind in list(self.line_of(holder))[int(skip) :]:
            if isinstance(kind, Class) and name in kind.methods:
                return kind.methods[name]
        return None

    def line_of(self, holder: Class) -> Iterator[Class | Outside]:
        """``holder`` and its bases, nearest first."""
        waiting: list[Found] = [holder]
        seen: set[int] = set()
        while waiting:
            kind = waiting.pop(0)
            if isinstance(kind, Outside):
                yield kind
            elif isinstance(kind, Class) and id(kind) not in seen:
                seen.add(id(kind))
                yield kind
                waiting += [self.expression(kind.module, base) for base in kind.node.bases]

    def expression(self, module: Module, node: ast.AST | None) -> Found:
        """What a dotted expression at the height of the module leads to."""
        if isinstance(node, ast.Name):
            return self.lookup(module, node.id) or Outside(node.id)
        if isinstance(node, ast.Attribute):
            return self.attribute(self.expression(module, node.value), node.attr)
        if isinstance(node, ast.Subscript):
            return self.expression(module, node.value)
        return None

    def exports(self, module: Module) -> dict[str, bool]:
        """The public names of ``module``; True for those that it names in ``__all__``."""
        named = self._named(module, set())
        if named is not None:
            return dict.fromkeys(named, True)
        names = [*module.bound, *module.imported]
        for star in module.stars:
            other = self.module(star) if self._follows(star) else None
            names += self.exports(other) if other is not None and other is not module else []
        return {n: False for n in dict.fromkeys(names) if not n.startswith("_")}

    def _follows(self, name: str) -> bool:
        return name.partition(".")[0] in self._packages

    def _lookup(self, module: Module, name: str, seen: set[tuple[str, str]]) -> Found:
        if (module.name, name) in seen:
            return None
        seen.add((module.name, name))
        bound = module.bound.get(name)
        if isinstance(bound, (Function, Class)):
            return bound
        if name in module.imported:
            return self._dotted(module.imported[name], seen)
        if bound is not None:
            return bound
        for star in module.stars:
            other = self.module(star) if self._follows(star) else None
            if other is not None and (found := self._lookup(other, name, seen)) is not None:
                return found
        outside = [star for star in module.stars if not self._follows(star)]
        if len(outside) == 1 and not hasattr(builtins, name):
            return Outside(f"{outside[0]}.{name}")
        return None

    def _dotted(self, name: str, seen: set[tuple[str, str]]) -> Found:
        if not self._follows(name):
            return Outside(name)
        parent, _, last = name.rpartition(".")
        holder = self._dotted(parent, seen) if parent else None
        if isinstance(holder, Module) and (found := self._lookup(holder, last, seen)) is not None:
            return found
        if not parent or isinstance(holder, Module):
            return self.module(name) or Outside(name, compiled=True)
        return self.attribute(holder, last) or Outside(name, compiled=True)

    def _named(self, module: Module, seen: set[str]) -> list[str] | None:
        """The value of ``__all__``; None if there is none, or it is worked out as the program runs."""
        if module.name in seen:
            return None
        seen.add(module.name)
        names: list[str] = []
        known = False
        for node in module.tree.body:
            value: ast.expr | None = None
            if isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if any(isinstance(t, ast.Name) and t.id == "__all__" for t in targets):
                    value, names = node.value, []
            elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name) and node.target.id == "__all__":
                value = node.value
            elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and node.value.args:
                grows = ast.unparse(node.value.func) in ("__all__.extend", "__all__.append")
                value = node.value.args[0] if grows else None
            if value is None:
                continue
            more = self._strings(module, value, seen)
            if more is None:
                return None
            names += more
            known = True
        return names if known else None

    def _strings(self, module: Module, node: ast.expr, seen: set[str]) -> list[str] | None:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return [node.value]
        if isinstance(node, (ast.List, ast.Tuple)):
            parts = [self._strings(module, e, seen) for e in node.elts]
            return None if None in parts else [name for part in parts for name in part or ()]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            left, right = (self._strings(module, n, seen) for n in (node.left, node.right))
            return None if left is None or right is None else left + right
        if isinstance(node, ast.Starred):
            return self._strings(module, node.value, seen)
        if isinstance(node, ast.Attribute) and node.attr == "__all__":
            other = self.expression(module, node.value)
            return self._named(other, seen) if isinstance(other, Module) else None
        return None


# One module --------------------------------------------------------------------------------------


def _read(source: Source) -> Module:
    tree = ast.parse(source.text, source.path)
    module = Module(source, tree)
    for node in statements(tree.body):
        _bind(module, node)
    if "attach_stub" in source.text and source.stub:
        for node in statements(ast.parse(source.stub).body):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                _bind(module, node)
    return module


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of ``body`` and of its branches and loops, without those of functions and classes."""
    for node in body:
        yield node
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        for part in ("body", "orelse", "finalbody"):
            yield from statements(getattr(node, part, []))
        for branch in [*getattr(node, "handlers", []), *getattr(node, "cases", [])]:
            yield from statements(branch.body)


def _bind(module: Module, node: ast.stmt) -> None:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        if "overload" not in (made := Function(module, node.name, node)).decorators:
            module.bound[node.name] = made
    elif isinstance(node, ast.ClassDef):
        module.bound[node.name] = _class(module, node)
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        for name, full in imports(node, module.source):
            if name == "*":
                module.stars.append(full)
            else:
                module.imported.setdefault(name, full)
    elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            for part in ast.walk(target):
                if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                    _variable(module, part.id, node.value if part is target else None)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            _attached(module, node.value)
    elif isinstance(node, (ast.For, ast.With)):
        targets = (
            [node.target] if isinstance(node, ast.For) else [i.optional_vars for i in node.items if i.optional_vars]
        )
        for part in (p for t in targets for p in ast.walk(t)):
            if isinstance(part, ast.Name):
                _variable(module, part.id, None)


def _variable(module: Module, name: str, value: ast.expr | None) -> None:
    if isinstance(value, ast.Lambda):
        module.bound[name] = Function(module, name, value)
    elif not isinstance(module.bound.get(name), (Function, Class)):
        module.bound[name] = Variable(module, name, value)


def _attached(module: Module, call: ast.Call) -> None:
    """The names that `lazy_loader.attach` gives a package."""
    if not ast.unparse(call.func).endswith(".attach"):
        return
    for keyword in call.keywords:
        if keyword.arg == "submod_attrs" and isinstance(keyword.value, ast.Dict):
            for key, value in zip(keyword.value.keys, keyword.value.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(value, (ast.List, ast.Tuple)):
                    for name in value.elts:
                        if isinstance(name, ast.Constant):
                            module.imported.setdefault(str(name.value), f"{module.name}.{key.value!s}.{name.value!s}")


def _class(module: Module, node: ast.ClassDef) -> Class:
    made = Class(module, node.name, node)
    for part in statements(node.body):
        if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)):
            method = Function(module, f"{node.name}.{part.name}", part, made)
            if not method.decorators & {"overload", "setter", "deleter"}:
                made.methods[part.name] = method
        elif isinstance(part, (ast.Assign, ast.AnnAssign)):
            for target in part.targets if isinstance(part, ast.Assign) else [part.target]:
                if isinstance(target, ast.Name):
                    made.attributes[target.id] = part.value
    return made


def imports(node: ast.Import | ast.ImportFrom, source: Source) -> Iterator[tuple[str, str]]:
    """Each name that an import statement binds, and the full dotted name that it stands for."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            top = alias.name.partition(".")[0]
            yield (alias.asname, alias.name) if alias.asname else (top, top)
        return
    base = node.module or ""
    if node.level:
        parts = source.name.split(".")
        kept = parts[: len(parts) - node.level + int(source.package)]
        base = ".".join([*kept, *([base] if base else [])])
    for alias in node.names:
        if alias.name == "*":
            yield "*", base
        else:
            yield alias.asname or alias.name, f"{base}.{alias.name}"
