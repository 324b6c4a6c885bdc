"""The contract of `ropeway.broker` as tests, for every broker, ours and others'.

A broker joins with a class and a fixture; pytest, anyio and hypothesis must be installed:

    import pytest
    from ropeway.testing.contract import JobStoreContract

    class TestMyBroker(JobStoreContract):
        @pytest.fixture
        async def broker(self, clock):
            broker = MyBroker(clock=clock)
            await broker.open()
            yield broker
            await broker.close()

The broker must be empty and must read time from `clock`. No test is skipped: where a broker lacks
a capability, the test asserts that it refuses.
"""

import pytest

_THEMES = (
    "coordinate",
    "enqueue",
    "extend",
    "flow",
    "look",
    "maintain",
    "operate",
    "reserve",
    "settle",
    "traces",
    "transitions",
    "unique",
    "watch",
    "workflow",
)
# Before they are imported, so that a failed assertion shows its values.
pytest.register_assert_rewrite(*(f"{__name__}.{theme}" for theme in _THEMES))

# ruff: noqa: E402 - see above
from ropeway.testing.contract.coordinate import AbandonContract, WorkersContract
from ropeway.testing.contract.enqueue import (
    EnqueueContract,
    EnqueueRepeatContract,
    EnqueueTimeContract,
)
from ropeway.testing.contract.extend import ExtendContract
from ropeway.testing.contract.flow.fair import FairContract
from ropeway.testing.contract.flow.groups import GroupContract
from ropeway.testing.contract.flow.limits import (
    ConcurrencyContract,
    ParkedContract,
    RateContract,
    RulesContract,
)
from ropeway.testing.contract.flow.queues import (
    BoundContract,
    BreakerContract,
    QueueLimitContract,
)
from ropeway.testing.contract.flow.time import TimedUniqueContract
from ropeway.testing.contract.look import FindContract, PeekContract, QueuesContract
from ropeway.testing.contract.maintain import (
    ClockStepContract,
    CrashBudgetContract,
    MaintainContract,
    OverdueContract,
    RetentionContract,
)
from ropeway.testing.contract.operate import ActContract, EditContract, QueueControlContract
from ropeway.testing.contract.reserve import (
    OrderingKeyContract,
    ReserveOrderContract,
    ReserveSuspectContract,
    ReserveTimeContract,
)
from ropeway.testing.contract.settle import (
    SettleFenceContract,
    SettleOutcomeContract,
    SettleStepContract,
)
from ropeway.testing.contract.traces.again import AgainContract
from ropeway.testing.contract.traces.gone import TracesContract
from ropeway.testing.contract.traces.odd import OddContract, PlaceContract
from ropeway.testing.contract.transitions import TransitionsContract
from ropeway.testing.contract.unique import (
    UniqueContract,
    UniqueReentryContract,
    UniqueReplaceContract,
    UniqueWindowContract,
)
from ropeway.testing.contract.watch import (
    EventsContract,
    SignalsContract,
    WaitContract,
    WakeContract,
)
from ropeway.testing.contract.workflow import ParentFailedContract, WorkflowContract
from ropeway.testing.manual_clock import ManualClock

__all__ = ["BrokerContract", "FlowContract", "JobStoreContract"]


class FlowContract(
    ConcurrencyContract,
    ParkedContract,
    RateContract,
    RulesContract,
    QueueLimitContract,
    BreakerContract,
    BoundContract,
    FairContract,
    TimedUniqueContract,
    GroupContract,
):
    """Which job runs next, and how many at once."""


class BrokerContract(
    EnqueueContract,
    EnqueueRepeatContract,
    EnqueueTimeContract,
    ReserveOrderContract,
    ReserveTimeContract,
    ReserveSuspectContract,
    OrderingKeyContract,
    SettleOutcomeContract,
    SettleFenceContract,
    SettleStepContract,
    ExtendContract,
    MaintainContract,
    CrashBudgetContract,
    OverdueContract,
    RetentionContract,
    ClockStepContract,
    UniqueContract,
    UniqueWindowContract,
    UniqueReplaceContract,
    UniqueReentryContract,
    WorkflowContract,
    ParentFailedContract,
):
    """The verbs of a job's life, seen through the records of a store."""


class JobStoreContract(
    BrokerContract,
    FlowContract,
    FindContract,
    PeekContract,
    QueuesContract,
    ActContract,
    EditContract,
    QueueControlContract,
    WakeContract,
    WaitContract,
    EventsContract,
    SignalsContract,
    WorkersContract,
    AbandonContract,
    TracesContract,
    AgainContract,
    OddContract,
    PlaceContract,
    TransitionsContract,
):
    """The whole contract. A subclass gives the async fixture `broker`."""

    pytestmark: pytest.MarkDecorator = pytest.mark.anyio

    @pytest.fixture
    def clock(self) -> ManualClock:
        """The time that the broker under test reads."""
        return ManualClock()

    @pytest.fixture(scope="session")
    @classmethod
    def anyio_backend(cls) -> str:
        """Ropeway runs on asyncio."""
        return "asyncio"
