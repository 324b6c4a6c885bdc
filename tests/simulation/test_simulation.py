"""What must hold does hold, in every simulated history; and the same seed is the same history."""

import os
import subprocess
import sys

import pytest

from ropeway.testing.simulation import BROKERS, simulate

SEEDS = {"memory": range(40), "sqlite": range(20)}


@pytest.mark.parametrize("broker", BROKERS)
def test_every_broker_is_simulated(broker: str) -> None:
    assert broker in SEEDS


@pytest.mark.parametrize(
    ("broker", "seed"), [(broker, seed) for broker, seeds in SEEDS.items() for seed in seeds]
)
def test_nothing_that_must_hold_is_violated(broker: str, seed: int) -> None:
    result = simulate(seed, broker=broker)
    assert not result.violations, "\n".join((*result.violations, f"again: {result.replay}"))


@pytest.mark.parametrize("broker", BROKERS)
def test_the_same_seed_gives_the_same_history_byte_for_byte(broker: str) -> None:
    first, again = (simulate(3, broker=broker).history.text() for _ in range(2))
    assert first.encode() == again.encode()
    assert first != simulate(4, broker=broker).history.text()


@pytest.mark.parametrize("broker", BROKERS)
def test_the_replay_command_shows_the_same_history_in_another_process(broker: str) -> None:
    """Whatever the order of its sets, which another process hashes differently."""
    result = simulate(5, broker=broker)
    python, *rest = result.replay.split()
    assert python == "python"
    env = os.environ | {"PYTHONHASHSEED": "4711"}
    replayed = subprocess.run(
        [sys.executable, *rest], env=env, check=True, capture_output=True, text=True
    )
    assert replayed.stdout.startswith(result.history.text())


@pytest.mark.parametrize("broker", BROKERS)
def test_each_kind_of_fault_happens_and_hits_jobs_that_are_running(broker: str) -> None:
    events = [event for seed in range(4) for event in simulate(seed, broker=broker).history]
    faults = {event.facts["what"] for event in events if event.kind == "fault"}
    assert faults >= {"kill", "freeze", "thaw", "cut", "healed", "storm", "clock", "stop"}
    assert ("kill in step" in faults) == (broker == "sqlite")
    stale = [e for e in events if e.kind == "settle" and e.facts["answer"] == "lost"]
    repeated = [e for e in events if e.kind == "again"]
    crashed = [e for e in events if e.kind == "record" and e.facts["crashes"]]
    died = [e for e in events if e.kind == "settle" and e.facts["outcome"] == "Crashed"]
    assert len(stale) > 3
    assert len(repeated) > 5
    assert len(crashed) > 20
    assert len(died) > 5
