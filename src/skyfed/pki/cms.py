"""CMS SignedData (RFC 5652): one signer, signed attributes, strict DER. What S/MIME messages (`skyfed.pki.smime`)
carry.

Verifying says that the holder of the embedded certificate's key signed these bytes. Whether that certificate is
trusted is another question, for `TrustStore.verify_path`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from skyfed.core.errors import Invalid
from skyfed.core.text import shown
from skyfed.pki import names
from skyfed.pki.files import Credential, PrivateKey

T = TypeVar("T")

MAX_DER_BYTES = 1 << 24
MAX_CERTIFICATES = 16

_Oid = x509.ObjectIdentifier
DATA = _Oid("1.2.840.113549.1.7.1")
SIGNED_DATA = _Oid("1.2.840.113549.1.7.2")
_CONTENT_TYPE = _Oid("1.2.840.113549.1.9.3")
_MESSAGE_DIGEST = _Oid("1.2.840.113549.1.9.4")
_SIGNING_TIME = _Oid("1.2.840.113549.1.9.5")
_SMIME_CAPABILITIES = _Oid("1.2.840.113549.1.9.15")
_AES_256_CBC = _Oid("2.16.840.1.101.3.4.1.42")
_AES_128_CBC = _Oid("2.16.840.1.101.3.4.1.2")

_RSA_ENCRYPTION = _Oid("1.2.840.113549.1.1.1")
_RSASSA_PSS = _Oid("1.2.840.113549.1.1.10")
_MGF1 = _Oid("1.2.840.113549.1.1.8")
_EC_PUBLIC_KEY = _Oid("1.2.840.10045.2.1")

DIGESTS: dict[_Oid, hashes.HashAlgorithm] = {
    _Oid("1.3.14.3.2.26"): hashes.SHA1(),  # noqa: S303 - refused unless a subscription's policy asks for it
    _Oid("2.16.840.1.101.3.4.2.1"): hashes.SHA256(),
    _Oid("2.16.840.1.101.3.4.2.2"): hashes.SHA384(),
    _Oid("2.16.840.1.101.3.4.2.3"): hashes.SHA512(),
}
_DIGEST_OIDS = {digest.name: oid for oid, digest in DIGESTS.items()}
_RSA_WITH = {
    _Oid("1.2.840.113549.1.1.5"): "sha1",
    _Oid("1.2.840.113549.1.1.11"): "sha256",
    _Oid("1.2.840.113549.1.1.12"): "sha384",
    _Oid("1.2.840.113549.1.1.13"): "sha512",
}
_ECDSA_WITH = {
    _Oid("1.2.840.10045.4.1"): "sha1",
    _Oid("1.2.840.10045.4.3.2"): "sha256",
    _Oid("1.2.840.10045.4.3.3"): "sha384",
    _Oid("1.2.840.10045.4.3.4"): "sha512",
}
_ECDSA_OIDS = {name: oid for oid, name in _ECDSA_WITH.items()}
# RFC 5652 section 11.3: UTCTime until 2049.
_LAST_UTC_YEAR = 2049
_UTC_TIME_TAG = b"\x17"


@asn1.sequence
class _DigestAlgorithm:
    algorithm: x509.ObjectIdentifier
    parameters: asn1.Null | None


@asn1.sequence
class _MaskGeneration:
    algorithm: x509.ObjectIdentifier
    parameters: _DigestAlgorithm


@asn1.sequence
class _PssParameters:
    digest: Annotated[_DigestAlgorithm | None, asn1.Explicit(0)]
    mask: Annotated[_MaskGeneration | None, asn1.Explicit(1)]
    salt_length: Annotated[int, asn1.Explicit(2), asn1.Default(20)]
    trailer: Annotated[int, asn1.Explicit(3), asn1.Default(1)]


@asn1.sequence
class _SignatureAlgorithm:
    algorithm: x509.ObjectIdentifier
    parameters: asn1.Null | _PssParameters | None


@asn1.sequence
class _Attribute:
    type: x509.ObjectIdentifier
    values: asn1.SetOf[asn1.TLV]


@asn1.sequence
class _IssuerAndSerialNumber:
    issuer: x509.Name
    serial_number: int


@asn1.sequence
class _SignerInfo:
    version: int
    sid: _IssuerAndSerialNumber | Annotated[bytes, asn1.Implicit(0)]
    digest_algorithm: _DigestAlgorithm
    signed_attributes: Annotated[asn1.SetOf[_Attribute] | None, asn1.Implicit(0)]
    signature_algorithm: _SignatureAlgorithm
    signature: bytes
    unsigned_attributes: Annotated[asn1.SetOf[_Attribute] | None, asn1.Implicit(1)]


@asn1.sequence
class _EncapsulatedContent:
    content_type: x509.ObjectIdentifier
    content: Annotated[bytes | None, asn1.Explicit(0)]


@asn1.sequence
class _SignedData:
    version: int
    digest_algorithms: asn1.SetOf[_DigestAlgorithm]
    content: _EncapsulatedContent
    certificates: Annotated[asn1.SetOf[x509.Certificate] | None, asn1.Implicit(0)]
    crls: Annotated[asn1.SetOf[asn1.TLV] | None, asn1.Implicit(1)]
    signers: asn1.SetOf[_SignerInfo]


@asn1.sequence
class _ContentInfo:
    content_type: x509.ObjectIdentifier
    content: Annotated[_SignedData, asn1.Explicit(0)]


@asn1.sequence
class _Capability:
    algorithm: x509.ObjectIdentifier


@asn1.sequence
class _Capabilities:
    strongest: _Capability
    usual: _Capability


@dataclass(frozen=True, slots=True)
class Signed:
    """What a verified signature says: `signer` signed `content` with `digest` (`sha256`). `certificates` are the
    others that came along."""

    content: bytes
    signer: x509.Certificate
    certificates: tuple[x509.Certificate, ...]
    digest: str
    signed_at: datetime | None


def verify(der: bytes, detached: Sequence[bytes] = (), *, allow_sha1: bool = False) -> Signed:
    """Verify SignedData. `detached` are the forms that the content may have been signed in (line ends), the first
    that fits wins; empty where the content is inside.

    Raises Invalid: `cms_syntax`, `cms_signers` (not exactly one), `cms_certificate` (signer's not embedded),
    `cms_attributes`, `weak_digest`, `unsupported_algorithm`, `digest_mismatch`, `bad_signature`.
    """
    data = _decode(der)
    signers = data.signers.as_list()
    if len(signers) != 1:
        raise Invalid(f"the message has {len(signers)} signers; exactly one is expected", code="cms_signers")
    info = signers[0]
    certificate, others = _signer_certificate(info, data)
    digest = _digest(info.digest_algorithm, allow_sha1=allow_sha1)
    attributes = _attributes(info)
    if _only(attributes, _CONTENT_TYPE, _Oid) != data.content.content_type:
        raise Invalid("the signed content type is not the content's own", code="cms_attributes")
    content = _matching_content(data.content, detached, digest, _only(attributes, _MESSAGE_DIGEST, bytes))
    _check_signature(info, certificate, digest)
    return Signed(content, certificate, others, digest.name, _signing_time(attributes))


def sign(
    content: bytes, credential: Credential, *, signed_at: datetime, detached: bool = True, digest: str = "sha256"
) -> bytes:
    """SignedData in DER over `content` exactly as given: signer certificate and its chain embedded, PKCS#1 v1.5 or
    ECDSA."""
    algorithm = DIGESTS[_DIGEST_OIDS[digest]]
    digest_algorithm = _DigestAlgorithm(algorithm=_DIGEST_OIDS[digest], parameters=asn1.Null())
    attributes = asn1.SetOf(
        [
            _attribute(_CONTENT_TYPE, DATA),
            _attribute(_SIGNING_TIME, _time(signed_at)),
            _attribute(_MESSAGE_DIGEST, _hash(algorithm, content)),
            # OpenSSL and M2Crypto always tell what ciphers the signer can read.
            _attribute(
                _SMIME_CAPABILITIES,
                _Capabilities(strongest=_Capability(algorithm=_AES_256_CBC), usual=_Capability(algorithm=_AES_128_CBC)),
            ),
        ]
    )
    signature_algorithm, make = _signing(credential.key, algorithm)
    certificate = credential.certificate
    info = _SignerInfo(
        version=1,
        sid=_IssuerAndSerialNumber(issuer=certificate.issuer, serial_number=certificate.serial_number),
        digest_algorithm=digest_algorithm,
        signed_attributes=attributes,
        signature_algorithm=signature_algorithm,
        signature=make(asn1.encode_der(attributes)),
        unsigned_attributes=None,
    )
    data = _SignedData(
        version=1,
        digest_algorithms=asn1.SetOf([digest_algorithm]),
        content=_EncapsulatedContent(content_type=DATA, content=None if detached else content),
        certificates=asn1.SetOf([certificate, *credential.chain]),
        crls=None,
        signers=asn1.SetOf([info]),
    )
    return asn1.encode_der(_ContentInfo(content_type=SIGNED_DATA, content=data))


def _decode(der: bytes) -> _SignedData:
    if len(der) > MAX_DER_BYTES:
        raise Invalid(f"the signature is larger than {MAX_DER_BYTES} bytes", code="cms_syntax")
    try:
        info = asn1.decode_der(_ContentInfo, der)
    except (ValueError, x509.InvalidVersion) as error:
        raise Invalid(f"the signature is not CMS SignedData in DER: {error}", code="cms_syntax") from error
    if info.content_type != SIGNED_DATA:
        raise Invalid(f"the CMS content type is {info.content_type.dotted_string}, not signed data", code="cms_syntax")
    return info.content


def _signer_certificate(info: _SignerInfo, data: _SignedData) -> tuple[x509.Certificate, tuple[x509.Certificate, ...]]:
    embedded = data.certificates.as_list() if data.certificates is not None else []
    if len(embedded) > MAX_CERTIFICATES:
        raise Invalid(f"more than {MAX_CERTIFICATES} certificates are embedded", code="cms_certificate")
    try:
        found = [certificate for certificate in embedded if _is_signer(info.sid, certificate)]
    except ValueError as error:  # the library parses names lazily
        raise Invalid(f"an embedded certificate cannot be parsed: {error}", code="cms_certificate") from error
    if len(found) != 1:
        raise Invalid("the signer's certificate is not (or not once) among those embedded", code="cms_certificate")
    return found[0], tuple(certificate for certificate in embedded if certificate is not found[0])


def _is_signer(sid: _IssuerAndSerialNumber | bytes, certificate: x509.Certificate) -> bool:
    if isinstance(sid, bytes):
        try:
            return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest == sid
        except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
            return False
    return sid.serial_number == certificate.serial_number and names.same_name(sid.issuer, certificate.issuer)


def _digest(algorithm: _DigestAlgorithm, *, allow_sha1: bool) -> hashes.HashAlgorithm:
    digest = DIGESTS.get(algorithm.algorithm)
    if digest is None:
        message = f"the digest algorithm {algorithm.algorithm.dotted_string} is not one of SHA-256, SHA-384, SHA-512"
        raise Invalid(message, code="unsupported_algorithm")
    if isinstance(digest, hashes.SHA1) and not allow_sha1:
        raise Invalid("the message is signed with SHA-1; SHA-256 or better is needed", code="weak_digest")
    return digest


def _attributes(info: _SignerInfo) -> dict[_Oid, asn1.TLV]:
    """The signed attributes, each once with one value. A signature without them is refused: it could be a signature
    over another message's attributes (RFC 8933 tells the story)."""
    if info.signed_attributes is None:
        raise Invalid("the message has no signed attributes", code="cms_attributes")
    found: dict[_Oid, asn1.TLV] = {}
    for attribute in info.signed_attributes.as_list():
        values = attribute.values.as_list()
        if attribute.type in found:
            raise Invalid(f"the signed attribute {attribute.type.dotted_string} occurs twice", code="cms_attributes")
        if len(values) == 1:
            found[attribute.type] = values[0]
    return found


def _only(attributes: dict[_Oid, asn1.TLV], oid: _Oid, kind: type[T]) -> T:
    try:
        value = attributes[oid].parse(kind)
    except (KeyError, ValueError) as error:
        message = f"the signed attribute {oid.dotted_string} is missing or not of its type"
        raise Invalid(message, code="cms_attributes") from error
    assert isinstance(value, kind)  # noqa: S101 - what the library's parse promises
    return value


def _signing_time(attributes: dict[_Oid, asn1.TLV]) -> datetime | None:
    if _SIGNING_TIME not in attributes:
        return None
    if attributes[_SIGNING_TIME].tag_bytes == _UTC_TIME_TAG:
        return _only(attributes, _SIGNING_TIME, asn1.UTCTime).as_datetime()
    return _only(attributes, _SIGNING_TIME, asn1.GeneralizedTime).as_datetime()


def _matching_content(
    encapsulated: _EncapsulatedContent, detached: Sequence[bytes], digest: hashes.HashAlgorithm, wanted: bytes
) -> bytes:
    if encapsulated.content is not None and detached:
        raise Invalid("the message carries its content both inside the signature and beside it", code="cms_syntax")
    candidates = detached if encapsulated.content is None else (encapsulated.content,)
    for candidate in candidates:
        if _hash(digest, candidate) == wanted:
            return candidate
    raise Invalid("the content is not what was signed (digest mismatch)", code="digest_mismatch")


def _hash(algorithm: hashes.HashAlgorithm, data: bytes) -> bytes:
    context = hashes.Hash(algorithm)
    context.update(data)
    return context.finalize()


def _check_signature(info: _SignerInfo, certificate: x509.Certificate, digest: hashes.HashAlgorithm) -> None:
    attributes = asn1.encode_der(info.signed_attributes)
    try:
        key = certificate.public_key()
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(info.signature, attributes, _rsa_padding(info.signature_algorithm, digest), digest)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            _check_ecdsa(info.signature_algorithm, digest)
            key.verify(info.signature, attributes, ec.ECDSA(digest))
        else:
            raise Invalid("the signer's key is neither RSA nor EC", code="unsupported_algorithm")
    except (UnsupportedAlgorithm, ValueError) as error:
        raise Invalid(f"the signature cannot be verified here: {error}", code="unsupported_algorithm") from error
    except InvalidSignature as error:
        subject = shown(names.oneline(certificate.subject))
        raise Invalid(f"the signature was not made with the key of {subject}", code="bad_signature") from error


def _rsa_padding(algorithm: _SignatureAlgorithm, digest: hashes.HashAlgorithm) -> padding.AsymmetricPadding:
    oid = algorithm.algorithm
    if oid == _RSA_ENCRYPTION or _RSA_WITH.get(oid) == digest.name:
        return padding.PKCS1v15()
    if oid == _RSASSA_PSS and isinstance(algorithm.parameters, _PssParameters):
        return _pss(algorithm.parameters, digest)
    raise _wrong_algorithm(oid, digest)


def _pss(parameters: _PssParameters, digest: hashes.HashAlgorithm) -> padding.AsymmetricPadding:
    """RFC 4056: the parameters' digest is the signer's; absent fields mean SHA-1 (RFC 4055 section 3.1)."""
    sha1 = _DigestAlgorithm(algorithm=_DIGEST_OIDS["sha1"], parameters=None)
    content = DIGESTS.get((parameters.digest or sha1).algorithm)
    mask = DIGESTS.get((parameters.mask.parameters if parameters.mask else sha1).algorithm)
    usual_mask = parameters.mask is None or parameters.mask.algorithm == _MGF1
    if content is None or content.name != digest.name or mask is None or not usual_mask or parameters.trailer != 1:
        raise _wrong_algorithm(_RSASSA_PSS, digest)
    if not 0 <= parameters.salt_length <= 512:
        raise _wrong_algorithm(_RSASSA_PSS, digest)
    return padding.PSS(padding.MGF1(mask), parameters.salt_length)


def _check_ecdsa(algorithm: _SignatureAlgorithm, digest: hashes.HashAlgorithm) -> None:
    oid = algorithm.algorithm
    if oid != _EC_PUBLIC_KEY and _ECDSA_WITH.get(oid) != digest.name:
        raise _wrong_algorithm(oid, digest)


def _wrong_algorithm(oid: _Oid, digest: hashes.HashAlgorithm) -> Invalid:
    message = f"the signature algorithm {oid.dotted_string} does not go with {digest.name} and the signer's key"
    return Invalid(message, code="unsupported_algorithm")


def _signing(key: PrivateKey, algorithm: hashes.HashAlgorithm) -> tuple[_SignatureAlgorithm, Callable[[bytes], bytes]]:
    if isinstance(key, rsa.RSAPrivateKey):
        rsa_key = key
        return (
            _SignatureAlgorithm(algorithm=_RSA_ENCRYPTION, parameters=asn1.Null()),
            lambda data: rsa_key.sign(data, padding.PKCS1v15(), algorithm),
        )
    ec_key = key
    return (
        _SignatureAlgorithm(algorithm=_ECDSA_OIDS[algorithm.name], parameters=None),
        lambda data: ec_key.sign(data, ec.ECDSA(algorithm)),
    )


def _attribute(oid: _Oid, value: object) -> _Attribute:
    return _Attribute(type=oid, values=asn1.SetOf([asn1.decode_der(asn1.TLV, asn1.encode_der(value))]))


def _time(moment: datetime) -> asn1.UTCTime | asn1.GeneralizedTime:
    whole = moment.replace(microsecond=0)
    return asn1.UTCTime(whole) if whole.year <= _LAST_UTC_YEAR else asn1.GeneralizedTime(whole)
