"""A federation to show."""

from datetime import UTC, datetime, timedelta

from skyfed.accounting.model import DayUsage
from skyfed.portal.model import (
    DayReport,
    Flavour,
    Image,
    OfferedSite,
    Reading,
    RegisteredSite,
    Service,
    Snapshot,
)

NOW = datetime(2026, 11, 23, 14, 5, 9, tzinfo=UTC)
MIDNIGHT = NOW.replace(hour=0, minute=0, second=0)
REFRESH = timedelta(seconds=15)

OCCI = "eu.egi.cloud.vm-management.occi"


def services(site: str) -> tuple[Service, ...]:
    return (
        Service(type="eu.egi.cloud.accounting", hostname=f"{site}.localhost", production=True),
        Service(type="eu.egi.cloud.information.bdii", hostname=f"{site}.localhost", production=True),
        Service(type=OCCI, hostname=f"{site}.localhost", url=f"https://{site}.localhost:8443/", production=True),
    )


ALPHA = RegisteredSite(
    name="ALPHA",
    title="Alpha Computing Centre",
    country="Netherlands",
    infrastructure="Production",
    certification="Certified",
    services=services("alpha"),
)
BETA = RegisteredSite(
    name="BETA",
    title="Beta University Cloud",
    country="Greece",
    infrastructure="Test",
    certification="Uncertified",
    services=services("beta"),
)
DEMO = Image(
    title="Skyfed demo guest",
    version="1.0",
    identifier="5a3c0f3e-4a0b-4b44-9a3d-0b7f0c1f7a11",
    vos=("demo.skyfed", "ops"),
)
DEBIAN = Image(title="Debian 12", version="20261101", identifier="https://appdb.localhost/image:debian12", vos=("ops",))
ALPHA_OFFERS = OfferedSite(
    name="ALPHA",
    health="ok",
    vos=("demo.skyfed",),
    endpoints=("https://alpha.localhost:8443/",),
    running=3,
    total_cores=16,
    images=(DEMO,),
    flavours=(
        Flavour(name="small", cores=1, memory_mb=256, disk_gb=2),
        Flavour(name="medium", cores=2, memory_mb=2048, disk_gb=10),
        Flavour(name="large", cores=4, memory_mb=8192, disk_gb=40),
    ),
)
BETA_OFFERS = OfferedSite(
    name="BETA",
    health="ok",
    vos=("demo.skyfed", "ops"),
    endpoints=("https://beta.localhost:8443/",),
    running=1,
    total_cores=8,
    images=(DEMO, DEBIAN),
    flavours=(Flavour(name="tiny", cores=1, memory_mb=128), Flavour(name="wide", cores=4, memory_mb=1536, disk_gb=5.5)),
)


def usage(site: str = "ALPHA", vo: str = "demo.skyfed", wall: int = 30_000, cpu: int = 21_000) -> DayUsage:
    latest = int(NOW.timestamp()) - 40
    return DayUsage(site=site, vo=vo, vms=5, running=3, wall_seconds=wall, cpu_seconds=cpu, latest=latest)


USAGE = (usage(), usage("BETA", "demo.skyfed", 9_000, 13_000), usage("BETA", "ops", 1_500, 90))


def snapshot() -> Snapshot:
    """Everything fresh."""
    return Snapshot(
        version=3,
        registry=Reading(value=(ALPHA, BETA), at=NOW - timedelta(seconds=4)),
        infosys=Reading(value=(ALPHA_OFFERS, BETA_OFFERS), at=NOW - timedelta(seconds=11)),
        accounting=Reading(value=DayReport(since=MIDNIGHT, usage=USAGE), at=NOW - timedelta(seconds=7)),
    )
