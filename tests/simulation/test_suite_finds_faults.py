"""What the contract of brokers cannot see is found by other tests, none of which names it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from planted import FAULTS, VARIABLE

HERE = Path(__file__).parent
SUITES = {
    "settle before the handler has ended": "worker/test_worker_runs.py",
    "delays by the client's clock": "app/test_enqueueing.py",
    "wake-up only by this process's own push": "brokers/test_sqlite_engine.py",
}


@pytest.mark.parametrize("name", SUITES)
def test_a_planted_fault_fails_a_test(name: str) -> None:
    assert name in FAULTS
    env = {**os.environ, VARIABLE: name, "PYTHONPATH": str(HERE)}
    suite = HERE.parent / SUITES[name]
    # A test that waits for what the fault prevents has found it too: it ends with the same code.
    hung = ("-o", "faulthandler_timeout=30")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "planted", *hung, str(suite)]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == pytest.ExitCode.TESTS_FAILED, ended.stdout
