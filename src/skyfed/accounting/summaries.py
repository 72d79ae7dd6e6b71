"""Monthly summaries (accounting digest 4.3), made anew for the machines that a message touched.

A chain of two projections, each one SQL statement: `usage` is what a record's counters are above those of the
machine's record before it (a window over each machine), `summary` adds the usage up over the summary's key. The dirty
set is the summaries that the touched machines are, or were, booked to; made anew for it, everything equals a recompute
of the whole journal.
"""

import hashlib
from collections.abc import Collection
from typing import Any, Literal

import msgspec
from sqlalchemy import BigInteger, ColumnElement, Connection, case, cast, delete, func, insert, literal, select

from skyfed.accounting.tables import dirty, record, summary, usage

Counters = Literal["compat", "repair"]
"""What a counter that went back is worth: `compat`, its negative difference, as the reference does; `repair`, nothing."""

_COUNTERS = ("wall_duration", "cpu_duration", "network_inbound", "network_outbound")
# The key of a summary (digest 3.2) as columns of the record. A person is there by its id, so that forgetting the name
# changes no key.
_KEY = (
    "site_name",
    "cloud_compute_service",
    "person_id",
    "vo",
    "vo_group",
    "vo_role",
    "status",
    "image_id",
    "cpu_count_milli",
    "benchmark_type",
    "benchmark_milli",
)


def group_key(row: dict[str, Any]) -> str:
    """The digest that names the summary which a record's row is booked to."""
    key = [row["measurement_year"], row["measurement_month"], *(row[name] for name in _KEY)]
    return hashlib.blake2b(msgspec.json.encode(key), digest_size=16).hexdigest()


def recompute(
    conn: Connection, *, now: int, machines: Collection[str] | None = None, counters: Counters = "compat"
) -> int:
    """Make usage and summaries of `machines` (VMUUIDs; None: of all) anew inside the caller's transaction.

    Returns how many summaries were touched. `now` becomes their update time.
    """
    of_usage = usage.c.vm_uuid.in_(machines) if machines is not None else literal(value=True)
    conn.execute(delete(dirty))
    _mark(conn, of_usage)
    conn.execute(delete(usage).where(of_usage))
    _book(conn, machines, counters)
    _mark(conn, of_usage)
    touched = select(dirty.c.group_key)
    if machines is None:
        conn.execute(delete(summary))
    else:
        conn.execute(delete(summary).where(summary.c.group_key.in_(touched)))
    made = _summarise(now).where(record.c.group_key.in_(touched)).group_by(record.c.group_key)
    conn.execute(insert(summary).from_select([column.name for column in made.selected_columns], made))
    return conn.execute(delete(dirty)).rowcount


def _mark(conn: Connection, which: ColumnElement[bool]) -> None:
    """Add the summaries that the usage rows in `which` are booked to."""
    known = select(dirty.c.group_key)
    found = select(usage.c.group_key).distinct().where(which, usage.c.group_key.not_in(known))
    conn.execute(insert(dirty).from_select(["group_key"], found))


def _book(conn: Connection, machines: Collection[str] | None, counters: Counters) -> None:
    """Usage of each current record: its counters less those of the record before it, by measurement time."""
    # A record that belongs to no month comes before nothing and follows nothing: it has a window of its own.
    machine = (record.c.vm_uuid, case((record.c.measurement_month == 0, 0), else_=1))
    differences: list[ColumnElement[Any]] = []
    for name in _COUNTERS:
        before = func.lag(record.c[name]).over(partition_by=machine, order_by=record.c.measurement_time)
        difference: ColumnElement[Any] = record.c[name] - func.coalesce(before, 0)
        if counters == "repair":
            difference = case((difference < 0, 0), else_=difference)
        differences.append(difference.label(name))
    rows = select(record.c.id, record.c.vm_uuid, record.c.group_key, *differences).where(
        record.c.superseded_by.is_(None)
    )
    if machines is not None:
        rows = rows.where(record.c.vm_uuid.in_(machines))
    conn.execute(insert(usage).from_select(["record_id", "vm_uuid", "group_key", *_COUNTERS], rows))


def _summarise(now: int) -> Any:
    """One row a group. Columns of the key are equal within a group: any of its values is the value."""
    columns: list[ColumnElement[Any]] = [
        record.c.group_key,
        literal(now, BigInteger).label("update_time"),
        func.min(record.c.measurement_month).label("month"),
        func.min(record.c.measurement_year).label("year"),
        *(func.min(record.c[name]).label(name) for name in _KEY),
        func.max(record.c.cloud_type).label("cloud_type"),
        func.min(record.c.start_time).label("earliest_start_time"),
        func.max(record.c.start_time).label("latest_start_time"),
        *(_sum(usage.c[name]).label(name) for name in _COUNTERS),
        *(_sum(record.c[name]).label(name) for name in ("memory", "disk")),
        func.count().label("number_of_vms"),
    ]
    return select(*columns).select_from(usage.join(record, record.c.id == usage.c.record_id))


def _sum(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """PostgreSQL adds bigints up to a numeric; the readers limit the values so that the sum fits."""
    return cast(func.sum(column), BigInteger)
