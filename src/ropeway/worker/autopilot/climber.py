"""Finds the number of slots with the highest throughput: looks at a worker in, changes out. Pure.

It climbs a hill whose shape it does not know. Throughput is measured with the present number of
slots, then with another one, and the better one stays. Up first, by four while the process has
CPU to spare and by two elsewhere; then down, where fewer slots that do as much are the better
ones; then a pause, longer each time that nothing was better. Everything is measured in turns, the
time in which each slot has ended a job, so that slow jobs are given the time that they need.

Slots that are not all taken say nothing about their number: it stays as it is, through an empty
queue too. When jobs come after a rest, or throughput becomes another one by itself, the climb
begins anew from where it stands.
"""

from dataclasses import dataclass, replace
from typing import Final

from ropeway.worker.autopilot.guards import LAG_MAX_S, LagGuard, MemoryGuard
from ropeway.worker.autopilot.window import BUSY_CPU, IDLE_CPU, Figures, Look, Window

FULL: Final = 0.7
"""The share of looks at which all slots must be taken for their number to matter."""
GAIN_IDLE: Final = 1.25
"""What twice the slots must bring at least, where a short window with jobs in step may err."""
GAIN_BUSY: Final = 1.06
"""The same in a long window of a busy process."""
LOSS: Final = 0.97
"""What half the slots must still bring."""
LOSS_ALL: Final = 0.94
"""What is left of the throughput at the beginning of a descent, at least, after all its steps."""
CHANGED: Final = 1.35
"""By so much throughput changes only when the jobs do; twice in a row, to be sure."""
UNUSED_WINDOWS: Final = 3
PAUSE_MIN_S: Final = 1.0
PAUSE_MAX_S: Final = 16.0
PAUSE_WINDOWS: Final = 10.0
"""A pause is so many measurements long at least: a trial of slow jobs is a long one."""
TRIAL_MAX_S: Final = 2.0
REST_S: Final = 0.5
LOOK_MIN_S: Final = 0.005
LOOK_MAX_S: Final = 0.05
LOOK_IDLE_S: Final = 1.0
FAR_UP: Final = 4.0
UP: Final = 2.0
DOWN: Final = 0.5


@dataclass(frozen=True, slots=True)
class Change:
    """The number of slots is another one.

    Attributes:
        limit: the number from now on.
        settled: the same without the trial that may begin.
        why: in words.
        seen: the figures that speak for it; None without a finished measurement.

    """

    limit: int
    settled: int
    why: str
    seen: Figures | None = None


@dataclass(frozen=True, slots=True)
class _Trial:
    """A number of slots that is being measured beside the present one."""

    stride: float  # over 1: up
    give_up_s: float


class Climber:
    """Decides on the number of slots.

    Args:
        start: the number to begin with.
        most: the highest number.
        memory_max_bytes: see `MemoryGuard`.
        bold: whether to climb by four. Not where a slot is a process.

    Attributes:
        limit: the number of slots now.
        settled: the number without the trial that may be going on.

    """

    def __init__(
        self, *, start: int, most: int, memory_max_bytes: int = 0, bold: bool = True
    ) -> None:
        self.limit: int = min(start, most)
        self.settled: int = self.limit
        self._start = self.limit
        self._most = most
        self._bold = bold
        self._memory = MemoryGuard(memory_max_bytes)
        self._lag = LagGuard()
        self._last: Look | None = None
        self._window: Window | None = None
        self._turn = 0  # jobs that must end before the present number shows; 0: it does
        self._trial: _Trial | None = None
        self._figures: Figures | None = None  # of `settled`
        self._floor = 0.0  # throughput below which the present descent must not get
        self._strides: list[float] = []  # factors, still to be tried before the next pause
        self._is_warm = False  # whether the first climb since the start or a rest is over
        self._has_free_slots = False  # in the last window
        self._strange = 0
        self._unused = 0  # windows in a row in which slots could not be filled
        self._pause_s = PAUSE_MIN_S
        self._pause_until_s = 0.0
        self._active_at_s = 0.0
        self._begin_climb()

    @property
    def may_fetch_ahead(self) -> bool:
        """Whether there is memory for jobs that wait."""
        return not self._memory.is_short

    @property
    def is_resting(self) -> bool:
        """Whether there has been nothing to do for a while."""
        return self._last is not None and self._last.at_s - self._active_at_s > REST_S

    @property
    def next_look_s(self) -> float:
        """How soon to look again: often at the beginning of a measurement, else now and then."""
        last, window = self._last, self._window
        if last is None or window is None:
            return LOOK_MIN_S
        if self.is_resting:
            return LOOK_IDLE_S
        if last.at_s > self._active_at_s:
            return LOOK_MAX_S
        if self._trial is None and (last.at_s < self._pause_until_s or self._has_free_slots):
            return LOOK_MAX_S
        return min(LOOK_MAX_S, max(LOOK_MIN_S, window.seconds / 8))

    def look(self, look: Look) -> Change | None:
        """Take note of the worker's counters; the change that follows, if any."""
        before, self._last = self._last, look
        if before is None or self._window is None:
            self._active_at_s = look.at_s
            self._window = Window(look)
            return None
        alarm = self._alarm(look)
        if alarm is not None:
            return alarm
        if look.busy or look.waiting or look.ended != before.ended:
            if look.at_s - self._active_at_s > REST_S:
                self._begin_climb()
            self._active_at_s = look.at_s
        else:  # nothing to do: what was measured half-way is worth nothing
            self._figures = None
            return self._leave_trial(look, "no jobs are left")
        self._window.add(look, limit=self.limit)
        if not self._has_settled(look):
            return self._tire(look)
        # Half the slots may cost half the throughput, and twice as many little: down takes longer.
        patience = 2 if self._trial is not None and self._trial.stride < 1 else 1
        if not self._window.tells(turn=self.limit, fine=self._is_fine, patience=patience):
            return self._tire(look)
        figures = self._window.figures()
        self._window = Window(look)
        return self._measured(look, figures) if self._trial is None else self._judge(look, figures)

    # -- measuring ---------------------------------------------------------------------------

    @property
    def _is_fine(self) -> bool:
        """Whether small differences count: the process is busy, or the first climb is over."""
        return self._is_warm or (self._figures is not None and self._figures.is_busy)

    def _has_settled(self, look: Look) -> bool:
        """Whether the runs now in flight began with the present number of slots."""
        window = self._window
        assert window is not None, "there is one since the first look"
        if not self._turn:
            return True
        if window.ended >= self._turn and look.busy <= self.limit:
            self._turn = 0
            self._window = Window(look)
        return False

    def _tire(self, look: Look) -> Change | None:
        """End a trial that lasts too long to say anything: jobs have become rare, or slow."""
        if self._trial is not None and look.at_s > self._trial.give_up_s:
            self._rest(look)
            return self._leave_trial(look, "too few jobs end to tell")
        return None

    def _measured(self, look: Look, seen: Figures) -> Change | None:
        """The throughput of the present number of slots is known."""
        self._has_free_slots = seen.full < FULL
        if self._has_free_slots:
            self._figures = None
            return self._drop_unused(look, seen)
        known = self._figures
        if known is None:
            self._figures = seen
        elif self._are_others(known, seen):
            self._begin_climb()
            self._figures = seen
        elif self._strange:
            return None  # what is known stays until this is seen again
        else:  # one window errs by a tenth where the host is busy
            self._figures = replace(seen, rate=(known.rate + seen.rate) / 2)
            if self._figures.rate < self._floor:  # the last descent was misled
                self._pause_until_s = look.at_s
        needs_more = known is None and seen.is_busy and not self._is_warm
        if look.at_s < self._pause_until_s or needs_more:
            return None  # in a busy process, the first window was too short
        if not self._strides:
            self._begin_round()
        return self._try_next(look)

    def _are_others(self, known: Figures, seen: Figures) -> bool:
        """Whether the jobs have become others, told from the same number of slots."""
        if known.cpu > BUSY_CPU and seen.cpu < IDLE_CPU:
            return True
        is_strange = not 1 / CHANGED < seen.rate / known.rate < CHANGED
        self._strange = self._strange + 1 if is_strange else 0
        return self._strange > 1

    def _drop_unused(self, look: Look, seen: Figures) -> Change | None:
        """Fewer slots where the process is too busy to fill them with the jobs that wait here.

        A loop that hundreds of threads starve begins no more jobs, so its slots are never all
        taken. With no more than it fills, their number matters again, and the climb goes on.
        """
        after = max(self._start, seen.busy_max)
        is_too_busy = seen.cpu > BUSY_CPU and seen.supplied >= FULL
        is_unused = is_too_busy and seen.busy_max > 0 and 2 * after <= self.limit
        self._unused = self._unused + 1 if is_unused else 0
        if self._unused < UNUSED_WINDOWS:
            return None
        why = f"of {self.limit:,} never more than {seen.busy_max:,} were taken"
        self.settled = after
        self._begin_climb()
        return self._go(look, after, why, seen)

    # -- climbing ----------------------------------------------------------------------------

    def _begin_climb(self) -> None:
        """Find the right number from the present one: the jobs are new."""
        self._is_warm = self._has_free_slots = False
        self._strange = self._unused = 0
        self._figures = None
        self._pause_s = PAUSE_MIN_S
        self._pause_until_s = 0.0
        self._begin_round()

    def _begin_round(self) -> None:
        self._strides = [*self._ups, DOWN]
        self._floor = 0.0

    @property
    def _ups(self) -> tuple[float, ...]:
        return (UP,) if self._is_warm or not self._bold else (FAR_UP, UP)

    def _try_next(self, look: Look) -> Change | None:
        """Begin the next trial; without one there is a pause."""
        known = self._figures
        assert known is not None, "a trial is beside something that is known"
        while self._strides:
            stride = self._strides.pop(0)
            after = max(1, min(self._most, round(self.settled * stride)))
            is_far = stride == FAR_UP and (known.cpu > IDLE_CPU or known.is_busy)
            if after == self.settled or is_far or (stride > 1 and not self._memory.allows_growth):
                continue
            if stride < 1:
                self._floor = max(self._floor, LOSS_ALL * known.rate)
            give_up_s = look.at_s + max(TRIAL_MAX_S, 8 * max(stride, 1) * known.seconds)
            self._trial = _Trial(stride, give_up_s)
            return self._go(look, after, "a trial", known)
        self._is_warm = True
        self._rest(look)
        return None

    def _judge(self, look: Look, seen: Figures) -> Change | None:
        """The throughput of a trial is known: keep its number, or take it back."""
        trial, known, before = self._trial, self._figures, self.settled
        assert trial is not None, "asked for a trial only"
        assert known is not None, "asked for a trial only"
        self._trial = None
        is_up = trial.stride > 1
        if is_up and seen.lag_s > LAG_MAX_S / 2:
            return self._go(look, self.settled, f"{self.limit:,} make the loop late", seen)
        if is_up:
            least = known.rate * (GAIN_BUSY if self._is_fine else GAIN_IDLE)
        else:
            least = max(known.rate * LOSS, self._floor)
        if seen.rate < least:
            why = f"{self.limit:,} gave {seen.rate:,.0f} jobs/s"
            return self._try_next(look) or self._go(look, self.settled, why, known)
        self.settled, self._figures = self.limit, seen
        self._strides = [*self._ups] if is_up else [DOWN]
        self._pause_s = PAUSE_MIN_S
        why = "more bring more" if is_up else "fewer bring as much"
        why = f"{why}, {before:,} gave {known.rate:,.0f} jobs/s"
        self._try_next(look)
        return Change(self.limit, self.settled, why, seen)

    def _leave_trial(self, look: Look, why: str) -> Change | None:
        """Nothing can be told now; back to the number that is known."""
        self._window = Window(look)
        self._turn = 0
        if self._trial is None:
            return None
        self._trial = None
        self._begin_round()
        return self._go(look, self.settled, why)

    def _rest(self, look: Look) -> None:
        """Leave the number alone for a while, each time for longer."""
        window_s = self._figures.seconds if self._figures is not None else 0.0
        self._pause_until_s = look.at_s + max(self._pause_s, PAUSE_WINDOWS * window_s)
        self._pause_s = min(PAUSE_MAX_S, 2 * self._pause_s)

    # -- changing ----------------------------------------------------------------------------

    def _alarm(self, look: Look) -> Change | None:
        """Half the slots where a guard asks for it."""
        if self._memory.objects(look):
            why = f"memory is short: {look.memory_bytes / 1e6:,.0f} MB"
        elif self._lag.objects(look):
            why = f"the event loop is {look.lag_s * 1000:,.0f} ms late"
        else:
            return None
        if self.limit == 1:
            return None
        self._trial, self._figures = None, None
        self.settled = max(1, min(self.settled, self.limit) // 2)
        self._begin_round()
        self._rest(look)
        return self._go(look, self.settled, why)

    def _go(self, look: Look, limit: int, why: str, seen: Figures | None = None) -> Change | None:
        before, self.limit = self.limit, limit
        if before == limit:
            return None
        # In the first climb a step shows at once; elsewhere those in flight must end first.
        self._turn = min(before, limit) if limit < before or self._is_fine else 0
        self._window = Window(look)
        return Change(limit, self.settled, why, seen)
