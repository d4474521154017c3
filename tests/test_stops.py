"""The door of the command line: stops are heeded whatever a command is in, end with code 14 and leave nothing behind."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import conftest
import psutil
import pytest
import typer
from typer.testing import CliRunner

from flows.commands import _said_plainly, app, exit_code, require_database, sentence, wide_console
from flows.exits import MEANINGS, Exit
from flows.home import DiskFull
from flows.scratch import HomeBusy, held, sweep
from flows.status import NotReady
from pipelines.shards.mixture import MixtureError
from schemas.errors import DataError, GateClosed
from schemas.recipe import RecipeError

# A command with a home, scratch and a process of another session, that does what it is told.
STUCK = """
import pathlib, subprocess, sys, types
from flows import scratch
def work():
    home = pathlib.Path(sys.argv[1])
    with scratch.held(home):
        (home / "tmp" / "blocks").mkdir()
        (home / "tmp" / "blocks" / "0").write_bytes(b"x")
        other = subprocess.Popen(["sleep", "300"], start_new_session=True)
        print(other.pid, (home / "lock").read_text(), flush=True)
        exec(sys.argv[2])
commands = types.ModuleType("flows.commands")
commands.app = work
sys.modules["flows.commands"] = commands
from flows.cli import app
app()
"""


FOR_ITSELF = "sum(range(10**12))"  # no signal is answered in it, as in a compiled loop
NOISY = """
import atexit, sys, time
atexit.register(print, 'an exit')
try:
    time.sleep(300)
finally:
    print('a traceback', file=sys.stderr)
"""


def running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def start(*command: str) -> subprocess.Popen:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *command], cwd=conftest.ROOT, **pipes)


def start_stuck(home: Path, work: str = FOR_ITSELF) -> tuple[subprocess.Popen, int, int, str]:
    """(door, the command behind it, what that started, what the home's lock says)."""
    door = start("-c", STUCK, str(home), work)
    other, lock = door.stdout.readline().split(" ", 1)
    (command,) = psutil.Process(door.pid).children()
    return door, command.pid, int(other), lock.strip()


def stop(door: subprocess.Popen, number: int) -> tuple[int, str, float]:
    """(exit code, what it said on both streams, seconds)."""
    began = time.monotonic()
    door.send_signal(number)
    said = "".join(door.communicate(timeout=60))
    return door.returncode, said, time.monotonic() - began


@pytest.mark.parametrize(("number", "work"), [(signal.SIGTERM, FOR_ITSELF), (signal.SIGINT, NOISY)])
def test_a_command_is_stopped_with_one_line_and_leaves_nothing(tmp_path, number, work):
    door, command, other, lock = start_stuck(tmp_path, work)
    assert lock == f"process {door.pid}", "who is to be stopped"
    code, said, seconds = stop(door, number)
    assert (code, said) == (14, "\nStopped. The same command goes on from here.\n") and seconds < 5
    assert not running(command) and not running(other) and not list((tmp_path / "tmp").iterdir())
    with held(tmp_path):
        pass


def test_a_command_that_is_killed_is_named_and_leaves_nothing(tmp_path):
    door, command, other, _ = start_stuck(tmp_path)
    os.kill(command, signal.SIGKILL)
    said = door.communicate(timeout=60)[1]
    assert door.returncode == 1 and re.fullmatch(r"\nThe command was ended by SIGKILL: memory was short.*\n", said)
    assert not running(other) and not list((tmp_path / "tmp").iterdir())


def test_a_command_ends_with_the_process_that_watches_it(tmp_path):
    """Its Python is free to notice: another than the one that holds it for itself."""
    door, command, other, _ = start_stuck(tmp_path, "import time; time.sleep(300)")
    door.kill()
    until = time.monotonic() + 60
    while running(command) and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(other, signal.SIGKILL)
    assert not running(command)


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.5])
def test_a_stop_in_the_first_seconds_says_one_line(delay):
    """While it imports."""
    door = start("-m", "flows.cli", "similar", "-")
    while not psutil.Process(door.pid).children():
        time.sleep(0.01)
    time.sleep(delay)
    code, said, _ = stop(door, signal.SIGINT)
    assert (code, said) == (14, "\nStopped. The same command goes on from here.\n")


def test_a_sweep_leaves_what_java_said_and_ends_no_stranger(tmp_path):
    with held(tmp_path):
        (tmp_path / "tmp" / "spark.log").write_text("said")
        (tmp_path / "tmp" / "blockmgr-1" / "0a").mkdir(parents=True)
        (tmp_path / "tmp" / "libsnappy.so").write_bytes(b"x")
        (tmp_path / "tmp" / "prefect-server.pid").write_text(str(os.getpid()))
        sweep(tmp_path)
    assert [entry.name for entry in (tmp_path / "tmp").iterdir()] == ["spark.log"]


def test_every_kind_of_error_has_its_code():
    full = OSError(28, "No space left on device")
    errors = [RecipeError(), MixtureError(), NotReady(), FileNotFoundError(2, "x"), HomeBusy(), DiskFull(), full, KeyboardInterrupt(), GateClosed()]
    assert [exit_code(error) for error in errors] == [10, 11, 11, 11, 12, 13, 13, 14, 15]
    assert [exit_code(error) for error in (ValueError(), KeyError("x"), RuntimeError(), PermissionError(13, "x"))] == [1] * 4


def test_prefects_database_is_named_where_it_is_damaged(tmp_path):
    file = tmp_path / "prefect.db"
    require_database(file)
    assert not file.exists()
    with sqlite3.connect(file) as database:
        database.execute("create table runs (name text)")
        database.executemany("insert into runs values (?)", [(f"run {i} " * 20,) for i in range(500)])
    database.close()
    require_database(file)
    data = file.read_bytes()
    for damaged in (data[: len(data) // 2], b"x" * len(data), data[:5000] + b"\xff" * 4000 + data[9000:]):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match=r"prefect\.db: expected Prefect's database, found damage .*Delete it"):
            require_database(file)


def test_sentences_stand_alone_and_faults_name_their_class(capsys):
    sentences = [RecipeError("r.yaml: home: missing"), DataError("plan.json is missing"), FileNotFoundError("no report yet"),
                 OSError("home: cannot be made"), DiskFull("free some space"), HomeBusy("another run")]  # fmt: skip
    assert [sentence(error) for error in sentences] == [str(error) for error in sentences]
    assert sentence(KeyError("x")) == "KeyError: 'x'" and sentence(ValueError("bad")) == "ValueError: bad" and sentence(OSError()) == "OSError: "
    with pytest.raises(typer.Exit), _said_plainly():
        raise MemoryError("one row does not fit")
    assert capsys.readouterr().err == "MemoryError: one row does not fit\n"


def test_tables_are_wide_where_no_terminal_says_how_wide_it_is(monkeypatch):
    """Rich takes 80 columns, in which headers break inside of words."""
    monkeypatch.delenv("COLUMNS", raising=False)
    assert not wide_console().is_terminal and (wide_console(0).width, wide_console().width) == (160, 160)
    monkeypatch.setenv("COLUMNS", "100")
    assert (wide_console(0).width, wide_console().width) == (100, 160)


def test_help_tells_the_codes():
    told = " ".join(CliRunner().invoke(app, ["--help"]).output.split())
    assert all(f"{code.value}: {meaning}" in told for code, meaning in MEANINGS.items()) and set(MEANINGS) == set(Exit)
    commands = ["recipe", "check", "nowhere.yaml"], ["run", "nonsense"]
    assert [CliRunner().invoke(app, command).exit_code for command in commands] == [Exit.RECIPE, Exit.USAGE]
