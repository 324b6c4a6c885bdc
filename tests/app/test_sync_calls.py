"""Calls without an event loop: from scripts, threads and forked children."""

import asyncio
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ropeway import ConfigError, Filter, Ropeway, State
from ropeway.errors import Disconnected
from ropeway.outcome import Ack
from ropeway.sync import run_on


@pytest.fixture
def script_app(url: str):
    app = Ropeway(url)

    @app.task
    def words(text: str) -> int:
        return len(text.split())

    yield app, words
    app.close_sync()


def complete_next(app: Ropeway[None], result: bytes) -> None:
    async def play() -> None:
        (lease,) = await app.store.reserve(["default"], worker="w", limit=1, lease_ms=60_000)
        await app.store.settle([Ack(lease=lease, result=result)])

    app.run_sync(play())


def test_a_script_enqueues_and_reads_results_without_a_loop(script_app):
    app, words = script_app
    job = words.enqueue_sync("a b")
    assert job.record_sync().status.state is State.AVAILABLE
    complete_next(app, b"2")
    assert job.result_sync(timeout=5) == 2
    assert len(words.enqueue_many_sync(["x", "y"])) == 2
    assert len(app.enqueue_many_sync([words.s("z")])) == 1
    app.send_sync("far", {"n": 1})
    assert app.run_sync(app.jobs.count(Filter(task="words"))) == 4
    other = words.enqueue_sync("c")
    assert other.cancel_sync().state is State.CANCELLED


def test_options_and_errors_are_the_same_as_with_await(script_app):
    _app, words = script_app
    assert words.opts(delay=60).enqueue_sync("a").record_sync().status.state is State.SCHEDULED
    with pytest.raises(TypeError, match="text"):
        words.enqueue_sync()
    with pytest.raises(TimeoutError, match="did not end within"):
        words.enqueue_sync("a").result_sync(timeout=0.01)


@pytest.mark.anyio
async def test_a_sync_call_inside_a_running_loop_is_refused(script_app):
    app, words = script_app
    async with app:
        job = await words.enqueue("a")
        for call, name in (
            (lambda: words.enqueue_sync("a"), r"words.enqueue_sync\(\)"),
            (lambda: words.enqueue_many_sync(["a"]), r"words.enqueue_many_sync\(\)"),
            (job.result_sync, r"handle.result_sync\(\)"),
            (lambda: app.send_sync("far"), r"app.send_sync\(\)"),
            (lambda: app.run_sync(app.jobs.count()), r"app.run_sync\(\)"),
        ):
            with pytest.raises(ConfigError, match=f"{name} was called inside a running event loop"):
                call()
        assert await app.jobs.count() == 1


@pytest.mark.anyio
async def test_threads_use_the_broker_of_the_open_app(script_app):
    app, words = script_app
    async with app:
        job = await asyncio.to_thread(words.enqueue_sync, "a")
        assert job.id == (await app.jobs.get(job)).job.id
        assert "ropeway-sync" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.anyio
async def test_another_loop_of_the_process_may_await_calls_but_not_open_the_app(script_app):
    app, words = script_app

    async def elsewhere() -> str:
        with pytest.raises(ConfigError, match="another thread"):
            async with app:
                pass
        return (await words.enqueue("a")).id

    async with app:
        job_id = await asyncio.to_thread(asyncio.run, elsewhere())
        assert (await app.jobs.get(job_id)).status.state is State.AVAILABLE


@pytest.mark.anyio
async def test_jobs_enqueued_before_the_app_is_opened_are_there(script_app):
    app, words = script_app
    job = await asyncio.to_thread(words.enqueue_sync, "a")
    async with app:
        assert await job.state() is State.AVAILABLE
        assert (await asyncio.to_thread(words.enqueue_sync, "b")).created
        assert await app.jobs.count() == 2
    assert await asyncio.to_thread(lambda: app.run_sync(app.jobs.count())) == 2


def test_a_call_that_waits_when_the_app_closes_says_so(script_app):
    app, words = script_app
    failed: list[BaseException] = []

    def wait_for_ever(handle: Any) -> None:
        try:
            handle.result_sync()
        except (Disconnected, ConfigError) as error:
            failed.append(error)

    async def main() -> None:
        async with app:
            thread = threading.Thread(target=wait_for_ever, args=(await words.enqueue("a"),))
            before = asyncio.all_tasks()
            thread.start()
            while asyncio.all_tasks() <= before:  # noqa: ASYNC110 - until the thread's call is here
                await asyncio.sleep(0.001)
            waiting.append(thread)

    waiting: list[threading.Thread] = []
    asyncio.run(main())
    waiting[0].join(10)
    assert failed


def test_a_call_that_comes_while_the_loop_ends_does_not_wait_for_ever():
    loop = asyncio.new_event_loop()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(run_on, loop, asyncio.sleep(0))
        while not loop._ready:  # type: ignore[attr-defined]
            time.sleep(0.001)
        loop.close()  # the call is there, and nobody runs it any more
        with pytest.raises(Disconnected, match="event loop"):
            call.result(10)
    with pytest.raises(Disconnected, match="event loop"):
        run_on(loop, asyncio.sleep(0))


def test_an_app_whose_loop_was_abandoned_can_be_opened_again(script_app):
    app, words = script_app

    async def abandon() -> None:
        await app.__aenter__()
        await words.enqueue("a")

    async def again() -> int:
        async with app:
            await words.enqueue("b")
            return await app.jobs.count()

    asyncio.run(abandon())
    assert asyncio.run(again()) == 2


def test_closing_twice_and_going_on_afterwards_is_fine(script_app):
    app, words = script_app
    words.enqueue_sync("a")
    app.close_sync()
    app.close_sync()
    words.enqueue_sync("b")
    assert app.run_sync(app.jobs.count()) == 2


def run_script(tmp_path: Path, text: str) -> str:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(text))
    ran = subprocess.run(
        [sys.executable, "-W", "error", script],
        capture_output=True, text=True, check=False, cwd=tmp_path, timeout=30,
    )  # fmt: skip
    assert (ran.stderr, ran.returncode) == ("", 0)
    return ran.stdout


def test_a_script_ends_by_itself_without_a_word(tmp_path):
    printed = run_script(
        tmp_path,
        """
        from ropeway import Ropeway
        app = Ropeway("memory://")
        print(app.send_sync("task", id="x").id)
        """,
    )
    assert printed == "x\n"


def test_a_forked_child_gets_a_connection_of_its_own(tmp_path):
    printed = run_script(
        tmp_path,
        """
        import os, sys
        from ropeway import Ropeway
        app = Ropeway("sqlite:///jobs.db")
        app.send_sync("task", id="parent")
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            app.send_sync("task", id="child")
            app.close_sync()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        print(app.run_sync(app.jobs.count()))
        """,
    )
    assert printed == "2\n"


def test_a_forked_child_cannot_use_its_parents_memory(tmp_path):
    printed = run_script(
        tmp_path,
        """
        import os, sys
        from ropeway import ConfigError, Ropeway
        app = Ropeway("memory://")
        app.send_sync("task")
        if os.fork() == 0:
            try:
                app.send_sync("task")
            except ConfigError as error:
                print(error, flush=True)
            os._exit(0)
        os.wait()
        """,
    )
    assert "was forked" in printed
    assert "sqlite:///" in printed
