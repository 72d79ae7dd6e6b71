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
LISTS = {"alpha": "demo.skyfed", "beta": "research.skyfed"}
LIST_TITLES = {"demo.skyfed": "Images of the demo VO", "research.skyfed": "Images for research at beta"}
# The names that the demo CA gives.
NAMESPACE = "/DC=skyfed/DC=demo"
CA_DN = f"{NAMESPACE}/CN=Skyfed demo CA"
ENDORSER = "image endorser"
ENDORSER_DN = f"{NAMESPACE}/OU=robots/CN=Robot: {ENDORSER}"


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

    registry = places.url("federation", "registry")
    accounting = places.url("federation", "accounting")
    return {
        "voms": {"listen": listen("voms"), "settings": {"default_vo": DEMO_VO}},
        "registry": {"listen": listen("registry")},
        "images": {
            "listen": listen("images"),
            "settings": {
                "lists": {name: {"vo": DEMO_VO, "title": title} for name, title in LIST_TITLES.items()},
                "endorser_cert": "endorser/usercert.pem",
                "endorser_key": "endorser/userkey.pem",
                "uploaders": [ENDORSER_DN],
            },
        },
        "accounting": {"listen": listen("accounting"), "settings": {"role": "repository", "registry": registry}},
        "infosys": {
            "settings": {
                "level": "top",
                "port": places.port("federation", "infosys"),
                "public_host": NAME,
                "refresh_seconds": 5.0,
                "top": {"registry": registry, "test_bed": True},
            }
        },
        "portal": {
            "listen": listen("portal"),
            "settings": {
                "registry_url": registry,
                "infosys_url": f"ldap://{places.ldap('federation')}",
                "accounting_url": accounting,
                "refresh_seconds": 5.0,
            },
        },
    }


def _site(places: Places, site: str) -> Tables:
    declared = site_declaration(places, site)["site"]
    occi = places.url(site, "occi")
    return {
        "engine": {"settings": {"root": "data/engine", "probe_image": "../../guest/guest.qcow2"}},
        "compute": {"settings": {"flavours": FLAVOURS[site], "stop_grace_seconds": 20.0}},
        "occi": {
            "listen": _listen(places, site, "occi"),
            "settings": {"vos": {vo: {"project": project} for vo, project in ACCEPTED[site].items()}},
        },
        "images": {
            "settings": {
                "poll_seconds": 60.0,
                "subscriptions": {
                    LISTS[site]: {
                        "url": f"{places.url('federation', 'images')}/lists/{LISTS[site]}",
                        "endorsers": [{"dn": ENDORSER_DN, "ca": CA_DN}],
                        "vos": list(ACCEPTED[site]),
                    }
                },
            }
        },
        "infosys": {
            "settings": {
                "level": "site",
                "port": places.port(site, "infosys"),
                "public_host": NAME,
                "site": {
                    "occi_url": occi,
                    "service": f"{site}.{NAME}",
                    "vos": list(ACCEPTED[site]),
                    "quality": "production" if site == "alpha" else "testing",
                    **{key: declared[key] for key in ("description", "ngi", "country", "latitude", "longitude")},
                    "contacts": {"general": declared["email"]},
                },
            }
        },
        "accounting": {
            "settings": {
                "role": "sender",
                "repository": places.url("federation", "accounting"),
                "cloud_compute_service": f"{site}.{NAME}",
                "record_seconds": 60,
                "extract_seconds": 5.0,
            }
        },
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
                "host_dn": f"{NAMESPACE}/OU=hosts/CN={host}",
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
