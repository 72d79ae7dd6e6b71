"""core.sql on a real PostgreSQL: the same contract as on SQLite."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from skyfed.core.clock import SystemClock
from skyfed.core.errors import Unavailable
from skyfed.core.outbox import Outbox
from skyfed.core.sql import Database
from support.database import ToyArea
from support.postgres import Postgres, postgres

pytestmark = pytest.mark.peer
__all__ = ["postgres"]


@pytest.fixture
def area(tmp_path: Path) -> ToyArea:
    return ToyArea(tmp_path)


@pytest.fixture
def url(postgres: Postgres) -> str:
    return postgres.database()


@pytest.fixture
def db(area: ToyArea, url: str) -> Iterator[Database]:
    database = opened(area, url)
    yield database
    database.close()


def opened(area: ToyArea, url: str) -> Database:
    database = Database(url, name="toy", metadata=area.metadata, migrations=area.migrations)
    database.open()
    return database


def texts(db: Database, area: ToyArea) -> list[str]:
    return db.read(lambda conn: list(conn.execute(select(area.notes.c.text).order_by(area.notes.c.text)).scalars()))


def test_the_migrations_make_the_tables_that_the_code_declares(db: Database) -> None:
    assert db.dialect == "postgresql"
    assert db.drift() == []


def test_opening_again_keeps_the_data(db: Database, area: ToyArea, url: str) -> None:
    db.write(lambda conn: conn.execute(area.notes.insert().values(text="kept")))
    db.close()
    again = opened(area, url)
    assert texts(again, area) == ["kept"]
    again.close()


def test_a_failing_job_takes_none_of_its_batch_with_it(db: Database, area: ToyArea) -> None:
    gate = threading.Event()
    db.submit(lambda _conn: gate.wait(10))
    futures = [db.submit(lambda c, i=i: c.execute(area.notes.insert().values(text=str(i % 5)))) for i in range(20)]
    gate.set()
    failed = [future for future in futures if future.exception(timeout=10) is not None]
    assert len(failed) == 15
    assert all(isinstance(future.exception(), IntegrityError) for future in failed)
    assert texts(db, area) == ["0", "1", "2", "3", "4"]


def test_a_job_that_fails_alone_leaves_the_writer_working(db: Database, area: ToyArea) -> None:
    with pytest.raises(DBAPIError):
        db.write(lambda conn: conn.execute(text("SELECT no_such_column")))
    db.write(lambda conn: conn.execute(area.notes.insert().values(text="after")))
    assert texts(db, area) == ["after"]


def test_a_write_awaited_on_the_event_loop_is_there_afterwards(db: Database, area: ToyArea) -> None:
    def job(conn, number: int) -> int:
        conn.execute(area.notes.insert().values(text=f"{number:02}"))
        return number

    async def scenario() -> list[int]:
        return await asyncio.gather(*(db.awrite(lambda conn, i=i: job(conn, i)) for i in range(30)))

    assert asyncio.run(scenario()) == list(range(30))
    assert len(texts(db, area)) == 30


def test_a_read_sees_a_snapshot_while_others_write(db: Database, area: ToyArea) -> None:
    def look(conn):
        before = conn.execute(select(func.count()).select_from(area.notes)).scalar_one()
        db.write(lambda c: c.execute(area.notes.insert().values(text="meanwhile")))
        return before, conn.execute(select(func.count()).select_from(area.notes)).scalar_one()

    assert db.read(look) == (0, 0)
    assert texts(db, area) == ["meanwhile"]


def test_a_read_cannot_write(db: Database, area: ToyArea) -> None:
    with pytest.raises(DBAPIError, match="read-only"):
        db.read(lambda conn: conn.execute(area.notes.insert().values(text="no")))
    assert texts(db, area) == []


def test_an_outbox_message_is_durable_with_the_state_it_speaks_of(db: Database, area: ToyArea) -> None:
    outbox = Outbox(db, area.outbox, deliver=lambda _message: None, clock=SystemClock())

    def job(conn, text):
        outbox.put(conn, key="k", body=text.encode())
        conn.execute(area.notes.insert().values(text=text))

    db.write(lambda conn: job(conn, "one"))
    with pytest.raises(IntegrityError):
        db.write(lambda conn: job(conn, "one"))
    assert outbox.status().waiting == 1


def test_the_writer_recovers_when_its_connection_is_cut(db: Database, area: ToyArea) -> None:
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"
    db.write(lambda conn: conn.execute(area.notes.insert().values(text="before")))
    db.read(lambda conn: conn.execute(text(cut)))
    db.write(lambda conn: conn.execute(area.notes.insert().values(text="after")))
    assert texts(db, area) == ["after", "before"]


def test_a_server_that_is_not_there_is_unavailable(area: ToyArea, tmp_path: Path) -> None:
    database = Database(
        f"postgresql+psycopg://skyfed@/none?host={tmp_path}",
        name="toy",
        metadata=area.metadata,
        migrations=area.migrations,
    )
    with pytest.raises(Unavailable, match="cannot be opened"):
        database.open()
