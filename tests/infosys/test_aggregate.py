"""Taking sites into the federation's tree: each speaks for itself only, the quirks of the wild are repaired."""

from datetime import UTC, datetime

import pytest

from infosys import sample
from skyfed.core.errors import Invalid
from skyfed.infosys import aggregate, formats
from skyfed.infosys.model import Entry
from skyfed.infosys.names import Dn
from skyfed.infosys.tree import delta, rooted, tree_of
from support.vectors import vectors

SEEN = datetime(2026, 11, 23, 4, 30, tzinfo=UTC)


def adopt(site: str, text: str) -> aggregate.Adopted:
    parsed = formats.parse(text.encode())
    assert not parsed.problems
    return aggregate.adopt(site, parsed.entries, SEEN)


@pytest.mark.parametrize(
    ("url", "host", "port", "base"),
    [
        ("ldap://bdii.a.org:2170/GLUE2DomainID=A,o=glue", "bdii.a.org", 2170, "GLUE2DomainID=A,o=glue"),
        ("ldap://bdii.a.org:2170/mds-vo-name=A-SITE,o=grid", "bdii.a.org", 2170, "GLUE2DomainID=A-SITE,o=glue"),
        ("ldap://a.org:2170/Mds-Vo-name=resource,o=grid", "a.org", 2170, "GLUE2GroupID=resource,o=glue"),
        ("ldap://a.org:2170/mds-vo-name=X,mds-vo-name=local,o=grid", "a.org", 2170, "GLUE2DomainID=X,o=glue"),
        ("ldap://[2001:db8::1]:2170/o=glue", "2001:db8::1", 2170, "o=glue"),
        ("ldap://a.org/o=glue", "a.org", 389, "o=glue"),
    ],
)
def test_addresses_of_the_registry_are_understood(url: str, host: str, port: int, base: str) -> None:
    found = aggregate.source(url)
    assert (found.host, found.port, str(found.base)) == (host, port, base)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ldap://",
        "http://a.org/o=glue",
        "ldap://a.org:0000/o=glue",
        "ldap://a.org:99999/o=glue",
        "ldap://a.org:2170/",
        "ldap://a.org:2170/dc=other",
        "ldap://user:pw@a.org/o=glue",
        "ldap://a.org;rm -rf/o=glue",
        "ldaps://a.org/o=glue",
        "ldap://-oProxy $(x)/o=glue",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(Invalid):
        aggregate.source(url)


def test_a_whole_site_moves_below_the_grid() -> None:
    adopted = aggregate.adopt("ALPHA", sample.entries(), SEEN)
    root = Dn.parse("GLUE2DomainID=ALPHA,GLUE2GroupID=grid,o=glue")
    _, orphans = rooted(tree_of(adopted.entries), [root])
    assert orphans == ()
    # Its root and its own copy of the information server lie outside the domain.
    assert [name for name, _ in adopted.dropped] == [
        "o=glue",
        "GLUE2GroupID=resource,o=glue",
        "GLUE2ServiceID=ALPHA_sitebdii,GLUE2GroupID=resource,o=glue",
        *[name for name, _ in adopted.dropped[3:]],
    ]
    assert len(adopted.entries) + len(adopted.dropped) == len(sample.entries())


def test_a_site_cannot_speak_for_another() -> None:
    adopted = adopt(
        "ALPHA",
        "dn: GLUE2DomainID=ALPHA,o=glue\nobjectClass: GLUE2Domain\nGLUE2DomainID: ALPHA\n\n"
        "dn: GLUE2DomainID=BETA,o=glue\nobjectClass: GLUE2Domain\nGLUE2DomainID: BETA\n\n"
        "dn: GLUE2DomainID=alpha,o=glue\nobjectClass: GLUE2Domain\nGLUE2DomainID: alpha\n\n"
        "dn: GLUE2ServiceID=s,GLUE2DomainID=ALPHA,o=glue\nobjectClass: GLUE2Service\n"
        "GLUE2ServiceAdminDomainForeignKey: BETA\n\n"
        "dn: GLUE2DomainID=BETA,GLUE2DomainID=ALPHA,o=glue\nobjectClass: GLUE2Domain\nGLUE2DomainID: BETA\n\n"
        "dn: GLUE2DomainID=ALPHA,GLUE2GroupID=x,GLUE2DomainID=ALPHA,o=glue\nobjectClass: GLUE2Domain\n\n"
        "dn: mds-vo-name=ALPHA,o=grid\nobjectClass: MDS\n",
    )
    assert [str(e.dn) for e in adopted.entries] == ["GLUE2DomainID=ALPHA,GLUE2GroupID=grid,o=glue"]
    reasons = [reason for _, reason in adopted.dropped]
    assert reasons[2] == "speaks for the domain 'BETA'"
    assert reasons[4].startswith("recursive")


def test_the_wild_profile_of_2014_is_repaired() -> None:
    path = vectors("infosys") / "fedcloud-2014" / "site-full-cloud-bdii-provider-0.6.0.ldif"
    adopted = aggregate.adopt("SITE_NAME", formats.parse(path.read_bytes()).entries, SEEN)
    service = next(e for e in adopted.entries if e.first("GLUE2ServiceType") == "IaaS")
    assert service.all("GLUE2ServiceCapability") == ("cloud.managementSystem", "cloud.vm.uploadImage")
    assert service.first("GLUE2EntityCreationTime") == "2026-11-23T04:30:00Z"
    image = next(e for e in adopted.entries if e.has_class("GLUE2ApplicationEnvironment"))
    assert image.first("GLUE2ApplicationEnvironmentID") == "os_tpl#foobarid_localhost"
    bdii = next(e for e in adopted.entries if e.first("GLUE2ServiceType") == "bdii_site")
    assert "GLUE2Entity" in bdii.all("objectClass")
    for entry in adopted.entries:
        type, value = entry.dn.rdn
        assert value in entry.all(type)


def test_a_dead_sites_states_become_unknown_and_nothing_else_changes() -> None:
    alive = aggregate.adopt("ALPHA", sample.entries(), SEEN).entries
    dead = aggregate.with_unknown_states(alive, "no answer since 04:30")
    changed = [(a, d) for a, d in zip(alive, dead, strict=True) if a != d]
    assert {d.first("GLUE2EndpointHealthState") for _, d in changed if d.has_class("GLUE2Endpoint")} == {"unknown"}
    assert {d.first("GLUE2ComputingShareServingState") for _, d in changed if d.has_class("GLUE2Share")} == {"unknown"}
    assert all(d.has_class("GLUE2Endpoint") or d.has_class("GLUE2Share") for _, d in changed)
    endpoint = next(d for _, d in changed if d.has_class("GLUE2ComputingEndpoint"))
    assert endpoint.first("GLUE2EndpointHealthStateInfo") == "no answer since 04:30"


def test_a_delta_removes_children_first_and_adds_parents_first() -> None:
    old = tree_of(sample.entries("ALPHA"))
    new = tree_of(sample.entries("BETA"))
    change = delta(old, new)
    assert [len(dn) for dn in change.deletes] == sorted((len(dn) for dn in change.deletes), reverse=True)
    assert [len(e.dn) for e in change.adds] == sorted(len(e.dn) for e in change.adds)
    assert len(delta(old, tree_of(sample.entries("ALPHA")))) == 0


def test_an_entry_whose_class_changes_is_made_anew_with_all_below_it() -> None:
    def entry(dn: str, cls: str, name: str = "") -> Entry:
        return Entry(Dn.parse(dn), [("objectClass", (cls,)), ("GLUE2EntityName", (name or "x",))])

    old = tree_of(
        [
            entry("o=glue", "organization"),
            entry("GLUE2ServiceID=s,o=glue", "GLUE2Service"),
            entry("GLUE2EndpointID=e,GLUE2ServiceID=s,o=glue", "GLUE2Endpoint"),
            entry("GLUE2ServiceID=t,o=glue", "GLUE2Service"),
        ]
    )
    new = tree_of(
        [
            entry("o=glue", "organization"),
            entry("GLUE2ServiceID=s,o=glue", "GLUE2ComputingService"),
            entry("GLUE2EndpointID=e,GLUE2ServiceID=s,o=glue", "GLUE2Endpoint"),
            entry("GLUE2ServiceID=t,o=glue", "GLUE2Service", "y"),
        ]
    )
    change = delta(old, new)
    assert [dn.rdn[1] for dn in change.deletes] == ["e", "s"]
    assert [e.dn.rdn[1] for e in change.adds] == ["s", "e"]
    assert [n.dn.rdn[1] for _, n in change.modifies] == ["t"]


def test_an_orphan_is_left_out_with_all_below_it() -> None:
    tree = tree_of(e for e in sample.entries() if e.first("GLUE2ServiceType") != "IaaS")
    whole, orphans = rooted(tree, [Dn.parse("o=glue")])
    assert len(whole) + len(orphans) == len(tree)
    assert all("_cloud.compute" in str(dn) for dn in orphans)
