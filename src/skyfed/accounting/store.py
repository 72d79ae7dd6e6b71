"""Persistence of the repository: the message ledger, the journal of records, the names of persons, and what is asked of them.

Every function takes the connection of a database job and does its part inside that transaction.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from decimal import Decimal
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Table,
    and_,
    case,
    cast,
    false,
    func,
    insert,
    or_,
    select,
    true,
    update,
)

from skyfed.accounting import summaries
from skyfed.accounting.model import (
    NO_NAME,
    STARTED,
    WITHHELD,
    CloudRecord,
    CloudSummary,
    DayUsage,
    JournalRecord,
    Remark,
    remarks,
    vo_names,
)
from skyfed.accounting.tables import message, person, record, state, summary
from skyfed.core.errors import Forbidden, NotFound
from skyfed.core.ids import new_token
from skyfed.core.text import one_line, shown

NO_EMPAID = "noid"
# Remarks of one message that the ledger keeps; the receipt says how many there were.
MAX_REMARKS = 200


class Arrival(msgspec.Struct, frozen=True, kw_only=True):
    """How a message came: the part of its ledger entry that is known before it is judged."""

    received: int
    sha256: str
    signer: str
    peer: str
    empaid: str = NO_EMPAID


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a message. `stored` counts the new and the changed records; `duplicate`: byte for byte the same
    message had been accepted before, and nothing was done."""

    message: int
    verdict: str
    records: int
    stored: int
    remarks: tuple[Remark, ...] = ()
    remark_count: int = 0
    duplicate: bool = False


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the message ledger."""

    id: int
    received: int
    empaid: str
    sha256: str
    signer: str
    peer: str
    verdict: str
    code: str
    error: str
    records: int
    stored: int
    sites: tuple[str, ...]
    remarks: tuple[Remark, ...]
    reloadable: bool


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """What the service knows when it lets a message in. None = not limited, not known, not judged.

    `own_sites`: a record of a machine that another site has reported is refused.
    """

    own_sites: frozenset[str] | None = None
    known_sites: frozenset[str] | None = None
    known_vos: frozenset[str] | None = None
    counters: summaries.Counters = "compat"
    remarks: tuple[Remark, ...] = ()


# -- loading ----------------------------------------------------------------------------------------------------


def accepted(conn: Connection, sha256: str) -> Receipt | None:
    """The receipt of the accepted message with this digest, if there is one."""
    query = select(message).where(message.c.sha256 == sha256, message.c.verdict == "accepted").limit(1)
    row = conn.execute(query).one_or_none()
    if row is None:
        return None
    return Receipt(message=row.id, verdict="accepted", records=row.records, stored=row.stored, duplicate=True)


def load(conn: Connection, arrival: Arrival, records: Sequence[CloudRecord], judgement: Judgement) -> Receipt:
    """Journal the records that are new or changed, and bring the summaries up to date.

    Of records with the same key the last received counts (digest 4.2); what it replaces stays in the journal. Raises
    Forbidden (`foreign_machine`) when a machine belongs to a site that is not among the judgement's own.
    """
    latest = {(item.vm_uuid, *item.month): item for item in records}
    machines = sorted({item.vm_uuid for item in latest.values()})
    _refuse_foreign(conn, machines, judgement.own_sites)
    current = _current(conn, machines)
    changed = {key: item for key, item in latest.items() if key not in current or current[key].digest != _digest(item)}
    notes = [*judgement.remarks, *_remarks(changed.values(), current.values(), arrival.received, judgement)]
    message_id = _enter(conn, arrival, "accepted", records, stored=len(changed), notes=notes)
    _journal(conn, message_id, changed, [current[key].id for key in changed if key in current])
    if changed:
        touched = sorted({item.vm_uuid for item in changed.values()})
        summaries.recompute(conn, now=arrival.received, machines=touched, counters=judgement.counters)
    return Receipt(
        message=message_id,
        verdict="accepted",
        records=len(records),
        stored=len(changed),
        remarks=tuple(notes[:MAX_REMARKS]),
        remark_count=len(notes),
    )


def reject(conn: Connection, arrival: Arrival, code: str, error: str, records: int, body: bytes | None) -> int:
    """Note a refused message and why; `body` is kept for a reload. Returns its id.

    A message refused before for the same reason is not noted again: senders retry.
    """
    same = and_(message.c.sha256 == arrival.sha256, message.c.verdict == "rejected", message.c.code == code)
    known = conn.execute(select(message.c.id).where(same).limit(1)).scalar()
    if known is not None:
        return int(known)
    row = _ledger_row(arrival, "rejected") | {
        "code": code,
        "error": one_line(error, 2000),
        "records": records,
        "body": body,
    }
    return _inserted(conn, row)


def _refuse_foreign(conn: Connection, machines: list[str], own: frozenset[str] | None) -> None:
    if own is None:
        return
    query = select(record.c.vm_uuid, record.c.site_name).where(
        record.c.vm_uuid.in_(machines), record.c.site_name.not_in(own)
    )
    row = conn.execute(query.limit(1)).one_or_none()
    if row is not None:
        text = f"the machine {shown(row.vm_uuid)} has been reported by site {shown(row.site_name)}, which the signer is not"
        raise Forbidden(f"{text} registered for", code="foreign_machine")


def _current(conn: Connection, machines: list[str]) -> dict[tuple[str, int, int], Any]:
    """The current record of every month of these machines, by key."""
    query = select(record).where(record.c.vm_uuid.in_(machines), record.c.superseded_by.is_(None))
    return {(row.vm_uuid, row.measurement_year, row.measurement_month): row for row in conn.execute(query)}


def _remarks(changed: Iterable[CloudRecord], current: Iterable[Any], now: int, judgement: Judgement) -> list[Remark]:
    last: dict[str, Any] = {}
    for row in sorted(current, key=lambda row: row.measurement_time):
        last[row.vm_uuid] = row
    found = []
    for item in changed:
        row = last.get(item.vm_uuid)
        previous = None if row is None else _record(row, None)
        found += remarks(item, now=now, previous=previous, sites=judgement.known_sites, vos=judgement.known_vos)
    return found


def _journal(conn: Connection, message_id: int, changed: dict[Any, CloudRecord], replaced: list[int]) -> None:
    if replaced:
        conn.execute(update(record).where(record.c.id.in_(replaced)).values(superseded_by=message_id))
    ids = persons(conn, {item.global_user_name or NO_NAME for item in changed.values()})
    rows = [
        {"message_id": message_id, "digest": _digest(item), **_row(item, ids[item.global_user_name or NO_NAME])}
        for item in changed.values()
    ]
    if rows:
        conn.execute(insert(record), rows)


def _digest(item: CloudRecord) -> str:
    return hashlib.blake2b(msgspec.json.encode(item), digest_size=16).hexdigest()


def _row(item: CloudRecord, person_id: int) -> dict[str, Any]:
    """The columns that follow from a record; what is part of a key is never NULL (digest 3.1, 4.2)."""
    names = vo_names(item.fqan)
    month = item.month
    row = {name: getattr(item, name) for name in CloudRecord.__struct_fields__ if name in record.c}
    row |= {
        "record_create_time": item.record_create_time or item.measurement_time,
        "measurement_time": item.measurement_time if month.month else 0,
        "measurement_month": month.month,
        "measurement_year": month.year,
        "person_id": person_id,
        "vo": names.vo,
        "vo_group": names.group,
        "vo_role": names.role,
        "cloud_compute_service": item.cloud_compute_service or NO_NAME,
        "status": item.status or NO_NAME,
        "image_id": item.image_id or NO_NAME,
        "benchmark_type": item.benchmark_type or NO_NAME,
        "cpu_count_milli": int((item.cpu_count or 0) * 1000),
        "benchmark_milli": int((item.benchmark or 0) * 1000),
    }
    return row | {"group_key": summaries.group_key(row)}


def persons(conn: Connection, names: Collection[str]) -> dict[str, int]:
    """The ids of these names; unknown ones get a random pseudonym."""
    query = select(person.c.name, person.c.id).where(person.c.name.in_(names))
    known = {row.name: row.id for row in conn.execute(query)}
    new = [{"name": name, "pseudonym": new_token()} for name in sorted(set(names) - known.keys())]
    if new:
        conn.execute(insert(person), new)
        known = {row.name: row.id for row in conn.execute(query)}
    return known


# -- the ledger -------------------------------------------------------------------------------------------------


def _enter(
    conn: Connection,
    arrival: Arrival,
    verdict: str,
    records: Sequence[CloudRecord],
    *,
    stored: int,
    notes: list[Remark],
) -> int:
    row = _ledger_row(arrival, verdict) | {
        "records": len(records),
        "stored": stored,
        "remarks": msgspec.json.encode(notes[:MAX_REMARKS]).decode(),
        "sites": json.dumps(sorted({item.site_name for item in records})),
    }
    return _inserted(conn, row)


def _ledger_row(arrival: Arrival, verdict: str) -> dict[str, Any]:
    empty = {"code": "", "error": "", "records": 0, "stored": 0, "remarks": "[]", "sites": "[]", "body": None}
    return {**msgspec.structs.asdict(arrival), **empty, "verdict": verdict}


def _inserted(conn: Connection, row: dict[str, Any]) -> int:
    key = conn.execute(insert(message).values(row)).inserted_primary_key
    assert key is not None  # noqa: S101 - an insert of one row always has one
    return int(key[0])


def entries(
    conn: Connection, *, verdict: str | None = None, signers: Collection[str] | None = None, before: int | None = None,
    limit: int = 100,
) -> list[Entry]:  # fmt: skip
    """Lines of the ledger, newest first; `signers` limits them to messages signed or brought by one of these DNs."""
    columns = [column for column in message.c if column is not message.c.body]
    query = select(*columns, message.c.body.is_not(None).label("reloadable")).order_by(message.c.id.desc()).limit(limit)
    if verdict is not None:
        query = query.where(message.c.verdict == verdict)
    if signers is not None:
        query = query.where(or_(message.c.signer.in_(signers), message.c.peer.in_(signers)))
    if before is not None:
        query = query.where(message.c.id < before)
    return [_entry(row) for row in conn.execute(query)]


def _entry(row: Any) -> Entry:
    values = dict(row._mapping)
    values["remarks"] = msgspec.json.decode(row.remarks, type=tuple[Remark, ...])
    values["sites"] = tuple(json.loads(row.sites))
    return Entry(**values)


def rejected_body(conn: Connection, message_id: int) -> tuple[Arrival, bytes]:
    """How a rejected message came and its text. Raises NotFound where there is none, or none was kept."""
    row = conn.execute(select(message).where(message.c.id == message_id, message.c.verdict == "rejected")).one_or_none()
    if row is None or row.body is None:
        text = f"there is no rejected message {message_id} whose text was kept"
        raise NotFound(text, code="no_rejected_message")
    arrival = Arrival(received=row.received, sha256=row.sha256, signer=row.signer, peer=row.peer, empaid=row.empaid)
    return arrival, bytes(row.body)


def drop_body(conn: Connection, message_id: int) -> None:
    """Forget the text of a rejected message: it has been loaded after all."""
    conn.execute(update(message).where(message.c.id == message_id).values(body=None))


def drop_bodies(conn: Connection, *, older_than: int, keep: int) -> int:
    """Forget the texts of rejected messages received before `older_than`, and of all but the newest `keep`."""
    held = select(message.c.id).where(message.c.body.is_not(None)).order_by(message.c.id.desc())
    oldest_kept = conn.execute(held.offset(keep).limit(1)).scalar()
    old = message.c.received < older_than
    which = old if oldest_kept is None else or_(old, message.c.id <= oldest_kept)
    return conn.execute(update(message).where(message.c.body.is_not(None), which).values(body=None)).rowcount


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """How much there is. `last_accepted` is when a message was let in last, epoch seconds."""

    accepted: int
    rejected: int
    reloadable: int
    records: int
    summaries: int
    last_accepted: int | None


def counts(conn: Connection) -> Counts:
    """How much there is."""

    def number(query: Any) -> int:
        return int(conn.execute(query).scalar_one())

    def messages(*conditions: Any) -> int:
        return number(select(func.count()).select_from(message).where(*conditions))

    last = conn.execute(select(func.max(message.c.received)).where(message.c.verdict == "accepted")).scalar()
    return Counts(
        accepted=messages(message.c.verdict == "accepted"),
        rejected=messages(message.c.verdict == "rejected"),
        reloadable=messages(message.c.body.is_not(None)),
        records=number(select(func.count()).select_from(record).where(record.c.superseded_by.is_(None))),
        summaries=number(select(func.count()).select_from(summary)),
        last_accepted=last,
    )


# -- what is asked ----------------------------------------------------------------------------------------------


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """Whose personal data the asker may see: all, that of some VOs or sites, and their own."""

    everything: bool = False
    vos: frozenset[str] = frozenset()
    sites: frozenset[str] = frozenset()
    name: str = ""

    def covers(self, table: Table) -> ColumnElement[bool]:
        """The condition on rows of `record` or `summary`, joined with `person`."""
        if self.everything:
            return true()
        own = person.c.name == self.name if self.name else false()
        return or_(table.c.vo.in_(self.vos), table.c.site_name.in_(self.sites), own)


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for; None = any. `user` is a GlobalUserName; `limit` and `offset` page through the answer."""

    site: str | None = None
    service: str | None = None
    vo: str | None = None
    year: int | None = None
    month: int | None = None
    user: str | None = None
    vm: str | None = None
    limit: int = 100
    offset: int = 0


def anonymous_summaries(conn: Connection, wanted: Filter) -> list[CloudSummary]:
    """Summaries added up over persons: for everybody's eyes."""
    t = summary
    key = [t.c[name] for name in ("year", "month", *_GROUP)]
    columns = [
        *key,
        func.max(t.c.cloud_type).label("cloud_type"),
        func.min(t.c.earliest_start_time).label("earliest_start_time"),
        func.max(t.c.latest_start_time).label("latest_start_time"),
        *(cast(func.sum(t.c[name]), BigInteger).label(name) for name in _SUMS),
    ]
    query = select(*columns).where(_wanted(t, wanted)).group_by(*key).order_by(*key)
    return [_summary(row, WITHHELD) for row in conn.execute(query.limit(wanted.limit).offset(wanted.offset))]


def named_summaries(conn: Connection, wanted: Filter, scope: Scope) -> list[CloudSummary]:
    """Summaries with GlobalUserName, as far as `scope` goes; a forgotten person's is a pseudonym."""
    t = summary
    query = (
        select(t, _NAME)
        .select_from(t.join(person, person.c.id == t.c.person_id))
        .where(_wanted(t, wanted), scope.covers(t))
        .order_by(t.c.year, t.c.month, t.c.site_name, t.c.vo, t.c.group_key)
    )
    return [_summary(row, row.name) for row in conn.execute(query.limit(wanted.limit).offset(wanted.offset))]


def journal(conn: Connection, wanted: Filter, scope: Scope, *, history: bool = False) -> list[JournalRecord]:
    """Records with GlobalUserName, as far as `scope` goes, newest first; with `history` the replaced ones too."""
    t = record
    query = (
        select(t, _NAME, message.c.received)
        .select_from(t.join(person, person.c.id == t.c.person_id).join(message, message.c.id == t.c.message_id))
        .where(_wanted(t, wanted), scope.covers(t))
        .order_by(t.c.measurement_time.desc(), t.c.id.desc())
    )
    if not history:
        query = query.where(t.c.superseded_by.is_(None))
    return [
        JournalRecord(
            record=_record(row, row.name),
            received=row.received,
            message=row.message_id,
            current=row.superseded_by is None,
        )
        for row in conn.execute(query.limit(wanted.limit).offset(wanted.offset))
    ]


def usage_since(conn: Connection, midnight: int) -> list[DayUsage]:
    """What was used since `midnight`, by site and VO: the newest counters of each machine less the highest before.

    What a machine used between its last record of yesterday and midnight counts as today's.
    """
    t, before = record, record.alias("before")

    def since(name: str) -> ColumnElement[Any]:
        earlier = select(func.max(before.c[name])).where(
            before.c.vm_uuid == t.c.vm_uuid, before.c.measurement_time < midnight, before.c.measurement_month > 0
        )
        more = func.coalesce(t.c[name], 0) - func.coalesce(earlier.scalar_subquery(), 0)
        return cast(func.sum(case((more > 0, more), else_=0)), BigInteger)

    query = (
        select(
            t.c.site_name.label("site"),
            t.c.vo,
            func.count(t.c.vm_uuid.distinct()).label("vms"),
            func.sum(case((func.lower(t.c.status) == STARTED, 1), else_=0)).label("running"),
            since("wall_duration").label("wall_seconds"),
            since("cpu_duration").label("cpu_seconds"),
            func.max(t.c.measurement_time).label("latest"),
        )
        .where(t.c.superseded_by.is_(None), t.c.measurement_time >= midnight)
        .group_by(t.c.site_name, t.c.vo)
        .order_by(t.c.site_name, t.c.vo)
    )
    return [DayUsage(**row._mapping) for row in conn.execute(query)]


def forget(conn: Connection, name: str) -> str:
    """Replace a person's name by its pseudonym everywhere; returns the pseudonym. Raises NotFound for an unknown name.

    Kept texts of rejected messages that hold the name are dropped. Records and summaries stay, under the pseudonym.
    """
    row = conn.execute(select(person).where(person.c.name == name)).one_or_none()
    if row is None:
        raise NotFound(f"no record bears the name {shown(name)}", code="no_person")
    conn.execute(update(person).where(person.c.id == row.id).values(name=None))
    kept = conn.execute(select(message.c.id, message.c.body).where(message.c.body.is_not(None)))
    holding = [row.id for row in kept if name.encode() in row.body]
    conn.execute(update(message).where(message.c.id.in_(holding)).values(body=None))
    return str(row.pseudonym)


_GROUP = (
    "site_name", "cloud_compute_service", "vo", "vo_group", "vo_role", "status", "image_id", "cpu_count_milli",
    "benchmark_type", "benchmark_milli",
)  # fmt: skip
_SUMS = (
    "wall_duration", "cpu_duration", "network_inbound", "network_outbound", "memory", "disk", "number_of_vms",
)  # fmt: skip
_NAME = func.coalesce(person.c.name, person.c.pseudonym).label("name")


def _wanted(table: Table, wanted: Filter) -> ColumnElement[bool]:
    of_records = table is record
    conditions = {
        "site_name": wanted.site,
        "cloud_compute_service": wanted.service,
        "vo": wanted.vo,
        "measurement_year" if of_records else "year": wanted.year,
        "measurement_month" if of_records else "month": wanted.month,
    }
    if of_records:
        conditions["vm_uuid"] = wanted.vm
    found = [table.c[name] == value for name, value in conditions.items() if value is not None]
    if wanted.user is not None:
        found.append(person.c.name == wanted.user)
    return and_(true(), *found)


def _summary(row: Any, name: str) -> CloudSummary:
    given = {key: value for key, value in row._mapping.items() if key in CloudSummary.__struct_fields__}
    return CloudSummary(
        **given,
        global_user_name=name,
        cpu_count=_thousandths(row.cpu_count_milli),
        benchmark=_thousandths(row.benchmark_milli),
    )


def _record(row: Any, name: str | None) -> CloudRecord:
    given = {key: value for key, value in row._mapping.items() if key in CloudRecord.__struct_fields__}
    return CloudRecord(
        **given,
        global_user_name=name,
        cpu_count=_thousandths(row.cpu_count_milli),
        benchmark=_thousandths(row.benchmark_milli),
    )


def _thousandths(value: int) -> Decimal:
    return Decimal(value).scaleb(-3)


# -- small facts ------------------------------------------------------------------------------------------------


def get_state(conn: Connection, name: str) -> str | None:
    """A small fact that the service keeps over restarts."""
    return conn.execute(select(state.c.value).where(state.c.name == name)).scalar()


def set_state(conn: Connection, name: str, value: str) -> None:
    """Keep a small fact."""
    if conn.execute(update(state).where(state.c.name == name).values(value=value)).rowcount == 0:
        conn.execute(insert(state).values(name=name, value=value))
