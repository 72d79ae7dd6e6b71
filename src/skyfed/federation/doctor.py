"""`skyfed doctor`: what a federation needs of this machine, each fault with its remedy."""

import os
import shutil
import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import msgspec

from skyfed.core.clock import Clock, iso
from skyfed.core.errors import SkyfedError
from skyfed.core.http import admin_client
from skyfed.core.text import one_line
from skyfed.federation.places import HOST, NODES, PORTS, SITES, Places
from skyfed.node.config import Node
from skyfed.node.supervisor import read_states
from skyfed.pki.files import read_certificate
from skyfed.pki.trust import TrustStore

LEAST_FREE_BYTES = 2 << 30
LEAST_MEMORY_BYTES = 2 << 30
NEAR_EXPIRY = timedelta(days=14)
# A certificate made "now" must not be in the future for anybody; five minutes is what grid software tolerates.
LARGEST_CLOCK_STEP_SECONDS = 300.0
SYSTEM_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))

# program → Debian package that brings it, and what it is for.
PROGRAMS = {
    "qemu-system-x86_64": ("qemu-system-x86", "runs virtual machines"),
    "qemu-img": ("qemu-utils", "converts disk images"),
    "slapd": ("slapd", "serves the information system"),
    "ldapmodify": ("ldap-utils", "writes the information system"),
    "ssh": ("openssh-client", "logs in to virtual machines"),
    "syslinux": ("syslinux", "makes the demonstration guest bootable"),
    "mkfs.vfat": ("dosfstools", "makes the demonstration guest's disk"),
    "mcopy": ("mtools", "fills the demonstration guest's disk"),
}


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One check: `ok`, `warning` or `fault`, what was found, and what to do about it."""

    check: str
    verdict: str
    found: str
    remedy: str = ""


def examine(places: Places | None, directory: Path, clock: Clock) -> Iterator[Finding]:
    """All checks: of the machine, and of the federation in `places` when there is one."""
    yield from _programs()
    yield _disk(directory)
    yield _memory()
    yield _clock()
    yield _acceleration()
    if places is None:
        yield Finding(check="federation", verdict="warning", found=f"none in {directory}", remedy="./up lays one out")
        return
    yield from _ports(places)
    yield from _certificates(places, clock)
    yield from _trust(places, clock)
    yield from _engines(places)


def _programs() -> Iterator[Finding]:
    for program, (package, purpose) in PROGRAMS.items():
        path = shutil.which(program, path=SYSTEM_PATH)
        if path is None:
            yield Finding(
                check=f"program {program}",
                verdict="fault",
                found=f"not installed ({purpose})",
                remedy=f"apt-get install {package}",
            )
        else:
            yield Finding(check=f"program {program}", verdict="ok", found=path)
    schema = next((p for p in (Path("/etc/ldap/schema/GLUE20.schema"),) if p.exists()), None)
    if schema is None:
        yield Finding(
            check="GLUE 2 schema", verdict="fault", found="not installed", remedy="apt-get install glue-schema"
        )
    else:
        yield Finding(check="GLUE 2 schema", verdict="ok", found=str(schema))


def _disk(directory: Path) -> Finding:
    existing = next(p for p in (directory, *directory.parents) if p.exists())
    free = shutil.disk_usage(existing).free
    verdict = "ok" if free >= LEAST_FREE_BYTES else "fault"
    remedy = "" if verdict == "ok" else f"make {LEAST_FREE_BYTES >> 30} GiB free, or use --dir on another disk"
    return Finding(check="disk", verdict=verdict, found=f"{free / 2**30:.1f} GiB free at {existing}", remedy=remedy)


def _memory() -> Finding:
    available = 0
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    verdict = "ok" if available >= LEAST_MEMORY_BYTES else "warning"
    remedy = "" if verdict == "ok" else "each demo guest takes about 300 MiB under software emulation; stop something"
    return Finding(check="memory", verdict=verdict, found=f"{available / 2**30:.1f} GiB available", remedy=remedy)


def _clock() -> Finding:
    """Whether the clock stands still, is absurd, or is known to the kernel to be wrong."""
    import ctypes

    status = ctypes.CDLL(None).ntp_adjtime(ctypes.create_string_buffer(512))
    now = time.time()
    built = Path(__file__).stat().st_mtime
    if now < built - LARGEST_CLOCK_STEP_SECONDS:
        found = f"this machine's clock says {time.ctime(now)}, earlier than the files of this program"
        return Finding(check="clock", verdict="fault", found=found, remedy="set the clock; certificates depend on it")
    if status == 5:  # TIME_ERROR: the kernel was never told that the clock is right
        found = "not synchronised as far as the kernel knows"
        return Finding(
            check="clock", verdict="warning", found=found, remedy="apt-get install chrony (not needed on loopback)"
        )
    return Finding(check="clock", verdict="ok", found="synchronised")


def _acceleration() -> Finding:
    """What can be said before a guest has booted; the engine's own verdict (below) counts."""
    flags = Path("/proc/cpuinfo").read_text()
    hardware = " vmx" in flags or " svm" in flags
    kvm = os.access("/dev/kvm", os.R_OK | os.W_OK)
    if hardware and kvm:
        return Finding(
            check="acceleration", verdict="ok", found="the CPU and /dev/kvm look usable; the engine tests by booting"
        )
    found = "no " + " and no ".join(
        text for text, missing in (("vmx or svm in the CPU", not hardware), ("access to /dev/kvm", not kvm)) if missing
    )
    remedy = "guests run under software emulation (TCG), ten times slower; on real hardware enable virtualisation and load kvm"
    return Finding(check="acceleration", verdict="warning", found=found, remedy=remedy)


def _ports(places: Places) -> Iterator[Finding]:
    running = {name: _runs(places, name) for name in NODES}
    for (node, service), _ in PORTS.items():
        port = places.port(node, service)
        with socket.socket() as probe:
            probe.settimeout(1.0)
            answers = probe.connect_ex((HOST, port)) == 0
        check = f"port {port} ({node}/{service})"
        if answers and not running[node]:
            yield Finding(
                check=check,
                verdict="fault",
                found=f"taken by another program while node {node} is stopped",
                remedy=f"find it with: ss -ltnp sport = :{port}",
            )
        elif not answers and running[node]:
            yield Finding(
                check=check,
                verdict="fault",
                found=f"nothing answers although node {node} runs",
                remedy=f"look at: skyfed status; {places.node(node)}/log",
            )
        else:
            yield Finding(check=check, verdict="ok", found="answers" if answers else "free")


def _runs(places: Places, node: str) -> bool:
    return any(state.state == "running" for state in read_states(Node.load(places.node(node))))


def _certificates(places: Places, clock: Clock) -> Iterator[Finding]:
    files = [places.node(node) / "host" / "hostcert.pem" for node in NODES]
    files += sorted((places.directory / "pki" / "users").glob("*/usercert.pem"))
    for path in files:
        check = f"certificate {path.relative_to(places.directory)}"
        try:
            certificate = read_certificate(path)
        except SkyfedError as error:
            yield Finding(
                check=check, verdict="fault", found=error.message, remedy="./down, move the directory away, ./up"
            )
            continue
        end = certificate.not_valid_after_utc
        left = end - clock.now()
        verdict = "fault" if left < timedelta(0) else "warning" if left < NEAR_EXPIRY else "ok"
        remedy = "" if verdict == "ok" else "ask the CA for a new one (demo: move the directory away and ./up)"
        yield Finding(check=check, verdict=verdict, found=f"valid until {iso(end)}", remedy=remedy)


def _trust(places: Places, clock: Clock) -> Iterator[Finding]:
    problems = TrustStore(places.certificates, clock).problems()
    for problem in problems:
        yield Finding(
            check=f"trust {problem.file}",
            verdict="fault",
            found=one_line(problem.message),
            remedy=f"replace the file in {places.certificates}",
        )
    if not problems:
        yield Finding(check="trust anchors", verdict="ok", found=str(places.certificates))


def _engines(places: Places) -> Iterator[Finding]:
    """The acceleration verdict of each site's engine, which booted a guest to know."""
    for site in SITES:
        check = f"engine of {site}"
        try:
            health = admin_client(places.node(site), "compute").json("GET", "/engine", deadline=10.0)
        except SkyfedError as error:
            verdict = "fault" if _runs(places, site) else "ok"
            yield Finding(
                check=check, verdict=verdict, found=error.message, remedy="skyfed status" if verdict != "ok" else ""
            )
            continue
        found = f"{health.get('engine')} {health.get('version')}, acceleration {health.get('acceleration')}"
        yield Finding(
            check=check,
            verdict="ok" if health.get("ok") else "fault",
            found=found,
            remedy=str(health.get("detail", "")),
        )
