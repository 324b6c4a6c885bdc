"""A witness inside the store, which shares nothing with the broker's own statements.

Each URL scheme has its own; a broker that is to be verified adds one to `WITNESSES`.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from ropeway.brokers.registry import broker_from_url
from ropeway.brokers.sqlite.connection import Connection
from ropeway.errors import ConfigError
from ropeway.job import FINAL, State
from ropeway.verify.load import QUEUES


class Witness(Protocol):
    """Sees each job become final, by means of the store and not of the broker."""

    def install(self) -> None:
        """Begin to watch. The broker's schema is there already."""
        ...

    def finals(self) -> Counter[str]:
        """How often each job has become final."""
        ...

    def revived(self) -> list[str]:
        """The jobs that have left a final state."""
        ...

    def remove(self) -> None:
        """Stop watching, and leave no trace."""
        ...

    def hold(self, seconds: float) -> None:
        """Keep every broker from writing for so long: the store is away. Blocks."""
        ...


class SQLiteWitness:
    """Triggers on the table of jobs, which write into a table of their own."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def install(self) -> None:
        """Create table and triggers; those that a killed run has left behind go first."""
        states = list(State)
        final = ", ".join(str(states.index(state)) for state in sorted(FINAL))
        ours = ", ".join(f"'{queue}'" for queue in QUEUES)
        self.remove()
        self._run(
            f"""
            CREATE TABLE verify_witness (id TEXT NOT NULL, final INTEGER NOT NULL);
            CREATE TRIGGER verify_final AFTER UPDATE OF state ON jobs
            WHEN new.state IN ({final}) AND new.queue IN ({ours})
            BEGIN INSERT INTO verify_witness VALUES (new.id, 1); END;
            CREATE TRIGGER verify_revived AFTER UPDATE OF state ON jobs
            WHEN old.state IN ({final}) AND new.state NOT IN ({final}) AND new.queue IN ({ours})
            BEGIN INSERT INTO verify_witness VALUES (new.id, 0); END;
            """
        )

    def remove(self) -> None:
        """Drop them."""
        self._run(
            "DROP TRIGGER IF EXISTS verify_final; DROP TRIGGER IF EXISTS verify_revived;"
            "DROP TABLE IF EXISTS verify_witness"
        )

    def finals(self) -> Counter[str]:
        """The lines of the first trigger."""
        return Counter(self._ids(final=True))

    def revived(self) -> list[str]:
        """The lines of the second one."""
        return self._ids(final=False)

    def hold(self, seconds: float) -> None:
        """As another program does that has a transaction open on the file."""
        connection = self._open()
        try:
            with connection.transaction():
                time.sleep(seconds)
        finally:
            connection.close()

    def _open(self) -> Connection:
        return Connection(self._path, synchronous="NORMAL")

    def _run(self, statements: str) -> None:
        connection = self._open()
        try:
            connection.run(statements)
        finally:
            connection.close()

    def _ids(self, *, final: bool) -> list[str]:
        connection = self._open()
        try:
            rows = connection.rows("SELECT id FROM verify_witness WHERE final = ?", (int(final),))
        finally:
            connection.close()
        return [str(id_) for (id_,) in rows]


def _sqlite(url: str) -> Witness:
    return SQLiteWitness(sqlite_path(url))


def sqlite_path(url: str) -> Path:
    """The file that a `sqlite:///path?options` URL names."""
    return Path(url.removeprefix("sqlite:///").partition("?")[0]).absolute()


WITNESSES: Mapping[str, Callable[[str], Witness]] = {"sqlite": _sqlite}
"""The witness of each URL scheme."""


def witness_of(url: str) -> Witness:
    """The witness for this URL.

    Raises:
        ConfigError: no broker's URL, a store inside this process, or one without a witness.
    """
    capabilities = broker_from_url(url).capabilities
    if not capabilities.shared:
        raise ConfigError(
            f"{url}: {capabilities.name} lives and dies with its process, so there is nothing "
            "left to verify after a kill. Give a broker that processes share, such as "
            "sqlite:///x.db; what this one promises is tested by the contract suite and by the "
            "simulation"
        )
    scheme = url.partition(":")[0]
    make = WITNESSES.get(scheme)
    if make is None:
        known = ", ".join(f"{name}://" for name in WITNESSES)
        raise ConfigError(f"{scheme}://: there is no witness for it; known are {known}")
    return make(url)
