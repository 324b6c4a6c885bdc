"""A certificate for 127.0.0.1 from an authority of its own, made by openssl and thrown away."""

import subprocess
from pathlib import Path
from typing import NamedTuple

from ropeway.testing.servers.waiting import ServerError

_DAYS = "30"
_SETTINGS = """\
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = CA:FALSE
subjectAltName = DNS:localhost, IP:127.0.0.1
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


class Certificate(NamedTuple):
    """Three PEM files: the authority that clients trust, the server's certificate and its key."""

    authority: Path
    certificate: Path
    key: Path


def make_certificate(folder: Path) -> Certificate:
    """A certificate for localhost and 127.0.0.1, valid for 30 days; kept in `folder`.

    Raises:
        ServerError: openssl is missing or failed.

    """
    made = Certificate(folder / "ca.crt", folder / "server.crt", folder / "server.key")
    if made.certificate.exists():
        return made
    settings = folder / "openssl.cnf"
    settings.write_text(_SETTINGS, "utf-8")
    config = ["-config", str(settings)]
    curve = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
    ]  # RSA takes 10 times as long
    new_key = ["req", *curve, "-nodes", *config]
    authority_key, request = folder / "ca.key", folder / "server.csr"
    _openssl(
        *new_key, "-x509", "-extensions", "authority", "-days", _DAYS, "-subj", "/CN=Ropeway tests",
        "-keyout", str(authority_key), "-out", str(made.authority),
    )  # fmt: skip
    _openssl(*new_key, "-subj", "/CN=localhost", "-keyout", str(made.key), "-out", str(request))
    _openssl(
        "x509", "-req", "-in", str(request), "-days", _DAYS, "-set_serial", "1",
        "-CA", str(made.authority), "-CAkey", str(authority_key),
        "-extfile", str(settings), "-extensions", "server", "-out", str(made.certificate),
    )  # fmt: skip
    return made


def _openssl(*arguments: str) -> None:
    try:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise ServerError("TLS needs the program openssl: install it") from error
    except subprocess.CalledProcessError as error:
        raise ServerError(f"openssl {arguments[0]} failed:\n{error.stderr.strip()}") from error
