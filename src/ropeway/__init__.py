"""Ropeway: a durable job queue. Everything a program needs is imported from here."""

from ropeway.app import Ropeway
from ropeway.broker import Filter
from ropeway.context import BatchContext, Context, current_job
from ropeway.errors import (
    BrokerError,
    CodecError,
    ConfigError,
    Duplicate,
    EnqueueUnknown,
    IdConflict,
    JobCancelled,
    JobError,
    JobExpired,
    JobFailed,
    JobNotFound,
    JobTimeout,
    QueueFull,
    ResultExpired,
    RopewayError,
    SoftTimeout,
    Unsupported,
)
from ropeway.flow.options import CircuitBreaker, Concurrency, Fair, RateLimit
from ropeway.handle import Handle
from ropeway.hooks import Event
from ropeway.job import JobRecord, JobRef, State
from ropeway.retry import Backoff, Rule
from ropeway.task import Task
from ropeway.tasks import Tasks
from ropeway.unique import Unique
from ropeway.verdict import Bury, Cancel, Retry, Snooze

__all__ = [
    "Backoff",
    "BatchContext",
    "BrokerError",
    "Bury",
    "Cancel",
    "CircuitBreaker",
    "CodecError",
    "Concurrency",
    "ConfigError",
    "Context",
    "Duplicate",
    "EnqueueUnknown",
    "Event",
    "Fair",
    "Filter",
    "Handle",
    "IdConflict",
    "JobCancelled",
    "JobError",
    "JobExpired",
    "JobFailed",
    "JobNotFound",
    "JobRecord",
    "JobRef",
    "JobTimeout",
    "QueueFull",
    "RateLimit",
    "ResultExpired",
    "Retry",
    "Ropeway",
    "RopewayError",
    "Rule",
    "Snooze",
    "SoftTimeout",
    "State",
    "Task",
    "Tasks",
    "Unique",
    "Unsupported",
    "current_job",
]
