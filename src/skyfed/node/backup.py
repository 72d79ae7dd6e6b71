"""Saves a node's directory while it runs, and puts it back.

SQLite databases are copied by SQLite's own online backup, so each is a consistent snapshot including what is in its write-ahead
log; everything else that is replaced atomically (certificates, lists, published images) is copied as it is. Left out, and listed
in the archive: sockets, logs, pid files, partial downloads, and the disks of machines, which a running guest changes under us.
"""

import io
import os
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import msgspec

from skyfed.core.errors import Conflict, Invalid, NotFound
from skyfed.core.text import shown
from skyfed.node.config import FILE_NAME, Node
from skyfed.node.supervisor import read_states

MANIFEST = "skyfed-backup.json"
FORMAT = 1
SQLITE_MAGIC = b"SQLite format 3\0"
# Directories below the node's that hold nothing a restored node needs.
TRANSIENT = ("run", "log")
# Below data/: the engine's running guests and what can be made or fetched again.
REBUILT = ("data/engine", "data/infosys/slapd")
# Of that, what stays when a node is restored in place: the disks of its machines, which may even be running, and its past.
STAYING = ("data/engine", "log")
CHUNK = 1 << 20


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What an archive says of itself."""

    format: int
    node: str
    made_at: float
    databases: tuple[str, ...]
    left_out: tuple[str, ...]


def backup(node: Node, archive: Path, progress: Callable[[str], None] = lambda _text: None) -> Manifest:
    """Write `archive` (tar, gzip) of the node's directory. Raises Conflict when it exists already."""
    if archive.exists():
        raise Conflict(f"{archive} exists already; choose another name", code="archive_exists")
    databases: list[str] = []
    partial = archive.with_name(archive.name + ".part")
    with (
        tempfile.TemporaryDirectory(dir=archive.parent) as scratch,
        tarfile.open(partial, "w:gz", compresslevel=3) as tar,
    ):
        # Later services stand on earlier ones: what compute knows is copied last, so that no copied record speaks of
        # a machine whose events the archive lacks.
        for path in sorted(_kept(node), key=lambda p: ("compute" in p.parts, str(p))):
            name = str(path.relative_to(node.directory))
            progress(name)
            if _is_sqlite(path):
                databases.append(name)
                copy = Path(scratch) / "copy.db"
                _copy_database(path, copy)
                tar.add(copy, arcname=name)
                copy.unlink()
            else:
                tar.add(path, arcname=name, recursive=False)
        manifest = Manifest(
            format=FORMAT,
            node=node.name,
            made_at=time.time(),
            databases=tuple(databases),
            left_out=(*TRANSIENT, *REBUILT, "data/*/partial"),
        )
        body = msgspec.json.encode(manifest)
        info = tarfile.TarInfo(MANIFEST)
        info.size = len(body)
        tar.addfile(info, io.BytesIO(body))
    partial.rename(archive)
    return manifest


def restore(archive: Path, directory: Path, progress: Callable[[str], None] = lambda _text: None) -> Manifest:
    """Put a backup into `directory`, which must be empty or hold the same, stopped node. Raises Invalid, Conflict, NotFound.

    The archive is unpacked beside and moved into place at the end: an interrupted restore changes nothing. Machines' disks
    and logs that are there stay: the engine adopts its guests again.
    """
    if not archive.exists():
        raise NotFound(f"there is no {archive}", code="no_archive")
    if (directory / FILE_NAME).exists() and any(s.state != "stopped" for s in read_states(Node.load(directory))):
        raise Conflict(f"the node in {directory} runs; stop it first", code="node_runs")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        unpacked = Path(scratch) / "node"
        unpacked.mkdir(mode=0o700)
        try:
            with tarfile.open(archive) as tar:
                for member in tar:
                    progress(member.name)
                    tar.extract(_harmless(member), unpacked)
            manifest = msgspec.json.decode((unpacked / MANIFEST).read_bytes(), type=Manifest)
        except (tarfile.TarError, OSError, EOFError, msgspec.DecodeError) as error:
            raise Invalid(f"{archive} is not a backup of a node: {error}", code="bad_archive") from error
        if manifest.format != FORMAT:
            raise Invalid(f"{archive} has format {manifest.format}; this Skyfed reads {FORMAT}", code="bad_archive")
        for name in manifest.databases:
            _check_database(unpacked / name)
        (unpacked / MANIFEST).unlink()
        if directory.exists():
            _set_aside(directory, Path(scratch) / "replaced", unpacked)
        unpacked.rename(directory)
    return manifest


def _set_aside(directory: Path, replaced: Path, unpacked: Path) -> None:
    """Move what stays over to `unpacked`, the rest to `replaced`. Raises Conflict, with everything where it was."""
    moved: list[str] = []
    try:
        for name in STAYING:
            if (directory / name).exists():
                (unpacked / name).parent.mkdir(parents=True, exist_ok=True)
                (directory / name).rename(unpacked / name)
                moved.append(name)
        directory.rename(replaced)
    except OSError as error:
        for name in moved:
            (unpacked / name).rename(directory / name)
        text = f"cannot move {error.filename}: {error.strerror}; unmount it if it is a file system of its own"
        raise Conflict(text, code="not_movable") from error


def _kept(node: Node) -> Iterator[Path]:
    for path in node.directory.rglob("*"):
        relative = path.relative_to(node.directory)
        text = str(relative)
        if relative.parts[0] in TRANSIENT or any(text == r or text.startswith(r + "/") for r in REBUILT):
            continue
        if "partial" in relative.parts or path.name.endswith((".part", "-wal", "-shm", "-journal")):
            continue
        if not path.is_symlink() and (path.is_file() or path.is_dir()):
            yield path


def _harmless(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """A member that stays inside and is a file or directory of the node's own. Raises TarError."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or not (member.isreg() or member.isdir()):
        raise tarfile.TarError(f"it holds {shown(member.name)}, which no backup of ours does")
    # Debian 12's tarfile has no extraction filters yet: owner and special bits of the archive do not count.
    member.uid, member.gid, member.uname, member.gname = os.getuid(), os.getgid(), "", ""
    member.mode &= 0o755
    return member


def _is_sqlite(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC


def _copy_database(source: Path, target: Path) -> None:
    with sqlite3.connect(source) as original, sqlite3.connect(target) as copy:
        original.backup(copy, pages=1024, sleep=0)
    original.close()
    copy.close()


def _check_database(path: Path) -> None:
    connection = sqlite3.connect(path)
    try:
        verdict = connection.execute("PRAGMA integrity_check").fetchone()[0]
    except sqlite3.DatabaseError as error:
        verdict = str(error)
    finally:
        connection.close()
    if verdict != "ok":
        raise Invalid(f"database {shown(path.name)} in the backup is damaged: {verdict}", code="bad_archive")
