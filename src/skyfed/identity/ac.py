"""VOMS attribute certificates: RFC 5755 certificates as attribute authorities of grids really write them.

Sans-IO: DER to values and back. Whether a certificate may be believed is decided in `ac_rules`. Structures are
written with `cryptography.hazmat.asn1`, which reads strict DER only: no BER, no trailing bytes, no explicit defaults.
"""

import re
from datetime import UTC, datetime
from typing import Annotated, Literal, TypeAlias

import msgspec
from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtensionOID

from skyfed.core.errors import Invalid
from skyfed.core.text import shown
from skyfed.identity import signatures
from skyfed.identity.fqan import Fqan
from skyfed.pki.files import PrivateKey

_VOMS = "1.3.6.1.4.1.8005.100.100"
FQANS = x509.ObjectIdentifier(f"{_VOMS}.4")
AC_SEQUENCE = x509.ObjectIdentifier(f"{_VOMS}.5")
ISSUER_CERTIFICATES = x509.ObjectIdentifier(f"{_VOMS}.10")
GENERIC_ATTRIBUTES = x509.ObjectIdentifier(f"{_VOMS}.11")
NO_REV_AVAIL = x509.ObjectIdentifier("2.5.29.56")
TARGETS = x509.ObjectIdentifier("2.5.29.55")
AUTHORITY_KEY_IDENTIFIER = ExtensionOID.AUTHORITY_KEY_IDENTIFIER

MAX_AC_BYTES = 64 * 1024
MAX_ACS = 16
MAX_FQANS = 1000
# RFC 5280 allows 20 octets; the C++ library refuses more.
MAX_SERIAL_BITS = 160

_SAFE_NAME = re.compile(r"[A-Za-z0-9._\-]{1,255}", re.ASCII)

# -- ASN.1 ------------------------------------------------------------------------------------------------------

_Uri: TypeAlias = Annotated[asn1.IA5String, asn1.Implicit(6)]
_DirectoryName: TypeAlias = Annotated[x509.Name, asn1.Explicit(4)]
_TargetName: TypeAlias = (
    Annotated[asn1.Variant[asn1.IA5String, Literal["uri"]], asn1.Implicit(6)]
    | Annotated[asn1.Variant[asn1.IA5String, Literal["dns"]], asn1.Implicit(2)]
)
_Target: TypeAlias = Annotated[_TargetName, asn1.Explicit(0)]


@asn1.sequence
class _IssuerSerial:
    issuer: list[_DirectoryName]
    serial: int


@asn1.sequence
class _Holder:
    base_certificate_id: Annotated[_IssuerSerial, asn1.Implicit(0)]


@asn1.sequence
class _V2Form:
    issuer_name: list[_DirectoryName]


@asn1.sequence
class _Validity:
    not_before: asn1.GeneralizedTime
    not_after: asn1.GeneralizedTime


@asn1.sequence
class _Attribute:
    type: x509.ObjectIdentifier
    values: asn1.SetOf[asn1.TLV]


@asn1.sequence
class _Extension:
    oid: x509.ObjectIdentifier
    critical: Annotated[bool, asn1.Default(False)]
    value: bytes


@asn1.sequence
class _Info:
    version: int
    holder: _Holder
    issuer: Annotated[_V2Form, asn1.Implicit(0)]
    signature: signatures.AlgorithmIdentifier
    serial: int
    validity: _Validity
    attributes: list[_Attribute]
    issuer_unique_id: asn1.BitString | None
    extensions: list[_Extension] | None


@asn1.sequence
class _AttributeCertificate:
    info: asn1.TLV
    algorithm: signatures.AlgorithmIdentifier
    signature: asn1.BitString


@asn1.sequence
class _IetfAttrSyntax:
    policy_authority: Annotated[list[_Uri], asn1.Implicit(0)]
    values: list[bytes]


@asn1.sequence
class _AcSequence:
    acs: list[asn1.TLV]


@asn1.sequence
class _Certificates:
    certificates: list[x509.Certificate]


@asn1.sequence
class _GenericAttribute:
    name: bytes
    value: bytes
    qualifier: bytes


@asn1.sequence
class _GenericAttributes:
    grantor: list[_Uri]
    attributes: list[_GenericAttribute]


@asn1.sequence
class _GenericAttributesByGrantor:
    # Old servers write the extension without content.
    grants: list[_GenericAttributes] | None


@asn1.sequence
class _KeyIdentifier:
    key_identifier: Annotated[bytes | None, asn1.Implicit(0)]
    issuer: Annotated[list[asn1.TLV] | None, asn1.Implicit(1)]
    serial: Annotated[int | None, asn1.Implicit(2)]


@asn1.sequence
class _RfcTargeting:
    """RFC 5755 4.3.2 with its usual single `Targets`."""

    targets: list[_Target]


@asn1.sequence
class _WrappedTarget:
    name: _Target


@asn1.sequence
class _VomsTargeting:
    """What attribute authorities write: a SEQUENCE more around each target."""

    targets: list[_WrappedTarget]


# -- values -----------------------------------------------------------------------------------------------------


class PolicyAuthority(msgspec.Struct, frozen=True):
    """Who issued the FQANs: `vo://host:port`. The VO and host name the trust file, so they are safe as file names."""

    vo: str
    host: str
    port: int

    @property
    def uri(self) -> str:
        """As written in the certificate."""
        return f"{self.vo}://{self.host}:{self.port}"


class GenericAttribute(msgspec.Struct, frozen=True):
    """A name and value about the holder; `qualifier` is the VO or the group that gave it."""

    name: str
    value: str
    qualifier: str


class AttributeCertificate(msgspec.Struct, frozen=True):
    """One decoded certificate. Nothing in it is proven."""

    der: bytes
    info_der: bytes
    holder_issuer: x509.Name
    holder_serial: int
    issuer: x509.Name
    serial: int
    not_before: datetime
    not_after: datetime
    authority: PolicyAuthority
    fqans: tuple[Fqan, ...]
    attributes: tuple[GenericAttribute, ...]
    certificates: tuple[x509.Certificate, ...]
    targets: tuple[str, ...] | None
    key_identifier: bytes | None
    no_revocation_available: bool
    unknown_critical: tuple[str, ...]
    algorithm: str
    signature: bytes


class Content(msgspec.Struct, frozen=True):
    """What an attribute authority states; `issue` turns it into a certificate."""

    holder_issuer: x509.Name
    holder_serial: int
    authority: PolicyAuthority
    fqans: tuple[Fqan, ...]
    serial: int
    not_before: datetime
    not_after: datetime
    targets: tuple[str, ...] = ()
    attributes: tuple[GenericAttribute, ...] = ()


# -- decoding ---------------------------------------------------------------------------------------------------


def _refuse(message: str, code: str = "ac_format") -> Invalid:
    return Invalid(f"attribute certificate: {message}", code=code)


def decode_sequence(value: bytes) -> tuple[bytes, ...]:
    """The DER of each certificate in a proxy's AC extension. Raises Invalid (`ac_format`)."""
    if len(value) > MAX_ACS * MAX_AC_BYTES:
        raise _refuse(f"the extension has {len(value)} bytes; {MAX_ACS * MAX_AC_BYTES} are allowed")
    try:
        acs = asn1.decode_der(_AcSequence, value).acs
    except ValueError as error:
        raise _refuse(f"the proxy's extension is not a sequence of certificates: {error}") from error
    if len(acs) > MAX_ACS:
        raise _refuse(f"the proxy carries {len(acs)}; {MAX_ACS} are allowed")
    return tuple(asn1.encode_der(ac) for ac in acs)


def encode_sequence(acs: tuple[bytes, ...]) -> bytes:
    """The value of a proxy's AC extension."""
    return asn1.encode_der(_AcSequence(acs=[_tlv(der) for der in acs]))


def _tlv(der: bytes) -> asn1.TLV:
    return asn1.decode_der(asn1.TLV, der)


def decode(der: bytes) -> AttributeCertificate:
    """Read one certificate strictly. Raises Invalid (`ac_format`, `ac_fqan`) saying what is wrong with it."""
    if len(der) > MAX_AC_BYTES:
        raise _refuse(f"it has {len(der)} bytes; {MAX_AC_BYTES} are allowed")
    try:
        outer = asn1.decode_der(_AttributeCertificate, der)
        info_der = asn1.encode_der(outer.info)
        info = outer.info.parse(_Info)
        return _value(der, info_der, outer, info)
    except ValueError as error:
        raise _refuse(f"not the strict DER of a VOMS attribute certificate: {error}") from error


def _value(der: bytes, info_der: bytes, outer: _AttributeCertificate, info: _Info) -> AttributeCertificate:
    if info.version != 1:
        raise _refuse(f"version {info.version}; right is 1 (v2)")
    if not 0 <= info.serial.bit_length() <= MAX_SERIAL_BITS or info.serial < 0:
        raise _refuse("the serial number is negative or longer than 20 octets")
    if outer.algorithm.dotted != info.signature.dotted:
        raise _refuse("the inner and the outer signature algorithm differ", "ac_signature")
    authority, fqans = _names(info.attributes)
    extensions = _extensions(info.extensions or [])
    return AttributeCertificate(
        der=der,
        info_der=info_der,
        holder_issuer=_single(info.holder.base_certificate_id.issuer, "holder issuer"),
        holder_serial=info.holder.base_certificate_id.serial,
        issuer=_single(info.issuer.issuer_name, "issuer"),
        serial=info.serial,
        not_before=_whole_seconds(info.validity.not_before),
        not_after=_whole_seconds(info.validity.not_after),
        authority=authority,
        fqans=fqans,
        attributes=_generic_attributes(extensions),
        certificates=_certificates(extensions),
        targets=_targets(extensions),
        key_identifier=_key_identifier(extensions),
        no_revocation_available=_no_revocation(extensions),
        unknown_critical=tuple(e.oid.dotted_string for e in extensions.values() if e.critical and e.oid not in _KNOWN),
        algorithm=outer.algorithm.dotted,
        signature=signatures.octets(outer.signature),
    )


_KNOWN = {ISSUER_CERTIFICATES, GENERIC_ATTRIBUTES, NO_REV_AVAIL, TARGETS, AUTHORITY_KEY_IDENTIFIER}


def _single(names: list[x509.Name], what: str) -> x509.Name:
    if len(names) != 1:
        raise _refuse(f"the {what} has {len(names)} names; right is one directory name")
    return names[0]


def _whole_seconds(time: asn1.GeneralizedTime) -> datetime:
    moment = time.as_datetime()
    if moment.microsecond:
        raise _refuse("a time has fractions of a second")
    return moment.replace(tzinfo=UTC)


def _names(attributes: list[_Attribute]) -> tuple[PolicyAuthority, tuple[Fqan, ...]]:
    values = [value for a in attributes if a.type == FQANS for value in a.values.as_list()]
    if len(values) != 1:
        raise _refuse(f"{len(values)} FQAN attributes; right is one with one value")
    syntax = values[0].parse(_IetfAttrSyntax)
    if len(syntax.policy_authority) != 1:
        raise _refuse(f"{len(syntax.policy_authority)} policy authorities; right is one")
    authority = parse_authority(syntax.policy_authority[0].as_str())
    if not 0 < len(syntax.values) <= MAX_FQANS:
        raise _refuse(f"{len(syntax.values)} FQANs; right is 1 to {MAX_FQANS}", "ac_fqan")
    return authority, tuple(_fqan(value, authority.vo) for value in syntax.values)


def _fqan(value: bytes, vo: str) -> Fqan:
    try:
        fqan = Fqan.parse(value.decode("ascii"))
    except (UnicodeDecodeError, Invalid) as error:
        raise _refuse(f"{shown(value.decode('ascii', 'replace'))} is not an FQAN", "ac_fqan") from error
    if fqan.vo != vo:
        raise _refuse(f"{shown(fqan.short)} is not in the VO {shown(vo)}", "ac_fqan")
    return fqan


def parse_authority(uri: str) -> PolicyAuthority:
    """Read `vo://host:port`. Raises Invalid (`ac_format`) when a part is missing or unsafe as a file name."""
    vo, separator, rest = uri.partition("://")
    host, _, port = rest.partition(":")
    if not separator or not is_safe_name(vo) or not is_safe_name(host) or not re.fullmatch(r"[0-9]{1,5}", port):
        raise _refuse(f"the policy authority {shown(uri)} is not 'vo://host:port'")
    return PolicyAuthority(vo, host, int(port))


def is_safe_name(name: str) -> bool:
    """Whether a VO or host name from outside may name a file."""
    return _SAFE_NAME.fullmatch(name) is not None and name not in {".", ".."}


def _extensions(found: list[_Extension]) -> dict[x509.ObjectIdentifier, _Extension]:
    by_oid = {extension.oid: extension for extension in found}
    if len(by_oid) != len(found):
        raise _refuse("an extension occurs twice")
    return by_oid


_Extensions: TypeAlias = dict[x509.ObjectIdentifier, _Extension]


def _certificates(extensions: _Extensions) -> tuple[x509.Certificate, ...]:
    extension = extensions.get(ISSUER_CERTIFICATES)
    return tuple(asn1.decode_der(_Certificates, extension.value).certificates) if extension else ()


def _generic_attributes(extensions: _Extensions) -> tuple[GenericAttribute, ...]:
    extension = extensions.get(GENERIC_ATTRIBUTES)
    if extension is None:
        return ()
    grants = asn1.decode_der(_GenericAttributesByGrantor, extension.value).grants or []
    return tuple(
        GenericAttribute(a.name.decode(), a.value.decode(), a.qualifier.decode())
        for grant in grants
        for a in grant.attributes
    )


def _key_identifier(extensions: _Extensions) -> bytes | None:
    extension = extensions.get(AUTHORITY_KEY_IDENTIFIER)
    return asn1.decode_der(_KeyIdentifier, extension.value).key_identifier if extension else None


def _no_revocation(extensions: _Extensions) -> bool:
    extension = extensions.get(NO_REV_AVAIL)
    if extension is None:
        return False
    asn1.decode_der(asn1.Null, extension.value)
    return True


def _targets(extensions: _Extensions) -> tuple[str, ...] | None:
    """Host names, from the form that VOMS writes or from RFC 5755's, which has one SEQUENCE less."""
    extension = extensions.get(TARGETS)
    if extension is None:
        return None
    try:
        names = [target.name for target in asn1.decode_der(_VomsTargeting, extension.value).targets]
    except ValueError:
        names = asn1.decode_der(_RfcTargeting, extension.value).targets
    return tuple(name.value.as_str() for name in names)


# -- encoding ---------------------------------------------------------------------------------------------------


def issue(
    content: Content,
    certificate: x509.Certificate,
    key: PrivateKey,
    *,
    issuers: tuple[x509.Certificate, ...] = (),
) -> bytes:
    """The DER of a certificate that states `content`, signed with the attribute authority's `key`.

    `certificate` is the authority's, `issuers` the intermediates that a reader needs to reach a root. The signature
    algorithm follows the key. Raises Invalid when an FQAN is outside the VO.
    """
    for fqan in content.fqans:
        if fqan.vo != content.authority.vo:
            raise _refuse(f"{shown(fqan.short)} is not in the VO {shown(content.authority.vo)}", "ac_fqan")
    algorithm = signatures.algorithm_for(key.public_key())
    info = _Info(
        version=1,
        holder=_Holder(base_certificate_id=_IssuerSerial(issuer=[content.holder_issuer], serial=content.holder_serial)),
        issuer=_V2Form(issuer_name=[certificate.subject]),
        signature=algorithm,
        serial=content.serial,
        validity=_Validity(
            not_before=asn1.GeneralizedTime(content.not_before), not_after=asn1.GeneralizedTime(content.not_after)
        ),
        attributes=[_fqan_attribute(content)],
        issuer_unique_id=None,
        extensions=_issued_extensions(content, (certificate, *issuers)),
    )
    info_der = asn1.encode_der(info)
    signed = _AttributeCertificate(
        info=_tlv(info_der),
        algorithm=algorithm,
        signature=asn1.BitString(signatures.sign(key, info_der), 0),
    )
    return asn1.encode_der(signed)


def _fqan_attribute(content: Content) -> _Attribute:
    syntax = _IetfAttrSyntax(
        policy_authority=[asn1.IA5String(content.authority.uri)],
        values=[fqan.long.encode("ascii") for fqan in content.fqans],
    )
    return _Attribute(type=FQANS, values=asn1.SetOf([_tlv(asn1.encode_der(syntax))]))


def _issued_extensions(content: Content, chain: tuple[x509.Certificate, ...]) -> list[_Extension]:
    """In the order that readers have always seen: attributes, certificates, no revocation, key, targets."""
    extensions = []
    if content.attributes:
        grant = _GenericAttributes(
            grantor=[asn1.IA5String(content.authority.uri)],
            attributes=[
                _GenericAttribute(name=a.name.encode(), value=a.value.encode(), qualifier=a.qualifier.encode())
                for a in content.attributes
            ],
        )
        extensions.append(_plain(GENERIC_ATTRIBUTES, asn1.encode_der(_GenericAttributesByGrantor(grants=[grant]))))
    extensions.append(_plain(ISSUER_CERTIFICATES, asn1.encode_der(_Certificates(certificates=list(chain)))))
    extensions.append(_plain(NO_REV_AVAIL, asn1.encode_der(asn1.Null())))
    identifier = _KeyIdentifier(key_identifier=key_identifier(chain[0]), issuer=None, serial=None)
    extensions.append(_plain(AUTHORITY_KEY_IDENTIFIER, asn1.encode_der(identifier)))
    if content.targets:
        # The C++ and Java readers take only this form, one SEQUENCE deeper than RFC 5755.
        wrapped = [_WrappedTarget(name=asn1.Variant(asn1.IA5String(host), "uri")) for host in content.targets]
        targeting = asn1.encode_der(_VomsTargeting(targets=wrapped))
        extensions.append(_Extension(oid=TARGETS, critical=True, value=targeting))
    return extensions


def _plain(oid: x509.ObjectIdentifier, value: bytes) -> _Extension:
    return _Extension(oid=oid, critical=False, value=value)


def key_identifier(certificate: x509.Certificate) -> bytes:
    """SHA-1 of the public key's bits (RFC 5280 4.2.1.2): a name for the key, no protection; the C++ reader wants it."""
    return x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate, lower-case hex."""
    return certificate.fingerprint(hashes.SHA256()).hex()
