"""Saves a node's directory while it runs, and puts it back.

SQLite databases are copied by SQLite's own online backup, so each is a consistent snapshot including what is in its write-ahead
log. The disk of a running machine is copied while its QEMU stands still: the copy is what a power cut would leave, which qcow2
and every guest's file system are made for. Everything else is replaced atomically (certificates, lists, images) and copied as it
is. Left out, and listed in the archive: sockets, logs, pid files, partial downloads, and what is made anew at a start.
"""

import io
import os
import signal
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import msgspec

from skyfed.compute.engines.libvirt.processes import running
from skyfed.core.errors import Conflict, Invalid, NotFound, Unavailable
from skyfed.core.text import one_line, plural, shown
from skyfed.node.config import ASIDE, FILE_NAME, Node
from skyfed.node.services import settings_of
from skyfed.node.supervisor import read_states

MANIFEST = "skyfed-backup.json"
FORMAT = 1
SQLITE_MAGIC = b"SQLite format 3\0"
# Directories below the node's that hold nothing a restored node needs.
TRANSIENT = ("run", "log")
# Below data/: what is made anew.
REBUILT = ("data/infosys/slapd",)
# All that an engine needs to find its machines again; the rest below its root is libvirt's own and of one start.
ENGINE_KEPT = ("images", "machines")
DISK = "root.qcow2"
FREEZE_SECONDS = 5.0
COPY_SECONDS = 600.0


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What an archive says of itself."""

    format: int
    node: str
    made_at: float
    databases: tuple[str, ...]
    left_out: tuple[str, ...]
    disks: bool = True
    """Whether the machines' disks are in it."""


def backup(
    node: Node, archive: Path, progress: Callable[[str], None] = lambda _text: None, *, disks: bool = True
) -> Manifest:
    """Write `archive` (tar, gzip) of the node's directory, with or without the machines' disks and images.

    Raises Conflict when it exists already, Unavailable when a disk cannot be copied.
    """
    if archive.exists():
        raise Conflict(f"{archive} exists already; choose another name", code="archive_exists")
    databases: list[str] = []
    partial = archive.with_name(archive.name + ".part")
    with (
        tempfile.TemporaryDirectory(dir=archive.parent) as scratch,
        tarfile.open(partial, "w:gz", compresslevel=3) as tar,
    ):
        engine = _engine_root(node)
        guests = {id: pid for pid, id in running(engine)} if engine else {}
        for path in sorted(_kept(node, engine, disks=disks), key=_order):
            name = str(path.relative_to(node.directory))
            progress(name)
            if _is_sqlite(path):
                databases.append(name)
                copy = Path(scratch) / "copy.db"
                _copy_database(path, copy)
                tar.add(copy, arcname=name)
                copy.unlink()
            elif path.name == DISK and path.parent.name in guests:
                copy = Path(scratch) / DISK
                _copy_disk(path, copy, guests[path.parent.name])
                tar.add(copy, arcname=name)
                copy.unlink()
            else:
                tar.add(path, arcname=name, recursive=False)
        manifest = Manifest(
            format=FORMAT,
            node=node.name,
            made_at=time.time(),
            databases=tuple(databases),
            left_out=(*TRANSIENT, *REBUILT, "data/*/partial", *(() if disks else ("disks of machines",))),
            disks=disks,
        )
        body = msgspec.json.encode(manifest)
        info = tarfile.TarInfo(MANIFEST)
        info.size = len(body)
        tar.addfile(info, io.BytesIO(body))
    partial.rename(archive)
    return manifest


def restore(archive: Path, directory: Path, progress: Callable[[str], None] = lambda _text: None) -> Manifest:
    """Put a backup into `directory`, which must be empty or hold the same, stopped node. Raises Invalid, Conflict, NotFound.

    The archive is unpacked beside and moved into place at the end: an interrupted restore changes nothing. What was there is
    kept aside as `DIRECTORY.before-TIME`; its logs stay, and where the archive holds no disks, those too.
    """
    if not archive.exists():
        raise NotFound(f"there is no {archive}", code="no_archive")
    if (directory / FILE_NAME).exists() and any(s.state != "stopped" for s in read_states(Node.load(directory))):
        raise Conflict(f"the node in {directory} runs; stop it first", code="node_runs")
    if guests := len(list(running(directory.resolve()))):
        raise Conflict(f"{plural(guests, 'machine')} of {directory} still run; end them first", code="machines_run")
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
            aside = directory.with_name(f"{directory.name}{ASIDE}{int(time.time())}")
            _set_aside(directory, aside, unpacked, staying=("log", *(() if manifest.disks else _disks(unpacked))))
        unpacked.rename(directory)
    return manifest


def _set_aside(directory: Path, aside: Path, unpacked: Path, *, staying: tuple[str, ...]) -> None:
    """Move what stays over to `unpacked`, the rest to `aside`. Raises Conflict, with everything where it was."""
    moved: list[str] = []
    try:
        for name in staying:
            if (directory / name).exists():
                (unpacked / name).parent.mkdir(parents=True, exist_ok=True)
                (directory / name).rename(unpacked / name)
                moved.append(name)
        directory.rename(aside)
    except OSError as error:
        for name in moved:
            (unpacked / name).rename(directory / name)
        text = f"cannot move {error.filename}: {error.strerror}; unmount it if it is a file system of its own"
        raise Conflict(text, code="not_movable") from error


def _order(path: Path) -> tuple[int, str]:
    """Later services stand on earlier ones: what compute knows is copied after what others made of it, and the machines' disks
    last, so that no copied record speaks of a machine that the archive lacks."""
    return (2 if "machines" in path.parts else 1 if "compute" in path.parts else 0), str(path)


def _engine_root(node: Node) -> Path | None:
    """Where the node's engine keeps machines and images; None without an engine."""
    if "engine" not in node.config.services:
        return None
    settings = settings_of(node, "engine")
    return node.path(Path(str(getattr(settings, "root", ""))))


def _disks(directory: Path) -> tuple[str, ...]:
    """The engine's root as the node in `directory` names it, when it lies inside."""
    engine = _engine_root(Node.load(directory))
    inside = engine is not None and engine.is_relative_to(directory.resolve())
    return (str(engine.relative_to(directory.resolve())),) if engine is not None and inside else ()


def _kept(node: Node, engine: Path | None, *, disks: bool) -> Iterator[Path]:
    for path in node.directory.rglob("*"):
        if engine is not None and path.is_relative_to(engine):
            inside = path.relative_to(engine).parts[:1]
            if not disks or (inside and inside[0] not in ENGINE_KEPT):
                continue
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


def _copy_disk(source: Path, target: Path, pid: int) -> None:
    """A copy of a running machine's disk as of one instant: its QEMU (`pid`) stands still meanwhile, for milliseconds where the
    file system can share blocks. Raises Unavailable."""
    with _frozen(pid):
        command = ["cp", "--sparse=always", "--reflink=auto", "--", str(source), str(target)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=COPY_SECONDS, check=False)
    if done.returncode != 0:
        raise Unavailable(f"cannot copy {source}: {one_line(done.stderr)}", code="disk_not_copied")


@contextmanager
def _frozen(pid: int) -> Iterator[None]:
    """The process stopped. A guard of its own lets it go on if we are killed meanwhile."""
    wake = f"import os, signal, sys; sys.stdin.read(); os.kill({pid}, signal.SIGCONT)"
    with subprocess.Popen([sys.executable, "-S", "-c", wake], stdin=subprocess.PIPE, start_new_session=True) as guard:
        try:
            os.kill(pid, signal.SIGSTOP)
            _await_stopped(pid)
            yield
        finally:
            assert guard.stdin is not None  # noqa: S101 - it is a pipe
            guard.stdin.close()  # which wakes the process, as our end would


def _await_stopped(pid: int) -> None:
    """Until every thread has left what it was writing (proc(5): state T). Raises Unavailable."""
    deadline = time.monotonic() + FREEZE_SECONDS
    for task in Path(f"/proc/{pid}/task").iterdir():
        while (task / "stat").read_text().rpartition(")")[2].split()[0] != "T":
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"process {pid} does not stand still within {FREEZE_SECONDS:.0f} s", code="not_frozen"
                )
            time.sleep(0.001)


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
