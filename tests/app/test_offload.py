"""Big payloads and results are kept outside of their records, and go when the records go."""

import asyncio
import os
import stat
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from ropeway import CodecError, ConfigError, IdConflict, JobFailed, Ropeway, State, Unique
from ropeway.codec import REFERENCE
from ropeway.errors import BlobLost, OffloadFailed
from ropeway.job import JobRecord
from ropeway.offload import Directory, Offload
from ropeway.runtime import SYSTEM
from ropeway.worker import Worker, WorkerOptions

pytestmark = pytest.mark.anyio

ABOVE = 100
BIG = "x" * 1_000
AROUND = len('{"text":""}')  # what a payload has besides its text


def echo(text: str) -> str:
    return text


def length(text: str) -> int:
    return len(text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "blobs"
    found.mkdir()
    return found


@pytest.fixture
async def app(url: str, folder: Path) -> AsyncIterator[Ropeway[None]]:
    app = Ropeway(url, offload=Offload(folder, above=ABOVE))
    app.task(echo)
    app.task(length)
    async with app:
        yield app


async def work(app: Ropeway[None], *, offload: Offload | None = None) -> None:
    """A real worker, until there is nothing to do now."""
    options = WorkerOptions(burst=True, offload=offload or app.offload)
    await Worker(app.store, app.definitions, options=options).run()


def blobs(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*/*"))


def make_old(folder: Path) -> None:
    """As if two hours had passed for everything that is there."""
    for path in blobs(folder):
        os.utime(path, (time.time() - 7200,) * 2)


async def collected(app: Ropeway[None], folder: Path) -> int:
    """How many blobs go in the long run."""
    make_old(folder)
    assert app.offload is not None
    return await app.offload.collect(app.store)


async def stored(app: Ropeway[None], id_: str) -> JobRecord:
    (record,) = [found async for found in app.jobs.find() if found.job.id == id_]
    return record


# -- there and back -------------------------------------------------------------------------


@pytest.mark.parametrize(("over", "files"), [(0, 0), (1, 1)])
async def test_a_payload_above_the_bound_is_a_file(app, folder, over, files):
    text = "x" * (ABOVE - AROUND + over)
    job = await app.send("length", {"text": text})
    assert len(blobs(folder)) == files
    assert ((await stored(app, job.id)).job.codec == REFERENCE) is bool(files)
    await work(app)
    assert await job == len(text)


@pytest.mark.parametrize(("over", "files"), [(0, 0), (1, 1)])
async def test_a_result_above_the_bound_is_a_file(app, folder, over, files):
    @app.task
    async def make(size: int) -> str:
        return "x" * size

    job = await make.enqueue(ABOVE - len('""') + over)
    await work(app)
    assert len(blobs(folder)) == files
    assert ((await stored(app, job.id)).status.result_codec == REFERENCE) is bool(files)
    assert len(await job) == ABOVE - len('""') + over


@pytest.mark.parametrize(
    "options", [{}, {"process": True}, {"ack": "before"}, {"codec": "msgpack"}], ids=str
)
async def test_every_kind_of_task_gets_and_gives_big_values(app, options):
    task = app.task(name="kind", **options)(echo)
    job = await task.enqueue(BIG)
    await work(app)
    assert await job == (None if "ack" in options else BIG)


async def test_an_async_handler_that_waits_gets_and_gives_big_values(app):
    @app.task
    async def slow(text: str) -> str:
        await asyncio.sleep(0.01)
        return text

    job = await slow.enqueue(BIG)
    await work(app)
    assert await job == BIG


async def test_compressed_payloads_count_by_what_is_stored(app, folder):
    text = "".join(map(str, range(20_000)))
    job = await app.send("length", {"text": text})
    (path,) = blobs(folder)
    assert path.stat().st_size < len(text) / 2
    await work(app)
    assert await job == len(text)


async def test_records_are_whole_by_id_and_hold_references_in_lists(app):
    job = await app.send("echo", {"text": BIG})
    await work(app)
    whole, listed = await app.jobs.get(job), await stored(app, job.id)
    assert (whole.job.codec, len(whole.job.payload)) == ("json", AROUND + len(BIG))
    assert (whole.status.result_codec, len(whole.status.result)) == ("json", len(BIG) + 2)
    assert len(listed.job.payload) < ABOVE
    assert len(listed.status.result) < ABOVE


async def test_many_at_once(app, folder):
    task = app.task(name="many")(echo)
    jobs = await task.enqueue_many(f"{n}{BIG}" for n in range(200))
    assert len(blobs(folder)) == 200
    await asyncio.gather(*(work(app) for _ in range(3)))
    assert [await job for job in jobs] == [f"{n}{BIG}" for n in range(200)]
    assert await collected(app, folder) == 0


# -- the same job ---------------------------------------------------------------------------


async def test_the_same_id_and_arguments_are_one_job_and_one_blob(app, folder):
    await app.send("length", {"text": BIG}, id="j")
    again = await app.send("length", {"text": BIG}, id="j")
    assert not again.created
    assert len(blobs(folder)) == 1
    with pytest.raises(IdConflict):
        await app.send("length", {"text": BIG + "y"}, id="j")


async def test_unique_keys_are_made_of_the_arguments_themselves(app, folder):
    task = app.task(name="once", unique=Unique(by=["text"]))(length)
    first, second = await task.enqueue(BIG), await task.enqueue(BIG)
    assert (second.id, second.created) == (first.id, False)
    assert await collected(app, folder) == 1, "the blob of the call that changed nothing"
    await work(app)
    assert await second == len(BIG)


async def test_arguments_that_replace_those_of_a_waiting_job_stay_in_its_record(app, folder):
    task = app.task(name="last", unique=Unique(by=[], on_conflict="replace"))(length)
    job = await task.opts(delay=0.01).enqueue(BIG)
    await task.enqueue(BIG + "more")
    assert blobs(folder) == []
    assert await collected(app, folder) == 0
    await asyncio.sleep(0.02)
    await work(app)
    assert await job == len(BIG + "more")


async def test_a_job_that_was_moved_keeps_its_blob(app, folder):
    job = await app.send("length", {"text": BIG}, queue="elsewhere")
    await app.jobs.move(job, "default")
    assert await collected(app, folder) == 0
    await work(app)
    assert await job == len(BIG)


async def test_an_edit_of_arguments_writes_another_blob(app, folder):
    job = await app.send("length", {"text": BIG}, delay=60)
    await app.jobs.edit(job, {"text": BIG + BIG})
    assert len(blobs(folder)) == 2
    await app.jobs.run_now(job)
    await work(app)
    assert await job == 2 * len(BIG)


async def test_an_edit_may_make_a_payload_small_and_big(app, folder):
    job = await app.send("length", {"text": "small"}, delay=60)
    await app.jobs.edit(job, {"text": BIG})
    assert (await stored(app, job.id)).job.codec == REFERENCE
    await app.jobs.edit(job, {"text": "small"})
    assert (await stored(app, job.id)).job.codec == "json"


async def test_an_edit_of_options_needs_no_blob(app, folder):
    job = await app.send("length", {"text": BIG})
    blobs(folder)[0].unlink()
    await app.jobs.edit(job, priority=9)
    assert (await stored(app, job.id)).job.priority == 9


# -- removed with the record ----------------------------------------------------------------


async def test_blobs_go_with_the_record(app, folder):
    job, other = [await app.send("echo", {"text": f"{n}{BIG}"}) for n in range(2)]
    await work(app)
    assert await collected(app, folder) == 0
    await app.jobs.delete(job)
    assert await collected(app, folder) == 2, "a payload and a result"
    assert await other == f"1{BIG}"


async def test_a_blob_stays_for_its_grace_whatever_its_job_does(app, folder):
    job = await app.send("length", {"text": BIG})
    await app.jobs.delete(job)
    assert await app.offload.collect(app.store) == 0
    assert len(blobs(folder)) == 1


async def test_a_result_that_is_not_kept_reaches_who_waits_for_it(app, folder):
    task = app.task(name="forgotten", retention=0)(echo)
    job = await task.enqueue(BIG)
    waiting = asyncio.create_task(job.result())
    await asyncio.sleep(0.01)
    await work(app)
    assert await waiting == BIG
    await app.jobs.delete(job)  # some stores keep it a while for those who wait
    assert await collected(app, folder) == 2
    assert blobs(folder) == []


async def test_a_blob_that_is_written_again_is_not_removed_for_its_old_age(folder):
    directory = Directory(folder)
    directory.put("ab/job.digest", b"1")
    make_old(folder)
    now = time.time()
    (old,) = directory.older(now - 60)
    directory.put(old, b"1")
    directory.delete([old], before=now - 60)
    assert directory.get(old) == b"1"


async def test_collectors_and_producers_do_not_get_in_each_others_way(app, folder):
    """The same id again and again, each time with its record removed and its blob old."""
    stop = False

    async def collector() -> None:
        while not stop:
            await app.offload.collect(app.store)

    collecting = [asyncio.create_task(collector()) for _ in range(2)]
    for _ in range(50):
        job = await app.send("length", {"text": BIG}, id="j")
        assert (await app.jobs.get(job)).job.codec == "json"
        await app.jobs.delete(job)
        make_old(folder)
    stop = True
    await asyncio.gather(*collecting)


async def test_a_worker_collects_by_itself(app, folder):
    class AtOnce(Random):
        def uniform(self, a: float, b: float) -> float:
            return a

    job = await app.send("length", {"text": BIG})
    await app.jobs.delete(job)
    make_old(folder)
    runtime = replace(SYSTEM, random=AtOnce())
    options = WorkerOptions(offload=app.offload)
    worker = Worker(app.store, app.definitions, options=options, runtime=runtime)
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(10):
        while blobs(folder):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    worker.stop()
    await running


async def test_what_a_kill_left_of_a_file_is_collected_and_foreign_files_are_not(app, folder):
    job = await app.send("length", {"text": BIG}, id="j")
    (path,) = blobs(folder)
    path.with_name(f"{path.name}.part-0f").write_bytes(b"half")
    path.with_name("notes.txt").write_text("not ours")
    (folder / "more").mkdir()
    (folder / "more" / path.name).write_text("not ours either")
    assert await collected(app, folder) == 0
    await app.jobs.delete(job)
    assert await collected(app, folder) == 2
    assert [found.parent.name for found in blobs(folder)] == [path.parent.name, "more"]


@pytest.mark.parametrize("id_", ["a/b", "..", "ü 日本 %2F", ".hidden", f"x.{40 * '0'}", "y.part-1"])
async def test_any_id_can_name_a_blob(app, folder, id_):
    job = await app.send("length", {"text": BIG}, id=id_)
    assert len(blobs(folder)) == 1
    assert await collected(app, folder) == 0
    await work(app)
    assert await job == len(BIG)
    await app.jobs.delete(job)
    assert await collected(app, folder) == 1


async def test_a_job_whose_id_is_too_long_for_a_file_keeps_its_values(app, folder):
    job = await app.send("echo", {"text": BIG}, id="i" * 300)
    await work(app)
    assert await job == BIG
    assert blobs(folder) == []


# -- lost, damaged, out of reach ------------------------------------------------------------


@pytest.mark.parametrize("harm", ["missing", "cut", "changed"])
async def test_a_lost_payload_buries_the_job_which_runs_once_the_blob_is_back(app, folder, harm):
    job = await app.send("length", {"text": BIG})
    (path,) = blobs(folder)
    whole = path.read_bytes()
    hurt(path, harm)
    with pytest.raises(BlobLost, match=f"payload of job {job.id} .*{path.name}"):
        await app.jobs.get(job)
    await work(app)
    status = (await stored(app, job.id)).status
    assert (status.state, status.reason) == (State.DEAD, "bad payload")
    with pytest.raises(JobFailed, match=path.name):
        await job
    path.write_bytes(whole)
    await app.jobs.retry(job)
    await work(app)
    assert await job == len(BIG)


@pytest.mark.parametrize("harm", ["missing", "cut", "changed"])
async def test_a_lost_result_says_so(app, folder, harm):
    @app.task
    async def make() -> str:
        return BIG

    job = await make.enqueue()
    await work(app)
    (path,) = blobs(folder)
    hurt(path, harm)
    with pytest.raises(BlobLost, match=f"result of job {job.id} .*{path.name}"):
        await job


def hurt(path: Path, harm: str) -> None:
    data = path.read_bytes()
    match harm:
        case "missing":
            path.unlink()
        case "cut":
            path.write_bytes(data[:-1])
        case _:
            path.write_bytes(data[:-1] + b"!")


async def test_a_worker_without_offload_leaves_the_job_to_others(app, url):
    job = await app.send("length", {"text": BIG})
    plain = WorkerOptions(burst=True)
    await Worker(app.store, app.definitions, options=plain).run()
    status = (await stored(app, job.id)).status
    assert (status.state, status.reason, status.attempt) == (State.SCHEDULED, "no_offload", 0)
    await app.jobs.run_now(job)
    await work(app)
    assert await job == len(BIG)


async def test_an_app_without_offload_says_what_it_lacks(app):
    job = await app.send("echo", {"text": BIG})
    await work(app)
    async with Ropeway(app.store) as plain:
        with pytest.raises(CodecError, match=r"outside of the job's record; give the app the off"):
            await plain.handle(job.id)
        assert (await plain.jobs.get(job.id)).job.codec == REFERENCE


async def test_a_reference_that_nobody_wrote_buries_the_job(app):
    job = await app.send("length", {"text": BIG}, delay=60)
    record = await stored(app, job.id)
    forged = record.job.payload.replace(b'"blake2b":"', b'"blake2b":"../../')
    await app.jobs.delete(job)
    await app.store.enqueue([type(record.job)(id="f", task="length", payload=forged, codec="ref")])
    await work(app)
    assert (await stored(app, "f")).status.reason == "bad payload"


class Memory:
    """A blob store as a program may bring its own: anything with these four methods."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[bytes, float]] = {}
        self.fails = False

    def _check(self) -> None:
        if self.fails:
            raise OSError("the bucket is away")

    def put(self, key: str, data: bytes) -> None:
        self._check()
        self.kept[key] = data, time.time()

    def get(self, key: str) -> bytes | None:
        self._check()
        return self.kept.get(key, (None, 0))[0]

    def older(self, before: float) -> Iterator[str]:
        self._check()
        return iter([key for key, (_, at) in self.kept.items() if at < before])

    def delete(self, keys: Sequence[str], *, before: float) -> None:
        for key in keys:
            if self.kept[key][1] < before:
                del self.kept[key]


@pytest.fixture
async def bucket(url: str) -> AsyncIterator[tuple[Ropeway[None], Memory]]:
    memory = Memory()
    async with Ropeway(url, offload=Offload(memory, above=ABOVE)) as app:
        app.task(echo)
        yield app, memory


async def test_any_object_with_the_methods_is_a_blob_store(bucket):
    app, memory = bucket
    job = await app.send("echo", {"text": BIG})
    await work(app)
    assert await job == BIG
    await app.jobs.delete(job)
    memory.kept = {key: (data, 0.0) for key, (data, _) in memory.kept.items()}
    assert await app.offload.collect(app.store) == 2
    assert memory.kept == {}


async def test_nothing_is_enqueued_when_the_blob_store_fails(bucket):
    app, memory = bucket
    memory.fails = True
    with pytest.raises(OffloadFailed, match="the bucket is away"):
        await app.send("echo", {"text": BIG})
    assert await app.jobs.count() == 0


async def test_a_job_waits_while_its_payload_is_out_of_reach(bucket):
    app, memory = bucket
    job = await app.send("echo", {"text": BIG})
    memory.fails = True
    await work(app)
    status = (await stored(app, job.id)).status
    assert (status.state, status.reason, status.attempt) == (State.SCHEDULED, "offload_failed", 0)
    memory.fails = False
    await app.jobs.run_now(job)
    await work(app)
    assert await job == BIG


async def test_a_job_whose_result_cannot_be_kept_runs_again(bucket):
    app, memory = bucket

    @app.task
    async def make() -> str:
        memory.fails = not memory.fails
        return BIG

    memory.fails = False
    job = await make.enqueue()
    await work(app)
    status = (await stored(app, job.id)).status
    assert (status.state, status.reason, status.attempt) == (State.SCHEDULED, "offload_failed", 0)
    await app.jobs.run_now(job)
    await work(app)
    assert await job == BIG


# -- bad input and the directory ------------------------------------------------------------


@pytest.mark.parametrize("above", [0, -1, 1.5, True, None])
def test_a_bound_that_is_no_size_is_refused(folder, above):
    with pytest.raises(ConfigError, match=r"above=.*: give a whole number of bytes over 0"):
        Offload(folder, above=above)


@pytest.mark.parametrize("grace", [0, 299, float("nan")])
def test_a_grace_shorter_than_an_enqueue_may_take_is_refused(folder, grace):
    with pytest.raises(ConfigError, match="grace"):
        Offload(folder, grace=grace)


def test_a_queue_may_not_make_callers_wait_longer_than_their_blobs_stay(folder):
    app = Ropeway("memory://", offload=Offload(folder, grace=300))
    with pytest.raises(ConfigError, match=r"wait=200 .*half of the offload's grace"):
        app.queue("slow", max_length=1, on_full="wait", wait=200)


def test_a_directory_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="there is no directory .*nowhere; make it first"):
        Offload(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="there is no directory"):
        Offload(str(tmp_path / "file"))


def test_a_directory_where_no_file_can_be_made_is_refused():
    with pytest.raises(ConfigError, match="offload: "):
        Offload("/proc/self")


def test_an_object_that_is_no_blob_store_is_refused():
    with pytest.raises(ConfigError, match="methods of BlobStore"):
        Offload(object())  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("fsync", [True, False])
def test_files_are_for_their_owner_alone(folder, fsync):
    directory = Directory(folder, fsync=fsync)
    directory.put("ab/key", b"data")
    assert directory.get("ab/key") == b"data"
    assert stat.S_IMODE((folder / "ab" / "key").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / "ab").stat().st_mode) == 0o700


def test_a_write_that_fails_leaves_nothing_behind(folder):
    directory = Directory(folder)
    with pytest.raises(TypeError):
        directory.put("ab/key", "a text")  # pyright: ignore[reportArgumentType]
    assert blobs(folder) == []
