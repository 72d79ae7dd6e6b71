"""The trust store: what it trusts, why it refuses, and how it follows its directory."""

import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import verification

from skyfed.core.clock import FixedClock, from_iso
from skyfed.pki import names
from skyfed.pki.files import Credential, pem_certificate, write_atomic
from skyfed.pki.path import Path as Verdict
from skyfed.pki.testca import ThrowawayCA, new_key
from skyfed.pki.trust import TrustSettings, TrustStore
from support.pki import NOW, Pki, copy_pki
from support.vectors import vectors

RECORDED = from_iso("2026-11-23T04:40:00Z")


def codes(verdict: Verdict) -> list[str]:
    return [finding.code for finding in verdict.findings if finding.level == "error"]


def recorded(area: str, **settings: object) -> TrustStore:
    return TrustStore(vectors(area) / "pki" / "certificates", FixedClock(RECORDED), TrustSettings(**settings))


def certificate(area: str, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((vectors(area) / "pki" / f"{name}.pem").read_bytes())


@pytest.fixture
def own(pki: Pki, tmp_path: Path) -> Pki:
    """A CA that the test may change."""
    return copy_pki(pki, tmp_path / "pki")


def subordinate(pki: Pki, dn: str, *, path_length: int | None = 0, ca: bool = True, sign: bool = True) -> Credential:
    """A CA certificate signed by the session's CA."""
    key = new_key()
    usage = x509.KeyUsage(not sign, False, False, False, False, sign, sign, False, False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(names.from_oneline(dn))
        .issuer_name(pki.ca.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(hours=1))
        .not_valid_after(NOW + timedelta(days=100))
        .add_extension(x509.BasicConstraints(ca, path_length if ca else None), critical=True)
        .add_extension(usage, critical=True)
    )
    return Credential(builder.sign(pki.ca._key, hashes.SHA256()), key)


def signed_by(issuer: Credential, dn: str, *extensions: tuple[x509.ExtensionType, bool]) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(names.from_oneline(dn))
        .issuer_name(issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(hours=1))
        .not_valid_after(NOW + timedelta(days=10))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer.key, hashes.SHA256())


def allow(pki: Pki, issuer: Credential, pattern: str) -> None:
    """A signing policy for a CA that is not itself in the directory."""
    subject = issuer.certificate.subject
    text = f"access_id_CA X509 '{names.oneline(subject)}'\npos_rights globus CA:sign\ncond_subjects globus '\"{pattern}\"'\n"
    write_atomic(pki.certificates / f"{names.subject_hash(subject)}.signing_policy", text.encode())


@pytest.mark.parametrize("name", ["alice", "bob", "carol", "dave", "host"])
def test_recorded_certificates_are_accepted(name: str) -> None:
    verdict = recorded("aai").verify_path(certificate("aai", name))
    assert verdict.ok, verdict.findings
    assert verdict.anchor == certificate("aai", "ca")


def test_old_hash_twins_count_once() -> None:
    store = recorded("aai")
    assert len(store.anchors.certificates) == 1
    assert store.problems() == ()


def test_a_revoked_certificate_is_refused_with_the_date() -> None:
    verdict = recorded("images").verify_path(certificate("images", "revoked"))
    assert codes(verdict) == ["revoked"]
    assert verdict.reason is not None
    assert "2026-11-23T04:22:41Z" in verdict.reason.message


def test_a_certificate_of_another_ca_is_refused() -> None:
    assert codes(recorded("aai").verify_path(certificate("images", "endorser"))) == ["unknown_ca"]


def test_a_ca_that_the_peer_sends_is_no_anchor() -> None:
    verdict = recorded("aai").verify_path(certificate("images", "endorser"), [certificate("images", "ca")])
    assert codes(verdict) == ["unknown_ca"]


def test_a_forged_ca_with_a_trusted_name_is_refused(pki: Pki) -> None:
    forged = ThrowawayCA.open(pki.directory / "other-ca", FixedClock(NOW)).certificate
    assert codes(pki.trust().verify_path(pki.stranger.certificate, [forged])) == ["bad_signature"]


@pytest.mark.parametrize(
    ("days", "expected"),
    [(0, []), (-2, ["not_yet_valid", "not_yet_valid"]), (400, ["expired"]), (4000, ["expired", "expired"])],
)
def test_validity_is_judged_at_the_instant_asked_for(pki: Pki, days: int, expected: list[str]) -> None:
    """Of the certificate and of its CA."""
    moment = NOW + timedelta(days=days)
    verdict = pki.trust().verify_path(pki.alice.certificate, at=moment, settings=TrustSettings(crl="ignore"))
    assert codes(verdict) == expected


def test_a_start_of_validity_within_the_clock_skew_is_accepted(pki: Pki) -> None:
    begins = pki.alice.certificate.not_valid_before_utc
    settings = TrustSettings(crl="ignore")
    store = pki.trust()
    early = {
        s: store.verify_path(pki.alice.certificate, at=begins - timedelta(seconds=s), settings=settings)
        for s in (300, 301)
    }
    assert early[300].ok
    assert codes(early[301])[0] == "not_yet_valid"


def test_several_findings_are_reported_together(own: Pki) -> None:
    own.ca.revoke(own.expired.certificate)
    own.ca.publish(own.certificates)
    assert codes(own.trust().verify_path(own.expired.certificate)) == ["expired", "revoked"]


def test_an_expired_crl_is_refused_unless_within_the_grace(pki: Pki) -> None:
    later = NOW + timedelta(days=31)
    store = pki.trust()
    assert set(codes(store.verify_path(pki.alice.certificate, at=later))) == {"crl_expired"}
    graceful = TrustSettings(crl_grace_seconds=2 * 86400)
    assert store.verify_path(pki.alice.certificate, at=later, settings=graceful).ok


@pytest.mark.parametrize(("mode", "expected"), [("if_present", set()), ("require", {"crl_missing"}), ("ignore", set())])
def test_a_missing_crl_is_judged_by_the_setting(own: Pki, mode: str, expected: set[str]) -> None:
    for path in own.certificates.glob("*.r0"):
        path.unlink()
    store = TrustStore(own.certificates, FixedClock(NOW), TrustSettings(crl=mode))  # type: ignore[arg-type]
    assert set(codes(store.verify_path(own.alice.certificate))) == expected


def test_a_crl_that_the_ca_did_not_sign_is_refused(own: Pki) -> None:
    other = ThrowawayCA.open(own.directory / "other-ca", FixedClock(NOW))
    path = next(p for p in own.certificates.glob("*.r0") if not p.is_symlink())
    write_atomic(path, other.crl().public_bytes(Encoding.DER))
    assert set(codes(own.trust().verify_path(own.revoked.certificate))) == {"crl_signature"}


def test_a_crl_in_der_counts(own: Pki) -> None:
    path = next(p for p in own.certificates.glob("*.r0") if not p.is_symlink())
    write_atomic(path, own.ca.crl().public_bytes(Encoding.DER))
    assert codes(own.trust().verify_path(own.revoked.certificate)) == ["revoked"]


def test_a_name_outside_the_signing_policy_is_refused(own: Pki) -> None:
    outsider = own.ca.issue("/DC=org/DC=elsewhere/CN=Mallory")
    for path in own.certificates.glob("*.namespaces"):
        path.unlink()
    assert codes(own.trust().verify_path(outsider.certificate)) == ["signing_policy"]


def test_namespaces_win_over_the_signing_policy(own: Pki) -> None:
    for path in own.certificates.glob("*.namespaces"):
        write_atomic(path, f'TO Issuer "{own.ca.dn}" PERMIT Subject "/DC=nothing/.*"\n'.encode())
    assert codes(own.trust().verify_path(own.alice.certificate)) == ["signing_policy"]


def test_a_ca_without_rules_is_refused_unless_allowed(own: Pki) -> None:
    for pattern in ("*.namespaces", "*.signing_policy"):
        for path in own.certificates.glob(pattern):
            path.unlink()
    assert codes(own.trust().verify_path(own.alice.certificate)) == ["signing_policy_missing"]
    lax = TrustStore(own.certificates, FixedClock(NOW), TrustSettings(missing_policy="allow"))
    assert lax.verify_path(own.alice.certificate).ok


def test_a_subordinate_ca_that_the_peer_sends_links_to_the_anchor(own: Pki) -> None:
    middle = subordinate(own, "/DC=skyfed/DC=demo/CN=Subordinate")
    allow(own, middle, "/DC=skyfed/DC=demo/*")
    leaf = signed_by(middle, "/DC=skyfed/DC=demo/CN=carol")
    store = own.trust()
    assert codes(store.verify_path(leaf)) == ["unknown_ca"]
    verdict = store.verify_path(leaf, [middle.certificate])
    assert verdict.ok, verdict.findings
    assert [names.common_name(c.subject) for c in verdict.certificates] == ["carol", "Subordinate", "Skyfed demo CA"]


def test_a_certificate_signed_by_an_end_entity_is_refused(own: Pki) -> None:
    allow(own, own.alice, "/DC=skyfed/*")
    leaf = signed_by(own.alice, "/DC=skyfed/DC=demo/OU=people/CN=mallory")
    verdict = own.trust().verify_path(leaf, [own.alice.certificate])
    assert {"not_a_ca", "key_usage"} <= set(codes(verdict))


def test_a_path_longer_than_the_constraint_is_refused(own: Pki) -> None:
    first = subordinate(own, "/DC=skyfed/DC=demo/CN=First", path_length=0)
    key = new_key()
    second = Credential(
        x509.CertificateBuilder(
            first.certificate.subject, names.from_oneline("/DC=skyfed/DC=demo/CN=Second"), key.public_key(), 77,
            NOW - timedelta(hours=1), NOW + timedelta(days=9),
        ).add_extension(x509.BasicConstraints(True, None), True).sign(first.key, hashes.SHA256()),
        key,
    )  # fmt: skip
    for each in (first, second):
        allow(own, each, "/DC=skyfed/*")
    leaf = signed_by(second, "/DC=skyfed/DC=demo/CN=dora")
    assert codes(own.trust().verify_path(leaf, [second.certificate, first.certificate])) == ["path_length"]


def test_an_unknown_critical_extension_is_refused(own: Pki) -> None:
    issuer = Credential(own.ca.certificate, own.ca._key)
    odd = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    assert codes(own.trust().verify_path(signed_by(issuer, "/DC=skyfed/DC=demo/CN=x", (odd, True)))) == [
        "critical_extension"
    ]
    assert own.trust().verify_path(signed_by(issuer, "/DC=skyfed/DC=demo/CN=x", (odd, False))).ok


def test_a_short_key_is_refused(own: Pki) -> None:
    short = own.ca.issue("/DC=skyfed/DC=demo/CN=short", key=rsa.generate_private_key(65537, 1024))
    assert codes(own.trust().verify_path(short.certificate)) == ["weak_key"]


def test_a_loop_of_cross_signed_cas_ends(own: Pki) -> None:
    one, two = (Credential(own.ca.certificate, new_key()) for _ in range(2))
    a, b = names.from_oneline("/DC=skyfed/CN=A"), names.from_oneline("/DC=skyfed/CN=B")
    loop = [
        x509.CertificateBuilder(
            issuer, subject, key.public_key(), 5, NOW - timedelta(days=1), NOW + timedelta(days=1)
        ).sign(signer, hashes.SHA256())
        for issuer, subject, key, signer in ((b, a, one.key, two.key), (a, b, two.key, one.key))
    ]
    leaf = signed_by(Credential(loop[0], one.key), "/DC=skyfed/CN=leaf")
    assert codes(own.trust().verify_path(leaf, loop * 5)) == ["unknown_ca"]


def test_the_librarys_own_verifier_agrees_on_good_paths(pki: Pki) -> None:
    lax = verification.ExtensionPolicy.permit_all()
    ca = lax.require_present(x509.BasicConstraints, verification.Criticality.AGNOSTIC, None)
    builder = verification.PolicyBuilder().store(verification.Store([pki.ca.certificate])).time(NOW)
    verifier = builder.extension_policies(ca_policy=ca, ee_policy=lax).build_client_verifier()
    for credential in (pki.alice, pki.host, pki.robot):
        library = verifier.verify(credential.certificate, []).chain
        assert list(pki.trust().verify_path(credential.certificate).certificates) == library


def test_the_generation_grows_when_the_content_changes_and_only_then(own: Pki) -> None:
    clock = FixedClock(NOW)
    store = own.trust(clock)
    before = store.generation
    clock.advance(5)
    assert store.generation == before
    assert store.verify_path(own.bob.certificate).ok
    own.ca.revoke(own.bob.certificate)
    own.ca.publish(own.certificates)
    clock.advance(5)
    assert store.generation > before
    assert codes(store.verify_path(own.bob.certificate)) == ["revoked"]


def test_touching_a_file_is_no_change(own: Pki) -> None:
    store = own.trust()
    before = store.generation
    for path in own.certificates.glob("*.0"):
        path.touch()
    assert store.refresh() == before


def test_the_directory_is_looked_at_once_a_second_at_most_unless_told(own: Pki) -> None:
    clock = FixedClock(NOW)
    store = own.trust(clock)
    for path in own.certificates.glob("*.0"):
        path.unlink()
    assert len(store.anchors.certificates) == 1
    store.refresh()
    assert store.anchors.certificates == ()


def test_a_file_that_breaks_keeps_its_earlier_content_and_is_listed(own: Pki) -> None:
    store = own.trust()
    crl = next(p for p in own.certificates.glob("*.r0") if not p.is_symlink())
    good = crl.read_bytes()
    crl.write_bytes(good[:100])
    store.refresh()
    assert {problem.file for problem in store.problems()} >= {crl.name}
    assert all("stays in force" in problem.message for problem in store.problems())
    assert codes(store.verify_path(own.revoked.certificate)) == ["revoked"]
    crl.write_bytes(good)
    store.refresh()
    assert store.problems() == ()


@pytest.mark.filterwarnings("error")
def test_an_old_root_with_the_serial_number_0_is_used_and_listed_and_nothing_is_said_on_stderr(own: Pki) -> None:
    key = new_key()
    name = names.from_oneline("/DC=test/CN=old root")
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + timedelta(days=1))
    der = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    # Version 3 and serial number 1, as they stand in a row (RFC 5280 section 4.1); nobody makes a 0 any more.
    old = der.replace(bytes.fromhex("a003020102 020101"), bytes.fromhex("a003020102 020100"))
    write_atomic(own.certificates / "0123abcd.0", old)
    store = own.trust()
    (problem,) = store.problems()
    assert problem.file == "0123abcd.0"
    assert "serial number 0, which RFC 5280 section 4.1.2.2 forbids" in problem.message
    assert [c.subject for c in store.anchors.certificates if c != own.ca.certificate] == [name]


def test_a_directory_that_vanishes_keeps_what_was_read(own: Pki) -> None:
    store = own.trust()
    shutil.move(own.certificates, own.directory / "away")
    store.refresh()
    assert store.verify_path(own.alice.certificate).ok
    assert len(store.problems()) == 1


def test_a_renewed_ca_key_under_the_same_name_is_followed(own: Pki) -> None:
    """HASH.0 and HASH.1: both keys count while both are there."""
    other = ThrowawayCA.open(own.directory / "other-ca", FixedClock(NOW))
    write_atomic(
        own.certificates / f"{names.subject_hash(other.certificate.subject)}.1", pem_certificate(other.certificate)
    )
    store = TrustStore(own.certificates, FixedClock(NOW), TrustSettings(crl="ignore"))
    assert store.verify_path(own.stranger.certificate).anchor == other.certificate
    assert store.verify_path(own.alice.certificate).anchor == own.ca.certificate
