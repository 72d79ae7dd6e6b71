"""S/MIME messages (RFC 8551) as OpenSSL's `smime` and `cms` commands, M2Crypto and their kin write and damage them.

Image lists and accounting messages are such messages, MIME headers included. Reading is tolerant of line ends, since
mail and web transports change them; what is handed on are the bytes whose digest was signed, never others.
"""

import base64
import binascii
import quopri
import secrets
from dataclasses import dataclass
from datetime import datetime
from email.message import Message
from email.parser import BytesHeaderParser

from skyfed.core.errors import Invalid, TooLarge
from skyfed.core.text import shown
from skyfed.pki import cms
from skyfed.pki.cms import Signed
from skyfed.pki.files import Credential

MAX_MESSAGE_BYTES = 1 << 24
MAX_HEADER_BYTES = 1 << 13
MAX_BOUNDARY_CHARACTERS = 200

_SIGNATURE_TYPES = frozenset({"application/x-pkcs7-signature", "application/pkcs7-signature"})
_OPAQUE_TYPES = frozenset({"application/x-pkcs7-mime", "application/pkcs7-mime"})
_MICALG = {"sha256": "sha-256", "sha384": "sha-384", "sha512": "sha-512"}
_BASE64_LINE = 64


@dataclass(frozen=True, slots=True)
class Container:
    """An opened message: the SignedData and, where the content stands beside it, the forms it may have been signed
    in."""

    der: bytes
    detached: tuple[bytes, ...]


def verify(message: bytes, *, allow_sha1: bool = False, max_bytes: int = MAX_MESSAGE_BYTES) -> Signed:
    """The verified content and its signer. Raises TooLarge, Invalid (`smime_syntax`, or a code of `cms.verify`).

    The content is as signed: `inner_text` takes off the MIME header that OpenSSL's `-text` puts before it.
    """
    container = open_message(message, max_bytes=max_bytes)
    return cms.verify(container.der, container.detached, allow_sha1=allow_sha1)


def sign(content: bytes, credential: Credential, *, signed_at: datetime, text: bool = False) -> bytes:
    """`content` as a clear-signed message in the layout of `openssl smime -sign` (`-text` with `text`), line ends as
    CRLF inside the signature, SHA-256, the signer's chain embedded."""
    header = b"Content-Type: text/plain\r\n\r\n" if text else b""
    payload = header + canonical(content)
    der = cms.sign(payload, credential, signed_at=signed_at)
    boundary = f"----{_fresh_boundary(payload)}"
    head = (
        "MIME-Version: 1.0\n"
        'Content-Type: multipart/signed; protocol="application/x-pkcs7-signature"; '
        f'micalg="{_MICALG["sha256"]}"; boundary="{boundary}"\n\n'
        "This is an S/MIME signed message\n\n"
        f"--{boundary}\n"
    )
    tail = (
        f"\n--{boundary}\n"
        'Content-Type: application/x-pkcs7-signature; name="smime.p7s"\n'
        "Content-Transfer-Encoding: base64\n"
        'Content-Disposition: attachment; filename="smime.p7s"\n\n'
        f"{_base64_lines(der)}\n"
        f"--{boundary}--\n\n"
    )
    return head.encode() + payload + tail.encode()


def open_message(message: bytes, *, max_bytes: int = MAX_MESSAGE_BYTES) -> Container:
    """Take the container apart: clear-signed (multipart/signed) or opaque. Raises TooLarge, Invalid
    (`smime_syntax`)."""
    if len(message) > max_bytes:
        raise TooLarge(f"the message has more than {max_bytes} bytes", code="message_size")
    headers, body = _split_headers(message)
    kind = headers.get_content_type()
    if kind == "multipart/signed":
        return _open_clear(headers, body)
    if kind in _OPAQUE_TYPES:
        if headers.get_param("smime-type", "signed-data") != "signed-data":
            raise _wrong("the message is encrypted or otherwise enveloped; a signed one is expected")
        return Container(_from_base64(headers, body), ())
    raise _wrong(f"the Content-Type is {shown(kind)}; multipart/signed or application/pkcs7-mime is expected")


def canonical(content: bytes) -> bytes:
    """Every line end as CRLF. All CRs before a line end go first, as in OpenSSL, so that doubled ones do no harm."""
    return b"\r\n".join(line.rstrip(b"\r") for line in content.split(b"\n"))


def inner_text(content: bytes) -> bytes:
    """The text inside verified content: without a leading MIME header (OpenSSL's `-text`), transfer encoding undone."""
    if not content[:13].lower().startswith(b"content-"):
        return content
    headers, body = _split_headers(content)
    encoding = str(headers.get("Content-Transfer-Encoding", "")).strip().lower()
    if encoding == "base64":
        return _from_base64(headers, body)
    if encoding == "quoted-printable":
        return quopri.decodestring(body)
    return body


def _open_clear(headers: Message, body: bytes) -> Container:
    boundary = headers.get_param("boundary")
    if not isinstance(boundary, str) or not 0 < len(boundary) <= MAX_BOUNDARY_CHARACTERS or not boundary.isascii():
        raise _wrong("the Content-Type has no usable boundary")
    parts = _parts(body, b"--" + boundary.encode())
    if len(parts) != 2:
        raise _wrong(f"the message has {len(parts)} parts; content and signature are expected")
    content, signature = parts
    signature_headers, encoded = _split_headers(signature)
    if signature_headers.get_content_type() not in _SIGNATURE_TYPES:
        raise _wrong(f"the second part is {shown(signature_headers.get_content_type())}, not a PKCS#7 signature")
    return Container(_from_base64(signature_headers, encoded), _forms(content))


def _parts(body: bytes, delimiter: bytes) -> list[bytes]:
    """The bytes between delimiter lines, each still with the line end that belongs to the delimiter after it."""
    parts: list[bytes] = []
    start = -1
    position = 0
    while position < len(body):
        end = body.find(b"\n", position)
        end = len(body) if end < 0 else end + 1
        line = body[position:end].rstrip(b"\r\n \t") if body.startswith(delimiter, position) else b""
        if line in (delimiter, delimiter + b"--"):
            if start >= 0:
                parts.append(body[start:position])
            if line != delimiter:
                return parts
            start = end
            if len(parts) > 2:
                return parts
        position = end
    raise _wrong("the message ends before its closing boundary")


def _forms(part: bytes) -> tuple[bytes, ...]:
    """How the content may have been digested: as it stands (`-binary`; the delimiter's line end being LF or CRLF) or
    canonical."""
    lf = part.removesuffix(b"\n")
    crlf = lf.removesuffix(b"\r")
    return tuple(dict.fromkeys((crlf, lf, canonical(crlf))))


def _split_headers(message: bytes) -> tuple[Message, bytes]:
    start = len(message) - len(message.lstrip(b"\r\n")) if message[:2].strip(b"\r\n") == b"" else 0
    ends = [
        (found, found + len(blank))
        for blank in (b"\n\n", b"\n\r\n")
        if (found := message.find(blank, start, start + MAX_HEADER_BYTES)) >= 0
    ]
    if not ends:
        raise _wrong(f"no MIME header block ends within the first {MAX_HEADER_BYTES} bytes")
    end, body = min(ends)
    headers = BytesHeaderParser().parsebytes(message[start : end + 1])
    return headers, message[body:]


def _from_base64(headers: Message, body: bytes) -> bytes:
    encoding = str(headers.get("Content-Transfer-Encoding", "")).strip().lower()
    if encoding != "base64":
        raise _wrong(f"the transfer encoding is {shown(encoding)}; base64 is expected")
    try:
        return base64.b64decode(b"".join(body.split()), validate=True)
    except binascii.Error as error:
        raise _wrong("the base64 of the signature is malformed") from error


def _base64_lines(data: bytes) -> str:
    text = base64.b64encode(data).decode()
    return "".join(f"{text[i : i + _BASE64_LINE]}\n" for i in range(0, len(text), _BASE64_LINE))


def _fresh_boundary(payload: bytes) -> str:
    while True:
        boundary = secrets.token_hex(16).upper()
        if boundary.encode() not in payload:
            return boundary


def _wrong(message: str) -> Invalid:
    return Invalid(message, code="smime_syntax")
