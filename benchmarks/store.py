"""`./bench store`: single-row inserts through core.sql's group commit, against the bare driver doing the same inserts.

Every insert is durable when it returns (SQLite: WAL, synchronous=FULL; PostgreSQL: fsync on). Peers on SQLite: sqlite3
with a commit each, one connection a writer, and sqlite3 from one thread with as many rows a commit as group commit had
on average; on PostgreSQL: psycopg with a commit each, one connection a writer. Rounds are interleaved, the median counts.
"""

import asyncio
import os
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
from figures import emit, interleaved, progress
from sqlalchemy import Connection, event

from skyfed.core.sql import Database

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support import postgres
from support.database import ToyArea

WRITERS = (1, 8, 64)
SECONDS = 1.0
ROUNDS = 5
TEXT = "x" * 80
CREATE = "CREATE TABLE IF NOT EXISTS bare_note (id INTEGER PRIMARY KEY, text VARCHAR(100) NOT NULL UNIQUE)"
INSERT = "INSERT INTO bare_note (text) VALUES (?)"

Write = Callable[[str], object]


class Names:
    """Unique texts, so that the unique index works as it does in a service."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self) -> str:
        self._count += 1
        return f"{self._count:012}{threading.get_ident():016x}{TEXT}"[:100]


names = Names()


# -- ways to write ----------------------------------------------------------------------------------------------


def rate_of_threads(writers: int, make: Callable[[], tuple[Write, Callable[[], None]]]) -> float:
    """Inserts a second by `writers` threads; `make` gives each thread its write and its end."""
    counts = [0] * writers
    start = threading.Barrier(writers + 1)
    stop = threading.Event()

    def work(number: int) -> None:
        write, end = make()
        start.wait()
        while not stop.is_set():
            write(names())
            counts[number] += 1
        end()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.perf_counter()
    stop.wait(SECONDS)
    stop.set()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began)


class Ours:
    """core.sql over one database. `batch` is the average number of inserts a commit since it was last asked."""

    def __init__(self, area: ToyArea, url: str) -> None:
        self._insert = area.notes.insert()
        self._commits = 0
        self._rows = 0
        self.db = Database(url, name="toy", metadata=area.metadata, migrations=area.migrations)
        self.db.open()
        assert self.db._engine is not None
        event.listen(self.db._engine, "commit", self._committed)

    def _committed(self, _conn: Connection) -> None:
        self._commits += 1

    def _job(self, text: str) -> Callable[[Connection], None]:
        def job(conn: Connection) -> None:
            conn.execute(self._insert, {"text": text})

        return job

    def threads(self, writers: int) -> float:
        def make() -> tuple[Write, Callable[[], None]]:
            return lambda text: self.db.write(self._job(text)), lambda: None

        self._commits = 0
        rate = rate_of_threads(writers, make)
        self._rows = int(rate * SECONDS)
        return rate

    def tasks(self, writers: int) -> float:
        """Inserts a second by tasks of one event loop, as services write."""

        async def scenario() -> float:
            end = time.perf_counter() + SECONDS
            count = 0

            async def work() -> None:
                nonlocal count
                while time.perf_counter() < end:
                    await self.db.awrite(self._job(names()))
                    count += 1

            began = time.perf_counter()
            await asyncio.gather(*(work() for _ in range(writers)))
            return count / (time.perf_counter() - began)

        self._commits = 0
        rate = asyncio.run(scenario())
        self._rows = int(rate * SECONDS)
        return rate

    @property
    def batch(self) -> int:
        return max(1, round(self._rows / max(1, self._commits)))


def bare_sqlite(path: Path) -> sqlite3.Connection:
    """The driver with the settings that core.sql uses."""
    conn = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
    conn.execute("PRAGMA journal_mode=WAL")
    conn.execute("PRAGMA synchronous=FULL")
    conn.execute(CREATE)
    return conn


def bare_sqlite_each(path: Path, writers: int) -> float:
    """Every insert its own transaction, every writer its own connection."""

    def make() -> tuple[Write, Callable[[], None]]:
        conn = bare_sqlite(path)
        return lambda text: conn.execute(INSERT, (text,)), conn.close

    return rate_of_threads(writers, make)


def bare_sqlite_batched(path: Path, batch: int) -> float:
    """One thread, `batch` inserts a transaction: what the driver can do without hand-over between threads."""
    count = 0
    with closing(bare_sqlite(path)) as conn:
        began = time.perf_counter()
        while time.perf_counter() - began < SECONDS:
            conn.execute("BEGIN")
            for _ in range(batch):
                conn.execute(INSERT, (names(),))
            conn.execute("COMMIT")
            count += batch
        return count / (time.perf_counter() - began)


def bare_psycopg_each(url: str, writers: int) -> float:
    """Every insert its own transaction, every writer its own connection."""
    conninfo = url.replace("postgresql+psycopg://", "postgresql://")
    with psycopg.connect(conninfo, autocommit=True) as conn:
        conn.execute("CREATE TABLE IF NOT EXISTS bare_note (id serial PRIMARY KEY, text varchar(100) NOT NULL UNIQUE)")

    def make() -> tuple[Write, Callable[[], None]]:
        mine = psycopg.connect(conninfo, autocommit=True)
        return lambda text: mine.execute("INSERT INTO bare_note (text) VALUES (%s)", (text,)), mine.close

    return rate_of_threads(writers, make)


def fsync_rate(folder: Path) -> float:
    """Appends of 4 KiB made durable, a second: what the disk allows."""
    path = folder / "fsync"
    count = 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        began = time.perf_counter()
        while time.perf_counter() - began < SECONDS:
            os.write(descriptor, b"\0" * 4096)
            os.fsync(descriptor)
            count += 1
        return count / (time.perf_counter() - began)
    finally:
        os.close(descriptor)
        path.unlink()


# -- figures ----------------------------------------------------------------------------------------------------


def sqlite_figures(folder: Path, area: ToyArea) -> None:
    """core.sql on SQLite against the bare driver."""
    ours = Ours(area, f"sqlite:///{folder}/ours.db")
    bare = folder / "bare.db"
    for writers in WRITERS:
        progress(f"SQLite, {writers} writers: core.sql from threads, from tasks, sqlite3 with a commit each")
        threads, tasks, each = interleaved(
            ROUNDS,
            lambda n=writers: ours.threads(n),
            lambda n=writers: ours.tasks(n),
            lambda n=writers: bare_sqlite_each(bare, n),
        )
        peer = f"sqlite3, commit each, {writers} connections"
        emit(f"store_sqlite_threads_{writers}", threads, "inserts/s", peer, each)
        emit(f"store_sqlite_tasks_{writers}", tasks, "inserts/s", peer, each)
    ours.tasks(WRITERS[-1])
    batch = ours.batch
    progress(f"SQLite: core.sql from {WRITERS[-1]} tasks, sqlite3 from one thread, {batch} inserts a commit in both")
    tasks, batched = interleaved(ROUNDS, lambda: ours.tasks(WRITERS[-1]), lambda: bare_sqlite_batched(bare, batch))
    emit("store_sqlite_batch_rows", batch, "inserts/commit")
    emit("store_sqlite_batched", tasks, "inserts/s", f"sqlite3, one thread, {batch} inserts a commit", batched)
    ours.db.close()


def postgresql_figures(area: ToyArea) -> None:
    """core.sql on PostgreSQL against the bare driver."""
    bin_dir = postgres.binaries()
    if bin_dir is None:
        progress("PostgreSQL is not installed: no figures for it")
        return
    with postgres.running(bin_dir) as server, _opened(Ours(area, server.database())) as ours:
        bare = server.database()
        for writers in WRITERS:
            progress(f"PostgreSQL, {writers} writers: core.sql from tasks, psycopg with a commit each")
            tasks, each = interleaved(
                ROUNDS, lambda n=writers: ours.tasks(n), lambda n=writers: bare_psycopg_each(bare, n)
            )
            peer = f"psycopg, commit each, {writers} connections"
            emit(f"store_postgresql_tasks_{writers}", tasks, "inserts/s", peer, each)


@contextmanager
def _opened(ours: Ours) -> Iterator[Ours]:
    try:
        yield ours
    finally:
        ours.db.close()


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="skyfed-bench-", dir=os.environ.get("SKYFED_BENCH_DIR")) as name:
        folder = Path(name)
        area = ToyArea(folder)
        progress(f"fsync of 4 KiB appends in {folder}")
        (rate,) = interleaved(ROUNDS, lambda: fsync_rate(folder))
        emit("store_fsync", rate, "fsyncs/s")
        sqlite_figures(folder, area)
        postgresql_figures(area)


if __name__ == "__main__":
    main()
