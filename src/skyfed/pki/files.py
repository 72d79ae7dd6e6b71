"""Files of certificates and keys: written whole or not at all, read in whatever order and shape clients wrote them."""

import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from skyfed.core.errors import Invalid

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

MAX_BUNDLE_BYTES = 1 << 20
MAX_BUNDLE_BLOCKS = 64
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----\r?\n(.*?)-----END \1-----", re.DOTALL)
_CERTIFICATE_LABELS = frozenset({b"CERTIFICATE", b"X509 CERTIFICATE"})


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Put `data` at `path` with `mode`, durable, or leave what was there: a reader never sees half a file.

    A symbolic link at `path` is replaced, not followed.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make renames in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_bounded(path: Path, limit: int) -> bytes:
    """The file's bytes. Raises Invalid (`unreadable`, `file_size`)."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise Invalid(f"cannot read {path}: {error.strerror}", code="unreadable") from error
    if len(data) > limit:
        raise Invalid(f"{path} is larger than {limit} bytes", code="file_size")
    return data


@dataclass(frozen=True, slots=True)
class Bundle:
    """The certificates of a PEM file in the order they stand in it, and its private key if there is one."""

    certificates: tuple[x509.Certificate, ...]
    key: PrivateKey | None


@dataclass(frozen=True, slots=True)
class Credential:
    """A certificate with its private key and the certificates that link it to a trust anchor (nearest first)."""

    certificate: x509.Certificate
    key: PrivateKey
    chain: tuple[x509.Certificate, ...] = ()

    def pem(self) -> bytes:
        """One file: certificate, key (PKCS#1 for RSA, as grid clients expect), chain: the layout of a proxy file."""
        chain = b"".join(pem_certificate(certificate) for certificate in self.chain)
        return pem_certificate(self.certificate) + pem_key(self.key, traditional=True) + chain


def parse_bundle(data: bytes, *, password: bytes | None = None, source: str = "credential") -> Bundle:
    """Certificates and at most one key out of PEM blocks in any order, with text between them, PKCS#1 or PKCS#8.

    Raises Invalid (`pem_size`, `pem_syntax`, `key_password`, `key_type`).
    """
    if len(data) > MAX_BUNDLE_BYTES:
        raise Invalid(f"{source} is larger than {MAX_BUNDLE_BYTES} bytes", code="pem_size")
    blocks = list(_BLOCK.finditer(data))
    if not blocks:
        raise Invalid(f"{source} has no PEM block ('-----BEGIN CERTIFICATE-----')", code="pem_syntax")
    if len(blocks) > MAX_BUNDLE_BLOCKS:
        raise Invalid(f"{source} has more than {MAX_BUNDLE_BLOCKS} PEM blocks", code="pem_size")
    certificates = []
    keys: list[PrivateKey] = []
    for match in blocks:
        if match[1] in _CERTIFICATE_LABELS:
            certificates.append(_certificate(match[0], source))
        elif match[1].endswith(b"PRIVATE KEY"):
            keys.append(_key(match[0], password, source))
    if len(keys) > 1:
        raise Invalid(f"{source} holds {len(keys)} private keys; one is expected", code="pem_syntax")
    return Bundle(tuple(certificates), keys[0] if keys else None)


def read_certificate(path: Path) -> x509.Certificate:
    """The first certificate in the PEM file at `path`. Raises Invalid (`unreadable`, `file_size`, `no_certificate`, …)."""
    certificates = parse_bundle(read_bounded(path, MAX_BUNDLE_BYTES), source=str(path)).certificates
    if not certificates:
        raise Invalid(f"{path} holds no certificate", code="no_certificate")
    return certificates[0]


def read_credential(cert: Path, key: Path | None = None, *, password: bytes | None = None) -> Credential:
    """The credential in `cert` (and `key`, where the key is in a file of its own).

    Raises Invalid: unreadable, no certificate, no key, or a key that belongs to another certificate (`key_mismatch`).
    """
    bundle = parse_bundle(read_bounded(cert, MAX_BUNDLE_BYTES), password=password, source=str(cert))
    private = bundle.key
    if key is not None and key != cert:
        private = parse_bundle(read_bounded(key, MAX_BUNDLE_BYTES), password=password, source=str(key)).key
    if not bundle.certificates:
        raise Invalid(f"{cert} holds no certificate", code="no_certificate")
    if private is None:
        raise Invalid(f"{key or cert} holds no private key", code="no_key")
    leaf, *chain = bundle.certificates
    if public_bytes(leaf.public_key()) != public_bytes(private.public_key()):
        raise Invalid(
            f"the key in {key or cert} does not belong to the first certificate in {cert}", code="key_mismatch"
        )
    return Credential(leaf, private, tuple(chain))


def write_credential(credential: Credential, cert: Path, key: Path) -> None:
    """Certificate with its chain to `cert` (0644), key to `key` (0600, PKCS#8)."""
    write_atomic(key, pem_key(credential.key))
    chain = b"".join(pem_certificate(certificate) for certificate in (credential.certificate, *credential.chain))
    write_atomic(cert, chain, mode=0o644)


def pem_certificate(certificate: x509.Certificate) -> bytes:
    """The certificate as one PEM block."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def pem_key(key: PrivateKey, *, traditional: bool = False) -> bytes:
    """The key as one unencrypted PEM block: PKCS#8, or PKCS#1/SEC 1 where `traditional`."""
    form = serialization.PrivateFormat.TraditionalOpenSSL if traditional else serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def public_bytes(key: object) -> bytes:
    """The SubjectPublicKeyInfo of a public key: equal for equal keys."""
    public = key.public_bytes(  # type: ignore[attr-defined]  # every public key class of the library has it
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert isinstance(public, bytes)  # noqa: S101 - tells the type checker what the library promises
    return public


def _certificate(block: bytes, source: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(block)
    except ValueError as error:
        raise Invalid(f"{source} holds a certificate that cannot be parsed: {error}", code="pem_syntax") from error


def _key(block: bytes, password: bytes | None, source: str) -> PrivateKey:
    encrypted = b"ENCRYPTED" in block
    if encrypted and password is None:
        raise Invalid(f"the key in {source} is encrypted; give its pass phrase", code="key_password")
    try:
        key = serialization.load_pem_private_key(block, password if encrypted else None)
    except (ValueError, TypeError) as error:
        code = "key_password" if encrypted else "pem_syntax"
        raise Invalid(
            f"the key in {source} cannot be read{' (wrong pass phrase?)' if encrypted else ''}", code=code
        ) from error
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise Invalid(f"the key in {source} is neither RSA nor EC", code="key_type")
    return key
