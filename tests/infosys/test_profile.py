"""The cloud profile of 2014: the entries that sites published, and those they should have."""

import re
from pathlib import Path

import msgspec
import pytest

from infosys import sample
from skyfed.infosys import formats, policy, profile
from skyfed.infosys.glue2 import completed_classes
from skyfed.infosys.model import Entry
from skyfed.infosys.tree import rooted, tree_of
from support.vectors import vectors

# What our sites do not have: storage is another area's.
NOT_OURS = {"GLUE2StorageService", "GLUE2StorageEndpoint", "GLUE2StorageManager", "GLUE2StorageServiceCapacity"}
# Attributes of the recording that carry no meaning of their own there.
LEFT_OUT = {"glue2endpointdowntimeinfo"}


def by_class(entries: list[Entry]) -> dict[str, Entry]:
    """Most special class → an entry of it."""
    return {completed_classes(e.all("objectClass"))[-1]: e for e in entries}


def test_our_entries_have_the_classes_and_attributes_of_the_recorded_site() -> None:
    path = vectors("infosys") / "fedcloud-2014" / "site-full-cloud-bdii-provider-0.6.0.ldif"
    recorded = by_class([e for e in formats.parse(path.read_bytes()).entries if e.dn.rdn[0] != "o"])
    ours = by_class(sample.entries(healthy=False, health_info="the engine is down", version="0.1"))
    for name, theirs in recorded.items():
        if name in NOT_OURS:
            continue
        mine = ours[name]
        wanted = {attribute.lower() for attribute, _ in theirs} - LEFT_OUT
        if name in ("GLUE2Endpoint", "GLUE2Service", "GLUE2AccessPolicy"):
            wanted -= {"glue2entityname", "glue2endpointhealthstateinfo"}
        assert wanted <= {attribute.lower() for attribute, _ in mine}, name
        assert {c.lower() for c in theirs.all("objectClass")} <= {c.lower() for c in mine.all("objectClass")}, name
    assert {"GLUE2ComputingShare", "GLUE2MappingPolicy"} <= ours.keys()


def mandatory(schema: Path) -> dict[str, set[str]]:
    """Class → attributes that it must have, superclasses not counted."""
    text = schema.read_text()
    found = {}
    for block in re.findall(r"^objectclass \(.*?^\s*\)\s*$", text, re.DOTALL | re.MULTILINE | re.IGNORECASE):
        name = re.search(r"NAME\s+'([^']+)'", block)
        must = re.search(r"MUST\s+(\([^)]*\)|\S+)", block)
        if name and must:
            found[name[1]] = {a.lower() for a in re.findall(r"[A-Za-z0-9]+", must[1])}
    return found


def test_every_attribute_that_the_schema_demands_is_there() -> None:
    rules = mandatory(vectors("infosys") / "schema" / "GLUE20.schema")
    assert rules["GLUE2Service"] >= {"glue2serviceid", "glue2servicetype"}
    for entry in sample.entries():
        have = {name.lower() for name, _ in entry}
        for cls in entry.all("objectClass"):
            assert rules.get(cls, set()) <= have, f"{entry.dn}: {cls}"


def test_foreign_keys_point_at_entries_that_are_there() -> None:
    entries = sample.entries()
    ids = {value for e in entries for name, values in e if name.endswith("ID") for value in values}
    for entry in entries:
        for name, values in entry:
            if name.endswith("ForeignKey") and "UserDomain" not in name:
                assert set(values) <= ids, f"{entry.dn}: {name}"


def test_every_entry_has_its_parent() -> None:
    entries = sample.entries()
    whole, orphans = rooted(tree_of(entries), [entries[0].dn])
    assert orphans == ()
    assert len(whole) == len(entries)


def test_each_vo_is_in_the_access_policy_and_has_a_share() -> None:
    entries = sample.entries(vos=("demo.skyfed", "ops"))
    access = next(e for e in entries if e.has_class("GLUE2AccessPolicy") and "OCCI" in str(e.dn))
    assert access.all("GLUE2PolicyRule") == ("VO:demo.skyfed", "VO:ops")
    mappings = [e.all("GLUE2PolicyRule") for e in entries if e.has_class("GLUE2MappingPolicy")]
    assert mappings == [("VO:demo.skyfed",), ("VO:ops",)]


def test_a_site_without_a_vo_admits_nobody_and_is_still_valid() -> None:
    entries = sample.entries(vos=())
    assert not [e for e in entries if e.has_class("GLUE2AccessPolicy") and "OCCI" in str(e.dn)]


def test_creation_and_validity_stand_on_everything() -> None:
    for entry in sample.entries():
        if entry.has_class("GLUE2Entity"):
            assert entry.all("GLUE2EntityCreationTime") == ("2026-11-23T04:30:00Z",)
            assert entry.all("GLUE2EntityValidity") == ("3600",)


def test_a_hostile_title_is_one_value_of_one_attribute() -> None:
    title = "x\ndn: GLUE2DomainID=VICTIM,o=glue\nobjectClass: GLUE2Domain"
    bad = sample.image(9, title=title, mixin="http://a/os_tpl#a,b+c=d", description="  ", version="")
    entries = profile.site_entries(sample.site(), msgspec.structs.replace(sample.cloud(0), images=(bad,)), sample.STAMP)
    again = formats.parse(formats.write(entries).encode())
    assert again.problems == ()
    assert len(again.entries) == len(entries)
    found = next(e for e in again.entries if e.has_class("GLUE2ApplicationEnvironment"))
    assert found.first("GLUE2ApplicationEnvironmentAppName").startswith("x dn: GLUE2DomainID=VICTIM")
    assert found.dn.rdn[1] == "http://a/os_tpl#a,b+c=d_cloud.example.org"
    assert not found.all("GLUE2ApplicationEnvironmentDescription")


@pytest.mark.parametrize(
    ("rule", "vo"),
    [
        ("VO:ops", "ops"),
        ("vo:ops", "ops"),
        ("VOMS:/ops/Role=admin", "ops"),
        ("ops", "ops"),
        ("ALL", None),
        ("dn:/CN=x", None),
        ("VO:", None),
        ("VOMS:/", None),
    ],
)
def test_rules_are_read_in_every_form(rule: str, vo: str | None) -> None:
    assert policy.vo_of(rule) == vo


def test_a_rule_admits_its_vo_only_and_all_admits_everybody() -> None:
    assert policy.admits(["VO:a", "VO:b"], "b")
    assert not policy.admits(["VO:a.b"], "a")
    assert policy.admits(["all"], "anything")
    assert not policy.admits([], "a")
