"""What a server answers when it refuses, and what that is called in Ropeway: the only place."""

import re
from collections.abc import Callable
from typing import Final

from ropeway.errors import (
    BrokerError,
    ConfigError,
    Disconnected,
    StorageFull,
    StorageReadOnly,
)

# Redis 6 wraps the error of a command inside of a script: `ERR Error running script (call to
# f_…): @user_script:3: @user_script: 3: -OOM command not allowed …`.
_IN_SCRIPT: Final = re.compile(r"Error running script .*?: -?([A-Z]{3,})\b (.*)", re.DOTALL)


class Lost(Disconnected):
    """The connection was lost while the call was under way: it may have been executed or not.

    A `Disconnected` that is not this one was never executed.
    """


class Refused(BrokerError, ConfigError):
    """The server does not let this client in, or not do this: user, certificate, kind of server.

    Waiting does not help, unless somebody changes the server.
    """


class ReplyError(BrokerError):
    """An error reply: `code` is its first word (`WRONGTYPE`, or what a script chose), then text."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code} {message}".rstrip())
        self.code = code
        self.message = message

    @staticmethod
    def read(text: str) -> "ReplyError":
        """From the line that the server sent, without its leading minus."""
        code, _, message = text.partition(" ")
        inner = _IN_SCRIPT.search(message) if code == "ERR" else None
        return ReplyError(inner[1], inner[2]) if inner else ReplyError(code, message)


_AWAY: Final = {
    "LOADING": "is still loading its data; the call was not executed. Repeat it",
    "MASTERDOWN": "is a replica that has lost its master; not executed. Repeat the call",
    "CLUSTERDOWN": "says that the cluster is down (a master without a replica is gone, or too few "
    "masters see each other); not executed. Repeat the call, and see CLUSTER INFO",
    "TRYAGAIN": "is moving the slot of these keys to another node; not executed. Repeat the call",
    "ASK": "is moving the slot of these keys to another node; not executed. Repeat the call",
    "BUSY": "is busy with a script for longer than busy-reply-threshold; not executed. Repeat the "
    "call, or end that script with SCRIPT KILL",
    "NOREPLICAS": "has too few replicas connected (min-replicas-to-write); nothing was written. "
    "Repeat the call when they are back",
    "UNBLOCKED": "ended the blocking call because its role changed. Repeat the call",
}
_FULL: Final = {
    "OOM": "has reached maxmemory; nothing was written. Raise maxmemory, or let jobs be pruned",
    "MISCONF": "takes no writes because it could not save to its disk; nothing was written. Free "
    "space there and repeat",
}
_ACCESS: Final = ("NOAUTH", "WRONGPASS", "NOPERM")


def error_of(error: ReplyError, where: str, user: str | None) -> BrokerError:
    """The error to raise for an error reply of the server at `where`, used as `user`.

    A reply without a meaning of its own stays a `ReplyError`, with the place added to its text.
    """
    code, message = error.code, error.message
    if code in _AWAY:
        return Disconnected(f"{where} {_AWAY[code]} ({error})")
    if code in _FULL:
        return StorageFull(f"{where} {_FULL[code]} ({error})")
    if code == "READONLY":
        return StorageReadOnly(
            f"{where} is a read-only replica; nothing was written. Give the URL of its master, or "
            "a redis+sentinel:// URL that follows the master"
        )
    if code in {"MOVED", "CROSSSLOT"}:
        return Refused(
            f"{where} is a node of a Redis Cluster ({error}); give a redis+cluster:// URL"
        )
    if code == "DENIED":
        return Refused(
            f"{where} is in protected mode: without a password it serves its own host only. Give "
            "it a password (requirepass, or ACL SETUSER) and write that into the URL"
        )
    if code in _ACCESS:
        return Refused(_access(code, message, where, user))
    if code == "ERR":
        for start, make in _BY_TEXT:
            if message.startswith(start):
                return make(error, where, user)
    error.args = (f"{where}: {error}",)
    return error


def _access(code: str, message: str, where: str, user: str | None) -> str:
    name = user or "default"
    if code == "NOAUTH":
        return f"{where} needs a password; write it into the URL: redis://user:password@host"
    if code == "WRONGPASS":
        return (
            f"{where} does not know user {name!r} with this password, or the user is switched "
            "off. Correct the URL (percent-encode special characters), or see ACL LIST there"
        )
    return (
        f"{where}: user {name!r} lacks a right ({message}). Grant it with ACL SETUSER {name} …; "
        "docs/redis.md has the rule that works. Or give another user in the URL"
    )


def _too_many(error: ReplyError, where: str, _user: str | None) -> BrokerError:
    return Disconnected(
        f"{where} takes no more connections ({error.message}). Raise its maxclients, or run fewer "
        "workers"
    )


def _no_password_there(error: ReplyError, where: str, _user: str | None) -> BrokerError:
    return Refused(
        f"{where} has no password, but the URL gives one: leave it out, or set one there "
        f"({error.message})"
    )


def _no_cluster_there(_error: ReplyError, where: str, _user: str | None) -> BrokerError:
    return Refused(f"{where} is no node of a cluster; give a redis:// URL")


def _no_such_db(error: ReplyError, where: str, _user: str | None) -> BrokerError:
    return Refused(
        f"{where}: {error.message}: the URL's database number is over what the server has "
        "(`databases` in its configuration); give a smaller one"
    )


def _no_right_in_script(error: ReplyError, where: str, user: str | None) -> BrokerError:
    return Refused(_access("NOPERM", error.message, where, user))


_BY_TEXT: Final[tuple[tuple[str, Callable[[ReplyError, str, str | None], BrokerError]], ...]] = (
    ("max number of clients", _too_many),
    ("AUTH <password> called without", _no_password_there),
    ("Client sent AUTH, but no password", _no_password_there),
    ("This instance has cluster support disabled", _no_cluster_there),
    ("DB index is out of range", _no_such_db),
    ("ACL failure in script", _no_right_in_script),
    ("The user executing the script can't run", _no_right_in_script),
)
