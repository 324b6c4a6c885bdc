"""From a URL to a broker: what is known, what is missing, and what is the default."""

import subprocess
import sys
from pathlib import Path

import pytest

from ropeway import ConfigError, Ropeway
from ropeway.brokers.memory import MemoryBroker
from ropeway.brokers.registry import Entry, broker_from_url

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("url", ["mongo://h/d", "jobs.db", "", "sqlite:jobs.db", "://"])
def test_an_unknown_scheme_is_refused_with_those_that_are_known(url):
    with pytest.raises(ConfigError, match=r"unknown scheme; known are memory://, sqlite://"):
        Ropeway(url)


@pytest.mark.parametrize("wrong", [3, Path("jobs.db")], ids=repr)
def test_what_is_neither_a_url_nor_a_broker_is_refused(wrong):
    with pytest.raises(ConfigError, match="give the URL of a broker as text"):
        Ropeway(wrong)


def test_a_password_is_not_repeated_in_the_error():
    with pytest.raises(ConfigError) as caught:
        broker_from_url("mongo://me:secret@host/0")
    assert "secret" not in str(caught.value)
    assert "me:…@host" in str(caught.value)


def test_a_missing_extra_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch):
    (tmp_path / "ghost_broker.py").write_text("import client_that_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    entries = {"ghost": Entry("ghost_broker", "GhostBroker", extra="ghost")}
    message = r"'client_that_nobody_has'.*not installed: pip install 'ropeway\[ghost\]'"
    with pytest.raises(ConfigError, match=message):
        broker_from_url("ghost://h", entries=entries)


def test_a_memory_broker_takes_no_name():
    with pytest.raises(ConfigError, match="takes no name and no options"):
        Ropeway("memory://shared")


async def test_each_memory_app_has_its_own_jobs_unless_they_are_given_one_broker():
    async def count_in_other(first: Ropeway[None], second: Ropeway[None]) -> int:
        async with first, second:
            await first.send("task")
            return await second.jobs.count()

    assert await count_in_other(Ropeway("memory://"), Ropeway("memory://")) == 0
    broker = MemoryBroker()
    assert await count_in_other(Ropeway(broker), Ropeway(broker)) == 1


async def test_the_url_comes_from_the_environment_when_none_is_given(monkeypatch):
    monkeypatch.setenv("ROPEWAY_URL", "memory://")
    async with Ropeway() as app:
        assert app.store.capabilities.name == "memory"


async def test_the_default_is_a_sqlite_file_in_the_working_directory(monkeypatch, tmp_path):
    monkeypatch.delenv("ROPEWAY_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    async with Ropeway() as app:
        await app.send("task")
    assert (tmp_path / "ropeway.db").exists()


def test_a_broker_is_imported_only_when_it_is_asked_for():
    code = "import ropeway, sys; sys.exit('apsw' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_a_worker_gets_a_broker_of_its_own_where_there_is_a_url(tmp_path):
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    app = Ropeway(url)
    assert app.url == url
    assert app.new_store() is not app.new_store()
    memory = Ropeway("memory://")
    assert memory.url is None
    assert memory.new_store() is memory.new_store()
