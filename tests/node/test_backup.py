"""A backup taken while the node writes restores to a consistent state; a bad archive changes nothing."""

import errno
import os
import sqlite3
import subprocess
import tarfile
import threading
from pathlib import Path

import pytest

from skyfed.core.errors import Conflict, Invalid, NotFound
from skyfed.node.backup import _copy_disk, _frozen, backup, restore
from skyfed.node.config import Node
from skyfed.node.status import find_nodes

NODE = """
[node]
name = "federation"
role = "federation"
[trust]
certificates = "c"
vomsdir = "v"
[processes]
central = ["voms"]
engine = ["engine"]
[services.voms]
[services.engine.settings]
root = "data/engine"
"""


@pytest.fixture
def node(tmp_path: Path) -> Node:
    directory = tmp_path / "node"
    (directory / "data" / "voms" / "partial").mkdir(parents=True)
    (directory / "log").mkdir()
    (directory / "run").mkdir()
    (directory / "host").mkdir()
    (directory / "node.toml").write_text(NODE)
    (directory / "host" / "hostkey.pem").write_text("key")
    (directory / "host" / "hostkey.pem").chmod(0o600)
    (directory / "log" / "central.log").write_text("noise")
    (directory / "data" / "voms" / "partial" / "half").write_text("half")
    with sqlite3.connect(directory / "data" / "voms" / "voms.db") as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE pair (id INTEGER PRIMARY KEY, a INTEGER, b INTEGER)")
    connection.close()
    return Node.load(directory)


def test_a_backup_while_somebody_writes_is_consistent(node: Node, tmp_path: Path) -> None:
    stop = threading.Event()
    written = threading.Event()

    def write() -> None:
        connection = sqlite3.connect(node.directory / "data" / "voms" / "voms.db", timeout=10)
        n = 0
        while not stop.is_set():
            with connection:
                connection.execute("INSERT INTO pair (a, b) VALUES (?, 0)", (n,))
                connection.execute("UPDATE pair SET b = a WHERE a = ?", (n,))
            n += 1
            if n == 50:
                written.set()
        connection.close()

    thread = threading.Thread(target=write)
    thread.start()
    assert written.wait(30)
    manifest = backup(node, tmp_path / "b.tar.gz")
    stop.set()
    thread.join()
    assert manifest.databases == ("data/voms/voms.db",)

    restore(tmp_path / "b.tar.gz", tmp_path / "again")
    connection = sqlite3.connect(tmp_path / "again" / "data" / "voms" / "voms.db")
    count, different = connection.execute("SELECT count(*), sum(a != b) FROM pair").fetchone()
    connection.close()
    assert count >= 50
    assert different == 0


def test_a_restored_node_has_its_files_and_modes_and_no_noise(node: Node, tmp_path: Path) -> None:
    backup(node, tmp_path / "b.tar.gz")
    restore(tmp_path / "b.tar.gz", tmp_path / "again")
    again = tmp_path / "again"
    assert Node.load(again).name == "federation"
    assert (again / "host" / "hostkey.pem").stat().st_mode & 0o777 == 0o600
    assert not (again / "log").exists()
    assert not (again / "data" / "voms" / "partial").exists()


def test_a_backup_does_not_overwrite(node: Node, tmp_path: Path) -> None:
    (tmp_path / "b.tar.gz").write_text("precious")
    with pytest.raises(Conflict, match="exists"):
        backup(node, tmp_path / "b.tar.gz")
    assert (tmp_path / "b.tar.gz").read_text() == "precious"


def test_a_damaged_archive_leaves_the_node_as_it_was(node: Node, tmp_path: Path) -> None:
    backup(node, tmp_path / "b.tar.gz")
    data = (tmp_path / "b.tar.gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(data[: len(data) // 2])
    (node.directory / "witness").write_text("still here")
    with pytest.raises(Invalid, match="not a backup"):
        restore(tmp_path / "cut.tar.gz", node.directory)
    assert (node.directory / "witness").exists()
    with pytest.raises(NotFound):
        restore(tmp_path / "none.tar.gz", node.directory)


@pytest.mark.parametrize("disks", [True, False])
def test_a_node_restored_in_place_keeps_its_logs_and_what_was_there_aside(
    node: Node, tmp_path: Path, disks: bool
) -> None:
    disk = node.directory / "data" / "engine" / "machines" / "vm" / "disk.qcow2"
    disk.parent.mkdir(parents=True)
    disk.write_text("then")
    backup(node, tmp_path / "b.tar.gz", disks=disks)
    disk.write_text("now")
    (node.directory / "later").write_text("not in the backup")
    restore(tmp_path / "b.tar.gz", node.directory)
    assert disk.read_text() == ("then" if disks else "now")
    assert (node.log / "central.log").read_text() == "noise"
    assert not (node.directory / "later").exists()
    (aside,) = tmp_path.glob("node.before-*")
    assert (aside / "later").read_text() == "not in the backup"


def test_what_a_restore_kept_aside_is_no_node_to_be_shown(node: Node, tmp_path: Path) -> None:
    backup(node, tmp_path / "b.tar.gz")
    there = tmp_path / "run" / "nodes" / "alpha"
    restore(tmp_path / "b.tar.gz", there)
    restore(tmp_path / "b.tar.gz", there)
    assert len(list(there.parent.iterdir())) == 2
    assert [found.directory for found in find_nodes(tmp_path / "run", None)] == [there]


def test_a_process_whose_disk_is_copied_stands_still_and_goes_on(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        state = Path(f"/proc/{process.pid}/stat")
        (tmp_path / "disk").write_bytes(b"\0" * 1_000_000)
        with _frozen(process.pid):
            assert state.read_text().rpartition(")")[2].split()[0] == "T"
        assert state.read_text().rpartition(")")[2].split()[0] == "S"
        _copy_disk(tmp_path / "disk", tmp_path / "copy", process.pid)
        assert (tmp_path / "copy").read_bytes() == b"\0" * 1_000_000
        process.kill()


def test_what_cannot_be_moved_leaves_the_node_as_it_was(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = node.directory / "data" / "engine" / "disk"
    disk.parent.mkdir(parents=True)
    disk.write_text("a guest's data")
    backup(node, tmp_path / "b.tar.gz")
    rename = Path.rename

    def busy(path: Path, target: Path) -> Path:
        if path == node.log:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", busy)
    with pytest.raises(Conflict, match="unmount"):
        restore(tmp_path / "b.tar.gz", node.directory)
    assert disk.read_text() == "a guest's data"
    assert Node.load(node.directory).name == "federation"


def test_an_archive_that_climbs_out_is_refused(node: Node, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "evil.tar.gz", "w:gz") as tar:
        tar.add(node.directory / "node.toml", arcname="../../evil")
    with pytest.raises(Invalid):
        restore(tmp_path / "evil.tar.gz", tmp_path / "again")
    assert not (tmp_path / "evil").exists()


def test_a_running_node_is_not_restored_over(node: Node, tmp_path: Path) -> None:
    backup(node, tmp_path / "b.tar.gz")
    (node.run / "central.json").write_text('{"process": "central", "state": "running", "pid": 1}')
    with pytest.raises(Conflict, match="stop it first"):
        restore(tmp_path / "b.tar.gz", node.directory)
