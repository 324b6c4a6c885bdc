"""`ropeway verify` on Redis: real worker processes are killed, frozen and cut off."""

from pathlib import Path

from ropeway.testing.servers import RedisServer
from ropeway.verify.load import Plan
from ropeway.verify.run import verify

# How fast a job starts again is for a machine that has nothing else to do.
TIMED = {"recovery in time", "dead child", "woken", "cancel while running", "timeouts"}
FAULTS = {
    "kill_one": 4,
    "kill_all": 2,
    "kill_producer": 2,
    "kill_quiet": 2,
    "kill_child": 1,
    "freeze": 1,
    "terminate": 1,
    "cut": 1,
    "reset": 1,
    "half_open": 1,
    "stall": 1,
    "lost_reply": 2,
}


def test_killed_workers_lose_nothing_and_double_nothing(
    server: RedisServer, tmp_path: Path
) -> None:
    plan = Plan(url=server.url, faults=FAULTS, lease_s=1, workers=2, seed=7)
    report = verify(plan, keep=tmp_path / "ledger")
    plain = report.plain()
    broken = {check.name for check in report.checks if check.findings}
    assert broken <= TIMED, plain["checks"]
    assert report.unfinished == []
    assert plain["kills"] >= 11
    assert plain["lost"] == plain["final_twice"] == 0
    assert plain["recovered"] > 0
    with server.client() as client:
        left = client.call("KEYS", "{ropeway}:*:verify-*:j")
    assert left == []
