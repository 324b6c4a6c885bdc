"""`ropeway bench concurrency` as its user runs it: what it tells, never how fast it is."""

import json
import subprocess
import sys

import pytest

from ropeway.bench.concurrency import FIXED, SETTINGS, ConcurrencyLoad
from ropeway.bench.tasks import WORK_KINDS
from ropeway.errors import ConfigError


def ropeway(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ropeway", "bench", "concurrency", "memory://", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_it_tells_rates_ratios_and_means_of_every_setting_and_loses_no_job() -> None:
    done = ropeway("--seconds", "0.01", "--rounds", "1", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert (told["lost"], told["repeated"]) == (0, 0)
    for kind in WORK_KINDS:
        rates = {at: told[f"{kind}_{at}_per_s"] for at in SETTINGS}
        best = max(rates[at] for at in FIXED)
        for at in SETTINGS:
            assert told[f"ratio_{kind}_{at}"] == pytest.approx(rates[at] / best, rel=1e-3)
    for at in SETTINGS:
        product = 1.0
        for kind in WORK_KINDS:
            product *= told[f"ratio_{kind}_{at}"]
        assert told[f"geomean_{at}"] == pytest.approx(product**0.25, rel=1e-3)


def test_a_person_gets_a_row_for_each_setting() -> None:
    done = ropeway("--seconds", "0.01", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows[-len(SETTINGS) :]] == [str(at) for at in SETTINGS]


def test_settings_with_few_slots_get_as_many_jobs_as_they_can_do() -> None:
    load = ConcurrencyLoad(url="memory://", seconds=2)
    assert load.jobs("io", 1) == 200
    assert load.jobs("io", 1_024) == load.jobs("io", "auto") == 80_000
    assert load.jobs("cpu", 1) == load.jobs("cpu", "auto")


@pytest.mark.parametrize("wrong", [{"seconds": 0}, {"rounds": 0}])
def test_what_cannot_be_meant_is_refused_by_name(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"--{next(iter(wrong))}"):
        ConcurrencyLoad(url="memory://", **wrong)
