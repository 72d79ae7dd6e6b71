"""Proxy chains: which certificates are proxies, whose they are, and whether every link holds (RFC 3820 section 4).

OpenSSL checks the links of RFC 3820 proxies in a TLS handshake already; the rules stand here again because a file has
no handshake, because older kinds are unknown to it, and because every refusal needs a reason.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Literal

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtensionOID, NameOID

from skyfed.core.errors import Invalid
from skyfed.identity import pci, signatures
from skyfed.pki import names
from skyfed.pki.findings import Finding

MAX_CHAIN = 10
MAX_CHAIN_BYTES = 256 * 1024
MIN_RSA_BITS = 2048

# The library parses names, keys and extensions when they are first asked for; hostile ones raise these.
UNREADABLE = (
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)

ProxyKind = Literal["rfc3820", "gt3", "gt2"]

_KNOWN_CRITICAL = {
    ExtensionOID.KEY_USAGE,
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.EXTENDED_KEY_USAGE,
    pci.PROXY_CERT_INFO,
    pci.DRAFT_PROXY_CERT_INFO,
}
_GT2_NAMES = {"proxy", "limited proxy"}


class ProxyLink(msgspec.Struct, frozen=True):
    """One proxy certificate and what its extension says. `info` is None for GT2 proxies, which have none."""

    certificate: x509.Certificate
    kind: ProxyKind
    info: pci.ProxyCertInfo | None

    @property
    def limited(self) -> bool:
        """Whether this link is limited."""
        if self.info is None:
            return names.common_name(self.certificate.subject) == "limited proxy"
        return self.info.language == pci.LIMITED

    @property
    def path_length(self) -> int | None:
        """How many further proxies may follow."""
        return self.info.path_length if self.info else None


class Chain(msgspec.Struct, frozen=True):
    """A peer's certificates, sorted: proxies leaf first, the end-entity certificate, and what it sent above that."""

    proxies: tuple[ProxyLink, ...]
    end_entity: x509.Certificate
    above: tuple[x509.Certificate, ...]

    @property
    def limited(self) -> bool:
        """A limited link anywhere limits the whole chain."""
        return any(proxy.limited for proxy in self.proxies)

    @property
    def not_after(self) -> datetime:
        """The earliest end of the proxies and the end-entity certificate."""
        ends = [proxy.certificate.not_valid_after_utc for proxy in self.proxies]
        return min(self.end_entity.not_valid_after_utc, *ends) if ends else self.end_entity.not_valid_after_utc


def load(chain_der: Sequence[bytes]) -> tuple[x509.Certificate, ...]:
    """Parse a peer's chain. Raises Invalid (`no_certificate`, `chain_length`, `malformed`)."""
    if not chain_der:
        raise Invalid("no certificate was presented", code="no_certificate")
    if len(chain_der) > MAX_CHAIN:
        raise Invalid(f"the chain has {len(chain_der)} certificates; {MAX_CHAIN} are allowed", code="chain_length")
    if sum(map(len, chain_der)) > MAX_CHAIN_BYTES:
        raise Invalid(f"the chain is larger than {MAX_CHAIN_BYTES} bytes", code="chain_length")
    try:
        return tuple(x509.load_der_x509_certificate(der) for der in chain_der)
    except ValueError as error:
        raise Invalid(f"a certificate of the chain cannot be read: {error}", code="malformed") from error


def split(certificates: Sequence[x509.Certificate]) -> Chain:
    """Sort a leaf-first chain. Raises Invalid (`proxy_info`, `malformed`, `no_end_entity`)."""
    proxies: list[ProxyLink] = []
    for index, certificate in enumerate(certificates):
        link = _link(certificate)
        if link is None:
            return Chain(tuple(proxies), certificate, tuple(certificates[index + 1 :]))
        proxies.append(link)
    raise Invalid(
        "the chain holds only proxies; the end-entity certificate that they stand for is missing", code="no_end_entity"
    )


def _link(certificate: x509.Certificate) -> ProxyLink | None:
    extensions = extensions_of(certificate)
    for oid, kind in _INFO_KINDS:
        value = unparsed(extensions, oid)
        if value is not None:
            return ProxyLink(certificate, kind, pci.decode(value, draft=kind == "gt3"))
    if _added_rdn(certificate) in _GT2_NAMES and not _is_ca(extensions):
        return ProxyLink(certificate, "gt2", None)
    return None


_INFO_KINDS: tuple[tuple[x509.ObjectIdentifier, ProxyKind], ...] = (
    (pci.PROXY_CERT_INFO, "rfc3820"),
    (pci.DRAFT_PROXY_CERT_INFO, "gt3"),
)


def extensions_of(certificate: x509.Certificate) -> x509.Extensions:
    """The extensions. Raises Invalid (`malformed`) when one occurs twice or cannot be read."""
    try:
        return certificate.extensions
    except UNREADABLE as error:
        raise Invalid(f"the extensions of a certificate cannot be read: {error}", code="malformed") from error


def unparsed(extensions: x509.Extensions, oid: x509.ObjectIdentifier) -> bytes | None:
    """The value of an extension that the library does not know; None where it is absent."""
    for extension in extensions:
        if extension.oid == oid and isinstance(extension.value, x509.UnrecognizedExtension):
            return extension.value.value
    return None


def _added_rdn(certificate: x509.Certificate) -> str | None:
    """The value of the one CN that the subject has more than the issuer; None where the names differ otherwise."""
    subject, issuer = certificate.subject.rdns, certificate.issuer.rdns
    if len(subject) != len(issuer) + 1 or list(subject[:-1]) != list(issuer) or len(subject[-1]) != 1:
        return None
    added = next(iter(subject[-1]))
    return str(added.value) if added.oid == NameOID.COMMON_NAME else None


def _is_ca(extensions: x509.Extensions) -> bool:
    try:
        return extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


# -- rules ------------------------------------------------------------------------------------------------------


def examine(
    chain: Chain, now: datetime, *, allow_legacy: bool = False, min_rsa_bits: int = MIN_RSA_BITS
) -> list[Finding]:
    """Everything wrong with the proxies of `chain` (RFC 3820 section 4.1); the end-entity certificate is not judged here."""
    findings = list(_kinds(chain, allow_legacy=allow_legacy))
    parents = [*(proxy.certificate for proxy in chain.proxies), chain.end_entity][1:]
    for index, (proxy, parent) in enumerate(zip(chain.proxies, parents, strict=True)):
        where = f"proxy {index}"
        findings += (
            Finding(code, message, where=where)
            for code, message in _link_faults(proxy, parent, index, now, min_rsa_bits)
        )
    return findings


def _kinds(chain: Chain, *, allow_legacy: bool) -> Iterator[Finding]:
    kinds = {proxy.kind for proxy in chain.proxies}
    if len(kinds) > 1:
        mixed = ", ".join(sorted(kinds))
        yield Finding("mixed_proxies", f"the chain mixes kinds of proxies ({mixed}); right is one kind", where="chain")
    if not allow_legacy and kinds - {"rfc3820"}:
        yield Finding(
            "legacy_proxy",
            "the proxy is of an old Globus kind, not RFC 3820; make a new one with 'skyfed proxy init'",
            where="chain",
        )
    if chain.limited and chain.proxies and not chain.proxies[0].limited:
        yield Finding(
            "full_below_limited",
            "a full proxy was made from a limited one; the whole chain counts as limited",
            level="warning",
            where="chain",
        )


_Fault = tuple[str, str]


def _link_faults(
    proxy: ProxyLink, parent: x509.Certificate, further: int, now: datetime, min_rsa_bits: int
) -> Iterator[_Fault]:
    """`further` is the number of proxies below this one."""
    yield from _name_faults(proxy, parent)
    yield from _signature_faults(proxy.certificate, parent)
    yield from _time_faults(proxy.certificate, now)
    yield from _key_faults(proxy.certificate, min_rsa_bits)
    yield from _extension_faults(proxy, parent)
    yield from _policy_faults(proxy, further)


def _name_faults(proxy: ProxyLink, parent: x509.Certificate) -> Iterator[_Fault]:
    certificate = proxy.certificate
    if not names.same_name(certificate.issuer, parent.subject):
        issuer, subject = names.oneline(certificate.issuer), names.oneline(parent.subject)
        yield "proxy_issuer", f"the proxy says it was issued by '{issuer}', but the next certificate is '{subject}'"
    added = _added_rdn(certificate)
    if added is None:
        subject = names.oneline(certificate.subject)
        yield "proxy_name", f"the proxy's name '{subject}' is not its issuer's name and one CN more (RFC 3820 3.4)"


def _signature_faults(certificate: x509.Certificate, parent: x509.Certificate) -> Iterator[_Fault]:
    digest = digest_of(certificate)
    if digest is None or digest.digest_size < 32:
        name = digest.name if digest else "an unknown digest"
        yield "weak_signature", f"the proxy is signed with {name}; right is SHA-256 or better"
        return
    try:
        certificate.verify_directly_issued_by(parent)
    except (InvalidSignature, UnsupportedAlgorithm, TypeError):
        yield "proxy_signature", "the proxy is not signed with the key of the certificate above it"
    except ValueError:
        # The names differ, which `proxy_issuer` reports; the signature says nothing then.
        yield "proxy_signature", "the proxy's signature cannot be checked against the certificate above it"


def digest_of(certificate: x509.Certificate) -> hashes.HashAlgorithm | None:
    """The digest of the certificate's signature; None where the library does not know the algorithm."""
    try:
        return certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return None


def _time_faults(certificate: x509.Certificate, now: datetime) -> Iterator[_Fault]:
    if now > certificate.not_valid_after_utc:
        yield "expired", f"the proxy expired at {certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}; make a new one"
    if now < certificate.not_valid_before_utc:
        begin = certificate.not_valid_before_utc
        yield "not_yet_valid", f"the proxy is valid from {begin:%Y-%m-%dT%H:%M:%SZ} only; is a clock wrong?"


def _key_faults(certificate: x509.Certificate, min_rsa_bits: int) -> Iterator[_Fault]:
    try:
        key = signatures.public_key(certificate)
    except Invalid as error:
        yield error.code, error.message
        return
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < min_rsa_bits:
        yield "weak_key", f"the proxy's RSA key has {key.key_size} bits; right is {min_rsa_bits} or more"


def _extension_faults(proxy: ProxyLink, parent: x509.Certificate) -> Iterator[_Fault]:
    extensions, above = extensions_of(proxy.certificate), extensions_of(parent)
    if _is_ca(above):
        yield "proxy_of_ca", "the proxy was issued by a CA certificate; proxies stand below persons, robots and hosts"
    if _is_ca(extensions):
        yield "proxy_is_ca", "the proxy calls itself a CA"
    parent_usage, usage = _key_usage(above), _key_usage(extensions)
    if parent_usage is not None and not parent_usage.digital_signature:
        yield "key_usage", "the certificate above the proxy may not be used for digital signatures"
    if usage is not None and (usage.key_cert_sign or usage.content_commitment or not usage.digital_signature):
        yield "key_usage", "the proxy's key usage must have digitalSignature and neither keyCertSign nor nonRepudiation"
    for extension in extensions:
        if extension.oid in {ExtensionOID.SUBJECT_ALTERNATIVE_NAME, ExtensionOID.ISSUER_ALTERNATIVE_NAME}:
            yield "proxy_extension", "a proxy has no alternative names (RFC 3820 3.5)"
        if extension.oid == pci.PROXY_CERT_INFO and not extension.critical:
            yield "proxy_info", "ProxyCertInfo must be critical"
        if extension.critical and extension.oid not in _KNOWN_CRITICAL:
            yield "critical_extension", f"the critical extension {extension.oid.dotted_string} is unknown here"


def _key_usage(extensions: x509.Extensions) -> x509.KeyUsage | None:
    try:
        return extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return None


def _policy_faults(proxy: ProxyLink, further: int) -> Iterator[_Fault]:
    if proxy.path_length is not None and further > proxy.path_length:
        message = f"{further} proxies stand below this one; its path length allows {proxy.path_length}"
        yield "proxy_path_length", message
    if proxy.info is None:
        return
    if proxy.info.language == pci.INDEPENDENT:
        yield "independent_proxy", "the proxy inherits nothing from its issuer (independent); no rights can be derived"
    elif proxy.info.language not in {pci.INHERIT_ALL, pci.LIMITED}:
        yield "proxy_language", f"the proxy's policy language {proxy.info.language_name} is unknown here"
    if proxy.info.policy is not None and proxy.info.language in {pci.INHERIT_ALL, pci.INDEPENDENT}:
        yield "proxy_info", f"a policy text must be absent with the language '{proxy.info.language_name}'"
