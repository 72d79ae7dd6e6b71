"""Declaring sites: what is accepted, what changes, what is remembered."""

from datetime import timedelta
from typing import Any

import pytest

from registry.conftest import declaration
from skyfed.core.clock import FixedClock
from skyfed.core.errors import Conflict, Invalid, NotFound
from skyfed.core.sql import Database
from skyfed.registry.model import CertificationStatus, Infrastructure
from skyfed.registry.service import Change, Registry


def apply(registry: Registry, tables: dict[str, Any], **options: Any) -> tuple[Change, ...]:
    return registry.apply(tables, changed_by="alice", source="alpha.toml", **options)


def test_the_tables_in_code_are_those_that_the_migrations_make(database: Database) -> None:
    assert database.drift() == []


def test_a_new_site_is_created_with_its_ngi_and_services(registry: Registry) -> None:
    changes = apply(registry, declaration())
    assert [(c.action, c.kind) for c in changes] == [
        ("create", "ngi"),
        ("create", "site"),
        ("create", "service"),
        ("create", "service"),
    ]
    topology = registry.topology()
    (site,) = topology.sites
    assert (site.country, site.country_code, site.ngi) == ("Netherlands", "NL", "NGI_NL")
    assert site.certification_status == "Certified"
    assert site.infrastructure == "Production"
    occi = topology.services[0]
    assert occi.scopes == ("EGI", "FedCloud")
    assert occi.endpoints[0].interface_name == "eu.egi.cloud.vm-management.occi"
    assert occi.endpoints[0].monitored


def test_applying_the_same_declaration_again_changes_nothing(registry: Registry) -> None:
    apply(registry, declaration())
    version = registry.topology().version
    assert apply(registry, declaration()) == ()
    assert registry.topology().version == version


def test_a_dry_run_shows_the_difference_and_changes_nothing(registry: Registry) -> None:
    apply(registry, declaration())
    changes = apply(registry, declaration(email="help@alpha.example.org"), dry_run=True)
    assert [(f.field, f.old, f.new) for f in changes[0].fields] == [
        ("email", "support@alpha.example.org", "help@alpha.example.org")
    ]
    assert registry.topology().sites[0].email == "support@alpha.example.org"


def test_ids_of_services_endpoints_and_properties_survive_an_update(registry: Registry) -> None:
    apply(registry, declaration())
    before = registry.topology().services[0]
    changed = declaration()
    changed["service"][0]["url"] = "https://cloud.alpha.example.org:443/"
    changed["service"][0]["extensions"]["quality"] = "gold"
    apply(registry, changed)
    after = registry.topology().services[0]
    assert (after.id, after.endpoints[0].id, after.extensions[0]) == (
        before.id,
        before.endpoints[0].id,
        before.extensions[0],
    )
    assert after.url == "https://cloud.alpha.example.org:443/"
    assert [p.key for p in after.extensions] == ["InfoMonitored", "quality"]


def test_an_undeclared_service_stays_until_it_is_pruned(registry: Registry) -> None:
    apply(registry, declaration())
    less = declaration()
    del less["service"][1]
    assert [c.action for c in apply(registry, less)] == ["undeclared"]
    assert len(registry.topology().services) == 2
    assert [c.action for c in apply(registry, less, prune=True)] == ["delete"]
    assert [s.type for s in registry.topology().services] == ["eu.egi.cloud.vm-management.occi"]


def test_one_answer_names_every_problem(registry: Registry) -> None:
    bad = declaration(
        name="AL PHA",
        description="it's",
        country="Atlantis",
        email="nobody",
        giis_url="http://x.y/",
        latitude=91.0,
        timezone="Mars/Olympus",
        scopes=["wlcg"],
    )
    bad["service"][0] |= {"type": "no.such.type", "hostname": "nodots", "host_ip": "1.2.3"}
    bad["service"][1] |= {"monitored": False, "host_dn": "CN=x"}
    with pytest.raises(Invalid) as caught:
        apply(registry, bad)
    message = caught.value.message
    for part in (
        "alpha.toml:",
        "'AL PHA'",
        "description is",
        "'Atlantis'",
        "'nobody'",
        "giis_url is",
        "latitude is 91.0",
        "'Mars/Olympus'",
        "scope 'wlcg' is unknown",
        "unknown type",
        "'nodots'",
        "'1.2.3'",
        "must be monitored",
        "'CN=x'",
    ):
        assert part in message
    assert registry.topology().sites == ()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("description", "x" * 2001),
        ("description", "tab\there"),
        ("home_url", "javascript:alert(1)"),
        ("home_url", "https://user@host.example.org/"),
        ("giis_url", "ldap://nodots:2170/o=glue"),
        ("telephone", "call me"),
        ("ip_range", "10.0.0.0/8"),
        ("email", "a@b.c;<script>"),
    ],
)
def test_a_field_that_breaks_its_rule_is_refused(registry: Registry, field: str, value: str) -> None:
    with pytest.raises(Invalid, match=field):
        apply(registry, declaration(**{field: value}))


def test_an_unknown_key_is_named(registry: Registry) -> None:
    with pytest.raises(Invalid, match="unknown field `colour`"):
        apply(registry, declaration(colour="blue"))


def test_two_services_of_one_type_and_host_are_refused(registry: Registry) -> None:
    tables = declaration()
    tables["service"].append(dict(tables["service"][0]))
    with pytest.raises(Invalid, match="declared twice"):
        apply(registry, tables)


def test_certification_follows_the_allowed_steps_and_is_logged(registry: Registry) -> None:
    apply(registry, declaration(certification_status="Candidate"))
    with pytest.raises(Conflict, match="Candidate; from there it may become Closed, Uncertified"):
        registry.set_certification("ALPHA", CertificationStatus.CERTIFIED, reason="quick", changed_by="bob")
    registry.set_certification("ALPHA", CertificationStatus.UNCERTIFIED, reason="papers are here", changed_by="bob")
    site = registry.set_certification("ALPHA", CertificationStatus.CERTIFIED, reason="tests passed", changed_by="bob")
    assert site.certification_status == "Certified"
    log = registry.site("ALPHA").certification_log
    assert [(e.old_status, e.new_status, e.reason) for e in log] == [
        ("Candidate", "Uncertified", "papers are here"),
        ("Uncertified", "Certified", "tests passed"),
    ]


def test_a_change_of_certification_needs_a_reason(registry: Registry) -> None:
    apply(registry, declaration())
    with pytest.raises(Invalid, match="1 to 300 characters"):
        registry.set_certification("ALPHA", CertificationStatus.SUSPENDED, reason="", changed_by="bob")


def test_an_administrator_may_force_any_step(registry: Registry) -> None:
    apply(registry, declaration(certification_status="Closed"))
    site = registry.set_certification(
        "ALPHA", CertificationStatus.CERTIFIED, reason="closed by mistake", changed_by="bob", force=True
    )
    assert site.certification_status == "Certified"


def test_applying_does_not_touch_the_standing_that_operators_gave(registry: Registry) -> None:
    apply(registry, declaration())
    registry.set_infrastructure("ALPHA", Infrastructure.TEST, changed_by="bob")
    registry.set_certification("ALPHA", CertificationStatus.SUSPENDED, reason="incident", changed_by="bob")
    assert apply(registry, declaration()) == ()
    site = registry.topology().sites[0]
    assert (site.infrastructure, site.certification_status) == ("Test", "Suspended")


def test_an_unknown_site_is_not_found(registry: Registry) -> None:
    with pytest.raises(NotFound, match="no site 'BETA'"):
        registry.set_infrastructure("BETA", Infrastructure.TEST, changed_by="bob")


def test_the_registry_remembers_what_was_true_when(registry: Registry, clock: FixedClock) -> None:
    apply(registry, declaration())
    first = clock.now()
    clock.advance(3600)
    less = declaration(email="new@alpha.example.org")
    del less["service"][1]
    apply(registry, less, prune=True)
    sites, services = registry.as_of(first)
    assert (sites[0].email, len(services)) == ("support@alpha.example.org", 2)
    sites, services = registry.as_of(clock.now())
    assert (sites[0].email, len(services)) == ("new@alpha.example.org", 1)
    assert registry.as_of(first - timedelta(seconds=1)) == ((), ())


def test_everything_is_there_again_after_a_restart(registry: Registry, database: Database, clock: FixedClock) -> None:
    apply(registry, declaration())
    again = Registry(database, clock, scopes={}, options=registry._options)
    again.open()
    assert again.topology() == registry.topology()
