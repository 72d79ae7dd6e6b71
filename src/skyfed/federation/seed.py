"""Fills a running federation: VOs and members, sites in the registry, the demo guest in the image lists.

Through the services' administration interfaces, as an operator would; every step may be repeated.
"""

import tomllib
from collections.abc import Callable
from pathlib import Path

from skyfed.core.errors import NotFound
from skyfed.core.http import admin_client
from skyfed.federation.layout import MEMBERS, VOS
from skyfed.federation.nodes import CA_DN, DEMO_VO, LIST_TITLES, OPS_VO, REGISTRY_SITE
from skyfed.federation.places import SITES, Places
from skyfed.pki import names
from skyfed.pki.files import read_certificate

GUEST_TITLE = "Skyfed demo guest"
DESCRIPTIONS = {DEMO_VO: "Everybody who tries Skyfed", OPS_VO: "Monitoring robots, as every provider must serve them"}
PUBLISH_SECONDS = 120.0


def seed(places: Places, guest: Path, progress: Callable[[str], None]) -> None:
    """Apply everything. Raises Unavailable, Invalid as the services say."""
    progress("virtual organisations and members")
    _organisations(places)
    progress("sites in the registry")
    _sites(places)
    progress("the demo guest in the image lists")
    _images(places, guest)


def _organisations(places: Places) -> None:
    vos = [
        {
            "name": vo,
            "description": DESCRIPTIONS[vo],
            "roles": ["VMManagement"],
            "members": [_member(places, name, vo) for name, theirs in MEMBERS.items() if theirs == vo],
        }
        for vo in VOS
    ]
    admin_client(places.node("federation"), "voms").json("POST", "/apply", {"vos": vos})


def _member(places: Places, name: str, vo: str) -> dict[str, object]:
    return {
        "subject": names.oneline(read_certificate(places.user(name) / "usercert.pem").subject),
        "issuer": CA_DN,
        "name": name.capitalize(),
        "email": f"{name}@users.localhost",
        "roles": [f"/{vo}/Role=VMManagement"] if name == "alice" else [],
    }


def _sites(places: Places) -> None:
    registry = admin_client(places.node("federation"), "registry")
    for site in SITES:
        path = places.directory / "sites" / f"{site}.toml"
        declaration = tomllib.loads(path.read_text())
        try:
            registry.json("GET", f"/sites/{REGISTRY_SITE[site]}")
        except NotFound:
            registry.json(
                "POST", "/sites", {"declaration": declaration, "source": str(path), "changed_by": "skyfed up"}
            )


def _images(places: Places, guest: Path) -> None:
    images = admin_client(places.node("federation"), "images")
    for name in LIST_TITLES:
        images.json(
            "POST", f"/lists/{name}/images", {"path": str(guest), "image": _description()}, deadline=PUBLISH_SECONDS
        )
    for site in SITES:
        admin_client(places.node(site), "images").json("POST", "/subscriptions/refresh", {})


def _description() -> dict[str, object]:
    return {
        "title": GUEST_TITLE,
        "name": "skyfed-demo-guest",
        "description": "A small Linux for trying things out: a Debian kernel, busybox and an SSH server",
        "os": "Linux",
        "os_name": "Debian",
        "os_version": "12",
        "arch": "x86_64",
        "ram_minimum_mib": 128,
        "core_minimum": 1,
    }
