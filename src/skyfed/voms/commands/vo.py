"""`skyfed vo`: the administrator's side of virtual organisations, over the node's local administration API."""

import getpass
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import click

from skyfed.core.errors import Invalid
from skyfed.core.http import AdminClient, admin_client
from skyfed.core.settings import read_toml
from skyfed.core.terminal import emit, json_option, node_option, table
from skyfed.core.text import plural
from skyfed.pki import names
from skyfed.pki.files import MAX_BUNDLE_BYTES, parse_bundle, read_bounded

F = TypeVar("F", bound=Callable[..., Any])


def person_options(command: F) -> F:
    """Who is meant: a certificate file, or its two names."""
    for decorate in (
        click.option("--issuer", metavar="DN", help="Name of the CA that issued the certificate."),
        click.option("--subject", metavar="DN", help="Name in the person's certificate."),
        click.option("--cert", type=click.Path(path_type=Path), help="The person's certificate file, instead."),
    ):
        command = decorate(command)
    return command


def _person(cert: Path | None, subject: str | None, issuer: str | None) -> dict[str, str]:
    if cert is not None:
        certificates = parse_bundle(read_bounded(cert, MAX_BUNDLE_BYTES), source=str(cert)).certificates
        if not certificates:
            raise Invalid(f"{cert} holds no certificate", code="no_certificate")
        leaf = certificates[0]
        return {"subject": names.oneline(leaf.subject), "issuer": names.oneline(leaf.issuer)}
    if not subject or not issuer:
        raise click.UsageError("say who: --cert FILE, or --subject DN and --issuer DN")
    return {"subject": subject, "issuer": issuer}


class _Service:
    """The administration API; changes carry who made them."""

    def __init__(self, node: Path) -> None:
        self._client: AdminClient = admin_client(node, "voms")

    def get(self, path: str) -> Any:
        return self._client.json("GET", path)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self._client.json("POST", f"{path}?actor={quote(getpass.getuser(), safe='')}", body)


def _path(vo: str, *rest: str) -> str:
    return "/".join(("/vos", quote(vo, safe=""), *rest))


@click.group()
def vo() -> None:
    """Virtual organisations: who is a member, in which groups, with which roles.

    \b
    skyfed vo create demo.skyfed
    skyfed vo member add demo.skyfed --cert alice.pem --grant /demo.skyfed/Role=VMManagement
    skyfed vo apply FILE           a whole VO from a TOML file; run again, it changes nothing

    For the federation's operator: all verbs use the local administration API of the node that runs the VO service.
    """


@vo.command("list")
@node_option
@json_option
def list_(node: Path, as_json: bool) -> None:
    """List the VOs."""
    emit(
        _Service(node).get("/vos"),
        as_json=as_json,
        human=lambda vos: table([(v["name"], v["description"]) for v in vos], ("VO", "DESCRIPTION")),
    )


@vo.command()
@click.argument("name")
@node_option
@json_option
def show(name: str, node: Path, as_json: bool) -> None:
    """Show a VO: groups, roles, number of members."""
    emit(_Service(node).get(_path(name)), as_json=as_json, human=_shown)


def _shown(detail: dict[str, Any]) -> str:
    one = detail["vo"]
    lines = [
        f"VO          {one['name']}",
        f"description {one['description']}",
        f"attributes  live {one['max_ac_seconds'] // 3600} h at most",
        f"members     {detail['members']}",
        f"groups      {' '.join(detail['groups'])}",
        f"roles       {' '.join(detail['roles']) or 'none'}",
    ]
    return "\n".join(lines)


@vo.command()
@click.argument("name")
@click.option("--description", default="", help="One line for people.")
@click.option("--max-hours", type=click.IntRange(1, 168), default=24, show_default=True, help="Life of its attributes.")
@node_option
def create(name: str, description: str, max_hours: int, node: Path) -> None:
    """Create a VO."""
    _Service(node).post("/vos", {"name": name, "description": description, "max_ac_seconds": max_hours * 3600})
    click.echo(f"Created VO {name}")


@vo.command()
@click.argument("file", type=click.Path(path_type=Path))
@node_option
@json_option
def apply(file: Path, node: Path, as_json: bool) -> None:
    """Make what FILE declares and is not there yet; nothing is taken away.

    \b
    [[vos]]
    name = "demo.skyfed"
    groups = ["/demo.skyfed/lab"]
    roles = ["VMManagement"]
    [[vos.members]]
    subject = "/DC=org/CN=Alice"
    issuer = "/DC=org/CN=CA"
    roles = ["/demo.skyfed/Role=VMManagement"]
    """
    emit(
        _Service(node).post("/apply", read_toml(file)),
        as_json=as_json,
        human=lambda vos: "\n".join(f"{v['vo']['name']}: {plural(v['members'], 'member')}" for v in vos),
    )


@vo.group()
def group() -> None:
    """Groups of a VO."""


@group.command("add")
@click.argument("name", metavar="VO")
@click.argument("path", metavar="/VO/GROUP")
@click.option("--description", default="", help="One line for people.")
@node_option
def add_group(name: str, path: str, description: str, node: Path) -> None:
    """Add a group below one that exists."""
    _Service(node).post(_path(name, "groups"), {"path": path, "description": description})
    click.echo(f"Created group {path}")


@vo.group()
def role() -> None:
    """Roles of a VO; each may be given in any group."""


@role.command("add")
@click.argument("name", metavar="VO")
@click.argument("role_name", metavar="ROLE")
@node_option
def add_role(name: str, role_name: str, node: Path) -> None:
    """Add a role."""
    _Service(node).post(_path(name, "roles"), {"name": role_name})
    click.echo(f"Created role {role_name} in {name}")


# -- members ----------------------------------------------------------------------------------------------------


@vo.group()
def member() -> None:
    """Members of a VO."""


@member.command("list")
@click.argument("name", metavar="VO")
@node_option
@json_option
def list_members(name: str, node: Path, as_json: bool) -> None:
    """List the members."""
    emit(_Service(node).get(_path(name, "members")), as_json=as_json, human=_members)


def _members(members: list[dict[str, Any]]) -> str:
    rows = [
        (
            "suspended" if m["suspended"] else "member",
            " ".join((*m["groups"], *m["roles"])) or "-",
            m["subject"],
        )
        for m in members
    ]
    return table(rows, ("STATUS", "GROUPS AND ROLES", "SUBJECT"))


@member.command("add")
@click.argument("name", metavar="VO")
@person_options
@click.option("--name", "person_name", default="", help="The person's name.")
@click.option("--email", default="", help="How to reach the person.")
@click.option("--grant", multiple=True, metavar="FQAN", help="Group or role to give at once; repeatable.")
@node_option
def add_member(
    name: str,
    cert: Path | None,
    subject: str | None,
    issuer: str | None,
    person_name: str,
    email: str,
    grant: tuple[str, ...],
    node: Path,
) -> None:
    """Add a member."""
    body: dict[str, Any] = {**_person(cert, subject, issuer), "name": person_name, "email": email}
    body["groups"] = [fqan for fqan in grant if "/Role=" not in fqan]
    body["roles"] = [fqan for fqan in grant if "/Role=" in fqan]
    click.echo(f"Added {_Service(node).post(_path(name, 'members'), body)['subject']} to {name}")


def _action(verb: str, text: str, done: str, *, extra: str = "") -> click.Command:
    """`vo member VERB VO WHO [EXTRA]`."""

    def run(name: str, cert: Path | None, subject: str | None, issuer: str | None, node: Path, **more: str) -> None:
        person = _person(cert, subject, issuer)
        _Service(node).post(_path(name, "members", verb), person | more)
        click.echo(done.format(subject=person["subject"], vo=name, **more))

    command = person_options(node_option(run))
    if extra == "fqan":
        command = click.argument("fqan", metavar="FQAN")(command)
    elif extra:
        command = click.option(f"--{extra}", required=True, help=f"The {extra}; the member is told.")(command)
    return click.command(verb, help=text)(click.argument("name", metavar="VO")(command))


member.add_command(_action("remove", "Remove a member.", "Removed {subject} from {vo}"))
member.add_command(
    _action("grant", "Put a member in a group, or give a role there.", "{subject} has {fqan}", extra="fqan")
)
member.add_command(
    _action("revoke", "Take a role back, or a group with all below it.", "{subject} lost {fqan}", extra="fqan")
)
member.add_command(
    _action("suspend", "Give a member no attributes until restored.", "Suspended {subject} in {vo}", extra="reason")
)
member.add_command(_action("restore", "End a suspension.", "Restored {subject} in {vo}"))


# -- bans -------------------------------------------------------------------------------------------------------


@vo.command()
@click.argument("who")
@click.option("--reason", default="", help="Why, for the audit and the person.")
@node_option
def ban(who: str, reason: str, node: Path) -> None:
    """Ban WHO from all VOs of this service: a DN or FQAN pattern, or 'issuer DN', 'fingerprint SHA256'."""
    done = _Service(node).post("/bans", {"who": who, "reason": reason})
    click.echo(f"Banned {done['kind']} {done['pattern']}")


@vo.command()
@click.argument("who")
@node_option
def unban(who: str, node: Path) -> None:
    """Lift a ban."""
    _Service(node).post("/bans/remove", {"who": who})
    click.echo(f"No longer banned: {who}")


@vo.command()
@node_option
@json_option
def bans(node: Path, as_json: bool) -> None:
    """List the bans of this service."""
    emit(
        _Service(node).get("/bans"),
        as_json=as_json,
        human=lambda found: table([(b["kind"], b["pattern"], b["reason"]) for b in found], ("KIND", "WHO", "REASON")),
    )
