"""`skyfed find`: what the federation offers to a VO. `skyfed infosys`: the servers behind it, for administrators."""

from pathlib import Path
from typing import Any

import click

from skyfed.core.http import admin_client
from skyfed.core.terminal import emit, json_option, node_option, table
from skyfed.core.text import plural
from skyfed.infosys.client import InfosysClient, addresses
from skyfed.infosys.model import Offer, SiteSummary

server_option = click.option(
    "--server",
    envvar="LCG_GFAL_INFOSYS",
    required=True,
    metavar="HOST:PORT",
    help="Information server, several by comma: the first that answers is asked (default $LCG_GFAL_INFOSYS).",
)


@click.group()
def find() -> None:
    """Which sites offer what to my VO, as the information system knows it."""


@find.command("image")
@click.argument("image", default="")
@click.option("--vo", required=True, help="The VO that you would work for.")
@server_option
@json_option
def find_image(image: str, vo: str, server: str, as_json: bool) -> None:
    """Where members of a VO can start IMAGE: part of its identifier, its template's name or its title.

    Without IMAGE: all images. Exit code 1 when there is none. By hand:

    \b
    ldapsearch -x -H ldap://$LCG_GFAL_INFOSYS -b o=glue \\
        '(&(objectClass=GLUE2ApplicationEnvironment)(GLUE2ApplicationEnvironmentRepository=*IMAGE*))'
    """
    offers = InfosysClient(addresses(server)).find(vo, image=image)
    emit(offers, as_json=as_json, human=lambda found: _offers_text(found, image, vo))
    if not offers:
        raise SystemExit(1)


@find.command("sites")
@server_option
@json_option
def find_sites(server: str, as_json: bool) -> None:
    """The sites, their endpoints and whom they serve."""
    sites = InfosysClient(addresses(server)).sites()
    emit(sites, as_json=as_json, human=_sites_text)


def _offers_text(offers: tuple[Offer, ...], image: str, vo: str) -> str:
    if not offers:
        return f"no site offers {f'an image like {image!r}' if image else 'any image'} to {vo}"
    rows = [
        (
            o.site,
            o.image.title,
            o.image.version or "-",
            o.endpoint_url,
            o.image.id,
            ", ".join(f.id.rpartition("#")[2] for f in o.flavours) or "-",
            o.health or "-",
        )
        for o in offers
    ]
    text = table(rows, ("SITE", "IMAGE", "VERSION", "ENDPOINT", "OS TEMPLATE", "SIZES", "HEALTH"))
    if any(not o.policy_published for o in offers):
        text += "\nsome sites do not publish whom they serve; they may refuse"
    return text


def _sites_text(sites: tuple[SiteSummary, ...]) -> str:
    rows = [
        (
            s.name,
            s.country or "-",
            ", ".join(s.endpoints) or "-",
            ", ".join(s.vos) or "-",
            s.images,
            s.flavours,
            "-" if s.total_cores is None else s.total_cores,
            s.health or "-",
        )
        for s in sites
    ]
    return table(rows, ("SITE", "COUNTRY", "ENDPOINTS", "VOS", "IMAGES", "SIZES", "CORES", "HEALTH"))


@click.group()
def infosys() -> None:
    """An information server of a node: status, refresh (administrator)."""


@infosys.command("status")
@node_option
@json_option
def infosys_status(node: Path, as_json: bool) -> None:
    """The server, its last update, and how each source stands."""
    status = admin_client(node, "infosys").json("GET", "/status")
    emit(status, as_json=as_json, human=_status_text)


@infosys.command("refresh")
@node_option
@json_option
def infosys_refresh(node: Path, as_json: bool) -> None:
    """Update now, and say what changed."""
    stats = admin_client(node, "infosys").json("POST", "/refresh", deadline=600.0)
    emit(stats, as_json=as_json, human=_stats_text)


def _status_text(status: dict[str, Any]) -> str:
    lines = [f"{status['level']} level at {status['url']}: {plural(status['entries'], 'entry', 'entries')}"]
    if status["last_update"]:
        lines.append(f"last update {status['last_update']['at']}: {_stats_text(status['last_update'])}")
    if status["registry_error"]:
        lines.append(f"the registry does not answer: {status['registry_error']}")
    lines += [f"refused: {name}: {reason}" for name, reason in status["refused"]]
    if status["sources"]:
        rows = [
            (s["site"], s["entries"], s["last_success"] or "never", s["error"] or "ok", s["url"])
            for s in status["sources"]
        ]
        lines.append(table(rows, ("SITE", "ENTRIES", "LAST SUCCESS", "STATE", "URL")))
        lines += [f"{s['site']}: left out: {text}" for s in status["sources"] for text in s["left_out"]]
    return "\n".join(lines)


def _stats_text(stats: dict[str, Any]) -> str:
    failed = stats["failed_adds"] + stats["failed_modifies"] + stats["failed_deletes"]
    return (
        f"{stats['added']} added, {stats['modified']} changed, {stats['deleted']} removed, {failed} refused; "
        f"{stats['total']} held; {stats['sources_seconds']:.2f} s reading, {stats['write_seconds']:.2f} s writing"
    )
