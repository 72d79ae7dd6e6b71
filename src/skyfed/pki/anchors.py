"""The files of an IGTF trust directory as frozen values: CA certificates, CRLs, and what each CA may sign.

`HASH.0` (`.1` …) is a CA certificate, `HASH.r0` a CRL (PEM or DER), `HASH.signing_policy` and `HASH.namespaces` the
rules; HASH is the subject hash in either OpenSSL's new or old form, so that most files appear twice.
"""

import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtensionOID

from skyfed.core.errors import Invalid
from skyfed.core.text import shown
from skyfed.pki import names
from skyfed.pki.files import public_bytes
from skyfed.pki.policy import Rules, parse_namespaces, parse_signing_policy

FileKind = Literal["certificate", "crl", "signing_policy", "namespaces"]
FILE_NAME = re.compile(
    r"(?P<hash>[0-9a-f]{8})\.(?:(?P<ca>\d{1,2})|r(?P<crl>\d{1,2})|(?P<rules>signing_policy|namespaces))"
)
# The largest CRLs of the grid have some hundred thousand entries.
FILE_LIMITS: dict[FileKind, int] = {
    "certificate": 1 << 16,
    "crl": 1 << 25,
    "signing_policy": 1 << 18,
    "namespaces": 1 << 18,
}
# RFC 5280 section 5.2: a CRL with another critical extension (delta, partial scope) cannot be used alone.
_KNOWN_CRL_EXTENSIONS = frozenset({ExtensionOID.AUTHORITY_KEY_IDENTIFIER, ExtensionOID.CRL_NUMBER})


@dataclass(frozen=True)
class Crl:
    """A CRL with its entries looked up by serial number."""

    crl: x509.CertificateRevocationList
    fingerprint: bytes

    @cached_property
    def revoked(self) -> dict[int, x509.RevokedCertificate]:
        """Entries by serial number."""
        return {entry.serial_number: entry for entry in self.crl}

    @cached_property
    def usable(self) -> bool:
        """False where a critical extension says that it is not the whole list."""
        return all(not ext.critical or ext.oid in _KNOWN_CRL_EXTENSIONS for ext in self.crl.extensions)

    def signed_by(self, issuer: x509.Certificate) -> bool:
        """Whether the CA signed it. Remembered, for CRLs are large and asked for at every request."""
        key = public_bytes(issuer.public_key())
        if key not in self._signers:
            self._signers[key] = self._verify(issuer)
        return self._signers[key]

    @cached_property
    def _signers(self) -> dict[bytes, bool]:
        return {}

    def _verify(self, issuer: x509.Certificate) -> bool:
        try:
            return self.crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]  # other key types raise
        except (TypeError, ValueError, UnsupportedAlgorithm):
            return False


@dataclass(frozen=True, slots=True)
class Problem:
    """A file that could not be used (what was read from it before stays in force) or that is used although a standard
    objects, or a directory that cannot be read."""

    file: str
    message: str


@dataclass(frozen=True)
class Anchors:
    """A snapshot of a trust directory; a new one is made when it changes.

    `certificates` without twins, each once. Look-ups by `names.canonical`.
    """

    certificates: tuple[x509.Certificate, ...] = ()
    crls: tuple[Crl, ...] = ()
    namespaces: tuple[Rules, ...] = ()
    signing_policies: tuple[Rules, ...] = ()
    problems: tuple[Problem, ...] = field(default=(), compare=False)

    @cached_property
    def by_subject(self) -> dict[bytes, tuple[x509.Certificate, ...]]:
        """CA certificates by canonical subject name; several where a CA has renewed its key."""
        found: dict[bytes, tuple[x509.Certificate, ...]] = {}
        for certificate in self.certificates:
            key = names.canonical(certificate.subject)
            found[key] = (*found.get(key, ()), certificate)
        return found

    @cached_property
    def fingerprints(self) -> frozenset[bytes]:
        """SHA-256 of every anchor's DER."""
        return frozenset(certificate.fingerprint(hashes.SHA256()) for certificate in self.certificates)

    @cached_property
    def crls_by_issuer(self) -> dict[bytes, tuple[Crl, ...]]:
        """CRLs by canonical issuer name."""
        found: dict[bytes, tuple[Crl, ...]] = {}
        for crl in self.crls:
            key = names.canonical(crl.crl.issuer)
            found[key] = (*found.get(key, ()), crl)
        return found

    def rules_for(self, issuer: x509.Name) -> tuple[Rules, ...]:
        """The rules that govern what `issuer` signs: its namespaces files, else its signing policies, else none."""
        for kind in (self.namespaces, self.signing_policies):
            found = tuple(rules for rules in kind if rules.covers(issuer))
            if found:
                return found
        return ()

    def pem(self) -> str:
        """All CA certificates as PEM, for TLS contexts."""
        return "".join(c.public_bytes(serialization.Encoding.PEM).decode() for c in self.certificates)


Parsed = x509.Certificate | Crl | Rules


def parse_file(name: str, data: bytes) -> Parsed:
    """What `data`, the content of the file `name`, holds. Raises Invalid with the reason."""
    kind = file_kind(name)
    try:
        if kind == "certificate":
            return _certificate(data)
        if kind == "crl":
            return _crl(data)
    except ValueError as error:
        raise Invalid(f"{name} cannot be parsed: {error}", code="trust_file") from error
    text = data.decode("utf-8", "surrogateescape")
    if kind == "signing_policy":
        return parse_signing_policy(text, source=name)
    if kind == "namespaces":
        return parse_namespaces(text, source=name)
    raise Invalid(f"{shown(name)} is no file of a trust directory", code="trust_file")


def objection(parsed: Parsed) -> str:
    """What a standard forbids in a file that is in force all the same; "" where there is nothing."""
    if isinstance(parsed, x509.Certificate):
        with _serials_unremarked():
            serial = parsed.serial_number
        if serial <= 0:
            return f"the certificate has the serial number {serial}, which RFC 5280 section 4.1.2.2 forbids; it is used"
    return ""


def file_kind(name: str) -> FileKind | None:
    """What a file of this name holds; None for files that this package does not read (`.info`, `.crl_url`, …)."""
    match = FILE_NAME.fullmatch(name)
    if match is None:
        return None
    if match["ca"] is not None:
        return "certificate"
    if match["crl"] is not None:
        return "crl"
    return "namespaces" if match["rules"] == "namespaces" else "signing_policy"


def assemble(files: dict[str, Parsed], problems: tuple[Problem, ...]) -> Anchors:
    """The snapshot that these parsed files (by name) make, twins joined by content."""
    certificates: dict[bytes, x509.Certificate] = {}
    crls: dict[bytes, Crl] = {}
    owners: dict[str, list[str]] = {}
    for name, parsed in sorted(files.items()):
        if isinstance(parsed, x509.Certificate):
            certificates.setdefault(parsed.fingerprint(hashes.SHA256()), parsed)
            owners.setdefault(name[:8], []).append(names.oneline(parsed.subject))
        elif isinstance(parsed, Crl):
            crls.setdefault(parsed.fingerprint, parsed)
    rules: dict[FileKind, list[Rules]] = {"namespaces": [], "signing_policy": []}
    for name, parsed in sorted(files.items()):
        if isinstance(parsed, Rules):
            kind = file_kind(name)
            assert kind in rules  # noqa: S101 - parse_file makes Rules of these two kinds only
            rules[kind] += [
                owned
                for owner in owners.get(name[:8], [""])
                if (owned := replace(parsed, owner=owner)) not in rules[kind]
            ]
    return Anchors(
        tuple(certificates.values()),
        tuple(crls.values()),
        tuple(rules["namespaces"]),
        tuple(rules["signing_policy"]),
        problems,
    )


def _certificate(data: bytes) -> x509.Certificate:
    with _serials_unremarked():
        if b"-----BEGIN" in data:
            return x509.load_pem_x509_certificate(data)
        return x509.load_der_x509_certificate(data)


# The filters of `warnings` belong to the whole process: two threads that change them at once undo each other.
_FILTERS = threading.Lock()


@contextmanager
def _serials_unremarked() -> Iterator[None]:
    """Old root certificates have the serial number 0, of which the library warns on stderr at every look; `objection` says
    it instead."""
    with _FILTERS, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Parsed a serial number", CryptographyDeprecationWarning)
        yield


def _crl(data: bytes) -> Crl:
    crl = x509.load_pem_x509_crl(data) if b"-----BEGIN" in data else x509.load_der_x509_crl(data)
    return Crl(crl, crl.fingerprint(hashes.SHA256()))
