"""Runs one ASGI application on one listener inside the running event loop: TLS, plain on a unix socket, or plain TCP."""

import asyncio
import logging
import socket
import ssl
import time
from email.utils import formatdate
from pathlib import Path

from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.server import ServerState

from skyfed.core.clock import Clock, SystemClock
from skyfed.core.log import event
from skyfed.core.text import one_line
from skyfed.web import sockets
from skyfed.web.guard import Admission, Limits, Sparingly, Ticket, peer_key
from skyfed.web.measures import CONNECTIONS, REFUSED, TLS_FAILURES
from skyfed.web.protocol import GuardedHttp

log = logging.getLogger(__name__)

# How long we wait for a peer's close_notify; well-behaved ones answer within a round trip.
TLS_SHUTDOWN_SECONDS = 2.0
# Out of file descriptors: wait for connections to end instead of spinning.
ACCEPT_PAUSE_SECONDS = 0.5


class Server:
    """One application on one listener. `service` names it in logs and metrics.

    Connections are counted from accept, before their TLS handshake costs anything; a handshake that fails is logged with its
    reason, since TLS is the one place where a credential is refused without an HTTP answer (unknown CA, legacy proxies).
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        service: str,
        tls: ssl.SSLContext | None = None,
        limits: Limits | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._service = service
        self._tls = tls
        self._limits = limits or Limits()
        self._sparingly = Sparingly(clock or SystemClock())
        self._config = _config(app, self._limits)
        self._state = _State()
        self._empty = asyncio.Event()
        self._admission = Admission(self._limits, on_empty=self._empty.set)
        self._listening: socket.socket | None = None
        self._unix: Path | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._opening: set[asyncio.Task[None]] = set()

    async def listen(self, host: str, port: int) -> int:
        """Bind, and serve from now on. The port, which the kernel chooses when `port` is 0. Raises as `sockets.tcp`."""
        listening = sockets.tcp(host, port)
        self._serve(listening)
        bound: int = listening.getsockname()[1]
        return bound

    async def listen_unix(self, path: Path) -> None:
        """Serve on a unix socket that only this user may open. Raises as `sockets.unix`."""
        self._serve(sockets.unix(path))
        self._unix = path

    @property
    def connections(self) -> int:
        """Connections open now, those in their handshake included."""
        return self._admission.total

    async def stop(self, grace: float = 10.0) -> None:
        """Take no more connections, let requests in work finish for at most `grace` seconds, then cut the rest."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
        if self._listening is not None:
            self._listening.close()
        if self._unix is not None:
            self._unix.unlink(missing_ok=True)
        for task in self._opening:
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for connection in list(self._state.connections):
            connection.shutdown()
        if not await self._emptied(grace):
            await self._cut()

    async def _emptied(self, seconds: float) -> bool:
        """Whether all connections and requests end within `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                if self._state.tasks:
                    await asyncio.wait(self._state.tasks)
                while self._admission.total:
                    self._empty.clear()
                    await self._empty.wait()
        except TimeoutError:
            return False
        return True

    async def _cut(self) -> None:
        event(log, logging.WARNING, "requests cut at shutdown", service=self._service,
              requests=len(self._state.tasks), connections=self._admission.total)  # fmt: skip
        for connection in list(self._state.connections):
            connection.transport.abort()
        for task in self._state.tasks:
            task.cancel()
        await asyncio.gather(*self._state.tasks, return_exceptions=True)

    # -- connections ------------------------------------------------------------------------------------------------

    def _serve(self, listening: socket.socket) -> None:
        if self._listening is not None:
            listening.close()
            raise ValueError(f"the server of '{self._service}' listens already")
        self._listening = listening
        self._accepting = asyncio.create_task(self._accept(listening), name=f"accept {self._service}")

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(listening)
            except OSError as error:
                if self._sparingly.passes("accept") is not None:
                    log.error("cannot accept connections for %s: %s", self._service, error)
                await asyncio.sleep(ACCEPT_PAUSE_SECONDS)
                continue
            ticket = self._admission.admit(peer_key(address))
            if ticket is None:
                self._turned_away(address)
                connection.close()
                continue
            _hurry(connection, socket.TCP_NODELAY)
            CONNECTIONS.labels(self._service).set(self._admission.total)
            task = loop.create_task(self._open(connection, address, ticket))
            self._opening.add(task)
            task.add_done_callback(lambda task, ticket=ticket: self._opened(task, ticket))  # type: ignore[misc]

    async def _open(self, connection: socket.socket, address: object, ticket: Ticket) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(
                lambda: self._protocol(ticket),
                connection,
                ssl=self._tls,
                ssl_handshake_timeout=self._limits.handshake_seconds if self._tls else None,
                ssl_shutdown_timeout=TLS_SHUTDOWN_SECONDS if self._tls else None,
            )
            _hurry(connection, socket.TCP_QUICKACK)
        except OSError as error:  # ssl.SSLError, resets and timeouts are all OSErrors
            ticket.release()
            self._handshake_failed(address, error)

    def _opened(self, task: asyncio.Task[None], ticket: Ticket) -> None:
        """The handshake is over. Cancelled, perhaps before its first step, it left nobody to give the ticket back."""
        self._opening.discard(task)
        if task.cancelled():
            ticket.release()
        elif (error := task.exception()) is not None:
            ticket.release()
            log.error("a connection of %s could not be opened", self._service, exc_info=error)

    def _protocol(self, ticket: Ticket) -> GuardedHttp:
        def on_closed() -> None:
            ticket.release()
            CONNECTIONS.labels(self._service).set(self._admission.total)

        return GuardedHttp(
            self._config,
            self._state,
            service=self._service,
            limits=self._limits,
            sparingly=self._sparingly,
            on_closed=on_closed,
        )

    def _turned_away(self, address: object) -> None:
        REFUSED.labels(self._service, "too_many_connections").inc()
        held = self._sparingly.passes("too_many_connections")
        if held is not None:
            event(log, logging.WARNING, "connection turned away: too many are open", service=self._service,
                  peer=peer_key(address), connections=self._admission.total, held_back=held)  # fmt: skip

    def _handshake_failed(self, address: object, error: OSError) -> None:
        reason = handshake_reason(error)
        TLS_FAILURES.labels(self._service, reason).inc()
        held = self._sparingly.passes(f"tls {reason}")
        if held is not None:
            event(log, logging.INFO, "TLS handshake failed; `skyfed proxy explain` says why a credential is refused",
                  service=self._service, peer=peer_key(address), reason=reason,
                  detail=one_line(str(error), 200), held_back=held)  # fmt: skip


def _hurry(connection: socket.socket, option: int) -> None:
    """Switch one of TCP's delays off. asyncio leaves accepted sockets as they are: without NODELAY our last packet waits for
    the peer's acknowledgement; without QUICKACK after the handshake (we send no tickets, so nothing) a peer that uses Nagle's
    algorithm, as the C++ and Java clients do, waits 40 ms with its request."""
    if connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.IPPROTO_TCP, option, 1)


class _State(ServerState):
    """uvicorn's shared state, with a Date header that needs no ticking task."""

    def __init__(self) -> None:
        self._dated = (0, b"")
        super().__init__()

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        now = int(time.time())
        if self._dated[0] != now:
            self._dated = (now, formatdate(now, usegmt=True).encode())
        return [(b"date", self._dated[1])]

    @default_headers.setter
    def default_headers(self, _value: list[tuple[bytes, bytes]]) -> None:
        """uvicorn starts with an empty list; the date stays ours."""


def _config(app: ASGIApp, limits: Limits) -> Config:
    config = Config(
        app,
        http=GuardedHttp,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=limits.idle_seconds,  # type: ignore[arg-type]  # goes to loop.call_later as it is
    )
    config.load()
    return config


def handshake_reason(error: OSError) -> str:
    """A short, stable name of why a TLS handshake failed, for counting."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate_{error.verify_code}"
    if isinstance(error, ssl.SSLError):
        return str(getattr(error, "reason", None) or "ssl_error").lower()
    if isinstance(error, ConnectionAbortedError | TimeoutError):
        return "timeout"
    return "connection_lost"
