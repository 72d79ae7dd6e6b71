"""Ports on this host's loopback, chosen by the kernel."""

import socket


def is_free(port: int) -> bool:
    """Whether a listener could take it now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def choose(preferred: int = 0) -> int:
    """`preferred` while it is free, else one that the kernel chooses. Somebody may take it before it is used."""
    if preferred and is_free(preferred):
        return preferred
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
