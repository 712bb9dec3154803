"""A name space as text: lines that mount and bind, as in Plan 9's namespace(6).

::

    # a comment; empty lines are skipped
    clear
    mount tcp://desk:7000 /n/desk
    mount local:4 /n/embedded
    bind /n/desk/chan /chan
    bind -a /n/local/chan /chan
    bind -b --rank 0 /n/embedded/chan/scipy /chan/scipy
    unmount /n/desk/chan/scipy/ndimage /chan/scipy/ndimage
    unmount /chan/scipy/ndimage

``bind NEW OLD`` replaces what OLD leads to; ``-b`` joins NEW before the others, ``-a`` after them as a
spare, and ``--rank`` at that rank.  ``unmount`` takes the last words of ``unmount [NEW] OLD``.  ``clear``
begins anew, with nothing mounted but the local copies, and nothing bound.

All lines of a text take effect at once: no call sees a part of them.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from .errors import ConfigError
from .mounts import LOCAL, LiveNamespace
from .namespace import Namespace, Snapshot, Where, join

FORMS = {
    "bind": "bind [-b|-a] [--rank N] NEW OLD",
    "clear": "clear",
    "mount": "mount URL [NAME]",
    "unmount": "unmount [NEW] OLD",
}
FLAGS = {"-b": Where.BEFORE, "-a": Where.AFTER}
EMPTY = Snapshot({LOCAL: LOCAL})


def run(text: str, origin: str, begun: Snapshot) -> Snapshot:
    """What a name space becomes by the lines of ``text``.

    Args:
        text: the lines.
        origin: whose they are, for messages: a file's name.
        begun: what it is before.

    Raises:
        ConfigError: naming the origin and the line, and what to write instead.
    """
    space = LiveNamespace(begun)
    for number, line in enumerate(text.splitlines(), 1):
        try:
            words = shlex.split(line, comments=True)
            if words == ["clear"]:
                space = LiveNamespace(EMPTY)
            elif words:
                _run(space, words)
        except (ConfigError, ValueError) as error:
            raise ConfigError(f"{origin}:{number}: {error}") from None
    return space.snapshot


def _run(space: Namespace, words: list[str]) -> None:
    verb, rest = words[0], words[1:]
    if verb not in FORMS:
        raise ConfigError(f"{verb!r} is not known; write one of: {'; '.join(FORMS.values())}")
    where, rank = Where.REPLACE, None
    while verb == "bind" and rest and rest[0].startswith("-"):
        flag = rest.pop(0)
        if flag in FLAGS:
            where = FLAGS[flag]
        elif flag == "--rank" and rest and rest[0].isdecimal():
            rank = int(rest.pop(0))
        else:
            raise ConfigError(f"{flag!r} is not understood; write {FORMS[verb]}, where N is a number from 0")
    if verb == "bind" and len(rest) == 2:
        space.bind(rest[0], rest[1], where, rank)
    elif verb == "mount" and len(rest) in (1, 2):
        space.mount(*rest)
    elif verb == "unmount" and len(rest) in (1, 2):
        space.unmount(rest[-1], rest[0] if len(rest) == 2 else None)
    else:
        raise ConfigError(f"write {FORMS[verb]}")


def text_of(snapshot: Snapshot) -> str:
    """The text that makes ``snapshot``, whatever was there before."""
    return "".join(f"{shlex.join(words)}\n" for words in _lines(snapshot))


def _lines(snapshot: Snapshot) -> Iterator[list[str]]:
    yield ["clear"]
    for place, url in snapshot.mounts.items():
        if EMPTY.mounts.get(place) != url:
            yield ["mount", url, join(("n", place))]
    for place in EMPTY.mounts.keys() - snapshot.mounts.keys():
        yield ["unmount", join(("n", place))]
    for name, union in sorted(snapshot.unions.items()):
        for position, element in enumerate(union):
            after = ["-a"] if position else []
            ranked = ["--rank", str(element.rank)] if position or element.rank else []
            yield ["bind", *after, *ranked, join(element.target), join(name)]
