"""core.sql on SQLite: durable group commit, isolation of failing jobs, snapshots, migrations."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, Table, func, select
from sqlalchemy.exc import IntegrityError

from skyfed.core.errors import Unavailable
from skyfed.core.sql import Database
from support.database import ToyArea


@pytest.fixture
def area(tmp_path: Path) -> ToyArea:
    return ToyArea(tmp_path)


@pytest.fixture
def db(area: ToyArea, tmp_path: Path) -> Iterator[Database]:
    database = Database(
        f"sqlite:///{tmp_path}/new/toy.db", name="toy", metadata=area.metadata, migrations=area.migrations
    )
    database.open()
    yield database
    database.close()


def count(db: Database, area: ToyArea) -> int:
    return db.read(lambda conn: conn.execute(select(func.count()).select_from(area.notes)).scalar_one())


def test_a_commit_waits_for_the_disk(db: Database) -> None:
    """kill -9 cannot show this, a power cut would."""

    def pragma(name: str) -> object:
        return db.write(lambda conn: conn.exec_driver_sql(f"PRAGMA {name}").scalar_one())

    assert (pragma("journal_mode"), pragma("synchronous")) == ("wal", 2)


def test_what_is_written_is_read(db: Database, area: ToyArea) -> None:
    db.write(lambda conn: conn.execute(area.notes.insert().values(text="a")))
    assert db.read(lambda conn: conn.execute(select(area.notes.c.text)).scalars().all()) == ["a"]


def test_a_failing_job_takes_none_of_its_batch_with_it(db: Database, area: ToyArea) -> None:
    gate = threading.Event()
    db.submit(lambda _conn: gate.wait(10))  # all that follow are queued behind this one: one batch
    futures = [db.submit(lambda c, i=i: c.execute(area.notes.insert().values(text=str(i % 5)))) for i in range(20)]
    gate.set()
    failed = [future for future in futures if future.exception(timeout=10) is not None]
    assert len(failed) == 15
    assert all(isinstance(future.exception(), IntegrityError) for future in failed)
    assert count(db, area) == 5


def test_a_batch_is_committed_once(db: Database, area: ToyArea) -> None:
    from sqlalchemy import event

    commits: list[int] = []
    assert db._engine is not None
    event.listen(db._engine, "commit", lambda _conn: commits.append(1))
    gate = threading.Event()
    first = db.submit(lambda _conn: gate.wait(10))
    futures = [db.submit(lambda c, i=i: c.execute(area.notes.insert().values(text=str(i)))) for i in range(100)]
    gate.set()
    for future in (first, *futures):
        future.result(timeout=10)
    assert len(commits) <= 2  # the gate alone, or with the first of the rest


def test_a_read_sees_a_snapshot_while_others_write(db: Database, area: ToyArea) -> None:
    def look(conn):
        before = conn.execute(select(func.count()).select_from(area.notes)).scalar_one()
        db.write(lambda c: c.execute(area.notes.insert().values(text="meanwhile")))
        return before, conn.execute(select(func.count()).select_from(area.notes)).scalar_one()

    assert db.read(look) == (0, 0)
    assert count(db, area) == 1


def test_migrations_and_tables_agree_and_drift_is_seen(db: Database, area: ToyArea) -> None:
    assert db.drift() == []
    Table("toy_more", area.metadata, Column("id", Integer, primary_key=True))
    assert [change[0] for change in db.drift()] == ["add_table"]


def test_opening_again_keeps_the_data(db: Database, area: ToyArea, tmp_path: Path) -> None:
    db.write(lambda conn: conn.execute(area.notes.insert().values(text="kept")))
    db.close()
    again = Database(f"sqlite:///{tmp_path}/new/toy.db", name="toy", metadata=area.metadata, migrations=area.migrations)
    again.open()
    assert count(again, area) == 1
    again.close()


def test_a_closed_database_says_so(db: Database) -> None:
    db.close()
    with pytest.raises(Unavailable, match="closed"):
        db.write(lambda conn: None)


def test_a_cancelled_caller_does_not_cancel_the_write(db: Database, area: ToyArea) -> None:
    import asyncio

    async def scenario() -> None:
        gate = threading.Event()
        db.submit(lambda _conn: gate.wait(10))
        task = asyncio.create_task(db.awrite(lambda c: c.execute(area.notes.insert().values(text="x"))))
        await asyncio.sleep(0)
        task.cancel()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    db.write(lambda conn: None)
    assert count(db, area) == 1


WRITER = """
import sys
sys.path[:0] = {path!r}
from sqlalchemy import MetaData, Table, Column, Integer, String
from skyfed.core.sql import Database
from skyfed.core.outbox import Outbox
metadata = MetaData()
notes = Table("toy_note", metadata, Column("id", Integer, primary_key=True),
    Column("text", String(100), nullable=False, unique=True))
db = Database({url!r}, name="toy", metadata=metadata, migrations={migrations!r})
db.open()
n = 0
while True:
    futures = [db.submit(lambda c, t=f"{{n}}-{{k}}": c.execute(notes.insert().values(text=t)) and t) for k in range(7)]
    for future in futures:
        print(future.result(), flush=True)
    n += 1
"""


def test_what_was_acknowledged_survives_kill_9(area: ToyArea, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/killed.db"
    code = WRITER.format(path=[str(tmp_path), *sys.path], url=url, migrations=area.migrations)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = [process.stdout.readline().strip() for _ in range(200)]
    process.send_signal(signal.SIGKILL)
    acknowledged += process.stdout.read().split()  # a torn last line is not an acknowledgement we can name
    process.wait()
    db = Database(url, name="toy", metadata=area.metadata, migrations=area.migrations)
    db.open()
    stored = set(db.read(lambda conn: conn.execute(select(area.notes.c.text)).scalars().all()))
    db.close()
    assert set(acknowledged[:200]) <= stored
