"""A managed OpenLDAP server: our child, with its own configuration and database, written to over its local socket.

It ends with its parent. Its database is made anew with `slapadd -q` where that is faster, and changed in batches otherwise: one
ldapmodify a batch, never a process for an entry.
"""

import asyncio
import base64
import bisect
import contextlib
import logging
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from urllib.parse import quote

import msgspec

from skyfed.core.children import die_with_parent
from skyfed.core.errors import TimedOut, Unavailable
from skyfed.core.ids import new_uuid
from skyfed.core.text import one_line
from skyfed.infosys import formats
from skyfed.infosys.model import Entry
from skyfed.infosys.names import Dn
from skyfed.infosys.slapd_config import GLUE_SUFFIX, SMALL_SUFFIXES, SlapdConfig, render, small_database

log = logging.getLogger(__name__)

READY_SECONDS = 20.0
STOP_SECONDS = 10.0
BATCH_SECONDS = 600.0
_POLL_SECONDS = 0.02
_STDERR_BYTES = 1 << 20
_SYSTEM_PROGRAMS = ("/usr/sbin", "/sbin", "/usr/local/sbin")


_SMALL = {
    "o=grid": [
        Entry(Dn.parse("o=grid"), [("objectClass", ("organization",)), ("o", ("grid",))]),
        Entry(Dn.parse("mds-vo-name=local,o=grid"), [("objectClass", ("MDS",)), ("mds-vo-name", ("local",))]),
    ],
    "o=infosys": [Entry(Dn.parse("o=infosys"), [("objectClass", ("organization",)), ("o", ("infosys",))])],
}


class Refusals(msgspec.Struct, frozen=True):
    """What the server did not take: name → its reason."""

    reasons: dict[Dn, str]


class Slapd:
    """One server. `load` before `run`; `run` is a supervised task, it raises when the server ends by itself."""

    def __init__(self, config: SlapdConfig) -> None:
        self._config = config
        self._process: asyncio.subprocess.Process | None = None
        self._up = asyncio.Event()
        self._switching = False

    @property
    def pid(self) -> int | None:
        """The server's process; None while it does not run."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    @property
    def url(self) -> str:
        """Where clients find it."""
        host = f"[{self._config.host}]" if ":" in self._config.host else self._config.host
        return f"ldap://{host}:{self._config.port}"

    # -- life ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the server running on its present database; a switch to a new one restarts it. Raises Unavailable."""
        while True:
            process = await self._spawn()
            try:
                await self._wait_ready(process)
                self._up.set()
                code = await process.wait()
            finally:
                self._up.clear()
                await _end(process)
            if not self._switching:
                raise Unavailable(f"slapd ended with status {code}; {self._said()}", code="slapd_ended")
            self._switching = False

    async def ready(self, seconds: float = READY_SECONDS) -> None:
        """Return when the server answers. Raises TimedOut."""
        try:
            async with asyncio.timeout(seconds):
                await self._up.wait()
        except TimeoutError as error:
            raise TimedOut(f"slapd does not answer at {self.url}; {self._said()}", code="slapd_not_ready") from error

    async def _spawn(self) -> asyncio.subprocess.Process:
        self._config.socket.unlink(missing_ok=True)
        url = f"{self.url}/ ldapi://{quote(str(self._config.socket), safe='')}"
        with self._errors.open("wb") as errors:
            self._process = await asyncio.create_subprocess_exec(
                program("slapd"),
                *("-f", str(self._conf), "-h", url, "-d", "none"),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                # Killed outright: its database is made anew by our next start, its port must be free for it.
                preexec_fn=partial(die_with_parent, signal.SIGKILL),
            )
        return self._process

    async def _wait_ready(self, process: asyncio.subprocess.Process) -> None:
        deadline = asyncio.get_running_loop().time() + READY_SECONDS
        while process.returncode is None and asyncio.get_running_loop().time() < deadline:
            try:
                _, writer = await asyncio.open_unix_connection(self._config.socket)
            except OSError:
                await asyncio.sleep(_POLL_SECONDS)  # slapd tells nobody when it listens
                continue
            writer.close()
            return
        raise Unavailable(f"slapd does not start at {self.url}; {self._said()}", code="slapd_not_started")

    def _said(self) -> str:
        """The end of what the server wrote on its error output."""
        try:
            text = self._errors.read_bytes()[-_STDERR_BYTES:].decode("utf-8", "replace").strip()
        except OSError:
            text = ""
        return f"it said: {one_line(text[-400:])}" if text else "it said nothing"

    # -- content ------------------------------------------------------------------------------------------------

    async def load(self, entries: Iterable[Entry]) -> Refusals:
        """Make a new database of `entries` (parents first) and serve it instead of the present one."""
        database = self._config.directory / f"db-{new_uuid()}"
        await asyncio.to_thread(self._prepare, database)
        ldif = database / "load.ldif"
        by_name = await asyncio.to_thread(_write_load, ldif, entries)
        conf = database / "slapd.conf"
        await self._prepare_small(conf)
        code, said = await _slapadd(conf, GLUE_SUFFIX, ldif)
        refused = _slapadd_refusals(said, by_name)
        fault = next((reason for reason in refused.values() if _is_fault(reason)), "")
        if fault or (code != 0 and not refused):
            await asyncio.to_thread(shutil.rmtree, database, ignore_errors=True)
            raise self._full(f"slapadd ended with status {code}: {fault or one_line(said)}")
        ldif.unlink()
        await self._switch(database)
        return Refusals(refused)

    async def apply(self, changes: str) -> Refusals:
        """Apply LDIF change records; those that the server refuses do not stop the rest.

        Raises Unavailable when it is the server that fails, not an entry: then some are applied and some are not."""
        failed = self._config.directory / "failed.ldif"
        failed.unlink(missing_ok=True)
        url = f"ldapi://{quote(str(self._config.socket), safe='')}"
        argv = [program("ldapmodify"), "-c", "-Q", "-Y", "EXTERNAL", "-H", url, "-S", str(failed)]
        code, said = await _communicate(argv, changes.encode(), BATCH_SECONDS)
        refused = await asyncio.to_thread(_ldapmodify_refusals, failed)
        if code != 0 and not refused:
            raise Unavailable(f"ldapmodify ended with status {code}: {one_line(said)}", code="ldapmodify")
        if fault := next((reason for reason in refused.values() if _is_fault(reason)), None):
            raise self._full(f"slapd failed in the middle of {len(refused)} changes: {fault}")
        return Refusals(refused)

    def _full(self, what: str) -> Unavailable:
        return Unavailable(
            f"{what}; if its database is full ({self._config.max_bytes} bytes), raise the setting database_bytes",
            code="slapd_failed",
        )

    def _prepare(self, database: Path) -> None:
        database.mkdir(mode=0o700, parents=True)
        for suffix in SMALL_SUFFIXES:
            small_database(self._config, suffix).mkdir(mode=0o700, exist_ok=True)
        (database / "slapd.conf").write_text(render(self._config, database))

    async def _prepare_small(self, conf: Path) -> None:
        """Fill the databases besides o=glue where they have nothing yet."""
        for suffix, entries in _SMALL.items():
            folder = small_database(self._config, suffix)
            if not (folder / "data.mdb").exists():
                ldif = folder / "load.ldif"
                ldif.write_text(formats.write(entries))
                await _slapadd(conf, suffix, ldif)
                ldif.unlink()

    async def _switch(self, database: Path) -> None:
        """Serve `database` from now on; the one before is removed when the server has let go of it."""
        old = self._current
        link = self._config.directory / "current.new"
        link.unlink(missing_ok=True)
        link.symlink_to(database.name)
        link.replace(self._config.directory / "current")
        process = self._process
        if process is not None and process.returncode is None:
            self._switching = True
            self._up.clear()
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await self.ready()
        if old is not None and old != database:
            await asyncio.to_thread(shutil.rmtree, old, ignore_errors=True)

    def remove_leftovers(self) -> None:
        """Remove databases that an earlier process left behind."""
        for path in self._config.directory.glob("db-*"):
            if path != self._current:
                shutil.rmtree(path, ignore_errors=True)

    @property
    def _current(self) -> Path | None:
        link = self._config.directory / "current"
        return self._config.directory / link.readlink() if link.is_symlink() else None

    @property
    def _conf(self) -> Path:
        current = self._current
        if current is None:
            raise Unavailable("slapd has no database yet; load one first", code="slapd_no_database")
        return current / "slapd.conf"

    @property
    def _errors(self) -> Path:
        return self._config.directory / "slapd.stderr"


def program(name: str) -> str:
    """The path of an OpenLDAP program. Raises Unavailable naming the Debian package."""
    path = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), *_SYSTEM_PROGRAMS)))
    if path is None:
        package = "slapd" if name.startswith("slap") else "ldap-utils"
        raise Unavailable(f"the program {name} is not installed; install the Debian package {package}", code="no_slapd")
    return path


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        log.warning("slapd %s does not stop; it is killed", process.pid)
        process.kill()
        await process.wait()


async def _slapadd(conf: Path, suffix: str, ldif: Path) -> tuple[int, str]:
    argv = [program("slapadd"), "-q", "-c", "-f", str(conf), "-b", suffix, "-l", str(ldif)]
    return await _communicate(argv, b"", BATCH_SECONDS)


async def _communicate(argv: list[str], data: bytes, seconds: float) -> tuple[int, str]:
    """Run a program to its end; its status and what it wrote on its error output."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        # No pipe for nothing: a program that never reads may have ended before it is written to, and uvloop minds.
        stdin=subprocess.PIPE if data else subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        # No preexec_fn: Python may vfork then. A batch whose parent dies ends by itself, with the rest of its input.
        env={"PATH": os.environ.get("PATH", ""), "LDAPNOINIT": "1", "LC_ALL": "C"},
    )
    try:
        async with asyncio.timeout(seconds):
            _, said = await process.communicate(data or None)
    except TimeoutError as error:
        raise TimedOut(f"{Path(argv[0]).name} did not end within {seconds:g} s", code="slapd_batch") from error
    except RuntimeError as error:  # uvloop's word for a pipe whose reader has ended
        raise Unavailable(f"{Path(argv[0]).name} ended before it had read its input", code="slapd_batch") from error
    finally:
        await _end(process)
    return process.returncode or 0, said[-_STDERR_BYTES:].decode("utf-8", "replace")


def _write_load(path: Path, entries: Iterable[Entry]) -> list[tuple[int, Dn]]:
    """Write entries for slapadd; (first line, name) of each, to find again what it complains about."""
    lines: list[tuple[int, Dn]] = []
    number = 1
    with path.open("w", encoding="ascii") as file:
        for entry in entries:
            text = formats.write_entry(entry)
            lines.append((number, entry.dn))
            file.write(text + "\n")
            number += text.count("\n") + 1
    return lines


_COMPLAINT = re.compile(r"\(line=(\d+)\)(?:: (.*))?")


def _slapadd_refusals(said: str, starts: list[tuple[int, Dn]]) -> dict[Dn, str]:
    """slapadd names the line where it stood; the entry is the last one that starts at or before it."""
    refused: dict[Dn, str] = {}
    before = ""
    for line in said.splitlines():
        if found := _COMPLAINT.search(line):
            position = bisect.bisect_right(starts, int(found[1]), key=lambda pair: pair[0])
            if position:
                refused.setdefault(starts[position - 1][1], one_line(found[2] or before, 300))
        before = line
    return refused


def _ldapmodify_refusals(path: Path) -> dict[Dn, str]:
    """ldapmodify -S writes the records that failed, each below a comment with the server's reason."""
    if not path.exists():
        return {}
    refused: dict[Dn, str] = {}
    reason = ""
    for line in path.read_bytes().replace(b"\r", b"").replace(b"\n ", b"").decode("utf-8", "replace").splitlines():
        if line.startswith("# Error: "):
            reason = one_line(line.removeprefix("# Error: "), 300)
        elif line.startswith("dn:"):
            refused[Dn.parse(_dn_value(line))] = reason
    return refused


_RESULT = re.compile(r"\((-?\d+)\)")
# busy, unavailable, other (what a full database answers); negative ones are the client's own: no connection.
_FAULTS = frozenset({51, 52, 80})


def _is_fault(reason: str) -> bool:
    """Whether a result is about the server and not about the entry."""
    found = _RESULT.search(reason)
    return found is not None and (int(found[1]) < 0 or int(found[1]) in _FAULTS)


def _dn_value(line: str) -> str:
    if line.startswith("dn::"):
        return base64.b64decode(line[4:]).decode("utf-8", "replace")
    return line[3:]
