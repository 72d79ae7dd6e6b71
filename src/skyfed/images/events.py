"""The record of what happened to lists and images, written in the transaction that made it happen."""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import Connection

from skyfed.core.clock import epoch, from_epoch
from skyfed.core.text import one_line
from skyfed.images import tables
from skyfed.images.model import Event

MAX_SHOWN = 1000


def note(conn: Connection, at: datetime, kind: str, subject: str, detail: str = "") -> None:
    """Add an event to the caller's transaction."""
    row = {"at": epoch(at), "kind": kind, "subject": one_line(subject), "detail": one_line(detail, 1000)}
    conn.execute(tables.event.insert().values(row))


def latest(conn: Connection, limit: int) -> tuple[Event, ...]:
    """The newest events, newest first."""
    rows = conn.execute(sa.select(tables.event).order_by(tables.event.c.id.desc()).limit(min(limit, MAX_SHOWN)))
    return tuple(Event(at=from_epoch(row.at), kind=row.kind, subject=row.subject, detail=row.detail) for row in rows)
