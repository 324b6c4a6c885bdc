"""Real processes are killed: a sound broker passes, a broken one does not."""

import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import apsw
import psutil
import pytest

from ropeway.errors import ConfigError
from ropeway.verify import witness
from ropeway.verify.ledger import Ledger, Tail, read
from ropeway.verify.load import KILLS, Plan, faults_of
from ropeway.verify.report import Report
from ropeway.verify.run import verify
from ropeway.verify.witness import witness_of

HERE = Path(__file__).parent
# How fast a job starts again is for a machine that has nothing else to do.
TIMED = {"recovery in time", "dead child", "woken", "cancel while running", "timeouts"}


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'jobs.db'}?durability=fast"


def broken(report: Report) -> set[str]:
    return {check.name for check in report.checks if check.findings}


def test_twenty_kills_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    faults = {
        "kill_one": 9,
        "kill_all": 3,
        "kill_producer": 4,
        "kill_quiet": 3,
        "kill_child": 1,
        "freeze": 3,
        "terminate": 3,
    }
    plan = Plan(url=url(tmp_path), faults=faults, lease_s=1, workers=2, seed=20)
    report = verify(plan, keep=tmp_path / "ledger")
    plain = report.plain()
    assert broken(report) <= TIMED, plain["checks"]
    assert report.unfinished == []
    assert plain["kills"] >= 20
    assert plain["recovered"] > 0
    assert all(counted.hits >= counted.hits_min for counted in report.faults.values())
    assert [check.name for check in report.checks if not check.examined] == []
    assert len(read(tmp_path / "ledger")) > 1000
    with pytest.raises(Exception, match="verify_witness"):  # it leaves no trace in the store
        witness_of(url(tmp_path)).finals()


def test_a_broker_that_lets_anybody_settle_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    plan = Plan(
        url=url(tmp_path),
        faults={"freeze": 5},
        lease_s=0.7,
        workers=2,
        subject="broken_app:app",
        seed=3,
    )
    report = verify(plan)
    assert not report.held
    assert broken(report) & {"final twice", "left a final state"}


def test_a_store_inside_one_process_is_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match="sqlite:///x.db"):
        verify(Plan(url="memory://", faults={}))


def test_a_broker_without_a_witness_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(witness, "WITNESSES", {})
    with pytest.raises(ConfigError, match="no witness"):
        verify(Plan(url=url(tmp_path), faults={}))


def test_a_ledger_that_cannot_be_written_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        verify(Plan(url=url(tmp_path), faults={}), keep=tmp_path / "nowhere" / "ledger")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_neither_processes_nor_jobs(
    number: signal.Signals, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    command = [sys.executable, "-m", "ropeway", "verify", url(tmp_path), "--ledger", str(ledger)]
    process = psutil.Popen(command, stderr=subprocess.PIPE, text=True)
    pids: set[int] = set()
    give_up_s = time.monotonic() + 60
    while len(pids) < 3:  # of workers that have begun a job
        assert time.monotonic() < give_up_s, "no worker began"
        time.sleep(0.1)
        pids = {e.pid for e in read(ledger) if e.what == "start"} if ledger.exists() else set()
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1].startswith("error: interrupted: its processes and jobs are gone")
    assert not any(map(psutil.pid_exists, pids))
    with closing(apsw.Connection(str(tmp_path / "jobs.db"))) as connection:
        assert list(connection.execute("SELECT id FROM jobs")) == []


@pytest.mark.parametrize(
    ("wrong", "match"),
    [({"lease_s": 0.1}, "lease"), ({"workers": 1}, "workers"), ({"minutes": 0}, "minutes")],
)
def test_a_plan_that_cannot_be_meant_is_refused(wrong: dict[str, float], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Plan(url="sqlite:///x.db", faults={}, **wrong)


def test_fewer_than_five_kills_are_refused() -> None:
    with pytest.raises(ConfigError, match="5 or more"):
        faults_of(4, url="sqlite:///x.db")


@pytest.mark.parametrize("kills", [5, 20, 100, 120, 1000])
def test_the_kinds_of_fault_add_up_to_the_kills_that_were_asked_for(kills: int) -> None:
    faults = faults_of(kills, url="sqlite:///x.db")
    assert sum(faults[kind] for kind in KILLS) == kills
    assert min(faults.values()) >= 1
    plan = Plan(url="sqlite:///x.db", faults=faults)
    if kills >= 100:
        few = {kind for kind, hits in plan.hits_min.items() if hits < 20}
        assert few <= {"kill_child"}


def test_the_ledger_reads_back_what_many_have_written(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    one, two = Ledger(path), Ledger(path, pid=7)
    tail = Tail(path)
    one.note("ask", job="a", kind="plain", at_s=2.0)
    two.note("start", job="a", token=3, at_s=1.0)
    assert [event.what for event in tail.new()] == ["ask", "start"]
    with path.open("ab") as file:
        file.write(b'{"what":"en')  # a line that is being written
    assert list(tail.new()) == []
    assert [(event.what, event.pid == 7) for event in read(path)] == [
        ("start", True),
        ("ask", False),
    ]
    for ledger in (one, two, tail):
        ledger.close()
