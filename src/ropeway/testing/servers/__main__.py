"""`python -m ropeway.testing.servers VERB [NAME...]`: what scripts/services runs."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ropeway.testing.servers.services import FOLDER_VARIABLE, SERVICES, Services
from ropeway.testing.servers.waiting import ServerError

_VERBS = {
    "start": "start them unless they run, and keep them running",
    "stop": "end them and remove their data",
    "list": "print their names",
    "status": "print what runs; exit 1 when one does not",
    "env": "print the variables that tell the tests their URLs",
}


def _start(services: Services, names: Sequence[str], user: int | None) -> int:
    with ThreadPoolExecutor(len(names)) as pool:
        started = {name: pool.submit(services.start, name, user=user) for name in names}
    failed = 0
    for name, future in started.items():
        error = future.exception()
        if error is None:
            print(f"{name}: running, {future.result()}")
        elif isinstance(error, ServerError | OSError):
            print(f"error: {name}: {error}", file=sys.stderr)
            failed = 1
        else:
            raise error
    return failed


def _stop(services: Services, names: Sequence[str], user: int | None) -> int:
    for name in names:
        if services.stop(name, user=user):
            print(f"{name}: stopped")
    return 0


def _status(services: Services, names: Sequence[str]) -> int:
    urls = {name: services.url(name) for name in names}
    for name, url in urls.items():
        pids = " ".join(map(str, services.pids(name)))
        print(f"{name}: {f'running, {url}, pid {pids}' if url else 'stopped'}")
    return 0 if all(urls.values()) else 1


def _env(services: Services, names: Sequence[str]) -> int:
    for name in names:
        if url := services.url(name):
            print(f"{SERVICES[name].variable}={shlex.quote(url)}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit status."""
    parser = argparse.ArgumentParser(
        prog="scripts/services",
        description="The servers that the tests need, shared by all that run on this machine.",
        epilog="; ".join(f"{verb}: {what}" for verb, what in _VERBS.items()),
    )
    parser.add_argument("verb", choices=_VERBS, nargs="?", default="status")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SERVICES)}")
    parser.add_argument(
        "--for",
        dest="user",
        type=int,
        metavar="PID",
        help="start: only until this process stops them or ends; stop: unless others need them",
    )
    given = parser.parse_args(arguments)
    names = given.names or list(SERVICES)
    if unknown := sorted(set(names) - set(SERVICES)):
        parser.error(f"no service {', '.join(unknown)}; there are {', '.join(SERVICES)}")
    services = Services(Path(os.environ.get(FOLDER_VARIABLE) or ".services"))
    match given.verb:
        case "start":
            return _start(services, names, given.user)
        case "stop":
            return _stop(services, names, given.user)
        case "status":
            return _status(services, names)
        case "env":
            return _env(services, names)
        case _:
            print("\n".join(names))
            return 0


if __name__ == "__main__":
    sys.exit(main())
