"""Whether an attribute certificate may be believed (RFC 5755 section 5, and what VOMS readers demand beyond it).

Every rule has its own code. A failed rule does not stop the others where they still make sense, so that one look tells
everything that is wrong.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta

import msgspec
from cryptography import x509

from skyfed.core.clock import iso
from skyfed.core.errors import Invalid
from skyfed.identity import ac, signatures
from skyfed.identity.ac import AttributeCertificate
from skyfed.identity.chain import UNREADABLE
from skyfed.identity.verdict import AcVerdict
from skyfed.identity.vomsdir import Vomsdir
from skyfed.pki import names
from skyfed.pki.findings import Finding
from skyfed.pki.trust import TrustStore

# Clocks of sites and authorities differ; all readers grant this.
SKEW = timedelta(seconds=300)

ANY_HOST = "*"

_Fault = tuple[str, str]


class Surroundings(msgspec.Struct, frozen=True):
    """What a certificate is judged against. `host` is this machine's full name, `ANY_HOST` in a user's tool, which
    serves nobody."""

    trust: TrustStore
    vomsdir: Vomsdir
    host: str
    now: datetime


def judge(der: bytes, holder: x509.Certificate, around: Surroundings) -> AcVerdict:
    """The verdict on one certificate found in a proxy of `holder` (the end-entity certificate)."""
    try:
        certificate = ac.decode(der)
        faults = [
            *_holder_faults(certificate, holder),
            *_authority_faults(certificate, around),
            *_time_faults(certificate, around.now),
            *_extension_faults(certificate),
            *_target_faults(certificate, around.host),
        ]
    except Invalid as error:
        return unreadable(error.code, error.message)
    except UNREADABLE as error:
        return unreadable("ac_format", f"a certificate in the attribute certificate cannot be read: {error}")
    where = f"ac {certificate.authority.vo}"
    return AcVerdict(
        vo=certificate.authority.vo,
        fqans=tuple(fqan.long for fqan in certificate.fqans),
        authority=certificate.authority.uri,
        not_before=certificate.not_before,
        not_after=certificate.not_after,
        findings=tuple(Finding(code, message, where=where) for code, message in faults),
    )


def unreadable(code: str, message: str) -> AcVerdict:
    """The verdict on what cannot even be read: it names no VO."""
    return AcVerdict("", (), "", None, None, (Finding(code, message, where="ac"),))


def _holder_faults(certificate: AttributeCertificate, holder: x509.Certificate) -> Iterator[_Fault]:
    # Old C++ authorities wrote the holder's subject where RFC 5755 has its issuer; the serial number must fit as well.
    known = (holder.issuer, holder.subject)
    if certificate.holder_serial != holder.serial_number or not any(
        names.same_name(certificate.holder_issuer, name) for name in known
    ):
        given = f"{certificate.holder_serial:x} of '{names.oneline(certificate.holder_issuer)}'"
        right = f"{holder.serial_number:x} of '{names.oneline(holder.issuer)}'"
        yield "ac_holder", f"it was issued to the certificate {given}; this chain's is {right}"


def _authority_faults(certificate: AttributeCertificate, around: Surroundings) -> Iterator[_Fault]:
    authority, reason = _trusted_authority(certificate, around.vomsdir)
    if authority is None:
        yield "ac_untrusted_aa", reason
        return
    path = around.trust.verify_path(authority, certificate.certificates[1:], around.now)
    if path.reason is not None:
        yield "ac_untrusted_aa", f"the attribute authority's certificate is not trusted: {path.reason.message}"
    yield from _signature_faults(certificate, authority)


def _trusted_authority(certificate: AttributeCertificate, vomsdir: Vomsdir) -> tuple[x509.Certificate | None, str]:
    """The authority's certificate that `vomsdir` names or holds; else the reason why there is none."""
    vo, host = certificate.authority.vo, certificate.authority.host
    lsc = vomsdir.lsc(vo, host)
    if lsc is not None and lsc.allows(certificate.certificates):
        return certificate.certificates[0], ""
    for candidate in vomsdir.certificates(vo):
        if _signed_by(certificate, candidate):
            return candidate, ""
    if lsc is None and not vomsdir.certificates(vo):
        return None, f"no attribute authority of VO '{vo}' on '{host}' is accepted here ({vo}/{host}.lsc is missing)"
    if lsc is not None and not certificate.certificates:
        return None, f"{vo}/{host}.lsc names the authority, but the certificate does not carry the authority's own"
    return None, f"the issuing authority is not the one that {vo}/{host}.lsc lists"


def _signed_by(certificate: AttributeCertificate, authority: x509.Certificate) -> bool:
    try:
        key = signatures.public_key(authority)
    except Invalid:
        return False
    return signatures.verified(key, certificate.algorithm, certificate.signature, certificate.info_der)


def _signature_faults(certificate: AttributeCertificate, authority: x509.Certificate) -> Iterator[_Fault]:
    if not _signed_by(certificate, authority):
        yield "ac_signature", "the signature is not the attribute authority's, or not with SHA-256 or better"
    if not names.same_name(certificate.issuer, authority.subject):
        issuer, subject = names.oneline(certificate.issuer), names.oneline(authority.subject)
        yield "ac_signature", f"its issuer '{issuer}' is not the attribute authority '{subject}'"
    if certificate.key_identifier is not None and certificate.key_identifier not in _key_identifiers(authority):
        yield "ac_signature", "its authority key identifier is not that of the attribute authority's key"


def _key_identifiers(authority: x509.Certificate) -> Iterator[bytes]:
    yield ac.key_identifier(authority)
    for extension in authority.extensions:
        if isinstance(extension.value, x509.SubjectKeyIdentifier):
            yield extension.value.digest


def _time_faults(certificate: AttributeCertificate, now: datetime) -> Iterator[_Fault]:
    if now < certificate.not_before - SKEW:
        yield "ac_not_yet_valid", f"it is valid from {iso(certificate.not_before)} only; is a clock wrong?"
    if now > certificate.not_after + SKEW:
        yield "ac_expired", f"it expired at {iso(certificate.not_after)}; make a new proxy"


def _extension_faults(certificate: AttributeCertificate) -> Iterator[_Fault]:
    if not certificate.no_revocation_available:
        yield "ac_missing_extension", "it lacks noRevAvail (2.5.29.56)"
    if certificate.key_identifier is None:
        yield "ac_missing_extension", "it lacks the authority key identifier (2.5.29.35)"
    for oid in certificate.unknown_critical:
        yield "ac_critical_extension", f"its critical extension {oid} is unknown here"


def _target_faults(certificate: AttributeCertificate, host: str) -> Iterator[_Fault]:
    if certificate.targets is None or host == ANY_HOST:
        return
    if host.lower() not in {target.lower() for target in certificate.targets}:
        here = f"this is {host}" if host else "this service does not know its own name (setting trust.judge.host)"
        yield "ac_target", f"it is for {', '.join(certificate.targets) or 'nobody'} only; {here}"
