"""The durable outbox: what was promised to somebody else is sent, at least once, in order per key, whatever crashes.

A message is put in the same transaction as the state it speaks of. `run` delivers: one message per key at a time,
keys side by side, exponential back-off on failures that may pass, dead letters for those that cannot.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    func,
    select,
)

from skyfed.core.backoff import pause
from skyfed.core.clock import Clock
from skyfed.core.errors import Conflict, Forbidden, Invalid, NotFound, SkyfedError, TooLarge
from skyfed.core.sql import Database
from skyfed.core.text import one_line

log = logging.getLogger(__name__)

FIRST_RETRY_SECONDS = 1.0
# A peer that is down for a night is retried at least this often, so that the morning begins up to date.
LAST_RETRY_SECONDS = 300.0
MAX_KEYS_AT_ONCE = 8
# Upper bound on how long a wake-up from another process (or a stepped clock) can be missed.
IDLE_SECONDS = 30.0
# Errors that trying again cannot mend.
PERMANENT = (Invalid, Forbidden, NotFound, Conflict, TooLarge)


@dataclass(frozen=True, slots=True)
class Message:
    """One message as `deliver` gets it. `attempts` counts earlier tries; `id` is the same at every try."""

    id: int
    key: str
    body: bytes
    headers: Mapping[str, str]
    attempts: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was refused for good, and why."""

    id: int
    key: str
    size: int
    attempts: int
    error: str


@dataclass(frozen=True, slots=True)
class OutboxStatus:
    """How the outbox stands: waiting and dead messages, and the error that holds up the oldest waiting one."""

    waiting: int
    dead: int
    last_error: str


class Outbox:
    """`table(metadata, area)` declares the rows; `deliver(message)` runs in a thread and returns when delivered."""

    def __init__(self, db: Database, table: Table, *, deliver: Callable[[Message], None], clock: Clock) -> None:
        self._db = db
        self._table = table
        self._deliver = deliver
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()

    @staticmethod
    def table(metadata: MetaData, area: str) -> Table:
        """The outbox table of `area`, to be declared in its `tables.py` and created by its migrations."""
        return Table(
            f"{area}_outbox",
            metadata,
            Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
            Column("key", String(255), nullable=False),
            Column("headers", Text, nullable=False),
            Column("body", LargeBinary, nullable=False),
            Column("attempts", Integer, nullable=False, default=0),
            Column("due", Float, nullable=False, comment="epoch seconds of the next try"),
            Column("dead", Integer, nullable=False, default=0),
            Column("error", Text, nullable=False, default=""),
            Index(f"{area}_outbox_key", "dead", "key", "id"),
            sqlite_autoincrement=True,  # an id is never used twice: receivers may use it to recognise repeats
        )

    def put(self, conn: Connection, *, key: str, body: bytes, headers: Mapping[str, str] | None = None) -> int:
        """Add a message inside the caller's own transaction; it is sent once that is durable. Returns its id."""
        row = {
            "key": key,
            "body": body,
            "headers": msgspec.json.encode(dict(headers or {})).decode(),
            "attempts": 0,
            "due": self._clock.now().timestamp(),
            "dead": 0,
            "error": "",
        }
        result = conn.execute(self._table.insert().values(row))
        assert result.inserted_primary_key is not None  # noqa: S101 - an insert of one row always has one
        self.wake()
        return int(result.inserted_primary_key[0])

    def wake(self) -> None:
        """Look for due messages soon; callable from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            # A moment's delay lets the transaction that called `put` commit first; `run` also looks again by itself.
            self._loop.call_soon_threadsafe(self._loop.call_later, 0.05, self._wake.set)

    async def run(self) -> None:
        """Deliver for ever. Run it under the task supervisor."""
        self._loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            due, pause = await self._db.aread(self._heads)
            if due:
                await asyncio.gather(*(self._try(message) for message in due))
                continue
            try:
                # Not wait_for: in Python 3.11 it loses a cancellation that comes together with the wake-up.
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _heads(self, conn: Connection) -> tuple[list[Message], float]:
        """The oldest waiting message of each key that is due now, and seconds until the next one is."""
        t = self._table
        now = self._clock.now().timestamp()
        heads = select(func.min(t.c.id)).where(t.c.dead == 0).group_by(t.c.key)
        rows = conn.execute(select(t.c.id, t.c.due).where(t.c.id.in_(heads)).order_by(t.c.due, t.c.id)).all()
        ids = [row.id for row in rows if row.due <= now][:MAX_KEYS_AT_ONCE]
        pause = min([IDLE_SECONDS, *(max(0.05, row.due - now) for row in rows if row.due > now)])
        found = conn.execute(select(t).where(t.c.id.in_(ids)).order_by(t.c.id)).all() if ids else []
        return [_message(row) for row in found], pause

    async def _try(self, message: Message) -> None:
        try:
            await asyncio.to_thread(self._deliver, message)
        except PERMANENT as error:
            reason = error.message
            log.error("outbox: message %d for %s refused for good: %s", message.id, message.key, error.message)
            await self._db.awrite(lambda conn: self._bury(conn, message, reason))
        except Exception as error:  # noqa: BLE001 - a fault in delivery must not lose the message: retried, visible
            text = error.message if isinstance(error, SkyfedError) else f"{type(error).__name__}: {error}"
            delay = backoff(message.attempts)
            log.warning(
                "outbox: message %d for %s failed (try %d), next in %.0f s: %s",
                message.id,
                message.key,
                message.attempts + 1,
                delay,
                one_line(text),
            )
            await self._db.awrite(lambda conn: self._postpone(conn, message, text, delay))
        else:
            await self._db.awrite(lambda conn: conn.execute(self._table.delete().where(self._table.c.id == message.id)))

    def _bury(self, conn: Connection, message: Message, error: str) -> None:
        values = {"dead": 1, "attempts": message.attempts + 1, "error": one_line(error)}
        conn.execute(self._table.update().where(self._table.c.id == message.id).values(values))

    def _postpone(self, conn: Connection, message: Message, error: str, delay: float) -> None:
        values = {
            "attempts": message.attempts + 1,
            "due": self._clock.now().timestamp() + delay,
            "error": one_line(error),
        }
        conn.execute(self._table.update().where(self._table.c.id == message.id).values(values))

    # -- what an administrator sees and does --------------------------------------------------------------------

    def status(self) -> OutboxStatus:
        """Counts, and the error of the oldest message that has failed at least once."""

        def look(conn: Connection) -> OutboxStatus:
            t = self._table
            counts = {
                int(row.dead): int(row.n)
                for row in conn.execute(select(t.c.dead, func.count().label("n")).group_by(t.c.dead))
            }
            error = conn.execute(
                select(t.c.error).where(t.c.dead == 0, t.c.error != "").order_by(t.c.id).limit(1)
            ).scalar()
            return OutboxStatus(waiting=counts.get(0, 0), dead=counts.get(1, 0), last_error=error or "")

        return self._db.read(look)

    def dead(self, limit: int = 100) -> list[DeadLetter]:
        """The dead letters, oldest first."""
        t = self._table
        columns = (t.c.id, t.c.key, func.length(t.c.body).label("size"), t.c.attempts, t.c.error)
        query = select(*columns).where(t.c.dead == 1).order_by(t.c.id).limit(limit)
        return self._db.read(
            lambda conn: [DeadLetter(r.id, r.key, r.size, r.attempts, r.error) for r in conn.execute(query)]
        )

    def retry(self, message_id: int) -> None:
        """Put a dead letter back in line, due now. Raises NotFound when there is no such dead letter."""

        def revive(conn: Connection) -> int:
            t = self._table
            values = {"dead": 0, "due": self._clock.now().timestamp(), "attempts": 0}
            return conn.execute(t.update().where(t.c.id == message_id, t.c.dead == 1).values(values)).rowcount

        if self._db.write(revive) == 0:
            raise NotFound(f"there is no dead letter {message_id}", code="no_dead_letter")
        self.wake()


def backoff(attempts: int) -> float:
    """Seconds to wait after `attempts` earlier failures: 1, 2, 4 … up to five minutes."""
    return pause(attempts, first=FIRST_RETRY_SECONDS, last=LAST_RETRY_SECONDS)


def _message(row: Any) -> Message:
    return Message(row.id, row.key, bytes(row.body), msgspec.json.decode(row.headers), row.attempts)
