"""Certification path validation, RFC 5280 section 6 as the grid practises it, with a reason for every refusal.

`cryptography.x509.verification` is not used: it stops at the first error and names it by a sentence only, reads no
CRL, and refuses grid CAs (old self-signed roots). The library does every signature; the rules around them stand here,
one function each.

What differs from the web: only the directory's certificates are anchors, a path ends at a self-signed one; subject
names of end entities are held against the issuer's signing policy; key purposes (EKU) and host names are the caller's
business.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Annotated, Literal, TypeVar

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtensionOID

from skyfed.core.clock import iso
from skyfed.core.settings import setting
from skyfed.pki import names
from skyfed.pki.anchors import Anchors, Crl
from skyfed.pki.findings import Finding

MAX_DEPTH = 10
# Upper bound on signatures tried while looking for a path: peers choose what intermediates they send.
MAX_SIGNATURES = 40

E = TypeVar("E", bound=x509.ExtensionType)

KNOWN_CRITICAL = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.CERTIFICATE_POLICIES,
    }
)
_WEAK_HASHES = (hashes.MD5, hashes.SHA1)


class PathSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How strictly certificates are judged."""

    crl: Annotated[
        Literal["if_present", "require", "ignore"],
        setting(
            "if_present: a CA without CRL is accepted; require: it is refused; ignore: revocation is not looked at"
        ),
    ] = "if_present"
    crl_grace_seconds: Annotated[
        int, setting("how long after its nextUpdate a CRL still counts, seconds"), msgspec.Meta(ge=0)
    ] = 0
    missing_policy: Annotated[
        Literal["refuse", "allow"],
        setting("what becomes of certificates whose CA has no signing policy or namespaces file"),
    ] = "refuse"
    clock_skew_seconds: Annotated[
        int,
        setting("how far in the future a start of validity may lie, seconds: clocks differ"),
        msgspec.Meta(ge=0, le=3600),
    ] = 300
    min_rsa_bits: Annotated[int, setting("smallest RSA key accepted, bits"), msgspec.Meta(ge=1024)] = 2048
    allow_sha1: Annotated[bool, setting("accept certificates (not roots) signed with SHA-1")] = False


@dataclass(frozen=True)
class Path:
    """A chain and what was found about it. `certificates` go from the leaf to the anchor; empty when no anchor was
    reached."""

    certificates: tuple[x509.Certificate, ...]
    findings: tuple[Finding, ...]
    not_after: datetime | None = field(default=None)

    @property
    def ok(self) -> bool:
        """Whether every rule held."""
        return bool(self.certificates) and self.reason is None

    @property
    def reason(self) -> Finding | None:
        """The first rule that failed."""
        return next((finding for finding in self.findings if finding.level == "error"), None)

    @property
    def anchor(self) -> x509.Certificate | None:
        """The trust anchor that the path ends at."""
        return self.certificates[-1] if self.certificates else None


def verify_path(
    leaf: x509.Certificate,
    intermediates: Sequence[x509.Certificate],
    *,
    anchors: Anchors,
    settings: PathSettings,
    at: datetime,
) -> Path:
    """Judge `leaf` at the instant `at`. `intermediates` are what the peer sent: links at most, never anchors.

    Codes: `unknown_ca`, `bad_signature`, `not_a_ca`, `path_length`, `key_usage`, `critical_extension`, `malformed`,
    `expired`, `not_yet_valid`, `weak_key`, `weak_signature`, `revoked`, `crl_missing`, `crl_expired`,
    `crl_not_yet_valid`, `crl_signature`, `crl_unsupported`, `signing_policy`, `signing_policy_missing`. Several may
    be given; of several paths the first without errors wins.
    """
    search = _Search(anchors, tuple(intermediates[:MAX_DEPTH]))
    first: Path | None = None
    try:
        for certificates in search.paths((leaf,)):
            path = Path(certificates, tuple(_judge(certificates, anchors, settings, at)), _not_after(certificates))
            if path.ok:
                return path
            first = first or path
    # The library parses names, keys and extensions lazily.
    except (ValueError, UnsupportedAlgorithm, x509.UnsupportedGeneralNameType, x509.InvalidVersion) as error:
        return Path(
            (), (Finding("malformed", f"a certificate of the chain cannot be parsed: {error}", where="certificate"),)
        )
    return first or Path((), (_no_path(leaf, search),))


class _Search:
    """Depth-first walk from the leaf to a self-signed anchor, over names first and signatures second."""

    def __init__(self, anchors: Anchors, intermediates: tuple[x509.Certificate, ...]) -> None:
        self._anchors = anchors
        self._intermediates = intermediates
        self._signatures = 0
        self.bad_signature_by = ""
        self.lacks = ""

    def paths(self, so_far: tuple[x509.Certificate, ...]) -> Iterator[tuple[x509.Certificate, ...]]:
        tip = so_far[-1]
        if _self_issued(tip) and tip.fingerprint(hashes.SHA256()) in self._anchors.fingerprints:
            yield so_far
            return
        if len(so_far) >= MAX_DEPTH:
            return
        candidates = self._issuers(tip, so_far)
        if not candidates:
            self.lacks = names.oneline(tip.issuer)
        for issuer in candidates:
            if self._signatures >= MAX_SIGNATURES:
                return
            self._signatures += 1
            if _signed(tip, issuer):
                yield from self.paths((*so_far, issuer))
            else:
                self.bad_signature_by = names.oneline(issuer.subject)

    def _issuers(self, tip: x509.Certificate, so_far: tuple[x509.Certificate, ...]) -> list[x509.Certificate]:
        """Certificates with the right name, the directory's own first."""
        known = self._anchors.by_subject.get(names.canonical(tip.issuer), ())
        sent = [c for c in self._intermediates if c not in known and names.same_name(c.subject, tip.issuer)]
        return [c for c in (*known, *sent) if c not in so_far]


def _signed(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether the issuer's key made the signature. The library's `verify_directly_issued_by` would also want the
    names equal byte for byte, which RFC 5280 section 7.1 does not."""
    try:
        key, algorithm = issuer.public_key(), certificate.signature_hash_algorithm
        if isinstance(key, rsa.RSAPublicKey) and algorithm is not None:
            padding = certificate.signature_algorithm_parameters
            key.verify(certificate.signature, certificate.tbs_certificate_bytes, padding, algorithm)  # type: ignore[arg-type]
        elif isinstance(key, ec.EllipticCurvePublicKey) and algorithm is not None:
            key.verify(certificate.signature, certificate.tbs_certificate_bytes, ec.ECDSA(algorithm))
        else:
            return False
    except (InvalidSignature, UnsupportedAlgorithm, TypeError, ValueError):
        return False
    return True


def _no_path(leaf: x509.Certificate, search: _Search) -> Finding:
    if search.bad_signature_by:
        message = f"the certificate says that {search.bad_signature_by} signed it, but the signature does not verify"
        return Finding("bad_signature", message, where="certificate")
    lacks = search.lacks or names.oneline(leaf.issuer)
    message = (
        f"no trusted CA certificate leads to '{names.oneline(leaf.subject)}': '{lacks}' is not in the trust directory"
    )
    return Finding("unknown_ca", message, where="certificate")


def _judge(
    certificates: tuple[x509.Certificate, ...], anchors: Anchors, settings: PathSettings, at: datetime
) -> Iterator[Finding]:
    for depth, certificate in enumerate(certificates):
        where = "certificate" if depth == 0 else f"ca {names.oneline(certificate.subject)}"
        yield from _validity(certificate, where, settings, at)
        yield from _strength(certificate, where, settings)
        yield from _critical_extensions(certificate, where)
        if depth > 0:
            yield from _may_issue(certificate, certificates[1:depth], where)
    for certificate, issuer in pairwise(certificates):
        yield from _name_allowed(certificate, issuer, anchors, settings)
    if settings.crl != "ignore":
        # The root's own entry too: a CA that revoked itself says so in its CRL.
        for certificate, issuer in zip(certificates, (*certificates[1:], certificates[-1]), strict=True):
            yield from _revocation(certificate, issuer, anchors, settings, at)


def _validity(certificate: x509.Certificate, where: str, settings: PathSettings, at: datetime) -> Iterator[Finding]:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if at > ends:
        yield Finding("expired", f"'{names.oneline(certificate.subject)}' expired at {iso(ends)}", where=where)
    if at + timedelta(seconds=settings.clock_skew_seconds) < begins:
        yield Finding(
            "not_yet_valid", f"'{names.oneline(certificate.subject)}' is valid from {iso(begins)}", where=where
        )


def _strength(certificate: x509.Certificate, where: str, settings: PathSettings) -> Iterator[Finding]:
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < settings.min_rsa_bits:
        message = f"the RSA key has {key.key_size} bits; at least {settings.min_rsa_bits} are needed"
        yield Finding("weak_key", message, where=where)
    algorithm = certificate.signature_hash_algorithm
    weak = isinstance(algorithm, hashes.MD5) or (isinstance(algorithm, _WEAK_HASHES) and not settings.allow_sha1)
    if weak and algorithm is not None and not _self_issued(certificate):
        message = f"the certificate is signed with {algorithm.name}; SHA-256 or better is needed"
        yield Finding("weak_signature", message, where=where)


def _critical_extensions(certificate: x509.Certificate, where: str) -> Iterator[Finding]:
    try:
        extensions = list(certificate.extensions)
    except (ValueError, x509.DuplicateExtension) as error:
        yield Finding("malformed", f"the extensions cannot be parsed: {error}", where=where)
        return
    for extension in extensions:
        if extension.critical and extension.oid not in KNOWN_CRITICAL:
            message = f"the critical extension {extension.oid.dotted_string} is not understood here"
            yield Finding("critical_extension", message, where=where)


def _may_issue(issuer: x509.Certificate, below: tuple[x509.Certificate, ...], where: str) -> Iterator[Finding]:
    """`below` are the CA certificates between this one and the leaf."""
    constraints = _extension(issuer, x509.BasicConstraints)
    if constraints is None:
        # X.509 version 1 knows no extensions; some grid roots are as old as that.
        if not (issuer.version is x509.Version.v1 and _self_issued(issuer)):
            yield Finding("not_a_ca", "basicConstraints do not say that it is a CA", where=where)
    elif not constraints.ca:
        yield Finding("not_a_ca", "basicConstraints say that it is not a CA", where=where)
    elif constraints.path_length is not None:
        intermediates = sum(not _self_issued(certificate) for certificate in below)
        if intermediates > constraints.path_length:
            message = f"{intermediates} CAs stand below it; its path length constraint allows {constraints.path_length}"
            yield Finding("path_length", message, where=where)
    usage = _extension(issuer, x509.KeyUsage)
    if usage is not None and not usage.key_cert_sign:
        yield Finding("key_usage", "its keyUsage lacks keyCertSign", where=where)


def _name_allowed(
    certificate: x509.Certificate, issuer: x509.Certificate, anchors: Anchors, settings: PathSettings
) -> Iterator[Finding]:
    subject, signer = names.oneline(certificate.subject), names.oneline(issuer.subject)
    rules = anchors.rules_for(issuer.subject)
    if not rules:
        if settings.missing_policy == "refuse":
            message = f"no signing_policy or namespaces file says what '{signer}' may sign"
            yield Finding("signing_policy_missing", message, where="certificate")
    elif not any(each.permits(issuer.subject, certificate.subject) for each in rules):
        message = f"'{signer}' may not sign '{subject}' by its signing policy"
        yield Finding("signing_policy", message, where="certificate")


def _revocation(
    certificate: x509.Certificate, issuer: x509.Certificate, anchors: Anchors, settings: PathSettings, at: datetime
) -> Iterator[Finding]:
    signer = names.oneline(issuer.subject)
    where = f"crl {signer}"
    found = anchors.crls_by_issuer.get(names.canonical(issuer.subject), ())
    if not found:
        if settings.crl == "require":
            yield Finding("crl_missing", f"there is no CRL of '{signer}' and one is required", where=where)
        return
    signed = [crl for crl in found if crl.signed_by(issuer)]
    if not signed:
        yield Finding("crl_signature", f"no CRL of '{signer}' bears its signature", where=where)
        return
    crl = max(signed, key=lambda each: each.crl.last_update_utc)
    yield from _crl_fresh(crl, signer, where, settings, at)
    entry = crl.revoked.get(certificate.serial_number)
    if entry is not None:
        reason = _extension_of(entry)
        message = f"'{names.oneline(certificate.subject)}' was revoked at {iso(entry.revocation_date_utc)}{reason}"
        yield Finding("revoked", message, where="certificate")


def _crl_fresh(crl: Crl, signer: str, where: str, settings: PathSettings, at: datetime) -> Iterator[Finding]:
    if not crl.usable:
        yield Finding(
            "crl_unsupported", f"the CRL of '{signer}' is partial or has unknown critical extensions", where=where
        )
    begins, ends = crl.crl.last_update_utc, crl.crl.next_update_utc
    if begins > at + timedelta(seconds=settings.clock_skew_seconds):
        yield Finding("crl_not_yet_valid", f"the CRL of '{signer}' is dated {iso(begins)}", where=where)
    if ends is None:
        yield Finding(
            "crl_expired", f"the CRL of '{signer}' does not say until when it counts (nextUpdate)", where=where
        )
    elif at > ends + timedelta(seconds=settings.crl_grace_seconds):
        yield Finding("crl_expired", f"the CRL of '{signer}' was to be renewed by {iso(ends)}", where=where)


def _extension_of(entry: x509.RevokedCertificate) -> str:
    try:
        return f" ({entry.extensions.get_extension_for_class(x509.CRLReason).value.reason.value})"
    except (x509.ExtensionNotFound, ValueError):
        return ""


def _extension(certificate: x509.Certificate, kind: type[E]) -> E | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return None  # what cannot be parsed is reported by _critical_extensions


def _self_issued(certificate: x509.Certificate) -> bool:
    return names.same_name(certificate.subject, certificate.issuer)


def _not_after(certificates: tuple[x509.Certificate, ...]) -> datetime:
    return min(certificate.not_valid_after_utc for certificate in certificates)
