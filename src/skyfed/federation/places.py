"""Where the parts of a federation on one machine lie, and on which ports they listen."""

import os
import secrets
import socket
import tomllib
from pathlib import Path

import msgspec

from skyfed.core.errors import Invalid, NotFound, Unavailable

FILE_NAME = "federation.toml"

# Offsets from the base port. One table, so that two federations on one machine need only different bases.
PORTS = {
    ("federation", "voms"): 0,
    ("federation", "registry"): 1,
    ("federation", "images"): 2,
    ("federation", "accounting"): 3,
    ("federation", "portal"): 4,
    ("federation", "infosys"): 5,
    ("alpha", "occi"): 8,
    ("alpha", "infosys"): 9,
    ("beta", "occi"): 12,
    ("beta", "infosys"): 13,
}
PORT_SPAN = 16
# Below Linux's ephemeral range (32768 up), so that no outgoing connection takes a port of ours between two starts.
PORT_RANGE = range(21000, 32000, PORT_SPAN)

HOST = "127.0.0.1"
NAME = "localhost"
SITES = ("alpha", "beta")
NODES = ("federation", *SITES)


class Federation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`federation.toml`: what is chosen once, at the first layout, and kept."""

    base_port: int
    format: int = 1


class Places:
    """The directory of a federation and everything in it."""

    def __init__(self, directory: Path, base_port: int) -> None:
        self.directory = directory
        self.base_port = base_port

    @classmethod
    def open(cls, directory: Path) -> "Places":
        """The federation laid out in `directory`. Raises NotFound where there is none."""
        path = directory / FILE_NAME
        if not path.exists():
            raise NotFound(f"there is no federation in {directory}; ./up lays one out", code="no_federation")
        try:
            federation = msgspec.convert(tomllib.loads(path.read_text()), Federation)
        except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
            raise Invalid(f"{path}: {error}", code="settings_value") from error
        return cls(directory.resolve(), federation.base_port)

    @property
    def certificates(self) -> Path:
        """Trust anchors (X509_CERT_DIR)."""
        return self.directory / "pki" / "certificates"

    @property
    def vomsdir(self) -> Path:
        """LSC files (X509_VOMS_DIR)."""
        return self.directory / "pki" / "vomsdir"

    @property
    def vomses(self) -> Path:
        """The vomses file (X509_VOMSES)."""
        return self.directory / "pki" / "vomses"

    @property
    def ca(self) -> Path:
        """The throw-away CA."""
        return self.directory / "pki" / "ca"

    def user(self, name: str) -> Path:
        """The directory of a demo user: usercert.pem, userkey.pem, the proxy, an SSH key."""
        return self.directory / "pki" / "users" / name

    def node(self, name: str) -> Path:
        """The directory of a node."""
        return self.directory / "nodes" / name

    def port(self, node: str, service: str) -> int:
        """The port of a service."""
        return self.base_port + PORTS[node, service]

    def url(self, node: str, service: str) -> str:
        """The URL of an HTTPS service."""
        return f"https://{NAME}:{self.port(node, service)}"

    def ldap(self, node: str) -> str:
        """`host:port` of a node's directory server (LCG_GFAL_INFOSYS)."""
        return f"{NAME}:{self.port(node, 'infosys')}"


def default_directory() -> Path:
    """$SKYFED_DIR, or `run` in the present directory."""
    return Path(os.environ.get("SKYFED_DIR") or "run").resolve()


def choose_base_port() -> int:
    """A base port all of whose ports are free now. Raises Unavailable when none is."""
    bases = list(PORT_RANGE)
    secrets.SystemRandom().shuffle(bases)
    for base in bases:
        if all(_free(base + offset) for offset in PORTS.values()):
            return base
    raise Unavailable(f"no {PORT_SPAN} free ports in {PORT_RANGE.start}-{PORT_RANGE.stop}", code="no_ports")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
