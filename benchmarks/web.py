"""`./bench web`: a trivial resource over TLS with a proxy and the full verdict, against the same application on plain uvicorn.

Both servers run in processes of their own (uvloop, httptools, access log to a file); this process is the client. Rounds
are interleaved and the median counts.
"""

import asyncio
import logging
import ssl
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import uvicorn
import uvloop
from cryptography.hazmat.primitives.serialization import Encoding
from figures import emit, interleaved, progress
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from skyfed.core import log
from skyfed.core.clock import SystemClock
from skyfed.identity import proxy
from skyfed.identity.bans import FileBans
from skyfed.identity.judge import Judge
from skyfed.identity.vomsdir import Vomsdir
from skyfed.pki.testca import ThrowawayCA, write_host
from skyfed.pki.tls import ServerTls, client_context
from skyfed.pki.trust import TrustStore
from skyfed.web.access import principal
from skyfed.web.application import Application
from skyfed.web.front import front_door
from skyfed.web.runtime import Assembly
from skyfed.web.server import Server

CONNECTIONS = 16
SECONDS = 2.0
ROUNDS = 7
HANDSHAKES = 60
NAME = "localhost"
PEER = "plain uvicorn, TLS, no client certificate"
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain\r\nUser-Agent: skyfed-bench\r\n\r\n"


# -- the servers ------------------------------------------------------------------------------------------------


async def hello(_request: Request) -> Response:
    """The trivial resource."""
    return PlainTextResponse("hello\n")


async def hello_principal(request: Request) -> Response:
    """The same, but only for somebody."""
    principal(request.scope)
    return PlainTextResponse("hello\n")


def judge_of(folder: Path) -> Judge:
    """A judge over the throw-away trust in `folder`."""
    clock = SystemClock()
    trust = TrustStore(folder / "certificates", clock)
    return Judge(trust, Vomsdir(folder / "vomsdir", clock), (FileBans(folder / "bans", clock),), clock)


async def serve_ours(folder: Path) -> None:
    """The guarded server with the verdict."""
    clock = SystemClock()
    log.configure(file=folder / "ours.log", node="bench")
    assembly = Assembly(app=Application([Route("/", hello_principal)]))
    app = front_door(assembly, service="bench", judge=judge_of(folder), clock=clock)
    tls = ServerTls(TrustStore(folder / "certificates", clock), folder / "hostcert.pem", folder / "hostkey.pem", clock)
    server = Server(app, service="bench", tls=tls.context, clock=clock)
    print(await server.listen("127.0.0.1", 0), flush=True)
    await asyncio.Event().wait()


async def serve_plain(folder: Path) -> None:
    """uvicorn as it comes, with TLS."""
    logging.basicConfig(filename=folder / "plain.log", level=logging.INFO)
    config = uvicorn.Config(
        Application([Route("/", hello)]),
        port=0,
        log_config=None,
        ws="none",
        lifespan="off",
        ssl_certfile=folder / "hostcert.pem",
        ssl_keyfile=folder / "hostkey.pem",
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    print(server.servers[0].sockets[0].getsockname()[1], flush=True)
    await serving


# -- the client -------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What all connections of one measurement share."""

    until: float
    answered: int = 0
    wrong: int = 0


class Asker(asyncio.Protocol):
    """Asks again as soon as it is answered."""

    def __init__(self, tally: Tally, done: asyncio.Future[None]) -> None:
        self._tally = tally
        self._done = done
        self._answer = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # a stream's
        self._transport = transport
        transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if not self._answer.endswith(b"hello\n"):  # head and body come in records of their own
            self._tally.wrong += len(self._answer) > 2000
            return
        self._tally.wrong += not self._answer.startswith(b"HTTP/1.1 200")
        self._tally.answered += 1
        self._answer = b""
        if time.perf_counter() < self._tally.until:
            self._transport.write(REQUEST)
        elif not self._done.done():
            self._done.set_result(None)
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(exc or ConnectionError("the server closed"))


async def ask(port: int, context: ssl.SSLContext) -> float:
    """Requests a second on kept-alive connections."""
    loop = asyncio.get_running_loop()
    tally = Tally(until=float("inf"))
    waits: list[asyncio.Future[None]] = [loop.create_future() for _ in range(CONNECTIONS)]
    for done in waits:
        protocol = Asker(tally, done)
        await loop.create_connection(lambda p=protocol: p, "127.0.0.1", port, ssl=context, server_hostname=NAME)
    started, before = time.perf_counter(), tally.answered
    tally.until = started + SECONDS
    await asyncio.gather(*waits)
    if tally.wrong:
        raise RuntimeError(f"{tally.wrong} wrong answers")
    return (tally.answered - before) / (time.perf_counter() - started)


async def connect_and_ask(port: int, context: ssl.SSLContext) -> float:
    """Connections a second, each with a handshake and one request, one after the other."""
    started = time.perf_counter()
    for _ in range(HANDSHAKES):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=NAME)
        writer.write(REQUEST)
        if not (await reader.readline()).startswith(b"HTTP/1.1 200"):
            raise RuntimeError("a wrong answer")
        writer.transport.abort()
    return HANDSHAKES / (time.perf_counter() - started)


# -- the measurement --------------------------------------------------------------------------------------------


def lay_out(folder: Path) -> None:
    """A CA, a host, a person with a proxy."""
    clock = SystemClock()
    ca = ThrowawayCA.create(folder / "ca", clock)
    ca.publish(folder / "certificates")
    (folder / "vomsdir").mkdir()
    write_host(ca.host(NAME), folder)
    wanted = proxy.Proxy(lifetime=timedelta(hours=1))
    proxy.write(proxy.create(ca.user("alice"), wanted, clock.now()), folder / "proxy.pem")


@contextmanager
def served(kind: str, folder: Path) -> Iterator[int]:
    """A server process; its port."""
    command = [sys.executable, __file__, "--serve", kind, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


def verdict_times(folder: Path) -> tuple[float, float]:
    """Microseconds of a verdict that is cached, and of one that is not."""
    judge = judge_of(folder)
    credential = proxy.read(folder / "proxy.pem")
    certificates = (credential.certificate, *credential.chain)
    chain = tuple(certificate.public_bytes(Encoding.DER) for certificate in certificates)
    if not judge.judge(chain).ok:
        raise RuntimeError("the proxy is refused")
    cached = _per_call(lambda: judge.judge(chain), 20_000)
    return 1e6 * cached, 1e6 * _per_call(lambda: judge.judge_at(chain, SystemClock().now()), 200)


def _per_call(call: Callable[[], object], times: int) -> float:
    """Seconds of one call: the best of five runs, since whatever else the machine does only adds."""
    return min(timeit.repeat(call, number=times // 5, repeat=5)) / (times // 5)


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="skyfed-bench-") as name:
        folder = Path(name)
        lay_out(folder)
        anchors = TrustStore(folder / "certificates", SystemClock()).anchors.pem()
        ours_tls, plain_tls = client_context(anchors, folder / "proxy.pem"), client_context(anchors)
        with served("ours", folder) as ours, served("plain", folder) as plain:
            progress(f"requests/s, {CONNECTIONS} connections, {SECONDS:g} s a round: skyfed.web, plain uvicorn")
            rate, peer_rate = interleaved(
                ROUNDS, lambda: uvloop.run(ask(ours, ours_tls)), lambda: uvloop.run(ask(plain, plain_tls))
            )
            progress("new connections/s: skyfed.web with a proxy, plain uvicorn without a client certificate")
            fresh, peer_fresh = interleaved(
                ROUNDS,
                lambda: uvloop.run(connect_and_ask(ours, ours_tls)),
                lambda: uvloop.run(connect_and_ask(plain, plain_tls)),
            )
        emit("web_requests", rate, "requests/s", PEER, peer_rate)
        emit("web_connections", fresh, "connections/s", PEER, peer_fresh)
        cached, uncached = verdict_times(folder)
        emit("web_verdict_cached", cached, "µs")
        emit("web_verdict_uncached", uncached, "µs")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        uvloop.run({"ours": serve_ours, "plain": serve_plain}[sys.argv[2]](Path(sys.argv[3])))
    else:
        main()
