"""Trusted-front mode: a TLS-terminating proxy before this node passes its client's certificates on (RFC 9440).

Off unless the node names the subject of the front's own certificate. Only a connection on which that certificate has been proven
may speak for others; from everybody else the same fields are stripped like all that claim an identity. What the front passes on
is judged as if TLS had brought it: the front vouches for possession of the key, for nothing else.
"""

import base64
import binascii
from collections.abc import Iterable

from skyfed.core.errors import Invalid
from skyfed.core.text import shown

# RFC 9440 sections 2.2 and 2.3.
LEAF, CHAIN = b"client-cert", b"client-cert-chain"
FIELDS = (LEAF, CHAIN)
# Where the protocol puts the fields of a request, in the scope's TLS extension: out of reach of whatever reads headers.
FORWARDED = "forwarded_certificates"
# A proxy of a proxy with its issuers is four or five.
MAX_CERTIFICATES = 10


def forwarded_chain(fields: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, ...]:
    """The chain in `Client-Cert` and `Client-Cert-Chain`, DER, leaf first; () where there is none. Raises Invalid."""
    leaf = [item for name, value in fields if name == LEAF for item in value.split(b",")]
    rest = [item for name, value in fields if name == CHAIN for item in value.split(b",")]
    if not leaf and not rest:
        return ()
    if len(leaf) != 1 or len(rest) >= MAX_CERTIFICATES:
        raise Invalid(
            f"the front end passed on {len(leaf)} leaf and {len(rest)} further certificates; right is one and less than"
            f" {MAX_CERTIFICATES}",
            code="forwarded_certificate",
        )
    return tuple(_byte_sequence(item.strip()) for item in (*leaf, *rest))


def _byte_sequence(item: bytes) -> bytes:
    """A byte sequence of RFC 8941 section 3.3.5: base64 between colons."""
    if len(item) < 2 or item[:1] != b":" or item[-1:] != b":":
        raise Invalid(
            f"the front end passed on {shown(item[:40].decode('latin-1'))}; right is :base64:",
            code="forwarded_certificate",
        )
    try:
        return base64.b64decode(item[1:-1], validate=True)
    except binascii.Error as error:
        raise Invalid(
            f"the front end passed on a certificate that is no base64: {error}", code="forwarded_certificate"
        ) from error
