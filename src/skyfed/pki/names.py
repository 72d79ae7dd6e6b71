"""Distinguished names in their text forms, their comparison, and the hashes that name files in a trust directory.

Two text forms are in use: OpenSSL's "oneline" (`/DC=org/CN=Alice`; VOMS, gridmaps, image lists, accounting) and RFC
4514 (`CN=Alice,DC=org`; Java, nginx). Oneline is ambiguous ("/" in values is not escaped), so names are compared
parsed wherever a certificate is at hand (`same_name`); text is compared only for configuration (`same_text`).
"""

import hashlib
import re

from cryptography import x509
from cryptography.x509.name import _ASN1Type  # the public Name API gives no other way to the string type of a value
from cryptography.x509.oid import NameOID

from skyfed.core.errors import Invalid
from skyfed.core.text import shown

MAX_DN_CHARACTERS = 4096

# OpenSSL's short names (crypto/objects); every other type is written as its dotted OID.
SHORT_NAMES: dict[str, str] = {
    "2.5.4.3": "CN",
    "2.5.4.4": "SN",
    "2.5.4.5": "serialNumber",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.9": "street",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "2.5.4.12": "title",
    "2.5.4.13": "description",
    "2.5.4.15": "businessCategory",
    "2.5.4.16": "postalAddress",
    "2.5.4.17": "postalCode",
    "2.5.4.20": "telephoneNumber",
    "2.5.4.41": "name",
    "2.5.4.42": "GN",
    "2.5.4.43": "initials",
    "2.5.4.44": "generationQualifier",
    "2.5.4.45": "x500UniqueIdentifier",
    "2.5.4.46": "dnQualifier",
    "2.5.4.65": "pseudonym",
    "2.5.4.97": "organizationIdentifier",
    "0.9.2342.19200300.100.1.1": "UID",
    "0.9.2342.19200300.100.1.3": "mail",
    "0.9.2342.19200300.100.1.25": "DC",
    "1.2.840.113549.1.9.1": "emailAddress",
    "1.2.840.113549.1.9.2": "unstructuredName",
    "1.3.6.1.4.1.311.60.2.1.1": "jurisdictionL",
    "1.3.6.1.4.1.311.60.2.1.2": "jurisdictionST",
    "1.3.6.1.4.1.311.60.2.1.3": "jurisdictionC",
}
_OIDS = {short: oid for oid, short in SHORT_NAMES.items()}

# Spellings that older software wrote for the same attribute; both occur in gridmaps and VO databases.
ALIASES: dict[str, str] = {
    "email": "emailAddress",
    "e": "emailAddress",
    "userid": "UID",
    "s": "ST",
    "streetaddress": "street",
    "surname": "SN",
    "givenname": "GN",
}
_KEYS: dict[str, str] = {short.lower(): short for short in _OIDS} | SHORT_NAMES | ALIASES
_SPLIT = re.compile(
    r"(?<!\\)/(?=(?:"
    + "|".join(sorted((re.escape(key) for key in _KEYS), key=len, reverse=True))
    + r"|\d+(?:\.\d+)+)=)",
    re.IGNORECASE,
)
# Recent OpenSSL releases write "/" and "+" inside values with a backslash; gridmaps and LSC files of the field have
# them bare.
_BACKSLASHED = re.compile(r"\\([/+])")
_ESCAPED = re.compile(r"(?:\\x[0-9A-Fa-f]{2})+")

# What OpenSSL's canonical encoding turns into a UTF8String (ASN1_MASK_CANON): everything that holds characters.
_TEXT_TYPES = frozenset(
    {
        _ASN1Type.UTF8String,
        _ASN1Type.PrintableString,
        _ASN1Type.T61String,
        _ASN1Type.IA5String,
        _ASN1Type.VisibleString,
        _ASN1Type.UniversalString,
        _ASN1Type.BMPString,
    }
)
_WIDE = {_ASN1Type.BMPString: "utf-16-be", _ASN1Type.UniversalString: "utf-32-be"}
# X.680 leaves numeric and general strings alone in OpenSSL's canonical form.
_TAG_SEQUENCE, _TAG_SET, _TAG_OID, _TAG_UTF8 = 0x30, 0x31, 0x06, 0x0C


def oneline(name: x509.Name) -> str:
    """`/DC=org/DC=example/CN=Alice`: as OpenSSL's X509_NAME_oneline writes it, bytes outside 0x20–0x7e as `\\xHH`,
    "/" bare."""
    return "".join(f"/{_short(attribute)}={_printable(_value_bytes(attribute))}" for attribute in name)


def rfc4514(name: x509.Name) -> str:
    """`CN=Alice,DC=example,DC=org`: RFC 4514, most specific first, types that it does not name by OpenSSL's short
    name."""
    return name.rfc4514_string({attribute.oid: _short(attribute) for attribute in name})


def from_oneline(text: str) -> x509.Name:
    """The name that `text` (oneline) spells. A "/" splits only before a known attribute type, so `CN=host/foo.org` is
    one value. Raises Invalid (`dn_syntax`)."""
    try:
        return x509.Name([_attribute(key, value) for key, value in _pairs(text)])
    except ValueError as error:
        raise Invalid(f"{shown(text)} is not a distinguished name: {error}", code="dn_syntax") from error


def normalise_text(text: str) -> str:
    """`text` in one spelling: attribute types by OpenSSL's short names, `\\xHH` decoded where it is UTF-8. For
    comparing and storing configured names; `/Email=` becomes `/emailAddress=`, `/USERID=` becomes `/UID=`. Accepts
    RFC 4514 as well. Raises Invalid (`dn_syntax`)."""
    return "".join(f"/{key}={value}" for key, value in _pairs(text))


def same_text(left: str, right: str) -> bool:
    """Whether two configured names are the same once their spelling is normalised. Raises Invalid (`dn_syntax`)."""
    return left == right or normalise_text(left) == normalise_text(right)


def same_name(left: x509.Name, right: x509.Name) -> bool:
    """Whether two parsed names are the same after RFC 5280 section 7.1 preparation: string types, letter case (ASCII)
    and runs of spaces do not count."""
    return left == right or canonical(left) == canonical(right)


def matches_text(name: x509.Name, text: str) -> bool:
    """Whether a certificate's name is the one that `text` (oneline) spells: by rendering the name, not by parsing the
    text."""
    return oneline(name) == text or same_text(oneline(name), text)


def canonical(name: x509.Name) -> bytes:
    """OpenSSL's canonical encoding: the key under which equal names are equal, and what the file name hash is made
    of."""
    return b"".join(
        _tlv(_TAG_SET, b"".join(sorted(_canonical_attribute(attribute) for attribute in rdn))) for rdn in name.rdns
    )


def subject_hash(name: x509.Name) -> str:
    """The eight digits of `openssl x509 -subject_hash`: names files in a trust directory since OpenSSL 1.0."""
    return _hash_text(hashlib.sha1(canonical(name), usedforsecurity=False).digest())


def subject_hash_old(name: x509.Name) -> str:
    """The eight digits of `-subject_hash_old` (MD5 of the DER): older clients look for these names."""
    return _hash_text(hashlib.md5(name.public_bytes(), usedforsecurity=False).digest())


def common_name(name: x509.Name) -> str:
    """The last CN of a name; "" where it has none."""
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[-1].value) if found else ""


def _hash_text(digest: bytes) -> str:
    return f"{int.from_bytes(digest[:4], 'little'):08x}"


def _short(attribute: x509.NameAttribute[str | bytes]) -> str:
    return SHORT_NAMES.get(attribute.oid.dotted_string, attribute.oid.dotted_string)


def _value_bytes(attribute: x509.NameAttribute[str | bytes]) -> bytes:
    """The content octets of the value as they stand in the DER (OpenSSL prints those, BMPString in 16 bits)."""
    if isinstance(attribute.value, bytes):
        return attribute.value
    return attribute.value.encode(_WIDE.get(attribute._type, "utf-8"))


def _printable(value: bytes) -> str:
    return "".join(chr(byte) if 0x20 <= byte <= 0x7E else f"\\x{byte:02X}" for byte in value)


def _canonical_attribute(attribute: x509.NameAttribute[str | bytes]) -> bytes:
    oid = _tlv(_TAG_OID, _oid_content(attribute.oid.dotted_string))
    if attribute._type in _TEXT_TYPES and isinstance(attribute.value, str):
        # ASCII white space and ASCII letters only, as OpenSSL does.
        words = re.split(r"[ \t\n\v\f\r]+", attribute.value.strip(" \t\n\v\f\r"))
        text = re.sub(r"[A-Z]+", lambda match: match[0].lower(), " ".join(words))
        return _tlv(_TAG_SEQUENCE, oid + _tlv(_TAG_UTF8, text.encode()))
    return _tlv(_TAG_SEQUENCE, oid + _tlv(attribute._type.value, _value_bytes(attribute)))


def _oid_content(dotted: str) -> bytes:
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    out = bytearray()
    for arc in (first * 40 + second, *rest):
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(0x80 | arc & 0x7F)
        out += bytes(reversed(groups))
    return bytes(out)


def _tlv(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(size))) + size + content


def _pairs(text: str) -> list[tuple[str, str]]:
    """The attribute types (one spelling) and values of a oneline or RFC 4514 text, most significant first."""
    if len(text) > MAX_DN_CHARACTERS:
        raise Invalid(f"a distinguished name has at most {MAX_DN_CHARACTERS} characters", code="dn_syntax")
    if not text.startswith("/"):
        return _pairs_rfc4514(text)
    head, *parts = _SPLIT.split(text)
    if head or not parts:
        raise Invalid(f"{shown(text)} is not a distinguished name such as /DC=org/CN=Alice", code="dn_syntax")
    pairs = (part.partition("=") for part in parts)
    return [(_KEYS.get(key.lower(), key), _unescape(value)) for key, _, value in pairs]


def _pairs_rfc4514(text: str) -> list[tuple[str, str]]:
    overrides = {short: x509.ObjectIdentifier(oid) for short, oid in _OIDS.items()}
    overrides |= {alias: x509.ObjectIdentifier(_OIDS[short]) for alias, short in ALIASES.items()}
    overrides |= {alias.upper(): x509.ObjectIdentifier(_OIDS[short]) for alias, short in ALIASES.items()}
    overrides["EMAILADDRESS"] = NameOID.EMAIL_ADDRESS
    try:
        name = x509.Name.from_rfc4514_string(text, overrides)
    except ValueError:
        name = x509.Name([])
    if not name.rdns:
        message = f"{shown(text)} is not a distinguished name such as /DC=org/CN=Alice or CN=Alice,DC=org"
        raise Invalid(message, code="dn_syntax")
    return [(_short(attribute), str(attribute.value)) for attribute in name]


def _unescape(value: str) -> str:
    """`\\xC3\\xA9` → `é`; sequences that are not UTF-8 stay as they are, in upper case."""

    def decode(match: re.Match[str]) -> str:
        raw = bytes.fromhex(match[0].replace("\\x", ""))
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return _printable(raw)

    return _ESCAPED.sub(decode, _BACKSLASHED.sub(r"\1", value))


def _attribute(key: str, value: str) -> x509.NameAttribute[str]:
    oid = x509.ObjectIdentifier(_OIDS.get(key, key))
    return x509.NameAttribute(oid, value)
