"""A witness inside a SQLite file: triggers."""

import time
from collections import Counter
from pathlib import Path

from ropeway.brokers.sqlite.connection import Connection
from ropeway.job import FINAL, State
from ropeway.verify.load import QUEUES


class SQLiteWitness:
    """Triggers on the table of jobs, which write into a table of their own."""

    def __init__(self, url: str) -> None:
        self._path = sqlite_path(url)

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


def sqlite_path(url: str) -> Path:
    """The file that a `sqlite:///path?options` URL names."""
    return Path(url.removeprefix("sqlite:///").partition("?")[0]).absolute()
