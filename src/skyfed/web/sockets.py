"""Listening sockets: bound, private where they must be, and with an error that says what to do."""

import errno
import socket
import stat
from pathlib import Path

from skyfed.core.errors import Conflict, Unavailable
from skyfed.core.unixpath import short

BACKLOG = 1024


def tcp(host: str, port: int) -> socket.socket:
    """A listening TCP socket; port 0 lets the kernel choose.

    Raises Conflict (`port_taken`) where another process has it, Unavailable (`cannot_listen`) where the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        return _ready(listening)
    except OSError as error:
        listening.close()
        where = f"{host} port {port}"
        if error.errno == errno.EADDRINUSE:
            text = f"{where} is taken by another process; choose another port or stop that process"
            raise Conflict(text, code="port_taken") from None
        raise Unavailable(f"cannot listen on {where}: {error.strerror}", code="cannot_listen") from None


def unix(path: Path) -> socket.socket:
    """A listening unix socket that only this user can open: mode 0600 in a directory of mode 0700 (made when absent).

    What a killed process left behind is replaced. Raises Conflict (`socket_taken`) where a process still answers there, or
    where the path is no socket.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _clear_stale(path)
        with short(path) as name:
            listening.bind(name)
        path.chmod(0o600)
        return _ready(listening)
    except BaseException:
        listening.close()
        raise


def _ready(listening: socket.socket) -> socket.socket:
    listening.setblocking(False)
    listening.listen(BACKLOG)
    return listening


def _clear_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise Conflict(f"{path} is not a socket; move it away", code="socket_taken")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, short(path) as name:
        probe.settimeout(1.0)
        try:
            probe.connect(name)
        except ConnectionRefusedError:
            path.unlink()
            return
    raise Conflict(f"another process serves {path}; stop it first", code="socket_taken")
