"""A cluster: slots that move under clients, masters that die."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ropeway.testing.servers import RedisCluster, RedisServer, RespError, key_slot


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    with RedisCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


def get(cluster: RedisCluster, key: str) -> str:
    """Read as a cluster client does: follow MOVED and ASK."""
    node, asking = cluster.nodes[0], False
    while True:
        with node.client() as client:
            if asking:
                client.call("ASKING")
            try:
                return client.text("GET", key)
            except RespError as error:
                asking = str(error).startswith("ASK ")
                if not asking and not str(error).startswith("MOVED "):
                    raise
                port = int(str(error).rpartition(":")[2])
                node = next(node for node in cluster.nodes if node.port == port)


def other_master(cluster: RedisCluster, node: RedisServer) -> RedisServer:
    return next(master for master in cluster.masters() if master is not node)


@pytest.mark.parametrize(
    ("key", "slot"),
    [("foo", 12182), ("{foo}bar", 12182), ("a{foo}b{c}", 12182), ("{}x", key_slot(b"{}x"))],
)
def test_the_slot_of_a_key(cluster: RedisCluster, key: str, slot: int) -> None:
    assert key_slot(key) == slot
    with cluster.nodes[0].client() as client:
        assert client.call("CLUSTER", "KEYSLOT", key) == slot


def test_a_ready_cluster_serves_every_slot_with_a_replica_each(cluster: RedisCluster) -> None:
    ports = [node.port for node in cluster.nodes]
    assert cluster.url == "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in ports)
    for node in cluster.nodes:
        with node.client() as client:
            shards = client.call("CLUSTER", "SLOTS")
        assert isinstance(shards, list)
        assert [len(shard) for shard in shards if isinstance(shard, list)] == [4, 4, 4]


def test_a_slot_moves_while_clients_read_and_write_it(cluster: RedisCluster) -> None:
    slot = key_slot("{moved}")
    source = cluster.owner(slot)
    target = other_master(cluster, source)
    keys = [f"{{moved}}{number}" for number in range(300)]
    with source.client() as client:
        for key in keys:
            client.call("SET", key, key)
    wrong: list[str] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            wrong.extend(key for key in keys[::10] if get(cluster, key) != key)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        cluster.move_slots([slot, slot], target, batch=10)
    finally:
        done.set()
        reader.join()
    assert not wrong
    assert cluster.owner_of("{moved}0") is target
    assert [get(cluster, key) for key in keys] == keys


def test_a_slot_can_be_left_half_way(cluster: RedisCluster) -> None:
    keys = [f"{{half}}{number}" for number in range(4)]
    slot = key_slot("{half}")
    source = cluster.owner(slot)
    with source.client() as client:
        client.call("MSET", *(word for key in keys for word in (key, key)))
        move = cluster.begin_move(slot, other_master(cluster, source))
        assert move.migrate(2) == 2
        with pytest.raises(RespError, match="TRYAGAIN"):
            client.call("MGET", *keys)
        with pytest.raises(RespError, match="ASK"):
            client.call("GET", "{half}new")
        assert [get(cluster, key) for key in keys] == keys
        move.finish()
        with pytest.raises(RespError, match="MOVED"):
            client.call("GET", keys[0])
    assert [get(cluster, key) for key in keys] == keys


def test_a_killed_master_is_replaced_by_its_replica(cluster: RedisCluster) -> None:
    owner = cluster.owner_of("survivor")
    with owner.client() as client:
        client.call("SET", "survivor", "kept")
        client.call("WAIT", 1, 5_000)
    dead = cluster.kill_master(cluster.masters().index(owner))
    assert dead is owner
    cluster.wait_failover(dead)
    assert cluster.owner_of("survivor") is not dead
    with cluster.owner_of("survivor").client() as client:
        assert client.text("GET", "survivor") == "kept"
    dead.start()
    cluster.wait_ready()
    assert dead not in cluster.masters()
    assert dead.replication()["role"] == "slave"


def test_a_cluster_without_replicas_has_three_nodes(tmp_path: Path) -> None:
    with RedisCluster(tmp_path, replicas=False) as cluster:
        assert cluster.masters() == cluster.nodes
        assert len(cluster.nodes) == 3
    assert not any(node.is_running for node in cluster.nodes)
