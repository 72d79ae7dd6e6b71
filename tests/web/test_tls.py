"""TLS proves the chain and hands it on: on every request of a connection, on every connection, never from a ticket."""

import asyncio
import hashlib
import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop
from cryptography.hazmat.primitives.serialization import Encoding
from starlette.types import Receive, Scope, Send

from skyfed.core.errors import Conflict, Unavailable
from skyfed.pki.files import pem_certificate
from skyfed.web import sockets
from skyfed.web.guard import Limits
from skyfed.web.server import Server, handshake_reason
from support.peers import need
from support.web import Serving, read_answer, read_end, serving

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def tell_chain(scope: Scope, _receive: Receive, send: Send) -> None:
    """Answers with what the scope says about TLS."""
    tls = scope["extensions"]["tls"]
    chain = [hashlib.sha256(der).hexdigest() for der in tls["client_cert_chain_der"]]
    body = json.dumps({"chain": chain, "version": tls["tls_version"], "cipher": tls["cipher"]}).encode()
    length = str(len(body)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module", params=[asyncio.SelectorEventLoop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def server(request: pytest.FixtureRequest, shared_node) -> Iterator[Serving]:
    loop: Callable[[], asyncio.AbstractEventLoop] = request.param
    with serving(tell_chain, tls=shared_node.tls.context, loop_factory=loop) as running:
        yield running


def fingerprints(credential) -> list[str]:
    der = [certificate.public_bytes(Encoding.DER) for certificate in (credential.certificate, *credential.chain)]
    return [hashlib.sha256(one).hexdigest() for one in der]


def gets_an_answer(server: Serving, context: ssl.SSLContext) -> bool:
    """Whether TLS lets the client get as far as an HTTP answer. (In TLS 1.3 a client learns of a refusal at its first read.)"""
    try:
        with server.connect(context) as sock:
            sock.sendall(REQUEST)
            return bool(sock.recv(1))
    except (ssl.SSLError, ConnectionError):
        return False


async def read_all(reader: asyncio.StreamReader) -> bytes:
    """Everything until the connection ends, in whichever way."""
    try:
        return await reader.read()
    except ConnectionError:
        return b""


def test_the_chain_of_a_proxy_reaches_the_application_leaf_first(server: Serving, shared_node) -> None:
    proxy = shared_node.proxy(shared_node.pki.alice)
    with server.connect(shared_node.client(proxy)) as sock:
        sock.sendall(REQUEST)
        seen = json.loads(read_answer(sock).body)
    assert seen["chain"] == fingerprints(proxy)
    assert len(seen["chain"]) == 2
    assert seen["version"] == "TLSv1.3"
    assert seen["cipher"]


def test_the_chain_survives_keep_alive(server: Serving, shared_node) -> None:
    proxy = shared_node.proxy(shared_node.pki.alice)
    with server.connect(shared_node.client(proxy)) as sock:
        for _ in range(3):
            sock.sendall(REQUEST)
            assert json.loads(read_answer(sock).body)["chain"] == fingerprints(proxy)


def test_a_client_without_a_certificate_has_an_empty_chain(server: Serving, shared_node) -> None:
    with server.connect(shared_node.client()) as sock:
        sock.sendall(REQUEST)
        assert json.loads(read_answer(sock).body)["chain"] == []


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_is_not_resumed_so_that_the_chain_is_always_there(
    server: Serving, shared_node, version: ssl.TLSVersion
) -> None:
    proxy = shared_node.proxy(shared_node.pki.alice)
    context = shared_node.client(proxy)
    context.minimum_version = context.maximum_version = version
    session = None
    for _ in range(2):
        plain = socket.create_connection((server.host, server.port), timeout=10)
        with context.wrap_socket(plain, server_hostname="alpha.localhost", session=session) as sock:
            sock.sendall(REQUEST)
            assert json.loads(read_answer(sock).body)["chain"] == fingerprints(proxy)
            assert not sock.session_reused
            session = sock.session
            assert session is None or not session.has_ticket


@pytest.mark.peer
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_gets_no_ticket_and_its_chain_is_there_however_it_comes_back(
    server: Serving, shared_node, version: str, tmp_path: Path
) -> None:
    # TLS 1.2 may resume by session identifier; that session is in our memory, with the chain.
    proxy = shared_node.proxy(shared_node.pki.alice)
    credential, chain, session = tmp_path / "proxy.pem", tmp_path / "chain.pem", tmp_path / "session"
    credential.write_bytes(proxy.pem())
    chain.write_bytes(b"".join(pem_certificate(certificate) for certificate in proxy.chain))
    command = [str(need("openssl")), "s_client", "-connect", f"{server.host}:{server.port}", version, "-ign_eof"]
    command += ["-cert", str(credential), "-key", str(credential), "-cert_chain", str(chain)]
    request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    for how in ("-sess_out", "-sess_in"):
        extra = [how, str(session)] if how == "-sess_out" or session.exists() else []
        done = subprocess.run([*command, *extra], input=request, capture_output=True, timeout=20, check=False)
        said = done.stdout.decode(errors="replace")
        assert json.dumps(fingerprints(proxy)) in said
        assert "New Session Ticket" not in said
        assert "TLS session ticket:" not in said
        assert version != "-tls1_3" or "Reused" not in said


def test_a_client_of_an_unknown_authority_is_refused_by_tls_and_the_reason_is_logged(
    server: Serving, shared_node, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "skyfed.web.server")
    stranger = shared_node.client(shared_node.pki.stranger)
    assert not gets_an_answer(server, stranger)
    with server.connect(shared_node.client()) as sock:  # the loop has gone on since
        sock.sendall(REQUEST)
        read_answer(sock)
    assert any(record.skyfed_fields["reason"].startswith("certificate_") for record in caplog.records)


def test_plain_http_on_the_tls_port_is_closed(server: Serving) -> None:
    with server.connect() as sock:
        sock.sendall(REQUEST)
        assert b"HTTP/" not in read_end(sock)


def test_removed_anchors_stop_working_without_a_restart(node) -> None:
    proxy = node.proxy(node.pki.alice)
    with serving(tell_chain, tls=node.tls.context) as running:
        with running.connect(node.client(proxy)) as sock:
            sock.sendall(REQUEST)
            assert len(json.loads(read_answer(sock).body)["chain"]) == 2
        shutil.rmtree(node.pki.certificates)
        node.pki.certificates.mkdir()
        node.clock.advance(5)
        assert not gets_an_answer(running, node.client(proxy))
        # The server itself still serves: only the client's authority is unknown now.
        with running.connect(node.client()) as sock:
            sock.sendall(REQUEST)
            assert read_answer(sock).status == 200


def test_a_handshake_that_does_not_go_on_is_cut(shared_node) -> None:
    limits = Limits(handshake_seconds=0.3)
    with serving(tell_chain, tls=shared_node.tls.context, limits=limits) as running, running.connect() as sock:
        sock.sendall(b"\x16\x03\x01")
        assert read_end(sock) == b""


def test_connections_in_their_handshake_count(shared_node) -> None:
    limits = Limits(connections_per_peer=2, handshake_seconds=20)
    with serving(tell_chain, tls=shared_node.tls.context, limits=limits) as running:
        held = [running.connect() for _ in range(2)]
        with running.connect() as extra:
            assert read_end(extra) == b""
        for sock in held:
            sock.close()


def test_a_slow_request_is_finished_when_the_server_stops(shared_node) -> None:
    async def main() -> bytes:
        entered, leave = asyncio.Event(), asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            entered.set()
            await leave.wait()
            await tell_chain(scope, receive, send)

        server = Server(app, service="test", tls=shared_node.tls.context)
        port = await server.listen("127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=shared_node.client(), server_hostname="alpha.localhost"
        )
        writer.write(REQUEST)
        await entered.wait()
        stopping = asyncio.create_task(server.stop(grace=10))
        asyncio.get_running_loop().call_later(0.1, leave.set)
        answer = await reader.read()
        writer.close()
        await stopping
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", port)
        return answer

    assert asyncio.run(main()).startswith(b"HTTP/1.1 200")


def test_a_request_that_does_not_end_is_cut_when_the_server_stops() -> None:
    async def main() -> None:
        entered = asyncio.Event()

        async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
            entered.set()
            await asyncio.Event().wait()

        server = Server(app, service="test")
        port = await server.listen("127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST)
        await entered.wait()
        await server.stop(grace=0.1)
        assert await read_all(reader) == b""
        writer.close()

    asyncio.run(asyncio.wait_for(main(), 10))


def test_a_handshake_in_progress_does_not_hold_up_a_stop(shared_node) -> None:
    async def main() -> None:
        server = Server(tell_chain, service="test", tls=shared_node.tls.context)
        port = await server.listen("127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x16\x03\x01")
        async with asyncio.timeout(5):
            while not server.connections:
                await asyncio.sleep(0.01)
            await server.stop(grace=60)
            assert server.connections == 0
            assert await read_all(reader) == b""
        writer.close()

    asyncio.run(main())


def test_several_servers_share_one_loop() -> None:
    async def main() -> set[int]:
        servers = [Server(tell_chain, service=f"s{n}") for n in range(3)]
        ports = {await server.listen("127.0.0.1", 0) for server in servers}
        for server in servers:
            await server.stop()
        return ports

    assert len(asyncio.run(main())) == 3


def test_a_taken_port_is_a_conflict_and_a_foreign_address_unavailable() -> None:
    first = sockets.tcp("127.0.0.1", 0)
    try:
        with pytest.raises(Conflict) as taken:
            sockets.tcp("127.0.0.1", first.getsockname()[1])
        assert taken.value.code == "port_taken"
    finally:
        first.close()
    with pytest.raises(Unavailable):
        sockets.tcp("192.0.2.1", 0)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ssl.SSLError(1, "[SSL: NO_SHARED_CIPHER] no shared cipher"), "ssl_error"),
        (ConnectionAbortedError("SSL handshake is taking longer than 10 seconds"), "timeout"),
        (ConnectionResetError(), "connection_lost"),
    ],
)
def test_a_failed_handshake_has_a_short_reason(error: OSError, reason: str) -> None:
    assert handshake_reason(error) == reason
