"""The app of the source report: what the worker processes import.

The database comes from ROPEWAY_URL, which `source_report.py` sets for itself and its workers.
"""

import os
import time

from source_stats import CannotMeasure, Report, Stats, kind_of, report_of, stats_of

from ropeway import Context, JobRef, Ropeway, State, codec

LEDGER_VARIABLE = "SOURCE_REPORT_LEDGER"
SLOW_VARIABLE = "SOURCE_REPORT_SLOW_MS"
PAGE = 200

app = Ropeway()


# A file that cannot be measured now cannot be measured later: no retries for these errors.
@app.task(never=(CannotMeasure, OSError), retention=3600, timeout=120)
def measure(ctx: Context[None], path: str) -> Stats:
    note_start(ctx.job.id)
    time.sleep(int(os.environ.get(SLOW_VARIABLE, "0")) / 1000)
    return stats_of(path)


@app.task(retention=3600, on_parent_failed="run")
async def merge(ctx: Context[None], root: str) -> Report:
    """Runs when all its parents, one per file, have ended; their results stay in the store."""
    note_start(ctx.job.id)
    measured: list[Stats] = []
    failed: list[tuple[str, str]] = []
    parents = ctx.job.parents
    for start in range(0, len(parents), PAGE):
        page = [JobRef(parent, ctx.job.queue) for parent in parents[start : start + PAGE]]
        for record in await app.store.get(page):
            assert record is not None, "a record is kept for an hour"
            status = record.status
            if status.state is State.COMPLETED and status.result is not None:
                measured.append(codec.decode(status.result, status.result_codec, Stats))
            else:
                error = status.errors[-1]
                path = codec.decode(record.job.payload, record.job.codec, dict[str, str])
                failed.append((kind_of(error.type, error.message), path["path"]))
        await ctx.progress(min(1, (start + PAGE) / len(parents)))
    return report_of(root, measured, failed)


def note_start(job_id: str) -> None:
    """A line in a ledger that the queue knows nothing of: this job's handler has begun."""
    ledger = os.open(os.environ[LEDGER_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(ledger, f"{job_id}\n".encode())
    finally:
        os.close(ledger)
