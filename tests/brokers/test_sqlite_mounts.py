"""SQLite databases are refused on network file systems, as far as the system tells of them."""

from pathlib import Path

import pytest

from ropeway.brokers.sqlite.schema import file_system, refuse_network
from ropeway.errors import ConfigError


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    """A list of mounts: this folder is local, and some places below are not."""
    lines = [
        "/dev/vda1 / ext4 rw,relatime 0 0",
        f"server:/home {tmp_path}/nfs nfs4 rw 0 0",
        f"tmpfs {tmp_path}/nfs/local tmpfs rw 0 0",
        f"//server/share {tmp_path}/cifs cifs rw 0 0",
        f"me@host:/ {tmp_path}/with\\040space fuse.sshfs rw 0 0",
        f"/dev/vdb {tmp_path}/ntfs fuse.ntfs-3g rw 0 0",
        f"/dev/vdc {tmp_path}/hidden ext4 rw 0 0",
        f"server:/data {tmp_path}/hidden nfs rw 0 0",
    ]
    listed = tmp_path / "mounts"
    listed.write_text("\n".join(lines) + "\n")
    return listed


@pytest.mark.parametrize(
    ("folder", "kind"),
    [("nfs", "nfs4"), ("cifs", "cifs"), ("with space", "fuse.sshfs"), ("hidden", "nfs")],
)
def test_a_network_file_system_is_refused_by_path_and_type(
    tmp_path: Path, mounts: Path, folder: str, kind: str
) -> None:
    path = tmp_path / folder / "jobs.db"
    with pytest.raises(ConfigError, match="local disk") as raised:
        refuse_network(path, mounts=mounts)
    assert str(path) in str(raised.value)
    assert kind in str(raised.value)


@pytest.mark.parametrize("folder", ["", "nfs/local", "ntfs", "nfs-backup"])
def test_a_local_file_system_is_taken(tmp_path: Path, mounts: Path, folder: str) -> None:
    refuse_network(tmp_path / folder / "jobs.db", mounts=mounts)


def test_a_link_is_followed_to_where_the_file_is(tmp_path: Path, mounts: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nfs")
    assert file_system(tmp_path / "link" / "jobs.db", mounts=mounts) == "nfs4"


def test_where_mounts_are_not_listed_nothing_is_refused(tmp_path: Path) -> None:
    assert file_system(tmp_path, mounts=tmp_path / "missing") == ""
    refuse_network(tmp_path, mounts=tmp_path / "missing")
