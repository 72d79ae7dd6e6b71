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
_NO_SUCH_OBJECT = 32
_LIMIT_CODES = (3, 4)  # time and size limit exceeded: what came is not the whole

Permits = Callable[[str], bool]


class FetchLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The most that one source may cost."""

    bytes: int = 25 << 20
    entries: int = 100_000
    seconds: float = 30.0


async def fetch(source: Source, limits: FetchLimits, permits: Permits) -> bytes:
    """Everything below the source's base, as LDIF. The address is resolved once, checked with `permits` and then used.

    Raises Unavailable, TimedOut, TooLarge, NotFound (no such base), Forbidden (address).
    """
    try:
        async with asyncio.timeout(limits.seconds):
            address = await _address(source, permits)
            return await _search(source, address, limits)
    except TimeoutError as error:
        raise TimedOut(f"{source.host}:{source.port} did not answer within {limits.seconds:g} s") from error


async def _address(source: Source, permits: Permits) -> str:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(source.host, source.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Unavailable(f"{source.host} has no address: {error.strerror or error}", code="no_address") from error
    addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
    for address in addresses:
        if permits(address):
            return f"[{address}]" if ":" in address else address
    raise Forbidden(
        f"{source.host} is at {', '.join(addresses)}, which this node may not connect to (setting outbound.allow)",
        code="address_refused",
    )


async def _search(source: Source, address: str, limits: FetchLimits) -> bytes:
    argv = [
        *(program("ldapsearch"), "-x", "-LLL", "-o", "ldif-wrap=no", "-o", f"nettimeout={max(1, int(limits.seconds))}"),
        *("-H", f"ldap://{quote(address, safe='[]:.')}:{source.port}", "-z", str(limits.entries)),
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
