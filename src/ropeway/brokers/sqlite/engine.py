"""Threads, connections and the commit: what runs the verbs' functions on the database.

One writer thread with one connection commits everything. It takes all the calls that wait, runs
them in one transaction, and answers them when that is durable: group commit. One reader thread
with a connection of its own serves the looks, so that a slow one holds up no write. A third, the
`Tidier` of `connection.py`, moves the journal into the database.

What waits for a change is woken at once by this process's own, within a poll by those of others.
SQLite tells nobody of a commit, but `PRAGMA data_version` costs two microseconds and changes with
every commit of another connection. While somebody waits it is asked every 2 ms as long as this
process itself has work, slowing down to every 25 ms: 40 looks a second cost less than 0.3 % of a
core. What others write does not speed it up, else the heartbeats of idle workers would keep all
of them busy.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final

import apsw

from ropeway.brokers.sqlite.connection import Connection, Gate, error_of
from ropeway.brokers.sqlite.flow.rules import FlowCache
from ropeway.brokers.sqlite.step import Step
from ropeway.clock import Clock, ForwardClock
from ropeway.errors import BrokerError, Disconnected
from ropeway.runtime import StartThread

GROUP_MAX: Final = 512  # turns of the event loop in one transaction
LIGHT_MAX: Final = 128  # jobs that may be served on the loop's own thread: 1 or 2 ms
HEAVY: Final = LIGHT_MAX + 1
_FAST_S: Final = 0.002
_SLOW_S: Final = 0.025
_SLOWER: Final = 1.1  # from one look to the next, once `_LIVELY_S` have passed without work
_LIVELY_S: Final = 1.0
_WATCH_S: Final = 1.0  # from one look at calls that have not been answered to the next

Verb = Callable[[Any, Any], Any]
"""A function of this package's verbs: (Step or Reader, argument) → answer."""


class Call:
    """One caller's request and where its answer goes."""

    __slots__ = ("argument", "error", "future", "orphaned", "result", "together", "verb", "weight")

    def __init__(self, verb: Verb, argument: Any, future: asyncio.Future[Any]) -> None:
        self.verb: Verb = verb
        self.argument: Any = argument
        self.future: asyncio.Future[Any] = future
        self.together: Verb | None = None  # the same verb for a list of arguments
        self.weight: int = HEAVY  # about how many jobs it touches
        self.orphaned: Callable[[Any], None] | None = None  # the answer has no taker
        self.result: Any = None
        self.error: BaseException | None = None

    def answer(self) -> None:
        """Give the answer to its caller, if that still waits; on the caller's loop."""
        if not self.future.done():
            if self.error is None:
                self.future.set_result(self.result)
            else:
                self.future.set_exception(self.error)
        elif self.result and self.error is None and self.orphaned is not None:
            self.orphaned(self.result)


@dataclass(frozen=True, kw_only=True)
class Desk:
    """What a lane does with calls.

    Attributes:
        serve: sets `result` or `error` of each, and must not raise; says whether somebody may
            wait for what was done, in which case `ring` is called on the loop. In the thread.
        serve_now: may serve the calls of one turn on the loop's own thread, when that is certain
            to be quick: a hand-over to a thread and back takes longer than a light write, and a
            thread that works beside a busy loop waits 5 ms for the interpreter's lock after each
            statement. None when the calls must go to the thread.
        is_stuck: what to tell callers whom nobody can serve, if that is so. On the loop.
        is_lost: what to answer in place of results that are in no file any more. On the loop.
        close: lets go of what `serve` uses; after the last call, in the thread.

    """

    serve: Callable[[list[Call]], bool]
    ring: Callable[[], None]
    is_lost: Callable[[], BrokerError | None]
    close: Callable[[], None]
    serve_now: Callable[[list[Call]], bool | None] = lambda _: None
    is_stuck: Callable[[], BrokerError | None] = lambda: None


class Lane:
    """A thread that serves calls from one event loop, batch by batch.

    Without `start_thread` everything is served on the loop.
    """

    def __init__(
        self, name: str, loop: asyncio.AbstractEventLoop, desk: Desk, *, start: StartThread | None
    ) -> None:
        self._loop = loop
        self._desk = desk
        self._fresh: list[Call] = []  # submitted since the loop's last turn
        self._handed: deque[Call] = deque()  # to the thread, and not yet answered
        self._calls: SimpleQueue[list[Call] | None] = SimpleQueue()
        self._watch: asyncio.TimerHandle | None = None
        self._ended = loop.create_future()
        self._thread = start(self._run, name) if start is not None else None

    def submit(self, call: Call) -> None:
        """Queue a call; its future is answered later. All calls of one turn go together."""
        self._fresh.append(call)
        if len(self._fresh) == 1:
            self._loop.call_soon(self._hand_over)

    def _hand_over(self) -> None:
        calls, self._fresh = self._fresh, []
        if not calls:
            return
        live = [call for call in calls if not call.future.done()]
        if live and not self._handed:
            woke = self._desk.serve_now(live)
            if woke is not None:
                self._answer(live, woke=woke)
                return
        if self._thread is None:
            self._answer(live, woke=self._desk.serve(live) if live else False)
        else:
            self._handed += calls
            self._calls.put(calls)
            if self._watch is None:
                self._watch = self._loop.call_later(_WATCH_S, self._look)

    def _look(self) -> None:
        self._watch = None
        if self._handed and not self._given_up():
            self._watch = self._loop.call_later(_WATCH_S, self._look)

    def _given_up(self) -> bool:
        """Let nobody wait for ever behind a process that was stopped in the middle of a write."""
        stuck = self._desk.is_stuck()
        if stuck is None:
            return False
        for call in self._handed:
            if not call.future.done():
                call.future.set_exception(stuck)
        return True

    async def close(self) -> None:
        """Serve what waits, then end the thread and wait for it.

        A thread that is stuck ends when it can; its callers have been told.
        """
        self._hand_over()
        if self._thread is None:
            self._desk.close()
            return
        self._calls.put(None)
        if asyncio.get_running_loop() is self._loop:
            while not (await asyncio.wait([self._ended], timeout=_WATCH_S))[0]:
                if self._given_up():
                    return
        self._thread.join()

    def _run(self) -> None:
        closing = False
        while not closing:
            batches = [self._calls.get()]
            with suppress(Empty):
                while batches[-1] is not None and len(batches) < GROUP_MAX:
                    batches.append(self._calls.get_nowait())
            closing = batches[-1] is None
            calls = [call for batch in batches if batch is not None for call in batch]
            live = [call for call in calls if not call.future.done()]
            woke = self._served(live) if live else False
            self._tell(self._take_back, live, len(calls), woke)
        try:
            self._desk.close()
        finally:
            self._tell(_end, self._ended)

    def _served(self, calls: list[Call]) -> bool:
        """What `serve` says. Should it raise against its word, no caller may wait for ever."""
        try:
            return self._desk.serve(calls)
        except BaseException as error:  # noqa: BLE001 - told to the callers
            for call in calls:
                call.error = call.error or error
            return False

    def _tell(self, what: Callable[..., None], *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody is left to be told
            self._loop.call_soon_threadsafe(what, *arguments)

    def _take_back(self, calls: list[Call], taken: int, woke: bool) -> None:  # noqa: FBT001 - call_soon passes by position
        for _ in range(taken):
            self._handed.popleft()
        self._answer(calls, woke=woke)

    def _answer(self, calls: list[Call], *, woke: bool) -> None:
        lost = self._desk.is_lost() if calls else None
        for call in calls:
            if lost is not None:
                call.result, call.error = None, lost
            call.answer()
        if woke:
            self._desk.ring()


def _end(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Bell:
    """Serves one event loop; `connection` is used by that loop's thread alone."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connection: Connection) -> None:
        self._loop = loop
        self._connection = connection
        self._sleepers: dict[asyncio.Future[None], None] = {}  # in the order of coming
        self._rung = 0
        self._version: int | None = None
        self._worked_at = loop.time()
        self._pause_s = _FAST_S
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def sql(self) -> Connection:
        """For cheap looks from the loop's own thread, by an index only."""
        if self._closed:
            raise Disconnected("the broker was closed while a call waited")
        return self._connection

    @property
    def ticket(self) -> int:
        """Take one before looking; a ring since then ends `sleep` at once."""
        return self._rung

    def ring(self) -> None:
        """This process has changed something: let everybody look, and expect more."""
        self._worked_at, self._pause_s = self._loop.time(), _FAST_S
        self._wake()

    def _wake(self) -> None:
        self._rung += 1
        for sleeper in self._sleepers:
            if not sleeper.done():
                sleeper.set_result(None)
        self._sleepers.clear()

    async def sleep(self, ticket: int, seconds: float) -> None:
        """Until a ring after `ticket`, at most `seconds`."""
        if self._closed or ticket != self._rung or seconds <= 0:
            return
        sleeper: asyncio.Future[None] = self._loop.create_future()
        self._sleepers[sleeper] = None
        alarm = self._loop.call_later(seconds, _end, sleeper)
        if self._timer is None:
            self._timer = self._loop.call_later(self._pause_s, self._poll)
        try:
            await sleeper
        finally:
            alarm.cancel()
            self._sleepers.pop(sleeper, None)

    def close(self) -> None:
        """Wake everybody and look no more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self.ring()
        self._connection.close()

    def _look(self) -> int | None:
        """A number that every change of others changes; None, as if all had changed, on failure."""
        try:
            ((version,),) = self._connection.rows("PRAGMA data_version")
        except apsw.Error:
            return None  # whoever is woken by it looks, and is told what is wrong
        return version

    def _poll(self) -> None:
        self._timer = None
        if not self._sleepers:
            return
        version = self._look()
        if version is None or version != self._version:
            self._version = version
            self._wake()
        if self._loop.time() - self._worked_at > _LIVELY_S:
            self._pause_s = min(self._pause_s * _SLOWER, _SLOW_S)
        self._timer = self._loop.call_later(self._pause_s, self._poll)


class Writer:
    """Runs groups of calls as one transaction each. Used by one thread."""

    def __init__(
        self, path: Path, gate: Gate, connection: Connection, clock: Clock, *, floor_ms: int
    ) -> None:
        self._path = path
        self._gate = gate
        self._connection = connection
        self._clock = clock
        self._wall = ForwardClock(clock, floor_ms=floor_ms)
        self._flow = FlowCache()

    def now_ms(self) -> int:
        """The wall clock that schedules are kept by."""
        return self._wall.now_ms()

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()
        self._gate.close()

    def serve(self, calls: list[Call]) -> bool:
        """Run the calls in one transaction. A caller's mistake fails that call alone."""
        with self._gate.held():
            return self._serve(calls)

    def _serve(self, calls: list[Call]) -> bool:
        """`serve` inside the gate.

        First all run as if none could fail, several calls of one verb at once; when one does
        fail, the transaction is rolled back and each runs again behind a savepoint of its own.
        """
        try:
            with self._connection.transaction():
                return self._run_together(calls)
        except Exception as error:  # noqa: BLE001 - any failure belongs to one of the callers
            self._flow.forget()
            if len(calls) == 1 or _is_of_the_store(error):
                self._fail(calls, error)
                return False
        try:
            with self._connection.transaction():
                return self._run_apart(calls)
        except apsw.Error as error:
            self._fail(calls, error)
            return False

    def serve_now(self, calls: list[Call]) -> bool | None:
        """Serve light calls on the loop's thread; None when anything could hold them up."""
        if sum(call.weight for call in calls) > LIGHT_MAX:
            return None
        if not self._gate.take_now():
            return None
        self._connection.wait_for_locks(ms=0)
        try:
            woke = self._serve(calls)
        finally:
            self._connection.wait_for_locks()
            self._gate.let_go()
        if isinstance(calls[0].error, Disconnected):  # another program writes: wait in the thread
            for call in calls:
                call.error = None
            return None
        return woke

    def _fail(self, calls: list[Call], error: Exception) -> None:
        self._flow.forget()
        for call in calls:
            call.result, call.error = None, self._named(error)

    def _named(self, error: Exception) -> Exception:
        return error_of(error, self._path) if isinstance(error, apsw.Error) else error

    def _step(self) -> Step:
        """A step of the transaction that is open now."""
        return Step(
            self._connection,
            self._flow,
            now_ms=self.now_ms(),
            mono_ms=self._clock.mono_ms(),
        )

    def _run_together(self, calls: Sequence[Call]) -> bool:
        calls = [call for call in calls if not call.future.done()]  # the turn may have come late
        step = self._step()
        done: set[Verb] = set()
        alone = len(calls) == 1
        for call in calls:
            if alone or call.together is None:
                call.result = call.verb(step, call.argument)
            elif call.together not in done:
                done.add(call.together)
                same = [other for other in calls if other.together is call.together]
                results = call.together(step, [other.argument for other in same])
                for other, result in zip(same, results, strict=True):
                    other.result = result
        step.finish()
        return step.woke

    def _run_apart(self, calls: Sequence[Call]) -> bool:
        woke = False
        for call in calls:
            if call.future.done():
                continue
            self._connection.run("SAVEPOINT apart")
            step = self._step()
            try:
                call.result, call.error = call.verb(step, call.argument), None
                step.finish()
                woke = woke or step.woke
            except Exception as error:
                if _is_of_the_store(error):
                    raise
                self._flow.forget()
                call.result, call.error = None, self._named(error)
                self._connection.run("ROLLBACK TO apart")
            self._connection.run("RELEASE apart")
        return woke


def _is_of_the_store(error: Exception) -> bool:
    """Whether a failure hits every caller of a group, not only the one whose values caused it."""
    return isinstance(error, apsw.Error) and not isinstance(
        error, (apsw.TooBigError, apsw.ConstraintError, apsw.MismatchError, apsw.RangeError)
    )


def serve_reads(
    calls: list[Call],
    *,
    path: Path,
    connection: Connection,
    reader: Callable[[Connection], Any],
) -> bool:
    """Run each look in a transaction of its own, so that it sees one moment of the database."""
    for call in calls:
        try:
            with connection.snapshot():
                call.result = call.verb(reader(connection), call.argument)
        except apsw.Error as error:
            call.error = error_of(error, path)
        except Exception as error:  # noqa: BLE001 - given to the caller it belongs to
            call.error = error
    return False
