"""Whether a module's functions are pure, told from its source.

    >>> from relocate.purity import Source, check
    >>> text = "import time\\ndef stamp(x): return x, time.time()\\ndef twice(x): return 2 * x\\n"
    >>> for found in check("m", lambda name: Source(name, "m.py", text) if name == "m" else None):
    ...     print(found.name, found.verdict, *found.findings)
    m.stamp impure reads the clock, m.py:2: def stamp(x): return x, time.time()
    m.twice pure

What each function does itself comes from `flow`.  Here calls are followed: a finding of a function
is one of all that call it, round by round until nothing is added, so that each is reached by its
shortest way.  What a called function does to an argument is done to whatever was given for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from . import known
from .flow import Flow
from .record import optional
from .sources import Class, Find, Found, Function, Module, Outside, Sources, Variable
from .values import Call, Condition, Origin

IMPURE = ("global", "io", "time", "random", "environment", "identity")
"""Kinds of findings that make a function impure."""
VERDICTS = ("pure", "impure", "changes arguments", "changes self", "unknown")
UNFIT = frozenset({"impure", "unknown"})
"""Verdicts of functions that had better not be relocated.  Changed arguments are restored; methods run
where their object is."""
_MAKES = frozenset({"__init__", "__new__", "__post_init__", "__setstate__", "__init_subclass__", "__set_name__"})


class Finding(NamedTuple):
    """Something that keeps a function from being pure.

    ``kind`` is one of `IMPURE`, or argument, self, unknown; ``way`` the functions through which it
    is reached; ``condition`` on which parameter it depends, if on any.
    """

    kind: str
    what: str
    path: str
    line: int
    source: str
    way: tuple[str, ...] = ()
    condition: Condition | None = None

    def __str__(self) -> str:
        what = self.what
        if self.way:
            what = f"calls {' > '.join(self.way)}, which {what}"
        if self.condition is not None:
            what += f" {'if' if self.condition.given else 'unless'} {self.condition.parameter} is given"
        return f"{what}, {self.path}:{self.line}: {self.source}" if self.path else what


class Verdict(NamedTuple):
    """What is found of one public function.

    ``verdict`` is one of `VERDICTS`.  ``compiled`` are the functions without source that it calls:
    they are trusted.
    """

    name: str
    path: str
    line: int
    verdict: str
    findings: tuple[Finding, ...] = ()
    compiled: tuple[str, ...] = ()

    @property
    def fit(self) -> bool:
        """Whether it may be relocated."""
        return self.verdict not in UNFIT

    @property
    def given(self) -> tuple[str, ...]:
        """Parameters that have to be given for it to be pure."""
        return self._conditions(given=False)

    @property
    def unless(self) -> tuple[str, ...]:
        """Parameters that, if they are given, make it impure."""
        return self._conditions(given=True)

    @property
    def changing(self) -> tuple[str, ...]:
        """Parameters that, if they are given, let it change its arguments."""
        return self._conditions(given=True, changes=True)

    def _conditions(self, *, given: bool, changes: bool = False) -> tuple[str, ...]:
        found = (f.condition for f in self.findings if self.verdict == "pure" and (f.kind == "argument") is changes)
        return tuple(dict.fromkeys(c.parameter for c in found if c is not None and c.given is given))


def check(name: str, find: Find, below: Iterable[str] = ()) -> list[Verdict]:
    """The verdicts on the public functions of a module, and on the public methods of its classes.

    Args:
        name: the module.
        find: gives sources; it is asked for modules of the same top-level package only.
        below: the modules below it that are checked too.

    Raises:
        SyntaxError: a source is not of this version of Python.
    """
    sources = Sources(find)
    sources.follow(name)
    flow = Flow(sources)
    public = _public(sources, name, [name, *below])
    effects = _Effects(flow, [f for f in public.values() if isinstance(f, Function)])
    found = [_verdict(label, member, effects) for label, member in public.items()]
    return [v for v in found if v.verdict != "pure" or not v.name.endswith(".__init__")]


# What is public ----------------------------------------------------------------------------------


def _public(sources: Sources, root: str, modules: list[str]) -> dict[str, Function | Outside]:
    """The public functions and methods by the name under which they are found first."""
    found: dict[str, Function | Outside] = {}
    seen: set[object] = set()
    for name in modules:
        module = sources.module(name)
        if module is None or any(part.startswith("_") for part in name.removeprefix(root).split(".")):
            continue
        for label, listed in sources.exports(module).items():
            member = _member(sources, sources.lookup(module, label))
            if not listed and label in module.imported and not module.source.package:
                continue  # what it uses, not what it offers
            home = member.module.name if isinstance(member, (Function, Class)) else getattr(member, "name", "")
            inside = home == root or home.startswith(f"{root}.")
            if member is None or member in seen or not (inside or (listed and isinstance(member, (Function, Class)))):
                continue
            seen.add(member)
            if isinstance(member, Class):
                found |= {f"{name}.{label}.{method}": f for method, f in _methods(member)}
            else:
                found[f"{name}.{label}"] = member
    return found


def _member(sources: Sources, found: Found) -> Function | Class | Outside | None:
    """A member of a module, if it is a function or a class; another name for one leads to it."""
    if isinstance(found, Outside):
        name = found.name.rpartition(".")[2]
        return found if found.compiled and not name[:1].isupper() else None  # a class, by its name
    if not isinstance(found, Variable):
        return None if isinstance(found, Module) else found
    made = sources.expression(found.module, found.value)
    if isinstance(made, Variable) or found.value is None:
        return None
    if made is not None:
        return _member(sources, made)
    # A method of an object that the module keeps (``seed = _instance.seed``).
    holder = getattr(found.value, "value", None)
    kept = sources.expression(found.module, holder)
    if isinstance(kept, Variable) and hasattr(kept.value, "func"):
        kind = sources.expression(kept.module, kept.value.func)  # type: ignore[union-attr]
        if isinstance(kind, Class):
            attribute: str = found.value.attr  # type: ignore[attr-defined]
            method = sources.method(kind, attribute)
            return method or Outside(f"{found.module.name}.{found.name}", compiled=True)
        if isinstance(kind, Outside) and known.is_generator(kind.name):
            return Outside(f"{kind.name.rpartition('.')[0]}.{found.value.attr}", compiled=True)  # type: ignore[attr-defined]
    return None


def _methods(kind: Class) -> Iterator[tuple[str, Function]]:
    for name, method in kind.methods.items():
        if not name.startswith("_") or name in ("__init__", "__call__"):
            yield name, method


# Calls followed ----------------------------------------------------------------------------------


class _Effect(NamedTuple):
    """A finding as one function sees it; ``origin`` is whose object is changed."""

    finding: Finding
    origin: Origin | None


_Key = tuple[str, str, str, int]


class _Effects:
    """All that functions do, themselves and by what they call."""

    def __init__(self, flow: Flow, functions: list[Function]) -> None:
        self._flow = flow
        self._all: dict[Function, dict[_Key, _Effect]] = {}
        self._compiled: dict[Function, set[str]] = {}
        waiting = list(functions)
        while waiting:
            function = waiting.pop()
            if function not in self._all:
                facts = flow.facts(function)
                self._all[function] = dict(self._own(function))
                self._compiled[function] = set(facts.compiled)
                waiting += [call.function for call in facts.calls.values()]
        self._spread()

    def of(self, function: Function) -> list[_Effect]:
        """What it does."""
        return list(self._all[function].values())

    def compiled(self, function: Function) -> set[str]:
        """The functions without source that it calls."""
        return self._compiled[function]

    def _own(self, function: Function) -> Iterator[tuple[_Key, _Effect]]:
        module = function.module
        for fact in self._flow.facts(function).facts.values():
            finding = Finding(
                fact.kind, fact.what, module.source.path, fact.line, module.line(fact.line), (), fact.condition
            )
            yield _key(finding, fact.origin), _Effect(finding, fact.origin)

    def _spread(self) -> None:
        """Hand effects on to callers, one step in each round."""
        fresh = {function: list(effects.values()) for function, effects in self._all.items()}
        while any(fresh.values()):
            added: dict[Function, list[_Effect]] = {}
            for caller, known_ones in self._all.items():
                for call in self._flow.facts(caller).calls.values():
                    self._compiled[caller] |= self._compiled[call.function]
                    for effect in fresh.get(call.function, ()):
                        for mine in _through(caller, call, effect):
                            key = _key(mine.finding, mine.origin)
                            old = known_ones.get(key)
                            if old is None or (old.finding.condition and not mine.finding.condition):
                                known_ones[key] = mine
                                added.setdefault(caller, []).append(mine)
            fresh = added


def _key(finding: Finding, origin: Origin | None) -> _Key:
    return (
        finding.kind,
        finding.what if origin is None else str((origin.name, id(origin.owner))),
        finding.path,
        finding.line,
    )


def _through(caller: Function, call: Call, effect: _Effect) -> Iterator[_Effect]:
    """What an effect of the called function is to its caller."""
    finding, origin = effect
    condition = call.condition
    if finding.condition is not None:
        happens, mapped = _mapped(caller, call, finding.condition)
        if not happens or (condition is not None and mapped == condition.opposite):
            return
        condition = condition or mapped
    finding = finding._replace(way=(_label(call.function, caller), *finding.way), condition=condition)
    if origin is None or origin.owner is not call.function:
        if origin is not None and origin.owner is caller and condition is None:
            finding = finding._replace(condition=optional(caller, origin.name))
        yield _Effect(finding, origin)  # of a function around the called one, if of any
        return
    given = call.given.get(origin.name) if call.given is not None else None
    if given is None:
        return
    condition = condition or given.value.condition
    for mine in given.value.origins:
        if mine.owner is None:
            yield _Effect(finding._replace(kind="global", what=f"changes {mine.name}", condition=condition), None)
            continue
        own = mine.name == mine.owner.receiver
        kind, what = ("self", "changes the object") if own else ("argument", f"changes {mine.name}")
        when = condition
        if mine.owner is caller and (condition is None or condition.parameter == mine.name):
            when = optional(caller, mine.name)
        yield _Effect(finding._replace(kind=kind, what=what, condition=when), mine)


def _mapped(caller: Function, call: Call, condition: Condition) -> tuple[bool, Condition | None]:
    """Whether the condition on the called function's parameter can hold, and what it means for the caller."""
    if call.given is None:
        return False, None  # it is only handed on: what it will be given is not known
    function, parameter, all_given = call.function, condition.parameter, call.given
    holder, _, attribute = parameter.rpartition(".")
    if holder:
        receiver = all_given.get(holder)
        if receiver is None or receiver.value.made is None or receiver.value.instance is None:
            return True, condition  # of an object of which it is not known how it was made
        maker = receiver.value.instance.methods.get("__init__")
        if maker is None or attribute not in {p.arg for p in maker.parameters}:
            return True, condition
        function, parameter, all_given = maker, attribute, receiver.value.made
    elif parameter not in {p.arg for p in function.parameters}:
        return True, condition  # of a function around it
    given = all_given.get(parameter)
    constant = getattr(function.defaults.get(parameter), "value", ...)
    if given is None:
        return (not condition.given and constant is None), None
    if not given.certain:
        return False, None
    if given.constant is not None:
        value = given.constant[0]
        return (value != constant) if condition.given else (value is None), None
    if given.parameter is not None:
        always = condition.given and given.parameter in caller.required
        return True, None if always else Condition(given.parameter, condition.given)
    return condition.given, None


def _label(function: Function, caller: Function) -> str:
    home = "" if function.module is caller.module else f"{function.module.name.rpartition('.')[2]}."
    return home + function.name


def _either(finding: Finding, others: list[Finding]) -> bool:
    """Whether the same happens under the opposite condition too."""
    condition = finding.condition
    if condition is None:
        return False
    return any(o.condition == condition.opposite and o.kind == finding.kind for o in others)


def without_source(label: str, name: str = "") -> Verdict:
    """The verdict on a function without source, found as ``label``: unknown, unless its name is known."""
    effect = known.of_call(label) or known.of_call(name)
    if effect is not None:
        return Verdict(label, "", 0, "impure", (Finding(effect.kind, effect.what, "", 0, ""),))
    return Verdict(label, "", 0, "unknown", (Finding("unknown", "compiled", "", 0, ""),))


def _verdict(label: str, found: Function | Outside, effects: _Effects) -> Verdict:
    if isinstance(found, Outside):
        return without_source(label, found.name)
    path, line = found.module.source.path, found.line
    seen = [e.finding for e in effects.of(found) if e.origin is None or e.origin.owner is found]
    if (effect := known.of_name(label)) is not None:
        seen = [Finding(effect.kind, effect.what, path, line, found.module.line(line))]
    if found.owner is not None and not label.endswith(found.name):  # a method of an object that the module keeps
        what = f"changes the {found.owner.name} that the module keeps"
        seen = [f._replace(kind="global", what=what) if f.kind == "self" else f for f in seen]
    if found.name.rpartition(".")[2] in _MAKES:
        seen = [f for f in seen if f.kind != "self"]  # an object that is being made is nobody's yet
    seen = [f._replace(condition=None) if _either(f, seen) else f for f in seen]
    always = {f.kind for f in seen if f.condition is None}
    if always & set(IMPURE):
        verdict = "impure"
    elif any(f.kind == "argument" and f.condition is None for f in seen):
        verdict = "changes arguments"
    elif "unknown" in always:
        verdict = "unknown"
    else:
        verdict = "changes self" if "self" in always else "pure"
    seen.sort(key=lambda f: (f.condition is not None, f.kind not in IMPURE, len(f.way)))
    return Verdict(label, path, line, verdict, tuple(seen), tuple(sorted(effects.compiled(found))))
