"""A fleet of real workers and producers on one thread and a virtual clock, and all that goes wrong.

    python -m ropeway.testing.simulation --seeds 1000 --broker sqlite

The same seed gives the same history, byte for byte, so a failure that was seen once can be seen
again: see `docs/simulation.md`.
"""

from ropeway.testing.simulation.checker import violations
from ropeway.testing.simulation.history import Event, History
from ropeway.testing.simulation.simulate import Result, simulate
from ropeway.testing.simulation.world import BROKERS

__all__ = ["BROKERS", "Event", "History", "Result", "simulate", "violations"]
