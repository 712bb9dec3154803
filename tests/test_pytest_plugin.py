"""The pytest plugin, as somebody's test suite meets it: each of these tests runs pytest on one."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from types import ModuleType

import psutil
import pytest
from conftest import WAIT, alive, until

from relocate.tally import Tally
from relocate.testing.workers import Workers

SHOP = '''
    """A module to relocate."""

    import os
    import time


    def pid():
        """Where it runs."""
        return os.getpid()


    def price(n):
        return n * 3


    def show(text):
        print(text)


    def wait(seconds):
        time.sleep(seconds)
        return os.getpid()


    async def later():
        return 1


    def kind(value):
        return type(value).__name__
'''

ELSEWHERE = """
    import os
    import shop

    def test_elsewhere():
        assert shop.pid() != os.getpid()
"""

HERE = """
    import os
    import shop

    def test_here():
        assert shop.pid() == os.getpid()
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A folder with a module and nothing else in it, and nothing of this machine's configuration."""
    for name in list(os.environ):
        if name.startswith(("RELOCATE_", "XDG_", "PYTEST_XDIST")):
            monkeypatch.delenv(name)
    pytester.makepyfile(shop=SHOP)
    return pytester


def run(suite: pytest.Pytester, *arguments: str, **outcomes: int) -> str:
    """Run pytest in a process of its own; what it prints, if the outcomes are these."""
    done = suite.runpytest_subprocess("-p", "no:cacheprovider", *arguments, timeout=100)
    done.assert_outcomes(**outcomes)
    return done.stdout.str()


def summary(printed: str) -> str:
    """The line about relocation."""
    [line] = [line for line in printed.splitlines() if line.startswith("relocate: ")]
    return line


# A whole run ---------------------------------------------------------------------------------------


def test_a_run_that_asks_for_nothing_loads_nothing(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import sys

        def test_loaded():
            assert "relocate.pytest_plugin" in sys.modules
            assert {"zmq", "msgspec", "cloudpickle", "relocate.handle"} & set(sys.modules) == set()
        """
    )
    assert "relocate:" not in run(suite, passed=1)


def test_designated_modules_run_on_workers_from_before_conftest_files_on(suite: pytest.Pytester) -> None:
    suite.makeconftest("import os, shop\nEARLY = shop.pid()\nassert EARLY != os.getpid()\n")
    suite.makepyfile(ELSEWHERE)
    printed = run(suite, "--relocate", "shop", "--relocate-workers", "1", passed=1)
    assert summary(printed).startswith("relocate: 2 calls: 2 on workers (1 executor), 0 here; 0 retried; ")
    assert summary(printed).endswith(" in")


def test_modules_that_pytest_has_loaded_already_are_exchanged(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import textwrap
        from textwrap import dedent

        def test_exchanged():
            assert type(textwrap).__name__ == "ProxyModule"
            assert dedent("  a") == "a"
        """
    )
    printed = run(suite, "--relocate", "textwrap", "--relocate-workers", "1", passed=1)
    assert ", 0 here" in summary(printed)


def test_what_a_relocated_function_prints_is_captured_with_the_test(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        "import shop\n\ndef test_show(capsys):\n    shop.show('hi')\n    assert capsys.readouterr().out == 'hi\\n'\n"
    )
    run(suite, "--relocate", "shop", "--relocate-workers", "1", passed=1)


def test_the_configuration_file_asks_for_it_and_the_command_line_wins(suite: pytest.Pytester) -> None:
    suite.makepyprojecttoml('[tool.pytest.ini_options]\nrelocate = ["shop"]\nrelocate_workers = "2"\n')
    suite.makepyfile(ELSEWHERE)
    assert "on workers" in summary(run(suite, passed=1))
    suite.makepyfile(HERE)
    run(suite, "--relocate", "colorsys", passed=1, failed=0)


def test_several_modules_and_workers_may_be_named(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import colorsys, statistics, shop

        def test_three():
            assert colorsys.rgb_to_hsv(1, 0, 0) == (0, 1, 1)
            assert statistics.mean([1, 2, 3]) == 2
            assert shop.price(2) == 6
        """
    )
    printed = run(suite, "--relocate", "shop,colorsys", "--relocate", "statistics", "--relocate-workers", "1", passed=1)
    assert summary(printed).startswith("relocate: 3 calls: 3 on workers")


def test_a_mistake_is_one_line_that_names_it(suite: pytest.Pytester) -> None:
    suite.makepyfile(HERE)
    for arguments, says in (
        (("--relocate", "no-name"), "not a module's dotted name"),
        (
            ("--relocate", "shop", "--relocate-workers", "desk:7000"),
            "relocate: --relocate-workers: 'desk:7000' is not a worker's address",
        ),
    ):
        done = suite.runpytest_subprocess(*arguments)
        assert done.ret == pytest.ExitCode.USAGE_ERROR
        assert says in done.stderr.str()
        assert "Traceback" not in done.stderr.str()


def test_tests_within_a_designated_package_stay_here(suite: pytest.Pytester) -> None:
    for name, text in {
        "pack/__init__.py": "",
        "pack/core.py": SHOP,
        "pack/tests/__init__.py": "",
        "pack/tests/common.py": "import os\ndef pid(): return os.getpid()\n",
        "pack/tests/conftest.py": "import os, pytest\n@pytest.fixture\ndef mine(): return os.getpid()\n",
        "pack/tests/test_core.py": """
            import os
            import pytest
            from pack import core
            from pack.tests import common

            @pytest.mark.parametrize("n", [1, 2])
            def test_core(n, mine):
                assert core.pid() != os.getpid() == mine == common.pid()
        """,
        "pack/test_beside.py": "import os\nfrom . import core\ndef test_it():\n    assert core.pid() != os.getpid()\n",
    }.items():
        path = suite.path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(textwrap.dedent(text), "utf-8")
    run(suite, "--relocate", "pack", "--relocate-workers", "1", passed=3)


def test_folders_that_pytest_adds_to_the_path_later_are_found_by_the_workers(suite: pytest.Pytester) -> None:
    for name in ("a", "b"):
        (suite.path / name).mkdir()
        (suite.path / name / f"shop_{name}.py").write_text("import os\ndef pid(): return os.getpid()\n")
        text = f"import os, shop_{name}\ndef test_it(): assert shop_{name}.pid() != os.getpid()\n"
        (suite.path / name / f"test_{name}.py").write_text(text)
    run(suite, "--relocate", "shop_a,shop_b", "--relocate-workers", "1", passed=2)


def test_pytest_does_not_warn_that_relocate_was_loaded_before(suite: pytest.Pytester) -> None:
    suite.makepyfile(HERE)
    program = "import relocate, pytest, sys; sys.exit(pytest.main(['-W', 'error', '-p', 'no:cacheprovider']))"
    done = suite.run(sys.executable, "-c", program)
    done.assert_outcomes(passed=1)


def test_the_run_ends_its_executors(suite: pytest.Pytester) -> None:
    suite.makepyfile("import shop\n\ndef test_pid():\n    open('pid', 'w').write(str(shop.pid()))\n")
    run(suite, "--relocate", "shop", "--relocate-workers", "1", passed=1)
    assert not psutil.pid_exists(int((suite.path / "pid").read_text()))


@pytest.mark.skipif(importlib.util.find_spec("test.test_colorsys") is None, reason="Python's own tests are not here")
def test_pythons_own_tests_pass_with_their_module_relocated(suite: pytest.Pytester) -> None:
    arguments = ("--pyargs", "test.test_colorsys", "--relocate", "colorsys", "--relocate-workers", "2")
    printed = run(suite, *arguments, "--relocate-strict", passed=7)
    assert ", 0 here" in summary(printed)


# With pytest-xdist ---------------------------------------------------------------------------------

xdist = pytest.mark.skipif(importlib.util.find_spec("xdist") is None, reason="pytest-xdist is not here")


@xdist
def test_with_xdist_each_process_relocates_and_the_controller_sums_up(suite: pytest.Pytester) -> None:
    suite.makeconftest(
        """
        import os, sys

        def pytest_sessionfinish(session):
            if not hasattr(session.config, "workerinput"):
                assert "zmq" not in sys.modules  # the controller runs no test and relocates nothing
        """
    )
    suite.makepyfile(
        """
        import os, pytest, shop

        @pytest.mark.parametrize("n", range(6))
        def test_elsewhere(n):
            assert shop.pid() != os.getpid()
        """
    )
    printed = run(suite, "-n", "2", "--relocate", "shop", "--relocate-workers", "1", passed=6)
    assert summary(printed).startswith("relocate: 6 calls: 6 on workers (2 executors), 0 here; 0 retried; ")


@xdist
def test_with_xdist_the_cores_are_divided(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import relocate, shop

        def test_workers():
            assert relocate.active().config.workers == "local:1"
        """
    )
    count = len(os.sched_getaffinity(0))
    run(suite, "-n", str(count), "--relocate", "shop", passed=1)


# One test ------------------------------------------------------------------------------------------


def test_a_marked_test_is_relocated_and_its_neighbours_are_not(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import os, pytest, shop

        @pytest.fixture
        def there():
            yield shop.pid()
            assert shop.pid() != os.getpid()

        def test_before():
            assert shop.pid() == os.getpid()

        @pytest.mark.relocate("shop", workers=1)
        def test_marked(there):
            assert shop.pid() == there != os.getpid()

        def test_after():
            assert shop.pid() == os.getpid()

        @pytest.mark.relocate(modules=["shop"], workers=1, fallback=False)
        class TestMarked:
            def test_marked(self):
                assert shop.pid() != os.getpid()
        """
    )
    assert summary(run(suite, "--strict-markers", passed=4)).startswith("relocate: 4 calls: 4 on workers (1 executor)")


def test_marked_tests_share_executors(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import pytest, shop

        seen = []

        @pytest.mark.parametrize("n", range(3))
        @pytest.mark.relocate("shop", workers=1)
        def test_marked(n):
            seen.append(shop.pid())
            assert len(set(seen)) == 1
            open("pid", "w").write(str(shop.pid()))
        """
    )
    run(suite, passed=3)
    assert not psutil.pid_exists(int((suite.path / "pid").read_text()))


def test_a_mistake_in_a_mark_fails_its_test_only(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import os, pytest, shop

        @pytest.mark.relocate("shop", workers="desk:7000")
        def test_address(): pass

        @pytest.mark.relocate(workers=1)
        def test_module(): pass

        @pytest.mark.relocate("shop", worker=1)
        def test_key(): pass

        def test_right(): pass
        """
    )
    printed = run(suite, errors=3, passed=1)
    assert "@pytest.mark.relocate: " in printed
    for says in ("'desk:7000' is not a worker's address", "no module is named", "did you mean 'workers'?"):
        assert says in printed


def test_a_mark_for_what_the_whole_run_has_relocated_changes_nothing(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import os, pytest, shop

        @pytest.mark.relocate("shop")
        def test_same():
            assert shop.pid() != os.getpid()

        @pytest.mark.relocate("shop", workers=2)
        def test_other(): pass

        def test_still():
            assert shop.pid() != os.getpid()
        """
    )
    printed = run(suite, "--relocate", "shop", "--relocate-workers", "1", passed=2, errors=1)
    assert "shop: the whole run has some of that relocated, in its own way" in printed


# Strict --------------------------------------------------------------------------------------------

STRICT = """
    import asyncio, threading, pytest, shop

    def test_there():
        assert shop.price(1) == 3
        assert asyncio.run(shop.later()) == 1

    def test_here():
        assert shop.kind(threading.Lock()) == "lock"

    @pytest.fixture
    def late():
        yield
        shop.kind(threading.Lock())

    def test_fixture(late): pass

    def test_own():
        shop.kind(threading.Lock())
        raise KeyError("its own failure")
"""


def test_strict_fails_tests_whose_calls_ran_here_and_names_the_functions(suite: pytest.Pytester) -> None:
    suite.makepyfile(STRICT)
    arguments = ("--relocate", "shop", "--relocate-workers", "1")
    run(suite, *arguments, passed=3, failed=1)
    printed = run(suite, *arguments, "--relocate-strict", passed=2, failed=2, errors=1)
    assert "ran here and not on a worker: shop.kind (1x)" in printed
    assert "its own failure" in printed
    suite.makeini("[pytest]\nrelocate_strict = true\n")
    run(suite, *arguments, passed=2, failed=2, errors=1)


@pytest.mark.parametrize("processes", [(), ("-n", "2")])
def test_strict_fails_a_run_in_which_nothing_was_relocated(suite: pytest.Pytester, processes: tuple[str, ...]) -> None:
    suite.makepyfile(test_one=HERE, test_two=HERE, test_three="def test_three(): pass")
    arguments = ("--relocate", "shop", "--relocate-workers", "tcp://127.0.0.1:1", *processes)
    assert "; not relocated: shop" in summary(run(suite, *arguments, passed=3))
    done = suite.runpytest_subprocess("-p", "no:cacheprovider", *arguments, "--relocate-strict", timeout=100)
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    done.stdout.fnmatch_lines("ERROR --relocate-strict: shop is not relocated: nobody answers at tcp://127.0.0.1:1*")


@pytest.mark.parametrize("processes", [(), ("-n", "2")])
def test_strict_fails_a_run_with_a_misspelt_module(suite: pytest.Pytester, processes: tuple[str, ...]) -> None:
    suite.makepyfile(test_one=HERE, test_two="def test_two(): pass")
    arguments = ("--relocate", "shpo", "--relocate-workers", "1", *processes, "--relocate-strict")
    done = suite.runpytest_subprocess("-p", "no:cacheprovider", *arguments, timeout=100)
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    done.stdout.fnmatch_lines("ERROR --relocate-strict: there is no module or class 'shpo' here; did you mean shop?")


def test_strict_passes_a_run_that_uses_only_some_of_what_is_designated(suite: pytest.Pytester) -> None:
    suite.makepyfile(ELSEWHERE, other="def f(): pass")
    arguments = ("--relocate", "shop", "--relocate", "other", "--relocate-workers", "1", "--relocate-strict")
    done = suite.runpytest_subprocess("-p", "no:cacheprovider", *arguments, timeout=100)
    assert done.ret == pytest.ExitCode.OK


def test_strict_fails_a_marked_test_whose_module_was_not_relocated(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import pytest, shop

        @pytest.mark.relocate("shop", workers="tcp://127.0.0.1:1")
        def test_nobody():
            import shop

        @pytest.mark.relocate("shpo", workers=1)
        def test_misspelt(): pass
        """
    )
    printed = run(suite, "--relocate-strict", passed=2, errors=2)
    assert "shop is not relocated: nobody answers at tcp://127.0.0.1:1" in printed
    assert "there is no module or class 'shpo' here; did you mean shop?" in printed


def test_the_summary_is_readable() -> None:
    tally = Tally()
    assert not tally.used
    counts = {"calls": 1234, "remote": 1229, "local": 4, "failed": 1, "retried": 2}
    tally.add_data({**counts, "bytes_out": 1_234_567, "bytes_in": 999, "executors": ["embedded/0", "desk/0"]}, "gw0")
    tally.add_data({"executors": ["embedded/0", "desk/0"]}, "gw1")
    assert str(tally) == (
        "relocate: 1,234 calls: 1,229 on workers (3 executors), 4 here; 1 failed; 2 retried; 1.2 MB out, 999 B in"
    )


# Tests that run on workers -------------------------------------------------------------------------

DIST = ("--relocate-dist", "--relocate-workers", "1")


def test_tests_that_run_on_workers_are_reported_as_if_they_ran_here(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import os, sys, time, warnings, pytest

        def test_elsewhere():
            assert os.environ["RELOCATE_EXECUTOR"]

        def test_fails():
            print("printed")
            print("and this", file=sys.stderr)
            left = 1
            assert left == 2

        def test_warns():
            warnings.warn("beware")

        @pytest.mark.skip(reason="no")
        def test_skipped(): pass

        @pytest.mark.xfail
        def test_xfails(): assert 0

        @pytest.fixture
        def broken():
            yield
            raise OSError("at the end")

        def test_teardown(broken): pass

        def test_takes_its_time(record_property, tmp_path):
            record_property("answer", 42)
            time.sleep(0.2)
        """
    )
    arguments = ("--durations=1", "--junitxml=report.xml")
    there = run(suite, *DIST, *arguments, passed=4, failed=1, skipped=1, xfailed=1, errors=1, warnings=1)
    report = (suite.path / "report.xml").read_text()
    assert summary(there) == "relocate: 7 tests on 1 executor"
    for said in ("assert 1 == 2", "printed", "and this", "OSError: at the end", "UserWarning: beware", "0.2"):
        assert said in there
    assert '<property name="answer" value="42"' in report
    suite.path.joinpath("report.xml").unlink()


def test_warnings_and_log_records_of_tests_on_workers_are_those_of_tests_here(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import logging, warnings

        def test_quiet():
            for _ in range(3):
                warnings.warn("seen")
            warnings.warn("not seen", ImportWarning)
            logging.warning("kept with the test")

        def test_loud():
            logging.warning("shown with the test")
            assert 0
        """
    )
    counts = []
    for arguments in ((), DIST):
        done = suite.runpytest_subprocess("-p", "no:cacheprovider", *arguments, timeout=100)
        done.assert_outcomes(passed=1, failed=1, warnings=1)
        printed = done.stdout.str() + done.stderr.str()
        assert "shown with the test" in printed
        assert "kept with the test" not in printed
        counts.append(printed.count("UserWarning: seen"))
    assert counts[0] == counts[1] > 0


def test_fixtures_are_set_up_once_for_each_group_on_workers(suite: pytest.Pytester) -> None:
    suite.makeconftest(
        """
        import os, pytest

        def note(text):
            with open(os.environ["NOTES"], "a") as file:
                file.write(text + "\\n")

        @pytest.fixture(scope="session")
        def whole():
            note("session")
            yield
            note("session ends")

        @pytest.fixture(scope="module")
        def part(whole):
            note("module")
            yield
            note("module ends")
        """
    )
    for name in ("a", "b"):
        suite.makepyfile(**{f"test_{name}": "def test_1(part): pass\ndef test_2(part): pass\n"})
    notes = suite.path / "notes"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NOTES", str(notes))
        run(suite, *DIST, passed=4)
    assert notes.read_text().split("\n")[:-1] == ["session", *["module", "module ends"] * 2, "session ends"]


def test_an_error_at_the_end_of_the_session_is_told_too(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="session")
        def whole():
            yield
            raise OSError("at the very end")

        def test_1(whole): pass
        """
    )
    assert "at the very end" in run(suite, *DIST, passed=1, errors=1)


def test_tests_that_pytest_calls_the_same_are_told_apart(suite: pytest.Pytester) -> None:
    # As for files outside of its root folder: their node ids have no file in them.
    (suite.path / "root").mkdir()
    (suite.path / "root" / "pytest.ini").write_text("[pytest]\n")
    suite.makepyfile(test_a="def test_it(): pass\n", test_b="def test_it(): assert 0, 'the other'\n")
    arguments = ("--rootdir=root", "-c", "root/pytest.ini", "test_a.py", "test_b.py", "--keep-duplicates", "test_a.py")
    assert "the other" in run(suite, *DIST, *arguments, passed=2, failed=1)


def test_files_run_at_the_same_time_on_several_executors(suite: pytest.Pytester) -> None:
    wait = """
        import pathlib, time

        def test_meets_the_other():
            pathlib.Path("{mine}").touch()
            while not pathlib.Path("{other}").exists():
                time.sleep(0.01)
    """
    suite.makepyfile(test_a=wait.format(mine="a", other="b"), test_b=wait.format(mine="b", other="a"))
    printed = run(suite, "--relocate-dist", "--relocate-workers", "2", passed=2)
    assert summary(printed) == "relocate: 2 tests on 2 executors"


def test_a_test_that_ends_its_executor_has_failed_and_the_others_go_on(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import os

        def test_before(): pass
        def test_leaves(): os._exit(3)
        def test_between(): pass
        def test_killed(): os.kill(os.getpid(), 9)
        def test_after(): pass
        """
    )
    printed = run(suite, *DIST, passed=3, failed=2)
    assert "the executor embedded/0 exited with status 3 while it ran this test" in printed
    assert "the executor embedded/0 died of SIGKILL while it ran this test" in printed


def test_a_test_whose_executor_was_killed_from_outside_runs_again(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import os, pathlib

        def test_unlucky():
            if not pathlib.Path("killed").exists():
                pathlib.Path("killed").touch()
                os.kill(os.getpid(), 9)
        """
    )
    run(suite, *DIST, passed=1)


def test_the_first_failure_ends_the_run_if_that_is_asked_for(suite: pytest.Pytester) -> None:
    suite.makepyfile("def test_1(): pass\ndef test_2(): assert 0\ndef test_3(): pass\n")
    assert "stopping after 1 failures" in run(suite, *DIST, "-x", passed=1, failed=1)


def test_what_cannot_be_collected_or_selects_tests_is_as_ever(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_a="def test_1(): pass\ndef test_2(): pass\n", test_b="import no_such_module\n")
    run(suite, *DIST, errors=1)
    run(suite, *DIST, "-k", "test_1", "--ignore=test_b.py", passed=1, deselected=1)
    run(suite, *DIST, "--continue-on-collection-errors", passed=2, errors=1)


def test_a_worker_that_cannot_collect_says_why(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import os
        if "RELOCATE_EXECUTOR" in os.environ:
            import no_such_module
        def test_1(): pass
        """
    )
    assert "No module named 'no_such_module'" in run(suite, *DIST, failed=1)
    suite.makeconftest("import os\nassert 'RELOCATE_EXECUTOR' not in os.environ, 'not there'\n")
    done = suite.runpytest_subprocess(*DIST, timeout=100)
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    assert "not there" in done.stderr.str()


@pytest.mark.parametrize("other", [("--relocate", "shop"), ("--pdb",), pytest.param(("-n", "2"), marks=xdist)])
def test_what_does_not_go_with_it_is_said(suite: pytest.Pytester, other: tuple[str, ...]) -> None:
    suite.makepyfile(HERE)
    done = suite.runpytest_subprocess(*DIST, *other)
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    assert "--relocate-dist runs the tests on workers and does not go with" in done.stderr.str()


def test_ctrl_c_ends_the_tests_on_workers_too(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import os, time

        def test_long():
            with open("draft", "w") as file:
                file.write(str(os.getpid()))
            os.rename("draft", "pid")
            time.sleep(60)
        """
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *DIST]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until((suite.path / "pid").exists, "the start of the test")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=WAIT)
    assert process.returncode == pytest.ExitCode.INTERRUPTED, out
    assert not psutil.pid_exists(int((suite.path / "pid").read_text()))


def test_an_edited_test_runs_anew_on_a_worker_that_stays(suite: pytest.Pytester, relocate_workers: Workers) -> None:
    worker = relocate_workers.start(ipc=True)
    arguments = ("--relocate-dist", "--relocate-workers", worker.url)
    suite.makepyfile(test_it="def test_it(): pass\n")
    run(suite, *arguments, passed=1)
    suite.makepyfile(test_it="def test_it(): assert 0, 'edited'\n")
    assert "edited" in run(suite, *arguments, failed=1)


# Fixtures ------------------------------------------------------------------------------------------


@pytest.fixture
def shop(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The module can be imported in this process too."""
    monkeypatch.syspath_prepend(suite.path)
    yield
    sys.modules.pop("shop", None)


def imported() -> ModuleType:
    """The module `shop`."""
    return importlib.import_module("shop")


@pytest.mark.usefixtures("shop")
def test_a_worker_that_is_killed_and_started_again_serves_again(relocate_workers: Workers) -> None:
    worker = relocate_workers.start(executors=1, modules=["shop"])
    relocate_workers.enable(modules=["shop"], fallback=False)
    shop = imported()
    first = shop.pid()
    assert [first] == worker.executor_pids()
    worker.restart()
    assert [shop.pid()] == worker.executor_pids() != [first]
    assert worker.stop() == 0
    worker.start()
    assert [shop.pid()] == worker.executor_pids()


@pytest.mark.usefixtures("shop")
def test_a_killed_executor_is_replaced(relocate_workers: Workers) -> None:
    worker = relocate_workers.start()
    handle = relocate_workers.enable(modules=["shop"], fallback=False)
    shop = imported()
    first = shop.pid()
    assert worker.kill_executor() == first
    assert shop.pid() != first
    assert handle.statistics().local == 0


@pytest.mark.usefixtures("shop")
def test_a_frozen_worker_is_left_for_another(relocate_workers: Workers) -> None:
    frozen, other = relocate_workers.start(), relocate_workers.start(ipc=True)
    relocate_workers.enable(modules=["shop"], workers=f"{frozen.url};{other.url}", fallback=False, heartbeat=0.3)
    shop = imported()
    assert [shop.pid()] == frozen.executor_pids()
    frozen.freeze()
    assert [shop.pid()] == other.executor_pids()
    frozen.thaw()


@pytest.mark.usefixtures("shop")
def test_a_worker_that_is_cut_off_comes_back(relocate_workers: Workers) -> None:
    worker = relocate_workers.start()
    handle = relocate_workers.enable(modules=["shop"], fallback=False, heartbeat=0.3)
    shop = imported()
    first = shop.pid()
    worker.cut_off()
    restoring = threading.Timer(1.0, worker.restore)
    restoring.start()
    assert shop.pid() == first  # the same process: it never knew
    restoring.join()
    assert handle.statistics().retried > 0


@pytest.mark.usefixtures("shop")
def test_a_slow_line_takes_its_time(relocate_workers: Workers) -> None:
    worker = relocate_workers.start()
    relocate_workers.enable(modules=["shop"], fallback=False)
    shop = imported()
    shop.price(1)
    for line, argument in (({"delay": 0.1}, 1), ({"bytes_per_second": 1_000_000}, b"x" * 100_000)):
        worker.slow_down(**line)
        began = time.monotonic()
        shop.price(argument)
        assert time.monotonic() - began >= 0.2
        worker.restore()


def test_everything_is_ended_and_nothing_is_left(suite: pytest.Pytester) -> None:
    me = psutil.Process()
    before = set(me.children(recursive=True))
    with Workers() as workers:
        workers.start(executors=2).freeze()
        workers.start(ipc=True).kill()
        workers.start().cut_off()
        started = set(me.children(recursive=True)) - before
        assert len(started) >= 5
    assert not any(map(alive, started))
    assert not workers.folder.exists()


def test_a_worker_that_does_not_start_says_why(relocate_workers: Workers) -> None:
    with pytest.raises(AssertionError, match="cannot import 'no_such_module'"):
        relocate_workers.start(modules=["no_such_module"])


def test_the_simulated_network_is_ready(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        from relocate import testing

        def test_retried(relocate_network):
            shop = testing.module("shop", "def price(n): return n * 3")
            desk = relocate_network.worker("desk", modules=[shop])
            program = testing.Program(relocate_network, ["desk"])
            loaded = program.load("shop")
            desk.next(testing.Kill())
            assert loaded.price(2) == 6
            assert program.statistics().retried == 1
        """
    )
    run(suite, passed=1)
