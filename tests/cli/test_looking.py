"""`jobs list`, `show`, `logs`; `queues list`, `peek`; `workers list`."""

import json
import sys

import pytest
from terminal import Cli, Store

from ropeway.broker import Beat, Entry, JobStore, WorkerInfo
from ropeway.job import Job, Progress, UniqueKey
from ropeway.outcome import Ack

ID = "01990000-0000-7000-8000-000000000001"


def test_jobs_are_listed_newest_first_in_aligned_columns(cli: Cli, store: Store) -> None:
    store.add(Job(id="a", task="mail.send"), Job(id="b", task="x", queue="other", delay_ms=300_000))
    said = cli("jobs", "list")
    assert said.code == 0
    head, second, first = said.out.splitlines()
    assert head.split() == ["ID", "STATE", "TASK", "QUEUE", "TRY", "WHEN"]
    assert second.split() == ["b", "scheduled", "x", "other", "0", "in", "4m59s"]
    assert first.split()[:5] == ["a", "available", "mail.send", "default", "0"]
    assert first.index("mail.send") == second.index("x ") == head.index("TASK")


def test_a_listed_job_says_why_it_waits(cli: Cli, store: Store) -> None:
    store.add(
        Job(id="child", task="x", parents=("parent",)),
        Job(id="o1", task="x", ordering_key="k"),
        Job(id="o2", task="x", ordering_key="k"),
    )
    store.retryable(Job(id="again", task="x", queue="q"))
    out = cli("jobs", "list").out
    assert "└ waits for parent" in out
    assert "└ blocked on ordering:k" in out
    assert "└ TimeoutError: slow" in out


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        (["--state", "dead"], ["d"]),
        (["--state", "dead,completed"], ["d", "c"]),
        (["--queue", "other"], ["d"]),
        (["--task", "t1"], ["a"]),
        (["--tag", "nightly"], ["a"]),
        (["--error", "bad url"], ["d"]),
        (["--unique-key", "k"], ["a"]),
        (["--since", "1h"], ["d", "c", "a"]),
        (["--until", "2020-01-01"], []),
        (["--task", "t1", "--state", "dead"], []),
    ],
)
def test_every_filter_narrows_the_list(
    cli: Cli, store: Store, options: list[str], ids: list[str]
) -> None:
    store.add(Job(id="a", task="t1", tags=("nightly",), unique=UniqueKey(key="k"), queue="mail"))
    store.completed(Job(id="c", task="t2"))
    store.dead(Job(id="d", task="t3", queue="other"))
    found = cli("jobs", "list", "--json", *options).json
    assert [job["id"] for job in found["jobs"]] == ids


def test_a_cursor_leads_through_all_jobs_once(cli: Cli, store: Store) -> None:
    store.add(*(Job(id=str(n), task="t") for n in range(7)))
    seen: list[str] = []
    cursor: list[str] = []
    while True:
        page = cli("jobs", "list", "--json", "--limit", "3", *cursor).json
        seen += [job["id"] for job in page["jobs"]]
        if page["cursor"] is None:
            break
        cursor = ["--after", page["cursor"]]
    assert seen == [str(n) for n in reversed(range(7))]


def test_a_person_is_told_how_to_get_the_next_page(cli: Cli, store: Store) -> None:
    store.add(*(Job(id=str(n), task="t") for n in range(3)))
    said = cli("jobs", "list", "--limit", "2")
    assert "add --after" in said.err
    rest = cli("jobs", "list", "--after", said.err.split()[-1])
    assert rest.out.splitlines()[1].split()[0] == "0"


def test_the_json_of_a_job_always_has_the_same_keys(cli: Cli, store: Store) -> None:
    store.add(Job(id="a", task="t", payload=b'{"n": 1}'))
    store.dead(Job(id="d", task="t", queue="q"))
    dead, waiting = cli("jobs", "list", "--json").json["jobs"]
    assert dead.keys() == waiting.keys()
    assert waiting["args"] == {"n": 1}
    assert waiting["state"] == "available"
    assert dead["errors"][0]["type"] == "ValueError"
    assert dead["errors"][0]["message"] == "bad url"


def test_show_tells_all_of_a_dead_job(cli: Cli, store: Store) -> None:
    store.dead(Job(id=ID, task="fetch", payload=b'{"url": "x"}', tags=("a", "b"), attempt_max=3))
    said = cli("jobs", "show", ID)
    assert said.code == 0
    facts = dict(line.split("  ", 1) for line in said.out.splitlines() if "  " in line)
    assert facts["id"].strip() == ID
    assert facts["state"].strip() == "dead"
    assert facts["args"].strip() == '{"url":"x"}'
    assert facts["attempts"].strip() == "1 of 3"
    assert facts["tags"].strip() == "a, b"
    assert "Traceback (most recent call last):" in said.out
    assert "ValueError: bad url" in said.out


def test_show_tells_the_result(cli: Cli, store: Store) -> None:
    store.completed(Job(id="a", task="t"), result=b'{"pages":3}')
    assert '{"pages":3}' in cli("jobs", "show", "a").out
    assert cli("jobs", "show", "a", "--json").json["result"] == {"pages": 3}


def test_unreadable_arguments_are_said_to_be_so(cli: Cli, store: Store) -> None:
    store.add(Job(id="a", task="t", payload=b"\xff", codec="json"))
    assert "unreadable" in cli("jobs", "show", "a").out
    job = cli("jobs", "show", "a", "--json").json
    assert job["args"] is None
    assert "args" in job["unreadable"]


def test_a_jobs_words_cannot_steer_the_terminal(cli: Cli, store: Store) -> None:
    store.add(Job(id="a", task="evil\x1b[2Jtask", tags=("\x1b]0;title\x07",)))
    for said in (cli("jobs", "list"), cli("jobs", "show", "a")):
        assert "\x1b" not in said.out
        assert "\x07" not in said.out
        assert "\\x1b[2J" in said.out


def _log(store: Store) -> None:
    async def write(broker: JobStore) -> None:
        await broker.enqueue([Job(id="a", task="t")])
        [lease] = await broker.reserve(["default"], worker="w", limit=1, lease_ms=60_000)
        await broker.append(
            [
                Entry(lease=lease, kind="log", at_ms=0, data="INFO half way"),
                Entry(lease=lease, kind="partial", at_ms=1, data="[1]"),
            ]
        )
        await broker.extend([Beat(lease=lease, progress=Progress(0.5, "pages"))], lease_ms=60_000)
        await broker.settle([Ack(lease=lease)])

    store.run(write)


def test_logs_prints_a_jobs_own_lines(cli: Cli, store: Store) -> None:
    _log(store)
    said = cli("jobs", "logs", "a")
    assert [line.split("  ", 1)[1] for line in said.out.splitlines()] == [
        "INFO half way",
        "partial  [1]",
    ]
    assert said.out == cli("jobs", "logs", "a", "--follow").out, "the job has ended"
    lines = cli("jobs", "logs", "a", "--json").json_lines
    assert [(line["kind"], line["data"]) for line in lines] == [
        ("log", "INFO half way"),
        ("partial", "[1]"),
    ]
    assert "INFO half way" in cli("jobs", "show", "a").out


@pytest.mark.parametrize("command", [["show"], ["logs"], ["edit", "--priority", "1"]])
def test_a_job_that_does_not_exist_is_code_3(cli: Cli, store: Store, command: list[str]) -> None:
    said = cli("jobs", *command, "nope")
    assert said.code == 3
    assert said.err == "error: there is no job 'nope'; records go when their retention ends\n"


def test_queues_are_listed_with_their_counts(cli: Cli, store: Store) -> None:
    store.add(Job(id="a", task="t"), Job(id="b", task="t", delay_ms=60_000))
    store.dead(Job(id="d", task="t", queue="mail"))
    head, default, mail = cli("queues", "list").out.splitlines()
    assert head.split() == [
        "QUEUE",
        "STATUS",
        "PEND",
        "SCHED",
        "AVAIL",
        "RUN",
        "RETRY",
        "DONE",
        "DEAD",
        "CANC",
        "OLDEST",
    ]
    assert default.split()[:5] == ["default", "active", "-", "1", "1"]
    assert mail.split()[8] == "1"
    plain = cli("queues", "list", "--json").json["queues"]
    assert [queue["name"] for queue in plain] == ["default", "mail"]
    assert plain[1]["counts"]["dead"] == 1
    assert plain[1]["counts"]["available"] == 0


def test_peek_shows_the_order_of_serving(cli: Cli, store: Store) -> None:
    store.add(Job(id="low", task="t"), Job(id="high", task="t", priority=5))
    shown = cli("queues", "peek", "default", "--json").json["jobs"]
    assert [job["id"] for job in shown] == ["high", "low"]
    assert cli("queues", "peek", "default", "--offset", "1").out.splitlines()[1].startswith("low")
    assert "no available jobs" in cli("queues", "peek", "other").err


def test_workers_are_listed(cli: Cli, store: Store) -> None:
    worker = WorkerInfo(
        id="0f8c2b1e-aaaa", host="pine", pid=42, queues={"mail": 2, "default": 1},
        concurrency=50, running=("a", "b"), processed=1200, failed=3,
    )  # fmt: skip
    store.run(lambda broker: broker.heartbeat(worker))
    row = cli("workers", "list").out.splitlines()[1].split()
    assert row[:7] == ["0f8c2b1e", "pine", "42", "running", "2/50", "1200", "3"]
    assert row[-1] == "mail>default"
    [plain] = cli("workers", "list", "--json").json["workers"]
    assert plain["id"] == "0f8c2b1e-aaaa"
    assert plain["running"] == ["a", "b"]


def test_where_there_is_nothing_it_says_so_and_json_is_empty(cli: Cli, store: Store) -> None:
    for command, key in ((["jobs", "list"], "jobs"), (["queues", "list"], "queues")):
        said = cli(*command)
        assert (said.code, said.out) == (0, "")
        assert said.err.startswith("no ")
        assert cli(*command, "--json").json[key] == []


def test_a_table_fits_a_terminal_of_80_columns(
    cli: Cli, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add(
        Job(id=ID, task="myproject.reports.monthly_statement", queue="reports_of_the_month"),
        Job(id="o", task="x", parents=("p" * 200,)),
    )
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda _: True, raising=False)
    lines = cli("jobs", "list").out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert any(ID in line and "…" in line for line in lines)


def test_a_pipe_gets_neither_colours_nor_cut_words(cli: Cli, store: Store) -> None:
    task = "myproject.reports.monthly_statement_of_every_customer_of_the_northern_region"
    store.add(Job(id=ID, task=task, queue="reports"))
    out = cli("jobs", "list").out
    assert task in out
    assert "\x1b" not in out


def test_json_is_one_document_on_one_line(cli: Cli, store: Store) -> None:
    store.add(Job(id="a", task="t"))
    out = cli("jobs", "list", "--json").out
    assert out.count("\n") == 1
    assert json.loads(out)
