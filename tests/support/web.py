"""Runs an ASGI application on a real listener in a thread, so that a test can talk to it with blocking clients."""

import asyncio
import http.client
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp

from skyfed.core.clock import Clock
from skyfed.web.guard import Limits
from skyfed.web.server import Server

DEADLINE = 10.0


@dataclass(frozen=True)
class Serving:
    """A running server: where it is, and its loop."""

    server: Server
    loop: asyncio.AbstractEventLoop
    port: int = 0
    path: Path | None = None
    host: str = "127.0.0.1"

    def connect(self, tls: ssl.SSLContext | None = None) -> socket.socket:
        """A connected socket; wrapped when `tls` is given (the server's name is `alpha.localhost`)."""
        if self.path is not None:
            plain = socket.socket(socket.AF_UNIX)
            plain.settimeout(DEADLINE)
            plain.connect(str(self.path))
            return plain
        plain = socket.create_connection((self.host, self.port), timeout=DEADLINE)
        return tls.wrap_socket(plain, server_hostname="alpha.localhost") if tls else plain

    def client(self, tls: ssl.SSLContext | None = None) -> http.client.HTTPConnection:
        """An HTTP client on one connection that stays open between requests."""
        client = http.client.HTTPConnection(self.host, self.port, timeout=DEADLINE)
        client.sock = self.connect(tls)
        return client


@contextmanager
def serving(
    app: ASGIApp,
    *,
    tls: ssl.SSLContext | None = None,
    limits: Limits | None = None,
    clock: Clock | None = None,
    unix: Path | None = None,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> Iterator[Serving]:
    """Serve `app` on a kernel-chosen port of 127.0.0.1, or on the unix socket `unix`, until the block ends."""
    ready: Future[Serving] = Future()
    done = threading.Event()

    async def main() -> None:
        server = Server(app, service="test", tls=tls, limits=limits, clock=clock)
        finished = asyncio.Event()
        loop = asyncio.get_running_loop()
        try:
            if unix is not None:
                await server.listen_unix(unix)
                made = Serving(server, loop, path=unix)
            else:
                made = Serving(server, loop, port=await server.listen("127.0.0.1", 0))
        except BaseException as error:
            ready.set_exception(error)
            raise
        waiter = threading.Thread(target=lambda: (done.wait(), loop.call_soon_threadsafe(finished.set)))
        waiter.start()
        ready.set_result(made)
        await finished.wait()
        waiter.join()
        await server.stop(grace=2.0)

    def run() -> None:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(main())

    thread = threading.Thread(target=run, name="serving")
    thread.start()
    try:
        yield ready.result(DEADLINE)
    finally:
        done.set()
        thread.join()


@dataclass(frozen=True)
class Answer:
    """One response, read off a raw socket."""

    status: int
    headers: dict[str, str]
    body: bytes


def read_answer(sock: socket.socket) -> Answer:
    """The next response on `sock`, by its own framing."""
    response = http.client.HTTPResponse(sock)
    response.begin()
    return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())


def read_end(sock: socket.socket) -> bytes:
    """Everything until the server closes; fails the test (timeout) when it does not."""
    parts = []
    while True:
        try:
            part = sock.recv(65536)
        except (ConnectionResetError, ssl.SSLEOFError):
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts)
