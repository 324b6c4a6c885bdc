"""The pure parts: packing, slots, redirects, and what error replies are called."""

import pytest

from ropeway.brokers.redis.wire.replies import Refused, ReplyError, error_of
from ropeway.brokers.redis.wire.slots import Span, read_map, read_redirect, slot_of
from ropeway.brokers.redis.wire.words import Script, pack
from ropeway.errors import BrokerError, Disconnected, StorageFull, StorageReadOnly


@pytest.mark.parametrize("size", [0, 1, 200, 70_000])
def test_words_of_all_types_are_packed_alike_whatever_their_size(size: int) -> None:
    long = b"x" * size
    assert pack((b"a", "ü", 12, 1.5, long)) == (
        b"*5\r\n$1\r\na\r\n$2\r\n\xc3\xbc\r\n$2\r\n12\r\n$3\r\n1.5\r\n$%d\r\n%b\r\n" % (size, long)
    )


def test_a_script_is_known_by_the_hash_of_its_source() -> None:
    assert Script("one", "return 1").sha == "e0e1f9fabfc9d4800c877a703b823ac0578ff8db"


@pytest.mark.parametrize(
    ("key", "slot"),
    [
        ("123456789", 0x31C3),
        ("foo", 12182),
        ("", 0),
        ("{user1000}.following", slot_of("user1000")),
        ("foo{{bar}}zap", slot_of("{bar")),
        ("foo{bar}{zap}", slot_of("bar")),
    ],
)
def test_slots_are_those_of_the_specification(key: str, slot: int) -> None:
    assert slot_of(key) == slot


def test_empty_braces_do_not_count() -> None:
    assert slot_of("foo{}{bar}") not in {slot_of("bar"), slot_of("")}
    assert slot_of("foo{bar") != slot_of("bar")


def test_the_map_knows_masters_and_replicas_and_nodes_without_a_name() -> None:
    reply = [
        [0, 99, [b"10.0.0.1", 1, b"id"], [b"10.0.0.2", 2, b"id"]],
        [100, 100, [b"", 3, b"id"]],
        [101, 102, [None, 4, b"id", []]],
        [103, 104, [b"?", 5, b"id"]],
    ]
    assert read_map(reply, "h") == [
        Span(0, 99, ("10.0.0.1", 1), (("10.0.0.2", 2),)),
        Span(100, 100, ("h", 3), ()),
        Span(101, 102, ("h", 4), ()),
        Span(103, 104, ("h", 5), ()),
    ]


def test_redirects_name_a_node() -> None:
    assert read_redirect("3999 127.0.0.1:6381", "h") == (3999, ("127.0.0.1", 6381))
    assert read_redirect("1 :6381", "h") == (1, ("h", 6381))
    assert read_redirect("1 ::1:6381", "h") == (1, ("::1", 6381))


@pytest.mark.parametrize(
    ("line", "kind", "says"),
    [
        ("OOM command not allowed", StorageFull, "maxmemory"),
        ("MISCONF Errors writing to the AOF", StorageFull, "Free"),
        ("READONLY You can't write", StorageReadOnly, "redis+sentinel://"),
        ("LOADING Redis is loading", Disconnected, "loading"),
        ("BUSY Redis is busy", Disconnected, "SCRIPT KILL"),
        ("CLUSTERDOWN The cluster is down", Disconnected, "CLUSTER INFO"),
        ("TRYAGAIN Multiple keys", Disconnected, "Repeat"),
        ("MASTERDOWN Link with MASTER is down", Disconnected, "Repeat"),
        ("NOREPLICAS Not enough", Disconnected, "min-replicas"),
        ("ERR max number of clients reached", Disconnected, "maxclients"),
        ("NOAUTH Authentication required.", Refused, "redis://user:password@host"),
        ("WRONGPASS invalid", Refused, "'ann'"),
        ("NOPERM this user", Refused, "ACL SETUSER ann"),
        ("ERR ACL failure in script: x", Refused, "ACL SETUSER ann"),
        ("ERR DB index is out of range", Refused, "databases"),
        ("MOVED 1 h:1", Refused, "redis+cluster://"),
        (
            (
                "ERR Error running script (call to f_a): @user_script:1: @user_script: 1: "
                "-OOM command not allowed when used memory > 'maxmemory'."
            ),
            StorageFull,
            "maxmemory",
        ),
        ("ERR Error running script (call to f_a): @user_script:1: no", ReplyError, "no"),
        ("WRONGTYPE Operation", ReplyError, "WRONGTYPE Operation"),
        ("MINE", ReplyError, "MINE"),
    ],
)
def test_an_error_reply_has_a_name_and_says_where(
    line: str, kind: type[BrokerError], says: str
) -> None:
    error = error_of(ReplyError.read(line), "h:1", "ann")
    assert type(error) is kind
    assert "h:1" in str(error)
    assert says in str(error)
