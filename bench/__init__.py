"""Ropeway beside its rivals on one machine: `scripts/bench redis`. README.md has the method."""
