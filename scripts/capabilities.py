"""Print README's capability table, made from the brokers' own `Capabilities` values."""

from ropeway.brokers.memory import MemoryBroker
from ropeway.brokers.redis import ClusterBroker, RedisBroker
from ropeway.brokers.sqlite import SQLiteBroker


def _yes(*, able: bool) -> str:
    return "yes" if able else "no"


COLUMNS = (
    ("survives the process", lambda c: _yes(able=c.durable)),
    ("many processes", lambda c: _yes(able=c.shared)),
    ("“acknowledged” means", lambda c: c.durability),
    ("order", lambda c: f"{c.ordering}, {c.priority_levels} levels"),
    ("longest delay", lambda c: "any" if c.delay_max_ms >= 2**53 else f"{c.delay_max_ms} ms"),
    ("unique, ordering keys", lambda c: _yes(able=c.unique and c.ordering_keys)),
    ("parents and follow-ups", lambda c: _yes(able=c.workflow_edges)),
    ("attempts counted exactly", lambda c: _yes(able=c.attempt_exact)),
    ("payload up to", lambda c: f"{c.payload_max_bytes // 2**20} MiB"),
    ("jobs a call", lambda c: f"{c.batch_max:,}"),
    ("limits of tasks and queues, bounds", lambda c: _yes(able=c.limits)),
    ("limits over all queues", lambda c: _yes(able=c.app_limits)),
    ("fair turns of tenants", lambda c: _yes(able=c.fair)),
    ("batches", lambda c: _yes(able=c.groups)),
    ("schedules", lambda c: "yes" if c.schedules else "refused: not in this release"),
)


def table() -> str:
    """One column a broker, one row a capability."""
    brokers = [
        MemoryBroker().capabilities,
        SQLiteBroker("any.db", durability="full").capabilities,
        SQLiteBroker("any.db", durability="fast").capabilities,
        RedisBroker("redis://any").capabilities,
        ClusterBroker("redis+cluster://any").capabilities,
    ]
    names = [
        "memory",
        "SQLite, `full` (default)",
        "SQLite, `fast`",
        "Redis, Sentinel",
        "Redis Cluster",
    ]
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(brokers) + 1) + "|"]
    lines += [f"| {title} | " + " | ".join(map(show, brokers)) + " |" for title, show in COLUMNS]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
