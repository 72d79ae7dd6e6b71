"""`skyfed vm ssh` right after a start: the port answers before the guest does."""

import socket
import threading
from collections.abc import Iterator

import pytest

from skyfed.occi.ssh import answers, wait_until_it_answers

RESETS = 2


@pytest.fixture
def booting() -> Iterator[int]:
    """A forwarded port as QEMU's user-mode network has it: drops RESETS connections, then its SSH server speaks."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for _ in range(RESETS):
                server.accept()[0].close()
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"SSH-2.0-dropbear\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join(10)
        assert not thread.is_alive()


def test_a_port_that_drops_connections_is_tried_until_the_server_behind_it_speaks(booting: int) -> None:
    assert wait_until_it_answers("127.0.0.1", booting, seconds=30)


def test_who_never_answers_is_waited_for_no_longer_than_asked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        assert not answers("127.0.0.1", port, seconds=0.1)
        assert not wait_until_it_answers("127.0.0.1", port, seconds=0.5)
    assert not answers("127.0.0.1", port, seconds=0.1)
