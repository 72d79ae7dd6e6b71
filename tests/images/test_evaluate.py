"""Whether a list is accepted: the order and the numbers of images digest A.5."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from images.test_formats import DOCUMENT
from skyfed.core.clock import FixedClock, from_iso, iso
from skyfed.core.errors import Invalid
from skyfed.images.evaluate import Accepted, Policy, Stored, evaluate
from skyfed.images.model import Endorser, number_of
from skyfed.pki import names, smime
from skyfed.pki.files import Credential
from skyfed.pki.trust import TrustSettings, TrustStore
from support.pki import NOW, Pki, copy_pki
from support.vectors import vectors

RECORDED = from_iso("2026-11-23T05:00:00Z")
CA = "/DC=org/DC=example/CN=Example Test CA"
ERIN = Endorser(dn="/DC=org/DC=example/O=Testing/CN=Erin Endorser", ca=CA)


def recorded(name: str, policy: Policy | None = None) -> Accepted:
    folder = vectors("images")
    trust = TrustStore(folder / "pki" / "certificates", FixedClock(RECORDED))
    message = (folder / "imagelists" / f"{name}.list").read_bytes()
    return evaluate(message, policy or Policy(endorsers=(ERIN,)), trust, RECORDED)


def code_of(call: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(Invalid) as caught:
        call(*arguments, **options)
    return caught.value.code


GOOD = ["appdb-style", "cms-sha512", "double-cr", "lf-only", "m2crypto-detached", "openssl-binary", "openssl-default",
        "openssl-opaque", "openssl-text", "pyca-detached"]  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_recorded_lists_are_accepted(name: str) -> None:
    accepted = recorded(name)
    assert accepted.imagelist.identifier == "5f1d7c9a-0c7e-4f43-9f0e-7d1d8a2f0001"
    assert len(accepted.imagelist.images) == 1


def test_an_old_list_with_sha1_needs_the_subscriptions_consent() -> None:
    assert code_of(recorded, "openssl-sha1") == "weak_digest"
    assert recorded("openssl-sha1", Policy(endorsers=(ERIN,), allow_sha1=True)).imagelist.version == "1.0"


@pytest.mark.parametrize(
    ("name", "code", "number"),
    [
        ("bad-tampered", "digest_mismatch", 11),
        ("bad-revoked", "revoked", 11),
        ("bad-othersigner", "endorser_mismatch", 12),
    ],
)
def test_recorded_bad_lists_are_refused(name: str, code: str, number: int) -> None:
    assert code_of(recorded, name) == code
    assert number_of(code) == number


def signed(signer: Credential, **changes: Any) -> bytes:
    """A list signed by `signer`, which it names as its endorser unless told otherwise."""
    subject, issuer = signer.certificate.subject, signer.certificate.issuer
    x509 = {"dc:creator": "c", "hv:email": "e@x", "hv:dn": names.oneline(subject), "hv:ca": names.oneline(issuer)}
    document = {**DOCUMENT, "hv:endorser": {"hv:x509": x509}, **changes}
    return smime.sign(json.dumps({"hv:imagelist": document}).encode(), signer, signed_at=NOW)


def judged(pki: Pki, message: bytes, stored: Stored | None = None, **options: Any) -> Accepted:
    return evaluate(message, Policy(**options), pki.trust(), NOW, stored)


def test_a_list_that_is_signed_by_its_endorser_is_accepted(pki: Pki) -> None:
    accepted = judged(pki, signed(pki.robot))
    assert accepted.signer == pki.robot.certificate
    assert not accepted.reused


@pytest.mark.parametrize(
    ("signer", "code"), [("revoked", "revoked"), ("expired", "expired"), ("stranger", "bad_signature")]
)
def test_a_signer_who_is_not_trusted_is_refused(pki: Pki, signer: str, code: str) -> None:
    assert code_of(judged, pki, signed(getattr(pki, signer))) == code


def test_a_crl_is_required_even_where_the_node_is_lenient(pki: Pki, tmp_path: Path) -> None:
    pki = copy_pki(pki, tmp_path / "pki")
    for path in pki.certificates.glob("*.r0"):
        path.unlink()
    trust = TrustStore(pki.certificates, FixedClock(NOW), TrustSettings(crl="ignore"))
    assert code_of(evaluate, signed(pki.robot), Policy(), trust, NOW) == "crl_missing"


def test_an_expired_crl_refuses(pki: Pki) -> None:
    later = NOW + timedelta(days=40)
    assert code_of(evaluate, signed(pki.robot), Policy(), pki.trust(), later) == "crl_expired"


def test_a_missing_signing_policy_refuses(pki: Pki, tmp_path: Path) -> None:
    pki = copy_pki(pki, tmp_path / "pki")
    for pattern in ("*.signing_policy", "*.namespaces"):
        for path in pki.certificates.glob(pattern):
            path.unlink()
    assert code_of(judged, pki, signed(pki.robot)) == "signing_policy_missing"


def test_the_endorser_must_be_one_that_the_subscription_knows(pki: Pki) -> None:
    robot = Endorser(dn=names.oneline(pki.robot.certificate.subject), ca=pki.ca.dn)
    bob = Endorser(dn=names.oneline(pki.bob.certificate.subject), ca=pki.ca.dn)
    assert judged(pki, signed(pki.robot), endorsers=(bob, robot)).imagelist.version == "1.0"
    assert code_of(judged, pki, signed(pki.robot), endorsers=(bob,)) == "endorser_unknown"
    other_ca = Endorser(dn=robot.dn, ca="/DC=skyfed/DC=demo/CN=Another CA")
    assert code_of(judged, pki, signed(pki.robot), endorsers=(other_ca,)) == "endorser_unknown"


def test_the_endorsers_other_spellings_count(pki: Pki) -> None:
    robot = Endorser(dn="CN=Robot: images,OU=robots,DC=demo,DC=skyfed", ca=pki.ca.dn)
    assert judged(pki, signed(pki.robot), endorsers=(robot,)).imagelist.version == "1.0"


@pytest.mark.parametrize(
    ("changes", "code", "number"),
    [
        ({"dc:date:created": iso(NOW + timedelta(hours=1))}, "created_in_future", 33),
        ({"dc:date:expires": iso(NOW - timedelta(seconds=1))}, "list_expired", 34),
        ({"hv:version": ""}, "missing_field", 34),
        ({"hv:images": 5}, "not_a_list", 38),
    ],
)
def test_dates_and_fields(pki: Pki, changes: dict[str, Any], code: str, number: int) -> None:
    assert code_of(judged, pki, signed(pki.robot, **changes)) == code
    assert number_of(code) == number


def test_json_that_is_none_is_refused(pki: Pki) -> None:
    assert code_of(judged, pki, smime.sign(b"hello", pki.robot, signed_at=NOW)) == "not_json"


def test_the_identifier_must_be_the_subscriptions(pki: Pki) -> None:
    assert judged(pki, signed(pki.robot), identifier="list-1").imagelist.identifier == "list-1"
    assert code_of(judged, pki, signed(pki.robot), identifier="list-2") == "list_identifier"


@pytest.mark.parametrize("version", ["1.1", "2.0-1", "1.0.1"])
def test_a_higher_version_is_accepted(pki: Pki, version: str) -> None:
    assert not judged(pki, signed(pki.robot, **{"hv:version": version}), Stored("1.0", "another")).reused


def test_a_lower_version_is_refused(pki: Pki) -> None:
    message = signed(pki.robot, **{"hv:version": "0.9"})
    assert code_of(judged, pki, message, Stored("1.0", "another")) == "lower_version"
    assert number_of("lower_version") == 17


def test_the_same_version_with_other_bytes_is_flagged_and_the_same_bytes_are_not(pki: Pki) -> None:
    message = signed(pki.robot)
    first = judged(pki, message)
    assert judged(pki, message, Stored("1.0", "another")).reused
    assert not judged(pki, message, Stored("1.0", first.digest)).reused
