"""Editing a waiting job: other arguments, other options, the same job."""

from collections.abc import Mapping
from typing import Any, cast

import msgspec

from ropeway import codec
from ropeway.action import EditJob
from ropeway.definition import Definition
from ropeway.job import Job
from ropeway.options import Changes, EditOptions, job_changes, known
from ropeway.task import named_key, ordering_key
from ropeway.unique import Unique


def edit_job(
    job: Job,
    arguments: Mapping[str, object],
    options: Mapping[str, Any],
    *,
    definition: Definition | None,
) -> EditJob:
    """The action that replaces some of a job's arguments and options.

    It is refused by the store when the job was edited by somebody else meanwhile.

    Raises:
        ConfigError: an option is unknown, cannot be meant, or cannot be edited.
        CodecError: the arguments do not fit the task's types.
    """
    known(options, EditOptions, what="option of an edit")
    changes = job_changes(options)
    fields: dict[str, Any] = dict(changes.fields)
    if "tags" in options:
        own = definition.tags if definition is not None else ()
        fields["tags"] = tuple(dict.fromkeys((*own, *changes.tags)))
    values: Mapping[str, object] = {}
    if arguments or isinstance(changes.unique, Unique):
        payload, values = _merged(job, arguments, definition)
        fields |= {"payload": payload.data, "codec": payload.codec} if arguments else {}
    if arguments and definition is not None and definition.ordering is not None:
        fields.setdefault("ordering_key", ordering_key(definition, values))
    fields |= _unique(job, changes, values, definition if arguments else None)
    return EditJob(
        ref=job.ref, job=msgspec.structs.replace(job, **fields), if_revision=job.revision
    )


def _merged(
    job: Job, arguments: Mapping[str, object], definition: Definition | None
) -> tuple[codec.Encoded, Mapping[str, object]]:
    """The payload with the new arguments, and the values that unique keys are made of."""
    what = f"payload of job {job.id}"
    stored = codec.decode(job.payload, job.codec, dict[str, Any], what=what)
    form: codec.Format = "json" if job.codec.startswith("json") else "msgpack"
    limit = codec.STORED_MAX_BYTES if definition is None else definition.payload_max_bytes
    new = codec.encode({**stored, **arguments}, codec=form, limit_bytes=limit, what=what)
    if definition is None:
        return new, {**stored, **arguments}
    args, kwargs = definition.parameters.decode(new.data, new.codec)
    return new, definition.parameters.values(args, kwargs, codec=form)


def _unique(
    job: Job, changes: Changes, values: Mapping[str, object], definition: Definition | None
) -> dict[str, Any]:
    """The unique key: as told, else made anew of changed arguments, else left as it is."""
    if changes.unique_given:
        if isinstance(changes.unique, str):
            return {"unique": named_key(changes.unique, None)}
        wanted = changes.unique
        return {"unique": None if wanted is None else wanted.key_of(job.task, values)}
    if definition is None or definition.unique is None or job.unique is None:
        return {}
    if not job.unique.key.startswith(f"{job.task}:"):
        return {}  # a key that its producer chose
    return {"unique": cast(Any, definition.unique.key_of(job.task, values))}
