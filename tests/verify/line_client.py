"""A worker of a server that answers lines: it asks through its URL, again after each failure."""

import os
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

from ropeway.verify.ledger import Ledger

TIMEOUT_S = 0.2


def ask(port: int, ledger: Ledger) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as connection:
        while True:
            connection.sendall(b"more\n")
            if connection.recv(100) != b"MORE\n":
                raise ConnectionError("the answer is not whole")
            ledger.note("start", job="job", token=1)  # it holds a lease from now on
            time.sleep(0.01)


def main() -> None:
    ledger = Ledger(Path(os.environ["ROPEWAY_VERIFY_LEDGER"]))
    port = urlsplit(os.environ["ROPEWAY_URL"]).port
    assert port is not None
    ledger.note("up")
    while True:
        try:
            ask(port, ledger)
        except OSError as error:
            ledger.note("fail", job="job", token=1, detail=type(error).__name__)
            time.sleep(0.01)


if __name__ == "__main__":
    main()
