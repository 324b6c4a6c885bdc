"""The database file: its tables, its version, and what must be true before it is used."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ropeway.brokers.sqlite.connection import Connection, named
from ropeway.brokers.sqlite.flow import control, groups, keys, rules, turns
from ropeway.errors import ConfigError, SchemaMismatch, StorageCorrupt, StorageReadOnly

APPLICATION_ID = 0x524F5057  # "ROPW"
LEASE_MAX_MS = 24 * 3600 * 1000
MOUNTS: Final = Path("/proc/self/mounts")  # Linux; elsewhere there is nothing to read

_NETWORK: Final = frozenset(
    (
        *("9p", "afs", "beegfs", "ceph", "cifs", "coda", "gfs2", "glusterfs", "gpfs", "lustre"),
        *("ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "smb", "smb2", "smb3", "smbfs"),
    )
)
_NETWORK_FUSE: Final = ("ceph", "glusterfs", "gcsfuse", "goofys", "rclone", "s3fs", "sshfs")

# Codes of `jobs.state`, in the order of `State`: 0 pending, 1 scheduled, 2 available, 3 running,
# 4 retryable, 5 completed, 6 dead, 7 cancelled. Columns that most jobs leave empty cost one byte.
# A job's hot path is served by four small changes of an index: ready in and out, lease in and out.
_VERSION_1 = """
CREATE TABLE jobs (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL,
  queue TEXT NOT NULL,
  task TEXT NOT NULL,
  state INTEGER NOT NULL,
  priority INTEGER NOT NULL,
  rank REAL NOT NULL DEFAULT 0,
  due_ms INTEGER NOT NULL,
  created_at_ms INTEGER NOT NULL,
  blocked INTEGER NOT NULL DEFAULT 0,        -- 1: not the head of its ordering key, 2: parked
  flags INTEGER NOT NULL DEFAULT 0,          -- rows.Flag
  attempt INTEGER NOT NULL DEFAULT 0,
  token INTEGER NOT NULL DEFAULT 0,
  lease_until_ms INTEGER NOT NULL DEFAULT 0, -- monotonic clock of this boot
  settled_token INTEGER NOT NULL DEFAULT 0,
  worker TEXT,
  started_at_ms INTEGER,
  finished_at_ms INTEGER,
  unique_key TEXT,                           -- NULL when not held
  unique_until_ms INTEGER,                   -- set when only the window holds it
  ordering_key TEXT,
  parked_on TEXT,                            -- the limit's key or the group that it waits for
  overdue_at_ms INTEGER,                     -- not to be started from here on
  prune_at_ms INTEGER,
  result_codec TEXT,                         -- NULL: json
  format INTEGER NOT NULL DEFAULT 1,         -- of `job` and `extra`
  result BLOB,
  extra BLOB,                                -- msgpack of rows.Extra; NULL when all default
  job BLOB NOT NULL                          -- msgpack of Job
) STRICT;
CREATE UNIQUE INDEX jobs_id ON jobs (id, queue);
CREATE INDEX jobs_ready ON jobs (queue, blocked, priority DESC, rank, due_ms) WHERE state = 2;
CREATE INDEX jobs_due ON jobs (queue, due_ms) WHERE state IN (1, 4);
CREATE INDEX jobs_lease ON jobs (lease_until_ms) WHERE state = 3;
CREATE INDEX jobs_overdue ON jobs (overdue_at_ms)
  WHERE overdue_at_ms IS NOT NULL AND state IN (0, 1, 2, 4);
CREATE INDEX jobs_shown ON jobs (queue, state) WHERE state NOT IN (2, 3);
CREATE INDEX jobs_prune ON jobs (prune_at_ms) WHERE prune_at_ms IS NOT NULL;
CREATE UNIQUE INDEX jobs_key ON jobs (queue, unique_key) WHERE unique_key IS NOT NULL;
CREATE INDEX jobs_key_until ON jobs (unique_until_ms) WHERE unique_until_ms IS NOT NULL;
CREATE INDEX jobs_line ON jobs (queue, ordering_key)
  WHERE ordering_key IS NOT NULL AND state < 5;
CREATE INDEX jobs_parked ON jobs (parked_on, priority DESC, rank, due_ms)
  WHERE parked_on IS NOT NULL;
CREATE INDEX jobs_head ON jobs (queue, ordering_key)
  WHERE ordering_key IS NOT NULL AND state < 5 AND blocked = 0;

CREATE TABLE meta (
  token INTEGER NOT NULL, clock_ms INTEGER NOT NULL, boot TEXT NOT NULL,
  rules INTEGER NOT NULL, -- the version of what `rules` and `fair` say
  keys INTEGER NOT NULL   -- and of `limit_keys`
) STRICT;
INSERT INTO meta VALUES (0, 0, '', 0, 0);
CREATE TABLE counters (
  queue TEXT NOT NULL, state INTEGER NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (queue, state)
) STRICT, WITHOUT ROWID;
CREATE TABLE paused (queue TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;

-- Which job waits for which: kept as long as the child's record.
CREATE TABLE edges (
  parent_id TEXT NOT NULL, child_seq INTEGER NOT NULL, PRIMARY KEY (parent_id, child_seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX edges_child ON edges (child_seq);
-- Failed parents whose children with a seq over `after_seq` are still to be told.
CREATE TABLE cascades (
  parent_seq INTEGER PRIMARY KEY, parent_id TEXT NOT NULL, after_seq INTEGER NOT NULL
) STRICT;

-- By the minute, so that old ones can be found without an index of their own.
CREATE TABLE calls (
  minute INTEGER NOT NULL, id TEXT NOT NULL, until_ms INTEGER NOT NULL,
  answers BLOB, -- NULL: all of its jobs were new
  PRIMARY KEY (minute, id)
) STRICT, WITHOUT ROWID;
CREATE TABLE waiters (seq INTEGER NOT NULL, until_ms INTEGER NOT NULL) STRICT;
CREATE INDEX waiters_seq ON waiters (seq);
CREATE TABLE events (
  job_seq INTEGER NOT NULL, n INTEGER NOT NULL, at_ms INTEGER NOT NULL, kind TEXT NOT NULL,
  total INTEGER NOT NULL, -- bytes of this and all earlier entries of the job
  data TEXT NOT NULL, PRIMARY KEY (job_seq, n)
) STRICT, WITHOUT ROWID;
CREATE TABLE signals (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, at_ms INTEGER NOT NULL, data BLOB NOT NULL
) STRICT;
CREATE TABLE workers (id TEXT PRIMARY KEY, seen_at_ms INTEGER NOT NULL, data BLOB NOT NULL)
  STRICT, WITHOUT ROWID;
"""

_FLOW = f"{rules.SCHEMA}{keys.SCHEMA}{turns.SCHEMA}{groups.SCHEMA}{control.SCHEMA}"

MIGRATIONS: tuple[str, ...] = (_VERSION_1 + _FLOW,)
"""The script at position N brings version N to N + 1. Published ones never change."""


def create_file(path: Path) -> None:
    """Make sure that the database file exists and only its owner can read it.

    Raises:
        ConfigError: the parent directory is missing, or on a network file system.
        StorageReadOnly: the file or its directory cannot be written.
    """
    if path.is_dir():
        raise ConfigError(f"{path} is a directory; give the path of a database file in it")
    if not path.parent.is_dir():
        raise ConfigError(
            f"the directory {path.parent} of {path.name} does not exist; create it, or give "
            "another path"
        )
    refuse_network(path)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StorageReadOnly(
            f"{path} cannot be written: {error.strerror}; check its owner and mode"
        ) from error


def migrate(connection: Connection, path: Path, migrations: Sequence[str] = MIGRATIONS) -> None:
    """Bring the schema to this release's version, in one transaction; a no-op when it is there.

    Raises:
        SchemaMismatch: the file was written by a newer release.
        StorageCorrupt: the file is a database of another program.
    """
    newest = len(migrations)
    if _version(connection, path, newest) == newest:
        return
    with connection.transaction():
        for script in migrations[_version(connection, path, newest) :]:
            connection.run(script)
        connection.run(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.run(f"PRAGMA user_version = {newest}")


def begin(connection: Connection, mono_ms: int) -> int:
    """Take note of the host's boot; the time below which the schedules' clock may not fall.

    Leases are measured on the host's monotonic clock, which starts anew with each boot: those of
    an earlier boot have ended.
    """
    now = _boot()
    with connection.transaction():
        ((boot,),) = connection.rows("SELECT boot FROM meta")
        connection.run(
            "UPDATE jobs SET lease_until_ms = 0 WHERE state = 3 AND (?1 OR lease_until_ms > ?2)",
            (boot != now, mono_ms + LEASE_MAX_MS),
        )
        if boot != now:
            connection.run("UPDATE meta SET boot = ?", (now,))
        ((floor_ms,),) = connection.rows(
            "SELECT max(clock_ms, coalesce((SELECT created_at_ms FROM jobs"
            " ORDER BY seq DESC LIMIT 1), 0)) FROM meta"
        )
    return floor_ms


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:  # no Linux: a lease that no boot can have given is ended all the same
        return "unknown"


def versions(path: Path) -> tuple[int, int]:
    """The version of the file's schema (0 when there is none yet) and the newest known here.

    Raises:
        SchemaMismatch, StorageCorrupt: as `migrate`.
    """
    newest = len(MIGRATIONS)
    if not path.exists():
        return 0, newest
    with named(path):
        connection = Connection(path, synchronous="FULL", readonly=True)
        try:
            return _version(connection, path, newest), newest
        finally:
            connection.close()


def _version(connection: Connection, path: Path, newest: int) -> int:
    ((application_id,),) = connection.rows("PRAGMA application_id")
    ((version,),) = connection.rows("PRAGMA user_version")
    if application_id == 0 and version == 0:
        ((tables,),) = connection.rows("SELECT count(*) FROM sqlite_schema")
        if not tables:
            return 0
    if application_id != APPLICATION_ID:
        raise StorageCorrupt(
            f"{path} is a database of another program (application id {application_id:#x}); "
            "give the path of a Ropeway database or of a new file"
        )
    if not connection.has_checksums:
        raise StorageCorrupt(
            f"{path} has no page checksums: its header is damaged, or another program wrote the "
            "file anew. Restore it from a backup, or give another path"
        )
    if version > newest:
        raise SchemaMismatch(
            f"{path} has schema version {version}; this release knows versions up to {newest}. "
            "Upgrade Ropeway here, or use another file"
        )
    return version


def refuse_network(path: Path, *, mounts: Path = MOUNTS) -> None:
    """Refuse a database that hosts could share: none would see the locks of the others.

    Raises:
        ConfigError: the path is on a network file system, as far as the system tells.
    """
    kind = file_system(path, mounts=mounts)
    name = kind.removeprefix("fuse.")
    if kind in _NETWORK or (name != kind and name in _NETWORK_FUSE):
        raise ConfigError(
            f"{path} is on a network file system ({kind}), where the locks of SQLite cannot be "
            "relied on; give a path on a local disk"
        )


def file_system(path: Path, *, mounts: Path = MOUNTS) -> str:
    """The type of the file system that holds the path ("ext4"); "" where it cannot be told."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    place = path.resolve()
    found, deepest = "", -1
    for line in lines:
        _device, point, kind, *_options = line.split(" ")
        mounted = Path(_unescaped(point))
        # Of two mounts at one point the later one hides the earlier one.
        if len(mounted.parts) >= deepest and place.is_relative_to(mounted):
            found, deepest = kind, len(mounted.parts)
    return found


def _unescaped(point: str) -> str:
    """Spaces and the like are written in octal there."""
    for escaped, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        point = point.replace(escaped, character)
    return point
