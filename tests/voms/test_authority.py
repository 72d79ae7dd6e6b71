"""The attribute authority's decisions: who gets what, for how long, and what is written down."""

import time
from datetime import timedelta

import pytest

from skyfed.core.clock import SystemClock, iso
from skyfed.core.errors import Conflict, Forbidden, Invalid, NotFound, SkyfedError
from skyfed.identity import ac, proxy
from skyfed.identity.fqan import Fqan
from skyfed.identity.judge import Judge
from skyfed.identity.vomsdir import Vomsdir
from skyfed.pki import names
from skyfed.pki.files import Credential
from skyfed.pki.trust import TrustStore
from skyfed.voms.client import AaClient, contacts_for, load_contacts
from skyfed.voms.model import AcRequest, Answer, AuthorityFault, Command, Membership, command_for
from skyfed.voms.selection import held, select
from support.aai import chain_der
from support.pki import NOW, Pki
from support.voms import Service, wanted, who


def ask(service: Service, credential: Credential, *fqans: str, vo: str = "testvo", **more: object) -> Answer:
    """What our client gets for `fqans`."""
    trust = TrustStore(service.pki.certificates, SystemClock())
    contacts = contacts_for(load_contacts((service.vomses,)), vo, ())
    request = AcRequest(tuple(map(command_for, fqans)), **more)  # type: ignore[arg-type]
    return AaClient(trust, credential).attribute_certificate(contacts, request)


def issued(answer: Answer) -> list[str]:
    return [fqan.short for fqan in ac.decode(answer.ac).fqans]


def judge(service: Service) -> Judge:
    clock = SystemClock()
    return Judge(TrustStore(service.pki.certificates, clock), Vomsdir(service.vomsdir, clock), [], clock)


def test_what_the_authority_gives_a_site_believes(service: Service, pki: Pki) -> None:
    answer = ask(service, pki.alice, "/testvo/Role=VMManagement")
    assert answer.notices == ()
    made = proxy.create(pki.alice, proxy.Proxy(key="ec", acs=(answer.ac,)), SystemClock().now())
    verdict = judge(service).judge(chain_der(made))
    assert verdict.vo_reason is None
    assert verdict.principal is not None
    assert verdict.principal.fqans[0] == "/testvo/Role=VMManagement/Capability=NULL"
    decoded = ac.decode(answer.ac)
    assert decoded.authority == ac.PolicyAuthority("testvo", "localhost", service.port)
    assert names.same_name(decoded.holder_issuer, pki.alice.certificate.issuer)
    assert decoded.holder_serial == pki.alice.certificate.serial_number


def test_a_proxy_asks_in_its_owners_name_and_the_certificate_is_the_owners(service: Service, pki: Pki) -> None:
    plain = proxy.create(pki.alice, proxy.Proxy(key="ec"), SystemClock().now())
    decoded = ac.decode(ask(service, plain, "/testvo").ac)
    assert decoded.holder_serial == pki.alice.certificate.serial_number


def test_a_proxy_that_holds_attributes_gets_no_more_than_those(service: Service, pki: Pki) -> None:
    narrow = ask(service, pki.alice, "/testvo")
    holding = proxy.create(pki.alice, proxy.Proxy(key="ec", acs=(narrow.ac,)), SystemClock().now())
    again = ask(service, holding, "all")
    assert issued(again) == ["/testvo", "/testvo/sub", "/testvo/sub/deep"]
    assert [notice.number for notice in again.notices] == [3]
    with pytest.raises(Invalid):
        ask(service, holding, "/testvo/Role=nothing")


def test_the_lifetime_is_bounded_by_the_vo_and_by_the_certificate(service: Service, pki: Pki) -> None:
    def seconds(answer: Answer) -> float:
        decoded = ac.decode(answer.ac)
        return (decoded.not_after - decoded.not_before).total_seconds()

    assert seconds(ask(service, pki.alice, "/testvo", lifetime=600)) == 600
    assert seconds(ask(service, pki.alice, "/testvo")) == 86_400
    longer = ask(service, pki.alice, "/testvo", lifetime=10**6)
    assert seconds(longer) == 86_400
    assert [notice.number for notice in longer.notices] == [2]
    brief = pki.ca.user("brief", lifetime=timedelta(hours=2))
    service.admin.json("POST", "/vos/testvo/members", _json(brief))
    assert seconds(ask(service, brief, "/testvo", lifetime=86_400)) < 2 * 3600 + 60


def test_targets_restrict_the_certificate(service: Service, pki: Pki) -> None:
    decoded = ac.decode(ask(service, pki.alice, "/testvo", targets=("vm.example.org", "b")).ac)
    assert decoded.targets == ("vm.example.org", "b")


@pytest.mark.parametrize(("name", "code"), [("revoked", "revoked"), ("expired", "expired")])
def test_a_bad_credential_is_told_its_reason(service: Service, pki: Pki, name: str, code: str) -> None:
    answer = service.exchange(getattr(pki, name), b"GET /generate-ac?fqans=/testvo HTTP/1.0\n\n")
    assert answer.startswith(b"HTTP/1.1 403")
    assert f"({code})".encode() in answer


def test_a_limited_lifetime_of_membership_ends_by_itself(service: Service, pki: Pki) -> None:
    past = pki.ca.user("past")
    service.admin.json("POST", "/vos/testvo/members", _json(past) | {"until": iso(NOW - timedelta(days=1))})
    with pytest.raises(Forbidden) as refusal:
        ask(service, past, "/testvo")
    assert refusal.value.code == "suspended_user"
    assert "membership expired" in refusal.value.message


def test_a_ban_of_the_vo_service_counts_at_once(service: Service, pki: Pki) -> None:
    line = f'"{who(pki.alice).subject}"'
    service.admin.json("POST", "/bans", {"who": line, "reason": "key found on the web"})
    try:
        with pytest.raises(Forbidden) as refusal:
            ask(service, pki.alice, "/testvo")
        assert "key found on the web" in refusal.value.message
        assert service.admin.json("GET", "/bans")[0]["kind"] == "dn"
    finally:
        service.admin.json("POST", "/bans/remove", {"who": line})
    assert issued(ask(service, pki.alice, "/testvo"))


def test_a_ban_of_the_node_counts_within_a_second(service: Service, pki: Pki) -> None:
    service.bans.write_text(f"{who(pki.robot).subject}\n")
    try:
        assert _eventually(lambda: _code(service, pki.robot) == "ac_refused")
    finally:
        service.bans.unlink()
    assert _eventually(lambda: _code(service, pki.robot) == "")


def _code(service: Service, credential: Credential) -> str:
    try:
        ask(service, credential, "/ops", vo="ops")
    except SkyfedError as error:
        return error.code
    return ""


def _eventually(condition: object) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if condition():  # type: ignore[operator]
            return True
    return False


def test_a_request_without_a_vo_means_the_only_one(service: Service, pki: Pki) -> None:
    assert issued(ask(service, pki.robot, vo="ops")) == ["/ops"]
    both = pki.ca.user("both")
    for vo in ("testvo", "ops"):
        service.admin.json("POST", f"/vos/{vo}/members", _json(both))
    with pytest.raises(Invalid) as refusal:
        ask(service, both)
    assert "ops, testvo" in refusal.value.message
    assert issued(ask(service, both, "/ops", vo="ops")) == ["/ops"]


def test_every_certificate_is_written_down_with_its_serial_number(service: Service, pki: Pki) -> None:
    serial = f"{ac.decode(ask(service, pki.alice, '/testvo/Role=VMManagement', targets=('t',)).ac).serial:x}"
    records = service.admin.json("POST", "/vos/testvo/members/issued", _json(pki.alice))
    record = next(r for r in records if r["serial"] == serial)
    assert record["fqans"][0] == "/testvo/Role=VMManagement"
    assert record["targets"] == ["t"]
    assert record["holder_serial"] == f"{pki.alice.certificate.serial_number:x}"
    assert record["peer"] == "127.0.0.1"


# -- administration ---------------------------------------------------------------------------------------------


def _json(credential: Credential) -> dict[str, object]:
    named = who(credential)
    return {"subject": named.subject, "issuer": named.issuer}


def test_membership_is_administered_over_the_socket(service: Service, pki: Pki) -> None:
    admin = service.admin
    admin.json("POST", "/vos", {"name": "made", "description": "By hand", "max_ac_seconds": 3600})
    admin.json("POST", "/vos/made/groups", {"path": "/made/lab"})
    admin.json("POST", "/vos/made/roles", {"name": "pi"})
    member = admin.json("POST", "/vos/made/members", _json(pki.bob) | {"name": "Bob", "email": "bob@example.org"})
    assert (member["name"], member["groups"], member["roles"]) == ("Bob", [], [])
    granted = admin.json("POST", "/vos/made/members/grant", _json(pki.bob) | {"fqan": "/made/lab/Role=pi"})
    assert (granted["groups"], granted["roles"]) == (["/made/lab"], ["/made/lab/Role=pi"])
    service.publish("testvo", "ops", "made")
    try:
        assert issued(ask(service, pki.bob, "/made/lab/Role=pi", vo="made"))[0] == "/made/lab/Role=pi"
        assert issued(ask(service, pki.bob, vo="made")) == ["/made", "/made/lab"]
    finally:
        service.publish("testvo", "ops")
    left = admin.json("POST", "/vos/made/members/revoke", _json(pki.bob) | {"fqan": "/made/lab"})
    assert (left["groups"], left["roles"]) == ([], [])
    shown = admin.json("GET", "/vos/made")
    assert (shown["groups"], shown["roles"], shown["members"]) == (["/made", "/made/lab"], ["pi"], 1)
    admin.json("POST", "/vos/made/members/remove", _json(pki.bob))
    assert admin.json("GET", "/vos/made/members") == []
    assert admin.json("GET", "/health")["ok"]


def test_names_in_any_spelling_mean_one_member(service: Service, pki: Pki) -> None:
    named = {"subject": names.rfc4514(pki.alice.certificate.subject), "issuer": who(pki.alice).issuer}
    with pytest.raises(Conflict) as refusal:
        service.admin.json("POST", "/vos/testvo/members", named)
    assert refusal.value.code == "member_exists"


@pytest.mark.parametrize(
    ("path", "body", "kind", "code"),
    [
        ("/vos", {"name": "testvo"}, Conflict, "vo_exists"),
        ("/vos", {"name": "../etc"}, Invalid, "name"),
        ("/vos", {"name": "x", "max_ac_seconds": 1}, Invalid, "body"),
        ("/vos/none/roles", {"name": "r"}, NotFound, "no_such_vo"),
        ("/vos/testvo/roles", {"name": "a b"}, Invalid, "name"),
        ("/vos/testvo/roles", {"name": "NULL"}, Invalid, "name"),
        ("/vos/testvo/roles", {"name": "ops"}, Conflict, "role_exists"),
        ("/vos/testvo/groups", {"path": "/testvo/none/x"}, NotFound, "no_such_group"),
        ("/vos/testvo/groups", {"path": "/ops/x"}, Invalid, "group_path"),
        ("/vos/testvo/groups", {"path": "/testvo"}, Invalid, "group_path"),
        ("/vos/testvo/groups", {"path": "/testvo/sub"}, Conflict, "group_exists"),
        ("/vos/testvo/members", {"subject": "alice", "issuer": "/CN=ca"}, Invalid, "dn_syntax"),
        ("/vos/testvo/members", {"subject": "/CN=a"}, Invalid, "body"),
        ("/vos/testvo/members/remove", {"subject": "/CN=a", "issuer": "/CN=b"}, NotFound, "no_such_member"),
        ("/bans", {"who": "nobody"}, Invalid, "ban"),
        ("/bans/remove", {"who": "/CN=nobody"}, NotFound, "no_such_ban"),
    ],
)
def test_what_makes_no_sense_is_refused(
    service: Service, path: str, body: dict[str, object], kind: type[SkyfedError], code: str
) -> None:
    with pytest.raises(kind) as refusal:
        service.admin.json("POST", path, body)
    assert refusal.value.code == code


def test_a_declaration_is_applied_twice_without_harm(service: Service, pki: Pki) -> None:
    import msgspec

    carol = pki.ca.user("carol")
    vo = {
        "name": "declared",
        "groups": ["/declared/a/b"],
        "roles": ["r"],
        "members": [msgspec.to_builtins(wanted(carol, roles=("/declared/a/Role=r",)))],
    }
    for _ in range(2):
        (detail,) = service.admin.json("POST", "/apply", {"vos": [vo]})
        assert detail["groups"] == ["/declared", "/declared/a", "/declared/a/b"]
        assert detail["members"] == 1
    (member,) = service.admin.json("GET", "/vos/declared/members")
    assert member["roles"] == ["/declared/a/Role=r"]


# -- selection --------------------------------------------------------------------------------------------------

MEMBER = Membership(
    "vo", "/CN=a", "/CN=ca", groups=("/vo/a/b",), roles=("/vo/Role=x", "/vo/a/b/Role=y", "/vo/gone/Role=z")
)


def shorts(request: AcRequest, already: tuple[str, ...] = ()) -> list[str]:
    return [fqan.short for fqan in select(MEMBER, request, tuple(map(Fqan.parse, already))).fqans]


def test_a_member_of_a_group_is_one_of_its_parents_and_roles_end_with_the_group() -> None:
    assert [fqan.short for fqan in held(MEMBER)] == ["/vo", "/vo/Role=x", "/vo/a", "/vo/a/b", "/vo/a/b/Role=y"]


def test_roles_are_given_only_when_asked_for() -> None:
    groups = ["/vo", "/vo/a", "/vo/a/b"]
    assert shorts(AcRequest()) == groups
    assert shorts(AcRequest((Command("group", "/vo/a"),))) == ["/vo/a", "/vo", "/vo/a/b"]
    assert shorts(AcRequest((Command("role", "/vo/a/b", "y"),))) == ["/vo/a/b/Role=y", *groups]
    assert shorts(AcRequest((Command("role_everywhere", role="x"),))) == ["/vo", "/vo/Role=x", "/vo/a", "/vo/a/b"]


def test_what_is_not_held_fails_the_whole_request() -> None:
    for command in (Command("group", "/vo/z"), Command("role", "/vo", "y"), Command("role_everywhere", role="z")):
        with pytest.raises(AuthorityFault) as refusal:
            select(MEMBER, AcRequest((Command("group", "/vo"), command)))
        assert refusal.value.text == f"vo: Unable to satisfy {command.text} request!"


def test_an_order_moves_what_it_names_to_the_front() -> None:
    order = tuple(map(Fqan.parse, ("/vo/a/b", "/vo/none", "/vo/a")))
    assert shorts(AcRequest(order=order)) == ["/vo/a/b", "/vo/a", "/vo"]


def test_a_proxys_own_attributes_are_the_most_it_gets() -> None:
    assert shorts(AcRequest((Command("all"),)), ("/vo/a", "/vo/Role=x")) == ["/vo/Role=x", "/vo/a"]
    with pytest.raises(AuthorityFault):
        select(MEMBER, AcRequest(), (Fqan("/vo/elsewhere"),))
