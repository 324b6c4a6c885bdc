"""A Redis URL, read and checked once."""

from typing import Final, Literal
from urllib.parse import parse_qsl, unquote

import msgspec

from ropeway.errors import ConfigError

Kind = Literal["standalone", "sentinel", "cluster"]

_FORMS: Final = (
    "redis://[user:password@]host[:6379][/db], redis+unix:///path/to.sock?db=0, "
    "redis+sentinel://[user:password@]host:26379,host:26379/master_name[/db], "
    "redis+cluster://[user:password@]host:6379,host:6379; each with rediss for TLS"
)
_SCHEMES: Final[dict[str, tuple[Kind, bool, int]]] = {
    "redis": ("standalone", False, 6379),
    "rediss": ("standalone", True, 6379),
    "redis+unix": ("standalone", False, 0),
    "redis+sentinel": ("sentinel", False, 26379),
    "rediss+sentinel": ("sentinel", True, 26379),
    "redis+cluster": ("cluster", False, 6379),
    "rediss+cluster": ("cluster", True, 6379),
}
_TLS_OPTIONS: Final = (
    "ssl_ca_certs",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_check_hostname",
    "ssl_cert_reqs",
)
_SENTINEL_OPTIONS: Final = ("sentinel_username", "sentinel_password")


class TLS(msgspec.Struct, frozen=True):
    """How the connection is encrypted. Files are paths; None: the system's certificates."""

    ca_certs: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    check_hostname: bool = True
    verify: bool = True


class Address(msgspec.Struct, frozen=True):
    """Where a Redis is and how one gets in. Its text never shows a password."""

    kind: Kind
    hosts: tuple[tuple[str, int], ...]
    path: str | None = None
    db: int = 0
    username: str | None = None
    password: str | None = None
    master_name: str = ""
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    tls: TLS | None = None

    def __str__(self) -> str:
        secure = "rediss" if self.tls else "redis"
        if self.path is not None:
            return f"redis+unix://{self.path}?db={self.db}"
        scheme = secure if self.kind == "standalone" else f"{secure}+{self.kind}"
        hosts = ",".join(show(host, port) for host, port in self.hosts)
        name = f"/{self.master_name}" if self.kind == "sentinel" else ""
        return f"{scheme}://{hosts}{name}" + ("" if self.kind == "cluster" else f"/{self.db}")

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"


def show(host: str, port: int) -> str:
    """`host:port` for messages, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse(url: str) -> tuple[Address, dict[str, str]]:
    """The address in `url`, and the query options that are not the client's.

    Raises:
        ConfigError: the URL cannot be meant so. The message never shows the password.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in _SCHEMES:
        known = ", ".join(f"{name}://" for name in _SCHEMES)
        raise ConfigError(f"Redis URL with the scheme {scheme[:20]!r}: known are {known}")
    kind, secure, port = _SCHEMES[scheme]
    rest, _, query = rest.partition("?")
    options = _options(scheme, query)
    authority, _, path = rest.partition("/")
    userinfo, _, hosts = authority.rpartition("@")
    username, _, password = (unquote(part) for part in userinfo.partition(":"))
    unix = scheme == "redis+unix"
    if unix and (hosts or not path):
        raise _wrong(scheme, "needs the path of a socket file behind three slashes")
    segments = [] if unix else [unquote(part) for part in path.split("/") if part]
    name = _master_name(scheme, segments) if kind == "sentinel" else ""
    address = Address(
        kind=kind,
        hosts=() if unix else _hosts(scheme, hosts, port),
        path=f"/{unquote(path)}" if unix else None,
        db=_db(scheme, segments, options),
        username=username or None,
        password=password or None,
        master_name=name,
        sentinel_username=options.pop("sentinel_username", "") or None,
        sentinel_password=options.pop("sentinel_password", "") or None,
        tls=_tls(options) if secure else None,
    )
    return address, options


def _wrong(scheme: str, rule: str) -> ConfigError:
    return ConfigError(f"Redis URL {scheme}://…: {rule}. The forms are {_FORMS}")


def _options(scheme: str, query: str) -> dict[str, str]:
    pairs = parse_qsl(query, keep_blank_values=True)
    options = dict(pairs)
    if len(options) < len(pairs):
        raise _wrong(scheme, "an option is given twice")
    if not scheme.startswith("rediss") and (stray := [o for o in _TLS_OPTIONS if o in options]):
        raise _wrong(scheme, f"{stray[0]} is for TLS, which is spelled rediss")
    if "sentinel" not in scheme and (stray := [o for o in _SENTINEL_OPTIONS if o in options]):
        raise _wrong(scheme, f"{stray[0]} is for redis+sentinel:// only")
    return options


def _hosts(scheme: str, text: str, default: int) -> tuple[tuple[str, int], ...]:
    single = scheme in {"redis", "rediss"}
    if single and "," in text:
        raise _wrong(scheme, f"{text!r} names several hosts, which are sentinels or a cluster")
    return tuple(_host(scheme, part, default) for part in text.split(","))


def _host(scheme: str, text: str, default: int) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = text, str(default)
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise _wrong(scheme, "an IPv6 address needs brackets: [::1]:6379")
    host = unquote(host.strip("[]"))
    if not host:
        raise _wrong(scheme, "a host is missing")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        # What looks like a port may be the rest of a password with a slash in it: not shown.
        raise _wrong(
            scheme,
            "a port is not within 1..65535, or a special character of the password is not "
            "percent-encoded (/ is %2F, ? is %3F, # is %23, @ is %40)",
        )
    return host, int(port)


def _master_name(scheme: str, segments: list[str]) -> str:
    if not segments:
        raise _wrong(scheme, "the name of the master that the sentinels watch is missing")
    return segments.pop(0)


def _db(scheme: str, segments: list[str], options: dict[str, str]) -> int:
    given = [*segments, *([options.pop("db")] if "db" in options else [])]
    if not given:
        return 0
    if "cluster" in scheme:
        raise _wrong(scheme, "a cluster has only database 0; leave the number out")
    if len(given) > 1 or not (given[0].isascii() and given[0].isdigit()):
        shown = "/".join(given)
        raise _wrong(scheme, f"{shown!r} is no database number; give one like 0, once")
    return int(given[0])


def _tls(options: dict[str, str]) -> TLS:
    given = {name: options.pop(name, "") for name in _TLS_OPTIONS}
    if given["ssl_keyfile"] and not given["ssl_certfile"]:
        raise _wrong("rediss", "ssl_keyfile needs ssl_certfile")
    check = _choice("ssl_check_hostname", given, {"": True, "true": True, "false": False})
    verify = _choice("ssl_cert_reqs", given, {"": True, "required": True, "none": False})
    return TLS(
        ca_certs=given["ssl_ca_certs"] or None,
        certfile=given["ssl_certfile"] or None,
        keyfile=given["ssl_keyfile"] or None,
        check_hostname=check and verify,
        verify=verify,
    )


def _choice(name: str, given: dict[str, str], meanings: dict[str, bool]) -> bool:
    value = given[name].lower()
    if value not in meanings:
        allowed = " or ".join(meaning for meaning in meanings if meaning)
        raise _wrong("rediss", f"{name}={given[name]!r}: give {allowed}")
    return meanings[value]
