"""A site with everything that the profile publishes."""

from datetime import UTC, datetime
from typing import Any

from skyfed.infosys import profile
from skyfed.infosys.model import Entry

NOW = datetime(2026, 11, 23, 4, 30, tzinfo=UTC)
STAMP = profile.Stamp(NOW, 3600)
OS_TPL = "http://alpha/occi/infrastructure/os_tpl#"
RESOURCE_TPL = "http://alpha/occi/infrastructure/resource_tpl#"


def site(name: str = "ALPHA", **changes: Any) -> profile.SiteDescription:
    values: dict[str, Any] = {
        "name": name,
        "www": "http://www.example.org/",
        "ngi": "NGI_NL",
        "country": "NL",
        "latitude": 52.25,
        "longitude": 4.9,
        "contacts": {kind: f"{kind}@example.org" for kind in ("general", "sysadmin", "security", "usersupport")},
        "bdii_host": "bdii.example.org",
        "bdii_port": 2170,
    }
    return profile.SiteDescription(**(values | changes))


def image(number: int = 1, vos: tuple[str, ...] = ("demo.skyfed",), **changes: Any) -> profile.Image:
    values: dict[str, Any] = {
        "mixin": f"{OS_TPL}image-{number}",
        "title": f"Image {number}",
        "version": "2026.1",
        "identifier": f"https://market.example.org/store/vo/image/{number}:1/",
        "description": "A small guest",
        "vos": frozenset(vos),
    }
    return profile.Image(**(values | changes))


def cloud(images: int = 2, vos: tuple[str, ...] = ("demo.skyfed", "ops"), **changes: Any) -> profile.Cloud:
    values: dict[str, Any] = {
        "service": "cloud.example.org",
        "url": "https://cloud.example.org:11443",
        "images": tuple(image(n, vos) for n in range(1, images + 1)),
        "flavours": (
            profile.Flavour(mixin=f"{RESOURCE_TPL}small", cores=1, memory_mib=512, disk_gib=1.0),
            profile.Flavour(mixin=f"{RESOURCE_TPL}large", cores=4, memory_mib=8192, disk_gib=20.5),
        ),
        "shares": tuple(profile.Share(vo=vo, running=1, most=50) for vo in vos),
        "hypervisor": "KVM",
        "hypervisor_version": "7.2",
        "total_cores": 64,
        "total_memory_mib": 262144,
    }
    return profile.Cloud(**(values | changes))


def entries(name: str = "ALPHA", **changes: Any) -> list[Entry]:
    return profile.site_entries(site(name), cloud(**changes), STAMP)
