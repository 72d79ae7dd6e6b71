"""A site's sender: follows compute's usage journal, folds it into records, and delivers them to the repository.

The fold of each machine, the cursor in the journal and the messages on their way change in one transaction: a crash at
any moment neither loses a record nor makes one that the journal does not justify. What is sent twice is recognised by
the repository.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Protocol

import msgspec
from sqlalchemy import ColumnElement, Connection, delete, func, insert, select

from skyfed.accounting import formats, store
from skyfed.accounting.extract import Machine, Producer, close_months, follow, latest
from skyfed.accounting.model import CloudRecord, Month, month_of
from skyfed.accounting.tables import machine, outbox, person
from skyfed.compute.model import UsageEvent
from skyfed.core.clock import Clock, epoch
from skyfed.core.errors import Forbidden, Invalid, SkyfedError, TooLarge, Unavailable
from skyfed.core.outbox import DeadLetter, Message, Outbox
from skyfed.core.sql import Database

log = logging.getLogger(__name__)

BATCH = 1000
# AMS takes messages of at most 1 MB, signature included; a record is some 700 bytes (accounting digest 2, 5.3).
MAX_BODY = 700_000
# An event of the old month may be noted some time after midnight; then idle machines' months are closed.
SETTLE = timedelta(seconds=120)
_CURSOR = "cursor"
_CLOSED = "closed_month"
_COUNT = select(func.count()).select_from(machine).where(machine.c.ended == 0)


class UsageSource(Protocol):
    """What is needed of `compute.service.ComputeService`."""

    async def usage_events(
        self, since_seq: int = 0, limit: int = 1000, *, vm_id: str | None = None
    ) -> tuple[UsageEvent, ...]:
        """Usage events after `since_seq`, in order, at most `limit`."""


class SenderStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How the sender stands: place in the journal, machines followed, messages waiting and dead, newest trouble."""

    cursor: int
    machines: int
    waiting: int
    dead: int
    last_error: str


class Sender:
    """Extraction and delivery for one site. `send(body, empaid)` delivers one text message: see `SignedDelivery`."""

    def __init__(
        self,
        db: Database,
        source: UsageSource,
        *,
        site: str,
        producer: Producer,
        clock: Clock,
        send: Callable[[bytes, str], None],
        records_per_message: int = 500,
    ) -> None:
        self._db = db
        self._source = source
        self._site = site
        self._producer = producer
        self._clock = clock
        self._send = send
        self._per_message = records_per_message
        self._lock = asyncio.Lock()
        self.outbox = Outbox(db, outbox, deliver=self._deliver, clock=clock)

    async def extract(self) -> int:
        """Follow the journal to its end. Returns how many records went into the outbox."""
        async with self._lock:
            records = 0
            cursor = await self._db.aread(_cursor)
            while events := await self._source.usage_events(cursor, BATCH):
                fresh = events
                records += await self._db.awrite(lambda conn: self._take(conn, fresh))  # noqa: B023 - awaited here
                cursor = events[-1].seq
            return records + await self._close_months()

    async def republish(self, month: Month) -> int:
        """Send every record of `month` again, made anew from the whole journal. Returns how many there are."""
        async with self._lock:
            end = await self._db.aread(_cursor)
            found: dict[str, CloudRecord] = {}
            machines: dict[str, Machine] = {}
            seq = 0
            while seq < end and (events := await self._source.usage_events(seq, BATCH)):
                for event in (event for event in events if event.seq <= end):
                    machines[event.vm_id], records = follow(machines.get(event.vm_id), event, self._producer)
                    found.update((record.vm_uuid, record) for record in records if record.month == month)
                    if machines[event.vm_id].gone:
                        del machines[event.vm_id]
                seq = events[-1].seq
            for idle in machines.values():
                _, records = close_months(idle, self._clock.now() - SETTLE, self._producer)
                found.update((record.vm_uuid, record) for record in records if record.month == month)
            await self._db.awrite(lambda conn: self._put(conn, list(found.values())))
            return len(found)

    def status(self) -> SenderStatus:
        """How it stands."""
        waiting = self.outbox.status()
        cursor, machines = self._db.read(lambda conn: (_cursor(conn), conn.execute(_COUNT).scalar_one()))
        return SenderStatus(
            cursor=cursor, machines=machines, waiting=waiting.waiting, dead=waiting.dead, last_error=waiting.last_error
        )

    def dead(self) -> list[DeadLetter]:
        """Messages that the repository refused for good, and why."""
        return self.outbox.dead()

    # -- extraction ---------------------------------------------------------------------------------------------

    def _take(self, conn: Connection, events: Sequence[UsageEvent]) -> int:
        """Fold events, put what they give into the outbox, move the cursor: all in one transaction."""
        cursor = _cursor(conn)
        fresh = [event for event in events if event.seq > cursor]
        if not fresh:
            return 0
        machines = _load(conn, {event.vm_id for event in fresh})
        records: list[CloudRecord] = []
        for event in fresh:
            machines[event.vm_id], found = follow(machines.get(event.vm_id), event, self._producer)
            records += found
        _save(conn, machines.values())
        store.set_state(conn, _CURSOR, str(fresh[-1].seq))
        return self._put(conn, latest(records))

    async def _close_months(self) -> int:
        """Once a month: close it for machines that do not run."""
        now = self._clock.now() - SETTLE
        month = str(month_of(epoch(now)))

        def job(conn: Connection) -> int:
            records: list[CloudRecord] = []
            changed: list[Machine] = []
            for one in _live(conn):
                after, found = close_months(one, now, self._producer)
                if found:
                    changed.append(after)
                    records += found
            _save(conn, changed)
            store.set_state(conn, _CLOSED, month)
            return self._put(conn, latest(records))

        if await self._db.aread(lambda conn: store.get_state(conn, _CLOSED)) == month:
            return 0
        return await self._db.awrite(job)

    def _put(self, conn: Connection, records: Sequence[CloudRecord]) -> int:
        for body in messages(records, self._per_message):
            self.outbox.put(conn, key=self._site, body=body)
        return len(records)

    # -- delivery -----------------------------------------------------------------------------------------------

    def _deliver(self, message: Message) -> None:
        self._send(message.body, empaid_of(message))


class Post(Protocol):
    """What is needed of `accounting.client.AccountingClient`."""

    def post_message(self, body: bytes, *, empaid: str) -> object:
        """Hand a signed message to the repository."""


class SignedDelivery:
    """Signs a text message with the host's credential, as it is at that moment, and posts it to the repository."""

    def __init__(self, sign: Callable[[bytes], bytes], repository: Post) -> None:
        self._sign = sign
        self._repository = repository

    def __call__(self, body: bytes, empaid: str) -> None:
        """Returns when the repository has it. Raises Invalid, Forbidden or TooLarge when it will never take it; anything
        that may pass (it is away, or does not accept our certificate just now) is Unavailable."""
        try:
            self._repository.post_message(self._sign(body), empaid=empaid)
        except SkyfedError as error:
            if _final(error):
                raise
            raise Unavailable(error.message, code=error.code) from error


def _final(error: SkyfedError) -> bool:
    """Whether the repository has judged the message itself. A refusal of our connection is for an administrator to mend,
    and nothing is lost meanwhile."""
    if isinstance(error, Forbidden):
        return error.code.startswith("signer_") or error.code == "foreign_machine"
    return isinstance(error, Invalid | TooLarge)


def messages(records: Sequence[CloudRecord], per_message: int) -> Iterable[bytes]:
    """The records as messages of at most `per_message` records and `MAX_BODY` bytes."""
    for start in range(0, len(records), per_message):
        chunk = records[start : start + per_message]
        body = formats.write_records(chunk)
        if len(body) <= MAX_BODY or len(chunk) == 1:
            yield body
        else:
            yield from messages(chunk, len(chunk) // 2)


def empaid_of(message: Message) -> str:
    """The message's name for the receiver, of the form senders use (`6b03bfa4/6b03bfc912a648`); the same at each try."""
    return f"{message.id & 0xFFFFFFFF:08x}/{hashlib.sha256(message.body).hexdigest()[:14]}"


# -- rows -------------------------------------------------------------------------------------------------------


def _cursor(conn: Connection) -> int:
    return int(store.get_state(conn, _CURSOR) or 0)


def _load(conn: Connection, ids: Iterable[str]) -> dict[str, Machine]:
    return {one.summary.last.vm_id: one for one in _read(conn, machine.c.vm_id.in_(sorted(ids)))}


def _live(conn: Connection) -> list[Machine]:
    return _read(conn, machine.c.ended == 0)


def _read(conn: Connection, which: ColumnElement[bool]) -> list[Machine]:
    name = func.coalesce(person.c.name, person.c.pseudonym).label("owner")
    joined = machine.join(person, person.c.id == machine.c.person_id)
    rows = conn.execute(select(machine.c.fold, name).select_from(joined).where(which).order_by(machine.c.vm_id))
    return [_owned(msgspec.json.decode(row.fold, type=Machine), row.owner) for row in rows]


def _owned(one: Machine, subject: str) -> Machine:
    """The machine with `subject` as its owner's name: names of persons stand in one table only."""
    owner = msgspec.structs.replace(one.summary.last.owner, subject=subject)
    last = msgspec.structs.replace(one.summary.last, owner=owner)
    return msgspec.structs.replace(one, summary=msgspec.structs.replace(one.summary, last=last))


def _save(conn: Connection, machines: Iterable[Machine]) -> None:
    """Write the folds; those of machines that are gone are not needed any more."""
    changed = list(machines)
    for start in range(0, len(changed), BATCH):
        part = changed[start : start + BATCH]
        conn.execute(delete(machine).where(machine.c.vm_id.in_([one.summary.last.vm_id for one in part])))
        kept = [one for one in part if not one.gone]
        owners = store.persons(conn, {one.summary.last.owner.subject for one in kept})
        rows = [
            {
                "vm_id": one.summary.last.vm_id,
                "person_id": owners[one.summary.last.owner.subject],
                "fold": msgspec.json.encode(_owned(one, "")),
                "ended": int(one.ended),
            }
            for one in kept
        ]
        if rows:
            conn.execute(insert(machine), rows)
