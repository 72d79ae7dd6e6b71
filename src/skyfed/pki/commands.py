"""What commands that go over the wire have in common: which authorities are trusted, which credential is shown."""

import os
from pathlib import Path

import click

from skyfed.core.clock import SystemClock
from skyfed.core.http import Client
from skyfed.pki.tls import ClientTls
from skyfed.pki.trust import TrustStore

certificates_option = click.option(
    "--certdir",
    "--certificates",
    "certificates",
    type=click.Path(path_type=Path),
    envvar="X509_CERT_DIR",
    default=Path("/etc/grid-security/certificates"),
    help="Directory of trusted authorities (default $X509_CERT_DIR).",
)


def proxy_path() -> Path:
    """$X509_USER_PROXY, else /tmp/x509up_u<uid>: where every grid tool looks for the user's proxy."""
    return Path(os.environ.get("X509_USER_PROXY") or f"/tmp/x509up_u{os.getuid()}")  # noqa: S108 - the place is the standard


def outbound(certificates: Path, cert: Path | None = None, key: Path | None = None) -> Client:
    """A client that trusts `certificates` and the system's authorities, and shows `cert` (with its key in `key` or itself)."""
    clock = SystemClock()
    tls = ClientTls(TrustStore(certificates, clock), clock, cert=cert, key=key, system_roots=True)
    return Client(ssl_context=tls.current)
