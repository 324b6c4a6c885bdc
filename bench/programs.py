"""Calling a rival's program: its producer to the end, its worker until it is stopped or killed."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import psutil

from bench.roster import Rival

UNSUPPORTED: Final = 3  # exit code of a program that was asked for what its rival has not
TOLD: Final = 300  # characters of a program's own words


class Failed(Exception):
    """A rival did not do what it was asked; the text goes into the table."""


class Unsupported(Exception):
    """A rival has no such feature; the text goes into the table."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one measurement happens: a folder of its own and the URL of the store."""

    folder: Path
    url: str


def enqueue(rival: Rival, place: Place, *, timeout_s: float = 90, **options: Any) -> dict[str, Any]:
    """Run the producer; what it answered."""
    command = [*rival.program(), "enqueue", *_words({"url": place.url, **options})]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=timeout_s, check=False, cwd=place.folder
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"its producer took more than {timeout_s:g} s") from None
    except OSError as error:
        raise Failed(f"no producer: {error.strerror}") from None
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise Failed(f"its producer failed: {_last_words(done.stderr)}") from None
    if done.returncode == UNSUPPORTED:
        raise Unsupported(answer["unsupported"])
    if done.returncode:
        raise Failed(f"its producer failed: {_last_words(done.stderr)}")
    return answer


class Worker:
    """A rival's worker, a tree of processes. A context manager: it is killed at the end."""

    def __init__(self, rival: Rival, place: Place, **options: Any) -> None:
        self._command = [*rival.program(), "work", *_words({"url": place.url, **options})]
        self._log = place.folder / "worker.log"
        self._folder = place.folder

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                start_new_session=True,
            )
        self._root = psutil.Process(self._process.pid)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.kill()  # nothing is asked of it any more, and the store is emptied

    def kill(self) -> None:
        """SIGKILL to every process of it, as when the machine runs out of memory or power."""
        tree = self.tree()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for process in tree:
            with suppress(psutil.Error):
                process.kill()
        self._process.wait()

    def tree(self) -> list[psutil.Process]:
        """Its processes as of now."""
        try:
            return [self._root, *self._root.children(recursive=True)]
        except psutil.Error:
            return []

    def check(self) -> None:
        """Raise when it has ended by itself."""
        if self._process.poll() is not None:
            said = _last_words(self._log.read_bytes())
            raise Failed(f"its worker ended with code {self._process.returncode}: {said}")


def _words(options: Mapping[str, Any]) -> list[str]:
    words: list[str] = []
    for name, value in options.items():
        if value is True:
            words.append(f"--{name}")
        elif value is not False:
            words += [f"--{name}", str(value)]
    return words


def _last_words(output: bytes) -> str:
    lines = [line for line in output.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:TOLD] if lines else "it said nothing"


def sampled_memory(tree: list[psutil.Process]) -> int:
    """Bytes of memory of all of them; what they share is counted once, where the system tells."""
    total = 0
    for process in tree:
        with suppress(psutil.Error):
            if sys.platform == "linux":
                total += process.memory_full_info().pss
            else:
                total += process.memory_info().rss
    return total


def cpu_seconds(tree: list[psutil.Process]) -> float:
    """Of all of them, and of their children that have ended."""
    total = 0.0
    for process in tree:
        with suppress(psutil.Error):
            total += sum(process.cpu_times()[:4])
    return total
