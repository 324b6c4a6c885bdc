"""`limits list`, `show`, `set`, `reset`; `queues set`, `reset`; `jobs why`."""

import pytest
from terminal import Cli, Store

from ropeway.broker import JobStore, WorkerInfo
from ropeway.cli.exits import Failure
from ropeway.cli.input.quantity import per
from ropeway.flow.rules import GroupRule, LimitRule, QueueRule, Rate, Rule, Slots
from ropeway.job import Job, LimitKey

SLOTS = LimitRule(name="fetch.concurrency", limit=Slots(2))
RATE = LimitRule(name="fetch.rate", limit=Rate(100, 60_000, 1), scope="app")


@pytest.fixture
def limited(store: Store) -> Store:
    """A store whose limit has a key with two holders and a waiting job, `c`."""

    async def work(broker: JobStore) -> None:
        await broker.declare([SLOTS, RATE])
        limits = (LimitKey("fetch.concurrency", "a"),)
        await broker.enqueue([Job(id=name, task="fetch", limits=limits) for name in "xyc"])
        for worker in ("w1", "w2"):
            await broker.reserve(["default"], worker=worker, limit=1, lease_ms=60_000)
        await broker.reserve(["default"], worker="w3", limit=1, lease_ms=60_000)

    store.run(work)
    return store


def declare(store: Store, *rules: Rule) -> None:
    store.run(lambda broker: broker.declare(rules))


def rows(out: str) -> list[list[str]]:
    return [line.split() for line in out.splitlines()]


# -- limits list --------------------------------------------------------------------------------


def test_all_rules_are_listed_in_words(cli: Cli, store: Store) -> None:
    queue = QueueRule(name="mail", max_length=5_000, on_full="drop_oldest", limits=(Slots(1),))
    batch = GroupRule(name="index", size=50, within_ms=5_000, grace_ms=500)
    declare(store, SLOTS, RATE, queue, batch)
    head, *rules = cli("limits", "list").out.splitlines()
    assert head.split() == ["NAME", "KIND", "COUNTED", "BY", "RULE"]
    assert [rule.split()[0] for rule in rules] == [
        "index",
        "fetch.concurrency",
        "fetch.rate",
        "mail",
    ]
    assert "50 jobs, 0.5 s after the last or 5 s after the first" in rules[0]
    assert rules[1].split() == ["fetch.concurrency", "limit", "per", "queue", "code", "2", "slots"]
    assert "per app" in rules[2]
    assert rules[2].endswith("100 per 60 s, burst 1")
    assert rules[3].endswith("at most 5,000 jobs waiting, then drop_oldest; 1 slot")


def test_an_overridden_rule_says_what_the_code_says(cli: Cli, store: Store) -> None:
    declare(store, SLOTS)
    store.run(lambda broker: broker.override([LimitRule(name=SLOTS.name, limit=Slots(9))]))
    _, rule, note = cli("limits", "list").out.splitlines()
    assert rule.split()[-3:] == ["operator", "9", "slots"]
    assert note.strip() == "└ the code says: 2 slots"
    [plain] = cli("limits", "list", "--json").json["rules"]
    assert plain["declared"]["limit"] == {"type": "slots", "n": 2}
    assert plain["override"] == plain["in_force"]
    assert (plain["kind"], plain["name"]) == ("limit", SLOTS.name)


def test_where_there_are_no_rules_it_says_so(cli: Cli, store: Store) -> None:
    said = cli("limits", "list")
    assert (said.code, said.out, said.err) == (0, "", "no limits\n")
    assert cli("limits", "list", "--json").json == {"rules": []}


# -- limits show --------------------------------------------------------------------------------


def test_show_tells_who_holds_each_key(cli: Cli, limited: Store) -> None:
    rule, head, row = rows(cli("limits", "show", "fetch.concurrency").out)
    assert rule == ["fetch.concurrency", "2", "slots"]
    assert head == ["KEY", "QUEUE", "RUN", "WAIT", "OPENS", "HELD", "BY"]
    assert row[:5] == ["a", "default", "2/2", "1", "-"]
    assert " ".join(row[5:]) == "x on w1, y on w2"


def test_show_of_one_key_lists_its_jobs(cli: Cli, limited: Store) -> None:
    *_, head, first, second = rows(cli("limits", "show", "fetch.concurrency", "--key", "a").out)
    assert head == ["JOB", "TASK", "WORKER", "STARTED"]
    assert [first[:3], second[:3]] == [["x", "fetch", "w1"], ["y", "fetch", "w2"]]
    free = cli("limits", "show", "fetch.concurrency", "--key", "b")
    assert (free.code, free.err) == (0, "key 'b' is free\n")


def test_the_json_of_a_limit_has_its_keys(cli: Cli, limited: Store) -> None:
    plain = cli("limits", "show", "fetch.concurrency", "--json").json
    assert plain["in_force"]["limit"] == {"type": "slots", "n": 2}
    assert plain["keys"] == [
        {
            "queue": "default",
            "key": "a",
            "used": 2,
            "parked": 1,
            "opens_at_ms": None,
            "running": [
                {"id": "x", "queue": "default", "worker": "w1"},
                {"id": "y", "queue": "default", "worker": "w2"},
            ],
        }
    ]


def test_show_tells_when_a_rate_opens(cli: Cli, store: Store) -> None:
    async def work(broker: JobStore) -> None:
        await broker.declare([LimitRule(name="r", limit=Rate(1, 3_600_000, 1))])
        await broker.enqueue([Job(id=name, task="t", limits=(LimitKey("r"),)) for name in "ab"])
        await broker.reserve(["default"], worker="w", limit=9, lease_ms=60_000)

    store.run(work)
    *_, row = rows(cli("limits", "show", "r").out)
    assert row[:6] == ["-", "default", "1", "1", "in", "59m"]


def test_the_limits_of_a_queue_are_shown_by_kind(cli: Cli, store: Store) -> None:
    async def work(broker: JobStore) -> None:
        await broker.declare([QueueRule(name="default", limits=(Slots(3),))])
        await broker.enqueue([Job(id="a", task="t")])
        await broker.reserve(["default"], worker="w", limit=9, lease_ms=60_000)

    store.run(work)
    *_, row = rows(cli("limits", "show", "queue:default").out)
    assert row[:3] == ["slots", "default", "1/3"]


@pytest.mark.parametrize("command", [["show"], ["set", "--slots", "1"], ["reset"]])
def test_a_limit_that_does_not_exist_is_code_3(cli: Cli, store: Store, command: list[str]) -> None:
    said = cli("limits", *command, "nope")
    assert said.code == 3
    assert said.err == "error: there is no limit 'nope'; see `ropeway limits list`\n"


# -- limits set, reset --------------------------------------------------------------------------


def test_a_limit_is_set_and_reset(cli: Cli, store: Store) -> None:
    declare(store, SLOTS, RATE)
    said = cli("limits", "set", "fetch.rate", "--rate", "10/s", "--burst", "3")
    assert (said.code, said.out) == (0, "fetch.rate  10 per 1 s, burst 3\n")
    plain = cli("limits", "set", "fetch.concurrency", "--slots", "5", "--json").json
    assert plain["in_force"]["limit"]["n"] == 5
    assert cli("limits", "reset", "fetch.rate").out == "fetch.rate  as the code says\n"
    assert cli("limits", "reset", "fetch.rate").out == "fetch.rate  was not overridden\n"
    reset = cli("limits", "reset", "fetch.concurrency", "--json").json
    assert reset == {"name": "fetch.concurrency", "reset": True}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "give the numbers of one limit"),
        (["--slots", "1", "--rate", "1/s"], "give the numbers of one limit"),
        (["--burst", "1"], "--burst goes with --rate"),
        (["--failures", "1"], "--failures and --cooldown go together"),
        (["--slots", "0"], "slots=0: give a whole number"),
        (["--rate", "100"], "--rate '100' is not a rate"),
        (["--rate", "1/s"], "give Concurrency(...)"),
    ],
)
def test_numbers_that_cannot_be_meant_are_code_2(
    cli: Cli, store: Store, options: list[str], says: str
) -> None:
    declare(store, SLOTS)
    said = cli("limits", "set", "fetch.concurrency", *options)
    assert said.code == 2
    assert says in said.err
    assert said.err.count("\n") == 1


def test_fewer_slots_than_run_need_force(cli: Cli, limited: Store) -> None:
    said = cli("limits", "set", "fetch.concurrency", "--slots", "1")
    assert said.code == 2
    assert "2 in use" in said.err
    assert cli("limits", "set", "fetch.concurrency", "--slots", "1", "--force").code == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [("100/1m", (100, 60)), ("5/30s", (5, 30)), ("10/s", (10, 1)), ("3/90", (3, 90))],
)
def test_rates_are_read_with_units(text: str, expected: tuple[int, float]) -> None:
    assert per(text, name="rate") == expected


@pytest.mark.parametrize("text", ["", "10", "10/", "/s", "x/s", "-1/s", "1.5/s", "10/parsec"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(Failure, match="is not a (rate|duration)"):
        per(text, name="rate")


# -- queues set, reset --------------------------------------------------------------------------


def test_a_queue_is_bounded_and_limited_part_by_part(cli: Cli, store: Store) -> None:
    said = cli("queues", "set", "mail", "--max-length", "1000", "--on-full", "drop-oldest")
    assert said.out == "mail  at most 1,000 jobs waiting, then drop_oldest\n"
    said = cli("queues", "set", "mail", "--slots", "5", "--rate", "100/1m")
    assert said.out == (
        "mail  at most 1,000 jobs waiting, then drop_oldest; 5 slots; 100 per 60 s, burst 1\n"
    )
    said = cli("queues", "set", "mail", "--lift", "max-length,rate")
    assert said.out == "mail  5 slots\n"
    assert cli("queues", "reset", "mail").out == "mail  as the code says\n"
    assert cli("queues", "reset", "mail", "--json").json == {"name": "mail", "reset": False}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "nothing to change"),
        (["--max-length", "0"], "max_length=0"),
        (["--on-full", "explode", "--max-length", "1"], "--on-full 'explode'"),
        (["--on-full", "drop-new"], "need a max_length"),
        (["--lift", "speed"], "--lift 'speed': known parts are"),
        (["--lift", "slots", "--slots", "1"], "set it or lift it"),
        (["--lift", "max-length", "--max-length", "1"], "set it or lift it"),
    ],
)
def test_what_a_queue_cannot_be_set_to_is_code_2(
    cli: Cli, store: Store, options: list[str], says: str
) -> None:
    said = cli("queues", "set", "mail", *options)
    assert said.code == 2
    assert says in said.err


# -- jobs why -----------------------------------------------------------------------------------


def test_why_says_who_holds_the_limit(cli: Cli, limited: Store) -> None:
    worker = WorkerInfo(id="w1", host="h", pid=1, queues={"default": 1}, concurrency=9)
    limited.run(lambda broker: broker.heartbeat(worker))
    said = cli("jobs", "why", "c")
    assert said.code == 0
    *facts, why = said.out.splitlines()
    assert facts == ["id     c", "task   fetch", "queue  default", "state  available"]
    assert why == (
        "why    limit 'fetch.concurrency' of key 'a' has no free slot: 2 of 2 held by jobs x, y "
        "on workers w1, w2"
    )
    plain = cli("jobs", "why", "c", "--json").json
    assert (plain["id"], plain["state"]) == ("c", "available")
    [reason] = plain["reasons"]
    assert (reason["kind"], reason["limit"], reason["key"], reason["count"]) == (
        "limit",
        "fetch.concurrency",
        "a",
        1,
    )
    assert reason["jobs"] == [{"id": "x", "queue": "default"}, {"id": "y", "queue": "default"}]
    assert reason["workers"] == ["w1", "w2"]


def test_why_lists_every_reason_the_main_one_first(cli: Cli, store: Store) -> None:
    store.add(Job(id="a", task="t", delay_ms=300_000))
    cli("queues", "pause", "default")
    *_, why, first, second = cli("jobs", "why", "a").out.splitlines()
    assert why.startswith("why    it waits for its time, until 20")
    assert why.endswith("(in 4m59s)")
    assert first == "also   queue 'default' is paused; resume it to go on"
    assert second == "also   no worker was heard of in the last minute"


def test_why_of_a_finished_job_says_when_it_ended(cli: Cli, store: Store) -> None:
    store.dead(Job(id="d", task="t"))
    *_, why = cli("jobs", "why", "d").out.splitlines()
    assert why.startswith("why    it is dead after ValueError: bad url, since 20")
    assert why.endswith("(now)")


def test_why_of_a_job_that_does_not_exist_is_code_3(cli: Cli, store: Store) -> None:
    said = cli("jobs", "why", "nope")
    assert said.code == 3
    assert said.err == "error: there is no job 'nope'; records go when their retention ends\n"
