"""Why a job does not run: what a store knows, read through the contract and said in plain words.

Each reading is a call of its own, so the answer for a job that moves on meanwhile may be mixed;
the next one is right. Nothing is changed.
"""

from ropeway.why.explain import explain
from ropeway.why.reason import Kind, Reason, Why

__all__ = ["Kind", "Reason", "Why", "explain"]
