"""The outbox delivers at least once, in order per key, backs off, shows its dead letters, and survives kill -9."""

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from skyfed.core.clock import FixedClock, SystemClock
from skyfed.core.errors import Forbidden, NotFound, Unavailable
from skyfed.core.outbox import Message, Outbox, backoff
from skyfed.core.sql import Database
from support.database import ToyArea


@pytest.fixture
def area(tmp_path: Path) -> ToyArea:
    return ToyArea(tmp_path)


@pytest.fixture
def db(area: ToyArea, tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/toy.db", name="toy", metadata=area.metadata, migrations=area.migrations)
    database.open()
    yield database
    database.close()


class Receiver:
    """Remembers what it was given; fails as told."""

    def __init__(self) -> None:
        self.got: list[tuple[str, bytes]] = []
        self.fail: dict[bytes, list[Exception]] = {}
        self.changed = threading.Condition()

    def __call__(self, message: Message) -> None:
        with self.changed:
            failures = self.fail.get(message.body)
            if failures:
                raise failures.pop(0)
            self.got.append((message.key, message.body))
            self.changed.notify_all()

    def wait_for(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.got) >= count, timeout=10), self.got


async def until(condition, seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def running(outbox: Outbox, scenario) -> None:
    async def main() -> None:
        task = asyncio.create_task(outbox.run())
        try:
            await scenario()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())


def test_messages_of_a_key_arrive_in_order(db: Database, area: ToyArea) -> None:
    receiver = Receiver()
    outbox = Outbox(db, area.outbox, deliver=receiver, clock=SystemClock())
    for n in range(10):
        db.write(lambda conn, n=n: outbox.put(conn, key=f"k{n % 2}", body=str(n).encode()))

    async def scenario() -> None:
        await asyncio.to_thread(receiver.wait_for, 10)

    running(outbox, scenario)
    for key in ("k0", "k1"):
        bodies = [int(body) for k, body in receiver.got if k == key]
        assert bodies == sorted(bodies)


def test_a_message_of_a_rolled_back_transaction_is_never_sent(db: Database, area: ToyArea) -> None:
    receiver = Receiver()
    outbox = Outbox(db, area.outbox, deliver=receiver, clock=SystemClock())

    def job(conn) -> None:
        outbox.put(conn, key="k", body=b"ghost")
        raise RuntimeError("changed my mind")

    with pytest.raises(RuntimeError):
        db.write(job)
    db.write(lambda conn: outbox.put(conn, key="k", body=b"real"))

    async def scenario() -> None:
        await asyncio.to_thread(receiver.wait_for, 1)

    running(outbox, scenario)
    assert receiver.got == [("k", b"real")]


def test_a_failing_head_holds_its_own_key_only_and_is_retried_after_back_off(db: Database, area: ToyArea) -> None:
    clock = FixedClock(datetime(2026, 11, 23, tzinfo=UTC))
    receiver = Receiver()
    receiver.fail[b"1"] = [Unavailable("down"), OSError("reset")]
    outbox = Outbox(db, area.outbox, deliver=receiver, clock=clock)
    for key, body in (("slow", b"1"), ("slow", b"2"), ("quick", b"3")):
        db.write(lambda conn, key=key, body=body: outbox.put(conn, key=key, body=body))

    async def scenario() -> None:
        await asyncio.to_thread(receiver.wait_for, 1)
        assert receiver.got == [("quick", b"3")]
        await until(lambda: outbox.status().last_error == "down")
        clock.advance(backoff(0))
        outbox.wake()
        await until(lambda: "reset" in outbox.status().last_error)
        clock.advance(backoff(1) - 0.1)
        outbox.wake()
        await asyncio.sleep(0.2)
        assert len(receiver.got) == 1
        clock.advance(0.2)
        outbox.wake()
        await asyncio.to_thread(receiver.wait_for, 3)

    running(outbox, scenario)
    assert receiver.got[1:] == [("slow", b"1"), ("slow", b"2")]


def test_a_refused_message_becomes_a_dead_letter_and_can_be_retried(db: Database, area: ToyArea) -> None:
    receiver = Receiver()
    receiver.fail[b"bad"] = [Forbidden("signer is not bound to ALPHA")]
    outbox = Outbox(db, area.outbox, deliver=receiver, clock=SystemClock())
    db.write(lambda conn: outbox.put(conn, key="k", body=b"bad", headers={"type": "t"}))
    db.write(lambda conn: outbox.put(conn, key="k", body=b"good"))

    async def scenario() -> None:
        await asyncio.to_thread(receiver.wait_for, 1)
        assert receiver.got == [("k", b"good")]
        (letter,) = outbox.dead()
        assert (letter.key, letter.error) == ("k", "signer is not bound to ALPHA")
        await asyncio.to_thread(outbox.retry, letter.id)
        await asyncio.to_thread(receiver.wait_for, 2)
        with pytest.raises(NotFound):
            await asyncio.to_thread(outbox.retry, letter.id)

    running(outbox, scenario)
    assert outbox.status().dead == 0


SENDER = """
import asyncio, sys
sys.path[:0] = {path!r}
from sqlalchemy import MetaData
from skyfed.core.clock import SystemClock
from skyfed.core.sql import Database
from skyfed.core.outbox import Outbox
metadata = MetaData()
table = Outbox.table(metadata, "toy")
db = Database({url!r}, name="toy", metadata=metadata, migrations={migrations!r})
db.open()
def deliver(message):
    print(message.id, flush=True)
asyncio.run(Outbox(db, table, deliver=deliver, clock=SystemClock()).run())
"""


def test_after_kill_9_nothing_is_lost_and_order_holds(db: Database, area: ToyArea, tmp_path: Path) -> None:
    outbox = Outbox(db, area.outbox, deliver=lambda _m: None, clock=SystemClock())
    ids = [db.write(lambda conn, n=n: outbox.put(conn, key="k", body=b"%d" % n)) for n in range(120)]
    db.close()
    code = SENDER.format(
        path=[str(tmp_path), *sys.path], url=f"sqlite:///{tmp_path}/toy.db", migrations=area.migrations
    )
    delivered: list[int] = []
    for stop_after in (10, 30, None):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        seen = 0
        while stop_after is None or seen < stop_after:
            delivered.append(int(process.stdout.readline()))
            seen += 1
            if delivered[-1] == ids[-1]:
                break
        process.send_signal(signal.SIGKILL)
        delivered += [int(line) for line in process.stdout.read().splitlines() if line.strip().isdigit()]
        process.wait()
    first_seen = list(dict.fromkeys(delivered))
    assert first_seen == ids
