"""What is known of names that are not looked into: the built-in ones, and those of other packages.

What is not listed here counts as pure.  Left out are names that only tell about the interpreter
(`sys.maxsize`), those that only write to the standard streams, and waiting (`time.sleep`): what
they do is the same on the worker, or is carried to the caller.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Effect(NamedTuple):
    """What a name does beyond its arguments and its result: of what kind, and in words."""

    kind: str
    what: str


FILES = Effect("io", "uses files")
INPUT = Effect("io", "reads the standard input")
PROCESS = Effect("io", "starts or steers processes")
NETWORK = Effect("io", "uses the network")
CLOCK = Effect("time", "reads the clock")
RANDOM = Effect("random", "draws random numbers")
STATE = Effect("global", "changes the interpreter's state")
ENVIRONMENT = Effect("environment", "depends on the process or machine it runs on")


def names(*lines: str) -> Iterator[str]:
    """The names in each line, behind the line's first word if that ends with a dot."""
    for line in lines:
        words = line.split()
        prefix = words.pop(0) if words[0].endswith(".") else ""
        yield from (f"{prefix}{word}" for word in words)


def _table(*rows: tuple[Effect, Iterator[str]]) -> dict[str, Effect]:
    return {name: effect for effect, names in rows for name in names}


_CALLS = _table(
    (
        FILES,
        names(
            "open",
            "io. open open_code FileIO",
            "codecs. open",
            "gzip. open GzipFile",
            "bz2. open BZ2File",
            "lzma. open LZMAFile",
            "linecache. getline getlines checkcache",
            "sqlite3. connect",
            "dbm. open",
            "shelve. open",
            "mmap. mmap",
            "tarfile. open TarFile",
            "zipfile. ZipFile is_zipfile",
            "pkgutil. get_data iter_modules walk_packages",
            "os. open close read write fdopen remove unlink rename renames replace mkdir makedirs rmdir removedirs",
            "os. listdir scandir walk fwalk stat lstat fstat access chmod chown link symlink readlink truncate utime",
            "os. pipe mkfifo dup dup2 statvfs sync fsync",
            "os.path. exists lexists isfile isdir islink ismount getsize getmtime getatime getctime samefile",
            "numpy. load save savez savez_compressed loadtxt savetxt genfromtxt fromfile memmap fromregex",
            "scipy.io. loadmat savemat mmread mmwrite",
            "joblib. dump load Memory",
            "pandas. HDFStore ExcelFile ExcelWriter",
        ),
    ),
    (INPUT, names("input breakpoint")),
    (
        PROCESS,
        names(
            "os. system popen fork forkpty kill killpg wait waitpid abort _exit execv execve execvp execl execlp",
            "os. spawnl spawnv posix_spawn startfile nice",
        ),
    ),
    (CLOCK, names("time. time time_ns perf_counter perf_counter_ns monotonic monotonic_ns process_time")),
    (CLOCK, names("time. process_time_ns thread_time thread_time_ns clock_gettime")),
    (CLOCK, names("timeit. default_timer timeit repeat")),
    (CLOCK, names("datetime. datetime.now datetime.utcnow datetime.today date.today")),
    (CLOCK, names("pandas. Timestamp.now Timestamp.utcnow Timestamp.today")),
    (
        RANDOM,
        names(
            "os. urandom getrandom",
            "uuid. uuid1 uuid4 getnode",
            "random. SystemRandom seed setstate getstate random uniform triangular randint choice randrange sample",
            "random. shuffle choices normalvariate lognormvariate expovariate vonmisesvariate gammavariate gauss",
            "random. betavariate binomialvariate paretovariate weibullvariate getrandbits randbytes",
        ),
    ),
    (
        ENVIRONMENT,
        names(
            "pathlib.Path. cwd home",
            "os.path. abspath realpath relpath expanduser expandvars",
            "os. getenv getenvb getcwd getcwdb getpid getppid getuid geteuid getgid getlogin uname getpgid",
            "os. getloadavg times ctermid ttyname get_terminal_size",
            "locale. getlocale getdefaultlocale localeconv nl_langinfo getpreferredencoding getencoding strcoll",
            "locale. strxfrm currency atof str format_string",
            "platform. node uname platform machine processor",
            "getpass. getuser getpass",
        ),
    ),
    (
        STATE,
        names(
            "os. putenv unsetenv chdir fchdir umask",
            "locale. setlocale",
            "sys. setrecursionlimit settrace setprofile setswitchinterval set_int_max_str_digits addaudithook",
            "gc. disable enable freeze set_threshold set_debug",
            "signal. signal alarm setitimer",
            "atexit. register unregister",
            "decimal. setcontext",
            "numpy. set_printoptions seterr seterrcall setbufsize",
            "pandas. set_option",
        ),
    ),
)

_WHOLE = _table(
    (PROCESS, names("subprocess", "multiprocessing. Process Pool", "concurrent.futures. ProcessPoolExecutor")),
    (NETWORK, names("socket ssl urllib.request http.client ftplib smtplib requests httpx aiohttp urllib3 zmq")),
    (RANDOM, names("secrets numpy.random")),
    (FILES, names("tempfile shutil glob fileinput")),
)
"""Modules and classes of which everything that is called does this, but for what `_HARMLESS` has."""

_HARMLESS = frozenset(
    names(
        "socket. inet_aton inet_ntoa inet_pton inet_ntop htons htonl ntohs ntohl",
        "subprocess. list2cmdline CalledProcessError TimeoutExpired SubprocessError",
        "secrets. compare_digest",
        "glob. escape translate",
        "shutil. Error SameFileError",
        "numpy.random. Generator BitGenerator",
    )
)

SEEDED = frozenset(
    names(
        "random. Random",
        "_random. Random",
        "numpy.random. default_rng RandomState SeedSequence PCG64 PCG64DXSM MT19937 Philox SFC64",
    )
)
"""Generators of random numbers: fit if they are made of a seed."""

_READS = _table(
    (Effect("environment", "reads the environment"), names("os. environ environb")),
    (ENVIRONMENT, names("sys. argv path executable orig_argv")),
    (INPUT, names("sys. stdin")),
    (RANDOM, names("numpy.random.mtrand. _rand")),
)

_METHODS = _table(
    (FILES, names("read_text write_text read_bytes write_bytes iterdir rglob is_file is_dir symlink_to hardlink_to")),
    (FILES, names("tofile to_csv to_excel to_parquet to_hdf to_sql to_feather savefig")),
)


def is_generator(name: str) -> bool:
    """Whether calls of ``name`` make generators of random numbers."""
    return name in SEEDED or name == "random.SystemRandom"


def of_call(name: str) -> Effect | None:
    """What a call of ``name``, a full dotted name or that of a built-in function, does."""
    found = _CALLS.get(name)
    if found is not None or name in _HARMLESS or name in SEEDED:
        return found
    if name.startswith("pandas.read_"):
        return FILES
    while name:
        if name in _WHOLE:
            return _WHOLE[name]
        name = name.rpartition(".")[0]
    return None


def of_name(name: str) -> Effect | None:
    """What a function of this very name does, whatever its source says: it may call what has none."""
    return _CALLS.get(name)


def of_read(name: str) -> Effect | None:
    """What it means to look at the value of ``name``."""
    return _READS.get(name)


def of_reference(name: str) -> Effect | None:
    """What it means to hand on ``name`` without calling it, as with ``key=random.random``."""
    found = _CALLS.get(name)
    if found is None and name.startswith("numpy.random.") and name.rpartition(".")[2].islower():
        found = of_call(name)
    return found if found in (CLOCK, RANDOM) else None


def of_method(name: str) -> Effect | None:
    """What a method of this name does, whatever it is a method of."""
    return _METHODS.get(name)


# Changes in place --------------------------------------------------------------------------------

CHANGES_SILENTLY = frozenset(
    names(
        "append extend insert remove clear sort reverse update add discard appendleft extendleft rotate move_to_end",
        "intersection_update difference_update symmetric_difference_update frombytes fromlist writelines",
        "__setitem__ __delitem__ __setattr__",
        "fill put itemset setflags setfield sort_indices sum_duplicates eliminate_zeros",
        "add_node add_edge add_nodes_from add_edges_from add_weighted_edges_from",
        "remove_node remove_edge remove_nodes_from remove_edges_from",
    )
)
"""Methods that change their object and give nothing back.  Where the result of such a call is used,
it is another method of that name, which gives a new object."""

CHANGES = frozenset(names("pop popitem popleft setdefault write truncate"))
"""Methods that change their object and give something back."""

PUTS = frozenset(names("append appendleft insert add"))
"""Of these, those that keep the object that they are given."""

CHANGED_ARGUMENT = {
    **dict.fromkeys(
        names(
            "setattr delattr",
            "heapq. heappush heappop heapify heapreplace heappushpop",
            "bisect. insort insort_left insort_right",
            "operator. setitem delitem iadd iconcat imul isub ior iand",
            "numpy. copyto put place putmask fill_diagonal put_along_axis",
            "random. shuffle",
            "numpy.random. shuffle",
        ),
        0,
    ),
    "struct.pack_into": 1,
}
"""The place of the argument that a function of another package changes."""
CHANGED_BY_METHOD = {"shuffle": 0}
"""The same for methods of whatever object: generators shuffle in place."""

# What a result shares with what it is made of ----------------------------------------------------

OUTPUTS = frozenset(names("out output"))
"""What parameters are called that a function writes its result to."""

SAME = frozenset(
    names(
        "vars typing.cast",
        "numpy. asarray asanyarray atleast_1d atleast_2d atleast_3d reshape ravel squeeze transpose swapaxes moveaxis",
        "numpy. rollaxis expand_dims broadcast_to flip fliplr flipud rot90 ascontiguousarray asfortranarray require",
        "numpy. diagonal real imag",
    )
)
"""Functions whose result may be their first argument, or a view of it."""
SAME_METHODS = frozenset(names("reshape ravel view transpose squeeze swapaxes diagonal"))
"""Methods whose result may be a view of their object."""
INSIDE = frozenset(
    names(
        "list tuple sorted set frozenset dict reversed enumerate zip filter iter next min max getattr copy.copy",
        "itertools. chain chain.from_iterable islice cycle product combinations permutations zip_longest tee groupby",
        "itertools. takewhile dropwhile",
        "collections. deque OrderedDict ChainMap",
    )
)
"""Functions whose result is new, but has in it what was in the arguments."""
INSIDE_METHODS = frozenset(names("get values items pop popleft setdefault popitem copy"))
"""The same for methods."""
NEW_ATTRIBUTES = frozenset(names("shape size ndim dtype flags nbytes strides itemsize __name__ __class__ __doc__"))
"""Attributes that give something that cannot be changed in place."""
ARRAY_ATTRIBUTES = frozenset(names("shape ndim dtype T astype ravel flat reshape append extend"))
"""Who asks a value for these takes it for one that can be changed in place."""
SELECTS = frozenset(
    names(
        "numpy. where nonzero flatnonzero argsort argwhere isnan isfinite isinf logical_and logical_or logical_not",
        "numpy. isin unique ix_ argpartition lexsort",
    )
)
"""Functions whose results are masks or lists of places: indexing with them copies."""
