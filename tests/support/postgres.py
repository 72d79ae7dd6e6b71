"""A PostgreSQL server of our own: a fresh cluster in a temporary directory, on a unix socket, ended with the test.

Durable as delivered (fsync on), so that it can be measured too. PostgreSQL refuses to run as root; then it runs as `nobody`.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

_USER = "skyfed"
_READY = b"database system is ready to accept connections"
_START_SECONDS = 60.0


def binaries() -> Path | None:
    """The directory with `initdb` and `postgres` of the newest version: Debian keeps it off PATH. None = not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


class Postgres:
    """A running server. Each `database()` is a new, empty database; its URL is for `core.sql.Database`."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._count = 0

    def database(self) -> str:
        self._count += 1
        name = f"test{self._count}"
        with psycopg.connect(f"host={self._socket} user={_USER} dbname=postgres", autocommit=True) as conn:
            conn.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://{_USER}@/{name}?host={self._socket}"


@contextmanager
def running(bin_dir: Path) -> Iterator[Postgres]:
    """A server for the duration of the block."""
    folder = Path(tempfile.mkdtemp(prefix="skyfed-pg-"))
    owner = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    if owner is not None:
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    as_user = {} if owner is None else {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
    data = folder / "data"
    try:
        subprocess.run(
            [bin_dir / "initdb", "-D", data, "-U", _USER, "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"],
            check=True, capture_output=True, cwd=folder, **as_user,
        )  # fmt: skip
        server = subprocess.Popen(
            [bin_dir / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses="],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=folder, **as_user,
        )  # fmt: skip
        try:
            _await_ready(server)
            yield Postgres(folder)
        finally:
            server.send_signal(signal.SIGQUIT)  # immediate: the data is thrown away
            server.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _await_ready(server: "subprocess.Popen[bytes]") -> None:
    """Return when the server says so; its log is read to the end, since a full pipe would stop it."""
    ready = threading.Event()
    lines: list[bytes] = []

    def read() -> None:
        assert server.stderr is not None
        for line in server.stderr:
            if not ready.is_set():
                lines.append(line)
            if _READY in line:
                ready.set()
        ready.set()

    threading.Thread(target=read, daemon=True).start()
    if not ready.wait(_START_SECONDS) or not any(_READY in line for line in lines):
        raise RuntimeError("PostgreSQL did not start:\n" + b"".join(lines).decode(errors="replace"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The session's server; skips (fails with CI=true) where PostgreSQL is not installed."""
    bin_dir = binaries()
    if bin_dir is None:
        sentence = "the peer program 'postgres' is not installed; ./test installs it"
        if os.environ.get("CI") == "true":
            pytest.fail(sentence)
        pytest.skip(sentence)
    with running(bin_dir) as server:
        yield server
