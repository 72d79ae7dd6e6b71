"""ProxyCertInfo: the extension that makes a certificate a proxy (RFC 3820 section 3.8), and its draft ancestor.

Sans-IO: bytes to values and back, with `cryptography.hazmat.asn1`.
"""

from typing import Annotated

import msgspec
from cryptography import x509
from cryptography.hazmat import asn1

from skyfed.core.errors import Invalid

PROXY_CERT_INFO = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14")
# Globus Toolkit 3 used this before RFC 3820 was finished; its path length comes last, tagged [1].
DRAFT_PROXY_CERT_INFO = x509.ObjectIdentifier("1.3.6.1.4.1.3536.1.222")

INHERIT_ALL = x509.ObjectIdentifier("1.3.6.1.5.5.7.21.1")
INDEPENDENT = x509.ObjectIdentifier("1.3.6.1.5.5.7.21.2")
ANY_LANGUAGE = x509.ObjectIdentifier("1.3.6.1.5.5.7.21.0")
LIMITED = x509.ObjectIdentifier("1.3.6.1.4.1.3536.1.1.1.9")

LANGUAGE_NAMES = {
    INHERIT_ALL: "inherit all",
    INDEPENDENT: "independent",
    ANY_LANGUAGE: "any language",
    LIMITED: "limited",
}


@asn1.sequence
class _ProxyPolicy:
    language: x509.ObjectIdentifier
    policy: bytes | None


@asn1.sequence
class _ProxyCertInfo:
    path_length: int | None
    policy: _ProxyPolicy


@asn1.sequence
class _DraftProxyCertInfo:
    policy: _ProxyPolicy
    path_length: Annotated[int | None, asn1.Explicit(1)]


class ProxyCertInfo(msgspec.Struct, frozen=True):
    """What a proxy inherits and how many further proxies may follow it (None: any number)."""

    language: x509.ObjectIdentifier
    path_length: int | None = None
    policy: bytes | None = None

    @property
    def language_name(self) -> str:
        """The language in words, or its number."""
        return LANGUAGE_NAMES.get(self.language, self.language.dotted_string)


def encode(info: ProxyCertInfo) -> bytes:
    """The DER value of the RFC 3820 extension."""
    policy = _ProxyPolicy(language=info.language, policy=info.policy)
    return asn1.encode_der(_ProxyCertInfo(path_length=info.path_length, policy=policy))


def decode(der: bytes, *, draft: bool = False) -> ProxyCertInfo:
    """Read the extension's value (`draft`: the Globus Toolkit 3 form). Raises Invalid (`proxy_info`)."""
    kind: type[_ProxyCertInfo | _DraftProxyCertInfo] = _DraftProxyCertInfo if draft else _ProxyCertInfo
    try:
        value = asn1.decode_der(kind, der)
    except ValueError as error:
        raise Invalid(f"ProxyCertInfo is not the DER of RFC 3820: {error}", code="proxy_info") from error
    if value.path_length is not None and value.path_length < 0:
        raise Invalid(f"ProxyCertInfo has the path length {value.path_length}; right is 0 or more", code="proxy_info")
    return ProxyCertInfo(value.policy.language, value.path_length, value.policy.policy)
