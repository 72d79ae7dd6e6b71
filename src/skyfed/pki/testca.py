"""A throw-away certificate authority for demonstrations and tests: complete trust directories, no security of its own.

Its private key lies in a file beside the certificates. Real federations use the IGTF's authorities; nothing in the
product depends on this module.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from skyfed.core.clock import Clock, epoch, from_epoch
from skyfed.core.errors import Conflict, NotFound
from skyfed.pki import names
from skyfed.pki.files import (
    Credential,
    PrivateKey,
    pem_certificate,
    pem_key,
    read_credential,
    write_atomic,
    write_credential,
)

CA_LIFETIME = timedelta(days=3650)
# The CA/Browser Forum's and IGTF's usual year and a month.
EEC_LIFETIME = timedelta(days=395)
CRL_LIFETIME = timedelta(days=30)
# Other machines' clocks may be behind ours.
BACKDATED = timedelta(hours=1)

_CERTIFICATE, _KEY, _INDEX = "cacert.pem", "cakey.pem", "index.json"


class _Revoked(msgspec.Struct, frozen=True):
    serial: str  # hexadecimal: serial numbers are larger than JSON's safe integers
    at: int


class _Index(msgspec.Struct, frozen=True):
    """The CA's memory between runs."""

    crl_number: int = 0
    revoked: tuple[_Revoked, ...] = ()


@dataclass(frozen=True, slots=True)
class TrustFiles:
    """The names of the files that `publish` wrote for one hash."""

    new_hash: str
    old_hash: str


class ThrowawayCA:
    """A CA that lives in `directory`: `create` makes it, `open` finds it again."""

    def __init__(self, directory: Path, credential: Credential, clock: Clock) -> None:
        self.directory = directory
        self.certificate = credential.certificate
        self._key = credential.key
        self._clock = clock

    @classmethod
    def create(
        cls, directory: Path, clock: Clock, *, dn: str = "/DC=skyfed/DC=demo/CN=Skyfed demo CA"
    ) -> "ThrowawayCA":
        """Make a self-signed CA named `dn`. Raises Conflict (`ca_exists`) where there is one already."""
        if (directory / _CERTIFICATE).exists():
            raise Conflict(f"{directory} already holds a CA", code="ca_exists")
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        key = new_key()
        name = names.from_oneline(dn)
        now = _whole_second(clock)
        builder = _builder(name, name, key, now - BACKDATED, now + CA_LIFETIME)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        builder = builder.add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        certificate = builder.sign(key, hashes.SHA256())
        write_atomic(directory / _INDEX, msgspec.json.encode(_Index()))
        credential = Credential(certificate, key)
        write_credential(credential, directory / _CERTIFICATE, directory / _KEY)
        return cls(directory, credential, clock)

    @classmethod
    def open(cls, directory: Path, clock: Clock) -> "ThrowawayCA":
        """The CA that `create` made in `directory`. Raises Invalid."""
        return cls(directory, read_credential(directory / _CERTIFICATE, directory / _KEY), clock)

    @property
    def dn(self) -> str:
        """The CA's name, oneline."""
        return names.oneline(self.certificate.subject)

    @property
    def namespace(self) -> str:
        """The part of its own name that all its subjects share: `/DC=skyfed/DC=demo`."""
        return self.dn.rpartition("/CN=")[0]

    def host(
        self,
        host: str,
        *,
        dns: Sequence[str] = (),
        ips: Sequence[str] = ("127.0.0.1",),
        lifetime: timedelta = EEC_LIFETIME,
    ) -> Credential:
        """A credential for `NAMESPACE/OU=hosts/CN=host`, good for `host`, localhost, and what `dns` and `ips` add, as
        server and client."""
        alternatives: list[x509.GeneralName] = [x509.DNSName(n) for n in dict.fromkeys((host, "localhost", *dns))]
        alternatives += [x509.IPAddress(ipaddress.ip_address(ip)) for ip in ips]
        purposes = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
        return self.issue(f"{self.namespace}/OU=hosts/CN={host}", alternatives, purposes, lifetime=lifetime)

    def user(self, name: str, *, lifetime: timedelta = EEC_LIFETIME, not_before: datetime | None = None) -> Credential:
        """A person's credential, `NAMESPACE/OU=people/CN=name`."""
        purposes = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.EMAIL_PROTECTION)
        dn = f"{self.namespace}/OU=people/CN={name}"
        return self.issue(dn, (), purposes, lifetime=lifetime, not_before=not_before)

    def robot(self, name: str, *, lifetime: timedelta = EEC_LIFETIME) -> Credential:
        """A program's credential, `NAMESPACE/OU=robots/CN=Robot: name` (the IGTF robots profile's form)."""
        purposes = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.EMAIL_PROTECTION)
        return self.issue(f"{self.namespace}/OU=robots/CN=Robot: {name}", (), purposes, lifetime=lifetime)

    def issue(
        self,
        dn: str,
        alternatives: Iterable[x509.GeneralName] = (),
        purposes: Iterable[x509.ObjectIdentifier] = (ExtendedKeyUsageOID.CLIENT_AUTH,),
        *,
        lifetime: timedelta = EEC_LIFETIME,
        not_before: datetime | None = None,
        key: PrivateKey | None = None,
    ) -> Credential:
        """An end-entity credential for any `dn`; RSA 2048 unless a `key` is given (the C++ voms clients know RSA
        best)."""
        private = key or new_key()
        begins = not_before or _whole_second(self._clock) - BACKDATED
        builder = _builder(
            names.from_oneline(dn), self.certificate.subject, private, begins, begins + BACKDATED + lifetime
        )
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        usage = _usage(digital_signature=True, key_encipherment=isinstance(private, rsa.RSAPrivateKey))
        builder = builder.add_extension(usage, critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage(list(purposes)), critical=False)
        if names_listed := list(alternatives):
            builder = builder.add_extension(x509.SubjectAlternativeName(names_listed), critical=False)
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(authority, critical=False)
        return Credential(builder.sign(self._key, hashes.SHA256()), private)

    def revoke(self, certificate: x509.Certificate) -> None:
        """Put a certificate on the CRL; takes effect where the CRL is published again. Raises NotFound for another
        CA's."""
        if not names.same_name(certificate.issuer, self.certificate.subject):
            raise NotFound(
                f"'{names.oneline(certificate.subject)}' was not issued by {self.dn}", code="foreign_certificate"
            )
        index = self._index()
        serial = f"{certificate.serial_number:x}"
        if serial not in {entry.serial for entry in index.revoked}:
            entry = _Revoked(serial, epoch(self._clock.now()))
            self._remember(msgspec.structs.replace(index, revoked=(*index.revoked, entry)))

    def crl(self, *, lifetime: timedelta = CRL_LIFETIME) -> x509.CertificateRevocationList:
        """A fresh CRL with the next number."""
        index = self._index()
        self._remember(msgspec.structs.replace(index, crl_number=index.crl_number + 1))
        now = _whole_second(self._clock)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.certificate.subject)
        builder = builder.last_update(now - timedelta(minutes=5)).next_update(now + lifetime)
        for entry in index.revoked:
            revoked = x509.RevokedCertificateBuilder().serial_number(int(entry.serial, 16))
            builder = builder.add_revoked_certificate(revoked.revocation_date(from_epoch(entry.at)).build())
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(authority, critical=False)
        builder = builder.add_extension(x509.CRLNumber(index.crl_number + 1), critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def publish(self, certificates: Path, *, crl_lifetime: timedelta = CRL_LIFETIME) -> TrustFiles:
        """Write CA certificate, fresh CRL, signing policy, namespaces and info to the trust directory, under both
        hashes."""
        certificates.mkdir(parents=True, exist_ok=True)
        subject = self.certificate.subject
        new, old = names.subject_hash(subject), names.subject_hash_old(subject)
        crl = self.crl(lifetime=crl_lifetime).public_bytes(serialization.Encoding.PEM)
        contents = {
            # The rules come before the certificate that needs them, lest a reader find it without.
            "signing_policy": self._signing_policy().encode(),
            "namespaces": self._namespaces().encode(),
            "info": self._info().encode(),
            "r0": crl,
            "0": pem_certificate(self.certificate),
        }
        for suffix, content in contents.items():
            write_atomic(certificates / f"{new}.{suffix}", content, mode=0o644)
            _link(certificates / f"{old}.{suffix}", f"{new}.{suffix}")
        return TrustFiles(new, old)

    def _signing_policy(self) -> str:
        return (
            f"access_id_CA   X509    '{self.dn}'\n"
            "pos_rights     globus  CA:sign\n"
            f"cond_subjects  globus  '\"{self.namespace}/*\"'\n"
        )

    def _namespaces(self) -> str:
        return f'TO Issuer "{self.dn}" \\\n  PERMIT Subject "{self.namespace}/.*"\n'

    def _info(self) -> str:
        digest = self.certificate.fingerprint(hashes.SHA1()).hex(":").upper()  # noqa: S303 - the file format says SHA-1
        return f'alias = throw-away\nsubjectdn = "{self.dn}"\nstatus = experimental\nversion = 1\nsha1fp.0 = {digest}\n'

    def _index(self) -> _Index:
        return msgspec.json.decode((self.directory / _INDEX).read_bytes(), type=_Index)

    def _remember(self, index: _Index) -> None:
        write_atomic(self.directory / _INDEX, msgspec.json.encode(index))


def new_key() -> rsa.RSAPrivateKey:
    """An RSA key of 2048 bits."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def write_user(credential: Credential, directory: Path) -> None:
    """`usercert.pem` and `userkey.pem` (PKCS#1, 0600) in `directory`, where voms-proxy-init looks for them."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomic(directory / "userkey.pem", pem_key(credential.key, traditional=True))
    chain = (credential.certificate, *credential.chain)
    write_atomic(directory / "usercert.pem", b"".join(map(pem_certificate, chain)), mode=0o644)


def write_host(credential: Credential, directory: Path) -> None:
    """`hostcert.pem` and `hostkey.pem` (0600) in `directory`."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_credential(credential, directory / "hostcert.pem", directory / "hostkey.pem")


def write_lsc(vomsdir: Path, vo: str, host: str, chain: Sequence[x509.Certificate]) -> Path:
    """`VOMSDIR/VO/HOST.lsc`: which chain of names an attribute authority's certificate must have. `chain`: from the
    authority's certificate upward, root included or not; the last issuer named is the CA."""
    folder = vomsdir / vo
    folder.mkdir(parents=True, exist_ok=True)
    lines = [dn for c in chain if c.subject != c.issuer for dn in (names.oneline(c.subject), names.oneline(c.issuer))]
    path = folder / f"{host}.lsc"
    write_atomic(path, "".join(f"{line}\n" for line in lines).encode(), mode=0o644)
    return path


def vomses_line(alias: str, host: str, port: int, authority: x509.Certificate, vo: str) -> str:
    """`"alias" "host" "port" "AA subject DN" "vo"`: one line of a vomses file, with its line end."""
    fields = (alias, host, str(port), names.oneline(authority.subject), vo)
    return " ".join(f'"{field}"' for field in fields) + "\n"


def _builder(
    subject: x509.Name, issuer: x509.Name, key: PrivateKey, begins: datetime, ends: datetime
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(begins).not_valid_after(ends)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)


def _usage(
    *,
    digital_signature: bool = False,
    key_encipherment: bool = False,
    key_cert_sign: bool = False,
    crl_sign: bool = False,
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=key_encipherment,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _link(link: Path, target: str) -> None:
    """A relative symbolic link, made or left as it is."""
    if link.is_symlink() and str(link.readlink()) == target:
        return
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def _whole_second(clock: Clock) -> datetime:
    return clock.now().replace(microsecond=0)
