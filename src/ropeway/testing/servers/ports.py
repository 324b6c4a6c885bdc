"""Free ports of 127.0.0.1, where neither the system nor another test run hands them out."""

import random
import socket

HOST = "127.0.0.1"
BUS_OFFSET = 10_000
"""A node of a Redis Cluster listens on its port plus this as well."""

# Systems give outgoing connections ports from 32768 (Linux) or 49152 (macOS) on, and a server that
# comes back after a kill must find its port free. The ports of the cluster's bus stay below, too.
_RANGE = range(20_000, 32_768 - BUS_OFFSET)
# Not the seeded generator: parallel test processes must not try the same ports in the same order.
_random = random.SystemRandom()


def is_free(port: int) -> bool:
    """Nobody listens on this port of 127.0.0.1; connections that have just ended do not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """A port that is free now, and so is its companion `BUS_OFFSET` above.

    Another process may still take it first: whoever listens on it retries with another one.
    """
    while True:
        port = _random.choice(_RANGE)
        if is_free(port) and is_free(port + BUS_OFFSET):
            return port
