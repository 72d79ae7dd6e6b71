"""Signatures over exact bytes, by the algorithm identifiers that certificates and attribute certificates carry."""

from typing import TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import SignatureAlgorithmOID

from skyfed.core.errors import Invalid
from skyfed.pki.files import PrivateKey

Digest: TypeAlias = hashes.SHA256 | hashes.SHA384 | hashes.SHA512
PublicKey: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

# Read and written. SHA-1 and MD5 are absent on purpose.
_RSA: dict[str, Digest] = {
    SignatureAlgorithmOID.RSA_WITH_SHA256.dotted_string: hashes.SHA256(),
    SignatureAlgorithmOID.RSA_WITH_SHA384.dotted_string: hashes.SHA384(),
    SignatureAlgorithmOID.RSA_WITH_SHA512.dotted_string: hashes.SHA512(),
}
_ECDSA: dict[str, Digest] = {
    SignatureAlgorithmOID.ECDSA_WITH_SHA256.dotted_string: hashes.SHA256(),
    SignatureAlgorithmOID.ECDSA_WITH_SHA384.dotted_string: hashes.SHA384(),
    SignatureAlgorithmOID.ECDSA_WITH_SHA512.dotted_string: hashes.SHA512(),
}


@asn1.sequence
class AlgorithmIdentifier:
    """RFC 5280 4.1.1.2. RSA has NULL parameters, ECDSA none; an identifier with others does not parse."""

    algorithm: x509.ObjectIdentifier
    parameters: asn1.Null | None

    @property
    def dotted(self) -> str:
        """The algorithm's number."""
        return self.algorithm.dotted_string


def algorithm_for(key: object) -> AlgorithmIdentifier:
    """What to sign with, from the public key: RSA SHA-256, P-256 SHA-256, P-384 SHA-384, P-521 SHA-512.

    Raises Invalid (`key_type`) for other keys.
    """
    if isinstance(key, rsa.RSAPublicKey):
        return AlgorithmIdentifier(algorithm=SignatureAlgorithmOID.RSA_WITH_SHA256, parameters=asn1.Null())
    if isinstance(key, ec.EllipticCurvePublicKey):
        bits = key.curve.key_size
        oid = (
            SignatureAlgorithmOID.ECDSA_WITH_SHA256
            if bits <= 256
            else SignatureAlgorithmOID.ECDSA_WITH_SHA384
            if bits <= 384
            else SignatureAlgorithmOID.ECDSA_WITH_SHA512
        )
        return AlgorithmIdentifier(algorithm=oid, parameters=None)
    raise Invalid(f"cannot sign with {type(key).__name__}; right is an RSA or EC key", code="key_type")


def hash_for(key: object) -> Digest:
    """The digest that goes with `key` (see `algorithm_for`)."""
    dotted = algorithm_for(key).dotted
    return _RSA.get(dotted) or _ECDSA[dotted]


def sign(key: PrivateKey, data: bytes) -> bytes:
    """The signature of `data` with the algorithm that `algorithm_for` names."""
    digest = hash_for(key.public_key())
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), digest)
    return key.sign(data, ec.ECDSA(digest))


def verified(key: object, algorithm: str, signature: bytes, data: bytes) -> bool:
    """Whether the owner of the public `key` signed `data`; False also for weak or unknown algorithms."""
    try:
        if isinstance(key, rsa.RSAPublicKey) and algorithm in _RSA:
            key.verify(signature, data, padding.PKCS1v15(), _RSA[algorithm])
        elif isinstance(key, ec.EllipticCurvePublicKey) and algorithm in _ECDSA:
            key.verify(signature, data, ec.ECDSA(_ECDSA[algorithm]))
        else:
            return False
    except InvalidSignature:
        return False
    return True


def octets(bits: asn1.BitString) -> bytes:
    """The bytes of a signature. Raises ValueError when it is not a whole number of them."""
    if bits.padding_bits():
        raise ValueError("the signature is not a whole number of octets")
    return bits.as_bytes()


def public_key(certificate: x509.Certificate) -> PublicKey:
    """The certificate's key. Raises Invalid (`key_type`) where it is neither RSA nor EC."""
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Invalid(f"a certificate's public key cannot be read: {error}", code="key_type") from error
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise Invalid(f"a certificate's key is {type(key).__name__}; right is RSA or EC", code="key_type")
    return key
