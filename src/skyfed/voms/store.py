"""Rows ↔ values. Every function takes the connection of a job; decisions are the service's."""

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from skyfed.core.clock import from_epoch
from skyfed.core.errors import Conflict, NotFound
from skyfed.core.text import shown
from skyfed.identity.bans import Ban, Kind
from skyfed.identity.fqan import Fqan
from skyfed.voms import tables as t
from skyfed.voms.model import Membership, Vo


class StoredBan(msgspec.Struct, frozen=True):
    """A ban of the VO service and why."""

    kind: Kind
    pattern: str
    reason: str

    @property
    def rule(self) -> Ban:
        """As the judge's rule."""
        return Ban(self.kind, self.pattern, self.reason)


class Issued(msgspec.Struct, frozen=True):
    """The record of one attribute certificate. Times are epoch seconds."""

    serial: str
    vo: str
    member_id: int
    holder_serial: str
    fqans: tuple[str, ...]
    targets: tuple[str, ...]
    not_before: int
    not_after: int
    peer: str


class Member(msgspec.Struct, frozen=True):
    """A member with its key."""

    id: int
    membership: Membership


# -- VOs, groups, roles -----------------------------------------------------------------------------------------


def vos(conn: Connection) -> tuple[Vo, ...]:
    """All of them, by name."""
    rows = conn.execute(sa.select(t.vo.c.name, t.vo.c.description, t.vo.c.max_ac_seconds).order_by(t.vo.c.name))
    return tuple(Vo(*row) for row in rows)


def find_vo(conn: Connection, name: str) -> Vo | None:
    """The VO of that name."""
    columns = (t.vo.c.name, t.vo.c.description, t.vo.c.max_ac_seconds)
    row = conn.execute(sa.select(*columns).where(t.vo.c.name == name)).one_or_none()
    return Vo(*row) if row else None


def vo_id(conn: Connection, name: str) -> int:
    """Its key. Raises NotFound (`no_such_vo`)."""
    found = conn.scalar(sa.select(t.vo.c.id).where(t.vo.c.name == name))
    if found is None:
        raise NotFound(f"there is no VO {shown(name)} here", code="no_such_vo")
    return int(found)


def add_vo(conn: Connection, vo: Vo, at: int) -> None:
    """A new VO with its root group. Raises Conflict (`vo_exists`)."""
    if find_vo(conn, vo.name) is not None:
        raise Conflict(f"there is a VO {shown(vo.name)} already", code="vo_exists")
    row = {"name": vo.name, "description": vo.description, "max_ac_seconds": vo.max_ac_seconds, "created_at": at}
    key = conn.execute(t.vo.insert().values(row)).inserted_primary_key
    assert key is not None  # noqa: S101 - the table has one
    conn.execute(t.group.insert().values(vo_id=key[0], path=f"/{vo.name}", description=vo.description))


def groups(conn: Connection, vo: str) -> tuple[str, ...]:
    """The paths of its groups, root first."""
    query = sa.select(t.group.c.path).where(t.group.c.vo_id == vo_id(conn, vo)).order_by(t.group.c.path)
    return tuple(conn.scalars(query))


def group_id(conn: Connection, path: str) -> int:
    """Raises NotFound (`no_such_group`)."""
    found = conn.scalar(sa.select(t.group.c.id).where(t.group.c.path == path))
    if found is None:
        raise NotFound(f"there is no group {shown(path)}", code="no_such_group")
    return int(found)


def add_group(conn: Connection, vo: str, path: str, description: str) -> None:
    """A group below one that exists. Raises NotFound, Conflict (`group_exists`)."""
    group_id(conn, path.rpartition("/")[0])
    if conn.scalar(sa.select(t.group.c.id).where(t.group.c.path == path)) is not None:
        raise Conflict(f"there is a group {shown(path)} already", code="group_exists")
    conn.execute(t.group.insert().values(vo_id=vo_id(conn, vo), path=path, description=description))


def roles(conn: Connection, vo: str) -> tuple[str, ...]:
    """The names of its roles."""
    query = sa.select(t.role.c.name).where(t.role.c.vo_id == vo_id(conn, vo)).order_by(t.role.c.name)
    return tuple(conn.scalars(query))


def role_id(conn: Connection, vo: str, name: str) -> int:
    """Raises NotFound (`no_such_role`)."""
    query = sa.select(t.role.c.id).where(t.role.c.vo_id == vo_id(conn, vo), t.role.c.name == name)
    found = conn.scalar(query)
    if found is None:
        raise NotFound(f"VO {vo} has no role {shown(name)}", code="no_such_role")
    return int(found)


def add_role(conn: Connection, vo: str, name: str) -> None:
    """Raises Conflict (`role_exists`)."""
    if name in roles(conn, vo):
        raise Conflict(f"VO {vo} has a role {shown(name)} already", code="role_exists")
    conn.execute(t.role.insert().values(vo_id=vo_id(conn, vo), name=name))


# -- members ----------------------------------------------------------------------------------------------------


def person_id(conn: Connection, subject: str, issuer: str | None) -> int | None:
    """Who has this certificate; `issuer=None` matches the subject alone."""
    query = sa.select(t.certificate.c.person_id).where(t.certificate.c.subject == subject)
    if issuer is not None:
        query = query.where(t.certificate.c.issuer == issuer)
    found = conn.scalars(query.order_by(t.certificate.c.id)).first()
    return None if found is None else int(found)


def add_person(conn: Connection, subject: str, issuer: str, name: str, email: str) -> int:
    """The person with this certificate, made where nobody has it yet; a name or address given replaces the old one."""
    known = person_id(conn, subject, issuer)
    said = {key: value for key, value in (("name", name), ("email", email)) if value}
    if known is not None:
        if said:
            conn.execute(t.person.update().where(t.person.c.id == known).values(said))
        return known
    key = conn.execute(t.person.insert().values(name=name, email=email)).inserted_primary_key
    assert key is not None  # noqa: S101 - the table has one
    conn.execute(t.certificate.insert().values(person_id=key[0], subject=subject, issuer=issuer))
    return int(key[0])


def add_member(conn: Connection, vo: str, person: int, until: int | None, at: int) -> int:
    """Raises Conflict (`member_exists`)."""
    key = vo_id(conn, vo)
    query = sa.select(t.member.c.id).where(t.member.c.vo_id == key, t.member.c.person_id == person)
    if conn.scalar(query) is not None:
        raise Conflict(f"that certificate's holder is a member of {vo} already", code="member_exists")
    row = {"vo_id": key, "person_id": person, "until": until, "created_at": at}
    made = conn.execute(t.member.insert().values(row)).inserted_primary_key
    assert made is not None  # noqa: S101 - the table has one
    return int(made[0])


def find_member(conn: Connection, vo: str, subject: str, issuer: str | None) -> Member | None:
    """The membership of whoever has this certificate."""
    person = person_id(conn, subject, issuer)
    if person is None:
        return None
    found = _members(conn, t.vo.c.name == vo, t.member.c.person_id == person)
    return found[0] if found else None


def memberships(conn: Connection, subject: str, issuer: str | None) -> tuple[Member, ...]:
    """In every VO that knows this certificate, by the VO's name."""
    person = person_id(conn, subject, issuer)
    return () if person is None else _members(conn, t.member.c.person_id == person)


def members(conn: Connection, vo: str) -> tuple[Member, ...]:
    """All members of a VO, in the order they joined. Raises NotFound."""
    vo_id(conn, vo)
    return _members(conn, t.vo.c.name == vo)


def _members(conn: Connection, *where: sa.ColumnElement[bool]) -> tuple[Member, ...]:
    joined = t.member.join(t.vo).join(t.person).join(t.certificate)
    query = (
        sa.select(
            t.member.c.id, t.vo.c.name.label("vo"), t.person.c.name, t.person.c.email, t.certificate.c.subject,
            t.certificate.c.issuer, t.member.c.suspended, t.member.c.reason, t.member.c.until,
        )
        .select_from(joined)
        .where(*where)
        .order_by(t.vo.c.name, t.member.c.id, t.certificate.c.id)
    )  # fmt: skip
    # A person with several certificates gives several rows; the first certificate stands for the person.
    rows = {row.id: row for row in reversed(conn.execute(query).all())}
    ids = sorted(rows, key=lambda key: (rows[key].vo, key))
    paths = _paths(conn, ids)
    held = _roles(conn, ids)
    return tuple(
        Member(
            key,
            Membership(
                vo=row.vo,
                subject=row.subject,
                issuer=row.issuer,
                name=row.name,
                email=row.email,
                groups=paths.get(key, ()),
                roles=held.get(key, ()),
                suspended=row.suspended,
                reason=row.reason,
                until=None if row.until is None else from_epoch(row.until),
            ),
        )
        for key, row in ((key, rows[key]) for key in ids)
    )


def _paths(conn: Connection, ids: Sequence[int]) -> dict[int, tuple[str, ...]]:
    query = (
        sa.select(t.group_member.c.member_id, t.group.c.path)
        .join(t.group)
        .where(t.group_member.c.member_id.in_(ids))
        .order_by(t.group.c.path)
    )
    return _grouped([(row.member_id, row.path) for row in conn.execute(query)])


def _roles(conn: Connection, ids: Sequence[int]) -> dict[int, tuple[str, ...]]:
    query = (
        sa.select(t.assignment.c.member_id, t.group.c.path, t.role.c.name)
        .select_from(t.assignment.join(t.group).join(t.role, t.role.c.id == t.assignment.c.role_id))
        .where(t.assignment.c.member_id.in_(ids))
        .order_by(t.group.c.path, t.role.c.name)
    )
    return _grouped([(row.member_id, Fqan(row.path, row.name).short) for row in conn.execute(query)])


def _grouped(rows: Sequence[tuple[int, str]]) -> dict[int, tuple[str, ...]]:
    found: dict[int, tuple[str, ...]] = {}
    for key, value in rows:
        found[key] = (*found.get(key, ()), value)
    return found


def remove_member(conn: Connection, member: int) -> None:
    """Takes groups and roles with it."""
    conn.execute(t.member.delete().where(t.member.c.id == member))


def join_group(conn: Connection, member: int, path: str) -> bool:
    """Whether that was new. Raises NotFound."""
    row = {"member_id": member, "group_id": group_id(conn, path)}
    return _insert_once(conn, t.group_member, row)


def leave_group(conn: Connection, member: int, path: str) -> None:
    """Leaves the groups below it and loses the roles there too. Raises NotFound."""
    group_id(conn, path)
    inside = sa.select(t.group.c.id).where(
        sa.or_(t.group.c.path == path, t.group.c.path.startswith(path + "/", autoescape=True))
    )
    for table in (t.group_member, t.assignment):
        conn.execute(table.delete().where(table.c.member_id == member, table.c.group_id.in_(inside)))


def assign(conn: Connection, member: int, vo: str, fqan: Fqan) -> bool:
    """Give the role of `fqan` in its group. Whether that was new. Raises NotFound."""
    row = {"member_id": member, "group_id": group_id(conn, fqan.group), "role_id": role_id(conn, vo, fqan.role)}
    return _insert_once(conn, t.assignment, row)


def dismiss(conn: Connection, member: int, vo: str, fqan: Fqan) -> None:
    """Take the role of `fqan` back. Raises NotFound."""
    row = {"member_id": member, "group_id": group_id(conn, fqan.group), "role_id": role_id(conn, vo, fqan.role)}
    conn.execute(t.assignment.delete().where(*(t.assignment.c[name] == value for name, value in row.items())))


def _insert_once(conn: Connection, table: sa.Table, row: dict[str, int]) -> bool:
    query = sa.select(sa.literal(1)).select_from(table).where(*(table.c[name] == value for name, value in row.items()))
    if conn.scalar(query) is not None:
        return False
    conn.execute(table.insert().values(row))
    return True


def set_suspended(conn: Connection, member: int, suspended: bool, reason: str) -> None:
    """Suspend or restore."""
    conn.execute(t.member.update().where(t.member.c.id == member).values(suspended=suspended, reason=reason))


# -- bans, records, events --------------------------------------------------------------------------------------


def bans(conn: Connection) -> tuple[StoredBan, ...]:
    """All of them, oldest first."""
    rows = conn.execute(sa.select(t.ban.c.kind, t.ban.c.pattern, t.ban.c.reason).order_by(t.ban.c.id))
    return tuple(StoredBan(*row) for row in rows)


def add_ban(conn: Connection, ban: Ban, reason: str, at: int) -> None:
    """A ban, or a new reason for one that stands."""
    remove_ban(conn, ban)
    conn.execute(t.ban.insert().values(kind=ban.kind, pattern=ban.pattern, reason=reason, created_at=at))


def remove_ban(conn: Connection, ban: Ban) -> bool:
    """Whether there was one."""
    where = (t.ban.c.kind == ban.kind, t.ban.c.pattern == ban.pattern)
    return conn.execute(t.ban.delete().where(*where)).rowcount > 0


def record_issued(conn: Connection, record: Issued) -> None:
    """Remember an attribute certificate before it is handed out."""
    row = msgspec.structs.asdict(record) | {"fqans": "\n".join(record.fqans), "targets": "\n".join(record.targets)}
    conn.execute(t.issued.insert().values(row))


def count_issued(conn: Connection) -> int:
    """How many there have been."""
    return int(conn.scalar(sa.select(sa.func.count()).select_from(t.issued)) or 0)


def issued_to(conn: Connection, member: int, limit: int = 100) -> tuple[Issued, ...]:
    """The newest records of a member, newest first."""
    query = (
        sa.select(t.issued).where(t.issued.c.member_id == member).order_by(t.issued.c.not_before.desc()).limit(limit)
    )
    return tuple(
        Issued(
            **(dict(row) | {"fqans": tuple(row["fqans"].splitlines()), "targets": tuple(row["targets"].splitlines())})
        )
        for row in conn.execute(query).mappings()
    )


def record_event(
    conn: Connection, at: int, actor: str, action: str, *, vo: str = "", member: int | None = None, detail: str = ""
) -> None:
    """Who changed what. Persons are named by key, never by DN."""
    row = {"at": at, "actor": actor, "action": action, "vo": vo, "member_id": member, "detail": detail}
    conn.execute(t.event.insert().values(row))
