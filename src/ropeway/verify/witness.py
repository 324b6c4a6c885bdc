"""A witness inside the store, which shares nothing with the broker's own statements.

Each URL scheme has its own; a broker that is to be verified adds one to `WITNESSES`.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Protocol

from ropeway.brokers.registry import broker_from_url
from ropeway.errors import ConfigError
from ropeway.verify.witnesses.redis import RedisWitness
from ropeway.verify.witnesses.sqlite import SQLiteWitness


class Witness(Protocol):
    """Sees each job become final, by means of the store and not of the broker."""

    def install(self) -> None:
        """Begin to watch. The broker's schema is there already."""
        ...

    def finals(self) -> Counter[str]:
        """How often each job has become final."""
        ...

    def revived(self) -> list[str]:
        """The jobs that have left a final state."""
        ...

    def remove(self) -> None:
        """Stop watching, and leave no trace."""
        ...

    def hold(self, seconds: float) -> None:
        """Keep every broker from writing for so long: the store is away. Blocks."""
        ...


WITNESSES: Mapping[str, Callable[[str], Witness]] = {
    "redis": RedisWitness,
    "sqlite": SQLiteWitness,
}
"""The witness of each URL scheme."""


def witness_of(url: str) -> Witness:
    """The witness for this URL.

    Raises:
        ConfigError: no broker's URL, a store inside this process, or one without a witness.
    """
    capabilities = broker_from_url(url).capabilities
    if not capabilities.shared:
        raise ConfigError(
            f"{url}: {capabilities.name} lives and dies with its process, so there is nothing "
            "left to verify after a kill. Give a broker that processes share, such as "
            "sqlite:///x.db; what this one promises is tested by the contract suite and by the "
            "simulation"
        )
    scheme = url.partition(":")[0]
    make = WITNESSES.get(scheme)
    if make is None:
        known = ", ".join(f"{name}://" for name in WITNESSES)
        raise ConfigError(f"{scheme}://: there is no witness for it; known are {known}")
    return make(url)
