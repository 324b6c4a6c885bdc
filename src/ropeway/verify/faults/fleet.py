"""The processes of a run: started, struck, and ended by their own ids."""

import asyncio
import os
import signal
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ropeway.errors import RopewayError
from ropeway.verify.faults.forks import Forked, ForkServer
from ropeway.verify.ledger import Ledger

STOP_MAX_S: Final = 20.0
LOG_SHOWN: Final = 2_000  # characters of what a process said last
IMPORTED: Final = ("ropeway.worker.process.main", "ropeway.app")
REHEARSAL: Final = ("ropeway", "version")
"""With `IMPORTED`: most of what a member imports, which then costs a third as much to start."""


@dataclass(slots=True)
class _Member:
    arguments: Sequence[str]
    env: Mapping[str, str]
    process: Forked
    frozen: bool = False


class Fleet:
    """Named processes, each in a session of its own, which can be killed and started again.

    Every strike is noted in the ledger with the process id it hit, the kind, and the number of
    the strike, which is the same for all processes that are hit at once.

    Args:
        place: where each process's log is written.
        env: of the processes, besides this one's.
        broker: the module of the broker.
        ledger: where strikes are noted.
    """

    def __init__(self, place: Path, env: Mapping[str, str], broker: str, ledger: Ledger) -> None:
        self._place = place
        self._forks = ForkServer({**os.environ, **env}, [*IMPORTED, broker], REHEARSAL)
        self._ledger = ledger
        self._members: dict[str, _Member] = {}
        self._strikes = 0

    def add(self, name: str, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        """Start `python -m ARGUMENTS` under that name; `env` is its own."""
        env = env or {}
        self._members[name] = _Member(arguments, env, self._forked(name, arguments, env))

    def start(self, name: str) -> None:
        """Start it again; what it says is added to its log."""
        member = self._members[name]
        member.process = self._forked(name, member.arguments, member.env)

    def _forked(self, name: str, arguments: Sequence[str], env: Mapping[str, str]) -> Forked:
        return self._forks.start(arguments, self._place / f"{name}.log", env)

    def pid(self, name: str) -> int:
        """The process id, also of one that has just ended."""
        return self._members[name].process.pid

    def names(self, role: str) -> list[str]:
        """The members of a role (`worker` of `worker-1`) that are not frozen now."""
        return [
            name
            for name, member in self._members.items()
            if name.rpartition("-")[0] == role and not member.frozen
        ]

    def kill(self, kind: str, *names: str) -> None:
        """SIGKILL them at the same moment; returns when they are gone."""
        self._strikes += 1
        at_s = time.monotonic()
        for name in names:
            self._members[name].process.signal(signal.SIGKILL)
        for name in names:
            process = self._members[name].process
            process.wait()
            self._note(kind, process.pid, at_s)

    def kill_child(self, kind: str, pid: int) -> None:
        """SIGKILL a process that a member has started."""
        self._strikes += 1
        at_s = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        self._note(kind, pid, at_s)

    async def freeze(self, kind: str, name: str, *, seconds: float) -> None:
        """SIGSTOP the process and those it has started; SIGCONT after a while."""
        process = self._members[name].process

        async def stop_for_a_while() -> None:
            try:
                process.signal_all(signal.SIGSTOP)
                await asyncio.sleep(seconds)
            finally:
                process.signal_all(signal.SIGCONT)

        await self.trouble(kind, name, stop_for_a_while())

    async def trouble(self, kind: str, name: str, fault: Coroutine[Any, Any, None]) -> None:
        """Let a fault hit the process, which is no other one's victim meanwhile."""
        self._strikes += 1
        strike, member, pid, at_s = self._strikes, self._members[name], self.pid(name), 0.0
        member.frozen = True
        try:
            at_s = time.monotonic()
            await fault
        finally:
            member.frozen = False
            self._note(kind, pid, at_s, strike)

    async def restart(self, kind: str, name: str) -> None:
        """SIGTERM, wait for the graceful end, start again."""
        self._strikes += 1
        strike, member, at_s = self._strikes, self._members[name], time.monotonic()
        process = member.process
        member.frozen = True  # no victim meanwhile
        process.signal(signal.SIGTERM)
        try:
            await self._ended(name, process)
        finally:
            member.frozen = False
        self._note(kind, process.pid, at_s, strike, detail=str(process.returncode))
        self.start(name)

    def revive(self, role: str) -> None:
        """Start again those of a role that ended by themselves."""
        for name in self.names(role):
            if self._members[name].process.poll() is not None:
                self.start(name)

    def check(self) -> None:
        """Raise RopewayError when a process has ended that nobody has struck."""
        for name, member in self._members.items():
            code = member.process.poll()
            if code is not None and not member.frozen and not name.startswith("poison"):
                log = (self._place / f"{name}.log").read_text(errors="replace").strip()
                raise RopewayError(
                    f"{name} ended by itself with code {code}; it said: {log[-LOG_SHOWN:]}"
                )

    async def dismiss(self, role: str) -> None:
        """SIGTERM all of a role, and forget them."""
        names = self.names(role)
        for name in names:
            self._members[name].process.signal(signal.SIGTERM)
        for name in names:
            await self._ended(name, self._members.pop(name).process)

    def forget(self, role: str) -> None:
        """Let go of members that were killed for good."""
        for name in self.names(role):
            del self._members[name]

    def end(self) -> None:
        """Kill whatever is left, with all that it has started."""
        self._forks.close()

    async def _ended(self, name: str, process: Forked) -> None:
        deadline_s = time.monotonic() + STOP_MAX_S
        while process.poll() is None:
            if time.monotonic() > deadline_s:
                process.signal_all(signal.SIGKILL)
                raise RopewayError(f"{name} did not end within {STOP_MAX_S:g} s of SIGTERM")
            await asyncio.sleep(0.02)

    def _note(
        self, kind: str, pid: int, at_s: float, strike: int | None = None, *, detail: str = ""
    ) -> None:
        self._ledger.note(
            "fault",
            kind=kind,
            pid=pid,
            at_s=at_s,
            until_s=time.monotonic(),
            key=str(strike or self._strikes),
            detail=detail,
        )
