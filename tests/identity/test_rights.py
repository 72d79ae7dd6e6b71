"""FQANs, LSC files, the mapping to projects, and what roles permit."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyfed.core.errors import Forbidden, Invalid
from skyfed.identity.bans import parse_line
from skyfed.identity.fqan import Fqan, matches
from skyfed.identity.mapping import Mapping
from skyfed.identity.policy import Policy
from skyfed.identity.principal import Membership, Principal
from skyfed.identity.vomsdir import parse_lsc
from support.pki import Pki


def member(*fqans: str, limited: bool = False) -> Principal:
    parsed = [Fqan.parse(fqan) for fqan in fqans]
    vos = dict.fromkeys(fqan.vo for fqan in parsed)
    memberships = tuple(Membership(vo, tuple(f.long for f in parsed if f.vo == vo)) for vo in vos)
    return Principal("/CN=a", "/CN=ca", memberships, limited, datetime(2030, 1, 1, tzinfo=UTC), "00" * 32, "proxy")


# -- FQANs ------------------------------------------------------------------------------------------------------


def test_both_spellings_of_an_fqan_are_one() -> None:
    long = Fqan.parse("/vo.example.org/sub/Role=NULL/Capability=NULL")
    assert long == Fqan.parse("/vo.example.org/sub")
    assert (long.vo, long.short) == ("vo.example.org", "/vo.example.org/sub")
    role = Fqan.parse("/vo/Role=VMManagement")
    assert role.long == "/vo/Role=VMManagement/Capability=NULL"
    assert Fqan.parse(role.long) == role


@pytest.mark.parametrize(
    "text", ["", "/", "vo", "/vo/", "//vo", "/vo/Role=", "/vo/a b", "/vo/../x", "/vo/Capability=x/Role=y", "/v\n", "/é"]
)
def test_what_is_no_fqan_is_refused(text: str) -> None:
    with pytest.raises(Invalid) as refusal:
        Fqan.parse(text)
    assert refusal.value.code == "fqan"


@given(st.text(max_size=60))
def test_any_text_is_an_fqan_or_refused(text: str) -> None:
    try:
        fqan = Fqan.parse(text)
    except Invalid:
        return
    assert Fqan.parse(fqan.long) == Fqan.parse(fqan.short) == fqan


def test_globs_fit_the_short_form() -> None:
    fqan = Fqan.parse("/vo/sub/Role=ops/Capability=NULL")
    assert matches("/vo/*", fqan)
    assert matches("/vo/sub/Role=ops", fqan)
    assert matches("/vo/sub/Role=ops/Capability=NULL", fqan)
    assert not matches("/vo/sub", fqan)
    assert matches("/vo/sub/Role=NULL/Capability=NULL", Fqan.parse("/vo/sub"))


# -- LSC --------------------------------------------------------------------------------------------------------


def test_an_lsc_file_lists_chains_of_names(pki: Pki) -> None:
    text = (
        "/DC=x/CN=other\n/DC=x/CN=ca\n------ NEXT CHAIN ------\n\n# ours\n"
        f'"{pki.ca.namespace}/OU=hosts/CN=alpha.localhost"\n{pki.ca.dn}\n{pki.ca.dn}\n{pki.ca.dn}\n'
    )
    lsc = parse_lsc(text, source="test")
    assert [len(chain) for chain in lsc.chains] == [1, 2]
    assert lsc.allows((pki.host.certificate,))
    assert lsc.allows((pki.host.certificate, pki.ca.certificate))
    assert not lsc.allows((pki.ca.certificate,))
    assert not lsc.allows((pki.alice.certificate,))
    assert not lsc.allows(())


@pytest.mark.parametrize("text", ["", "/CN=only a subject\n", "not a name\n/CN=ca\n", "------ NEXT CHAIN ------\n"])
def test_a_broken_lsc_file_is_refused(text: str) -> None:
    with pytest.raises(Invalid) as refusal:
        parse_lsc(text, source="test")
    assert refusal.value.code == "lsc"


# -- mapping ----------------------------------------------------------------------------------------------------

MAPPING = Mapping.parse(
    b'{"demo": {"tenant": "demo"}, "/demo/*": {"project": "any"}, "/demo/Role=ops": {"projects": ["ops", "demo"]},'
    b' "/ops/*/Role=x": {"project": "x"}}',
    source="voms.json",
)


def test_an_exact_key_goes_before_a_glob_and_an_fqan_before_the_vo() -> None:
    grants = MAPPING.grants(member("/demo", "/demo/sub", "/demo/Role=ops"))
    assert [(grant.project, grant.rule) for grant in grants] == [
        ("any", "/demo/*"),
        ("ops", "/demo/Role=ops"),
        ("demo", "/demo/Role=ops"),
    ]
    assert MAPPING.grant(member("/demo")).project == "demo"


def test_every_fqan_is_considered_not_only_the_first() -> None:
    assert MAPPING.grant(member("/unknown", "/demo/Role=ops")).project == "ops"


def test_the_project_may_be_chosen_among_those_granted() -> None:
    person = member("/demo/Role=ops")
    assert MAPPING.grant(person, "demo").project == "demo"
    with pytest.raises(Forbidden) as refusal:
        MAPPING.grant(person, "secret")
    assert refusal.value.code == "project_not_granted"
    assert "ops, demo" in refusal.value.message


def test_a_refusal_names_the_vo_and_what_is_accepted() -> None:
    with pytest.raises(Forbidden) as refusal:
        MAPPING.grant(member("/atlas"))
    assert refusal.value.code == "vo_not_accepted"
    assert "atlas" in refusal.value.message
    assert "demo" in refusal.value.message
    with pytest.raises(Forbidden) as refusal:
        MAPPING.grant(member())
    assert refusal.value.code == "no_vo"


@pytest.mark.parametrize("data", [b"", b"[]", b'{"demo": {}}', b'{"demo": {"projct": "x"}}', b'{"demo": 1}', b"\xff"])
def test_a_broken_mapping_is_refused(data: bytes) -> None:
    with pytest.raises(Invalid) as refusal:
        Mapping.parse(data, source="voms.json")
    assert refusal.value.code == "mapping"


def test_a_mapping_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "voms.json"
    path.write_text('{"demo": {"project": "d"}}')
    assert Mapping.load(path).grant(member("/demo/x")).project == "d"


# -- policy -----------------------------------------------------------------------------------------------------


def test_members_manage_their_own_and_the_manager_role_everything_of_the_vo() -> None:
    policy = Policy()
    assert policy.actions(member("/demo"), "demo") == {"read", "create", "change"}
    assert "administer" in policy.actions(member("/demo", "/demo/Role=VMManagement"), "demo")
    assert policy.actions(member("/demo", "/ops/Role=VMManagement"), "demo") == {"read", "create", "change"}
    with pytest.raises(Forbidden) as refusal:
        policy.require(member("/demo"), "demo", "administer")
    assert refusal.value.code == "not_permitted"


def test_a_limited_proxy_may_only_look() -> None:
    policy = Policy()
    policy.require(member("/demo", limited=True), "demo", "read")
    with pytest.raises(Forbidden) as refusal:
        policy.require(member("/demo", limited=True), "demo", "create")
    assert refusal.value.code == "limited_proxy"


def test_another_vos_member_may_nothing() -> None:
    with pytest.raises(Forbidden) as refusal:
        Policy().require(member("/demo"), "ops", "read")
    assert refusal.value.code == "not_a_member"


# -- bans -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["hello", 'dn "no name"', "fingerprint 12", "fqan vo"])
def test_a_line_that_bans_nobody_is_refused(line: str) -> None:
    with pytest.raises(Invalid) as refusal:
        parse_line(line)
    assert refusal.value.code == "ban"


def test_a_ban_is_told_from_a_dn_by_its_first_component() -> None:
    kinds = {line: ban.kind for line in ("/DC=x/CN=y", "/vo/Role=x", "/vo", '"/CN=a b"') if (ban := parse_line(line))}
    assert kinds == {"/DC=x/CN=y": "dn", "/vo/Role=x": "fqan", "/vo": "fqan", '"/CN=a b"': "dn"}
    assert parse_line("  # comment") is None
