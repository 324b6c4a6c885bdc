"""What a broker can do, and the refusal of what it cannot."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from ropeway.errors import ConfigError, PayloadTooLarge, Unsupported
from ropeway.job import FAIR_WEIGHT_MAX, PRIORITY_MAX, Job


class Capabilities(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a broker can do, as a value with numbers. Constant once the broker is open."""

    name: str
    level: Literal["store", "transport"] = "store"
    durable: bool  # survives the end of the process
    shared: bool  # serves more than one process
    durability: str  # what "acknowledged" means, in a few words
    ordering: Literal["none", "fifo", "priority"] = "priority"
    priority_levels: int = PRIORITY_MAX + 1
    delay_max_ms: int = 2**53
    lease_max_ms: int = 24 * 3600 * 1000
    attempt_exact: bool = True
    batch_max: int = 10_000
    payload_max_bytes: int = 16 * 1024 * 1024
    unique: bool = True
    ordering_keys: bool = True
    workflow_edges: bool = True  # parents, unblocks, Ack(then)
    wakeup: Literal["push", "poll"] = "push"
    limits: bool = False  # of jobs and of queues, bounds of queues
    app_limits: bool = True  # where there are limits: also such as count over all queues
    fair: bool = False
    groups: bool = False
    schedules: bool = False

    def refuse(self, job: Job) -> None:
        """Raise before anything is written when the job asks for what this broker lacks.

        Raises:
            Unsupported: a feature that the capabilities lack.
            PayloadTooLarge: the payload is over `payload_max_bytes`.
            ConfigError: a field has a value that no broker takes.
        """
        check(job)
        if len(job.payload) > self.payload_max_bytes:
            raise PayloadTooLarge(
                f"job {job.id}: its payload has {len(job.payload)} bytes; {self.name} takes at "
                f"most {self.payload_max_bytes}. Store the data elsewhere and pass its address."
            )
        if job.delay_ms > self.delay_max_ms:
            raise Unsupported(
                f"job {job.id}: delay_ms={job.delay_ms} is longer than the {self.delay_max_ms} ms "
                f"that {self.name} can wait. Give a shorter delay."
            )
        if (job.unique or job.ordering_key or job.parents or job.unblocks) or (
            job.limits or job.fair_key or job.group_key or job.schedule_id
        ):
            self._refuse_features(job)

    def _refuse_features(self, job: Job) -> None:
        for used, able, what in (
            (job.limits, self.limits, "limits"),
            (job.fair_key, self.fair, "fair_key"),
            (job.group_key, self.groups, "group_key"),
            (job.schedule_id, self.schedules, "schedule_id"),
            (job.unique, self.unique, "unique"),
            (job.ordering_key, self.ordering_keys, "ordering_key"),
            (job.parents or job.unblocks, self.workflow_edges, "parents and unblocks"),
        ):
            if used and not able:
                raise Unsupported(
                    f"job {job.id}: {self.name} does not support {what}. Leave it out, or use a "
                    "broker whose row in the capability table has it."
                )

    def refuse_all(self, jobs: Sequence[Job]) -> None:
        """`refuse` each job of one call, and a call of more than `batch_max` jobs."""
        if len(jobs) > self.batch_max:
            raise ConfigError(
                f"{len(jobs)} jobs in one call; {self.name} takes at most {self.batch_max}. "
                "Enqueue them in several calls."
            )
        for job in jobs:
            self.refuse(job)

    def refuse_reserve(self, *, limit: int, lease_ms: int) -> None:
        """Raise ConfigError when `reserve` is asked for no job, or for a lease out of range."""
        if limit < 1:
            raise ConfigError(f"limit={limit} reserves nothing; give 1 or more")
        if not 1 <= lease_ms <= self.lease_max_ms:
            raise ConfigError(
                f"lease_ms={lease_ms} is not within 1..{self.lease_max_ms}, which is what "
                f"{self.name} can keep"
            )


def check(job: Job) -> None:
    """Raise ConfigError when a field of the job has a value that no broker takes."""
    if not (job.id and job.task and job.queue):
        raise ConfigError(f"job {job.id!r}: id, task and queue must not be empty")
    if not 0 <= job.priority <= PRIORITY_MAX:
        raise ConfigError(f"job {job.id}: priority {job.priority} is not within 0..{PRIORITY_MAX}")
    if job.delay_ms < 0 or job.crash_max < 0 or _has_other_numbers(job):
        _check_numbers(job)
    if job.delay_ms and job.scheduled_at_ms is not None:
        raise ConfigError(f"job {job.id}: give a delay or a time to start at, not both")
    if job.unique is not None and job.unblocks:
        raise ConfigError(
            f"job {job.id}: a job that others wait for may not be unique, since a duplicate "
            "would leave them waiting for ever"
        )
    if job.ordering_key is not None and (job.fair_key is not None or job.group_key is not None):
        raise ConfigError(f"job {job.id}: ordering_key excludes fair_key and group_key")
    if job.group_key is not None and (job.unique or job.limits or job.fair_key is not None):
        raise ConfigError(f"job {job.id}: group_key excludes unique, limits and fair_key")
    if job.fair_weight != 1 and not (1 <= job.fair_weight <= FAIR_WEIGHT_MAX and job.fair_key):
        raise ConfigError(
            f"job {job.id}: fair_weight={job.fair_weight} needs a fair_key, and 1 to "
            f"{FAIR_WEIGHT_MAX}"
        )
    if job.id in job.parents or (job.unblocks and any(ref.id == job.id for ref in job.unblocks)):
        raise ConfigError(f"job {job.id}: a job cannot wait for itself")


def _has_other_numbers(job: Job) -> bool:
    return not (
        job.retention_ms is None
        and job.expires_after_ms is None
        and job.deadline_after_ms is None
        and job.attempt_max is None
        and job.timeout_ms is None
    )


def _check_numbers(job: Job) -> None:
    for value, least, name in (
        (job.delay_ms, 0, "delay_ms"),
        (job.crash_max, 0, "crash_max"),
        (job.retention_ms, 0, "retention_ms"),
        (job.expires_after_ms, 0, "expires_after_ms"),
        (job.deadline_after_ms, 0, "deadline_after_ms"),
        (job.attempt_max, 1, "attempt_max"),
        (job.timeout_ms, 1, "timeout_ms"),
    ):
        if value is not None and value < least:
            raise ConfigError(f"job {job.id}: {name}={value} is too small; give {least} or more")
