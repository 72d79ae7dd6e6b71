"""Real servers on loopback, ended by their process whatever happens."""

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from skyfed.core.clock import Clock, SystemClock
from skyfed.infosys.directory import Directory
from skyfed.infosys.model import Entry
from skyfed.infosys.slapd import Slapd
from skyfed.infosys.slapd_config import SlapdConfig
from support.peers import need


def free_port() -> int:
    """A port that nobody listens on. slapd cannot be told 0 and asked which it got."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def server(folder: Path, port: int | None = None, *, max_bytes: int = 1 << 28) -> Slapd:
    """A server in `folder`, not yet running; skips the test where OpenLDAP is not installed."""
    for name in ("slapd", "slapadd", "ldapmodify", "ldapsearch"):
        need(name)
    folder.mkdir(parents=True, exist_ok=True)
    config = SlapdConfig(
        directory=folder, socket=folder / "s.ldapi", host="127.0.0.1", port=port or free_port(), max_bytes=max_bytes
    )
    return Slapd(config)


@contextlib.asynccontextmanager
async def running(slapd: Slapd) -> AsyncIterator[Slapd]:
    """The server while it runs; its database is loaded."""
    task = asyncio.create_task(slapd.run())
    try:
        ready = asyncio.create_task(slapd.ready())
        done, _ = await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
        if task in done:
            ready.cancel()
            task.result()
        yield slapd
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task


@contextlib.asynccontextmanager
async def serving(
    folder: Path, entries: Iterable[Entry], clock: Clock | None = None
) -> AsyncIterator[tuple[Slapd, Directory]]:
    """A server with `entries` in its directory."""
    slapd = server(folder)
    directory = Directory(slapd, clock or SystemClock(), hostname="bdii.example.org")
    await directory.start(entries)
    async with running(slapd):
        yield slapd, directory


async def ldapsearch(slapd: Slapd, *argv: str) -> subprocess.CompletedProcess[str]:
    """A user's ldapsearch, run to its end."""
    command = ["ldapsearch", "-x", "-LLL", "-o", "ldif-wrap=no", "-H", slapd.url, *argv]
    return await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=30, check=False)
