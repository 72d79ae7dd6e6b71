"""Reading another server's entries: one ldapsearch a source, bounded in bytes, entries and time (infosys digest 8, 11)."""

import asyncio
import contextlib
import os
import socket
import subprocess
from collections.abc import Callable
from urllib.parse import quote

import msgspec

from skyfed.core.errors import Forbidden, NotFound, TimedOut, TooLarge, Unavailable
from skyfed.core.text import one_line
from skyfed.infosys.aggregate import Source
from skyfed.infosys.slapd import program

_CHUNK = 1 << 16
_STDERR_BYTES = 4096
_MAX_ADDRESSES = 4
_NO_SUCH_OBJECT = 32
_LIMIT_CODES = (3, 4)  # time and size limit exceeded: what came is not the whole

Permits = Callable[[str], bool]


class FetchLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The most that one source may cost."""

    bytes: int = 25 << 20
    entries: int = 100_000
    seconds: float = 30.0


async def fetch(source: Source, limits: FetchLimits, permits: Permits) -> bytes:
    """Everything below the source's base, as LDIF. The name is resolved once; the addresses that
    `permits` accepts are then used.

    Raises Unavailable, TimedOut, TooLarge, NotFound (no such base), Forbidden (address).
    """
    try:
        async with asyncio.timeout(limits.seconds):
            return await _search(source, await _addresses(source, permits), limits)
    except TimeoutError as error:
        raise TimedOut(f"{source.host}:{source.port} did not answer within {limits.seconds:g} s") from error


async def _addresses(source: Source, permits: Permits) -> list[str]:
    """The host's addresses that may be connected to, in the system's order."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(source.host, source.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Unavailable(f"{source.host} has no address: {error.strerror or error}", code="no_address") from error
    addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
    permitted = [address for address in addresses if permits(address)]
    if not permitted:
        raise Forbidden(
            f"{source.host} is at {', '.join(addresses)}, which this node may not connect to (setting outbound.allow)",
            code="address_refused",
        )
    return permitted[:_MAX_ADDRESSES]


def _url(address: str, port: int) -> str:
    host = f"[{address}]" if ":" in address else address
    return f"ldap://{quote(host, safe='[]:.')}:{port}"


async def _search(source: Source, addresses: list[str], limits: FetchLimits) -> bytes:
    # ldapsearch tries them in turn: a name may have an address on which nobody listens (::1 for localhost).
    urls = " ".join(_url(address, source.port) for address in addresses)
    argv = [
        *(program("ldapsearch"), "-x", "-LLL", "-o", "ldif-wrap=no", "-o", f"nettimeout={max(1, int(limits.seconds))}"),
        *("-H", urls, "-z", str(limits.entries)),
        *("-l", str(max(1, int(limits.seconds))), "-s", "sub", "-b", str(source.base), "(objectClass=*)"),
    ]
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Nothing to do before exec: so Python may vfork, which is several times quicker. Its own limits end it.
        env={"PATH": os.environ.get("PATH", ""), "LDAPNOINIT": "1", "LC_ALL": "C"},
    )
    assert process.stdout is not None  # noqa: S101 - asked for above
    assert process.stderr is not None  # noqa: S101
    try:
        data, said = await asyncio.gather(
            _bounded(process.stdout, limits.bytes, source), process.stderr.read(_STDERR_BYTES)
        )
        code = await process.wait()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    _check(code, said.decode("utf-8", "replace"), source, limits)
    return data


async def _bounded(stream: asyncio.StreamReader, limit: int, source: Source) -> bytes:
    data = bytearray()
    while chunk := await stream.read(_CHUNK):
        data += chunk
        if len(data) > limit:
            raise TooLarge(f"{source.host}:{source.port} sends more than {limit} bytes", code="source_size")
    return bytes(data)


def _check(code: int, said: str, source: Source, limits: FetchLimits) -> None:
    where = f"{source.host}:{source.port}"
    if code == _NO_SUCH_OBJECT:
        raise NotFound(f"{where} has nothing below {source.base}", code="no_such_base")
    if code in _LIMIT_CODES:
        raise TooLarge(
            f"{where} has more than {limits.entries} entries, or does not list them in time", code="source_size"
        )
    if code != 0:
        raise Unavailable(f"{where}: {one_line(said, 200) or f'ldapsearch ended with status {code}'}", code="source")
