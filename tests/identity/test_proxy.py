"""Making proxies: what we write, every reader accepts."""

import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from skyfed.core.errors import Invalid
from skyfed.identity import pci, proxy
from skyfed.identity.chain import split
from skyfed.pki.files import Credential, pem_certificate, pem_key
from support.aai import Authority, chain_der, make_judge
from support.peers import need
from support.pki import NOW, Pki

KINDS = {
    "default": proxy.Proxy(),
    "limited": proxy.Proxy(limited=True, key="ec"),
    "path length": proxy.Proxy(path_length=0, key="ec"),
    "elliptic": proxy.Proxy(key="ec"),
}


def created(issuer: Credential, wanted: proxy.Proxy | None = None) -> Credential:
    return proxy.create(issuer, wanted or proxy.Proxy(key="ec"), NOW)


@pytest.mark.peer
@pytest.mark.parametrize("kind", KINDS)
def test_openssl_accepts_the_proxy(pki: Pki, tmp_path: Path, kind: str) -> None:
    made = created(pki.alice, KINDS[kind])
    _openssl_verify(pki, made, tmp_path)


@pytest.mark.peer
def test_openssl_accepts_a_proxy_of_a_proxy_of_a_proxy(pki: Pki, tmp_path: Path) -> None:
    third = created(created(created(pki.alice, proxy.Proxy(key="ec", path_length=2))))
    _openssl_verify(pki, third, tmp_path)


@pytest.mark.peer
def test_openssl_accepts_a_proxy_of_an_elliptic_curve_certificate(pki: Pki, tmp_path: Path) -> None:
    person = pki.ca.issue(f"{pki.ca.namespace}/OU=people/CN=ec", key=ec.generate_private_key(ec.SECP256R1()))
    _openssl_verify(pki, created(person, proxy.Proxy()), tmp_path)


def _openssl_verify(pki: Pki, made: Credential, folder: Path) -> None:
    leaf, above = folder / "leaf.pem", folder / "above.pem"
    leaf.write_bytes(pem_certificate(made.certificate))
    above.write_bytes(b"".join(map(pem_certificate, made.chain)))
    command = [
        need("openssl"), "verify", "-x509_strict", "-allow_proxy_certs", "-CApath", pki.certificates,
        "-untrusted", above, leaf,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_proxy_is_its_issuers_name_and_the_serial_number(pki: Pki) -> None:
    made = created(pki.alice)
    link = split(proxy.chain_of(made)).proxies[0]
    assert link.certificate.subject.rdns[:-1] == pki.alice.certificate.subject.rdns
    added = next(iter(link.certificate.subject.rdns[-1]))
    assert added.value == str(link.certificate.serial_number)
    assert link.info == pci.ProxyCertInfo(pci.INHERIT_ALL)
    assert link.certificate.not_valid_before_utc == NOW - timedelta(minutes=5)
    assert link.certificate.not_valid_after_utc == NOW + timedelta(hours=12)
    assert isinstance(created(pki.alice, proxy.Proxy()).key, rsa.RSAPrivateKey)


def test_a_proxy_ends_no_later_than_its_issuers(pki: Pki) -> None:
    first = created(pki.alice, proxy.Proxy(key="ec", lifetime=timedelta(hours=1)))
    second = created(first, proxy.Proxy(key="ec", lifetime=timedelta(hours=9)))
    assert second.certificate.not_valid_after_utc == NOW + timedelta(hours=1)


def test_the_limitation_is_inherited(pki: Pki, tmp_path: Path) -> None:
    second = created(created(pki.alice, proxy.Proxy(key="ec", limited=True)))
    assert split(proxy.chain_of(second)).proxies[0].limited
    verdict = make_judge(pki.certificates, tmp_path).judge(chain_der(second))
    assert verdict.principal is not None
    assert verdict.principal.limited
    assert verdict.findings == ()


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        (proxy.Proxy(lifetime=timedelta()), "lifetime"),
        (proxy.Proxy(lifetime=timedelta(hours=-1)), "lifetime"),
        (proxy.Proxy(rsa_bits=1024), "key_bits"),
        (proxy.Proxy(rsa_bits=100_000), "key_bits"),
        (proxy.Proxy(path_length=-1), "path_length"),
    ],
)
def test_impossible_wishes_are_refused(pki: Pki, wanted: proxy.Proxy, code: str) -> None:
    with pytest.raises(Invalid) as refusal:
        created(pki.alice, wanted)
    assert refusal.value.code == code


def test_an_issuer_that_cannot_delegate_is_refused(pki: Pki) -> None:
    with pytest.raises(Invalid) as refusal:
        created(created(pki.alice, proxy.Proxy(key="ec", path_length=0)))
    assert refusal.value.code == "proxy_path_length"
    with pytest.raises(Invalid) as refusal:
        created(created(created(pki.alice, proxy.Proxy(key="ec", path_length=1))))
    assert refusal.value.code == "proxy_path_length"
    with pytest.raises(Invalid) as refusal:
        created(pki.expired)
    assert refusal.value.code == "expired"


# -- files ------------------------------------------------------------------------------------------------------


def test_the_file_holds_proxy_key_and_issuers_in_that_order_for_its_owner_only(pki: Pki, tmp_path: Path) -> None:
    made = created(pki.alice, proxy.Proxy())
    path = tmp_path / "x509up"
    proxy.write(made, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    labels = [line for line in path.read_text().splitlines() if line.startswith("-----BEGIN")]
    assert labels == [
        "-----BEGIN CERTIFICATE-----",
        "-----BEGIN RSA PRIVATE KEY-----",
        "-----BEGIN CERTIFICATE-----",
    ]
    assert chain_der(proxy.read(path)) == chain_der(made)


def test_a_link_in_the_way_is_replaced_and_its_target_untouched(pki: Pki, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path = tmp_path / "x509up"
    path.symlink_to(victim)
    proxy.write(created(pki.alice), path)
    assert victim.read_text() == "precious"
    assert not path.is_symlink()


def test_files_of_other_clients_are_read(pki: Pki) -> None:
    made = created(created(pki.alice))
    first, *rest = map(pem_certificate, proxy.chain_of(made))
    pkcs8 = made.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    root = pem_certificate(pki.ca.certificate)
    shuffled = b"Bag Attributes\n" + first + b"subject=x\n" + root + b"".join(reversed(rest)) + pkcs8
    for data in (shuffled, shuffled.replace(b"\n", b"\r\n")):
        assert chain_der(proxy.decode(data, source="test")) == chain_der(made)


@pytest.mark.parametrize(
    ("build", "code"),
    [
        (lambda p: b"", "pem_syntax"),
        (lambda p: pem_key(p.alice.key), "no_certificate"),
        (lambda p: pem_certificate(p.alice.certificate), "no_key"),
        (lambda p: pem_certificate(p.alice.certificate) + pem_key(p.bob.key), "key_mismatch"),
        (lambda p: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "pem_syntax"),
        (lambda p: b"x" * (2 << 20), "pem_size"),
    ],
)
def test_a_file_that_is_no_credential_is_refused(pki: Pki, build: object, code: str) -> None:
    with pytest.raises(Invalid) as refusal:
        proxy.decode(build(pki), source="test")  # type: ignore[operator]
    assert refusal.value.code == code


def test_the_nearest_attribute_certificate_of_a_vo_wins(pki: Pki, tmp_path: Path) -> None:
    authority = Authority("testvo", "aa.example.org", pki.host)
    authority.trust_in(tmp_path)
    outer = authority.proxy(pki.alice, ("/testvo", "/testvo/Role=admin"))
    narrow = authority.ac(pki.alice.certificate, ("/testvo",))
    inner = proxy.create(outer, proxy.Proxy(key="ec", acs=(narrow,)), datetime.now(UTC))
    judge = make_judge(pki.certificates, tmp_path)
    verdict = judge.judge(chain_der(inner))
    assert verdict.principal is not None
    assert verdict.principal.fqans == ("/testvo/Role=NULL/Capability=NULL",)
    assert len(judge.judge(chain_der(outer)).principal.fqans) == 2  # type: ignore[union-attr]
    bad = authority.ac(pki.bob.certificate, ("/testvo",))
    with_bad = proxy.create(outer, proxy.Proxy(key="ec", acs=(bad,)), datetime.now(UTC))
    verdict = judge.judge(chain_der(with_bad))
    assert verdict.principal is not None
    assert verdict.principal.vos == ()
    assert verdict.vo_reason is not None
    assert verdict.vo_reason.code == "ac_holder"
