"""Ropeway: a durable job queue for Python."""
