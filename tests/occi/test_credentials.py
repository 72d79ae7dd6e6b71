"""The whole way: the `skyfed vm` command with a proxy file, TLS, the judge, the front door, the compute service."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from skyfed.core.errors import Forbidden, SkyfedError, Unauthenticated, Unavailable
from skyfed.identity import proxy
from skyfed.occi import cli
from skyfed.occi.client import Machine
from skyfed.pki.files import Credential
from skyfed.pki.tls import server_context
from support.aai import Authority, make_judge
from support.compute_site import KEY
from support.occi_front import Live
from support.pki import Pki, pki  # noqa: F401  # a fixture


@dataclass(frozen=True)
class Door:
    """A running site, and the authority it believes."""

    pki: Pki
    live: Live
    authority: Authority
    directory: Path

    def run(self, credential: Credential, *arguments: str) -> Result:
        """`skyfed vm …` with this credential."""
        path = self.directory / "x509up"
        proxy.write(credential, path)
        options = ["--endpoint", self.live.url, "--proxy", str(path), "--certificates", str(self.pki.certificates)]
        return CliRunner().invoke(cli.vm, [arguments[0], *options, *arguments[1:]])

    def refusal(self, credential: Credential, *arguments: str) -> SkyfedError:
        """What the command is refused with."""
        refused = self.run(credential, *arguments).exception
        assert isinstance(refused, SkyfedError), refused
        return refused


@pytest.fixture
def door(pki: Pki, tmp_path: Path) -> Iterator[Door]:  # noqa: F811  # the fixture by its name
    vomsdir = tmp_path / "vomsdir"
    authority = Authority("demo.skyfed", "voms.example.org", pki.ca.host("voms.example.org"))
    authority.trust_in(vomsdir)
    tls = server_context(pki.trust().anchors.pem(), pki.hostcert, pki.hostkey)
    with Live(tmp_path, tls=tls, judge=make_judge(pki.certificates, vomsdir)) as live:
        yield Door(pki, live, authority, tmp_path)


def test_a_member_makes_and_deletes_a_machine(door: Door):
    alice = door.authority.proxy(door.pki.alice)
    key = door.directory / "id.pub"
    key.write_text(KEY)
    made = door.run(
        alice, "create", "--image", "debian-12", "--flavour", "tiny", "--ssh-key", str(key), "--wait", "--json"
    )
    assert made.exit_code == 0, made.exception
    machine = msgspec.json.decode(made.stdout, type=Machine)
    assert machine.state == "active"
    assert machine.location == f"{door.live.url}/compute/{machine.id}"
    owner = door.live.front.site.service.get(machine.id, None).owner
    assert (owner.vo, owner.project, owner.fqans) == (
        "demo.skyfed",
        "demo",
        ("/demo.skyfed/Role=NULL/Capability=NULL",),
    )
    assert owner.subject.endswith("/CN=alice")
    assert door.run(alice, "delete", machine.id).exit_code == 0
    assert door.run(alice, "list").stdout == "no machines\n"


REFUSALS: dict[str, tuple[Callable[[Door], Credential], type[SkyfedError], str]] = {
    "a revoked certificate": (lambda d: d.authority.proxy(d.pki.revoked), Unauthenticated, "revoked"),
    "an expired certificate": (lambda d: d.pki.expired, Unauthenticated, "expired"),
    "a proxy without attributes": (lambda d: d.pki.alice, Forbidden, "no membership of a VO"),
    "another VO": (
        lambda d: _other_vo(d, "other.vo").proxy(d.pki.alice),
        Forbidden,
        "VO other.vo is not accepted here; accepted: demo.skyfed",
    ),
    "an unknown CA": (lambda d: d.authority.proxy(d.pki.stranger), Unavailable, "see 'skyfed proxy explain'"),
    "an unknown authority": (
        lambda d: Authority("demo.skyfed", "evil.example.org", d.pki.ca.host("evil.example.org")).proxy(d.pki.alice),
        Forbidden,
        "no rights in a VO here",
    ),
}


def _other_vo(door: Door, vo: str) -> Authority:
    authority = Authority(vo, "voms.other.org", door.pki.ca.host("voms.other.org"))
    authority.trust_in(door.directory / "vomsdir")
    return authority


@pytest.mark.parametrize("name", REFUSALS)
def test_a_credential_that_is_not_good_enough_is_refused_with_its_reason(door: Door, name: str):
    make, kind, words = REFUSALS[name]
    refusal = door.refusal(make(door), "list")
    assert isinstance(refusal, kind)
    assert words in refusal.message


def test_a_limited_proxy_may_list_but_not_create(door: Door):
    limited = door.authority.proxy(door.pki.alice, limited=True)
    assert door.run(limited, "list").exit_code == 0
    refusal = door.refusal(limited, "create", "--image", "debian-12", "--flavour", "tiny")
    assert isinstance(refusal, Forbidden)
    assert "limited" in refusal.message
    assert door.live.front.site.service.list(None) == ()
