"""Before an application sees a request: sizes, counts and deadlines, each proven with raw sockets."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from skyfed.core.clock import FixedClock, SystemClock
from skyfed.web.application import Application
from skyfed.web.errors import Boundary
from skyfed.web.guard import Admission, Limits, Sparingly, is_forged, peer_key
from skyfed.web.protocol import LINGER_BYTES
from support.web import Serving, read_answer, read_end, serving

SMALL = Limits(
    request_line_bytes=500,
    header_bytes=2000,
    headers=20,
    body_bytes=1000,
    head_seconds=0.4,
    body_seconds=0.4,
    body_rate=1_000_000,
    idle_seconds=0.4,
    stalled_write_seconds=0.5,
    write_rate=100_000_000,
    linger_seconds=0.1,
    connections=8,
    connections_per_peer=6,
    requests=4,
    pipelined=3,
)
PATIENT = replace(SMALL, head_seconds=10, body_seconds=10, idle_seconds=10, stalled_write_seconds=10)
HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"


async def headers_seen(request: Request) -> Response:
    return JSONResponse(dict(request.headers.items()))


async def echo(request: Request) -> Response:
    return Response(await request.body())


APP = Boundary(
    Starlette(
        routes=[
            Route("/", headers_seen, methods=["GET"]),
            Route("/echo", echo, methods=["POST"]),
        ]
    ),
    service="test",
    clock=SystemClock(),
)


@pytest.fixture(scope="module")
def patient() -> Iterator[Serving]:
    """Small sizes, long deadlines."""
    with serving(APP, limits=PATIENT) as running:
        yield running


@pytest.fixture(scope="module")
def hasty() -> Iterator[Serving]:
    """Small sizes, short deadlines."""
    with serving(APP, limits=SMALL) as running:
        yield running


def refused(running: Serving, *parts: bytes) -> tuple[int, str]:
    """Send `parts`; the refusal's status and text, and that the server closes afterwards."""
    with running.connect() as sock:
        for part in parts:
            sock.sendall(part)
        answer = read_answer(sock)
        assert answer.headers["connection"] == "close"
        assert answer.headers["x-request-id"]
        assert read_end(sock) == b""
        return answer.status, answer.body.decode()


# -- sizes and counts ---------------------------------------------------------------------------------------------


def test_a_header_field_over_the_limit_is_answered_431_and_closed(patient: Serving) -> None:
    status, text = refused(patient, HEAD, b"X-Bomb: " + b"a" * 3000)
    assert status == 431
    assert "2000 bytes" in text


def test_a_header_field_that_never_ends_is_answered_before_it_is_all_there(patient: Serving) -> None:
    # The parser hoards an unfinished field without telling anybody.
    with patient.connect() as sock:
        sock.sendall(HEAD + b"X-Bomb: ")
        sent = 0
        try:
            while sent < 50_000_000:
                sent += sock.send(b"a" * 65536)
        except OSError:
            pass
        assert sent < 50_000_000, "the server swallowed it all"


def test_a_header_name_that_never_ends_is_refused(patient: Serving) -> None:
    assert refused(patient, HEAD, b"a" * 3000)[0] == 431


def test_too_many_header_fields_are_answered_431(patient: Serving) -> None:
    fields = b"".join(b"X-%d: 1\r\n" % n for n in range(30))
    assert refused(patient, HEAD + fields + b"\r\n")[0] == 431


def test_many_small_header_fields_add_up_to_the_limit(patient: Serving) -> None:
    fields = b"".join(b"X-%d: %s\r\n" % (n, b"a" * 150) for n in range(15))
    assert refused(patient, HEAD + fields + b"\r\n")[0] == 431


def test_a_request_target_over_the_limit_is_answered_414(patient: Serving) -> None:
    assert refused(patient, b"GET /" + b"a" * 600 + b" HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 414


def test_a_request_target_over_the_limit_in_pieces_is_answered_414(patient: Serving) -> None:
    with patient.connect() as sock:
        sock.sendall(b"GET /")
        for _ in range(7):
            sock.sendall(b"a" * 90)
        assert read_answer(sock).status == 414


def test_a_declared_body_over_the_limit_is_answered_413_before_it_is_sent(patient: Serving) -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\nExpect: 100-continue\r\n\r\n"
    status, text = refused(patient, head)
    assert status == 413
    assert "1000 bytes" in text


def test_a_chunked_body_over_the_limit_is_answered_413(patient: Serving) -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"190\r\n" + b"a" * 400 + b"\r\n"
    assert refused(patient, head, chunk, chunk, chunk)[0] == 413


def test_an_endless_chunk_extension_is_refused(patient: Serving) -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert refused(patient, head, b"1;ext=", b"a" * 1500, b"a" * 1500)[0] == 431


def test_endless_trailers_are_refused(patient: Serving) -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"
    trailers = b"".join(b"T-%d: 1\r\n" % n for n in range(40))
    assert refused(patient, head, trailers)[0] == 431


def test_a_body_at_the_limit_passes(patient: Serving) -> None:
    with patient.connect() as sock:
        sock.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n" + b"a" * 1000)
        assert read_answer(sock).body == b"a" * 1000


def test_what_is_not_http_is_answered_400(patient: Serving) -> None:
    assert refused(patient, b"<?xml version='1.0'?><voms/>\r\n\r\n")[0] == 400


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Bad: a\x00b\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_ambiguous_or_broken_requests_are_answered_400(patient: Serving, request_bytes: bytes) -> None:
    assert refused(patient, request_bytes)[0] == 400


def test_too_many_pipelined_requests_end_the_connection(patient: Serving) -> None:
    with patient.connect() as sock:
        sock.sendall((HEAD + b"\r\n") * 50)
        assert read_end(sock).count(b"HTTP/1.1 200") < 50


def test_a_few_pipelined_requests_are_all_answered_in_order(patient: Serving) -> None:
    with patient.connect() as sock:
        sock.sendall(b"".join(b"GET / HTTP/1.1\r\nHost: x\r\nX-N: %d\r\n\r\n" % n for n in range(3)))
        reader = sock.makefile("rb")
        seen = []
        for _ in range(3):
            length = 0
            while (line := reader.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            seen.append(json.loads(reader.read(length))["x-n"])
        assert seen == ["0", "1", "2"]


def test_a_wish_to_upgrade_is_ignored_and_the_request_answered(patient: Serving) -> None:
    with patient.connect() as sock:
        sock.sendall(HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert read_answer(sock).status == 200
        assert read_end(sock) == b""


# -- deadlines ----------------------------------------------------------------------------------------------------


def test_a_connection_that_says_nothing_is_closed(hasty: Serving) -> None:
    with hasty.connect() as sock:
        assert b" 408 " in read_end(sock)


def test_half_a_request_is_answered_408(hasty: Serving) -> None:
    assert refused(hasty, b"GET / HT")[0] == 408


def test_headers_that_trickle_in_do_not_move_the_deadline(hasty: Serving) -> None:
    started = time.monotonic()
    with hasty.connect() as sock:
        sock.sendall(HEAD)
        sock.settimeout(0.05)
        answer = b""
        while not answer and time.monotonic() - started < 5:
            try:
                sock.sendall(b"X-Slow: 1\r\n")
                answer = sock.recv(1000)
            except TimeoutError:
                continue
        assert b" 408 " in answer
    assert time.monotonic() - started < 3


def test_empty_lines_do_not_keep_a_connection_open(hasty: Serving) -> None:
    started = time.monotonic()
    with hasty.connect() as sock:
        sock.sendall(HEAD + b"\r\n")
        assert read_answer(sock).status == 200
        sock.settimeout(0.05)
        closed = False
        while not closed and time.monotonic() - started < 5:
            try:
                sock.sendall(b"\r\n")
                closed = sock.recv(1000) == b""
            except TimeoutError:
                continue
            except OSError:
                closed = True
        assert closed


def test_half_a_body_is_answered_408(hasty: Serving) -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
    assert refused(hasty, head, b"abc")[0] == 408


def test_an_idle_kept_alive_connection_is_closed_without_an_answer(hasty: Serving) -> None:
    with hasty.connect() as sock:
        sock.sendall(HEAD + b"\r\n")
        assert read_answer(sock).status == 200
        assert read_end(sock) == b""


def test_half_a_second_request_on_a_kept_alive_connection_is_answered_408(hasty: Serving) -> None:
    with hasty.connect() as sock:
        sock.sendall(HEAD + b"\r\n")
        assert read_answer(sock).status == 200
        sock.sendall(b"GET / HTTP/1.1\r\nHo")
        assert read_answer(sock).status == 408


def test_a_client_that_does_not_read_its_answer_is_cut() -> None:
    async def endless(_request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 65536

        return StreamingResponse(parts())

    app = Boundary(Application([Route("/", endless)]), service="test", clock=SystemClock())
    with serving(app, limits=SMALL) as running, running.connect() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(HEAD + b"\r\n")
        assert sock.recv(12) == b"HTTP/1.1 200"
        deadline = time.monotonic() + 10
        while _connections(running) and time.monotonic() < deadline:
            threading.Event().wait(0.05)
        assert _connections(running) == 0


def _connections(running: Serving) -> int:
    async def count() -> int:
        return running.server.connections

    return asyncio.run_coroutine_threadsafe(count(), running.loop).result(5)


# -- how many -----------------------------------------------------------------------------------------------------


def test_connections_over_the_number_for_one_address_are_closed_at_once() -> None:
    with serving(APP, limits=PATIENT) as running:
        held = [running.connect() for _ in range(PATIENT.connections_per_peer)]
        try:
            for sock in held:
                sock.sendall(HEAD + b"\r\n")
                assert read_answer(sock).status == 200
            with running.connect() as extra:
                assert read_end(extra) == b""
            held.pop().close()
            # The place of the one that left is free again.
            deadline = time.monotonic() + 5
            while _connections(running) >= PATIENT.connections_per_peer and time.monotonic() < deadline:
                threading.Event().wait(0.01)
            with running.connect() as again:
                again.sendall(HEAD + b"\r\n")
                assert read_answer(again).status == 200
        finally:
            for sock in held:
                sock.close()


def test_requests_over_the_number_in_work_are_answered_503() -> None:
    entered, leave = threading.Semaphore(0), asyncio.Event()

    async def wait(_request: Request) -> Response:
        entered.release()
        await leave.wait()
        return PlainTextResponse("done")

    with serving(Starlette(routes=[Route("/", wait)]), limits=PATIENT) as running:
        held = [running.connect() for _ in range(PATIENT.requests)]
        for sock in held:
            sock.sendall(HEAD + b"\r\n")
            assert entered.acquire(timeout=5)
        with running.connect() as extra:
            extra.sendall(HEAD + b"\r\n")
            answer = read_answer(extra)
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        running.loop.call_soon_threadsafe(leave.set)
        for sock in held:
            assert read_answer(sock).body == b"done"
            sock.close()


def test_an_address_counts_for_itself_and_everyone_for_all() -> None:
    emptied: list[bool] = []
    admission = Admission(replace(SMALL, connections=3, connections_per_peer=2), lambda: emptied.append(True))
    tickets = [admission.admit("a"), admission.admit("a")]
    assert admission.admit("a") is None
    tickets.append(admission.admit("b"))
    assert admission.admit("c") is None
    for ticket in tickets:
        assert ticket is not None
        ticket.release()
        ticket.release()
    assert admission.total == 0
    assert emptied == [True]


@pytest.mark.parametrize(
    ("address", "key"),
    [
        (("192.0.2.7", 1234), "192.0.2.7"),
        (("2001:db8:1:2:3:4:5:6", 1, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 1, 0, 2), "fe80::/64"),
        (("::ffff:192.0.2.7", 1, 0, 0), "192.0.2.7"),
        ("", "local"),
    ],
)
def test_a_peer_is_its_ipv4_address_or_its_ipv6_network(address: object, key: str) -> None:
    assert peer_key(address) == key


# -- forged headers -----------------------------------------------------------------------------------------------


def test_headers_that_only_a_front_end_may_send_never_reach_the_application(patient: Serving) -> None:
    forged = [
        "SSL_CLIENT_S_DN",
        "Ssl-Client-Verify",
        "GRST_CRED_0",
        "GRST-CRED-AURI-0",
        "VOMS_FQANS",
        "X-Client-Cert",
        "X-SSL-Client-Cert",
        "X-Forwarded-Client-Cert",
        "X-Forwarded-Host",
        "Client-Cert-Chain",
        "Remote_User",
    ]
    with patient.connect() as sock:
        fields = "".join(f"{name}: /CN=evil\r\n" for name in forged)
        sock.sendall(HEAD + fields.encode() + b"X-Honest: 1\r\n\r\n")
        assert json.loads(read_answer(sock).body) == {"host": "x", "x-honest": "1"}


def test_a_trailer_cannot_add_a_header_later(patient: Serving) -> None:
    with patient.connect() as sock:
        head = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        sock.sendall(head + b"1\r\na\r\n0\r\nSSL_CLIENT_S_DN: /CN=evil\r\n\r\n")
        assert read_answer(sock).body == b"a"
        sock.sendall(HEAD + b"\r\n")
        assert json.loads(read_answer(sock).body) == {"host": "x"}


@given(
    st.sampled_from(["ssl", "grst", "voms", "x-client-cert"]),
    st.text("_-", min_size=1, max_size=1),
    st.text("abz_-", max_size=8),
)
def test_no_spelling_of_a_forged_header_passes(stem: str, joint: str, rest: str) -> None:
    assert is_forged(f"{stem}{joint}{rest}".replace("-", "_").encode())
    assert is_forged(f"{stem}{joint}{rest}".replace("_", "-").encode())


@pytest.mark.parametrize("name", [b"host", b"accept", b"category", b"x-occi-attribute", b"link", b"user-agent"])
def test_ordinary_headers_are_not_forged(name: bytes) -> None:
    assert not is_forged(name)


def test_logs_of_one_kind_are_held_back_and_counted() -> None:
    clock = FixedClock(SystemClock().now())
    sparingly = Sparingly(clock, seconds=10)
    assert sparingly.passes("a") == 0
    assert sparingly.passes("a") is None
    assert sparingly.passes("b") == 0
    clock.advance(11)
    assert sparingly.passes("a") == 1


def test_a_body_that_goes_on_after_its_answer_is_cut() -> None:
    gib = 1 << 30
    limits = replace(PATIENT, body_bytes=64 * gib)
    with serving(APP, limits=limits) as running, running.connect() as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (32 * gib))
        assert read_answer(sock).status == 405
        with pytest.raises(OSError):
            sock.sendall(b"x" * (64 * LINGER_BYTES))
