"""The ways into relocation: environment, ``relocate run``, configuration, ``relocate ls``."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
from conftest import Place

import relocate

WHERE = "import os, work; print(work.pid() != os.getpid())"
ON = {"RELOCATE_MODULES": "work", "RELOCATE_WORKERS": "1"}


def test_the_environment_relocates_an_unchanged_script(place: Place) -> None:
    script = place.write("main.py", WHERE)
    assert place.python(str(script)).stdout == "False\n"
    assert place.python(str(script), **ON).stdout == "True\n"


def test_started_children_inherit_it(place: Place) -> None:
    place.write("child.py", WHERE)
    done = place.python("-c", "import subprocess, sys; subprocess.run([sys.executable, 'child.py'])", **ON)
    assert done.stdout == "True\n", done.stderr


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_children_relocate_too(place: Place, method: str) -> None:
    script = place.write(
        "main.py",
        f"""
        import multiprocessing, os
        import work

        def where(_):
            return work.pid() != os.getpid()

        if __name__ == "__main__":
            print(work.pid() != os.getpid())
            with multiprocessing.get_context("{method}").Pool(2) as pool:
                print(pool.map(where, range(4)))
        """,
    )
    done = place.python(str(script), **ON)
    assert done.stdout == "True\n[True, True, True, True]\n", done.stderr
    assert [f for f in place.left_behind() if f.startswith("relocate-")] == []


def test_nothing_is_loaded_when_nothing_is_asked_for(place: Place) -> None:
    done = place.python("-c", "import sys; print([m for m in sys.modules if m.split('.')[0] in ('relocate', 'zmq')])")
    assert done.stdout == "[]\n"


def test_a_mistake_in_the_environment_ends_the_program_before_it_begins(place: Place) -> None:
    done = place.python("-c", "print('ran')", RELOCATE_MODULES="work", RELOCATE_WORKERS="tcp:/x")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "tcp:/x" in done.stderr


def test_the_report_proves_where_calls_ran(place: Place) -> None:
    script = place.write(
        "main.py", "import work\nfor i in range(5): work.echo(i)\ntry: work.fail('x')\nexcept ValueError: pass\n"
    )
    place.python(str(script), **ON, RELOCATE_REPORT=str(place.folder / "report.json"))
    seen = place.report()
    assert (seen["calls"], seen["remote"], seen["local"]) == (6, 6, 0)
    assert (seen["returned"], seen["raised"], seen["retried"]) == (5, 1, 0)
    assert seen["members"] == {"work.echo": {"remote": 5, "local": 0}, "work.fail": {"remote": 1, "local": 0}}
    assert seen["workers"] == {"embedded/0": {"calls": 6, "deaths": 0}}
    assert seen["bytes_out"] > 0
    assert seen["bytes_in"] > 0


PROGRAMS = [
    (["-c", "import sys, work; print(sys.argv, __name__, work.echo(1)); sys.exit(7)", "a", "-w", "--help"], ""),
    (["main.py", "-M", "x"], ""),
    (["-m", "main", "b"], ""),
    (["-m", "pack", "c"], ""),
    (["-c", "import work; print(input(), work.echo(2))"], "a line\n"),
    (["-c", "import work; work.echo(1); raise KeyError('gone')"], ""),
    (["-c", "import work; work.echo(1); 1/0"], ""),
    (["-c", "import sys; sys.exit('a message')"], ""),
    (["no_such_file.py"], ""),
    (["-c", "import no_such_module"], ""),
    (["syntax.py"], ""),
]


@pytest.mark.parametrize(
    ("program", "text"), PROGRAMS, ids=[p[0][1 if p[0][0] in "-c-m" else 0][:30] for p in PROGRAMS]
)
def test_run_is_as_under_python(place: Place, program: list[str], text: str) -> None:
    place.write("main.py", "import sys, work\nprint(sys.argv, __name__, __file__, work.echo([1]), flush=True)\n")
    place.write("pack/__init__.py", "")
    place.write("pack/__main__.py", "import sys, work\nprint(sys.argv, __package__, work.echo(3))\n")
    place.write("syntax.py", "print('a'\n")
    plain = execute(place, [sys.executable, *program], text)
    under = execute(place, [sys.executable, "-m", "relocate", "run", "-M", "work", "-w", "1", *program], text)
    assert (under.returncode, under.stdout, under.stderr) == (plain.returncode, plain.stdout, plain.stderr)


def execute(place: Place, command: list[str], text: str) -> subprocess.CompletedProcess[str]:
    """Run ``command`` with ``text`` as standard input."""
    return subprocess.run(
        command,
        cwd=place.folder,
        env=place.environment,
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_run_dies_of_the_signal_that_its_program_dies_of(place: Place) -> None:
    done = place.relocate(
        "run", "-M", "work", "-w", "1", "-c", "import os, work; work.echo(1); os.kill(os.getpid(), 15)"
    )
    assert done.returncode == -signal.SIGTERM
    assert place.left_behind() == [] or all(f.startswith("relocate-") for f in place.left_behind())


def test_run_takes_a_configuration_file_and_writes_a_report(place: Place) -> None:
    place.write("any.toml", 'modules = ["work"]\nworkers = "2"\n')
    for option in (["-c", "any.toml"], ["--config", "any.toml"]):
        done = place.relocate("run", *option, "--report", "report.json", "-c", WHERE)
        assert done.stdout == "True\n", done.stderr
        assert place.report()["remote"] == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("relocate.toml", 'modules = ["work"]\nworkers = "1"\n'),
        ("pyproject.toml", '[project]\nname = "x"\n[tool.relocate]\nmodules = ["work"]\nworkers = 1\n'),
    ],
)
def test_the_configuration_is_found_upward(place: Place, name: str, text: str) -> None:
    place.write(name, text)
    (place.folder / "a" / "b").mkdir(parents=True)
    program = "import os; os.chdir('a/b'); import relocate; relocate.enable(); " + WHERE
    assert place.python("-c", program).stdout == "True\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "-M", "work"], "nothing to run"),
        (["run", "-c", "print(1)"], "no module is designated"),
        (["run", "-M", "no-name", "-c", "1"], "not a module's dotted name"),
        (["run", "-M", "work", "-w", "local:0", "-c", "1"], "at least one executor"),
        (["run", "-c", "missing.toml", "-c", "1"], "missing.toml: no such file"),
        (["run", "-c", "typo.toml", "-c", "1"], "did you mean 'workers'"),
        (["keys", "allow", "abc"], "is not a key"),
        (["keys", "show"], "relocate keys new"),
        (["ls", "-w", "nonsense"], "not a worker's address"),
        (["run", "-M", "no-name", "-c", "1"], "-M: 'no-name'"),
        (["run", "-M", "work", "-w", "0", "-c", "1"], "-w: '0': at least one executor"),
        (["run", "-M", "work", "-w", "desk", "-c", "1"], "-w: 'desk' is not"),
        (["run", "-M", "work", "-c", "settings.conf", "main.py"], "-c settings.conf: this is a file"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(place: Place, arguments: list[str], says: str) -> None:
    place.write("settings.conf", "")
    place.write("typo.toml", 'modules = ["work"]\nworker = 2\n')
    done = place.relocate(*arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert says in done.stderr


def test_ls_shows_the_name_space_and_what_is_alive(place: Place) -> None:
    worker = place.worker("--executors", "2")
    dead = "tcp://127.0.0.1:9"
    done = place.relocate("ls", "-w", f"{worker.url};{dead}", "--json")
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    states = {w["url"]: (w["state"], w["executors"]) for w in seen["workers"]}
    assert states == {worker.url: ("up", 2), dead: ("down", 0)}
    assert [(b["name"], b["leads to"], b["rank"]) for b in seen["bindings"]] == [
        ("/chan", f"/n/{worker.url[6:]}/chan", 0),
        ("/chan", "/n/127.0.0.1:9/chan", 1),
        ("/chan", "/n/local/chan", 2),
    ]
    text = place.relocate("ls", "-w", worker.url, "/chan/work/echo")
    assert f"leads to {worker.url[6:]} (work/echo), rank 0" in text.stdout
    assert place.relocate("ls", "-w", dead).returncode == 1


def test_ls_lists_what_is_below_a_name_and_says_if_there_is_no_such_name(place: Place) -> None:
    place.write("pack/__init__.py", "")
    place.write("pack/part.py", "def one(): pass\ndef two(): pass\n")
    place.write("relocate.toml", 'modules = ["pack.part", "work"]\nworkers = 1\n')
    for path, expected in (("/chan", ["pack", "work"]), ("/chan/pack", ["part"]), ("/chan/pack/part", ["one", "two"])):
        done = place.relocate("ls", "--json", path)
        assert json.loads(done.stdout)["entries"] == expected, done.stderr
        assert done.returncode == 0
    for path in ("/nonsense", "/chan/nonsense", "/chan/pack/part/three"):
        done = place.relocate("ls", path)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)


def test_help_reads_well(place: Place) -> None:
    for words in ([], ["run"], ["worker"], ["ls"], ["keys"], ["keys", "allow"]):
        done = place.relocate(*words, "--help")
        assert done.returncode == 0
        assert "Usage: relocate" in done.stdout
        assert "\033" not in done.stdout  # no colour but on a terminal
    assert place.relocate("--version").stdout.startswith("relocate, version ")


def test_completion_is_offered(place: Place) -> None:
    done = place.relocate(_RELOCATE_COMPLETE="bash_source")
    assert "complete" in done.stdout


def completed(place: Place, *words: str) -> set[str]:
    """What the shell would offer for the last word."""
    line = " ".join(["relocate", *words])
    given = {"_RELOCATE_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words))}
    program = "from relocate.cli import main; main(prog_name='relocate')"
    done = place.python("-c", program, **given)
    assert done.stderr == ""
    return set(done.stdout.split())


def test_what_a_running_program_has_is_completed(place: Place) -> None:
    assert completed(place, "ls", "/ch") == completed(place, "explain", "wo") == set()
    program = "import work\nwork.echo(1)\nprint(1, flush=True); input()"
    command = ("-m", "relocate", "run", "-M", "work", "-w", "1", "-c", program)
    running = place.start(sys.executable, *command, talk=True)
    assert running.stdout is not None
    assert running.stdout.readline() == "1\n"
    assert completed(place, "ls", "--pid", str(running.pid)[:2]) == {f"plain,{running.pid}"}
    assert completed(place, "ls", "/ch") == {"plain,/chan"}
    assert completed(place, "bind", "/n/emb") == {"plain,/n/embedded"}
    assert completed(place, "bind", "/n/local/chan", "/chan/wo") == {"plain,/chan/work"}
    assert completed(place, "unmount", "/chan/work/ech") == {"plain,/chan/work/echo"}
    assert completed(place, "explain", "wo") == {"plain,work"}
    assert completed(place, "explain", "work.ech") == {"plain,work.echo"}
    assert completed(place, "explain", "--pid", str(running.pid), "work.ech") == {"plain,work.echo"}
    running.communicate("\n")


def test_allowed_peers_are_completed(place: Place) -> None:
    place.relocate("keys", "new")
    place.relocate("keys", "allow", "1f0b57e3a96c4d2288c1730eaf5d9b64e2c07a18b35f496d0a7c9e81d2f4b653", "desk")
    assert completed(place, "keys", "revoke", "d") == {"plain,desk"}


def test_programs_and_folders_are_completed(place: Place) -> None:
    place.write("tool.py", "")
    place.write("tool.txt", "")
    place.write("tools/inner.py", "")

    assert completed(place, "run", "-M", "work", "to") == {"plain,tool.py", "plain,tools/"}
    assert completed(place, "run", "tools/i") == {"plain,tools/inner.py"}
    assert completed(place, "run", "tool.py", "to") == {"file,to"}
    assert "plain,--no-fallback" in completed(place, "run", "--no")


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_the_report_is_the_programs_and_not_its_childrens(place: Place, method: str) -> None:
    script = place.write(
        "main.py",
        f"""
        import multiprocessing
        import work

        if __name__ == "__main__":
            with multiprocessing.get_context("{method}").Pool(1) as pool:
                pool.map(abs, [1])
                pool.close()
                pool.join()
            work.echo(1)
        """,
    )
    done = place.relocate("run", "-M", "work", "-w", "1", "--report", "report.json", str(script))
    assert done.returncode == 0, done.stderr
    assert place.report()["calls"] == 1


def test_a_report_goes_through_links_and_to_devices(place: Place) -> None:
    (place.folder / "link.json").symlink_to(place.folder / "real.json")
    for target in ("link.json", "/dev/stderr"):
        done = place.relocate("run", "-M", "work", "-w", "1", "--report", target, "-c", "import work; work.echo(1)")
        assert done.returncode == 0
    assert (place.folder / "link.json").is_symlink()
    assert place.report("real.json")["calls"] == 1
    assert '"calls": 1' in done.stderr


def test_a_mistaken_module_is_told(place: Place) -> None:
    done = place.relocate("run", "-M", "wrok,json.loads", "-w", "1", "-c", "print(1)")
    assert done.stdout == "1\n"
    assert "there is no module or class 'wrok' here; did you mean work?" in done.stderr
    assert "'json.loads' is a function; designate its module, 'json'" in done.stderr
    done = place.relocate("run", "-M", "work", "-w", "1", "work.py")
    assert done.stderr == "relocate: work is the program itself, which runs here; designate what it imports\n"


def test_without_fallback_a_mistaken_name_fails_the_program_at_its_end(place: Place) -> None:
    program = "import atexit, fractions, sys\natexit.register(print, 'bye')\nsys.stdout.write('all')\n"
    for options in (("-M", "wrok"), ("--methods", "fractions.Fraction.nope")):
        done = place.relocate("run", *options, "-w", "1", "--no-fallback", "-c", program)
        assert (done.returncode, done.stdout) == (1, "allbye\n")
        assert done.stderr.startswith("relocate: ")
        assert place.relocate("run", *options, "-w", "1", "-c", program).returncode == 0
    done = place.relocate("run", "-M", "work", "-w", "1", "--no-fallback", "-c", program)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_mistaken_module_is_told_when_relocation_ends(place: Place) -> None:
    program = "import relocate\nhandle = relocate.enable(modules=['wrok'], workers=1)\nimport work\n"
    done = place.python("-c", program)
    assert done.stderr == "relocate: there is no module or class 'wrok' here; did you mean work?\n"
    done = place.python("-c", program + "handle.disable()")
    assert "<string>:4: RelocateWarning: there is no module or class 'wrok' here; did you mean work?" in done.stderr
    done = place.python("-c", "import work", RELOCATE_MODULES="workk")
    assert done.stderr == "relocate: no module 'workk' was imported; did you mean work?\n"
    done = place.python("-c", "import relocate; relocate.enable(workers=1)")
    assert "RelocateWarning: no module is designated" in done.stderr


def test_no_module_is_called_mistaken_that_is_not(place: Place) -> None:
    place.write("lib_/mylib.py", "def one():\n    return 1\n")
    script = place.write("main.py", "import sys\nsys.path.insert(0, 'lib_')\nimport mylib\nprint(mylib.one())\n")
    done = place.relocate("run", "-M", "mylib", "-w", "1", str(script))
    assert (done.stdout, done.stderr) == ("1\n", "")
    # A program that inherits what another one wants; and a module that is only on the workers.
    assert place.python("-c", "1", RELOCATE_MODULES="elsewhere,json.tool").stderr == ""
    done = place.relocate("run", "-M", "elsewhere", "-w", "tcp://127.0.0.1:9", "-c", "1")
    assert done.stderr == ""
    done = place.relocate("run", "-M", "work,maybe", "-w", "1", "-c", "try: import maybe\nexcept ImportError: pass")
    assert done.stderr == ""


def test_the_command_line_and_the_environment_can_insist_on_workers(place: Place) -> None:
    program = "import work\ntry: work.echo(__import__('threading').Lock())\nexcept TypeError: print('refused')"
    run = ("run", "-M", "work", "-w", "1")
    assert place.relocate(*run, "-c", program).stdout == ""
    assert place.relocate(*run, "--no-fallback", "-c", program).stdout == "refused\n"
    assert place.python("-c", program, **ON, RELOCATE_FALLBACK="0").stdout == "refused\n"
    done = place.relocate(*run, "-c", program, RELOCATE_FALLBACK="0")
    assert done.stdout == "refused\n"


def test_run_takes_a_key_folder(place: Place) -> None:
    assert place.relocate("keys", "new", "--keys", "ring").returncode == 0
    worker = place.worker("--executors", "1")
    done = place.relocate("run", "-M", "work", "-w", worker.url, "--no-fallback", "--keys", "ring", "-c", WHERE)
    assert "does not allow this side's key" in done.stderr or "holds no key that is allowed here" in done.stderr


def test_run_sums_up_and_reports_to_standard_error(place: Place) -> None:
    child = "subprocess.run([sys.executable, '-c', 'import work; work.echo(1)'])"
    program = f"import work, subprocess, sys\nwork.echo(1)\n{child}"
    done = place.relocate("run", "-M", "work", "-w", "1", "--summary", "-c", program)
    assert done.stderr.startswith("relocate: 1 call: 1 on workers (1 executor), 0 here; 0 retried; ")
    assert done.stderr.count("\n") == 1
    done = place.relocate("run", "-M", "work", "-w", "1", "--report", "-", "-c", program)
    assert json.loads(done.stderr)["remote"] == 1


@pytest.mark.parametrize("program", [["-"], []])
def test_run_takes_a_program_from_standard_input(place: Place, program: list[str]) -> None:
    command = [sys.executable, "-m", "relocate", "run", "-M", "work", "-w", "1", *program]
    assert execute(place, command, WHERE).stdout == "True\n"


def test_run_keeps_the_interpreters_flags(place: Place) -> None:
    done = place.run(
        sys.executable, "-O", "-m", "relocate", "run", "-M", "work", "-w", "1", "-c", "import work; print(__debug__)"
    )
    assert done.stdout == "False\n", done.stderr


def test_keys_are_allowed_listed_and_revoked(place: Place) -> None:
    key, other = "ab" * 32, "cd" * 32
    assert place.relocate("keys", "allow", key, "ann").stdout == "allowed ann\n"
    assert place.relocate("keys", "allow", other).stdout == f"allowed {other}\n"
    assert place.relocate("keys", "list").stdout == f"{key} ann\n{other}\n"
    assert place.relocate("keys", "revoke", "ann").stdout == f"revoked {key} ann\n"
    assert place.relocate("keys", "list").stdout == f"{other}\n"
    assert place.relocate("keys", "revoke", other).returncode == 0
    assert "nobody but this side's own key" in place.relocate("keys", "list").stderr
    assert "neither a key nor a name" in place.relocate("keys", "revoke", "ann").stderr


def test_the_package_lists_its_public_names_only() -> None:
    names = [name for name in dir(relocate) if not name.startswith("__")]
    assert names == sorted(relocate.__all__)


def test_a_module_that_python_has_loaded_and_no_worker_describes_ends_the_program_in_one_line(place: Place) -> None:
    arguments = ("-M", "json", "-w", "tcp://127.0.0.1:1", "--no-fallback", "-c", "print('ran')")
    done = place.relocate("run", *arguments, RELOCATE_START_TIMEOUT="2")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1), done.stderr
    assert done.stderr.startswith("relocate: cannot relocate 'json': nobody answers at tcp://127.0.0.1:1")


def test_a_failed_import_shows_little_of_how_that_was_found_out(place: Place) -> None:
    done = place.relocate("run", "-M", "nowhere", "-w", "1", "-c", "import nowhere")
    assert done.stderr.count("relocate/loaders.py") == 1
    assert not any(name in done.stderr for name in ("finder.py", "handle.py"))
    assert "ModuleNotFoundError: No module named 'nowhere', here or on a worker" in done.stderr
