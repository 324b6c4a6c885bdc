"""Every exception that Ropeway raises; nothing else.

RopewayError
├── ConfigError              a declaration or an option is wrong (also a ValueError)
├── Unsupported              the broker cannot do what the job asks for; nothing was written
├── CodecError               a value does not fit its types, or bytes are not what they claim
│   ├── PayloadTooLarge      over the size limit, before or after decompression
│   └── BlobLost             an offloaded payload or result is missing or damaged
├── BrokerError              the store or the server
│   ├── Disconnected         not reachable now; the call had no effect or may be repeated
│   ├── EnqueueUnknown       the enqueue may or may not have been stored; resend with the same ids
│   ├── PartlyEnqueued       a transport stored some jobs of the call: `.results` says which
│   ├── OffloadFailed        the blob store, not the broker; nothing was enqueued
│   ├── StorageFull          no space left; nothing of the call was written
│   ├── StorageReadOnly      the file or directory cannot be written
│   ├── StorageGone          the file was deleted or replaced while it was open
│   ├── StorageCorrupt       what is stored is not what was written
│   └── SchemaMismatch       the store was written by a newer release
├── IdConflict               the id belongs to a job with another task or payload
├── Duplicate                the unique key is held and the policy says "reject"
├── JobNotFound              no such job in this store
├── JobError                 how an awaited job ended
│   ├── JobFailed            dead; carries the handler's error and traceback
│   │   ├── JobTimeout       dead because it ran past its timeout or deadline
│   │   └── JobExpired       dead because it was not started in time
│   └── JobCancelled         cancelled
└── ResultExpired            the record was pruned before its result was read

Stop                         why a run has to end; raised inside of handlers only
└── SoftTimeout              the soft time limit has passed (also a TimeoutError)

Expected answers (a duplicate, a lost lease) are values, not exceptions: see `outcome.py`.
"""

from collections.abc import Sequence


class RopewayError(Exception):
    """The root of all errors raised by Ropeway."""


class ConfigError(RopewayError, ValueError):
    """A declaration, an option or a URL is wrong. The message names the value and the way out."""


class Unsupported(RopewayError):
    """The broker cannot keep a promise that the job asks for. Raised before anything is written."""


class CodecError(RopewayError, ValueError):
    """A value cannot be encoded, or stored bytes do not decode into the annotated types."""


class PayloadTooLarge(CodecError):
    """A payload or a result is over its limit (bytes), before or after decompression."""


class BlobLost(CodecError):
    """An offloaded payload or result is missing or damaged. The message names the blob."""


class BrokerError(RopewayError):
    """The store or the server failed. Nothing acknowledged is lost."""


class Disconnected(BrokerError):
    """The broker cannot be reached now. The call may be repeated."""


class EnqueueUnknown(BrokerError):
    """The jobs may or may not have been stored. Enqueueing the same ids again is safe."""


class PartlyEnqueued(BrokerError):
    """A transport stored only some of the jobs; `results` holds the answers by position."""

    def __init__(self, message: str, results: Sequence[object]) -> None:
        super().__init__(message)
        self.results = results


class OffloadFailed(BrokerError):
    """The blob store of big payloads and results failed. Nothing of the call was enqueued."""


class StorageFull(BrokerError):
    """There is no space left. Nothing of the call was written; it may be repeated later."""


class StorageReadOnly(BrokerError):
    """The database file or its directory cannot be written."""


class StorageGone(BrokerError):
    """The file was deleted or replaced while it was open. Nothing of the call is kept."""


class StorageCorrupt(BrokerError):
    """What is stored is not what was written. The message names the file and the record."""


class SchemaMismatch(BrokerError):
    """The store was written by a newer release than this one."""


class IdConflict(RopewayError, ValueError):
    """The id is taken by a job with another task or payload. Nothing of the call was written."""


class Duplicate(RopewayError):
    """The unique key is held by another job and the task's policy is `on_conflict="reject"`."""

    def __init__(self, message: str, *, existing_id: str) -> None:
        super().__init__(message)
        self.existing_id = existing_id


class QueueFull(RopewayError):
    """A queue has reached its `max_length`, so some jobs of the call were not stored.

    `retry_after` estimates when there will be room, in seconds; None: nobody serves the queue.
    `refused` are the ids of the jobs that were not stored; the others of the call are.
    """

    def __init__(
        self, message: str, *, retry_after: float | None, refused: Sequence[str] = ()
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.refused: tuple[str, ...] = tuple(refused)


class JobNotFound(RopewayError, LookupError):
    """The store has no job with this id."""


class JobError(RopewayError):
    """How an awaited job ended, when it did not complete."""

    def __init__(self, message: str, *, job_id: str) -> None:
        super().__init__(message)
        self.job_id = job_id


class JobFailed(JobError):
    """The job is dead. `error_type` and `remote_traceback` are those of its last attempt."""

    def __init__(
        self, message: str, *, job_id: str, error_type: str = "", remote_traceback: str = ""
    ) -> None:
        super().__init__(message, job_id=job_id)
        self.error_type = error_type
        self.remote_traceback = remote_traceback


class JobTimeout(JobFailed):
    """The job is dead because its last attempt ran past its timeout or deadline."""


class JobExpired(JobFailed):
    """The job is dead because nobody started it before its `expires` time."""


class JobCancelled(JobError):
    """The job was cancelled."""


class ResultExpired(RopewayError):
    """The job's record is gone (pruned or deleted), so its result can no longer be read."""


class Stop(Exception):
    """Why a run has to end before its handler wants to. `Context.check` raises it."""


class SoftTimeout(Stop, TimeoutError):
    """The task's soft time limit has passed: finish soon, the hard limit follows."""
