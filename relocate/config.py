"""Configuration: defaults < file < environment < argument, checked once, frozen.

A module is *designated* by its dotted name, which covers everything below it; ``!name`` takes a
part out again.  The longest matching name decides.  A package's tests use it as a program does, so
they are not covered.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from .errors import ConfigError

ENV_CONFIG = "RELOCATE_CONFIG"
ENV_MODULES = "RELOCATE_MODULES"
ENV_METHODS = "RELOCATE_METHODS"
ENV_WORKERS = "RELOCATE_WORKERS"
ENV_REPORT = "RELOCATE_REPORT"
ENV_FALLBACK = "RELOCATE_FALLBACK"
ENV_KEYS = "RELOCATE_KEYS"
ENV_SUMMARY = "RELOCATE_SUMMARY"
ENV_VERIFY = "RELOCATE_VERIFY"
ENV_TOLERANCE = "RELOCATE_TOLERANCE"
ENV_PLACEMENT = "RELOCATE_PLACEMENT"
ENV_NAMESPACE = "RELOCATE_NAMESPACE"
ENV_METRICS = "RELOCATE_METRICS"
ENV_TRACING = "RELOCATE_TRACING"
ENV_REPORT_PID = "RELOCATE_REPORT_PID"
"""Set for the program that the report is about, and seen by its children."""
ENV_EXECUTOR = "RELOCATE_EXECUTOR"
"""Set in the environment of workers: nothing is relocated there."""

MOST_EXECUTORS = 1024
"""Of one worker."""
LONGEST_PATH = 93
"""Bytes: a Unix socket's address holds 107 (unix(7)), and executors append their numbers to the worker's."""

REGISTRY = "registry+"
"""What the address of a registry begins with, among workers."""

REGISTRYS = "a registry's address"
PLACEMENTS = ("remote", "auto", "local")
Ranks = tuple[tuple[str, ...], ...]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to relocate, and where to."""

    modules: tuple[str, ...] = ()
    """Designated modules; ``!name`` takes a part out.  A class means the same as in ``methods``."""
    methods: tuple[str, ...] = ()
    """Classes whose methods run on workers: one by its name, one method by its name, or all public classes
    that a module and those below it define; ``!name`` takes a part out."""
    workers: str = "local"
    """``local`` or ``4`` or ``local:4``: executors on this machine (as many as cores, or 4).
    ``tcp://host:port``, ``ipc://path``: running workers.  ``registry+tcp://host:port``: those that a
    registry knows; with ``?region=eu`` best those with that label.  Several, separated by commas, share
    the load; ranks of spares are separated by semicolons."""
    namespace: str = ""
    """File of mounts and bindings that is loaded on top of the workers (`nsfile` has its form)."""
    fallback: bool = True
    """Whether the local copy runs a call when no worker is left to run it."""
    keys: str = ""
    """Folder of this side's key and allow-list; empty: the user's own (``relocate keys show``)."""
    cache: str = ""
    """Folder of cached interfaces; empty: the user's cache folder."""
    report: str = ""
    """File that gets the statistics as JSON when the program ends; ``-``: standard error."""
    depth: int = 1
    """Calls that one program may have outstanding on one executor; more hides a long round trip.
    Where calls take less than 50 ms there may be one more."""
    placement: Literal["remote", "auto", "local"] = "remote"
    """Where calls run: ``remote``, all on workers; ``auto``, each where it costs less, by what is learned of
    run times and trips; ``local``, all here whose module is installed here."""
    policy: str = ""
    """Who decides where a call runs: ``module:attribute``, or a name in the entry-point group
    ``relocate.policies``; empty: `relocate.policy.decide`."""
    queue: int = -1
    """Calls that may wait for each executor when all are busy; one more raises `Overloaded` at once.
    -1: all wait."""
    deadlines: dict[str, float] = msgspec.field(default_factory=dict)
    """Seconds that a call may take, by the dotted name of a function, a module or a package; the longest
    name that covers a function counts, and a `deadline` in the program if it is nearer."""
    patience: float = 30.0
    """Seconds a call waits while no worker is alive, before it gives up."""
    start_timeout: float = 30.0
    """Seconds an import waits for somebody to describe its module."""
    heartbeat: float = 1.0
    """Seconds of silence after which a peer counts as cut off (it is asked five times as often)."""
    verify: float = 0.0
    """Share of the calls (0 to 1) that run here too, to compare the two results; see `verify`."""
    tolerance: float = 0.0
    """By which fraction of the larger one, or of the largest in the same array, list or dictionary, two
    numbers may then differ."""
    metrics: str = ""
    """Where Prometheus finds this program's metrics: ``host:port``, or a port on this machine alone."""
    tracing: bool = False
    """Whether each call is a span of OpenTelemetry; see `tracing`."""

    def designates(self, name: str) -> bool:
        """Whether the module ``name`` is to be relocated."""
        return designates(self.modules, name)

    def overlaps(self, other: Config) -> bool:
        """Whether both relocate something of the same."""
        ours = [*self.modules, *self.methods]
        theirs = [*other.modules, *other.methods]
        return any(designates(theirs, name) for name in ours) or any(designates(ours, name) for name in theirs)


def outermost(modules: Iterable[str]) -> list[str]:
    """Of ``modules`` those that are in no package among them."""
    found: list[str] = []
    for module in sorted(modules):
        if not found or not module.startswith(f"{found[-1]}."):
            found.append(module)
    return found


def designates(modules: Sequence[str], name: str) -> bool:
    """Whether ``name`` is below one of ``modules``; the longest match decides."""
    best = longest(modules, name)
    return best is not None and not best.startswith("!") and not _TESTS.search(name, len(best))


def longest(entries: Sequence[str], name: str) -> str | None:
    """Of ``entries``, the one that decides on ``name``."""
    best, found = -1, None
    for entry in entries:
        bare = entry.removeprefix("!")
        if len(bare) > best and (name == bare or name.startswith(bare + ".")):
            best, found = len(bare), entry
    return found


_TESTS = re.compile(r"\.(tests?|conftest|test_\w+)(\.|$)")


def load(source: Config | Mapping[str, Any] | str | os.PathLike[str] | None = None, **given: Any) -> Config:
    """The configuration of this program.

    Args:
        source: a `Config`; a mapping; the path of a TOML file; or None for what the environment
            names, else for ``relocate.toml`` or ``[tool.relocate]`` in ``pyproject.toml``, looked
            for from the working directory upward.
        **given: single keys, which override all of that.

    Raises:
        ConfigError: naming the key, or the file, and the remedy.
    """
    values: dict[str, Any]
    origins: dict[str, str] = {}
    if source is not None and not isinstance(source, (Config, Mapping, str, os.PathLike)):
        raise ConfigError(f"a {type(source).__name__} is not a configuration; write enable(modules=[...])")
    if isinstance(source, Config):
        values = msgspec.structs.asdict(source)
    elif isinstance(source, Mapping):
        values = dict(source)
    else:
        values = {}
        path = os.fspath(source) if source is not None else os.environ.get(ENV_CONFIG) or _find()
        if path:
            values = _read(Path(path))
            origins = dict.fromkeys(values, str(path))
        if source is None:
            found = _environment()
            values |= found
            origins |= {key: f"{_VARIABLES[key]} in the environment" for key in found}
    values |= given
    origins |= dict.fromkeys(given, ARGUMENTS)
    return check(values, origins)


ARGUMENTS = "the arguments"
PATHS = ("keys", "cache", "report", "namespace")
"""Keys that name a file or a folder."""

_VARIABLES = {
    "modules": ENV_MODULES,
    "methods": ENV_METHODS,
    "workers": ENV_WORKERS,
    "report": ENV_REPORT,
    "keys": ENV_KEYS,
    "fallback": ENV_FALLBACK,
    "placement": ENV_PLACEMENT,
    "verify": ENV_VERIFY,
    "tolerance": ENV_TOLERANCE,
    "namespace": ENV_NAMESPACE,
    "metrics": ENV_METRICS,
    "tracing": ENV_TRACING,
}


def misspelt() -> Iterator[str]:
    """What is to be said of variables of the environment that resemble one of relocate's, and are none."""
    known = sorted(value for name, value in globals().items() if name.startswith("ENV_"))
    for name in sorted(os.environ):
        if name.startswith("RELOCATE_") and name not in known:
            import difflib

            for near in difflib.get_close_matches(name, known, 1, 0.85):
                yield f"{name} in the environment says nothing to relocate; did you mean {near}?"


def _environment() -> dict[str, Any]:
    found: dict[str, Any] = {key: text for key, name in _VARIABLES.items() if (text := os.environ.get(name))}
    for key in ("verify", "tolerance"):
        if key in found:
            try:
                found[key] = float(found[key])
            except ValueError:
                name = _VARIABLES[key]
                raise ConfigError(f"{name}: {found[key]!r} is not a number; write for example 0.01") from None
    for key in ("fallback", "tracing"):
        if key in found:
            if found[key] not in ("0", "1"):
                raise ConfigError(f"{_VARIABLES[key]}: {found[key]!r} is neither 0 nor 1")
            found[key] = found[key] == "1"
    return found


def _find() -> str | None:
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "relocate.toml").is_file():
            return str(folder / "relocate.toml")
        project = folder / "pyproject.toml"
        if project.is_file() and b"[tool.relocate" in project.read_bytes():
            return str(project)
    return None


def _read(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file (a module is designated by modules=[...] or -M)") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML: {error}") from None
    if path.name == "pyproject.toml":
        tools = values.get("tool", {})
        values = tools.get("relocate", {}) if isinstance(tools, dict) else {}
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: tool.relocate is not a table; write [tool.relocate] on a line of its own")
    for key in PATHS:
        # A relative folder in a file is relative to the file, not to wherever the program starts.
        if isinstance(values.get(key), str) and values[key] and (key, values[key]) != ("report", "-"):
            values[key] = str(path.parent / values[key])
    return values


def check(values: dict[str, Any], origins: Mapping[str, str]) -> Config:
    """The configuration that ``values`` make, of which ``origins`` says where each key comes from.

    Raises:
        ConfigError: naming the key, where it comes from, and the remedy.
    """

    def origin(key: str) -> str:
        return origins.get(key, ARGUMENTS)

    def at(key: str) -> str:
        """Where the key comes from, and its name unless an option says it."""
        return origin(key) if origin(key).startswith("-") else f"{origin(key)}: {key}"

    for key in values:
        if key not in Config.__struct_fields__:
            raise _unknown(key, origin(key))
    for key in ("modules", "methods"):
        if isinstance(values.get(key), str):
            values[key] = [m.strip() for m in values[key].split(",") if m.strip()]
    workers = values.get("workers")
    if isinstance(workers, int) and not isinstance(workers, bool):
        values["workers"] = str(workers)
    elif isinstance(workers, (list, tuple)) and all(isinstance(w, (str, int)) for w in workers):
        values["workers"] = ",".join(map(str, workers))
    if isinstance(values.get("metrics"), int) and not isinstance(values["metrics"], bool):
        values["metrics"] = str(values["metrics"])
    for key in PATHS:
        if isinstance(values.get(key), os.PathLike):
            values[key] = os.fspath(values[key])
    try:
        config = msgspec.convert(values, Config)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        key = re.split(r"[`\[.]", where)[0]
        if what.startswith("Invalid enum value"):
            what = f"{values[key]!r} is none of {', '.join(PLACEMENTS)}"
        what = what.replace("`object`", "a table").replace("`array`", "a list")
        raise ConfigError(f"{at(key or 'configuration')}: {what[:1].lower()}{what[1:]}") from None
    for key, what, example in (("modules", "module", "scipy.ndimage"), ("methods", "class", "sklearn.cluster.KMeans")):
        names: tuple[str, ...] = getattr(config, key)
        for name in names:
            said = f"{at(key)}: {name!r}"
            if not all(part.isidentifier() for part in name.removeprefix("!").split(".")):
                raise ConfigError(f"{said} is not a {what}'s dotted name; write for example {example!r}")
            if name.removeprefix("!").split(".")[0] in ("relocate", "builtins", "sys", "__main__"):
                raise ConfigError(f"{said} cannot be relocated: relocation itself needs it here")
            if "!" + name in names:
                raise ConfigError(f"{said} is both designated and taken out")
    for key in ("patience", "start_timeout", "heartbeat"):
        if not 0 < getattr(config, key) < float("inf"):
            raise ConfigError(f"{origin(key)}: {key}: must be a number of seconds, more than 0")
    if not 0 <= config.verify <= 1:
        raise ConfigError(f"{origin('verify')}: verify: must be a share of the calls, from 0 to 1")
    if not 0 <= config.tolerance < 1:
        raise ConfigError(
            f"{origin('tolerance')}: tolerance: must be a fraction of the numbers compared, 0 or more, less than 1"
        )
    if config.queue < -1:
        raise ConfigError(
            f"{origin('queue')}: queue: must be a number of calls for each executor, 0 or more; or -1, then all wait"
        )
    for name, seconds in config.deadlines.items():
        if not all(part.isidentifier() for part in name.split(".")):
            raise ConfigError(
                f"{origin('deadlines')}: deadlines: {name!r} is not the dotted name of a function or a module; "
                "write for example {'scipy.ndimage' = 2.5}"
            )
        if not 0 < seconds < float("inf"):
            raise ConfigError(f"{origin('deadlines')}: deadlines: {name}: must be a number of seconds, more than 0")
    if config.metrics:
        try:
            host_and_port(config.metrics)
        except ConfigError as error:
            raise ConfigError(f"{origin('metrics')}: metrics: {error}") from None
    if config.depth < 1:
        raise ConfigError(f"{origin('depth')}: depth: must be at least 1")
    try:
        ranks(config.workers)
    except ConfigError as error:
        raise ConfigError(f"{at('workers')}: {error}") from None
    return config


def _unknown(key: str, origin: str) -> ConfigError:
    import difflib

    if key == "tool" and origin.endswith(".toml"):
        return ConfigError(
            f"{origin}: [tool.relocate] is for pyproject.toml; write the keys of {Path(origin).name} without a table"
        )
    near = difflib.get_close_matches(key, Config.__struct_fields__, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(Config.__struct_fields__)}"
    return ConfigError(f"{origin}: unknown key {key!r}; {hint}")


def ranks(workers: str) -> Ranks:
    """The workers' specification as ranks of single specifications, each ``local:N`` or a URL.

    Raises:
        ConfigError: naming the part that is wrong.
    """
    found = tuple(r for r in (tuple(_rank(rank)) for rank in workers.split(";")) if r)
    if not found:
        raise ConfigError("empty; write 'local', 'local:4' or 'tcp://host:port'")
    names = [spec for rank in found for spec in rank]
    if len({n for n in names if not n.startswith("local:")}) != sum(not n.startswith("local:") for n in names):
        raise ConfigError(f"{max(names, key=names.count)!r} is named twice")
    if sum(spec.startswith("local") for spec in names) > 1:
        written = ", ".join(spec for spec in names if spec.startswith("local"))
        raise ConfigError(f"executors on this machine are asked for twice ({written}); name them once, with a number")
    return found


def _rank(rank: str) -> Iterator[str]:
    for spec in re.split(r"[,\s]+", rank):
        if not spec:
            continue
        local = re.fullmatch(r"(?:local(?::|$))?(\d*)", spec)
        if local:
            count = int(local[1]) if local[1] else cores()
            if count < 1:
                raise ConfigError(f"{spec!r}: at least one executor is needed")
            if count > MOST_EXECUTORS:
                raise ConfigError(f"{spec!r}: a worker has at most {MOST_EXECUTORS} executors")
            yield f"local:{count}"
        elif spec.startswith(REGISTRY):
            registry(spec)
            yield spec
        else:
            yield check_url(spec)


def registry(spec: str) -> tuple[str, dict[str, str]]:
    """The address of the registry ``spec``, and the labels that its workers had best bear.

    Raises:
        ConfigError: naming what is wrong with it.
    """
    url, _, query = spec.removeprefix(REGISTRY).partition("?")
    check_url(url, "registry+tcp://host:port or registry+ipc:///path", REGISTRYS)
    return url, labels(query.split("&") if query else [], spec)


def labels(pairs: Sequence[str], where: str) -> dict[str, str]:
    """Labels that are written ``name=value``.

    Raises:
        ConfigError: one of them is not; ``where`` names what it is in.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not re.fullmatch(r"[\w.-]{1,100}", name) or not re.fullmatch(r"[\w.:/+-]{1,100}", value):
            raise ConfigError(f"{where}: {pair!r} is not a label; write name=value, for example region=eu")
        if name in found:
            raise ConfigError(f"{where}: the label {name!r} is given twice")
        found[name] = value
    return found


def check_url(
    url: str, remedy: str = "tcp://host:port, ipc:///path, local, or a number", whose: str = "a worker's address"
) -> str:
    """``url`` itself, if it is an address that a client can connect to.

    Raises:
        ConfigError: naming what is wrong with it: that it is not ``whose``; and what to write instead (``remedy``).
    """
    if url.startswith("ipc://"):
        path = url.removeprefix("ipc://")
        if not path.isprintable():
            raise ConfigError(f"{url!r}: the path has characters that cannot be shown")
        if not path.startswith("/"):
            # Linux's abstract sockets (@name) have no file, so that anybody could connect.
            raise ConfigError(f"{url!r}: a Unix socket needs an absolute path; write ipc:///path")
        if len(os.fsencode(path)) > LONGEST_PATH:
            raise ConfigError(f"{url!r}: the path of a Unix socket may have at most {LONGEST_PATH} bytes")
        return url
    tcp = re.fullmatch(r"tcp://(\[[0-9a-fA-F:.%]+\]|[^:/\s]+):(\d+)", url)
    if tcp and int(tcp[2]) > 65535:
        raise ConfigError(f"{url!r}: a port is a number of at most 65535")
    if tcp:
        return url
    raise ConfigError(f"{url!r} is not {whose}; write {remedy}")


def host_and_port(address: str) -> tuple[str, int]:
    """The host and the port of ``host:port``; of a port alone, this machine.

    Raises:
        ConfigError: it is neither.
    """
    found = re.fullmatch(r"(?:(\[[0-9a-fA-F:.%]+\]|[^:\s]+):)?(\d{1,5})", address)
    if found is None or int(found[2]) > 65535:
        raise ConfigError(f"{address!r} is not an address; write for example 127.0.0.1:9464, or 9464")
    return (found[1] or "127.0.0.1").strip("[]"), int(found[2])


def cores() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
