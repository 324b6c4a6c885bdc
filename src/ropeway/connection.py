"""How an app reaches its broker from wherever it is called: its own loop, another, or none."""

import asyncio
import atexit
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from ropeway.broker import JobStore
from ropeway.brokers.registry import broker_from_url
from ropeway.capabilities import Capabilities
from ropeway.errors import ConfigError
from ropeway.flow.rules import Rule
from ropeway.hooks import Hooks
from ropeway.offload import Offload
from ropeway.sync import Portal, refuse_in_loop, run_on

T = TypeVar("T")

URL_VARIABLE = "ROPEWAY_URL"
URL_DEFAULT = "sqlite:///ropeway.db"


@dataclass(slots=True)
class _Open:
    """An open broker and the loop it lives on."""

    store: JobStore
    loop: asyncio.AbstractEventLoop
    entered: int = 1


class _Elsewhere:
    """A store that lives on another loop: each verb is run there and awaited here."""

    def __init__(self, opened: _Open) -> None:
        self._opened = opened
        self.capabilities: Capabilities = opened.store.capabilities

    def __getattr__(self, verb: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        bound = getattr(self._opened.store, verb)

        async def call(*args: Any, **kwargs: Any) -> Any:
            work = bound(*args, **kwargs)
            future = asyncio.run_coroutine_threadsafe(work, self._opened.loop)
            return await asyncio.wrap_future(future)

        return call


class Connection:
    """One app's way to its broker.

    `async with app:` opens a broker on the running loop; that one serves every thread of the
    process for as long as it is open. Without it, the first `*_sync` call opens a broker on a
    portal's loop, until the process ends. A broker that can be made from a URL is made anew for
    each; a memory broker or one given as an object is one and the same.
    """

    def __init__(
        self,
        source: str | JobStore | None,
        *,
        rules: Callable[[], Sequence[Rule]] = tuple[Rule],
        patience_ms: Callable[[str], int] = lambda _queue: 0,
        offload: Offload | None = None,
        hooks: Hooks | None = None,
    ) -> None:
        if source is None:
            source = os.environ.get(URL_VARIABLE) or URL_DEFAULT
        if not isinstance(source, str) and not hasattr(source, "capabilities"):
            raise ConfigError(
                f"Ropeway({source!r}): give the URL of a broker as text, e.g. sqlite:///jobs.db, "
                "or a broker"
            )
        self._rules = rules
        self._patience_ms = patience_ms
        self.offload: Offload | None = offload
        self.hooks: Hooks = Hooks() if hooks is None else hooks
        self._spare = broker_from_url(source) if isinstance(source, str) else source
        # None: the broker cannot be made a second time.
        self.url: str | None = None
        if isinstance(source, str) and source != "memory://":
            self.url = source
        self._home: _Open | None = None
        self._by_portal: _Open | None = None
        self._portal: Portal | None = None
        self._lock = threading.Lock()
        self._orphan = False
        self._rules_at = self._told_at = 0  # how often the rules changed, by now and when last told
        _connections.add(self)

    @property
    def store(self) -> JobStore:
        """The open broker, for use on the running loop.

        Raises:
            ConfigError: the app is not open.
        """
        loop = asyncio.get_running_loop()
        if self._by_portal is not None and self._by_portal.loop is loop:
            return self._by_portal.store
        home = self._home
        if home is None or home.loop.is_closed():
            raise ConfigError(
                "this app is not open: do this inside `async with app:`, or use the call with "
                "_sync where no event loop runs"
            )
        return home.store if home.loop is loop else cast(JobStore, _Elsewhere(home))

    def rules_changed(self) -> None:
        """Note that a task or a queue was declared; an open store is told at the next enqueue."""
        self._rules_at += 1

    @property
    def untold(self) -> bool:
        """Whether tasks or queues were declared that the store does not know of."""
        return self._told_at != self._rules_at

    async def tell_rules(self, store: JobStore) -> None:
        """Declare the app's rules in an open store."""
        at = self._rules_at
        if rules := self._rules():
            await store.declare(rules)
        self._told_at = at

    def patience_ms(self, queue: str) -> int:
        """How long an enqueue waits for room when the queue is full."""
        return self._patience_ms(queue)

    async def enter(self) -> None:
        """Open the broker on the running loop; nested calls on the same loop are counted.

        Raises:
            ConfigError: the app is open on another loop.
            BrokerError: what `Broker.open` raises.
        """
        loop = asyncio.get_running_loop()
        home = self._home
        if home is not None and not home.loop.is_closed():
            if home.loop is not loop and home is not self._by_portal:
                raise ConfigError(
                    "this app is open on the event loop of another thread; await its calls from "
                    "here without a second `async with app:`"
                )
            home.entered += 1
        elif self.url is None and self._by_portal is not None:
            self._by_portal.entered = 1
            self._home = self._by_portal
        else:
            if home is not None and self.url is None:
                await home.store.close()  # its loop ended without leaving `async with`
            store = await self._opened()
            self._home = _Open(store, loop)

    async def leave(self) -> None:
        """Undo one `enter`; the last one closes the broker."""
        home = self._home
        if home is None:
            return
        home.entered -= 1
        if home.entered == 0:
            self._home = None
            if home is not self._by_portal:
                await home.store.close()

    def run_sync(self, work: Coroutine[Any, Any, T], *, what: str) -> T:
        """Run a coroutine where the broker lives, from a thread without an event loop.

        Raises:
            ConfigError: an event loop runs in this thread.
            Disconnected: the app was closed meanwhile.
        """
        try:
            refuse_in_loop(what)
            home = self._home
            if home is not None and home.loop.is_running():
                loop = home.loop
            else:
                loop = self._open_portal().loop
        except BaseException:
            work.close()
            raise
        return run_on(loop, work)

    def close_sync(self) -> None:
        """Close what the `*_sync` calls opened; the next one opens it again. Idempotent."""
        with self._lock:
            opened, self._by_portal = self._by_portal, None
            portal, self._portal = self._portal, None
            if portal is not None:
                portal.stop(opened.store.close() if opened is not None else None)

    def forget(self) -> None:
        """In a forked child: the parent's connections and threads are not ours to use."""
        used = self._home is not None or self._by_portal is not None
        self._orphan = self._orphan or (used and self.url is None)
        self._spare = None if self._orphan or self.url is not None else self._spare
        self._home = self._by_portal = self._portal = None
        self._lock = threading.Lock()

    def _open_portal(self) -> _Open:
        with self._lock:
            if self._by_portal is None:
                portal = self._portal = self._portal or Portal()
                store = portal.run(self._opened())
                self._by_portal = _Open(store, portal.loop, entered=0)
            return self._by_portal

    async def _opened(self) -> JobStore:
        """An open broker that knows the app's rules."""
        store = self.new_store()
        await store.open()
        await self.tell_rules(store)
        return store

    def new_store(self) -> JobStore:
        """A broker that is not open yet: a new one where there is a URL, else the one there is.

        Raises:
            ConfigError: in a process that was forked while the app's only broker was open.
        """
        if self._orphan:
            raise ConfigError(
                "this process was forked from one that had the app open, and its broker cannot "
                "be opened a second time; give the app a URL of a broker that processes share, "
                "such as sqlite:///ropeway.db"
            )
        if self.url is None:
            assert self._spare is not None, "an app without a URL was given a broker"
            return self._spare
        spare, self._spare = self._spare, None
        return spare or broker_from_url(self.url)


_connections: weakref.WeakSet[Connection] = weakref.WeakSet()


def _forget_all() -> None:
    for connection in list(_connections):
        connection.forget()


def _close_all() -> None:
    for connection in list(_connections):
        connection.close_sync()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
atexit.register(_close_all)
