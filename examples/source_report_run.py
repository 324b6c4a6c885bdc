"""One run of the source report: workers, jobs, the kill, and what the ledger says afterwards."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from subprocess import STDOUT, Popen, TimeoutExpired
from uuid import uuid4

from source_report_app import LEDGER_VARIABLE, PAGE, app, measure, merge
from source_report_view import Facts, progress, show
from source_stats import Report, Stats, plain_report

from ropeway import Filter, Handle, State

CONCURRENCY = 2  # handlers at a time in each worker process
TIMEOUT_S = 900
ENDED = (State.COMPLETED, State.DEAD, State.CANCELLED)


@dataclass
class Killed:
    """The worker process that was killed, when, and what it was doing."""

    pid: int
    after_files: int
    jobs_held: int


async def run(folder: str, paths: list[str], *, place: Path, workers: int, kill: bool) -> int:
    queue = f"source-report-{uuid4().hex[:8]}"  # the database may be shared with other work
    async with app:
        began = time.monotonic()
        with worker_processes(queue, workers, log=place / "workers.log") as process:
            files = await measure.opts(queue=queue).enqueue_many(paths)
            merging = await merge.opts(queue=queue, parents=files).enqueue(folder)
            enqueued_s = time.monotonic() - began
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(watch(queue, len(paths), process, kill=kill))
                report = await merging.result(timeout=TIMEOUT_S)
            killed = watching.result()
            took_s = time.monotonic() - began
        jobs = [*files, merging]
        lost = await lost_jobs(jobs)
        starts = starts_in_ledger()
    print("Computing the same numbers in one plain process…", flush=True)
    began = time.monotonic()
    plain = plain_report(folder, paths)
    facts = Facts(
        jobs=len(jobs),
        workers=workers,
        enqueued_s=enqueued_s,
        took_s=took_s,
        plain_s=time.monotonic() - began,
        killed="no worker was killed" if killed is None else as_words(killed),
        lost=lost + sum(job.id not in starts for job in jobs),
        repeated=sum(count > 1 for count in starts.values()),
        agrees=plain == report,
    )
    show(folder, report, facts)
    return 0 if facts.lost == 0 and facts.agrees else 1


@contextlib.contextmanager
def worker_processes(queue: str, count: int, *, log: Path) -> Generator[Popen[bytes]]:
    """A supervisor with `count` worker processes, stopped at the end."""
    command = [sys.executable, "-m", "ropeway", "worker", "source_report_app:app"]
    command += ["--queues", queue, "--processes", str(count), "--concurrency", str(CONCURRENCY)]
    with log.open("wb") as output:
        here = Path(__file__).parent  # where the worker finds its modules
        process = Popen(  # noqa: S603 - this very interpreter
            command, cwd=here, stdout=output, stderr=STDOUT, start_new_session=True
        )
        try:
            yield process
        except BaseException:
            print(log.read_text(errors="replace")[-4_000:], file=sys.stderr)
            raise
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


async def watch(queue: str, total: int, process: Popen[bytes], *, kill: bool) -> Killed | None:
    """Show the progress until everything has ended; kill one busy worker process half-way."""
    killed: Killed | None = None
    with progress(total + 1) as advance:
        while True:
            counts = Counter[State]()
            for info in await app.queues.list():
                if info.name == queue:
                    counts.update(info.counts)
            ended = sum(counts[state] for state in ENDED)
            advance(ended, counts[State.DEAD], counts[State.RUNNING])
            if ended > total:
                return killed
            if kill and killed is None and ended >= total // 2:
                killed = await kill_one(queue, ended)
            if process.poll() is not None:
                raise RuntimeError(f"the workers ended with code {process.returncode}")
            await asyncio.sleep(0.05)


async def kill_one(queue: str, after_files: int) -> Killed | None:
    """SIGKILL to a worker process that runs a job right now."""
    pids = {worker.id: worker.pid for worker in await app.store.workers()}
    running = Filter(queue=queue, states=frozenset({State.RUNNING}))
    holders = [record.status.worker async for record in app.jobs.find(running)]
    for worker in holders:
        if worker in pids:
            os.kill(pids[worker], signal.SIGKILL)
            return Killed(pids[worker], after_files, holders.count(worker))
    return None


def starts_in_ledger() -> Counter[str]:
    """How often the handler of each job has begun, by the handlers' own word."""
    return Counter(Path(os.environ[LEDGER_VARIABLE]).read_text("ascii").split())


async def lost_jobs(jobs: list[Handle[Stats] | Handle[Report]]) -> int:
    """How many of the jobs have no record of their end."""
    lost = 0
    for start in range(0, len(jobs), PAGE):
        records = await app.store.get([job.ref for job in jobs[start : start + PAGE]])
        lost += sum(record is None or record.status.state not in ENDED for record in records)
    return lost


def as_words(killed: Killed) -> str:
    return (
        f"process {killed.pid} by SIGKILL after {killed.after_files:,} files, "
        f"while it held {killed.jobs_held} jobs"
    )
