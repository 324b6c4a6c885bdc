"""A master with two replicas: what kills it, and who takes its place."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ropeway.testing.servers import RedisSentinel, RespError
from ropeway.testing.servers.waiting import happens


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisSentinel]:
    options = {"requirepass": "secret"}
    with RedisSentinel(tmp_path_factory.mktemp("sentinel"), options=options) as group:
        yield group


def copied(group: RedisSentinel, key: str) -> int:
    """How many replicas have the key."""
    found = 0
    for replica in group.replicas():
        with replica.client(timeout=0.2) as client:
            found += client.call("EXISTS", key) == 1
    return found


def test_the_url_names_every_sentinel(group: RedisSentinel) -> None:
    ports = [sentinel.port for sentinel in group.sentinels]
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    assert len(set(ports)) == 3
    assert group.url == f"redis+sentinel://:secret@{hosts}/mymaster"


def test_a_write_reaches_both_replicas_unless_they_are_cut_off(group: RedisSentinel) -> None:
    with group.master().client() as client:
        client.call("SET", "before", 1)
        assert client.call("WAIT", 2, 5_000) == 2
        group.cut_replicas()
        client.call("SET", "during", 1)
        assert client.call("WAIT", 1, 100) == 0
    with pytest.raises(TimeoutError):
        copied(group, "during")
    group.restore()
    assert happens(lambda: copied(group, "during") == 2, timeout=5)


def test_a_failover_makes_a_replica_the_master(group: RedisSentinel) -> None:
    old = group.master()
    with old.client() as client:
        client.call("SET", "kept", 1)
        client.call("WAIT", 2, 5_000)
    new = group.failover()
    assert new is not old
    assert new is group.master()
    with new.client() as client:
        assert client.text("GET", "kept") == "1"
        client.call("SET", "kept", 2)
    group.restore()
    with old.client() as client, pytest.raises(RespError, match="READONLY"):
        client.call("SET", "kept", 3)


def test_a_killed_master_is_replaced_and_comes_back_as_a_replica(group: RedisSentinel) -> None:
    dead = group.kill_master()
    assert not dead.is_running
    new = group.wait_new_master(dead)
    assert new is not dead
    group.restore()
    assert group.master() is new
    assert dead in group.replicas()


def test_stop_leaves_nothing(tmp_path: Path) -> None:
    group = RedisSentinel(tmp_path)
    group.start()
    group.stop()
    assert not any(server.is_running for server in (*group.nodes, *group.sentinels))
