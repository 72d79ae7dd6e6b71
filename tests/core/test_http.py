"""The outbound client against a hostile world: deadlines, caps, redirects, addresses."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from skyfed.core.errors import Conflict, Forbidden, Invalid, TimedOut, TooLarge, Unavailable
from skyfed.core.http import AddressPolicy, AdminClient, Client

LOOPBACK = AddressPolicy(allow=("127.0.0.0/8",))


@contextmanager
def serving(
    handle: Callable[[socket.socket, bytes], None], family: int = socket.AF_INET, path: str = ""
) -> Iterator[str]:
    """A raw server: `handle(connection, request head)` once per connection."""
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind(path if family == socket.AF_UNIX else ("127.0.0.1", 0))
    listener.listen()

    def loop() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                head = b""
                while b"\r\n\r\n" not in head and (more := connection.recv(65536)):
                    head += more
                try:
                    handle(connection, head)
                except OSError:
                    continue

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield path if family == socket.AF_UNIX else f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def answer(body: bytes, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def test_an_answer_has_status_headers_and_body() -> None:
    with serving(lambda c, _: c.sendall(answer(b"hello", headers="X-A: 1\r\n"))) as url:
        response = Client(policy=LOOPBACK).request("GET", url + "/a?b=c")
    assert (response.status, response.headers["x-a"], response.text) == (200, "1", "hello")


def test_a_peer_that_drips_its_header_is_cut_off_at_the_deadline() -> None:
    stop = threading.Event()

    def drip(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        while not stop.wait(0.05):
            connection.sendall(b"a")

    with serving(drip) as url:
        with pytest.raises(TimedOut, match=r"within 0\.5 s"):
            Client(policy=LOOPBACK).request("GET", url, deadline=0.5)
        stop.set()


def test_a_peer_that_drips_its_body_is_cut_off_at_the_deadline() -> None:
    stop = threading.Event()

    def drip(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not stop.wait(0.05):
            connection.sendall(b"a")

    with serving(drip) as url:
        with pytest.raises(TimedOut):
            Client(policy=LOOPBACK).request("GET", url, deadline=0.5)
        stop.set()


def test_an_answer_over_the_cap_is_refused() -> None:
    with serving(lambda c, _: c.sendall(answer(b"x" * 2000))) as url, pytest.raises(TooLarge, match="1000"):
        Client(policy=LOOPBACK).request("GET", url, max_bytes=1000)


def test_private_addresses_are_refused_unless_allowed() -> None:
    with (
        serving(lambda c, _: c.sendall(answer(b""))) as url,
        pytest.raises(Forbidden, match="may not connect") as caught,
    ):
        Client(policy=AddressPolicy()).request("GET", url)
    assert caught.value.code == "address_refused"


@pytest.mark.parametrize(
    "address", ["::ffff:127.0.0.1", "169.254.169.254", "10.1.1.1", "0.0.0.0", "fe80::1%eth0", "224.0.0.1"]
)
def test_no_spelling_of_an_inside_address_passes_the_default_policy(address: str) -> None:
    assert not AddressPolicy().permits(address)


def test_a_redirect_is_followed_without_the_token_when_it_leaves_the_host() -> None:
    seen: list[bytes] = []

    def second(connection: socket.socket, head: bytes) -> None:
        seen.append(head)
        connection.sendall(answer(b"there"))

    with serving(second) as there:

        def first(connection: socket.socket, _: bytes) -> None:
            connection.sendall(answer(b"", "302 Found", f"Location: {there}/x\r\n"))

        with serving(first) as here:
            response = Client(policy=LOOPBACK).request("GET", here, headers={"Authorization": "Bearer s"})
    assert response.text == "there"
    assert b"Bearer" not in seen[0]


def test_endless_redirects_end() -> None:
    def again(connection: socket.socket, _: bytes) -> None:
        connection.sendall(answer(b"", "302 Found", "Location: /again\r\nConnection: close\r\n"))

    with serving(again) as url, pytest.raises(Forbidden, match="more than 5 times"):
        Client(policy=LOOPBACK).request("GET", url)


def test_a_refusal_is_raised_with_the_peers_own_words() -> None:
    body = b'{"detail": "quota of 2 reached", "code": "quota"}'
    with serving(
        lambda c, _: c.sendall(answer(body, "409 Conflict", "Content-Type: application/problem+json\r\n"))
    ) as url:
        with pytest.raises(Conflict, match="quota of 2 reached") as caught:
            Client(policy=LOOPBACK).json("POST", url, {})
        assert caught.value.code == "quota"


def test_nobody_there_is_unavailable_and_names_the_place() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(Unavailable, match=rf"cannot talk to 127.0.0.1:{port}: .*Connection refused$"):
        Client(policy=LOOPBACK).request("GET", f"http://127.0.0.1:{port}/")


def test_a_url_that_is_not_http_is_refused() -> None:
    with pytest.raises(Invalid, match="file"):
        Client().request("GET", "file:///etc/passwd")


def test_the_administration_api_is_reached_over_its_socket(tmp_path: Path) -> None:
    path = tmp_path / "voms.sock"
    with pytest.raises(Unavailable, match="does not run"):
        AdminClient(path).json("GET", "/status")
    with serving(lambda c, _: c.sendall(answer(b'{"ok": true}')), socket.AF_UNIX, str(path)):
        assert AdminClient(path).json("GET", "/status") == {"ok": True}
