"""One database of one service: migrated by Alembic, written by one thread with group commit, read from anywhere.

Group commit: the writer takes every queued job into one transaction and commits once; all
of them become durable with a single fsync. A job that raises is rolled back alone. Reads run on pooled connections
and see a snapshot. SQLite (WAL, synchronous=FULL) and PostgreSQL behave alike.
"""

import asyncio
import importlib
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.operations import Operations
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, MetaData, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError, OperationalError

from skyfed.core.errors import Unavailable

T = TypeVar("T")
Job = Callable[[Connection], T]

log = logging.getLogger(__name__)

# One transaction takes at most this many jobs, so that the first of them never waits long for the last.
MAX_BATCH = 512
# SQLite waits this long for a lock held by another process (a backup, an administrator's shell).
BUSY_TIMEOUT_MS = 10_000


class _Pending:
    """A job on its way to the writer, and where its result goes."""

    __slots__ = ("future", "job")

    def __init__(self, job: Job[Any]) -> None:
        self.job = job
        self.future: Future[Any] = Future()


class Database:
    """`open()` before use, `close()` after. `url` is SQLAlchemy's: `sqlite:///path` or `postgresql+psycopg://…`.

    `name` prefixes the area's tables and its Alembic version table, so that services may share one PostgreSQL database;
    `migrations` is the dotted package that holds the area's Alembic revisions.
    """

    def __init__(self, url: str, *, name: str, metadata: MetaData, migrations: str) -> None:
        self._url = make_url(url)
        self._name = name
        self._metadata = metadata
        self._migrations = migrations
        self._queue: queue.SimpleQueue[_Pending | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write_loop, name=f"sql-{name}", daemon=True)
        self._engine: Engine | None = None
        self._closed = False

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._url.get_backend_name()

    def open(self) -> None:
        """Migrate to the newest revision and start the writer. Raises Unavailable if it is out of reach."""
        if self.dialect == "sqlite" and self._url.database:
            Path(self._url.database).parent.mkdir(parents=True, exist_ok=True)
        self._engine = _engine(self._url.render_as_string(hide_password=False))
        try:
            self.migrate()
        except OperationalError as error:
            self._engine.dispose()
            raise Unavailable(f"database {self._url!r} of {self._name} cannot be opened: {error.orig}") from error
        self._writer.start()

    def close(self) -> None:
        """Finish the queued jobs, then close all connections. Safe to call twice."""
        if self._closed or self._engine is None:
            return
        self._closed = True
        self._queue.put(None)
        self._writer.join()
        self._engine.dispose()

    def submit(self, job: Job[T]) -> "Future[T]":
        """Queue `job`; the future is done when its effects are durable."""
        if self._closed or self._engine is None:
            raise Unavailable(f"database of {self._name} is closed", code="database_closed")
        pending = _Pending(job)
        self._queue.put(pending)
        return pending.future

    def write(self, job: Job[T]) -> T:
        """Run `job` on the writer; returns when durable. Blocks: for threads, not for the event loop."""
        return self.submit(job).result()

    async def awrite(self, job: Job[T]) -> T:
        """Run `job` on the writer; returns when durable."""
        # A cancelled caller must not cancel a write that may already be in a transaction with others.
        return await asyncio.shield(asyncio.wrap_future(self.submit(job)))

    def read(self, job: Job[T]) -> T:
        """Run `job` on a snapshot in the calling thread. It must not write."""
        with self._snapshot() as conn:
            return job(conn)

    async def aread(self, job: Job[T]) -> T:
        """Run `job` on a snapshot in a thread."""
        return await asyncio.to_thread(self.read, job)

    @contextmanager
    def _snapshot(self) -> Iterator[Connection]:
        if self._engine is None:
            raise Unavailable(f"database of {self._name} is not open", code="database_closed")
        level = "REPEATABLE READ" if self.dialect == "postgresql" else "SERIALIZABLE"
        with self._engine.connect().execution_options(isolation_level=level) as conn, conn.begin():
            if self.dialect == "postgresql":
                conn.execute(text("SET TRANSACTION READ ONLY"))
            yield conn

    # -- the writer ---------------------------------------------------------------------------------------------

    def _write_loop(self) -> None:
        while (first := self._queue.get()) is not None:
            batch = [first]
            last = False
            while len(batch) < MAX_BATCH and not self._queue.empty():
                more = self._queue.get()
                if more is None:
                    last = True
                    break
                batch.append(more)
            self._commit(batch)
            if last:
                return

    def _commit(self, batch: list[_Pending], *, savepoints: bool = False) -> None:
        """Run the jobs in one transaction. A job that fails spoils it: then all are run again, each in a savepoint.

        Savepoints only when they are needed: they cost two statements a job, more than most jobs themselves.
        """
        results: list[tuple[_Pending, Any, BaseException | None]] = []
        run = _in_savepoint if savepoints else _directly
        try:
            assert self._engine is not None  # noqa: S101 - open() sets it before the thread starts
            with self._engine.execution_options(writing=True).begin() as conn:
                results = [run(conn, pending) for pending in batch]
        except _JobFailed as failed:
            # Rolled back before any commit, so running the jobs again does nothing twice.
            if len(batch) == 1:
                _fail(batch, failed.error)
            else:
                self._commit(batch, savepoints=True)
            return
        except BaseException as error:  # noqa: BLE001 - every waiting caller must learn of it, whatever it is
            if len(batch) == 1:
                _fail(batch, error)
                return
            if isinstance(error, DBAPIError) and not error.connection_invalidated:
                # The commit itself failed (a deferred constraint, say): find the culprit by running them one by one.
                for pending in batch:
                    self._commit([pending])
                return
            _fail(batch, error)
            return
        for pending, value, failure in results:
            if failure is None:
                pending.future.set_result(value)
            else:
                pending.future.set_exception(failure)

    # -- migrations ---------------------------------------------------------------------------------------------

    def migrate(self) -> None:
        """Bring the schema to the newest revision (Alembic), in one transaction."""
        script = _script(self._migrations)
        with self._migration_connection() as conn:

            def upgrade(revision: Any, _: object) -> list[Any]:
                return script._upgrade_revs("head", revision)

            with EnvironmentContext(Config(), script, fn=upgrade) as context:
                context.configure(
                    connection=conn,
                    target_metadata=self._metadata,
                    version_table=self._version_table,
                    render_as_batch=True,
                    transactional_ddl=True,
                )
                context.run_migrations()

    def drift(self) -> list[Any]:
        """What the tables in code and the migrated schema disagree on; empty when the revisions are complete."""
        with self._migration_connection() as conn:
            context = MigrationContext.configure(
                conn, opts={"version_table": self._version_table, "include_name": self._ours}
            )
            return list(compare_metadata(context, self._metadata))

    @property
    def _version_table(self) -> str:
        return f"{self._name}_alembic_version"

    def _ours(self, name: str | None, kind: str, _parents: Any) -> bool:
        return kind != "table" or name in self._metadata.tables

    @contextmanager
    def _migration_connection(self) -> Iterator[Connection]:
        engine = self._engine or _engine(self._url.render_as_string(hide_password=False))
        try:
            with engine.begin() as conn:
                yield conn
        finally:
            if self._engine is None:
                engine.dispose()


class _JobFailed(Exception):
    """A job raised `error` outside a savepoint: the transaction cannot go on."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


def _directly(conn: Connection, pending: _Pending) -> tuple[_Pending, Any, BaseException | None]:
    try:
        return pending, pending.job(conn), None
    except Exception as error:
        raise _JobFailed(error) from error


def _in_savepoint(conn: Connection, pending: _Pending) -> tuple[_Pending, Any, BaseException | None]:
    savepoint = conn.begin_nested()
    try:
        value = pending.job(conn)
        savepoint.commit()
    except Exception as error:  # noqa: BLE001 - it belongs to the caller who sent the job
        savepoint.rollback()
        return pending, None, error
    return pending, value, None


def _fail(batch: list[_Pending], error: BaseException) -> None:
    for pending in batch:
        pending.future.set_exception(error)


def _engine(url: str) -> Engine:
    engine = create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: Any, _record: object) -> None:
    # SQLAlchemy's own BEGIN (below) replaces the driver's, which would start transactions late.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        "journal_mode=WAL",
        "synchronous=FULL",  # what is acknowledged is on the disk
        "foreign_keys=ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(conn: Connection) -> None:
    # A job that reads before it writes would fail at once (busy_timeout does not help) if another process wrote in between.
    conn.exec_driver_sql("BEGIN IMMEDIATE" if conn.get_execution_options().get("writing") else "BEGIN")


def _script(package: str) -> ScriptDirectory:
    folder = Path(str(importlib.import_module(package).__path__[0]))
    return ScriptDirectory(str(folder), version_locations=[str(folder)])


def write_revision(package: str, metadata: MetaData, *, name: str, message: str, revision: str) -> Path:
    """For developers: compare `metadata` with the schema after all revisions and write the next revision file."""
    from alembic.autogenerate import produce_migrations, render_python_code

    database = Database("sqlite://", name=name, metadata=metadata, migrations=package)
    database._engine = create_engine("sqlite://")
    database.migrate()
    script = _script(package)
    with database._engine.begin() as conn:
        context = MigrationContext.configure(
            conn,
            opts={
                "version_table": f"{name}_alembic_version",
                "include_name": database._ours,
                "render_as_batch": True,
            },
        )
        migration = produce_migrations(context, metadata)
        assert migration.upgrade_ops is not None  # noqa: S101 - produce_migrations always fills it
        body = render_python_code(migration.upgrade_ops, migration_context=context)
    down = script.get_current_head()
    path = Path(script.dir) / f"{revision}.py"
    path.write_text(
        f'"""{message}."""\n\nimport sqlalchemy as sa\nfrom alembic import op\n\n'
        f'revision = "{revision}"\ndown_revision = {down!r}\n\n\ndef upgrade() -> None:\n    {body.strip()}\n'
    )
    return path


__all__ = ["Database", "Job", "Operations", "write_revision"]
