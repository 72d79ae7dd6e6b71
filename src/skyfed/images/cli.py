"""`skyfed image`: signed image lists, for researchers (list, show, verify) and administrators (publish,
subscriptions)."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
import msgspec

from skyfed.compute.guest.cli import build_guest
from skyfed.core.clock import SystemClock, iso
from skyfed.core.errors import Invalid, NotFound
from skyfed.core.http import admin_client
from skyfed.core.terminal import Progress, emit, json_option, table
from skyfed.core.text import one_line, plural, shown
from skyfed.images import client, evaluate
from skyfed.images.model import (
    Description,
    Event,
    ImageList,
    ListedImage,
    PublishedImage,
    PublishedList,
    Subscription,
    number_of,
)
from skyfed.pki import names
from skyfed.pki.commands import certificates_option, outbound
from skyfed.pki.files import read_bounded
from skyfed.pki.trust import TrustStore

Command = Callable[..., Any]
PUBLISH_SECONDS = 1800.0
_NOT_IN_NAMES = re.compile(r"[^a-z0-9]+")

node_option = click.option(
    "--node",
    type=click.Path(path_type=Path),
    envvar="SKYFED_NODE",
    help="Directory of the node that runs the image service (default $SKYFED_NODE).",
)
url_option = click.option(
    "--list-url",
    "url",
    envvar="SKYFED_IMAGE_LIST",
    required=True,
    metavar="URL",
    help="Address of the signed list (default $SKYFED_IMAGE_LIST).",
)


@click.group()
def image() -> None:
    """Signed image lists (HEPiX): what they offer, whether they can be trusted, and what a site made of them.

    \b
    Anybody:        list, show, verify
    Endorser:       publish --to https://…   (with a certificate that the publisher accepts)
    Administrator:  publish, withdraw, lists (publisher's node); subscriptions, refresh, events (site's node)
    """


# -- reading lists ----------------------------------------------------------------------------------------------


@image.command("list")
@url_option
@certificates_option
@json_option
def image_list(url: str, certificates: Path, as_json: bool) -> None:
    """The images of a signed list, after verifying it."""
    found = _trusted_list(url, certificates)
    rows = [(i.title, i.version, i.format, _mib(i.size), i.identifier) for i in found.images]
    headers = ("TITLE", "VERSION", "FORMAT", "SIZE", "IDENTIFIER")
    emit(found.document, as_json=as_json, human=lambda _: table(rows, headers))


@image.command("show")
@click.argument("identifier")
@url_option
@certificates_option
@json_option
def image_show(identifier: str, url: str, certificates: Path, as_json: bool) -> None:
    """Everything that a list says about one image (its dc:identifier, or its title)."""
    found = _trusted_list(url, certificates)
    matching = [i for i in found.images if identifier in (i.identifier, i.title)]
    if not matching:
        raise NotFound(f"the list {shown(url)} has no image {shown(identifier)}", code="no_image")
    emit(matching[0].document, as_json=as_json, human=lambda _: _image_text(matching[0]))


@image.command("verify")
@click.argument("source", metavar="FILE|URL")
@certificates_option
@click.option("--allow-sha1", is_flag=True, help="Accept a signature with SHA-1, as lists of long ago have.")
@json_option
@click.pass_context
def image_verify(ctx: click.Context, source: str, certificates: Path, allow_sha1: bool, as_json: bool) -> None:
    """Verify a signed list: container, signer and its CRLs, signature, fields, endorser, dates. Exit code 1:
    refused."""
    trust = TrustStore(certificates, SystemClock())
    try:
        accepted = evaluate.evaluate(
            _message(source, certificates), evaluate.Policy(allow_sha1=allow_sha1), trust, SystemClock().now()
        )
    except Invalid as error:
        verdict = {"ok": False, "code": error.code, "number": number_of(error.code), "reason": error.message}
        emit(verdict, as_json=as_json, human=lambda v: f"refused ({v['code']}, {v['number']}): {v['reason']}")
        ctx.exit(1)
    found = accepted.imagelist
    verdict = {
        "ok": True,
        "identifier": found.identifier,
        "version": found.version,
        "vo": found.vo,
        "images": len(found.images),
        "expires": iso(found.expires),
        "endorser": names.oneline(accepted.signer.subject),
        "sha512": accepted.digest,
    }
    emit(verdict, as_json=as_json, human=_verdict_text)


# -- publishing -------------------------------------------------------------------------------------------------


def _description_options(command: Command) -> Command:
    options = (
        click.option("--title", required=True, help="A title for people."),
        click.option("--name", default="", help="Lasting short name in the list (default: from the title)."),
        click.option("--description", default="", help="What it is for."),
        click.option("--os", "os_", default="Linux", show_default=True, help="Operating system (sl:os)."),
        click.option("--os-name", default="", help="Distribution (sl:osname)."),
        click.option("--os-version", default="", help="Its version (sl:osversion)."),
        click.option("--arch", default="x86_64", show_default=True, help="Architecture (sl:arch)."),
        click.option("--version", default="", help="Version of the image (default: the next one)."),
        click.option("--ram", type=int, help="Least memory, MiB."),
        click.option("--cores", type=int, help="Least number of cores."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@image.command("publish")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_description_options
@click.option("--list", "list_name", default="", help="Into which list (default: the only one, or the one of --vo).")
@click.option("--vo", default="", help="Into the list of this virtual organisation.")
@click.option("--to", metavar="URL", help="Over the network to this image service, with your certificate.")
@node_option
@certificates_option
@json_option
def image_publish(
    file: Path,
    title: str,
    name: str,
    description: str,
    os_: str,
    os_name: str,
    os_version: str,
    arch: str,
    version: str,
    ram: int | None,
    cores: int | None,
    list_name: str,
    vo: str,
    to: str | None,
    node: Path | None,
    certificates: Path,
    as_json: bool,
) -> None:
    """Put an image file into a signed list, or a new version of one: measured, inspected, signed, served.

    On the publisher's own machine (--node) or from anywhere with an endorser's certificate (--to).
    The same file with the same words again changes nothing.
    """
    image = Description(
        title=title,
        name=name or _slug(title),
        description=description,
        os=os_,
        os_name=os_name,
        os_version=os_version,
        arch=arch,
        version=version,
        ram_minimum_mib=ram,
        core_minimum=cores,
    )
    with Progress(f"publishing {file.name}", quiet=as_json) as progress:
        if to is not None:
            published = _publish_over_wire(to, certificates, list_name, vo, image, file, progress)
        else:
            published = _publish_here(_required(node), list_name, vo, image, file)
    emit(published, as_json=as_json, human=lambda p: f"{p.title} {p.version} is in {p.list}: {p.identifier}")


@image.command("withdraw")
@click.argument("name")
@click.option("--list", "list_name", default="", help="From which list (default: the only one).")
@node_option
@json_option
def image_withdraw(name: str, list_name: str, node: Path | None, as_json: bool) -> None:
    """Take an image out of a list; sites retire it. NAME is its short name."""
    admin = admin_client(_required(node), "images")
    chosen = _choose(_lists(admin.json("GET", "/lists")), list_name, "")
    left = msgspec.convert(
        admin.json("DELETE", f"/lists/{quote(chosen.name, safe='')}/images/{quote(name, safe='')}"), PublishedList
    )
    emit(left, as_json=as_json, human=lambda _: f"{left.name} {left.version} has {plural(len(left.images), 'image')}")


@image.command("lists")
@node_option
@json_option
def image_lists(node: Path | None, as_json: bool) -> None:
    """The lists that a node publishes."""
    found = _lists(admin_client(_required(node), "images").json("GET", "/lists"))
    rows = [(p.name, p.vo, p.version, str(len(p.images)), iso(p.expires), p.url) for p in found]
    headers = ("LIST", "VO", "VERSION", "IMAGES", "EXPIRES", "URL")
    emit(found, as_json=as_json, human=lambda _: table(rows, headers))


# -- what a site made of its lists ------------------------------------------------------------------------------


@image.command("subscriptions")
@node_option
@json_option
def image_subscriptions(node: Path | None, as_json: bool) -> None:
    """The lists that a site follows: state, images, and the reason (with vmcatcher's number) for whatever is
    missing."""
    answer = admin_client(_required(node), "images").json("GET", "/subscriptions")
    found = msgspec.convert(answer, tuple[Subscription, ...])
    emit(found, as_json=as_json, human=lambda subs: "\n".join(_subscription_text(s) for s in subs) or "none")


image.add_command(image_subscriptions, "status")


@image.command("refresh")
@node_option
@json_option
def image_refresh(node: Path | None, as_json: bool) -> None:
    """Look at all subscribed lists now instead of at the next interval."""
    said = admin_client(_required(node), "images").json("POST", "/subscriptions/refresh")
    emit(said, as_json=as_json, human=lambda _: "on its way; `skyfed image subscriptions` shows what came of it")


@image.command("events")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many, newest first.")
@node_option
@json_option
def image_events(limit: int, node: Path | None, as_json: bool) -> None:
    """What happened to lists and images on a node, newest first."""
    answer = admin_client(_required(node), "images").json("GET", f"/events?limit={limit}")
    found = msgspec.convert(answer, tuple[Event, ...])
    rows = [(iso(e.at), e.kind, e.subject, one_line(e.detail, 100)) for e in found]
    emit(found, as_json=as_json, human=lambda _: table(rows, ("WHEN", "WHAT", "OF", "DETAIL")))


# -- inside -----------------------------------------------------------------------------------------------------


def _required(node: Path | None) -> Path:
    if node is None:
        raise click.UsageError("give the node's directory with --node (or set SKYFED_NODE)")
    return node


def _message(source: str, certificates: Path) -> bytes:
    if source.startswith(("https://", "http://")):
        return client.fetch(outbound(certificates), source)
    return read_bounded(Path(source), evaluate.MAX_MESSAGE_BYTES)


def _trusted_list(url: str, certificates: Path) -> ImageList:
    clock = SystemClock()
    message = _message(url, certificates)
    return evaluate.evaluate(message, evaluate.Policy(), TrustStore(certificates, clock), clock.now()).imagelist


def _publish_here(node: Path, list_name: str, vo: str, image: Description, file: Path) -> PublishedImage:
    admin = admin_client(node, "images")
    chosen = _choose(_lists(admin.json("GET", "/lists")), list_name, vo)
    asked = {"path": str(file.resolve()), "image": msgspec.to_builtins(image)}
    answer = admin.json("POST", f"/lists/{quote(chosen.name, safe='')}/images", asked, deadline=PUBLISH_SECONDS)
    return msgspec.convert(answer, PublishedImage)


def _publish_over_wire(
    to: str, certificates: Path, list_name: str, vo: str, image: Description, file: Path, progress: Progress
) -> PublishedImage:
    cert, key = _own_credential()
    service = client.ImagesClient(outbound(certificates, cert, key), to)
    chosen = _choose(service.lists(), list_name, vo)
    size = max(1, file.stat().st_size)
    return service.publish(chosen.name, image, file, lambda done: progress.step(f"{done * 100 // size} %"))


def _own_credential() -> tuple[Path, Path | None]:
    """Certificate and key files where grid clients keep them: the proxy if there is one, else the certificate
    itself."""
    proxy = os.environ.get("X509_USER_PROXY", "")
    if proxy and Path(proxy).exists():
        return Path(proxy), None
    home = Path.home() / ".globus"
    cert = Path(os.environ.get("X509_USER_CERT") or home / "usercert.pem")
    return cert, Path(os.environ.get("X509_USER_KEY") or home / "userkey.pem")


def _lists(answer: object) -> tuple[PublishedList, ...]:
    return msgspec.convert(answer, tuple[PublishedList, ...])


def _choose(lists: tuple[PublishedList, ...], name: str, vo: str) -> PublishedList:
    matching = [each for each in lists if (not name or each.name == name) and (not vo or each.vo == vo)]
    if len(matching) != 1:
        known = ", ".join(f"{each.name} (VO {each.vo})" for each in lists) or "none"
        raise Invalid(f"choose one list with --list or --vo; there are: {known}", code="which_list")
    return matching[0]


def _slug(title: str) -> str:
    return _NOT_IN_NAMES.sub("-", title.lower()).strip("-")[:100].strip("-") or "image"


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"


def _image_text(found: ListedImage) -> str:
    return "\n".join(f"{key:22} {value}" for key, value in sorted(found.document.items()))


def _verdict_text(verdict: dict[str, Any]) -> str:
    return (
        f"accepted: {verdict['identifier']} version {verdict['version']}, {plural(verdict['images'], 'image')}"
        f" for {verdict['vo'] or 'no VO'}, until {verdict['expires']}\nendorsed by {verdict['endorser']}"
    )


def _subscription_text(found: Subscription) -> str:
    lines = [f"{found.name}: {found.state}, version {found.version or '-'}, {plural(len(found.images), 'image')}"]
    lines += [f"  {found.url}"]
    if found.code:
        lines.append(f"  {found.code} ({found.number}): {found.reason}")
    for each in found.images:
        why = f": {each.code} ({each.number}): {one_line(each.reason, 160)}" if each.code else ""
        lines.append(f"  {each.state:12} {each.title} {each.version}  {each.identifier}{why}")
    return "\n".join(lines)


image.add_command(build_guest)
