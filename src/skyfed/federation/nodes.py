"""What the three demo nodes are: their `node.toml` and the sites' declarations for the registry.

`beta` differs from `alpha` on purpose: other flavours, another image list, one VO more, and a test-bed entry in the registry,
so that discovery and refusal have something to show.
"""

from typing import Any

from skyfed.federation.places import HOST, NAME, Places

Tables = dict[str, Any]

REGISTRY_SITE = {"alpha": "ALPHA", "beta": "BETA"}
DEMO_VO = "demo.skyfed"
OPS_VO = "ops"
# Site → the VOs it serves, and the project each works in.
ACCEPTED: dict[str, dict[str, str]] = {
    "alpha": {DEMO_VO: "demo"},
    "beta": {DEMO_VO: "research", OPS_VO: "operations"},
}
FLAVOURS: dict[str, Tables] = {
    "alpha": {
        "tiny": {"cores": 1, "memory_mib": 160, "title": "Tiny: 1 core, 160 MiB"},
        "small": {"cores": 1, "memory_mib": 256, "disk_gib": 1.0, "title": "Small: 1 core, 256 MiB, 1 GiB disk"},
    },
    "beta": {
        "nano": {"cores": 1, "memory_mib": 144, "title": "Nano: 1 core, 144 MiB"},
        "dual": {"cores": 2, "memory_mib": 256, "title": "Dual: 2 cores, 256 MiB"},
    },
}
# Site → the image list it subscribes to.
LISTS = {"alpha": "alpha.demo.skyfed", "beta": "beta.demo.skyfed"}


def node_tables(places: Places, node: str) -> Tables:
    """The contents of the node's `node.toml`."""
    services = _central(places) if node == "federation" else _site(places, node)
    site = REGISTRY_SITE.get(node, "")
    return {
        "node": {"name": node, "role": "site" if site else "federation", "site": site},
        "trust": {
            "certificates": "../../pki/certificates",
            "vomsdir": "../../pki/vomsdir",
            # Grid practice: what has no CRL, or an old one, is not believed.
            "rules": {"crl": "require"},
            "judge": {"host": NAME},
        },
        "outbound": {"allow": ["127.0.0.0/8", "::1/128"]},
        "processes": _processes(node),
        "services": services,
    }


def _processes(node: str) -> Tables:
    if node == "federation":
        return {"central": ["voms", "registry", "images", "accounting", "infosys", "portal"]}
    return {"engine": ["engine"], "site": ["compute", "occi", "images", "infosys", "accounting"]}


def _listen(places: Places, node: str, service: str) -> Tables:
    return {"host": HOST, "port": places.port(node, service), "public_url": places.url(node, service)}


def _central(places: Places) -> Tables:
    def listen(service: str) -> Tables:
        return _listen(places, "federation", service)

    return {
        "voms": {"listen": listen("voms"), "settings": {}},
        "registry": {"listen": listen("registry"), "settings": {}},
        "images": {"listen": listen("images"), "settings": {}},
        "accounting": {"listen": listen("accounting"), "settings": {}},
        "infosys": {"settings": {}},
        "portal": {"listen": listen("portal"), "settings": {}},
    }


def _site(places: Places, site: str) -> Tables:
    return {
        "engine": {"settings": {}},
        "compute": {"settings": {"flavours": FLAVOURS[site], "stop_grace_seconds": 20.0}},
        "occi": {
            "listen": _listen(places, site, "occi"),
            "settings": {"vos": {vo: {"project": project} for vo, project in ACCEPTED[site].items()}},
        },
        "images": {"settings": {}},
        "infosys": {"settings": {}},
        "accounting": {"settings": {}},
    }


def site_declaration(places: Places, site: str) -> Tables:
    """The site's entry for the registry (`skyfed site apply`)."""
    name = REGISTRY_SITE[site]
    host = f"{site}.{NAME}"
    common = {"hostname": host, "production": True, "monitored": True}
    return {
        "site": {
            "name": name,
            "description": f"Demo site {site} on this machine",
            "ngi": "NGI_DEMO",
            "country": "NL" if site == "alpha" else "CH",
            "email": f"support@{host}",
            "giis_url": f"ldap://{places.ldap(site)}/GLUE2DomainID={name},o=glue",
            "latitude": 52.36 if site == "alpha" else 46.23,
            "longitude": 4.95 if site == "alpha" else 6.05,
            "infrastructure": "Production" if site == "alpha" else "Test",
            "certification_status": "Certified",
            "scopes": ["EGI", "FedCloud"],
        },
        "service": [
            {
                **common,
                "type": "eu.egi.cloud.vm-management.occi",
                "url": places.url(site, "occi") + "/",
                "description": "Virtual machines by OCCI",
            },
            {
                **common,
                "type": "eu.egi.cloud.accounting",
                "host_dn": f"/DC=skyfed/DC=demo/OU=hosts/CN={host}",
                "description": "Sends usage records",
            },
            {
                **common,
                "type": "eu.egi.cloud.information.bdii",
                "url": f"ldap://{places.ldap(site)}/GLUE2DomainID={name},o=glue",
                "description": "GLUE 2 of this site",
            },
        ],
    }
