"""The text of stubs: functions with a given parameter list that do nothing but call.

A stub sends only what the caller gave: an argument that *is* the default object is left out, and the
real function fills in its own.  It leaves no frame in a traceback.
"""

from __future__ import annotations

import keyword
from types import CodeType
from typing import Any

from . import interface as face
from .interface import Signature
from .origin import ON_BEHALF
from .origin import STUB as CALL

POSITIONAL_ONLY, POSITIONAL_OR_KEYWORD, VAR_POSITIONAL, KEYWORD_ONLY, VAR_KEYWORD = range(5)

_ANY = [face.Parameter("args", VAR_POSITIONAL), face.Parameter("kwargs", VAR_KEYWORD)]


def parameters(signature: Signature | None) -> list[face.Parameter]:
    """The parameters to generate; of a C function that tells nothing, whatever comes."""
    if signature is None or any(not p.name.isidentifier() or keyword.iskeyword(p.name) for p in signature.parameters):
        return _ANY
    return signature.parameters


def source(index: int, signature: Signature | None, *, generates: bool = False, awaits: bool = False) -> str:
    """A factory ``_<index>(call, trimmed, *defaults)`` whose result takes ``signature`` and calls ``call``.

    The result is a genuine generator function or coroutine function if the real one is.  Of an
    asynchronous generator function, whose items no simple code passes on, it is a plain one that looks like it.
    """
    start, give, end = "def", f"return {CALL}", ""
    if generates and not awaits:
        give, end = f"return (yield from {CALL}", ")"
    elif awaits and not generates:
        start, give = "async def", f"return await {CALL}"
    taken = parameters(signature)
    keywords, trimmed, error = (f"__relocate_{n}" for n in ("keywords", "trimmed", "error"))
    defaults = {p.name: f"__relocate_default_{p.name}" for p in taken if p.default is not None}
    head: list[str] = []
    for i, p in enumerate(taken):
        if p.kind == KEYWORD_ONLY and not any(q.kind in (VAR_POSITIONAL, KEYWORD_ONLY) for q in taken[:i]):
            head.append("*")
        star = {VAR_POSITIONAL: "*", VAR_KEYWORD: "**"}.get(p.kind, "")
        head.append(star + p.name + (f"={defaults[p.name]}" if p.name in defaults else ""))
        if p.kind == POSITIONAL_ONLY and (i + 1 == len(taken) or taken[i + 1].kind != POSITIONAL_ONLY):
            head.append("/")
    positional = [p for p in taken if p.kind in (POSITIONAL_ONLY, POSITIONAL_OR_KEYWORD)]
    required = [p.name for p in positional if p.name not in defaults]
    only = [p.name for p in positional if p.kind == POSITIONAL_ONLY and p.name in defaults]
    by_name = [p.name for p in positional if p.kind == POSITIONAL_OR_KEYWORD and p.name in defaults]
    var = next((p.name for p in taken if p.kind == VAR_POSITIONAL), None)
    var_keyword = next((p.name for p in taken if p.kind == VAR_KEYWORD), None)
    keyword_only = [p for p in taken if p.kind == KEYWORD_ONLY]
    body = [f"{keywords} = {var_keyword or '{}'}"]
    for p in keyword_only:
        put = f"{keywords}[{p.name!r}] = {p.name}"
        body.append(f"if {p.name} is not {defaults[p.name]}: {put}" if p.name in defaults else put)
    if var is not None:
        everything = "".join(f"{p.name}, " for p in positional)
        body.append(f"if {var}: {give}(({everything}*{var},), {keywords}){end}")
    body += [f"if {name} is not {defaults[name]}: {keywords}[{name!r}] = {name}" for name in by_name]
    for count in range(len(only), 0, -1):
        given = "".join(f"{n}, " for n in required + only[:count])
        body.append(f"if {only[count - 1]} is not {defaults[only[count - 1]]}: {give}(({given}), {keywords}){end}")
    body.append(f"{give}(({''.join(f'{n}, ' for n in required)}), {keywords}){end}")
    lines = [
        f"def _{index}({', '.join([CALL, trimmed, *defaults.values()])}):",
        f"    {start} stub({', '.join(head)}):",
        "        try:",
        *(f"            {line}" for line in body),
        f"        except BaseException as {error}:",
        f"            {trimmed}({error})",
        "            raise",
        "    return stub",
    ]
    return "\n".join(lines) + "\n"


_OWN = __file__.removesuffix("stubs.py")


def trimmed(error: BaseException) -> None:
    """Take off the head of ``error``'s traceback the frame that has caught it, and those of this package.

    What the function's own frames (remote or local) and the caller's are, stays.  A stub raises it again
    by a bare ``raise``, which adds no frame.
    """
    trace = error.__traceback__ and error.__traceback__.tb_next
    while trace is not None and (
        trace.tb_frame.f_code.co_filename.startswith(_OWN) or trace.tb_frame.f_code.co_name == ON_BEHALF
    ):
        trace = trace.tb_next
    error.__traceback__ = trace


def placed(code: CodeType, label: str, line: tuple[str, int] | None) -> CodeType:
    """``code`` under another function's name, and where that begins."""
    place: dict[str, Any] = {}
    if line is not None:
        # All of it stands at the function's first line, so that `inspect` finds the source.  An entry of a
        # location table is for eight code units at most; 13: no columns (CPython's Objects/locations.md).
        units = len(code.co_code) // 2
        table = (bytes([0x80 | 13 << 3 | min(8, units - at) - 1, 0]) for at in range(0, units, 8))
        place = {"co_filename": line[0], "co_firstlineno": line[1], "co_linetable": b"".join(table)}
    return code.replace(co_name=label.rpartition(".")[2], co_qualname=label, **place)
