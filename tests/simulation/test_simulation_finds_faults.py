"""The simulation notices when a broker or a worker is wrong, and within fifty seeds.

A fault is planted where it is told, and nothing tells the checker.
"""

import pytest
from flow_planted import FLOW_FAULTS
from planted import FAULTS, place_of

from ropeway.testing.simulation import simulate

SEEDS_MAX = 50
ALL = FAULTS | FLOW_FAULTS


@pytest.mark.parametrize("name", ALL)
def test_a_planted_fault_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = ALL[name]
    monkeypatch.setattr(*place_of(fault))
    for seed in range(SEEDS_MAX):
        if simulate(seed, broker=fault.broker).violations:
            return
    pytest.fail(f"{SEEDS_MAX} seeds did not show that {name}")
