"""The bench as its user runs it: what it tells, what it leaves behind. Never how fast it is."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ropeway.app import Ropeway
from ropeway.bench.figures import Answer, percentile
from ropeway.bench.latency import Pace, latency
from ropeway.bench.ledger import Ledger
from ropeway.bench.serving import serving
from ropeway.bench.throughput import Load, throughput
from ropeway.cli import bench as cli_bench
from ropeway.cli.exits import Exit, Failure
from ropeway.errors import ConfigError, RopewayError

pytestmark = pytest.mark.anyio

SETTINGS = {"scheme", "durability", "ack", "jobs", "concurrency", "python", "cores"}
THROUGHPUT = {
    "enqueue_single_per_s",
    "enqueue_concurrent_per_s",
    "enqueue_bulk_per_s",
    "drain_per_s",
    "cpu_us_per_job",
    "rss_mb",
    "lost",
    "repeated",
}
LATENCY = {"p50_ms", "p99_ms", "max_ms", "lost", "repeated"}


def ropeway(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ropeway", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(params=["memory://", "sqlite", "sqlite fast"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "memory://":
        return request.param
    fast = "?durability=fast" if request.param.endswith("fast") else ""
    return f"sqlite:///{tmp_path / 'bench.db'}{fast}"


async def test_throughput_measures_every_figure_and_loses_and_repeats_no_job(url: str) -> None:
    told = (await throughput(Load(url=url, jobs=200, batch=50, callers=5))).plain()
    assert told.keys() >= SETTINGS | THROUGHPUT
    assert all(told[name] > 0 for name in THROUGHPUT - {"lost", "repeated"})
    assert (told["lost"], told["repeated"], told["records_kept"]) == (0, 0, 200)


async def test_latency_orders_its_percentiles_and_loses_no_job(url: str) -> None:
    told = (await latency(Pace(url=url, rate=100, seconds=0.5))).plain()
    assert told.keys() >= SETTINGS | LATENCY
    assert 0 < told["p50_ms"] <= told["p99_ms"] <= told["max_ms"]
    assert (told["jobs"], told["lost"], told["repeated"]) == (50, 0, 0)


@pytest.mark.parametrize("task", ["sleep1ms", "sync"])
async def test_each_task_runs_every_job_once(task: str) -> None:
    load = Load(url="memory://", jobs=60, task=task)  # pyright: ignore[reportArgumentType]
    figures = (await throughput(load)).figures
    assert (figures["lost"], figures["repeated"]) == (0, 0)


async def test_it_leaves_no_job_behind_and_other_jobs_alone(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'bench.db'}"
    async with Ropeway(url) as app:
        mine = await app.send("somebody's own")
        await throughput(Load(url=url, jobs=20))
        assert [queue.name for queue in await app.queues.list()] == ["default"]
        assert (await mine.record()).job.id == mine.id


def test_interrupted_it_still_purges_its_queue(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'bench.db'}"
    command = [sys.executable, "-m", "ropeway", "bench", "throughput", url, "--jobs", "1000000"]
    app = Ropeway(url)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not app.run_sync(app.queues.list()):
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "")
    assert app.run_sync(app.queues.list()) == []
    app.close_sync()


async def test_a_worker_that_cannot_start_is_told_with_its_own_words(tmp_path: Path) -> None:
    async with Ropeway(f"sqlite:///{tmp_path / 'bench.db'}") as app:
        served = serving(app, url="nowhere://", queue="q", concurrency=1, place=tmp_path)
        async with served as check:
            with pytest.raises(RopewayError, match=r"ended with code 1.*nowhere://"):  # noqa: PT012 - until it has ended
                while True:
                    check()
                    await asyncio.sleep(0.01)


def test_a_lost_job_makes_the_command_fail(capsys: pytest.CaptureFixture[str]) -> None:
    answer = Answer(
        bench="throughput", settings={}, runs=1, figures={"lost": 2, "repeated": 0}, spread={}
    )
    with pytest.raises(Failure, match="2 jobs were lost") as failure:
        cli_bench._tell(answer, as_json=True)
    assert failure.value.code == Exit.FAILED
    assert json.loads(capsys.readouterr().out)["lost"] == 2


async def test_several_runs_give_medians_within_their_range_and_add_up_what_was_lost() -> None:
    runs = [{"drain_per_s": 3.0, "lost": 1}, {"drain_per_s": 1.0, "lost": 0}]
    answer = Answer.of("throughput", {}, [*runs, {"drain_per_s": 8.0, "lost": 1}])
    assert answer.figures == {"drain_per_s": 3.0, "lost": 2}
    assert answer.spread == {"drain_per_s": (1.0, 8.0), "lost": (0, 1)}


@pytest.mark.parametrize(
    ("fraction", "value"), [(0.0, 1), (0.5, 5), (0.9, 9), (0.91, 10), (0.99, 10), (1.0, 10)]
)
def test_a_percentile_is_by_nearest_rank(fraction: float, value: float) -> None:
    assert percentile(range(1, 11), fraction) == value


def test_the_ledger_tells_missing_and_repeated_jobs_to_another_reader(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with Ledger.create(path, jobs=4) as written, Ledger(path) as read:
        written.mark(0)
        first_ns = read.start_ns(0)
        for _ in range(1000):
            written.mark(0)
        written.mark(2)
        assert (read.jobs, read.missing(), read.repeated()) == (4, 2, 1)
        assert read.start_ns(0) == read.first_start_ns() == first_ns > 0
        assert read.start_ns(1) == 0


@pytest.mark.parametrize(
    "wrong", [{"jobs": 9}, {"concurrency": 0}, {"callers": 0}, {"batch": 0}, {"repeat": 0}]
)
def test_a_load_that_cannot_be_meant_is_refused_by_name(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"--{next(iter(wrong))}"):
        Load(url="memory://", **wrong)


@pytest.mark.parametrize("wrong", [{"rate": 0.0}, {"seconds": 0.0}, {"repeat": 0}])
def test_a_pace_that_gives_no_job_is_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"--{next(iter(wrong))}"):
        Pace(url="memory://", **wrong)  # pyright: ignore[reportArgumentType]


def test_the_command_prints_one_json_object() -> None:
    done = ropeway(
        "bench", "throughput", "memory://", "--jobs=50", "--repeat=2", "--task=sync", "--json"
    )
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told.keys() >= SETTINGS | THROUGHPUT | {"spread"}
    assert (told["scheme"], told["task"], told["runs"]) == ("memory", "sync", 2)


def test_the_command_prints_a_table_for_a_person() -> None:
    done = ropeway("bench", "latency", "memory://", "--rate", "100", "--seconds", "0.2")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["FIGURE", "VALUE", "UNIT"] in rows
    assert ["lost", "0"] in rows


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("throughput", "carrier-pigeon://x"), "carrier-pigeon"),
        (("throughput", "memory://", "--jobs", "1"), "--jobs 1"),
        (("latency", "memory://", "--rate", "0"), "--rate 0"),
    ],
)
def test_bad_input_is_one_line_that_names_it(arguments: tuple[str, ...], named: str) -> None:
    done = ropeway("bench", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert named in done.stderr
