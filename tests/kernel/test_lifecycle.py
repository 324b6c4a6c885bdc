"""The state machine as a specification: what each event makes of a status."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropeway import lifecycle
from ropeway.action import BuryJob, CancelJob, DeleteJob, EditJob, MoveJob, RetryJob, RunNow
from ropeway.job import (
    FINAL,
    UNFINISHED,
    WAITING,
    Crash,
    Failure,
    Job,
    JobRef,
    State,
    Status,
    UniqueKey,
)
from ropeway.lifecycle import (
    COMPLETED_KEPT,
    CRASH_WINDOW_MS,
    ERRORS_KEPT,
    RETENTION_MS,
    TRANSITIONS,
    Event,
)
from ropeway.outcome import Ack, Bury, Cancel, Outcome, Release, Retry, Snooze

NOW = 1_000_000_000
DAY_MS = 24 * 3600 * 1000
states = st.sampled_from(list(State))


def job(**fields: Any) -> Job:
    return Job(**{"id": "j", "task": "t", "created_at_ms": NOW, **fields})


def status(state: State, **fields: Any) -> Status:
    final = {"finished_at_ms": NOW} if state in FINAL else {}
    return Status(**{"state": state, "seq": 1, "due_ms": NOW, **final, **fields})


def running(**fields: Any) -> Status:
    return status(State.RUNNING, **{"attempt": 1, "token": 7, "lease_until_ms": 50, **fields})


def outcome(kind: type[Outcome], **fields: Any) -> Any:
    lease = lifecycle.lease(job(), running())
    needed = {"delay_ms": 10} if kind in {Retry, Snooze} else {}
    return kind(lease=lease, **{**needed, **fields})


class TestTable:
    def test_every_event_has_a_row(self):
        assert set(TRANSITIONS) == set(Event)

    def test_a_final_job_comes_back_only_by_an_operator(self):
        from_final = {e for e, row in TRANSITIONS.items() if FINAL & set(row)}
        assert from_final == {Event.RETRY_NOW, Event.REOPEN}

    def test_a_job_runs_only_by_reserve(self):
        starts = {
            event
            for event, row in TRANSITIONS.items()
            for state, targets in row.items()
            if State.RUNNING in targets - {state}
        }
        assert starts == {Event.RESERVE}

    def test_every_state_can_be_reached_and_left(self):
        reached = {to for row in TRANSITIONS.values() for targets in row.values() for to in targets}
        left = {state for row in TRANSITIONS.values() for state in row}
        assert reached == left == set(State)

    @pytest.mark.parametrize("kind", [Ack, Retry, Snooze, Release, Bury])
    def test_the_row_of_an_outcome_is_where_it_leads_with_and_without_a_request_to_cancel(
        self, kind
    ):
        reached = {
            lifecycle.settle(running(cancel_requested=asked), outcome(kind), now_ms=NOW).state
            for asked in (False, True)
        }
        assert TRANSITIONS[Event(kind.__name__.lower())][State.RUNNING] == reached

    def test_an_illegal_transition_is_a_programmers_error(self):
        with pytest.raises(AssertionError, match="due cannot take a job from completed"):
            lifecycle.promote(status(State.COMPLETED))

    @pytest.mark.parametrize("kind", [Ack, Retry, Snooze, Release, Bury, Cancel])
    @pytest.mark.parametrize("state", sorted(set(State) - {State.RUNNING}))
    def test_only_a_running_job_is_settled(self, kind, state):
        if kind in {Bury, Cancel} and state in WAITING:
            return  # the same event by an operator; stores settle by the token of a running job
        with pytest.raises(AssertionError):
            lifecycle.settle(status(state), outcome(kind), now_ms=NOW)


class TestAdmit:
    def test_a_plain_job_is_available_now(self):
        stamped, new = lifecycle.admit(job(created_at_ms=3), seq=9, now_ms=NOW)
        assert (new.state, new.due_ms, new.seq, new.attempt) == (State.AVAILABLE, NOW, 9, 0)
        assert stamped.created_at_ms == NOW

    @given(delay_ms=st.integers(1, 10**9))
    def test_relative_times_become_absolute(self, delay_ms):
        stamped, new = lifecycle.admit(
            job(delay_ms=delay_ms, expires_after_ms=delay_ms, deadline_after_ms=delay_ms),
            seq=1,
            now_ms=NOW,
        )
        at_ms = NOW + delay_ms
        assert (new.state, new.due_ms) == (State.SCHEDULED, at_ms)
        assert (stamped.scheduled_at_ms, stamped.expires_at_ms) == (at_ms, at_ms)
        assert stamped.deadline_at_ms == at_ms
        assert (stamped.delay_ms, stamped.expires_after_ms, stamped.deadline_after_ms) == (
            0,
            None,
            None,
        )

    @given(at_ms=st.integers(0, 2 * NOW))
    def test_a_job_is_never_due_before_now(self, at_ms):
        _, new = lifecycle.admit(job(scheduled_at_ms=at_ms), seq=1, now_ms=NOW)
        assert new.due_ms == max(at_ms, NOW)
        assert new.state is (State.SCHEDULED if at_ms > NOW else State.AVAILABLE)

    def test_a_job_with_open_parents_is_pending_whatever_its_time(self):
        _, new = lifecycle.admit(job(delay_ms=5), seq=1, now_ms=NOW, waiting_on=frozenset({"p"}))
        assert (new.state, new.waiting_on, new.due_ms) == (State.PENDING, {"p"}, NOW + 5)

    def test_admitting_again_changes_nothing(self):
        stamped, new = lifecycle.admit(job(delay_ms=5, expires_after_ms=9), seq=1, now_ms=NOW)
        assert lifecycle.admit(stamped, seq=1, now_ms=NOW) == (stamped, new)


class TestParents:
    @given(parents=st.frozensets(st.text(min_size=1), min_size=1, max_size=5), data=st.data())
    def test_the_last_of_all_parents_opens_the_job_in_any_order(self, parents, data):
        order = data.draw(st.permutations(sorted(parents)))
        now = status(State.PENDING, waiting_on=parents)
        for parent in order[:-1]:
            now = lifecycle.parent_completed(now, parent, now_ms=NOW)
            assert now.state is State.PENDING
        now = lifecycle.parent_completed(now, order[-1], now_ms=NOW + 5)
        assert (now.state, now.waiting_on) == (State.AVAILABLE, frozenset())
        assert now.due_ms == NOW + 5

    def test_an_opened_job_keeps_a_time_in_the_future(self):
        pending = status(State.PENDING, waiting_on=frozenset({"p"}), due_ms=NOW + 9)
        opened = lifecycle.parent_completed(pending, "p", now_ms=NOW)
        assert (opened.state, opened.due_ms) == (State.SCHEDULED, NOW + 9)

    def test_a_failed_parent_counts_by_the_jobs_policy(self):
        pending = status(State.PENDING, waiting_on=frozenset({"p"}))

        def after(policy: str) -> Status:
            child = job(on_parent_failed=policy)
            return lifecycle.parent_failed(child, pending, "p", now_ms=NOW)

        assert after("wait") is pending
        assert after("run").state is State.AVAILABLE
        cancelled = after("cancel")
        assert (cancelled.state, cancelled.reason) == (State.CANCELLED, "parent_failed:p")
        assert lifecycle.cancelled_by(cancelled, "p")
        assert not lifecycle.cancelled_by(cancelled, "q")
        reopened = lifecycle.reopen_child(cancelled, waiting_on=frozenset({"p"}))
        assert reopened == pending


class TestRun:
    def test_a_start_counts_the_attempt(self):
        waiting = status(State.AVAILABLE, attempt=2, reason="unknown_task")
        started = lifecycle.start(waiting, worker="w", token=8, lease_until_ms=99, now_ms=NOW)
        assert (started.state, started.attempt, started.reason) == (State.RUNNING, 3, None)
        lease = lifecycle.lease(job(), started)
        assert (lease.attempt, lease.token, lease.expires_at_ms) == (3, 8, 99)

    @pytest.mark.parametrize(
        ("fields", "reason"),
        [
            ({}, None),
            ({"expires_at_ms": NOW + 1}, None),
            ({"expires_at_ms": NOW}, "expired"),
            ({"deadline_at_ms": NOW}, "deadline"),
            ({"deadline_at_ms": NOW + 1}, None),
            ({"expires_at_ms": NOW, "deadline_at_ms": NOW}, "expired"),
        ],
    )
    def test_overdue_begins_with_the_very_millisecond(self, fields, reason):
        assert lifecycle.overdue(job(**fields), now_ms=NOW) == reason

    def test_an_extend_keeps_what_it_does_not_bring(self):
        held = running(saved=b"7")
        kept = lifecycle.extended(held, lease_until_ms=90, progress=None, saved=None)
        assert (kept.lease_until_ms, kept.saved, held.lease_until_ms) == (90, b"7", 50)


class TestSettle:
    @pytest.mark.parametrize(
        ("kind", "state", "attempt"),
        [
            (Ack, State.COMPLETED, 1),
            (Retry, State.RETRYABLE, 1),
            (Snooze, State.SCHEDULED, 0),
            (Release, State.AVAILABLE, 0),
            (Bury, State.DEAD, 1),
            (Cancel, State.CANCELLED, 1),
        ],
    )
    def test_an_outcome_leads_to_its_state_and_counts_or_not(self, kind, state, attempt):
        before = running()
        after = lifecycle.settle(before, outcome(kind), now_ms=NOW)
        assert (after.state, after.attempt, after.settled_token) == (state, attempt, 7)
        assert (after.finished_at_ms == NOW) == (state in FINAL)
        assert before == running()  # the old status is left as it was

    @pytest.mark.parametrize("kind", [Retry, Snooze])
    def test_a_delay_counts_from_now(self, kind):
        after = lifecycle.settle(running(), outcome(kind, delay_ms=123), now_ms=NOW + 1)
        assert after.due_ms == NOW + 124

    def test_a_release_keeps_the_place(self):
        before = running(due_ms=5, rank=2.5, seq=77)
        after = lifecycle.settle(before, outcome(Release), now_ms=NOW)
        assert (after.due_ms, after.rank, after.seq) == (5, 2.5, 77)

    @pytest.mark.parametrize("kind", [Ack, Retry, Snooze, Release, Bury, Cancel])
    def test_a_request_to_cancel_is_honoured_unless_the_job_has_ended(self, kind):
        asked = running(cancel_requested=True, reason="enough")
        after = lifecycle.settle(asked, outcome(kind), now_ms=NOW)
        expected = {Ack: State.COMPLETED, Bury: State.DEAD}.get(kind, State.CANCELLED)
        assert after.state is expected

    @given(count=st.integers(0, 3 * ERRORS_KEPT))
    def test_the_newest_failures_are_kept(self, count):
        now = running()
        for number in range(count):
            failure = Failure(at_ms=number, attempt=number, type="E")
            now = lifecycle.settle(now, outcome(Retry, failure=failure), now_ms=NOW)
            now = msgspec.structs.replace(now, state=State.RUNNING)
        assert [f.attempt for f in now.errors] == list(range(count))[-ERRORS_KEPT:]

    def test_snoozes_are_counted_in_a_row(self):
        once = lifecycle.settle(running(snoozes=4), outcome(Snooze), now_ms=NOW)
        assert once.snoozes == 5
        retried = lifecycle.settle(running(snoozes=4), outcome(Retry), now_ms=NOW)
        assert retried.snoozes == 0

    def test_a_saved_cursor_outlives_everything_but_success(self):
        for kind in (Retry, Snooze, Release, Bury, Cancel):
            assert lifecycle.settle(running(saved=b"s"), outcome(kind), now_ms=NOW).saved == b"s"
        assert lifecycle.settle(running(saved=b"s"), outcome(Ack), now_ms=NOW).saved is None


class TestCrashes:
    @given(crash_max=st.integers(0, 6), gaps_ms=st.lists(st.integers(1, DAY_MS), max_size=12))
    def test_one_crash_more_than_the_budget_within_a_day_is_the_end(self, crash_max, gaps_ms):
        budgeted = job(crash_max=crash_max)
        now, at_ms, times = running(), NOW, []
        for token, gap_ms in enumerate(gaps_ms):
            at_ms += gap_ms
            times = [t for t in times if t > at_ms - CRASH_WINDOW_MS] + [at_ms]
            held = msgspec.structs.replace(now, state=State.RUNNING, token=token, attempt=1)
            now = lifecycle.lease_expired(budgeted, held, now_ms=at_ms)
            assert [c.at_ms for c in now.crashes] == times
            if len(times) > crash_max:
                assert (now.state, now.reason) == (State.DEAD, "crashed_worker")
                return
            assert (now.state, now.attempt) == (State.AVAILABLE, 0)

    def test_a_crash_keeps_the_place_and_has_no_backoff(self):
        held = running(due_ms=5, rank=1.5, seq=3)
        after = lifecycle.lease_expired(job(), held, now_ms=NOW)
        assert (after.due_ms, after.rank, after.seq) == (5, 1.5, 3)
        assert after.crashes == (Crash(7, NOW),)

    def test_a_crash_after_a_request_to_cancel_cancels(self):
        asked = running(cancel_requested=True)
        after = lifecycle.lease_expired(job(), asked, now_ms=NOW)
        assert (after.state, after.finished_at_ms) == (State.CANCELLED, NOW)

    def test_an_answer_takes_its_own_crash_back_only(self):
        crashed = status(State.AVAILABLE, crashes=(Crash(1, 5), Crash(2, 6)))
        assert lifecycle.survived(crashed, 1).crashes == (Crash(2, 6),)
        assert lifecycle.survived(crashed, 9).crashes == crashed.crashes

    @pytest.mark.parametrize(("crashes", "suspect"), [(0, False), (1, False), (2, True), (3, True)])
    def test_two_crashes_make_a_suspect(self, crashes, suspect):
        held = running(crashes=tuple(Crash(n, NOW) for n in range(crashes)))
        assert lifecycle.lease(job(), held).suspect is suspect


class TestPruning:
    @given(
        state=st.sampled_from(sorted(FINAL)),
        retention_ms=st.none() | st.integers(0, 10**10),
        finished_at_ms=st.integers(0, 2**45),
    )
    def test_a_record_is_kept_as_long_as_its_job_or_its_state_says(
        self, state, retention_ms, finished_at_ms
    ):
        ended = status(state, finished_at_ms=finished_at_ms)
        keep_ms = lifecycle.prune_at_ms(job(retention_ms=retention_ms), ended) - finished_at_ms
        if retention_ms is None or state is State.DEAD:
            assert keep_ms == RETENTION_MS[state]
        else:
            assert keep_ms == retention_ms

    def test_a_record_outlives_its_retention_only_while_it_holds_its_key(self):
        unique = UniqueKey(key="k", window_ms=500)
        for state, keep_ms in ((State.COMPLETED, 500), (State.CANCELLED, 3)):
            held = job(unique=unique, retention_ms=3)
            assert lifecycle.prune_at_ms(held, status(state)) == NOW + keep_ms

    def test_what_is_kept_and_for_how_long(self):
        assert RETENTION_MS == {
            State.COMPLETED: DAY_MS // 24 // 6,
            State.CANCELLED: DAY_MS,
            State.DEAD: 90 * DAY_MS,
        }
        assert (COMPLETED_KEPT, ERRORS_KEPT, CRASH_WINDOW_MS) == (100_000, 10, DAY_MS)

    def test_an_unfinished_job_is_not_pruned(self):
        with pytest.raises(AssertionError):
            lifecycle.prune_at_ms(job(), status(State.AVAILABLE))


class TestOperators:
    @pytest.mark.parametrize("state", list(State))
    def test_what_an_operator_may_do_depends_on_the_state(self, state):
        ref = job().ref
        allowed = {
            CancelJob(ref=ref): UNFINISHED,
            BuryJob(ref=ref): WAITING,
            RetryJob(ref=ref): FINAL | {State.RETRYABLE},
            RunNow(ref=ref): {State.SCHEDULED, State.RETRYABLE, State.AVAILABLE},
            MoveJob(ref=ref, queue="q"): WAITING,
            DeleteJob(ref=ref): set(),  # not an edit of the status: see `deletable`
        }
        for action, states_ in allowed.items():
            done = lifecycle.act(job(), status(state), action, now_ms=NOW)
            assert (done is not None) == (state in states_), action
        edit = EditJob(ref=ref, job=job(payload=b"new"))
        done = lifecycle.act(job(), status(state), edit, now_ms=NOW)
        assert (done is not None) == (state in WAITING)
        assert lifecycle.deletable(status(state)) == (state is not State.RUNNING)

    def test_a_retry_resets_the_budget_and_keeps_the_errors(self):
        failure = Failure(at_ms=1, attempt=1, type="E")
        dead = status(
            State.DEAD,
            attempt=5,
            snoozes=2,
            crashes=(Crash(1, 1),),
            errors=(failure,),
            reason="r",
            result=b"x",
            cancel_requested=True,
            waiting_on=frozenset({"p"}),
        )
        again = lifecycle.reopen(dead, now_ms=NOW + 9)
        assert again == status(State.AVAILABLE, due_ms=NOW + 9, errors=(failure,))

    def test_run_now_never_makes_a_job_later(self):
        early = status(State.SCHEDULED, due_ms=NOW + 5, attempt=3, reason="why it was snoozed")
        (_, now) = lifecycle.act(job(), early, RunNow(ref=job().ref), now_ms=NOW) or (None, early)
        assert now == status(State.AVAILABLE, due_ms=NOW, attempt=3)
        waiting = status(State.AVAILABLE, due_ms=NOW - 5)
        (_, now) = lifecycle.act(job(), waiting, RunNow(ref=job().ref), now_ms=NOW) or (None, early)
        assert now.due_ms == NOW - 5

    def test_an_edit_keeps_who_the_job_is(self):
        old = job(parents=("p",), unblocks=(JobRef("c", "q"),), queue="q", revision=3)
        edit = EditJob(ref=old.ref, job=Job(id="x", task="t2", payload=b"new", queue="other"))
        changed = lifecycle.act(old, status(State.AVAILABLE), edit, now_ms=NOW + 1)
        assert changed is not None
        new, after = changed
        assert (new.id, new.queue, new.parents, new.created_at_ms) == ("j", "q", ("p",), NOW)
        assert new.unblocks == old.unblocks
        assert (new.task, new.payload, new.revision) == ("t2", b"new", 4)
        assert after == status(State.AVAILABLE)

    @pytest.mark.parametrize(("revision", "done"), [(None, True), (3, True), (2, False)])
    def test_an_edit_may_insist_on_a_revision(self, revision, done):
        edit = EditJob(ref=job().ref, job=job(), if_revision=revision)
        old = job(revision=3)
        changed = lifecycle.act(old, status(State.AVAILABLE), edit, now_ms=NOW)
        assert (changed is not None) is done

    def test_an_edit_does_not_cut_a_backoff_short(self):
        failing = status(State.RETRYABLE, due_ms=NOW + 500)
        edit = EditJob(ref=job().ref, job=job(scheduled_at_ms=NOW - 1))
        changed = lifecycle.act(job(), failing, edit, now_ms=NOW)
        assert changed is not None
        assert changed[1] == failing


class TestUniqueKeys:
    def test_a_job_without_a_key_holds_none(self):
        assert not lifecycle.holds_key(job(), State.RUNNING, now_ms=NOW)

    @given(
        state=states,
        during=st.frozensets(states),
        window_ms=st.integers(0, 100),
        release=st.booleans(),
        age_ms=st.integers(0, 200),
    )
    def test_a_key_is_held_by_state_or_by_window(self, state, during, window_ms, release, age_ms):
        unique = UniqueKey(key="k", during=during, window_ms=window_ms, release_on_failure=release)
        held = lifecycle.holds_key(job(unique=unique), state, now_ms=NOW + age_ms)
        given_up = release and state in {State.DEAD, State.CANCELLED}
        assert held == (state in during or (age_ms < window_ms and not given_up))

    def test_by_default_every_unfinished_state_holds_the_key(self):
        unique = job(unique=UniqueKey(key="k"))
        holding = {s for s in State if lifecycle.holds_key(unique, s, now_ms=NOW)}
        assert holding == UNFINISHED


def test_final_states_are_told_apart():
    """Only an operator leads out of them."""
    operators = {Event.RETRY_NOW, Event.REOPEN}
    left = {s for event, moves in TRANSITIONS.items() if event not in operators for s in moves}
    assert set(State) - left == FINAL
