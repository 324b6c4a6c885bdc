"""`Offload`: a record keeps a reference, a blob store keeps the bytes (the claim-check pattern).

A blob is written before the record that refers to it, and removed some time after the record is
gone: a broker prunes its records without knowing of blobs, so a collector looks for those whose
job has no record. A blob's key holds the id of its job for that, and nothing refers to the blob
of another job.
"""

import asyncio
import os
import re
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from hashlib import blake2b
from itertools import islice
from typing import Annotated, Any, Final, ParamSpec, TypeVar
from urllib.parse import quote, unquote

import msgspec

from ropeway import crash
from ropeway.broker import CALLS_KEPT_MS, JobStore
from ropeway.codec import REFERENCE, Encoded
from ropeway.duration import to_ms
from ropeway.errors import BlobLost, CodecError, ConfigError, OffloadFailed
from ropeway.job import Job, JobRecord, JobRef
from ropeway.offload.blobs import BlobStore, Directory
from ropeway.outcome import Ack

P = ParamSpec("P")
R = TypeVar("R")

ABOVE_BYTES: Final = 64 * 1024
GRACE_S: Final = 3600.0
_GRACE_MIN_MS: Final = 5 * CALLS_KEPT_MS
"""An enqueue may be sent again for a minute after its blob was written."""

_DIGEST_BYTES: Final = 20
_NAME_MAX: Final = 190  # of an id inside a file's name, which has 255 characters
_BATCH: Final = 500  # keys whose records are looked for in one call
# "ab/id.digest", and what a blob store may add to a file that is being written.
_KEY: Final = re.compile(rf"[0-9a-f]{{2}}/(.+)\.[0-9a-f]{{{2 * _DIGEST_BYTES}}}(?:\.part-\w+)?")


class Reference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a record holds in place of the bytes: how they are read, their size and checksum."""

    codec: str
    size: int
    blake2b: Annotated[str, msgspec.Meta(pattern=f"^[0-9a-f]{{{2 * _DIGEST_BYTES}}}$")]


class Offload:
    """Keeps payloads and results above a size outside of their records.

        from ropeway.offload import Offload

        app = Ropeway("sqlite:///jobs.db", offload=Offload("/var/lib/shop/blobs"))

    All producers and workers of the app need it. What is stored already stays readable when
    `above` changes.

    Args:
        store: a directory, or a `BlobStore`. It belongs to the jobs of one broker: blobs whose
            jobs this broker does not know are removed.
        above: encoded bytes (after compression) that still go into the record.
        grace: how long a blob stays at least, whether or not a job refers to it: longer than any
            call of enqueue may take. It is also how often each worker looks for blobs to remove.
            Seconds or a timedelta, from five minutes.

    Jobs that may replace the arguments of a waiting one (`on_conflict="replace"`) and jobs with
    ids of more than about 190 bytes keep everything in the record.

    Raises:
        ConfigError: `above` or `grace` is out of its range, or the directory cannot be used.
    """

    def __init__(
        self,
        store: str | os.PathLike[str] | BlobStore,
        *,
        above: int = ABOVE_BYTES,
        grace: float | timedelta = GRACE_S,
    ) -> None:
        if isinstance(above, bool) or not isinstance(above, int) or above < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError(f"offload above={above!r}: give a whole number of bytes over 0")
        if isinstance(store, str | os.PathLike):
            store = Directory(store)
        elif not isinstance(store, BlobStore):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError(
                f"Offload({store!r}): give a directory, or an object with the methods of BlobStore"
            )
        self.store: BlobStore = store
        self.above: int = above
        self.grace_ms: int = to_ms(grace, name="grace", minimum_ms=_GRACE_MIN_MS)

    def __repr__(self) -> str:
        return f"Offload({self.store!r}, above={self.above})"

    # -- writing ---------------------------------------------------------------------------

    async def keep_payloads(self, jobs: Sequence[Job]) -> Sequence[Job]:
        """The jobs as they are to be enqueued: those with big payloads refer to their blobs.

        The blobs are durable when this returns. The same id and payload give the same job.

        Raises:
            OffloadFailed: the blob store failed.
        """
        big = [at for at, job in enumerate(jobs) if self._is_offloaded(job)]
        if not big:
            return jobs
        references = await asyncio.gather(
            *(self._put(jobs[at].id, Encoded(jobs[at].payload, jobs[at].codec)) for at in big)
        )
        crash.point("producer.offloaded")
        kept = list(jobs)
        for at, reference in zip(big, references, strict=True):
            kept[at] = msgspec.structs.replace(jobs[at], payload=reference, codec=REFERENCE)
        return kept

    def is_big(self, ack: Ack) -> bool:
        """Whether the result of this outcome belongs into a blob."""
        return (
            ack.result is not None
            and len(ack.result) > self.above
            and _is_nameable(ack.lease.job.id)
        )

    async def keep_result(self, ack: Ack) -> Ack:
        """The outcome with its result, which `is_big`, in a blob that is durable.

        Raises:
            OffloadFailed: the blob store failed.
        """
        assert ack.result is not None, "only big results are offloaded"
        encoded = Encoded(ack.result, ack.result_codec)
        reference = await self._put(ack.lease.job.id, encoded)
        crash.point("worker.offloaded")
        return msgspec.structs.replace(ack, result=reference, result_codec=REFERENCE)

    def _is_offloaded(self, job: Job) -> bool:
        if len(job.payload) <= self.above or job.codec == REFERENCE:
            return False
        # Replaced arguments end up in the record of another job than the one in the blob's key.
        replaces = job.unique is not None and job.unique.on_conflict == "replace"
        return not replaces and _is_nameable(job.id)

    async def _put(self, job_id: str, encoded: Encoded) -> bytes:
        reference = Reference(encoded.codec, len(encoded.data), _digest(job_id, encoded.data))
        await self._ask(self.store.put, _key(job_id, reference), encoded.data)
        return msgspec.json.encode(reference)

    # -- reading ---------------------------------------------------------------------------

    async def job(self, job: Job) -> Job:
        """The job with its payload. Raises BlobLost, OffloadFailed."""
        if job.codec != REFERENCE:
            return job
        data, name = await self._get(job.id, job.payload, f"payload of job {job.id} ({job.task})")
        return msgspec.structs.replace(job, payload=data, codec=name)

    async def with_result(self, record: JobRecord) -> JobRecord:
        """The record with its result. Raises BlobLost, OffloadFailed."""
        job, status = record.job, record.status
        if status.result is None or status.result_codec != REFERENCE:
            return record
        what = f"result of job {job.id} ({job.task})"
        data, name = await self._get(job.id, status.result, what)
        return JobRecord(job, msgspec.structs.replace(status, result=data, result_codec=name))

    async def record(self, record: JobRecord) -> JobRecord:
        """The record with its payload and its result. Raises BlobLost, OffloadFailed."""
        with_result = await self.with_result(record)
        return JobRecord(await self.job(record.job), with_result.status)

    async def _get(self, job_id: str, data: bytes, what: str) -> Encoded:
        try:
            reference = msgspec.json.decode(data, type=Reference)
        except msgspec.MsgspecError as error:
            raise CodecError(f"{what}: a broken reference to a blob ({error})") from error
        key = _key(job_id, reference)
        found = await self._ask(self.store.get, key)
        if found is None:
            raise BlobLost(
                f"{what}: there is no blob {key} in {self.store!r}; all producers and workers "
                "must share one blob store, and nobody else may remove blobs. When it is back, "
                "retry the job"
            )
        if len(found) != reference.size or _digest(job_id, found) != reference.blake2b:
            raise BlobLost(
                f"{what}: the blob {key} in {self.store!r} is damaged: {len(found)} bytes with "
                f"another checksum than the {reference.size} that were written. Put it back from "
                "a backup and retry the job, or enqueue it anew"
            )
        return Encoded(found, reference.codec)

    # -- removing --------------------------------------------------------------------------

    async def collect(self, store: JobStore) -> int:
        """Remove the blobs whose jobs have no record any more; how many.

        Workers do it by themselves. Any number of processes may do it at the same time.

        Args:
            store: the open broker of the app, `app.store`.

        Raises:
            OffloadFailed: the blob store failed.
            BrokerError: the broker failed; no blob was removed without its word.
        """
        before = time.time() - self.grace_ms / 1000
        keys = await self._ask(self.store.older, before)
        removed = 0
        while batch := await self._ask(_take, keys):
            owners = {key: owner for key in batch if (owner := _owner(key)) is not None}
            ids = list(dict.fromkeys(owners.values()))
            records = await store.get([JobRef(job_id) for job_id in ids])
            gone = {job_id for job_id, found in zip(ids, records, strict=True) if found is None}
            orphans = [key for key, owner in owners.items() if owner in gone]
            if orphans:
                await self._ask(self.store.delete, orphans, before=before)
                removed += len(orphans)
        return removed

    async def _ask(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the blob store in a thread."""
        try:
            return await asyncio.to_thread(call, *args, **kwargs)
        except Exception as error:  # clients of object stores raise whatever they like
            raise OffloadFailed(
                f"{self.store!r} failed ({error!r}); the call may be repeated once it works again"
            ) from error


def _take(keys: Any) -> list[str]:
    return list(islice(keys, _BATCH))


def _is_nameable(job_id: str) -> bool:
    return len(quote(job_id, safe="")) <= _NAME_MAX


def _digest(job_id: str, data: bytes) -> str:
    """With the id: no blob passes for another job's, also where names ignore upper case."""
    hashed = blake2b(job_id.encode() + b"\0", digest_size=_DIGEST_BYTES)
    hashed.update(data)
    return hashed.hexdigest()


def _key(job_id: str, reference: Reference) -> str:
    digest = reference.blake2b
    return f"{digest[:2]}/{quote(job_id, safe='')}.{digest}"


def _owner(key: str) -> str | None:
    """The id of the job that the blob belongs to; None for a key that is not ours."""
    found = _KEY.fullmatch(key)
    return None if found is None else unquote(found[1])
