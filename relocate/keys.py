"""Who may talk to whom: one CURVE key pair per side, and a list of the peers' public keys.

Like ssh: the file ``secret`` stays here, the public key that follows from it is given to the other
side, and the file ``allowed`` lists whom this side trusts, one ``<public key> <name>`` a line.  The
own key is always allowed, so that the worker and the client of one account work with nothing to
exchange.  Keys are shown as 64 hexadecimal digits, which no shell mistakes for anything else.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import re
from dataclasses import dataclass, field
from pathlib import Path

from .errors import ConfigError, WrongKey


@dataclass(frozen=True)
class Keys:
    """One side's keys."""

    folder: Path
    secret: bytes = field(repr=False)
    public: bytes
    allowed: dict[bytes, str]

    @property
    def peers(self) -> list[bytes]:
        """Every public key that is trusted here, the own one first."""
        return [self.public, *(k for k in self.allowed if k != self.public)]


def default_folder() -> Path:
    """The user's own key folder."""
    import platformdirs

    return Path(platformdirs.user_config_path("relocate")) / "keys"


def load(folder: str | os.PathLike[str] = "", *, create: bool = False) -> Keys:
    """The keys in ``folder`` (empty: the user's own).

    Raises:
        WrongKey: there is no key and ``create`` is false, or others can read the secret.
        ConfigError: a file there is not what it should be.
    """
    path = Path(folder) if folder else default_folder()
    secret = path / "secret"
    if not secret.exists():
        if not create:
            raise WrongKey(f"there is no key in {path}; make one with 'relocate keys new{_option(folder)}'")
        with contextlib.suppress(FileExistsError):
            new(path)
    if os.name == "posix" and secret.stat().st_mode & 0o077:
        raise WrongKey(f"{secret} can be read by others; run: chmod 600 {secret}")
    import zmq
    from zmq.utils import z85

    mine = _key(secret)
    return Keys(path, mine, z85.decode(zmq.curve_public(z85.encode(mine))), _allowed(path))


def state(folder: str | os.PathLike[str] = "") -> tuple[tuple[int, ...], ...]:
    """What tells whether `load` would give something else than before: which files it reads, and since when."""
    found = []
    for name in ("secret", "allowed"):
        with contextlib.suppress(FileNotFoundError):
            status = os.stat((Path(folder) if folder else default_folder()) / name)
            found.append((status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return tuple(found)


def pair() -> tuple[bytes, bytes]:
    """A new key pair: public, secret."""
    import zmq
    from zmq.utils import z85

    public, secret = map(z85.decode, zmq.curve_keypair())
    return public, secret


def new(folder: str | os.PathLike[str] = "") -> Keys:
    """Make a key pair.

    Raises:
        FileExistsError: there is one already; it is left as it is.
    """
    path = Path(folder) if folder else default_folder()
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path / f"secret.{os.getpid()}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(pair()[1].hex() + "\n")
    try:
        os.link(draft, path / "secret")  # appears whole, or not at all, and never over another
    finally:
        draft.unlink()
    return load(path)


def allow(key: str, name: str = "", folder: str | os.PathLike[str] = "") -> str:
    """Trust the peer that holds ``key``; returns the name that it is listed under: the latest one given.

    Raises:
        ConfigError: ``key`` is not a public key, or ``name`` is not one line of text.
    """
    public, name = parse(key), name.strip()
    if not name.isprintable():
        raise ConfigError(f"{name[:80]!r} cannot be a name: it may have no control characters")
    path = Path(folder) if folder else default_folder()
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    listed = _allowed(path)
    name = name or listed.get(public, "")
    if listed.get(public) != name:
        _write(path, [*_without(path, {public}), f"{public.hex()} {name}".rstrip()])
    return name


def revoke(what: str, folder: str | os.PathLike[str] = "") -> dict[bytes, str]:
    """Trust no longer the peer with that key, or all with that name; returns their keys and names.

    Raises:
        ConfigError: there is none.
    """
    path = Path(folder) if folder else default_folder()
    gone = {key: name for key, name in _allowed(path).items() if what.strip() in (name, key.hex(), key.hex().upper())}
    if not gone or not what.strip():
        raise ConfigError(f"{what[:80]!r} is neither a key nor a name in {path / 'allowed'}; see 'relocate keys list'")
    _write(path, _without(path, set(gone)))
    return gone


def listed(folder: str | os.PathLike[str] = "") -> dict[bytes, str]:
    """The keys that are trusted beside the own one, and their names.

    Raises:
        ConfigError: a line of the list is damaged.
    """
    return _allowed(Path(folder) if folder else default_folder())


def show(folder: str | os.PathLike[str] = "") -> str:
    """This side's public key and whose it is, as `allow` takes them."""
    return f"{load(folder).public.hex()} {whose()}"


def parse(text: str) -> bytes:
    """The 32 bytes of a key written as 64 hexadecimal digits.

    Raises:
        ConfigError: it is not that.
    """
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text.strip()):
        raise ConfigError(
            f"{text[:80]!r} is not a key (64 hex digits); 'relocate keys show' on the other side prints it"
        )
    return bytes.fromhex(text.strip())


def _key(path: Path) -> bytes:
    try:
        return parse(path.read_text("utf-8").split()[0])
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except (IndexError, UnicodeDecodeError, ConfigError):
        # Not what it holds instead: it may be most of a secret.
        raise ConfigError(f"{path} does not hold a key; remove it and run 'relocate keys new'") from None


def _lines(folder: Path) -> list[str]:
    """The lines of the list of allowed keys; what is not UTF-8 shows as such."""
    path = folder / "allowed"
    return path.read_text("utf-8", "backslashreplace").split("\n") if path.exists() else []


def _without(folder: Path, keys: set[bytes]) -> list[str]:
    written = {key.hex() for key in keys}
    return [line for line in _lines(folder) if line.strip()[:64].lower() not in written]


def _write(folder: Path, lines: list[str]) -> None:
    path = Path(os.path.realpath(folder / "allowed"))
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_text("\n".join([*(line for line in lines if line), ""]), "utf-8")
    draft.replace(path)  # a worker that reads it meanwhile sees the old one or the new one


def _allowed(folder: Path) -> dict[bytes, str]:
    found: dict[bytes, str] = {}
    for number, line in enumerate(_lines(folder), 1):
        words = line.split(None, 1)
        if not words or words[0].startswith("#"):
            continue
        try:
            found[parse(words[0])] = words[1].strip() if len(words) > 1 else ""
        except ConfigError as error:
            raise ConfigError(f"{folder / 'allowed'}, line {number}: {error}") from None
    return found


def whose() -> str:
    """``user@host`` of this process."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = str(os.getuid()) if hasattr(os, "getuid") else "unknown"
    return f"{user}@{platform.node() or 'unknown'}"


def _option(folder: str | os.PathLike[str]) -> str:
    return f" --keys {os.fspath(folder)}" if folder else ""
