"""`jobs retry|cancel|run-now|bury|move|delete|edit`; `queues pause|resume|purge`; `workers …`."""

import pytest
from terminal import Cli, Store

from ropeway.broker import JobStore, Signal, WorkerInfo
from ropeway.job import Job, JobRef, State


def state(store: Store, name: str) -> State | None:
    [record] = store.run(lambda broker: broker.get([JobRef(name)]))
    return None if record is None else record.status.state


def job(store: Store, name: str) -> Job:
    [record] = store.run(lambda broker: broker.get([JobRef(name)]))
    assert record is not None
    return record.job


# ------------------------------------------------------------------------------- by id


def test_retry_makes_a_dead_job_available(cli: Cli, store: Store) -> None:
    store.dead(Job(id="d", task="t"))
    said = cli("jobs", "retry", "d")
    assert (said.code, said.out) == (0, "d  made available\n")
    assert state(store, "d") is State.AVAILABLE


def test_cancel_ends_a_waiting_job_with_the_reason(cli: Cli, store: Store) -> None:
    store.add(Job(id="a", task="t"))
    assert cli("jobs", "cancel", "a", "--reason", "customer left").out == "a  cancelled\n"
    shown = cli("jobs", "show", "a", "--json").json
    assert (shown["state"], shown["reason"]) == ("cancelled", "customer left")


def test_cancel_asks_a_running_job_to_stop(cli: Cli, store: Store) -> None:
    store.add(Job(id="a", task="t"))
    store.run(lambda b: b.reserve(["default"], worker="w", limit=1, lease_ms=60_000))
    assert cli("jobs", "cancel", "a").out == "a  asked to stop\n"
    assert cli("jobs", "show", "a", "--json").json["cancel_requested"]


def test_run_now_starts_a_scheduled_job(cli: Cli, store: Store) -> None:
    store.add(Job(id="a", task="t", delay_ms=3_600_000))
    assert cli("jobs", "run-now", "a").code == 0
    assert state(store, "a") is State.AVAILABLE


def test_bury_gives_up_on_a_waiting_job(cli: Cli, store: Store) -> None:
    store.add(Job(id="a", task="t"))
    assert cli("jobs", "bury", "a").code == 0
    assert state(store, "a") is State.DEAD


def test_move_takes_a_job_to_another_queue(cli: Cli, store: Store) -> None:
    store.add(Job(id="a", task="t"))
    assert cli("jobs", "move", "--to", "slow", "a").code == 0
    assert job(store, "a").queue == "slow"


def test_delete_removes_the_record(cli: Cli, store: Store) -> None:
    store.add(Job(id="a", task="t"))
    assert cli("jobs", "delete", "a").code == 0
    assert state(store, "a") is None


def test_every_job_gets_its_own_answer(cli: Cli, store: Store) -> None:
    store.dead(Job(id="d", task="t"))
    store.add(Job(id="a", task="t"))
    said = cli("jobs", "retry", "d", "nope", "a")
    assert said.code == 1, "one was refused"
    assert said.out == "d  made available\n"
    missing, refused = said.err.splitlines()
    assert missing == "error: there is no job 'nope'"
    assert refused.startswith("error: job a: retry refused: ")
    results = cli("jobs", "cancel", "d", "nope", "--json")
    assert results.code == 3
    assert [r["answer"] for r in results.json["results"]] == ["done", "not_found"]


# --------------------------------------------------------------------------- by filter


def test_a_dry_run_counts_and_changes_nothing(cli: Cli, store: Store) -> None:
    store.dead(*(Job(id=str(n), task="t") for n in range(3)))
    said = cli("jobs", "retry", "--task", "t", "--dry-run")
    assert (said.code, said.out) == (0, "retry would apply to 3 jobs\n")
    assert cli("jobs", "retry", "--all", "--dry-run", "--json").json == {
        "dry_run": True,
        "matching": 3,
    }
    assert state(store, "0") is State.DEAD


def test_a_filter_acts_on_the_states_that_are_meant(cli: Cli, store: Store) -> None:
    store.dead(Job(id="dead", task="t"))
    store.completed(Job(id="completed", task="t"))
    store.add(Job(id="waiting", task="t"))
    assert cli("jobs", "retry", "--task", "t", "--yes").out == "1 job made available\n"
    assert state(store, "completed") is State.COMPLETED
    assert cli("jobs", "delete", "--all", "--yes").out == "1 job deleted\n"
    assert state(store, "completed") is None
    assert state(store, "waiting") is State.AVAILABLE


def test_a_filter_reaches_more_jobs_than_one_page(cli: Cli, store: Store) -> None:
    store.add(*(Job(id=str(n), task="t") for n in range(1_203)))
    said = cli("jobs", "cancel", "--task", "t", "--yes", "--json")
    assert said.json == {"done": 1_203, "requested": 0, "not_found": 0, "refused": 0}


def test_jobs_that_cannot_be_changed_are_counted_as_refused(cli: Cli, store: Store) -> None:
    store.completed(Job(id="c", task="t"))
    said = cli("jobs", "cancel", "--state", "completed", "--yes")
    assert said.code == 1
    assert said.err.startswith("error: 1 job refused")


def test_without_a_terminal_a_filter_needs_yes(cli: Cli, store: Store) -> None:
    store.add(Job(id="a", task="t"))
    said = cli("jobs", "cancel", "--all")
    assert said.code == 2
    assert "cancel 1 job? Nobody can answer here: add --yes" in said.err
    assert state(store, "a") is State.AVAILABLE


@pytest.mark.parametrize(("answer", "code", "left"), [("y\n", 0, 0), ("n\n", 1, 1), ("", 130, 1)])
def test_a_person_is_asked(
    cli: Cli,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    code: int,
    left: int,
) -> None:
    store.add(Job(id="a", task="t"))
    monkeypatch.setattr("ropeway.cli.jobs.act.is_terminal", lambda: True)
    assert cli("queues", "purge", "default", stdin=answer).code == code
    assert len(cli("jobs", "list", "--json").json["jobs"]) == left


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["retry"], "name the jobs by id, by a filter such as --task NAME, or with --all"),
        (["retry", "a", "--task", "t"], "give ids, or a filter, not both"),
        (["retry", "a", "--dry-run"], "--dry-run counts what a filter finds"),
        (["move", "a"], "Missing option '--to'"),
        (["cancel", "--state", "ded"], "--state 'ded': known states are pending, "),
        (["list", "--since", "soon"], "--since 'soon' is not a time"),
        (["list", "--after", "xyz"], "cursor 'xyz'"),
        (["edit", "a"], "nothing to change"),
        (["edit", "a", "--priority", "11"], "priority=11"),
        (["edit", "a", "--args", "[1]"], "must be a JSON object"),
        (["edit", "a", "--delay", "-5s"], "--delay '-5s' is not a duration"),
    ],
)
def test_what_cannot_be_meant_is_code_2_in_one_line(
    cli: Cli, store: Store, argv: list[str], message: str
) -> None:
    store.add(Job(id="a", task="t"))
    said = cli("jobs", *argv)
    assert said.code == 2
    assert message in said.err
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1


# -------------------------------------------------------------------------------- edit


def test_edit_changes_what_is_named_and_keeps_the_rest(cli: Cli, store: Store) -> None:
    store.add(Job(id="a", task="t", payload=b'{"n": 1, "m": 2}', tags=("x",)))
    said = cli("jobs", "edit", "a", "--args", '{"n": 5}', "--priority", "7", "--delay", "1h")
    assert (said.code, said.out) == (0, "a  edited (scheduled)\n")
    shown = cli("jobs", "show", "a", "--json").json
    assert shown["args"] == {"n": 5, "m": 2}
    assert (shown["priority"], shown["tags"], shown["revision"]) == (7, ["x"], 1)


def test_edit_is_refused_when_the_job_has_another_revision(cli: Cli, store: Store) -> None:
    store.add(Job(id="a", task="t"))
    said = cli("jobs", "edit", "a", "--priority", "1", "--if-revision", "9")
    assert said.code == 1
    assert said.err.startswith("error: job a: edit refused: ")
    assert job(store, "a").priority == 0


def test_edit_is_refused_for_a_job_that_has_ended(cli: Cli, store: Store) -> None:
    store.completed(Job(id="a", task="t"))
    assert cli("jobs", "edit", "a", "--priority", "1").code == 1


# ------------------------------------------------------------------------------ queues


def test_a_paused_queue_says_so_until_it_is_resumed(cli: Cli, store: Store) -> None:
    store.add(Job(id="a", task="t"))
    assert cli("queues", "pause", "default", "mail").out == "default  paused\nmail  paused\n"
    queues = cli("queues", "list", "--json").json["queues"]
    assert [(q["name"], q["paused"]) for q in queues] == [("default", True), ("mail", True)]
    assert cli("queues", "resume", "default").code == 0
    assert not cli("queues", "list", "--json").json["queues"][0]["paused"]


def test_purge_deletes_what_does_not_run(cli: Cli, store: Store) -> None:
    store.dead(Job(id="d", task="t"))
    store.add(Job(id="a", task="t"), Job(id="other", task="t", queue="mail"))
    dry = cli("queues", "purge", "default", "--dry-run")
    assert dry.out == "purge would delete 2 jobs of default\n"
    only = cli("queues", "purge", "default", "--state", "dead", "--yes", "--json")
    assert only.json == {"queue": "default", "deleted": 1}
    assert cli("queues", "purge", "default", "--yes").out == "1 job of default deleted\n"
    assert state(store, "other") is State.AVAILABLE
    assert cli("queues", "purge", "default", "--state", "running").code == 2


# ----------------------------------------------------------------------------- workers


@pytest.fixture
def heard(store: Store) -> list[str]:
    """Two workers that a store has heard of."""
    ids = ["aaaa1111", "aaaa2222"]

    async def tell(broker: JobStore) -> None:
        for name in ids:
            await broker.heartbeat(WorkerInfo(id=name, host="h", pid=1))

    store.run(tell)
    return ids


def signals(store: Store) -> list[Signal]:
    return store.run(lambda broker: broker.signals(after=0))


def test_a_worker_is_named_by_the_beginning_of_its_id(
    cli: Cli, store: Store, heard: list[str]
) -> None:
    assert cli("workers", "quiet", "aaaa1").out == "told 1 worker to quiet\n"
    assert [(s.kind, s.worker) for s in signals(store)] == [("quiet", heard[0])]
    assert "could be 2 of them" in cli("workers", "stop", "aaaa").err
    assert cli("workers", "stop", "bbbb").code == 3


def test_all_workers_can_be_stopped(cli: Cli, store: Store, heard: list[str]) -> None:
    assert cli("workers", "stop", "--all", "--json").json == {"signal": "stop", "workers": heard}
    assert [s.worker for s in signals(store)] == heard


def test_tune_changes_concurrency_and_queues(cli: Cli, store: Store, heard: list[str]) -> None:
    assert cli("workers", "tune", heard[0], "--concurrency", "5", "--queues", "a=3,b=1").code == 0
    [signal] = signals(store)
    assert (signal.kind, signal.concurrency, signal.queues) == ("tune", 5, ("a=3", "b=1"))
    assert cli("workers", "tune", heard[0], "--concurrency", "auto").code == 0
    assert signals(store)[-1].concurrency == 0
    assert cli("workers", "tune", heard[0], "--concurrency", "0").code == 2
    assert cli("workers", "tune", heard[0]).code == 2
    assert cli("workers", "tune", heard[0], "--queues", "a=3,b").code == 2
    assert cli("workers", "tune", heard[0], "--concurrency", "0").code == 2
    assert cli("workers", "stop").code == 2
