"""The attribute authority's port: mutual TLS, one request a connection, two protocols told apart by the first byte.

A listener of its own because no HTTP server takes what real clients send: C++ begins with a byte `0` (the GSI delegation flag,
alone in its TLS record or glued to the next), ends lines with a bare newline, and reads until the server closes.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence

from skyfed.core.clock import Clock
from skyfed.core.log import event
from skyfed.core.text import one_line
from skyfed.voms.door import Request
from skyfed.voms.measures import ANSWERS, CONNECTIONS
from skyfed.voms.wire import legacy
from skyfed.web import sockets
from skyfed.web.guard import Admission, Limits, Sparingly, Ticket, peer_key
from skyfed.web.protocol import peer_chain
from skyfed.web.server import handshake_reason

log = logging.getLogger(__name__)

Answerer = Callable[[Request, Sequence[bytes], str], Awaitable[bytes]]

MAX_HEAD_BYTES = 16 * 1024
MAX_HEAD_LINES = 100
WRITE_SECONDS = 10.0
TLS_SHUTDOWN_SECONDS = 2.0
ACCEPT_PAUSE_SECONDS = 0.5
LIMITS = Limits(connections=200, connections_per_peer=64, head_seconds=10.0)


class StreamListener:
    """Accepts connections, reads one request of each, writes the answer to it, closes."""

    def __init__(self, tls: ssl.SSLContext, clock: Clock, limits: Limits = LIMITS) -> None:
        self._tls = tls
        self._limits = limits
        self._admission = Admission(limits)
        self._sparingly = Sparingly(clock)
        self._listening: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._serving: set[asyncio.Task[None]] = set()

    def bind(self, host: str, port: int) -> int:
        """Take the address; nothing is accepted yet. The port, which the kernel chooses when `port` is 0.

        Raises as `web.sockets.tcp`.
        """
        self._listening = sockets.tcp(host, port)
        bound: int = self._listening.getsockname()[1]
        return bound

    def serve(self, answer: Answerer) -> None:
        """Accept from now on; `answer` makes the whole answer to a request."""
        if self._listening is None:
            raise ValueError("bind comes first")
        self._accepting = asyncio.create_task(self._accept(self._listening, answer), name="accept voms")

    async def stop(self, grace: float = 5.0) -> None:
        """Accept no more; let requests in work finish for at most `grace` seconds. Safe to call twice."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
            self._accepting = None
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        if self._serving:
            await asyncio.wait(self._serving, timeout=grace)
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    # -- connections --------------------------------------------------------------------------------------------

    async def _accept(self, listening: socket.socket, answer: Answerer) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(listening)
            except OSError as error:
                if self._sparingly.passes("accept") is not None:
                    log.error("the attribute authority cannot accept connections: %s", error)
                await asyncio.sleep(ACCEPT_PAUSE_SECONDS)
                continue
            ticket = self._admission.admit(peer_key(address))
            if ticket is None:
                ANSWERS.labels("none", "too_many_connections").inc()
                connection.close()
                continue
            # asyncio leaves accepted sockets as they are: our end mark would wait for the peer to acknowledge the answer.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = loop.create_task(self._connection(connection, peer_key(address), ticket, answer))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    async def _connection(self, connection: socket.socket, peer: str, ticket: Ticket, answer: Answerer) -> None:
        CONNECTIONS.set(self._admission.total)
        try:
            reader, writer = await self._handshake(connection)
            _acknowledge(connection)
        except OSError as error:  # TLS errors, resets and timeouts are all OSErrors
            connection.close()
            self._handshake_failed(peer, error)
        else:
            await self._exchange(reader, writer, peer, answer)
        finally:
            ticket.release()
            CONNECTIONS.set(self._admission.total)

    async def _handshake(self, connection: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=MAX_HEAD_BYTES, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol,
            connection,
            ssl=self._tls,
            ssl_handshake_timeout=self._limits.handshake_seconds,
            ssl_shutdown_timeout=TLS_SHUTDOWN_SECONDS,
        )
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: str, answer: Answerer
    ) -> None:
        try:
            async with asyncio.timeout(self._limits.head_seconds):
                request = await read_request(reader)
            chain = peer_chain(writer.get_extra_info("ssl_object"))
            writer.write(await answer(request, chain, peer))
            async with asyncio.timeout(WRITE_SECONDS):
                await writer.drain()
                writer.close()
                # C++ answers close_notify with an alert or a plain end: however it ends, the answer is out.
                await writer.wait_closed()
        except (OSError, EOFError, TimeoutError) as error:
            if self._sparingly.passes("broken") is not None:
                event(log, logging.DEBUG, "connection ended early", peer=peer, detail=one_line(str(error), 200))
        finally:
            writer.transport.abort()

    def _handshake_failed(self, peer: str, error: OSError) -> None:
        reason = handshake_reason(error)
        ANSWERS.labels("none", f"tls_{reason}").inc()
        if self._sparingly.passes(f"tls {reason}") is not None:
            event(log, logging.INFO, "TLS handshake failed; `skyfed proxy explain` says why a credential is refused",
                  service="voms", peer=peer, reason=reason, detail=one_line(str(error), 200))  # fmt: skip


def _acknowledge(connection: socket.socket) -> None:
    """Acknowledge at once what has arrived (Linux). Without session tickets we have nothing to say after the handshake,
    and clients that wait for an acknowledgement before they send their request (C++, Java) would wait 40 ms for it."""
    if hasattr(socket, "TCP_QUICKACK"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


async def read_request(reader: asyncio.StreamReader) -> Request:
    """One request of either protocol. Raises EOFError (IncompleteReadError) when the peer leaves before it is whole."""
    first = await reader.readexactly(1)
    if first == b"0":
        first = await reader.readexactly(1)
    if first == b"G":
        return await _read_head(reader, first)
    data = first
    while len(data) <= legacy.MAX_REQUEST_BYTES:
        chunk = await reader.read(4096)
        data += chunk
        # What is no document will not become one: answer what arrived.
        if legacy.END in data or not chunk or not data.startswith(b"<"):
            break
    return Request("legacy", data)


async def _read_head(reader: asyncio.StreamReader, first: bytes) -> Request:
    """The request line; the header lines after it are read and mean nothing to us."""
    size, lines, line = 0, 0, first
    request_line = b""
    try:
        while True:
            line += await reader.readuntil(b"\n")
            size, lines = size + len(line), lines + 1
            if size > MAX_HEAD_BYTES or lines > MAX_HEAD_LINES:
                return Request("rest", b"", too_large=True)
            stripped = line.rstrip(b"\r\n")
            if not stripped:
                return Request("rest", request_line)
            request_line = request_line or stripped
            line = b""
    except asyncio.LimitOverrunError:
        return Request("rest", b"", too_large=True)
