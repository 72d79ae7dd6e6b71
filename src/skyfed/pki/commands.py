"""What commands that go over the wire have in common: which authorities are trusted, which credential is shown."""

import os
from pathlib import Path

import click

from skyfed.core.clock import SystemClock
from skyfed.core.errors import Invalid
from skyfed.core.http import Client
from skyfed.core.text import plural
from skyfed.pki.tls import ClientTls
from skyfed.pki.trust import TrustStore

GRID_CERTIFICATES = Path("/etc/grid-security/certificates")

certificates_option = click.option(
    "--certdir",
    "--certificates",
    "certificates",
    type=click.Path(path_type=Path),
    envvar="X509_CERT_DIR",
    default=GRID_CERTIFICATES,
    help="Directory of trusted authorities (default $X509_CERT_DIR).",
)


def proxy_path() -> Path:
    """$X509_USER_PROXY, else /tmp/x509up_u<uid>: where every grid tool looks for the user's proxy."""
    return Path(os.environ.get("X509_USER_PROXY") or f"/tmp/x509up_u{os.getuid()}")  # noqa: S108 - the place is the standard


def outbound(certificates: Path, cert: Path | None = None, key: Path | None = None) -> Client:
    """A client that trusts `certificates` and the system's authorities, and shows `cert` (with its key in `key` or itself).

    Raises Invalid (`trust_directory`) where `certificates` is no directory; the grid's own may be missing, for a machine
    that only talks to services which the system's authorities vouch for."""
    if certificates != GRID_CERTIFICATES and not certificates.is_dir():
        wrong = "is no directory" if certificates.exists() else "does not exist"
        raise Invalid(
            f"the trust directory {certificates} {wrong}; right in $X509_CERT_DIR or --certdir is a directory with your"
            " federation's authorities, each as HASH.0",
            code="trust_directory",
        )
    clock = SystemClock()
    trust = TrustStore(certificates, clock)
    tls = ClientTls(trust, clock, cert=cert, key=key, system_roots=True)
    return Client(ssl_context=tls.current, trusted=_trusted(trust))


def _trusted(trust: TrustStore) -> str:
    found = plural(len(trust.anchors.certificates), "authority", "authorities")
    there = found if trust.directory.is_dir() else "no such directory"
    return f"those in {trust.directory} ($X509_CERT_DIR or --certdir; {there}) and the system's"
