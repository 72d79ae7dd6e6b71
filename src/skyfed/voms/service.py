"""Who belongs to which VO: the decisions behind the administration API. Every change is audited in the same transaction."""

from datetime import datetime
from typing import Annotated, TypeVar

import msgspec
from sqlalchemy import Connection

from skyfed.core.clock import Clock, epoch
from skyfed.core.errors import Invalid, NotFound
from skyfed.core.sql import Database, Job
from skyfed.core.text import one_line, shown
from skyfed.identity.bans import Ban, parse_line
from skyfed.identity.fqan import Fqan
from skyfed.pki import names
from skyfed.voms import store
from skyfed.voms.model import DEFAULT_AC_SECONDS, Membership, Vo, checked_name
from skyfed.voms.store import Issued, StoredBan

T = TypeVar("T")

MAX_TEXT = 2000
# A week: long enough for any robot, short enough that a dismissed member's rights end.
MAX_AC_SECONDS = 7 * 86_400


class Who(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A certificate's names, OpenSSL one-line or RFC 4514 form."""

    subject: str
    issuer: str


class Wanted(Who, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A member to be: groups by path (parents are included), roles by FQAN; `until` ends the membership."""

    name: str = ""
    email: str = ""
    groups: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    until: datetime | None = None


class WantedVo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A VO to be, with all it shall have at least."""

    name: str
    description: str = ""
    max_ac_seconds: Annotated[int, msgspec.Meta(ge=60, le=MAX_AC_SECONDS)] = DEFAULT_AC_SECONDS
    groups: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    members: tuple[Wanted, ...] = ()


class Detail(msgspec.Struct, frozen=True):
    """A VO with what is in it."""

    vo: Vo
    groups: tuple[str, ...]
    roles: tuple[str, ...]
    members: int


class Organisations:
    """VOs, groups, roles, members and bans in a database. Every method blocks: call it in a thread."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    # -- reading ------------------------------------------------------------------------------------------------

    def vos(self) -> tuple[Vo, ...]:
        """All VOs, by name."""
        return self._database.read(store.vos)

    def vo(self, name: str) -> Detail:
        """One VO. Raises NotFound."""

        def job(conn: Connection) -> Detail:
            vo = store.find_vo(conn, name)
            if vo is None:
                raise NotFound(f"there is no VO {shown(name)} here", code="no_such_vo")
            return Detail(vo, store.groups(conn, name), store.roles(conn, name), len(store.members(conn, name)))

        return self._database.read(job)

    def members(self, vo: str) -> tuple[Membership, ...]:
        """Its members, in the order they joined. Raises NotFound."""
        return self._database.read(lambda conn: tuple(m.membership for m in store.members(conn, vo)))

    def issued(self, vo: str, who: Who) -> tuple[Issued, ...]:
        """The newest attribute certificates of a member. Raises NotFound."""
        return self._database.read(lambda conn: store.issued_to(conn, _member(conn, vo, who).id))

    def bans(self) -> tuple[StoredBan, ...]:
        """All bans, oldest first."""
        return self._database.read(store.bans)

    # -- changing -----------------------------------------------------------------------------------------------

    def create_vo(self, wanted: WantedVo, actor: str) -> Detail:
        """A new VO with all that is in `wanted`. Raises Invalid, Conflict (`vo_exists`)."""

        def job(conn: Connection) -> None:
            store.add_vo(conn, _vo(wanted), self._now())
            self._event(conn, actor, "create vo", vo=wanted.name)
            self._fill(conn, wanted, actor)

        self._write(job)
        return self.vo(wanted.name)

    def apply(self, wanted: tuple[WantedVo, ...], actor: str) -> tuple[Detail, ...]:
        """Make what is missing; what is there stays as it is. Raises Invalid."""

        def job(conn: Connection) -> None:
            for one in wanted:
                if store.find_vo(conn, one.name) is None:
                    store.add_vo(conn, _vo(one), self._now())
                    self._event(conn, actor, "create vo", vo=one.name)
                self._fill(conn, one, actor)

        self._write(job)
        return tuple(self.vo(one.name) for one in wanted)

    def _fill(self, conn: Connection, wanted: WantedVo, actor: str) -> None:
        known = set(store.groups(conn, wanted.name))
        for path in sorted(_with_parents(wanted.groups, wanted.name) - known):
            store.add_group(conn, wanted.name, path, "")
            self._event(conn, actor, "create group", vo=wanted.name, detail=path)
        for role in sorted(set(wanted.roles) - set(store.roles(conn, wanted.name))):
            store.add_role(conn, wanted.name, checked_name(role, "role"))
            self._event(conn, actor, "create role", vo=wanted.name, detail=role)
        for member in wanted.members:
            self._admit(conn, wanted.name, member, actor)

    def _admit(self, conn: Connection, vo: str, wanted: Wanted, actor: str) -> None:
        subject, issuer = _names(wanted)
        known = store.find_member(conn, vo, subject, issuer)
        member = known.id if known else self._add_member(conn, vo, wanted, actor)
        self._grant(conn, vo, member, (*wanted.groups, *wanted.roles), actor)

    def _add_member(self, conn: Connection, vo: str, wanted: Wanted, actor: str) -> int:
        subject, issuer = _names(wanted)
        person = store.add_person(conn, subject, issuer, one_line(wanted.name, 255), one_line(wanted.email, 255))
        until = None if wanted.until is None else epoch(_aware(wanted.until))
        member = store.add_member(conn, vo, person, until, self._now())
        self._event(conn, actor, "add member", vo=vo, member=member)
        return member

    def _grant(self, conn: Connection, vo: str, member: int, fqans: tuple[str, ...], actor: str) -> None:
        for text in fqans:
            fqan = _of_vo(text, vo)
            new = False
            for path in sorted(_with_parents((fqan.group,), vo)):
                new = store.join_group(conn, member, path) or new
            if fqan.role:
                new = store.assign(conn, member, vo, fqan) or new
            if new:
                self._event(conn, actor, "grant", vo=vo, member=member, detail=fqan.short)

    def create_group(self, vo: str, path: str, description: str, actor: str) -> None:
        """A group below one that exists. Raises Invalid, NotFound, Conflict."""
        if (fqan := _of_vo(path, vo)).role or fqan.group == f"/{vo}":
            raise Invalid(f"{shown(path)} is no group below '/{vo}'; right is '/{vo}/name'", code="group_path")

        def job(conn: Connection) -> None:
            store.add_group(conn, vo, path, one_line(description, MAX_TEXT))
            self._event(conn, actor, "create group", vo=vo, detail=path)

        self._write(job)

    def create_role(self, vo: str, name: str, actor: str) -> None:
        """A role that may then be given in any group. Raises Invalid, NotFound, Conflict."""
        checked_name(name, "role")

        def job(conn: Connection) -> None:
            store.add_role(conn, vo, name)
            self._event(conn, actor, "create role", vo=vo, detail=name)

        self._write(job)

    def add_member(self, vo: str, wanted: Wanted, actor: str) -> Membership:
        """A new member. Raises Invalid, NotFound, Conflict (`member_exists`)."""

        def job(conn: Connection) -> Membership:
            member = self._add_member(conn, vo, wanted, actor)
            self._grant(conn, vo, member, (*wanted.groups, *wanted.roles), actor)
            return _member(conn, vo, wanted).membership

        return self._write(job)

    def remove_member(self, vo: str, who: Who, actor: str) -> None:
        """Raises Invalid, NotFound."""

        def job(conn: Connection) -> None:
            member = _member(conn, vo, who).id
            store.remove_member(conn, member)
            self._event(conn, actor, "remove member", vo=vo, member=member)

        self._write(job)

    def grant(self, vo: str, who: Who, fqan: str, actor: str) -> Membership:
        """Put a member in a group, or give a role there (which includes the group). Raises Invalid, NotFound."""

        def job(conn: Connection) -> Membership:
            self._grant(conn, vo, _member(conn, vo, who).id, (fqan,), actor)
            return _member(conn, vo, who).membership

        return self._write(job)

    def revoke(self, vo: str, who: Who, fqan: str, actor: str) -> Membership:
        """Take a role back, or a group with all below it. Raises Invalid (the root group), NotFound."""
        wanted = _of_vo(fqan, vo)
        if not wanted.role and wanted.group == f"/{vo}":
            raise Invalid("a member is in the root group; remove the member instead", code="root_group")

        def job(conn: Connection) -> Membership:
            member = _member(conn, vo, who).id
            if wanted.role:
                store.dismiss(conn, member, vo, wanted)
            else:
                store.leave_group(conn, member, wanted.group)
            self._event(conn, actor, "revoke", vo=vo, member=member, detail=wanted.short)
            return _member(conn, vo, who).membership

        return self._write(job)

    def suspend(self, vo: str, who: Who, reason: str, actor: str) -> Membership:
        """No attribute certificates until restored; the member is told the reason. Raises Invalid, NotFound."""
        return self._set_suspended(vo, who, True, one_line(reason, MAX_TEXT), actor)

    def restore(self, vo: str, who: Who, actor: str) -> Membership:
        """End a suspension. Raises Invalid, NotFound."""
        return self._set_suspended(vo, who, False, "", actor)

    def _set_suspended(self, vo: str, who: Who, suspended: bool, reason: str, actor: str) -> Membership:
        def job(conn: Connection) -> Membership:
            member = _member(conn, vo, who).id
            store.set_suspended(conn, member, suspended, reason)
            action = "suspend" if suspended else "restore"
            self._event(conn, actor, action, vo=vo, member=member, detail=reason)
            return _member(conn, vo, who).membership

        return self._write(job)

    def ban(self, line: str, reason: str, actor: str) -> StoredBan:
        """Ban from all VOs: a line as in a ban file. Raises Invalid (`ban`)."""
        rule = _ban(line)

        def job(conn: Connection) -> None:
            store.add_ban(conn, rule, one_line(reason, MAX_TEXT), self._now())
            self._event(conn, actor, "ban", detail=f"{rule.kind}: {one_line(reason, MAX_TEXT)}")

        self._write(job)
        return StoredBan(rule.kind, rule.pattern, one_line(reason, MAX_TEXT))

    def unban(self, line: str, actor: str) -> None:
        """Raises Invalid, NotFound."""
        rule = _ban(line)

        def job(conn: Connection) -> None:
            if not store.remove_ban(conn, rule):
                raise NotFound(f"{shown(rule.pattern)} is not banned", code="no_such_ban")
            self._event(conn, actor, "unban", detail=rule.kind)

        self._write(job)

    # -- small print --------------------------------------------------------------------------------------------

    def _write(self, job: Job[T]) -> T:
        return self._database.write(job)

    def _now(self) -> int:
        return epoch(self._clock.now())

    def _event(
        self, conn: Connection, actor: str, action: str, *, vo: str = "", member: int | None = None, detail: str = ""
    ) -> None:
        store.record_event(conn, self._now(), actor, action, vo=vo, member=member, detail=detail)


def _vo(wanted: WantedVo) -> Vo:
    return Vo(checked_name(wanted.name, "VO"), one_line(wanted.description, MAX_TEXT), wanted.max_ac_seconds)


def _names(who: Who) -> tuple[str, str]:
    return names.normalise_text(who.subject), names.normalise_text(who.issuer)


def _member(conn: Connection, vo: str, who: Who) -> store.Member:
    subject, issuer = _names(who)
    store.vo_id(conn, vo)
    found = store.find_member(conn, vo, subject, issuer)
    if found is None:
        raise NotFound(f"{shown(who.subject)} of {shown(who.issuer)} is no member of {vo}", code="no_such_member")
    return found


def _of_vo(text: str, vo: str) -> Fqan:
    fqan = Fqan.parse(text)
    if fqan.vo != vo:
        raise Invalid(f"{shown(text)} is not in VO {vo}; right is '/{vo}/…'", code="group_path")
    return fqan


def _with_parents(paths: tuple[str, ...], vo: str) -> set[str]:
    """The groups and all above them, without the root, which every member is in and every VO has."""
    found = set()
    for path in paths:
        parts = _of_vo(path, vo).group.split("/")
        found |= {"/".join(parts[: depth + 1]) for depth in range(2, len(parts))}
    return found


def _ban(line: str) -> Ban:
    rule = parse_line(line)
    if rule is None:
        raise Invalid("an empty line bans nobody", code="ban")
    return rule


def _aware(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise Invalid(f"{moment.isoformat()} has no time zone; right is …Z", code="until")
    return moment
