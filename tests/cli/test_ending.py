"""How commands end: exit codes, one line on stderr, pipes, Ctrl-C, help."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from terminal import Cli, Store

import ropeway.cli
from ropeway.broker import Entry, JobStore
from ropeway.brokers.sqlite.connection import Connection
from ropeway.cli import exits
from ropeway.job import Job

ROPEWAY = [sys.executable, "-m", "ropeway"]


def test_looking_does_not_create_a_database(cli: Cli, tmp_path: Path) -> None:
    for command in (
        ["jobs", "list"],
        ["queues", "list"],
        ["workers", "list"],
        ["jobs", "show", "a"],
    ):
        said = cli(*command)
        assert said.code == 3
        assert said.err.startswith("error: sqlite:///ropeway.db: there is no database ")
        assert said.err.count("\n") == 1
        assert "--url or $ROPEWAY_URL" in said.err
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_was_given_and_does_not_exist_is_said_to_be_wrong(cli: Cli) -> None:
    said = cli("jobs", "list", "--url", "sqlite:///mistyped.db")
    assert said.code == 3
    assert "check the path" in said.err
    assert said.err.count("\n") == 1


def test_a_file_that_is_no_database_is_code_4(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "ropeway.db").write_bytes(b"not a database " * 100)
    said = cli("jobs", "list")
    assert said.code == 4
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1


def test_a_store_of_a_newer_release_is_code_4(cli: Cli, store: Store) -> None:
    connection = Connection(store.path, synchronous="FULL")
    connection.run("PRAGMA user_version = 99")
    connection.close()
    for command in (["jobs", "list"], ["migrate"], ["migrate", "--check"]):
        said = cli(*command)
        assert said.code == 4
        assert "schema version 99" in said.err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["jobs", "lst"], "error: No such command 'lst'. Did you mean 'list'? See"),
        (["jobs", "list", "--limt", "3"], "error: No such option: --limt"),
        (["jobs", "list", "--limit", "0"], "error: Invalid value for '--limit'"),
        (["jobs", "show"], "error: Missing argument 'ID'. See `ropeway jobs show --help`"),
    ],
)
def test_wrong_usage_is_code_2_and_leads_to_the_help(
    cli: Cli, argv: list[str], message: str
) -> None:
    said = cli(*argv)
    assert said.code == 2
    assert said.err.startswith(message)
    assert said.err.count("\n") == 1


def test_a_defect_is_one_line_and_debugging_shows_where(
    cli: Cli, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_broker: JobStore) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("ropeway.cli.workers._workers", broken)
    said = cli("workers", "list")
    assert (said.code, said.err) == (1, "error: RuntimeError: two lines\n")
    monkeypatch.setenv("ROPEWAY_DEBUG", "1")
    said = cli("workers", "list")
    assert said.code == 1
    assert "Traceback (most recent call last)" in said.err


def test_an_interrupted_command_says_nothing(
    cli: Cli, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def interrupted(_broker: JobStore) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ropeway.cli.workers._workers", interrupted)
    said = cli("workers", "list")
    assert (said.code, said.out, said.err) == (130, "", "")


def test_help_names_every_command_and_the_exit_codes(cli: Cli) -> None:
    said = cli("--help")
    assert said.code == 0
    for name in ("worker", "enqueue", "jobs", "queues", "workers", "migrate", "version"):
        assert name in said.out
    flat = " ".join(said.out.split())
    for code in ("0 done", "1 failed", "2 wrong usage", "3 no such", "4 the broker", "130 interr"):
        assert code in flat


def test_the_documented_codes_are_the_ones_used() -> None:
    for code in exits.Exit:
        assert f"{code.value} " in exits.EXIT_CODES
        assert f"{code.value} " in (ropeway.cli.__doc__ or "")


def test_every_command_explains_itself(cli: Cli) -> None:
    assert cli("jobs", "list", "-h").out == cli("jobs", "list", "--help").out
    for command in (
        *(["jobs", verb] for verb in ("list", "show", "logs", "retry", "cancel", "edit", "move")),
        *(["queues", verb] for verb in ("list", "pause", "resume", "purge", "peek")),
        *(["workers", verb] for verb in ("list", "quiet", "stop", "tune")),
        ["worker"], ["enqueue"], ["migrate"], ["version"],
    ):  # fmt: skip
        said = cli(*command, "--help")
        assert said.code == 0
        assert f"Usage: ropeway {' '.join(command)}" in said.out


def test_a_group_without_a_command_shows_its_help(cli: Cli) -> None:
    said = cli("jobs")
    assert said.code == 2
    assert "Usage: ropeway jobs" in said.out + said.err


def test_version_is_told(cli: Cli) -> None:
    assert cli("version").out.startswith("ropeway ")
    assert cli("--version").out == cli("version").out
    assert cli("version", "--json").json.keys() == {"ropeway", "python", "apsw", "platform"}


def test_migrate_makes_the_store_and_check_only_looks(cli: Cli, tmp_path: Path) -> None:
    assert cli("migrate", "--check").code == 3, "there is no database"
    made = cli("migrate", "--json")
    assert (made.code, made.json["before"], made.json["now"]) == (0, 0, made.json["newest"])
    assert "up to date" in cli("migrate").out
    assert cli("migrate", "--check").code == 0


def test_a_reader_that_goes_away_ends_the_command_quietly(store: Store) -> None:
    store.add(*(Job(id=str(n), task="t" * 200) for n in range(2_000)))
    listing = subprocess.Popen(
        [*ROPEWAY, "jobs", "list", "--limit", "2000"],
        cwd=store.path.parent,
        env={**os.environ, "PYTHONUNBUFFERED": ""},  # unbuffered, Python overlooks a cut write
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert listing.stdout is not None
    assert listing.stderr is not None
    listing.stdout.readline()
    listing.stdout.close()
    assert listing.stderr.read() == b""
    listing.stderr.close()
    assert listing.wait(30) == 141


def test_ctrl_c_while_following_a_log_ends_it_quietly(store: Store) -> None:
    store.add(Job(id="a", task="t"))
    following = subprocess.Popen(
        [*ROPEWAY, "jobs", "logs", "a", "--follow", "--json"],
        cwd=store.path.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        # It runs once the log's first line has come; there is none, so it is given one.
        _log_a_line(store)
        assert following.stdout is not None
        assert b"hello" in following.stdout.readline()
        following.send_signal(signal.SIGINT)
        out, err = following.communicate(timeout=30)
    finally:
        following.kill()
    assert (following.returncode, out, err) == (130, b"", b"")


def _log_a_line(store: Store) -> None:
    async def write(broker: JobStore) -> None:
        [lease] = await broker.reserve(["default"], worker="w", limit=1, lease_ms=60_000)
        await broker.append([Entry(lease=lease, kind="log", at_ms=0, data="hello")])

    store.run(write)


def test_an_answer_for_programs_does_not_wait_for_rich(store: Store) -> None:
    code = (
        "import sys; from ropeway.cli.main import main; main(['jobs', 'list', '--json']);"
        "print('rich' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=store.path.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "False"
