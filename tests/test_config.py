"""Configuration: where it comes from, and what a wrong one says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from relocate import config
from relocate.config import Config, designates, load, misspelt, ranks
from relocate.errors import ConfigError

CHECKS = (config.ENV_VERIFY, config.ENV_TOLERANCE)
MORE = (config.ENV_FALLBACK, config.ENV_KEYS, config.ENV_SUMMARY)


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder and an environment that configure nothing."""
    for name in (config.ENV_CONFIG, config.ENV_MODULES, config.ENV_WORKERS, config.ENV_REPORT, *CHECKS, *MORE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_nothing_configured_gives_the_defaults() -> None:
    assert load() == Config()
    assert (Config().workers, Config().fallback, Config().depth) == ("local", True, 1)


def test_a_file_is_found_upward_and_read(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (empty / "relocate.toml").write_text('modules = ["a.b", "!a.b.c"]\nworkers = "tcp://desk:7000"\n')
    (empty / "deep/down").mkdir(parents=True)
    monkeypatch.chdir(empty / "deep/down")
    assert load() == Config(modules=("a.b", "!a.b.c"), workers="tcp://desk:7000")


def test_a_table_in_pyproject_counts_and_a_pyproject_without_one_does_not(
    empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (empty / "pyproject.toml").write_text("[tool.relocate]\ndepth = 3\n")
    (empty / "inner").mkdir()
    (empty / "inner/pyproject.toml").write_text("[project]\nname = 'x'\n")
    monkeypatch.chdir(empty / "inner")
    assert load() == Config(depth=3)


def test_folders_in_a_file_are_relative_to_the_file(empty: Path) -> None:
    (empty / "conf").mkdir()
    (empty / "conf/my.toml").write_text('cache = "cached"\nkeys = "/etc/keys"\n')
    found = load(empty / "conf/my.toml")
    assert (found.cache, found.keys, found.report) == (str(empty / "conf/cached"), "/etc/keys", "")


def test_environment_overrides_the_file_and_arguments_the_environment(
    empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (empty / "other.toml").write_text('modules = ["f"]\nworkers = "1"\ndepth = 2\n')
    monkeypatch.setenv(config.ENV_CONFIG, str(empty / "other.toml"))
    assert load() == Config(modules=("f",), workers="1", depth=2)
    monkeypatch.setenv(config.ENV_MODULES, "e, e.x ,")
    monkeypatch.setenv(config.ENV_WORKERS, "2")
    monkeypatch.setenv(config.ENV_REPORT, "out.json")
    assert load() == Config(modules=("e", "e.x"), workers="2", depth=2, report="out.json")
    monkeypatch.setenv(config.ENV_VERIFY, "0.5")
    monkeypatch.setenv(config.ENV_TOLERANCE, "1e-9")
    assert load(verify=0.25).verify == 0.25
    assert (load().verify, load().tolerance) == (0.5, 1e-9)
    for name in CHECKS:
        monkeypatch.delenv(name)
    assert load(modules=["g"], workers=3) == Config(modules=("g",), workers="3", depth=2, report="out.json")


def test_a_named_source_ignores_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(config.ENV_WORKERS, "2")
    assert load({"modules": "a,b"}) == Config(modules=("a", "b"))
    assert load(Config(depth=5), patience=1) == Config(depth=5, patience=1.0)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"module": ["a"]}, "unknown key 'module'; did you mean 'modules'?"),
        ({"zzz": 1}, "unknown key 'zzz'; valid keys: modules, methods,"),
        ({"depth": "two"}, "depth: expected `int`, got `str`"),
        ({"depth": True}, "depth: expected `int`, got `bool`"),
        ({"depth": 0}, "depth: must be at least 1"),
        ({"fallback": "yes"}, "fallback: expected `bool`, got `str`"),
        ({"modules": 3}, "modules: expected a list, got `int`"),
        ({"modules": ["a", 3]}, "modules: expected `str`, got `int`"),
        ({"modules": ["a-b"]}, "modules: 'a-b' is not a module's dotted name"),
        ({"modules": ["a..b"]}, "modules: 'a..b' is not a module's dotted name"),
        ({"modules": ["!"]}, "modules: '!' is not a module's dotted name"),
        ({"modules": ["sys"]}, "modules: 'sys' cannot be relocated"),
        ({"modules": ["relocate.wire"]}, "modules: 'relocate.wire' cannot be relocated"),
        ({"patience": 0}, "patience: must be a number of seconds, more than 0"),
        ({"heartbeat": -1}, "heartbeat: must be a number of seconds, more than 0"),
        ({"verify": 1.5}, "verify: must be a share of the calls, from 0 to 1"),
        ({"tolerance": -1}, "tolerance: must be a fraction"),
        ({"modules": ["a", "!a"]}, "modules: 'a' is both designated and taken out"),
        ({"workers": ""}, "workers: empty; write 'local'"),
        ({"workers": "desk:7000"}, "'desk:7000' is not a worker's address; write tcp://host:port"),
    ],
)
def test_a_wrong_value_names_its_key_and_the_remedy(given: dict[str, Any], says: str) -> None:
    for attempt in (lambda: load(given), lambda: load({}, **given)):
        with pytest.raises(ConfigError) as caught:
            attempt()
        assert says in str(caught.value)


@pytest.mark.parametrize("name", CHECKS)
def test_a_number_in_the_environment_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "some")
    with pytest.raises(ConfigError, match=f"{name}: 'some' is not a number"):
        load()


def test_a_mistake_is_laid_at_the_door_of_whoever_made_it(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (empty / "relocate.toml").write_text("modules = ['a']\ndepth = 0\n")
    monkeypatch.setenv(config.ENV_MODULES, "a-b")
    for given, says in (
        ({"modules": ["c"], "depth": 1, "workers": 1.5}, "the arguments: workers: expected"),
        ({"modules": ["c"], "depth": 1, "workers": "x"}, "the arguments: workers: 'x' is not a worker's address"),
        ({"modules": ["c"]}, f"{empty / 'relocate.toml'}: depth: must be"),
        ({"depth": 1}, "RELOCATE_MODULES in the environment: modules: 'a-b' is not"),
    ):
        with pytest.raises(ConfigError) as caught:
            load(**given)
        assert str(caught.value).startswith(says)


def test_fallback_and_keys_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(config.ENV_FALLBACK, "0")
    monkeypatch.setenv(config.ENV_KEYS, "/keys")
    assert (load().fallback, load().keys) == (False, "/keys")
    monkeypatch.setenv(config.ENV_FALLBACK, "no")
    with pytest.raises(ConfigError, match="RELOCATE_FALLBACK: 'no' is neither 0 nor 1"):
        load()


def test_workers_may_be_a_list_of_numbers_and_addresses() -> None:
    assert load(workers=[1, "tcp://a:1"]).workers == "1,tcp://a:1"


def test_a_table_that_is_none_is_named(empty: Path) -> None:
    (empty / "pyproject.toml").write_text("[tool]\nrelocate = 3\n")
    with pytest.raises(ConfigError, match=r"pyproject\.toml: tool\.relocate is not a table"):
        load("pyproject.toml")


def test_a_wrong_file_is_named(empty: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml: no such file"):
        load("missing.toml")
    (empty / "bad.toml").write_text("modules = [")
    with pytest.raises(ConfigError, match=r"bad\.toml: cannot be read as TOML"):
        load("bad.toml")
    (empty / "typo.toml").write_text("worker = '2'")
    with pytest.raises(ConfigError, match=r"typo\.toml: unknown key 'worker'; did you mean 'workers'\?"):
        load("typo.toml")
    (empty / "table.toml").write_text("[tool.relocate]\nmodules = ['a']")
    with pytest.raises(ConfigError, match=r"\[tool\.relocate\] is for pyproject\.toml; write the keys of table\.toml"):
        load("table.toml")


def test_a_variable_that_resembles_one_of_ours_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELOCATE_WORKERS", "2")
    monkeypatch.setenv("RELOCATE_OFFICE", "yes")
    assert list(misspelt()) == []
    monkeypatch.setenv("RELOCATE_WORKER", "2")
    (said,) = misspelt()
    assert "did you mean RELOCATE_WORKERS?" in said


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a", True), ("a.x", True), ("a.b", False), ("a.b.x", False), ("a.b.c", True), ("a.b.c.d", True),
        ("ab", False), ("b", False), ("a.bc", True),
        ("a.tests.x", False), ("a.test_x", False), ("a.conftest", False), ("a.testing", True), ("a.contest", True),
    ],
)  # fmt: skip
def test_the_longest_entry_decides_and_names_match_on_the_dot(name: str, expected: bool) -> None:
    for modules in (("a", "!a.b", "a.b.c"), ("a.b.c", "!a.b", "a")):
        assert designates(modules, name) is expected


@pytest.mark.parametrize(
    ("workers", "expected"),
    [
        ("local:4", (("local:4",),)),
        ("4", (("local:4",),)),
        (" tcp://a:1, tcp://b:2 ;; 2", (("tcp://a:1", "tcp://b:2"), ("local:2",))),
        ("ipc:///run/w;tcp://[::1]:7000", (("ipc:///run/w",), ("tcp://[::1]:7000",))),
    ],
)
def test_workers_are_ranks_of_addresses(workers: str, expected: config.Ranks) -> None:
    assert ranks(workers) == expected


def test_local_without_a_number_is_as_many_as_cores() -> None:
    assert ranks("local") == ((f"local:{config.cores()}",),)


@pytest.mark.parametrize(
    ("workers", "says"),
    [
        ("0", "'0': at least one executor is needed"),
        ("local:0", "'local:0': at least one executor is needed"),
        ("1025", "'1025': a worker has at most 1024 executors"),
        ("local:x", "'local:x' is not a worker's address"),
        ("tcp://a", "'tcp://a' is not a worker's address"),
        ("tcp://a:70000", "'tcp://a:70000': a port is a number of at most 65535"),
        ("http://a:1", "'http://a:1' is not a worker's address"),
        ("ipc://@name", "'ipc://@name': a Unix socket needs an absolute path; write ipc:///path"),
        ("ipc://run/w", "a Unix socket needs an absolute path"),
        ("ipc://", "a Unix socket needs an absolute path"),
        ("ipc:///" + 93 * "x", "may have at most 93 bytes"),
        ("ipc:///run/a\0b", "characters that cannot be shown"),
        ("tcp://a:1;tcp://a:1", "'tcp://a:1' is named twice"),
        ("2,local:3", "executors on this machine are asked for twice (local:2, local:3)"),
        ("local:1,local:1", "executors on this machine are asked for twice (local:1, local:1)"),
        (" ; ", "empty; write 'local'"),
    ],
)
def test_wrong_workers_are_named(workers: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ranks(workers)
    assert says in str(caught.value)


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Config().depth = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"queue": -2}, "queue: must be a number of calls for each executor, 0 or more; or -1, then all wait"),
        ({"deadlines": {"scipy.ndimage": 0}}, "deadlines: scipy.ndimage: must be a number of seconds, more than 0"),
        ({"deadlines": {"scipy ndimage": 1}}, "deadlines: 'scipy ndimage' is not the dotted name of a function"),
        ({"placement": "elsewhere"}, "placement: 'elsewhere' is none of remote, auto, local"),
        ({"deadlines": [1]}, "deadlines: expected a table, got a list"),
    ],
)
def test_what_is_wrong_about_lines_deadlines_and_placement_is_named(given: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({"modules": ["shop"], **given})
    assert said in str(caught.value)


def test_placement_can_be_set_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELOCATE_PLACEMENT", "auto")
    assert load().placement == "auto"
