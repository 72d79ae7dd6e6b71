"""The doors: who may ask what, and the client that asks."""

import json
from dataclasses import dataclass
from typing import Any

import pytest
from starlette.applications import Starlette

from registry.conftest import declaration
from skyfed.core import safexml
from skyfed.core.errors import Invalid, NotFound, TooLarge
from skyfed.core.http import Response
from skyfed.identity.verdict import Finding, Verdict
from skyfed.registry import formats, http
from skyfed.registry.client import RegistryClient
from skyfed.registry.model import CLOUD_ACCOUNTING, CertificationStatus, Infrastructure, Property, Service
from skyfed.registry.service import Registry
from support.asgi import accepted, call
from support.vectors import vectors


@pytest.fixture
def app(registry: Registry) -> Starlette:
    registry.apply(declaration(), changed_by="alice", source="alpha.toml")
    registry.apply(
        declaration(name="BETA", infrastructure="Test", giis_url="") | {"service": []},
        changed_by="alice",
        source="beta.toml",
    )
    return Starlette(routes=http.pi_routes(registry, "https://registry.example.org:8443", http.Readers()))


@dataclass
class InProcess:
    """Stands for core.http.Client: the registry's application, asked directly, with a credential."""

    app: Starlette

    def request(self, method: str, url: str, **_: Any) -> Response:
        target = url.removeprefix("https://registry.example.org:8443")
        answer = call(self.app, method, target, verdict=accepted())
        return Response(answer.status, answer.headers, answer.body, url)


@pytest.mark.parametrize("path", ["/gocdbpi/public", "/gocdbpi/public/", "/gocdbpi/private/index.php"])
def test_every_form_of_the_address_answers(app: Starlette, path: str) -> None:
    answer = call(app, "GET", f"{path}?method=get_site_list", verdict=accepted())
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/xml"
    assert 'NAME="ALPHA"' in answer.text


def test_site_contacts_need_a_credential(app: Starlette) -> None:
    recorded = (vectors("registry") / "pi" / "err_noauth_get_site.txt").read_text()
    answer = call(app, "GET", "/gocdbpi/public/?method=get_site")
    assert (answer.status, answer.text) == (200, recorded)


def test_a_refused_credential_learns_its_reason(app: Starlette) -> None:
    expired = Verdict(principal=None, findings=(Finding("expired", "the proxy expired at noon"),))
    answer = call(app, "GET", "/gocdbpi/public/?method=get_site", verdict=expired)
    assert "the proxy expired at noon" in answer.text
    banned = Verdict(principal=None, findings=(Finding("banned_dn", "this <name> is banned"),))
    answer = call(app, "GET", "/gocdbpi/public/?method=get_site", verdict=banned)
    assert (answer.status, "this &lt;name&gt; is banned" in answer.text) == (200, True)
    assert "support@alpha.example.org" not in answer.text


def test_any_known_person_reads_contacts_unless_readers_are_listed(app: Starlette, registry: Registry) -> None:
    target = "/gocdbpi/private/?method=get_site&sitename=ALPHA"
    assert "support@alpha.example.org" in call(app, "GET", target, verdict=accepted()).text
    readers = http.Readers(anybody_known=False, subjects=frozenset({"/DC=org/CN=Operator"}))
    strict = Starlette(routes=http.pi_routes(registry, "https://r.example.org", readers))
    assert "Authorisation required" in call(strict, "GET", target, verdict=accepted()).text
    assert "support@alpha" in call(strict, "GET", target, verdict=accepted("/DC=org/CN=Operator")).text


def test_only_the_public_door_is_public() -> None:
    assert http.is_public({"path": "/gocdbpi/public/"})
    assert http.is_public({"path": "/gocdbpi/public"})
    assert not http.is_public({"path": "/gocdbpi/publicity"})
    assert not http.is_public({"path": "/gocdbpi/private/"})
    assert not http.is_public({"path": "/"})


def test_links_of_a_page_carry_the_public_address(app: Starlette) -> None:
    text = call(app, "GET", "/gocdbpi/public/?method=get_service&next_cursor=0").text
    expected = "https://registry.example.org:8443/gocdbpi/public/?method=get_service&amp;next_cursor=2"
    assert f'<link rel="next" href="{expected}"/>' in text


def test_the_client_reads_what_the_registry_says(app: Starlette) -> None:
    client = RegistryClient(InProcess(app), "https://registry.example.org:8443/")  # type: ignore[arg-type]
    assert [s.name for s in client.site_list()] == ["ALPHA", "BETA"]
    production = client.site_list(
        certification=CertificationStatus.CERTIFIED, infrastructure=Infrastructure.PRODUCTION, scope=""
    )
    assert [(s.name, s.giis_url) for s in production] == [
        ("ALPHA", "ldap://bdii.alpha.example.org:2170/GLUE2DomainID=ALPHA,o=glue")
    ]
    assert [s.hostname for s in client.services(type=CLOUD_ACCOUNTING)] == ["acc.alpha.example.org"]
    assert client.services(site="ALPH_") == ()
    assert client.sites(name="ALPHA")[0].email == "support@alpha.example.org"
    assert "eu.egi.cloud.accounting" in {t.name for t in client.service_types()}


def test_a_host_certificate_belongs_to_the_site_that_registered_it(app: Starlette) -> None:
    client = RegistryClient(InProcess(app), "https://registry.example.org:8443")  # type: ignore[arg-type]
    assert client.site_of_accounting_dn("/DC=org/DC=example/CN=acc.alpha.example.org") == "ALPHA"
    assert client.site_of_accounting_dn("/DC=org/DC=example/CN=acc.alpha.example.or") is None
    assert client.site_of_accounting_dn("") is None


def test_several_names_of_one_host_stand_in_the_hostdn_property() -> None:
    service = Service(
        id=1,
        hostname="a.example.org",
        type=CLOUD_ACCOUNTING,
        site="A",
        host_dn="alternative",
        extensions=(Property(1, "HostDN", "</DC=org/CN=one> </DC=org/CN=two>"),),
    )
    assert service.host_dns == ("/DC=org/CN=one", "/DC=org/CN=two")


def test_an_error_text_of_the_registry_becomes_an_error(app: Starlette) -> None:
    with pytest.raises(Invalid, match="No valid identifier found"):
        formats.read_sites(b"No valid identifier found. Try ...")
    with pytest.raises(Invalid, match="not well-formed"):
        formats.read_sites(b"<?xml version='1.0'?><results><SITE>")
    with pytest.raises(Invalid, match="not 'results'"):
        formats.read_sites(b"<?xml version='1.0'?><html/>")


def test_documents_with_a_doctype_or_too_much_in_them_are_refused() -> None:
    bomb = b'<?xml version="1.0"?><!DOCTYPE r [<!ENTITY a "aaaa">]><results>&a;</results>'
    with pytest.raises(Invalid, match="document type"):
        formats.read_sites(bomb)
    with pytest.raises(TooLarge):
        safexml.parse(b"<a>" * 100 + b"</a>" * 100, max_bytes=10_000, max_depth=50)
    with pytest.raises(TooLarge):
        safexml.parse(b"<a/>", max_bytes=3)
    with pytest.raises(TooLarge):
        safexml.parse(b"<a>" + b"<b/>" * 50 + b"</a>", max_bytes=10_000, max_elements=20)


def test_the_administration_api_applies_and_changes(registry: Registry) -> None:
    admin = Starlette(routes=http.admin_routes(registry))
    applied = call(admin, "POST", "/sites", body=json.dumps({"declaration": declaration(), "source": "a"}).encode())
    assert [c["action"] for c in json.loads(applied.body)] == ["create"] * 4
    answer = call(admin, "PUT", "/sites/ALPHA/infrastructure", body=b'{"infrastructure": "Test"}')
    assert json.loads(answer.body)["infrastructure"] == "Test"
    reason = json.dumps({"status": "Suspended", "reason": "incident"}).encode()
    answer = call(admin, "PUT", "/sites/ALPHA/certification", body=reason)
    assert json.loads(answer.body)["certification_status"] == "Suspended"
    record = json.loads(call(admin, "GET", "/sites/ALPHA").body)
    assert record["certification_log"][0]["reason"] == "incident"
    assert len(json.loads(call(admin, "GET", "/services").body)) == 2
    assert json.loads(call(admin, "GET", "/sites?at=2020-01-01T00:00:00Z").body) == []


def test_the_administration_api_says_what_is_wrong(registry: Registry) -> None:
    admin = Starlette(routes=http.admin_routes(registry))
    with pytest.raises(Invalid, match="unknown field `x`"):
        call(admin, "POST", "/sites", body=b'{"declaration": {}, "x": 1}')
    with pytest.raises(NotFound):
        call(admin, "GET", "/sites/NOBODY")
    with pytest.raises(Invalid, match="it must be an instant"):
        call(admin, "GET", "/sites?at=yesterday")
