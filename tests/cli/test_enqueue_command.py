"""`ropeway enqueue`: one job, or one for each line of stdin."""

import json
import sys
from pathlib import Path

import pytest
from terminal import Cli, Store

from ropeway.flow.rules import LimitRule, QueueRule, Slots
from ropeway.job import Job, JobRef, LimitKey


def listed(cli: Cli) -> list[dict[str, object]]:
    """All jobs, oldest first."""
    return cli("jobs", "list", "--json", "--limit", "100000").json["jobs"][::-1]


def test_a_job_is_stored_under_the_tasks_name_and_its_id_printed(cli: Cli) -> None:
    said = cli("enqueue", "mail.send", '{"to": "ann"}')
    [job] = listed(cli)
    assert said.out == f"{job['id']}\n"
    assert (job["task"], job["args"], job["queue"]) == ("mail.send", {"to": "ann"}, "default")


def test_json_tells_the_answer(cli: Cli) -> None:
    said = cli("enqueue", "t", "--id", "a", "--json")
    assert said.json == {"id": "a", "queue": "default", "answer": "ok"}


def test_every_option_reaches_the_job(cli: Cli) -> None:
    cli(
        "enqueue", "t", "--queue", "q", "--priority", "7", "--id", "a", "--attempts", "3",
        "--timeout", "1.5s", "--expires", "1h", "--tag", "x", "--tag", "y",
        "--ordering-key", "o", "--unique-key", "u", "--delay", "10m",
    )  # fmt: skip
    [job] = listed(cli)
    expected = {
        "queue": "q", "priority": 7, "id": "a", "attempt_max": 3, "timeout_ms": 1500,
        "tags": ["x", "y"], "ordering_key": "o", "unique_key": "u", "state": "scheduled",
    }  # fmt: skip
    assert {name: job[name] for name in expected} == expected
    assert job["expires_at_ms"] == job["created_at_ms"] + 3_600_000  # type: ignore[operator]
    assert job["due_at_ms"] == job["created_at_ms"] + 600_000  # type: ignore[operator]


def test_at_takes_a_time_with_or_without_a_zone(cli: Cli) -> None:
    cli("enqueue", "t", "--at", "2099-01-01T00:00:00Z", "--id", "utc")
    cli("enqueue", "t", "--at", "2099-06-01 09:00", "--id", "local")
    utc, local = listed(cli)
    assert utc["due_at_ms"] == 4_070_908_800_000
    assert local["state"] == "scheduled"


def test_the_same_id_again_is_harmless_and_said(cli: Cli) -> None:
    cli("enqueue", "t", "--id", "a")
    said = cli("enqueue", "t", "--id", "a")
    assert (said.code, said.out) == (0, "a\n")
    assert said.err == "note: this job was there already; nothing was stored\n"
    other = cli("enqueue", "t", '{"n": 1}', "--id", "a")
    assert other.code == 1
    assert len(listed(cli)) == 1


def test_a_held_unique_key_answers_by_its_policy(cli: Cli) -> None:
    cli("enqueue", "t", "--unique-key", "k", "--id", "a")
    assert cli("enqueue", "t", "--unique-key", "k").out == "a\n"
    assert cli("enqueue", "t", "--unique-key", "k", "--on-conflict", "reject").code == 1
    replaced = cli("enqueue", "t", '{"n": 2}', "--unique-key", "k", "--on-conflict", "replace")
    assert replaced.out == "a\n"
    [job] = listed(cli)
    assert job["args"] == {"n": 2}


# ------------------------------------------------------------------------- with the app


def test_a_job_that_a_full_queue_drops_is_said_and_has_no_id(cli: Cli, store: Store) -> None:
    full = QueueRule(name="q", max_length=1, on_full="drop_new")
    store.run(lambda broker: broker.declare([full]))
    cli("enqueue", "t", "--queue", "q")
    said = cli("enqueue", "t", "--queue", "q")
    assert said.out == ""
    assert said.err == "note: the queue is full and drops new jobs; nothing was stored\n"
    said = cli("enqueue", "t", "--queue", "q", "--stdin", stdin="{}\n{}\n")
    assert said.out == "0 jobs enqueued, 2 dropped since the queue is full\n"


def test_keys_of_limits_and_the_tenant_reach_the_job(cli: Cli, store: Store) -> None:
    store.run(lambda broker: broker.declare([LimitRule(name="api", limit=Slots(1))]))
    cli("enqueue", "t", "--id", "a", "--limit-key", "api=a=b", "--fair-key", "acme")
    [record] = store.run(lambda broker: broker.get([JobRef("a")]))
    assert record.job.limits == (LimitKey("api", "a=b"),)
    assert record.job.fair_key == "acme"
    said = cli("enqueue", "t", "--limit-key", "api")
    assert (said.code, said.out) == (2, "")
    assert "--limit-key 'api': give LIMIT=KEY" in said.err


@pytest.mark.usefixtures("app_file")
def test_with_the_app_the_tasks_own_options_apply(cli: Cli) -> None:
    assert cli("enqueue", "send", '["ann", 2]', "--app", "jobs_app:app").code == 0
    [job] = listed(cli)
    assert (job["queue"], job["args"]) == ("mail", {"to": "ann", "copies": 2})


@pytest.mark.usefixtures("app_file")
@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["send"], 2, "send() missing a required argument: 'to'"),
        (["send", '{"to": "a", "whom": "b"}'], 2, "unexpected keyword argument 'whom'"),
        (["send", '{"to": 3}'], 2, "send: the argument `to` does not fit its annotation"),
        (["sent", "{}"], 3, "the app has no task 'sent'; did you mean send"),
        (["send", '"ann"'], 2, "must be a JSON object (name -> value) or an array"),
        (["send", "{}", "--url", "sqlite:///x.db"], 2, "--app has its own broker"),
    ],
)
def test_with_the_app_wrong_calls_are_refused_here(
    cli: Cli, store: Store, argv: list[str], code: int, message: str
) -> None:
    said = cli("enqueue", *argv, "--app", "jobs_app:app")
    assert said.code == code
    assert message in said.err
    assert said.err.count("\n") == 1
    assert listed(cli) == []


# --------------------------------------------------------------------------- from stdin


def test_each_line_of_stdin_is_a_job(cli: Cli) -> None:
    lines = "".join(f'{{"n": {n}}}\n' for n in range(2_500)) + "\n"
    said = cli("enqueue", "t", "--stdin", "--queue", "bulk", stdin=lines)
    assert (said.code, said.out, said.err) == (0, "2,500 jobs enqueued\n", "")
    jobs = listed(cli)
    assert [job["args"] for job in jobs] == [{"n": n} for n in range(2_500)]
    assert {job["queue"] for job in jobs} == {"bulk"}


def test_json_prints_each_job_on_a_line(cli: Cli) -> None:
    lines = cli("enqueue", "t", "--stdin", "--json", stdin="{}\n{}\n").json_lines
    assert [line["answer"] for line in lines] == ["ok", "ok"]
    assert [line["id"] for line in lines] == [job["id"] for job in listed(cli)]


def test_duplicates_are_counted(cli: Cli) -> None:
    said = cli("enqueue", "t", "--stdin", "--unique-key", "k", stdin="{}\n{}\n{}\n")
    assert said.out == "1 job enqueued, 2 there already\n"


def test_nothing_of_a_batch_with_a_bad_line_is_stored(cli: Cli) -> None:
    lines = [json.dumps({"n": n}) for n in range(1_500)]
    lines[1_100] = "{oops"
    lines[1_200] = "[1]"
    said = cli("enqueue", "t", "--stdin", stdin="\n".join(lines))
    assert said.code == 1
    first, second, last = said.err.splitlines()
    assert first.startswith("error: line 1101: the line is not JSON")
    assert second.startswith("error: line 1201: the line must be a JSON object")
    assert last == (
        "error: 2 bad lines; nothing stored from line 1001 on, 1,000 jobs stored before it"
    )
    assert len(listed(cli)) == 1_000


@pytest.mark.usefixtures("app_file")
def test_bad_arguments_on_a_line_are_named_with_the_line(cli: Cli, store: Store) -> None:
    said = cli(
        "enqueue", "send", "--app", "jobs_app:app", "--stdin", stdin='["a"]\n\n{"to": 1}\n{}\n'
    )
    assert said.code == 1
    wrong_type, missing, _ = said.err.splitlines()
    assert wrong_type.startswith("error: line 3: send: the argument `to` does not fit")
    assert missing.startswith("error: line 4: send() missing a required argument")
    assert listed(cli) == []


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["t", "{"], "ARGS is not JSON"),
        (["t", "[1]"], "an array needs --app"),
        (["t", "--delay", "soon"], "--delay 'soon' is not a duration: give seconds, or 500ms"),
        (["t", "--delay", "1s", "--at", "2099-01-01"], "give one of the two"),
        (["t", "--priority", "11"], "priority=11"),
        (["t", "--on-conflict", "reject"], "--on-conflict needs a --unique-key"),
        (["t", "--on-conflict", "shrug", "--unique-key", "k"], "choose return, reject or replace"),
        (["", "{}"], "TASK must not be empty"),
        (["t", "{}", "--stdin"], "with --stdin the arguments come from stdin"),
        (["t", "--url", "memory://"], "such a store lives inside one process"),
        (["t", "--url", "mysq://x"], "unknown scheme"),
        ([], "Missing argument 'TASK'"),
    ],
)
def test_what_cannot_be_meant_is_code_2_in_one_line(
    cli: Cli, store: Store, argv: list[str], message: str
) -> None:
    said = cli("enqueue", *argv)
    assert said.code == 2
    assert message in said.err
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert listed(cli) == []


def test_progress_is_shown_on_a_terminal_only(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "{}\n" * 1_500
    assert cli("enqueue", "t", "--stdin", stdin=lines).err == ""
    # Both are of one class here, so they are told apart by what they are.
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda self: self is sys.stderr, raising=False)
    said = cli("enqueue", "t", "--stdin", "--json", stdin=lines)
    assert "1,500 jobs" in said.err
    assert len(said.json_lines) == 1_500, "stdout stays clean"


def test_a_job_too_large_is_refused(cli: Cli, store: Store) -> None:
    said = cli("enqueue", "t", "--stdin", stdin=json.dumps({"x": [i**40 for i in range(60_000)]}))
    assert said.code == 1
    assert "over the limit" in said.err
    assert listed(cli) == []


def test_a_url_in_the_environment_is_the_default(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROPEWAY_URL", f"sqlite:///{tmp_path}/elsewhere.db")
    cli("enqueue", "t", "--id", "a")
    other = Store(tmp_path / "elsewhere.db")
    assert other.run(lambda broker: broker.get([Job(id="a", task="t").ref]))[0] is not None
