"""`skyfed site` and `skyfed service`: the registry for people.

Reading goes over the wire to --registry (default $SKYFED_REGISTRY). Changing is an administrator's: it uses the local
administration API of the federation node (--node, default $SKYFED_NODE).
"""

import getpass
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from skyfed.core.http import admin_client
from skyfed.core.settings import read_toml
from skyfed.core.terminal import emit, json_option, node_option, table
from skyfed.core.text import one_line, plural
from skyfed.pki.commands import certificates_option, outbound
from skyfed.registry.client import RegistryClient
from skyfed.registry.model import CertificationStatus, Infrastructure, Service, Site

Command = Callable[..., Any]

registry_option = click.option(
    "--registry",
    envvar="SKYFED_REGISTRY",
    required=True,
    metavar="URL",
    help="The registry's address (default $SKYFED_REGISTRY).",
)


def _wire(command: Command) -> Command:
    return registry_option(certificates_option(command))


def _client(registry: str, certificates: Path) -> RegistryClient:
    return RegistryClient(outbound(certificates), registry)


@click.group()
def site() -> None:
    """Sites of the federation: list, show (anybody); apply, set-certification, set-infrastructure (administrator)."""


@site.command("list")
@_wire
@click.option("--all", "everything", is_flag=True, help="Also test-bed sites and those that are not certified.")
@json_option
def site_list(registry: str, certificates: Path, everything: bool, as_json: bool) -> None:
    """The sites in the registry: certified production sites, or all of them."""
    client = _client(registry, certificates)
    sites = (
        client.site_list(scope="")
        if everything
        else client.site_list(
            certification=CertificationStatus.CERTIFIED, infrastructure=Infrastructure.PRODUCTION, scope=""
        )
    )
    rows = [(s.name, s.country, s.ngi, s.giis_url or "-") for s in sites]
    emit(sites, as_json=as_json, human=lambda _: table(rows, ("SITE", "COUNTRY", "NGI", "INFORMATION SERVER")))


@site.command("show")
@click.argument("name")
@node_option
@json_option
def site_show(name: str, node: Path, as_json: bool) -> None:
    """Everything about one site, with its services and the log of its certification."""
    record = admin_client(node, "registry").json("GET", f"/sites/{_path(name)}")
    emit(record, as_json=as_json, human=_site_text)


@site.command("apply")
@click.argument("file", type=click.Path(path_type=Path))
@node_option
@click.option("--dry-run", is_flag=True, help="Show what would change, change nothing.")
@click.option("--prune", is_flag=True, help="Remove services of the site that FILE does not declare.")
@json_option
def site_apply(file: Path, node: Path, dry_run: bool, prune: bool, as_json: bool) -> None:
    """Make a site what FILE (TOML) declares. Applying the same file again changes nothing.

    \b
    [site]
    name = "ALPHA"
    description = "A cloud for everybody"
    ngi = "NGI_NL"
    country = "NL"
    email = "support@cloud.example.org"
    giis_url = "ldap://bdii.cloud.example.org:2170/GLUE2DomainID=ALPHA,o=glue"
    certification_status = "Certified"      # of a new site; later: set-certification

    \b
    [[service]]
    hostname = "cloud.example.org"
    type = "eu.egi.cloud.vm-management.occi"
    url = "https://cloud.example.org:11443/"
    production = true
    monitored = true
    """
    request = {
        "declaration": read_toml(file),
        "source": file.name,
        "changed_by": getpass.getuser(),
        "dry_run": dry_run,
        "prune": prune,
    }
    changes = admin_client(node, "registry").json("POST", "/sites", request)
    emit(changes, as_json=as_json, human=lambda found: _changes_text(found, dry_run=dry_run))


@site.command("set-certification")
@click.argument("name")
@click.argument("status", type=click.Choice([s.value for s in CertificationStatus], case_sensitive=False))
@click.option("--reason", required=True, help="Why: 1 to 300 characters, kept in the site's log.")
@click.option("--force", is_flag=True, help="Also a step that the rules do not allow (digest 3.2).")
@node_option
@json_option
def site_set_certification(name: str, status: str, reason: str, force: bool, node: Path, as_json: bool) -> None:
    """Change a site's certification status. Closed is final: its services vanish from the registry's answers."""
    request = {"status": status, "reason": reason, "force": force, "changed_by": getpass.getuser()}
    changed = admin_client(node, "registry").json("PUT", f"/sites/{_path(name)}/certification", request)
    emit(changed, as_json=as_json, human=lambda s: f"{s['name']} is {s['certification_status']}")


@site.command("set-infrastructure")
@click.argument("name")
@click.argument("infrastructure", type=click.Choice([i.value for i in Infrastructure], case_sensitive=False))
@node_option
@json_option
def site_set_infrastructure(name: str, infrastructure: str, node: Path, as_json: bool) -> None:
    """Move a site to the production infrastructure or to the test bed (`Test`)."""
    request = {"infrastructure": infrastructure, "changed_by": getpass.getuser()}
    changed = admin_client(node, "registry").json("PUT", f"/sites/{_path(name)}/infrastructure", request)
    emit(changed, as_json=as_json, human=lambda s: f"{s['name']} is in {s['infrastructure']}")


@click.group()
def service() -> None:
    """Services of the federation's sites: list, types."""


@service.command("list")
@_wire
@click.option("--type", "kind", help="Only services of this type.")
@click.option("--site", "site_name", help="Only services of this site.")
@json_option
def service_list(registry: str, certificates: Path, kind: str | None, site_name: str | None, as_json: bool) -> None:
    """The services of all sites that are not closed."""
    found = _client(registry, certificates).services(type=kind, site=site_name, scope="")
    rows = [(s.site, s.type, s.hostname, "yes" if s.production else "no", s.url or "-") for s in found]
    headers = ("SITE", "TYPE", "HOST", "PRODUCTION", "URL")
    emit(found, as_json=as_json, human=lambda _: table(rows, headers))


@service.command("types")
@_wire
@json_option
def service_types(registry: str, certificates: Path, as_json: bool) -> None:
    """The kinds of service that the registry knows."""
    found = _client(registry, certificates).service_types()
    rows = [(t.name, one_line(t.description, 90)) for t in found]
    emit(found, as_json=as_json, human=lambda _: table(rows, ("TYPE", "DESCRIPTION")))


def _path(name: str) -> str:
    from urllib.parse import quote

    return quote(name, safe="")


def _site_text(record: dict[str, Any]) -> str:
    site = msgspec.convert(record["site"], Site)
    lines = [
        f"{site.name}: {site.description}",
        f"  {site.infrastructure}, {site.certification_status}; {site.country}; {site.ngi}",
        f"  scopes {', '.join(site.scopes)}",
        f"  contact {site.email}; information server {site.giis_url or '-'}",
    ]
    for found in msgspec.convert(record["services"], tuple[Service, ...]):
        lines.append(f"  {found.type}  {found.hostname}  {found.url or '-'}")
    for entry in record["certification_log"]:
        lines.append(f"  {entry['old_status']} → {entry['new_status']} by {entry['changed_by']}: {entry['reason']}")
    return "\n".join(lines)


_MARKS = {"create": "+", "update": "~", "delete": "-", "undeclared": "?"}


def _changes_text(changes: list[dict[str, Any]], *, dry_run: bool) -> str:
    if not changes:
        return "nothing to change"
    lines = []
    for change in changes:
        lines.append(f"{_MARKS[change['action']]} {change['kind']} {change['name']}")
        lines += [f"    {f['field']}: {f['old']!r} → {f['new']!r}" for f in change["fields"]]
    undeclared = sum(change["action"] == "undeclared" for change in changes)
    if undeclared:
        lines.append(f"{plural(undeclared, 'service')} not in the file (?) left alone; --prune removes")
    if dry_run:
        lines.append("(dry run: nothing was changed)")
    return "\n".join(lines)
