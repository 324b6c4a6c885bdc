"""The app that is verified, on a broker that lets anybody settle: its workers' only difference."""

from ropeway.brokers.sqlite import settle
from ropeway.verify.subject import app

settle.Fence.is_held_by = lambda _fence, _lease: True
settle._is_plain = lambda _fence, _ack: True

__all__ = ["app"]
