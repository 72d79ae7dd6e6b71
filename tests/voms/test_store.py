"""The rows behind the VO service: same behaviour on SQLite and PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from skyfed.core.clock import FixedClock, epoch
from skyfed.core.errors import Conflict, NotFound
from skyfed.core.sql import Database
from skyfed.voms import store
from skyfed.voms.service import Organisations, Wanted, WantedVo, Who
from skyfed.voms.tables import metadata
from support.pki import NOW
from support.postgres import Postgres, postgres

__all__ = ["postgres"]

ALICE = Who(subject="/DC=x/CN=alice", issuer="/DC=x/CN=ca")


def opened(url: str) -> Database:
    database = Database(url, name="voms", metadata=metadata, migrations="skyfed.voms.migrations")
    database.open()
    return database


@pytest.fixture(name="database", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.peer)])
def _database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'voms.db'}"
    else:
        server: Postgres = request.getfixturevalue("postgres")
        url = server.database()
    database = opened(url)
    yield database
    database.close()


@pytest.fixture(name="organisations")
def _organisations(database: Database) -> Organisations:
    organisations = Organisations(database, FixedClock(NOW))
    alice = Wanted(subject=ALICE.subject, issuer=ALICE.issuer, groups=("/vo/a/b",), roles=("/vo/Role=r",))
    organisations.create_vo(WantedVo(name="vo", groups=("/vo/a/b",), roles=("r",), members=(alice,)), "me")
    return organisations


def test_the_migrations_make_the_tables_that_the_code_declares(database: Database) -> None:
    assert database.drift() == []


def test_a_vo_is_made_whole_or_not_at_all(organisations: Organisations) -> None:
    broken = WantedVo(name="other", members=(Wanted(subject="/CN=b", issuer="/CN=c", roles=("/other/Role=none",)),))
    with pytest.raises(NotFound):
        organisations.create_vo(broken, "me")
    assert [vo.name for vo in organisations.vos()] == ["vo"]


def test_a_removed_member_leaves_groups_and_roles_behind(database: Database, organisations: Organisations) -> None:
    organisations.remove_member("vo", ALICE, "me")
    assert organisations.members("vo") == ()
    with pytest.raises(NotFound):
        organisations.remove_member("vo", ALICE, "me")
    again = organisations.add_member("vo", Wanted(subject=ALICE.subject, issuer=ALICE.issuer), "me")
    assert (again.groups, again.roles) == ((), ())


def test_leaving_a_group_leaves_those_below_but_not_its_namesakes(organisations: Organisations) -> None:
    organisations.create_group("vo", "/vo/ab", "", "me")
    organisations.create_group("vo", "/vo/a/b/c", "", "me")
    for fqan in ("/vo/ab", "/vo/a/b/c/Role=r"):
        organisations.grant("vo", ALICE, fqan, "me")
    member = organisations.revoke("vo", ALICE, "/vo/a", "me")
    assert member.groups == ("/vo/ab",)
    assert member.roles == ("/vo/Role=r",)


def test_a_name_with_wildcards_of_sql_matches_itself_only(organisations: Organisations) -> None:
    organisations.create_group("vo", "/vo/x_y", "", "me")
    organisations.create_group("vo", "/vo/xzy", "", "me")
    organisations.create_group("vo", "/vo/xzy/z", "", "me")
    for fqan in ("/vo/x_y", "/vo/xzy/z"):
        organisations.grant("vo", ALICE, fqan, "me")
    assert organisations.revoke("vo", ALICE, "/vo/x_y", "me").groups == ("/vo/a", "/vo/a/b", "/vo/xzy", "/vo/xzy/z")


def test_every_change_is_written_down_without_names(database: Database, organisations: Organisations) -> None:
    organisations.suspend("vo", ALICE, "left the project", "carol")
    events = database.read(_events)
    assert events[-1] == (epoch(NOW), "carol", "suspend", "vo", "left the project")
    assert {"create vo", "create group", "create role", "add member", "grant"} <= {event[2] for event in events}
    assert all("alice" not in str(event) for event in events)


def _events(conn: store.Connection) -> list[tuple[object, ...]]:
    from skyfed.voms.tables import event as t

    columns = (t.c.at, t.c.actor, t.c.action, t.c.vo, t.c.detail)
    return [tuple(row) for row in conn.execute(t.select().with_only_columns(*columns).order_by(t.c.id))]


def test_what_was_issued_outlives_the_member(database: Database, organisations: Organisations) -> None:
    member = database.read(lambda conn: store.find_member(conn, "vo", ALICE.subject, ALICE.issuer))
    assert member is not None
    record = store.Issued("ab12", "vo", member.id, "1f", ("/vo", "/vo/a"), (), 1, 2, "127.0.0.1")
    database.write(lambda conn: store.record_issued(conn, record))
    organisations.remove_member("vo", ALICE, "me")
    assert database.read(lambda conn: store.issued_to(conn, member.id)) == (record,)


def test_a_person_in_two_vos_is_one_person(database: Database, organisations: Organisations) -> None:
    organisations.create_vo(WantedVo(name="second"), "me")
    organisations.add_member("second", Wanted(subject=ALICE.subject, issuer=ALICE.issuer, name="Alice"), "me")
    assert organisations.members("vo")[0].name == "Alice"
    with pytest.raises(Conflict):
        organisations.add_member("second", Wanted(subject=ALICE.subject, issuer=ALICE.issuer), "me")
    found = database.read(lambda conn: store.memberships(conn, ALICE.subject, None))
    assert [one.membership.vo for one in found] == ["second", "vo"]


def test_another_cas_namesake_is_somebody_else(organisations: Organisations) -> None:
    with pytest.raises(NotFound):
        organisations.grant("vo", Who(subject=ALICE.subject, issuer="/DC=y/CN=ca"), "/vo/a", "me")


def test_a_ban_stands_once_with_its_latest_reason(organisations: Organisations) -> None:
    organisations.ban("/CN=mallory", "first", "me")
    organisations.ban("/CN=mallory", "second", "me")
    assert [(ban.pattern, ban.reason) for ban in organisations.bans()] == [("/CN=mallory", "second")]
    organisations.unban("/CN=mallory", "me")
    assert organisations.bans() == ()
