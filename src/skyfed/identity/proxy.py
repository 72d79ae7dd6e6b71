"""Making RFC 3820 proxy certificates, and the files that hold them.

A proxy file is PEM, mode 0600: the proxy certificate, its private key (PKCS#1 or SEC 1), then the issuers up to the
end-entity certificate, without the root. Reading is tolerant: any order after the first certificate, PKCS#8, CRLF, text
between the blocks.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from skyfed.core.errors import Invalid
from skyfed.identity import ac, chain, pci, signatures
from skyfed.pki.files import (
    MAX_BUNDLE_BYTES,
    Credential,
    PrivateKey,
    parse_bundle,
    public_bytes,
    read_bounded,
    write_atomic,
)

# Proxies begin in the past, so that a server whose clock is behind takes them at once; all clients do this.
CLOCK_SKEW = timedelta(minutes=5)
DEFAULT_LIFETIME = timedelta(hours=12)

KeyKind = Literal["rsa", "ec"]


# -- making -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Proxy:
    """What kind of proxy to make. `path_length`: how many further proxies may follow (None: any number)."""

    lifetime: timedelta = DEFAULT_LIFETIME
    limited: bool = False
    path_length: int | None = None
    key: KeyKind = "rsa"
    rsa_bits: int = 2048
    acs: tuple[bytes, ...] = ()


def create(issuer: Credential, wanted: Proxy, now: datetime) -> Credential:
    """A new proxy below `issuer`, which may be an end-entity credential or a proxy; it ends no later than its issuers.

    Raises Invalid: `lifetime`, `key_bits`, `path_length` (wrong wishes), `expired`, `proxy_path_length` (an issuer that
    cannot delegate).
    """
    not_after = _not_after(issuer, wanted, now)
    limited = _may_delegate(issuer, wanted)
    key = _new_key(wanted)
    serial = secrets.randbits(63) | 1
    language = pci.LIMITED if limited else pci.INHERIT_ALL
    builder = (
        x509.CertificateBuilder()
        .issuer_name(issuer.certificate.subject)
        .subject_name(_below(issuer.certificate.subject, str(serial)))
        .serial_number(serial)
        .not_valid_before(max(now - CLOCK_SKEW, issuer.certificate.not_valid_before_utc))
        .not_valid_after(not_after)
        .public_key(key.public_key())
        .add_extension(
            _unparsed(pci.PROXY_CERT_INFO, pci.encode(pci.ProxyCertInfo(language, wanted.path_length))), critical=True
        )
        .add_extension(_key_usage(issuer.certificate), critical=True)
        .add_extension(_authority_key_identifier(issuer.certificate), critical=False)
    )
    if wanted.acs:
        builder = builder.add_extension(_unparsed(ac.AC_SEQUENCE, ac.encode_sequence(wanted.acs)), critical=False)
    certificate = builder.sign(issuer.key, signatures.hash_for(issuer.key.public_key()))
    return Credential(certificate, key, chain_of(issuer))


def _not_after(issuer: Credential, wanted: Proxy, now: datetime) -> datetime:
    if wanted.lifetime <= timedelta():
        raise Invalid(f"a proxy cannot live {wanted.lifetime}; right is a time above zero", code="lifetime")
    end = min(certificate.not_valid_after_utc for certificate in chain_of(issuer))
    if end <= now:
        raise Invalid(f"the issuing credential expired at {end:%Y-%m-%dT%H:%M:%SZ}; renew it first", code="expired")
    return min(now + wanted.lifetime, end).astimezone(UTC)


def _may_delegate(issuer: Credential, wanted: Proxy) -> bool:
    """Whether the new proxy is limited; a limited issuer makes it so (the limitation is sticky)."""
    if wanted.path_length is not None and wanted.path_length < 0:
        raise Invalid(f"path length {wanted.path_length}; right is 0 or more", code="path_length")
    limited = wanted.limited
    for depth, proxy in enumerate(chain.split(chain_of(issuer)).proxies):
        limited = limited or proxy.limited
        if proxy.path_length is not None and proxy.path_length <= depth:
            raise Invalid("the issuing proxy's path length forbids a further proxy", code="proxy_path_length")
    return limited


def _new_key(wanted: Proxy) -> PrivateKey:
    if wanted.key == "ec":
        return ec.generate_private_key(ec.SECP256R1())
    if not 2048 <= wanted.rsa_bits <= 8192:
        raise Invalid(f"an RSA key of {wanted.rsa_bits} bits; right is 2048 to 8192", code="key_bits")
    return rsa.generate_private_key(public_exponent=65537, key_size=wanted.rsa_bits)


def _below(issuer: x509.Name, common_name: str) -> x509.Name:
    added = x509.RelativeDistinguishedName([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    return x509.Name([*issuer.rdns, added])


def _unparsed(oid: x509.ObjectIdentifier, value: bytes) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(oid, value)


def _key_usage(issuer: x509.Certificate) -> x509.KeyUsage:
    """The issuer's bits, less those that a proxy may never assert (RFC 3820 section 3.7)."""
    try:
        bits = issuer.extensions.get_extension_for_class(x509.KeyUsage).value
        encipher_key, encipher_data = bits.key_encipherment, bits.data_encipherment
    except x509.ExtensionNotFound:
        encipher_key, encipher_data = True, False
    return x509.KeyUsage(
        digital_signature=True,
        key_encipherment=encipher_key,
        data_encipherment=encipher_data,
        content_commitment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        subject = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        # Optional here, but Python 3.13 clients refuse chains whose certificates have none.
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(signatures.public_key(issuer))
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject)


# -- files ------------------------------------------------------------------------------------------------------


def write(credential: Credential, path: Path) -> None:
    """Put a proxy at `path`, mode 0600, whole or not at all; a link at `path` is replaced, never followed."""
    write_atomic(path, credential.pem(), mode=0o600)


def decode(data: bytes, *, source: str, password: bytes | None = None) -> Credential:
    """Read a proxy file: any order after the first certificate. `source` is named in errors.

    Raises Invalid: `pem_size`, `pem_syntax`, `key_password`, `key_type`, `no_certificate`, `no_key`, `key_mismatch`.
    """
    bundle = parse_bundle(data, password=password, source=source)
    if not bundle.certificates:
        raise Invalid(f"{source} holds no certificate", code="no_certificate")
    if bundle.key is None:
        raise Invalid(f"{source} holds no private key", code="no_key")
    first, *above = in_order(bundle.certificates)
    if public_bytes(first.public_key()) != public_bytes(bundle.key.public_key()):
        raise Invalid(f"the private key in {source} does not belong to its first certificate", code="key_mismatch")
    return Credential(first, bundle.key, tuple(above))


def read(path: Path, *, password: bytes | None = None) -> Credential:
    """Read the proxy file at `path`. Raises Invalid as `decode` does, and `unreadable`."""
    return decode(read_bounded(path, MAX_BUNDLE_BYTES), source=str(path), password=password)


def in_order(certificates: Sequence[x509.Certificate]) -> tuple[x509.Certificate, ...]:
    """The first certificate, then its issuers as far as they are there; self-signed roots are left out."""
    found = [certificates[0]]
    rest = [certificate for certificate in certificates[1:] if certificate.subject != certificate.issuer]
    while (above := next((c for c in rest if c.subject == found[-1].issuer), None)) is not None:
        found.append(above)
        rest.remove(above)
    return tuple(found)


def chain_of(credential: Credential) -> tuple[x509.Certificate, ...]:
    """The certificates as a TLS peer shows them: leaf first."""
    return (credential.certificate, *credential.chain)


def chain_der(credential: Credential) -> tuple[bytes, ...]:
    """`chain_of` in DER: what `Judge.judge` takes."""
    return tuple(c.public_bytes(serialization.Encoding.DER) for c in chain_of(credential))
