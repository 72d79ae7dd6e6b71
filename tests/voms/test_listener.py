"""The attribute authority's port under bad weather: everything a peer may do is bounded."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from skyfed.core.clock import SystemClock
from skyfed.pki.files import Credential
from skyfed.pki.tls import ServerTls, client_context
from skyfed.voms.door import Request
from skyfed.voms.listener import MAX_HEAD_BYTES, StreamListener, read_request
from skyfed.web.guard import Limits
from support.pki import Pki
from support.voms import Service

Answerer = Callable[[Request, Sequence[bytes], str], Awaitable[bytes]]


async def fed(*pieces: bytes) -> Request:
    """What is read when `pieces` arrive one after the other."""
    reader = asyncio.StreamReader(limit=MAX_HEAD_BYTES)
    task = asyncio.create_task(read_request(reader))
    for piece in pieces:
        reader.feed_data(piece)
        await asyncio.sleep(0)
    reader.feed_eof()
    return await task


@pytest.mark.parametrize(
    "pieces",
    [
        (b"0", b"GET /x HTTP/1.0\nHost: a\n\n"),
        (b"0GET /x HTTP/1.0\r\nHost: a\r\n\r\n",),
        (b"G", b"ET /x HTTP/1.0\r\n", b"Host: a\r", b"\n", b"\r\n"),
    ],
)
def test_requests_are_read_however_they_are_cut(pieces: tuple[bytes, ...]) -> None:
    assert asyncio.run(fed(*pieces)) == Request("rest", b"GET /x HTTP/1.0")


def test_a_document_ends_with_its_last_tag() -> None:
    document = b"<voms><command>A</command></voms>"
    assert asyncio.run(fed(b"0", document[:10], document[10:])) == Request("legacy", document)
    assert asyncio.run(fed(b"hello world")) == Request("legacy", b"hello world")


def test_a_request_that_never_ends_is_not_read_for_ever() -> None:
    assert asyncio.run(fed(b"GET /" + b"x" * 20_000)).too_large
    assert asyncio.run(fed(b"GET / HTTP/1.0\n" + b"A: b\n" * 200)).too_large
    endless = asyncio.run(fed(*[b"<voms>" + b"x" * 4090] * 40))
    assert len(endless.data) < 80_000
    with pytest.raises(EOFError):
        asyncio.run(fed(b"0"))
    with pytest.raises(EOFError):
        asyncio.run(fed(b"GET / HTTP/1.0\r\nHost"))


def test_a_head_that_is_too_large_gets_its_status(service: Service, pki: Pki) -> None:
    answer = service.exchange(pki.alice, b"GET /generate-ac?fqans=/testvo HTTP/1.0\n" + b"A: b\n" * 200 + b"\n")
    assert answer.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01", b"POST / HTTP/1.0\r\n\r\n", b"<", b"\x00" * 100])
def test_garbage_is_answered_as_garbage(service: Service, pki: Pki, garbage: bytes) -> None:
    """A `<` alone waits for more, which does not come: the server closes when we do."""
    if garbage == b"<":
        garbage = b"<nonsense></voms>"
    assert b"<number>1005</number>" in service.exchange(pki.alice, garbage)


# -- connections ------------------------------------------------------------------------------------------------


class Weather:
    """A listener with an answer of the test's and small limits."""

    def __init__(self, pki: Pki, folder: Path, limits: Limits) -> None:
        trust = pki.trust()
        tls = ServerTls(trust, pki.hostcert, pki.hostkey, SystemClock(), require_certificate=True)
        self.listener = StreamListener(tls.context, SystemClock(), limits)
        credential = folder / "client.pem"
        credential.write_bytes(pki.alice.pem())
        self.context = client_context(trust.anchors.pem(), credential)
        self.port = 0

    def start(self, answer: Answerer) -> None:
        self.port = self.listener.bind("127.0.0.1", 0)
        self.listener.serve(answer)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=self.context, server_hostname="localhost")


async def hello(_request: Request, chain: Sequence[bytes], peer: str) -> bytes:
    return f"{len(chain)} {peer}".encode()


def weather(pki: Pki, folder: Path, **limits: object) -> Weather:
    return Weather(pki, folder, Limits(**limits))  # type: ignore[arg-type]


def test_a_peer_that_says_nothing_is_dropped_at_the_deadline(pki: Pki, tmp_path: Path) -> None:
    async def story() -> bytes:
        here = weather(pki, tmp_path, head_seconds=0.3)
        here.start(hello)
        reader, writer = await here.connect()
        writer.write(b"0GET / HT")
        async with asyncio.timeout(5):
            end = await reader.read()
        writer.close()
        await here.listener.stop()
        return end

    assert asyncio.run(story()) == b""


def test_a_peer_without_a_handshake_is_dropped_at_the_deadline(pki: Pki, tmp_path: Path) -> None:
    async def story() -> bytes:
        here = weather(pki, tmp_path, handshake_seconds=0.3)
        here.start(hello)
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
        async with asyncio.timeout(5):
            end = await reader.read()
        writer.close()
        await here.listener.stop()
        return end

    assert asyncio.run(story()) == b""


def test_too_many_connections_are_turned_away_and_the_others_served(pki: Pki, tmp_path: Path) -> None:
    async def story() -> tuple[bytes, bytes]:
        here = weather(pki, tmp_path, connections_per_peer=2)
        here.start(hello)
        held = [await here.connect() for _ in range(2)]
        with pytest.raises((OSError, ssl.SSLError)):
            await here.connect()
        _, writer = held.pop()
        writer.close()
        await writer.wait_closed()
        answers = []
        async with asyncio.timeout(5):
            answers.append(await _ask(here))
        reader, writer = held.pop()
        writer.write(b"GET / HTTP/1.0\n\n")
        async with asyncio.timeout(5):
            answers.append(await reader.read())
        writer.close()
        await here.listener.stop()
        return answers[0], answers[1]

    # OpenSSL's client adds its CA to what it shows.
    assert asyncio.run(story()) == (b"2 127.0.0.1", b"2 127.0.0.1")


async def _ask(here: Weather) -> bytes:
    """Ask until admitted: the listener learns of a closed connection a moment later."""
    while True:
        try:
            reader, writer = await here.connect()
        except OSError:
            await asyncio.sleep(0)
            continue
        writer.write(b"GET / HTTP/1.0\n\n")
        answer = await reader.read()
        writer.close()
        return answer


def test_stopping_waits_for_requests_in_work_and_frees_the_port(pki: Pki, tmp_path: Path) -> None:
    async def story() -> bytes:
        here = weather(pki, tmp_path)
        asked, go_on = asyncio.Event(), asyncio.Event()

        async def slow(*_: object) -> bytes:
            asked.set()
            await go_on.wait()
            return b"done"

        here.start(slow)
        reader, writer = await here.connect()
        writer.write(b"GET / HTTP/1.0\n\n")
        await asked.wait()
        stopping = asyncio.create_task(here.listener.stop())
        go_on.set()
        answer = await reader.read()
        await stopping
        writer.close()
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", here.port))
        return answer

    assert asyncio.run(story()) == b"done"


def test_an_unknown_ca_ends_in_the_handshake(service: Service, pki: Pki) -> None:
    try:
        assert service.exchange(pki.stranger, b"GET /generate-ac HTTP/1.0\n\n") == b""
    except OSError:
        return  # an alert, a reset: TLS has no better words


def test_the_chain_that_a_proxy_shows_arrives_whole(pki: Pki, tmp_path: Path) -> None:
    async def story(credential: Credential) -> bytes:
        here = weather(pki, tmp_path)
        path = tmp_path / "proxy.pem"
        path.write_bytes(credential.pem())
        here.context = client_context(pki.trust().anchors.pem(), path)
        here.start(hello)
        answer = await _ask(here)
        await here.listener.stop()
        return answer

    from skyfed.identity import proxy

    made = proxy.create(pki.alice, proxy.Proxy(key="ec"), SystemClock().now())
    twice = proxy.create(made, proxy.Proxy(key="ec"), SystemClock().now())
    assert asyncio.run(story(twice)) == b"3 127.0.0.1"
