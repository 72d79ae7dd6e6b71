"""Proxy chains: what RFC 3820 forbids is refused for its own reason."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from skyfed.core.clock import FixedClock
from skyfed.core.errors import Invalid
from skyfed.identity import pci, proxy
from skyfed.identity.judge import Judge, JudgeSettings
from skyfed.identity.verdict import Verdict
from skyfed.pki.files import Credential
from support.aai import chain_der, make_judge
from support.pki import NOW, Pki

DIGITAL_SIGNATURE = dict.fromkeys(
    ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign"), False
) | {"digital_signature": True, "encipher_only": False, "decipher_only": False}


@dataclass
class Draft:
    """A proxy certificate with any rule broken at will; unbroken as it stands."""

    issuer: Credential
    info: pci.ProxyCertInfo | None = field(default_factory=lambda: pci.ProxyCertInfo(pci.INHERIT_ALL))
    info_oid: x509.ObjectIdentifier = pci.PROXY_CERT_INFO
    info_der: bytes | None = None
    info_critical: bool = True
    added: tuple[x509.NameAttribute[str], ...] = (x509.NameAttribute(NameOID.COMMON_NAME, "1234"),)
    subject: x509.Name | None = None
    usage: dict[str, bool] = field(default_factory=lambda: dict(DIGITAL_SIGNATURE))
    begins: datetime = NOW - timedelta(minutes=5)
    ends: datetime = NOW + timedelta(hours=1)
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = ()
    digest: hashes.SHA256 | hashes.SHA1 = field(default_factory=hashes.SHA256)
    sign_with: object | None = None
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )

    def credential(self) -> Credential:
        above = self.issuer.certificate.subject
        subject = self.subject or x509.Name([*above.rdns, *(x509.RelativeDistinguishedName([a]) for a in self.added)])
        builder = x509.CertificateBuilder().issuer_name(above).subject_name(subject)
        builder = builder.serial_number(1234).not_valid_before(self.begins).not_valid_after(self.ends)
        builder = builder.public_key(self.key.public_key())
        if self.info is not None or self.info_der is not None:
            value = self.info_der if self.info_der is not None else pci.encode(self.info)  # type: ignore[arg-type]
            builder = builder.add_extension(x509.UnrecognizedExtension(self.info_oid, value), self.info_critical)
        builder = builder.add_extension(x509.KeyUsage(**self.usage), critical=True)
        for extension, critical in self.extensions:
            builder = builder.add_extension(extension, critical)
        key = self.sign_with or self.issuer.key
        certificate = builder.sign(key, self.digest)  # type: ignore[arg-type]
        return Credential(certificate, self.key, proxy.chain_of(self.issuer))


@pytest.fixture(name="judge", scope="module")
def _judge(pki: Pki, tmp_path_factory: pytest.TempPathFactory) -> Judge:
    return make_judge(pki.certificates, tmp_path_factory.mktemp("vomsdir"), clock=FixedClock(NOW))


def codes(verdict: Verdict) -> set[str]:
    return {finding.code for finding in verdict.findings if finding.level == "error"}


def test_the_unbroken_draft_is_accepted(pki: Pki, judge: Judge) -> None:
    verdict = judge.judge(chain_der(Draft(pki.alice).credential()))
    assert verdict.findings == ()
    assert verdict.principal is not None
    assert verdict.principal.kind == "proxy"
    assert verdict.principal.subject.endswith("/OU=people/CN=alice")
    assert verdict.principal.not_after == NOW + timedelta(hours=1)


Break = Callable[[Pki], Draft]
BROKEN: dict[str, tuple[Break, str]] = {
    "expired": (lambda p: Draft(p.alice, ends=NOW - timedelta(seconds=1)), "expired"),
    "not yet valid": (lambda p: Draft(p.alice, begins=NOW + timedelta(minutes=10)), "not_yet_valid"),
    "signed by another": (lambda p: Draft(p.alice, sign_with=p.bob.key), "proxy_signature"),
    "two names added": (
        lambda p: Draft(p.alice, added=(x509.NameAttribute(NameOID.COMMON_NAME, "1"),) * 2),
        "proxy_name",
    ),
    "another attribute added": (
        lambda p: Draft(p.alice, added=(x509.NameAttribute(NameOID.USER_ID, "root"),)),
        "proxy_name",
    ),
    "no name added": (lambda p: Draft(p.alice, added=()), "proxy_name"),
    "another's name": (lambda p: Draft(p.alice, subject=p.bob.certificate.subject), "proxy_name"),
    "plain ProxyCertInfo": (lambda p: Draft(p.alice, info_critical=False), "proxy_info"),
    "garbled ProxyCertInfo": (lambda p: Draft(p.alice, info_der=b"\x30\x00"), "proxy_info"),
    "policy text with inherit all": (
        lambda p: Draft(p.alice, info=pci.ProxyCertInfo(pci.INHERIT_ALL, None, b"x")),
        "proxy_info",
    ),
    "independent": (lambda p: Draft(p.alice, info=pci.ProxyCertInfo(pci.INDEPENDENT)), "independent_proxy"),
    "any language": (lambda p: Draft(p.alice, info=pci.ProxyCertInfo(pci.ANY_LANGUAGE)), "proxy_language"),
    "may sign certificates": (
        lambda p: Draft(p.alice, usage=DIGITAL_SIGNATURE | {"key_cert_sign": True}),
        "key_usage",
    ),
    "may not sign": (lambda p: Draft(p.alice, usage=DIGITAL_SIGNATURE | {"digital_signature": False}), "key_usage"),
    "calls itself a CA": (
        lambda p: Draft(p.alice, extensions=((x509.BasicConstraints(True, None), True),)),
        "proxy_is_ca",
    ),
    "alternative name": (
        lambda p: Draft(p.alice, extensions=((x509.SubjectAlternativeName([x509.DNSName("x")]), False),)),
        "proxy_extension",
    ),
    "unknown critical extension": (
        lambda p: Draft(
            p.alice, extensions=((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\x05\x00"), True),)
        ),
        "critical_extension",
    ),
    "short key": (lambda p: Draft(p.alice, key=rsa.generate_private_key(65537, 1024)), "weak_key"),
    "gt3": (
        lambda p: Draft(
            p.alice,
            info_oid=pci.DRAFT_PROXY_CERT_INFO,
            info_der=bytes.fromhex("300c300a06082b06010505071501"),
        ),
        "legacy_proxy",
    ),
    "gt2": (
        lambda p: Draft(p.alice, info=None, added=(x509.NameAttribute(NameOID.COMMON_NAME, "proxy"),)),
        "legacy_proxy",
    ),
    "below a revoked certificate": (lambda p: Draft(p.revoked), "revoked"),
    "below an expired certificate": (lambda p: Draft(p.expired), "expired"),
    "below an unknown CA": (lambda p: Draft(p.stranger), "bad_signature"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_proxy_is_refused_for_its_own_reason(pki: Pki, judge: Judge, name: str) -> None:
    draft, code = BROKEN[name]
    verdict = judge.judge(chain_der(draft(pki).credential()))
    assert verdict.principal is None
    assert codes(verdict) == {code}


def test_a_proxy_below_a_ca_certificate_is_refused(pki: Pki, judge: Judge) -> None:
    ca = Credential(pki.ca.certificate, pki.ca._key)
    verdict = judge.judge(chain_der(Draft(ca).credential()))
    assert verdict.principal is None
    assert "proxy_of_ca" in codes(verdict)
    assert "ca_as_end_entity" in codes(judge.judge((ca.certificate.public_bytes(serialization.Encoding.DER),)))


def test_a_chain_without_its_person_is_refused(pki: Pki, judge: Judge) -> None:
    assert codes(judge.judge(chain_der(Draft(pki.alice).credential())[:1])) == {"no_end_entity"}
    assert codes(judge.judge(())) == {"no_certificate"}
    assert codes(judge.judge((b"garbage",))) == {"malformed"}
    assert codes(judge.judge(chain_der(pki.alice) * 11)) == {"chain_length"}


def test_a_chain_in_the_wrong_order_is_refused(pki: Pki, judge: Judge) -> None:
    other = chain_der(Draft(pki.bob).credential())
    mine = chain_der(Draft(pki.alice).credential())
    assert "proxy_issuer" in codes(judge.judge((mine[0], other[0], other[1])))


def test_path_length_counts_the_proxies_below(pki: Pki, judge: Judge) -> None:
    first = Draft(pki.alice, info=pci.ProxyCertInfo(pci.INHERIT_ALL, 1)).credential()
    second = Draft(first).credential()
    assert judge.judge(chain_der(second)).ok
    third = Draft(second).credential()
    assert codes(judge.judge(chain_der(third))) == {"proxy_path_length"}


def test_a_limitation_anywhere_limits_the_whole_chain(pki: Pki, judge: Judge) -> None:
    limited = Draft(pki.alice, info=pci.ProxyCertInfo(pci.LIMITED)).credential()
    verdict = judge.judge(chain_der(Draft(limited).credential()))
    assert verdict.principal is not None
    assert verdict.principal.limited
    assert [finding.code for finding in verdict.findings] == ["full_below_limited"]


def test_kinds_of_proxies_may_not_be_mixed(pki: Pki, judge: Judge) -> None:
    old = Draft(pki.alice, info=None, added=(x509.NameAttribute(NameOID.COMMON_NAME, "proxy"),)).credential()
    assert "mixed_proxies" in codes(judge.judge(chain_der(Draft(old).credential())))


def test_a_person_without_a_proxy_is_known_too(pki: Pki, judge: Judge) -> None:
    verdict = judge.judge(chain_der(pki.alice))
    assert verdict.principal is not None
    assert (verdict.principal.kind, verdict.principal.vos) == ("certificate", ())
    assert codes(judge.judge(chain_der(pki.revoked))) == {"revoked"}
    assert codes(judge.judge(chain_der(pki.expired))) == {"expired"}
    assert codes(judge.judge(chain_der(pki.stranger))) == {"bad_signature"}


_languages = st.sampled_from([pci.INHERIT_ALL, pci.INDEPENDENT, pci.LIMITED, x509.ObjectIdentifier("1.2.3.4.5")])


@settings(max_examples=60)
@given(language=_languages, length=st.none() | st.integers(0, 2**40), policy=st.none() | st.binary(max_size=40))
def test_proxy_cert_info_survives_the_round_trip(
    language: x509.ObjectIdentifier, length: int | None, policy: bytes | None
) -> None:
    info = pci.ProxyCertInfo(language, length, policy)
    assert pci.decode(pci.encode(info)) == info


@settings(max_examples=100)
@given(garbage=st.binary(max_size=60), draft=st.booleans())
def test_garbled_proxy_cert_info_is_refused_or_read(garbage: bytes, draft: bool) -> None:
    try:
        info = pci.decode(garbage, draft=draft)
    except Invalid as error:
        assert error.code == "proxy_info"  # noqa: PT017 - either outcome is right, another error is not
    else:
        assert info.path_length is None or info.path_length >= 0


@settings(max_examples=150, deadline=None)
@given(which=st.integers(0, 1), position=st.integers(0, 3000), byte=st.integers(0, 255))
def test_a_damaged_chain_is_refused_and_nothing_else_happens(
    pki: Pki, judge: Judge, which: int, position: int, byte: int
) -> None:
    chain = list(_damageable(pki))
    der = bytearray(chain[which])
    place = position % len(der)
    if der[place] == byte:
        return
    der[place] = byte
    chain[which] = bytes(der)
    assert judge.judge(chain).principal is None


_made: list[tuple[bytes, ...]] = []


def _damageable(pki: Pki) -> tuple[bytes, ...]:
    if not _made:
        _made.append(chain_der(Draft(pki.alice).credential()))
    return _made[0]


def test_a_legacy_limited_proxy_is_limited_where_it_is_accepted(pki: Pki, tmp_path: Path) -> None:

    tolerant = make_judge(
        pki.certificates, tmp_path, clock=FixedClock(NOW), settings=JudgeSettings(accept_legacy_proxies=True)
    )
    old = Draft(pki.alice, info=None, added=(x509.NameAttribute(NameOID.COMMON_NAME, "limited proxy"),)).credential()
    verdict = tolerant.judge(chain_der(old))
    assert verdict.principal is not None
    assert verdict.principal.limited
    assert verdict.principal.kind == "legacy-proxy"
