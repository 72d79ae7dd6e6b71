"""Whether a machine's SSH server answers yet: a machine is active long before its system has booted.

Ports that a hypervisor forwards accept a connection at once and reset it while nobody listens behind them, which makes
OpenSSH give up: it tries again only what was never connected.
"""

import socket
import time

from skyfed.core.terminal import Progress

TRY_SECONDS = 5.0
PAUSE_SECONDS = 0.3


def answers(host: str, port: int, *, seconds: float = TRY_SECONDS) -> bool:
    """Whether a server speaks first there, as SSH's do (RFC 4253, 4.2), within `seconds`."""
    try:
        with socket.create_connection((host, port), timeout=seconds) as connection:
            return connection.recv(1) != b""
    except OSError:
        return False


def wait_until_it_answers(host: str, port: int, *, seconds: float) -> bool:
    """Whether it answered within `seconds`; says on stderr that it waits, where it does."""
    deadline = time.monotonic() + seconds
    if seconds <= 0 or answers(host, port, seconds=min(TRY_SECONDS, seconds)):
        return True
    with Progress(f"waiting until SSH answers at {host}:{port}"):
        while (left := deadline - time.monotonic()) > 0:
            if answers(host, port, seconds=min(TRY_SECONDS, left)):
                return True
            time.sleep(min(PAUSE_SECONDS, left))
    return False
