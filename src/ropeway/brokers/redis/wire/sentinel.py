"""Who the master is: asked of the sentinels, checked with the server they name."""

import asyncio
from functools import partial
from itertools import cycle
from typing import Any, Final, cast

from ropeway.brokers.redis.wire.address import Address, show
from ropeway.brokers.redis.wire.dial import Dialer
from ropeway.brokers.redis.wire.link import Link
from ropeway.brokers.redis.wire.node import Node
from ropeway.brokers.redis.wire.replies import Refused, ReplyError, error_of
from ropeway.brokers.redis.wire.words import pack
from ropeway.errors import BrokerError, Disconnected

_LOOK_S: Final = 1.0


class Sentinels:
    """Finds and connects to the master, anew for each connection.

    The sentinels are asked in turn, beginning with the one that last knew; each attempt has the
    time limit of the dialer.
    """

    def __init__(self, address: Address, dialer: Dialer) -> None:
        self._name = address.master_name
        self._dialer = dialer
        self._hosts = list(address.hosts)

    async def dial(self) -> Link:
        """A connection to the server that is the master now.

        Raises:
            Disconnected: no sentinel answers, or what they name is not, or not yet, a master.
            Refused: no sentinel knows the name, or one of the servers does not let us in.
        """
        failures: list[BrokerError] = []
        for place in list(self._hosts):
            try:
                link = await self._by(*place)
            except BrokerError as error:
                failures.append(error)
                continue
            self._hosts.remove(place)
            self._hosts.insert(0, place)
            return link
        told = "; ".join(dict.fromkeys(str(error) for error in failures))
        message = f"no master {self._name!r} found through the sentinels: {told}"
        if all(isinstance(error, Refused) for error in failures):
            raise Refused(message)
        raise Disconnected(message)

    async def watch(self, master: Node) -> None:
        """Until cancelled: make `master` leave its server once a sentinel names another one.

        A deposed master that is alive takes writes for some 10 s more, until it is told to follow
        the new one, and then throws them away; no error shows that to a client. So another
        sentinel is asked each second.
        """
        nodes = [Node(partial(self._dialer.dial_sentinel, *place)) for place in self._hosts]
        try:
            for asked in cycle(nodes):
                await asyncio.sleep(_LOOK_S)
                link = master.linked
                if link is None:
                    continue
                try:
                    async with asyncio.timeout(_LOOK_S):
                        other = await self._other_than(link, asked)
                except (BrokerError, OSError):
                    continue  # the next one is asked
                if other and master.linked is link:
                    master.leave(f"the sentinels name another master, {other}")
        finally:
            for node in nodes:
                await node.close()

    async def _other_than(self, link: Link, asked: Node) -> str | None:
        """The master that a sentinel names, if it is another server than that of `link`."""
        found: Any = await asked.ask(pack(("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._name)))
        if not isinstance(found, list):
            return None
        host, port = (part.decode() for part in cast(list[bytes], found))
        where = show(host, int(port))
        if where == link.where:
            return None
        # One sentinel may name the host and another one its address.
        infos = await asyncio.get_running_loop().getaddrinfo(host, int(port))
        return None if link.peer in {info[4][:2] for info in infos} else where

    async def _by(self, host: str, port: int) -> Link:
        """The master that this sentinel names."""
        sentinel = await self._dialer.dial_sentinel(host, port)
        try:
            found = await self._ask(sentinel, "GET-MASTER-ADDR-BY-NAME", self._name)
            if found is None:
                raise Refused(await self._unknown(sentinel))
        finally:
            sentinel.close("closed by its owner")
        master = await self._dialer.dial(found[0].decode(), int(found[1]))
        try:
            role = await self._role(master)
        except BaseException:
            master.abort("the check of its role failed")
            raise
        if role == "master":
            return master
        master.close("not the master")
        raise Disconnected(
            f"sentinel {show(host, port)} names {master.where}, which is a {role}: a fail-over is "
            "under way; the call was not sent. Repeat it"
        )

    async def _role(self, master: Link) -> str:
        """HELLO told it, which any user may ask; Redis before 6 has only ROLE."""
        if "role" in master.server:
            return master.server["role"]
        return (await self._ask(master, "ROLE"))[0].decode()

    async def _unknown(self, sentinel: Link) -> str:
        rows = cast(list[list[bytes]], await self._ask(sentinel, "MASTERS"))
        known = sorted(row[row.index(b"name") + 1].decode() for row in rows)
        return (
            f"sentinel {sentinel.where} knows no master {self._name!r}, but "
            f"{', '.join(known) or 'none at all'}; correct the name in the URL"
        )

    @staticmethod
    async def _ask(link: Link, *words: str) -> Any:
        prefix = () if words == ("ROLE",) else ("SENTINEL",)
        reply = await link.send(pack((*prefix, *words)))
        if type(reply) is ReplyError:
            raise error_of(reply, link.where, link.user)
        return reply
