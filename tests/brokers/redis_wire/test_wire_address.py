"""URLs: what each form means, and what is refused with which words."""

import pytest

from ropeway.brokers.redis.wire.address import TLS, Address, parse
from ropeway.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://h", Address("standalone", (("h", 6379),))),
        ("redis://h:1/", Address("standalone", (("h", 1),))),
        ("redis://h/3", Address("standalone", (("h", 6379),), db=3)),
        ("redis://h?db=3", Address("standalone", (("h", 6379),), db=3)),
        ("redis://[::1]:7", Address("standalone", (("::1", 7),))),
        ("redis://[::1]", Address("standalone", (("::1", 6379),))),
        ("redis://:p%40%2F@h", Address("standalone", (("h", 6379),), password="p@/")),
        (
            "redis://u:p:q@h",
            Address("standalone", (("h", 6379),), username="u", password="p:q"),
        ),
        ("redis+unix:///a/b%20c.sock", Address("standalone", (), path="/a/b c.sock")),
        (
            "redis+unix://:p@/s?db=2",
            Address("standalone", (), path="/s", db=2, password="p"),
        ),
        (
            "redis+sentinel://u:p@a,b:1/main/4?sentinel_username=s&sentinel_password=t",
            Address(
                "sentinel",
                (("a", 26379), ("b", 1)),
                db=4,
                username="u",
                password="p",
                master_name="main",
                sentinel_username="s",
                sentinel_password="t",
            ),
        ),
        ("redis+cluster://a,b:1", Address("cluster", (("a", 6379), ("b", 1)))),
        ("rediss://h", Address("standalone", (("h", 6379),), tls=TLS())),
        (
            (
                "rediss+cluster://h?ssl_ca_certs=/c&ssl_certfile=/f&ssl_keyfile=/k"
                "&ssl_check_hostname=false"
            ),
            Address("cluster", (("h", 6379),), tls=TLS("/c", "/f", "/k", check_hostname=False)),
        ),
        (
            "rediss://h?ssl_cert_reqs=none",
            Address("standalone", (("h", 6379),), tls=TLS(check_hostname=False, verify=False)),
        ),
    ],
)
def test_a_url_means(url: str, address: Address) -> None:
    assert parse(url) == (address, {})


def test_options_of_others_are_handed_back() -> None:
    _, options = parse("redis://h/1?prefix=a&db_size=3")
    assert options == {"prefix": "a", "db_size": "3"}


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("http://h", "known are redis://"),
        ("redis:h", "known are redis://"),
        ("redis://", "a host is missing"),
        ("redis://:secret@", "a host is missing"),
        ("redis://h:0", "1..65535"),
        ("redis://h:99999", "1..65535"),
        ("redis://u:secret/more@h", "percent-encoded"),
        ("redis://::1", "needs brackets"),
        ("redis://h/x", "'x' is no database number"),
        ("redis://h/1/2", "'1/2' is no database number"),
        ("redis://h/1?db=2", "'1/2' is no database number"),
        ("redis://a,b", "several hosts"),
        ("redis://h?ssl_certfile=f", "spelled rediss"),
        ("redis://h?sentinel_password=secret", "redis+sentinel:// only"),
        ("redis://h?db=1&db=1", "given twice"),
        ("redis+unix://h/p", "three slashes"),
        ("redis+sentinel://h", "name of the master"),
        ("redis+sentinel://h/", "name of the master"),
        ("redis+cluster://h/1", "only database 0"),
        ("rediss://h?ssl_check_hostname=perhaps", "give true or false"),
        ("rediss://h?ssl_cert_reqs=optional", "give required or none"),
        ("rediss://h?ssl_keyfile=k", "needs ssl_certfile"),
    ],
)
def test_a_url_that_cannot_be_meant_is_refused_with_the_rule(url: str, rule: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(url)
    assert rule in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:secret@h:1/2",
        "redis+sentinel://:secret@a:1,b:2/m/0?sentinel_password=secret",
        "redis+unix://:secret@/p",
        "rediss+cluster://:secret@[::1]:1",
    ],
)
def test_an_address_never_shows_its_password(url: str) -> None:
    address, _ = parse(url)
    assert "secret" not in f"{address} {address!r}"


@pytest.mark.parametrize(
    "url",
    ["redis://h:1/2", "rediss+sentinel://a:1,b:2/m/0", "redis+cluster://[::1]:1,h:2"],
)
def test_the_text_of_an_address_is_its_url(url: str) -> None:
    assert str(parse(url)[0]) == url
