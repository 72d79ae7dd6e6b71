"""Lays a federation out in a directory: CA, credentials, VOMS files, one `node.toml` a node, site declarations.

Every piece is made only where it is missing, so that an interrupted layout goes on where it stopped and a second one keeps
what an administrator has changed. CRL and certificates near their end are renewed.
"""

import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

from skyfed.core.clock import Clock
from skyfed.federation.nodes import CA_DN, DEMO_VO, ENDORSER, OPS_VO, node_tables, site_declaration
from skyfed.federation.places import FILE_NAME, HOST, NAME, NODES, SITES, Places, choose_base_port
from skyfed.node.config import FILE_NAME as NODE_FILE
from skyfed.node.config import to_toml
from skyfed.pki.files import Credential, read_bounded, read_certificate, write_atomic
from skyfed.pki.testca import ThrowawayCA, vomses_line, write_host, write_lsc, write_user

# A demo federation that is started once a month never meets an expired credential.
RENEW_BEFORE = timedelta(days=60)
MAX_VOMSES_BYTES = 1 << 20

VOS = (DEMO_VO, OPS_VO)
# Demo people: name → VO. `alice` does the tour, `oscar` is the stranger whom site alpha does not serve.
MEMBERS = {"alice": DEMO_VO, "bob": DEMO_VO, "oscar": OPS_VO}


def lay_out(directory: Path, clock: Clock) -> Places:
    """The federation in `directory`, made or completed. Raises Invalid, Unavailable (no free ports)."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / FILE_NAME
    if not path.exists():
        write_atomic(path, to_toml({"format": 1, "base_port": choose_base_port()}).encode(), mode=0o644)
    places = Places.open(directory)
    ca = _authority(places, clock)
    for node in NODES:
        _host(places, ca, node, clock)
    for name, vo in MEMBERS.items():
        _person(places, ca, name, clock, robot=vo == OPS_VO)
    _endorser(places, ca, clock)
    _voms_files(places)
    for node in NODES:
        _once(places.node(node) / NODE_FILE, node_tables(places, node))
        bans = places.node(node) / "bans.txt"
        if not bans.exists():
            bans.write_text("# One banned DN or FQAN a line; * and ? are wildcards. In force within a second.\n")
    for site in SITES:
        _once(places.directory / "sites" / f"{site}.toml", site_declaration(places, site))
    return places


def _authority(places: Places, clock: Clock) -> ThrowawayCA:
    exists = (places.ca / "cacert.pem").exists()
    ca = ThrowawayCA.open(places.ca, clock) if exists else ThrowawayCA.create(places.ca, clock, dn=CA_DN)
    ca.publish(places.certificates)
    return ca


def _host(places: Places, ca: ThrowawayCA, node: str, clock: Clock) -> None:
    directory = places.node(node) / "host"
    if _near_end(directory / "hostcert.pem", clock):
        write_host(ca.host(f"{node}.{NAME}", ips=(HOST, "::1")), directory)


def _person(places: Places, ca: ThrowawayCA, name: str, clock: Clock, *, robot: bool) -> None:
    directory = places.user(name)
    if _near_end(directory / "usercert.pem", clock):
        credential: Credential = ca.robot(name) if robot else ca.user(name)
        write_user(credential, directory)
    if not (directory / "ssh_key").exists():
        subprocess.run(
            [
                "ssh-keygen",
                "-q",
                "-t",
                "ed25519",
                "-N",
                "",
                "-C",
                f"{name}@{DEMO_VO}",
                "-f",
                str(directory / "ssh_key"),
            ],
            check=True,
            timeout=30,
            stdin=subprocess.DEVNULL,
        )


def _endorser(places: Places, ca: ThrowawayCA, clock: Clock) -> None:
    """The robot that signs image lists; its key belongs to the federation node."""
    directory = places.node("federation") / "endorser"
    if _near_end(directory / "usercert.pem", clock):
        write_user(ca.robot(ENDORSER), directory)


def _voms_files(places: Places) -> None:
    certificate = read_certificate(places.node("federation") / "host" / "hostcert.pem")
    port = places.port("federation", "voms")
    lines = [vomses_line(vo, NAME, port, certificate, vo) for vo in VOS]
    if places.vomses.exists():  # lines of VOs that an operator has added stay
        ours = tuple(f'"{vo}"' for vo in VOS)
        kept = read_bounded(places.vomses, MAX_VOMSES_BYTES).decode().splitlines(keepends=True)
        lines += [line for line in kept if not line.startswith(ours)]
    write_atomic(places.vomses, "".join(lines).encode(), mode=0o644)
    for vo in VOS:
        write_lsc(places.vomsdir, vo, NAME, [certificate])
    for name in MEMBERS:
        # Where the Java client looks (see `environment`).
        link = places.user(name) / ".voms" / "vomses"
        link.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to("../../../vomses")


def _near_end(path: Path, clock: Clock) -> bool:
    """Whether the certificate in `path` is missing or ends soon."""
    if not path.exists():
        return True
    certificate = read_certificate(path)
    return certificate.not_valid_after_utc - clock.now() < RENEW_BEFORE


def _once(path: Path, tables: dict[str, Any]) -> None:
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(path, to_toml(tables).encode(), mode=0o644)
