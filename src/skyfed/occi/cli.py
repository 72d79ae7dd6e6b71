"""`skyfed vm`: virtual machines at any OCCI endpoint; `skyfed occi`: what an endpoint offers.

The credential is the proxy that `skyfed proxy init` made ($X509_USER_PROXY, else /tmp/x509up_u<uid>); authorities are in
$X509_CERT_DIR. Base dependencies only: it runs on a laptop with nothing but `pip install skyfed`.
"""

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial, wraps
from pathlib import Path
from typing import Any

import click
import msgspec

from skyfed.core.errors import Invalid, NotFound, SkyfedError, Unavailable
from skyfed.core.http import Client
from skyfed.core.terminal import Progress, emit, json_option, table
from skyfed.core.text import one_line
from skyfed.occi.client import Machine, OcciClient, Order, ssh_address
from skyfed.occi.model import MIXIN, Category
from skyfed.occi.ssh import wait_until_it_answers
from skyfed.pki.commands import certificates_option, outbound, proxy_path

Command = Callable[..., Any]

SITE_VARIABLE = "SKYFED_OCCI_"
MAX_FILE = 256 * 1024
WAIT_SECONDS = 600.0
# A distribution's own image boots within this even where the processor is emulated.
BOOT_SECONDS = 120.0
SSH_PORT = 22
MAX_AT_ONCE = 16
"""How many sites are asked at the same time."""
_STATES_AFTER = {"start": "active", "stop": "inactive", "restart": "active"}


def _options(command: Command) -> Command:
    """Give the command `endpoints` (URL by site's name) and `connect`, which makes the client that shows the credential."""

    @click.option("--site", metavar="NAME", help="The site whose endpoint is in $SKYFED_OCCI_<NAME>.")
    @click.option("--endpoint", metavar="URL", help="OCCI endpoint (default: what $SKYFED_OCCI_<NAME> are set to).")
    @click.option("--proxy", "proxy", type=click.Path(path_type=Path), help="Credential (default $X509_USER_PROXY).")
    @certificates_option
    @wraps(command)
    def wrapped(site: str | None, endpoint: str | None, proxy: Path | None, certificates: Path, **rest: Any) -> Any:
        endpoints = _endpoints(site, endpoint)
        return command(endpoints=endpoints, connect=partial(_http, proxy or proxy_path(), certificates), **rest)

    return wrapped


def _endpoint_options(command: Command) -> Command:
    """Give the command `client`, for the one endpoint that the options mean."""

    @_options
    @wraps(command)
    def wrapped(endpoints: dict[str, str], connect: Callable[[], Client], **rest: Any) -> Any:
        if len(endpoints) > 1:
            raise click.UsageError(f"say which site: --site NAME (set: {', '.join(endpoints)}) or --endpoint URL")
        (url,) = endpoints.values()
        return command(client=OcciClient(url, connect()), **rest)

    return wrapped


def _endpoints(site: str | None, endpoint: str | None) -> dict[str, str]:
    """The URLs meant, by site's name; an endpoint given outright has none. Raises click.UsageError saying what there is."""
    if endpoint:
        return {"": endpoint}
    known = {
        name.removeprefix(SITE_VARIABLE).lower(): value
        for name, value in sorted(os.environ.items())
        if name.startswith(SITE_VARIABLE)
    }
    if site:
        key = "".join(c if c.isalnum() else "_" for c in site.lower())
        if key in known:
            return {key: known[key]}
        there = ", ".join(known) or "none"
        raise click.UsageError(f"no ${SITE_VARIABLE}{key.upper()} is set (sites set: {there}); give --endpoint URL")
    if not known:
        raise click.UsageError("say which site: --site NAME (set: none; `skyfed env` prints them) or --endpoint URL")
    return known


def _http(proxy: Path, certificates: Path) -> Client:
    if not proxy.is_file():
        raise NotFound(f"there is no proxy at {proxy}; make one with `skyfed proxy init`", code="no_proxy")
    return outbound(certificates, proxy)


@click.group()
def vm() -> None:
    """Virtual machines at a site.

    \b
    skyfed vm create --site alpha --image debian-12 --flavour small --ssh-key ~/.ssh/id_ed25519.pub --wait
    skyfed vm list
    skyfed vm ssh --site alpha web1 -- uname -a
    skyfed vm delete --site alpha web1

    A machine is named by its title, its identifier, or the beginning of it.
    """


@vm.command()
@click.option("--image", required=True, help="Image: term, title or identifier (see `skyfed occi model`).")
@click.option("--flavour", required=True, help="Size: term or identifier (see `skyfed occi model`).")
@click.option("--title", default="", help="A name for people; also the guest's host name.")
@click.option("--ssh-key", type=click.Path(path_type=Path), help="Your public key file, e.g. ~/.ssh/id_ed25519.pub.")
@click.option("--user-data", type=click.Path(path_type=Path), help="File given to the guest as it is (cloud-init).")
@click.option("--token", default="", help="A UUID: the same again gives the same machine, not a second one.")
@click.option("--wait", "wait", is_flag=True, help="Return when the machine runs.")
@click.option("--seconds", default=WAIT_SECONDS, show_default=True, help="Longest time to wait.")
@_endpoint_options
@json_option
def create(
    client: OcciClient,
    image: str,
    flavour: str,
    title: str,
    ssh_key: Path | None,
    user_data: Path | None,
    token: str,
    wait: bool,
    seconds: float,
    as_json: bool,
) -> None:
    """Make a virtual machine and start it."""
    order = Order(
        image=image,
        flavour=flavour,
        title=title,
        ssh_key=_key(ssh_key) if ssh_key else "",
        user_data=_bytes(user_data) if user_data else b"",
        token=token,
    )
    location = client.create(order)
    machine = _waited(client, location, "active", seconds, quiet=as_json) if wait else client.get(location)
    emit(machine, as_json=as_json, human=_described)


class Listed(Machine, frozen=True, kw_only=True):
    """A machine and the name of its site, "" for an endpoint given by its URL."""

    site: str = ""


@vm.command("list")
@_options
@json_option
def list_machines(endpoints: dict[str, str], connect: Callable[[], Client], as_json: bool) -> None:
    """Your virtual machines, and those of your VO.

    Without --site and --endpoint: those at every site that a $SKYFED_OCCI_<NAME> is set for."""
    machines, failed = _everywhere(endpoints, connect())
    if len(endpoints) == 1:
        for error in failed.values():
            raise error
    if as_json or len(failed) < len(endpoints):
        emit(machines, as_json=as_json, human=partial(_listed, sites=len(endpoints) > 1))
    for site, error in failed.items():
        click.echo(f"skyfed: {site}: {one_line(error.message)}", err=True)
    if failed:
        sys.exit(1)


def _everywhere(endpoints: dict[str, str], http: Client) -> tuple[list[Listed], dict[str, SkyfedError]]:
    """The machines at all endpoints, and why some could not say, by site; all are asked at once."""
    machines: list[Listed] = []
    failed: dict[str, SkyfedError] = {}
    with ThreadPoolExecutor(max_workers=min(len(endpoints), MAX_AT_ONCE)) as pool:
        answers = {site: pool.submit(_there, url, http) for site, url in endpoints.items()}
        for site, answer in answers.items():
            try:
                found = answer.result()
            except SkyfedError as error:
                failed[site] = error
            else:
                machines += [Listed(**msgspec.structs.asdict(one), site=site) for one in found]
    return machines, failed


def _there(url: str, http: Client) -> tuple[Machine, ...]:
    return OcciClient(url, http).list()


@vm.command()
@click.argument("machine")
@_endpoint_options
@json_option
def show(client: OcciClient, machine: str, as_json: bool) -> None:
    """One virtual machine in full."""
    emit(client.find(machine), as_json=as_json, human=_described)


def _action_command(term: str, help_text: str, methods: Sequence[str]) -> None:
    """Define `skyfed vm start|stop|restart`."""

    @click.argument("machine")
    @click.option("--wait", "wait", is_flag=True, help="Return when it is done.")
    @click.option("--seconds", default=WAIT_SECONDS, show_default=True, help="Longest time to wait.")
    @_endpoint_options
    @json_option
    def run(
        client: OcciClient, machine: str, wait: bool, seconds: float, as_json: bool, method: str | None = None
    ) -> None:
        found = client.find(machine)
        client.act(found.location, term, method or "")
        after = (
            _waited(client, found.location, _STATES_AFTER[term], seconds, quiet=as_json)
            if wait
            else client.get(found.location)
        )
        emit(after, as_json=as_json, human=_described)

    if methods:
        run = click.option("--method", type=click.Choice(methods), help="How (default: the site's).")(run)
    vm.command(term, help=help_text)(run)


_action_command("start", "Start a stopped virtual machine.", ())
_action_command("stop", "Stop a virtual machine; it keeps its disk.", ("graceful", "acpioff", "poweroff"))
_action_command("restart", "Restart a running virtual machine.", ("graceful", "warm", "cold"))


@vm.command()
@click.argument("machines", nargs=-1, required=True)
@_endpoint_options
@json_option
def delete(client: OcciClient, machines: tuple[str, ...], as_json: bool) -> None:
    """Delete virtual machines and their disks."""
    found = [client.find(machine) for machine in machines]
    for machine in found:
        client.delete(machine.location)
    emit({"deleted": [one.id for one in found]}, as_json=as_json, human=lambda said: "\n".join(said["deleted"]))


@vm.command(context_settings={"ignore_unknown_options": True})
@click.argument("machine")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--user", default="root", show_default=True, help="Account in the guest.")
@click.option("--identity", "-i", type=click.Path(path_type=Path), help="Your private key file.")
@click.option(
    "--seconds", default=BOOT_SECONDS, show_default=True, help="Longest time to wait until its SSH server answers."
)
@_endpoint_options
def ssh(
    client: OcciClient, machine: str, command: tuple[str, ...], user: str, identity: Path | None, seconds: float
) -> None:
    """Log in to a virtual machine, or run COMMAND in it; waits until it has booted."""
    found = client.find(machine)
    argv = ssh_command(found, user=user, identity=identity, command=command)
    # Where it does not answer in time, ssh itself says best why.
    wait_until_it_answers(*ssh_address(found), seconds=seconds)
    try:
        os.execvp(argv[0], argv)  # noqa: S606  # no shell: the argument list is ours
    except FileNotFoundError as error:
        raise NotFound("there is no ssh on this machine; install openssh-client", code="no_ssh") from error


def ssh_command(machine: Machine, *, user: str, identity: Path | None, command: Sequence[str]) -> list[str]:
    """The ssh command line. The host key is remembered under the machine's identifier: forwarded ports are used again
    by other machines, whose keys must not be taken for an attack."""
    host, port = ssh_address(machine)
    if not host or host.startswith("-") or not user or user.startswith("-"):
        raise Invalid(f"'{one_line(user)}@{one_line(host)}' is no address to log in to", code="ssh_address")
    argv = ["ssh", "-p", str(port), "-l", user]
    argv += ["-o", f"HostKeyAlias={machine.id}", "-o", "StrictHostKeyChecking=accept-new"]
    if identity is not None:
        argv += ["-i", str(identity), "-o", "IdentitiesOnly=yes"]
    return [*argv, "--", host, *command]


@click.group()
def occi() -> None:
    """What an OCCI endpoint offers."""


@occi.command()
@click.option("--all", "everything", is_flag=True, help="Every category, not only images and sizes.")
@_endpoint_options
@json_option
def model(client: OcciClient, everything: bool, as_json: bool) -> None:
    """The query interface: the images and sizes for --image and --flavour."""
    categories = client.model() if everything else (*client.os_templates(), *client.resource_templates())
    emit(categories, as_json=as_json, human=_model)


def _waited(client: OcciClient, location: str, state: str, seconds: float, *, quiet: bool) -> Machine:
    with Progress(f"waiting until the machine is {state}:", quiet=quiet) as progress:
        return client.wait(
            location, state, seconds=seconds, progress=lambda m: progress.step(f"{m.state} {one_line(m.message, 80)}")
        )


def _key(path: Path) -> str:
    key = _bytes(path).decode("ascii", "replace").strip()
    if "PRIVATE KEY" in key or "\n" in key or not key.startswith(("ssh-", "ecdsa-", "sk-")):
        raise Invalid(f"{path} is no OpenSSH public key; right is the .pub file, one line", code="ssh_key")
    return key


def _bytes(path: Path) -> bytes:
    try:
        with path.expanduser().open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise Invalid(f"cannot read {path}: {error.strerror}", code="unreadable") from error
    if len(data) > MAX_FILE:
        raise Invalid(f"{path} is larger than {MAX_FILE} bytes", code="file_size")
    return data


def _listed(machines: Sequence[Listed], *, sites: bool = False) -> str:
    if not machines:
        return "no machines"
    rows = [
        (
            *((one.site,) if sites else ()),
            one.id,
            one_line(one.title, 40) or "-",
            one.state,
            _term(one.image),
            _term(one.flavour),
            _ssh(one),
        )
        for one in machines
    ]
    return table(rows, (*(("SITE",) if sites else ()), "ID", "TITLE", "STATE", "IMAGE", "FLAVOUR", "SSH"))


def _described(machine: Machine) -> str:
    values = (
        ("id", machine.id),
        ("title", machine.title),
        ("state", f"{machine.state} ({machine.message})" if machine.message else machine.state),
        ("image", machine.image),
        ("flavour", machine.flavour),
        ("cores", "" if machine.cores is None else str(machine.cores)),
        ("memory", "" if machine.memory_gib is None else _memory(machine.memory_gib)),
        ("addresses", ", ".join(machine.addresses)),
        ("ssh", _ssh(machine)),
        ("actions", ", ".join(machine.actions)),
        ("location", machine.location),
    )
    return "\n".join(f"{name:10} {one_line(value)}" for name, value in values if value and value != "-")


def _memory(gib: float) -> str:
    """In MiB below one GiB: `160 MiB`, `1.5 GiB`."""
    return f"{gib:g} GiB" if gib >= 1 else f"{gib * 1024:g} MiB"


def _ssh(machine: Machine) -> str:
    """Where one may log in now; nothing listens in a machine that does not run."""
    if machine.state != "active":
        return "-"
    try:
        host, port = ssh_address(machine)
    except Unavailable:
        return "-"
    return host if port == SSH_PORT else f"{host}:{port}"


def _term(type_id: str) -> str:
    return one_line(type_id.rpartition("#")[2], 60) or "-"


def _model(categories: Sequence[Category]) -> str:
    rows = [
        (
            one.depends[0].rpartition("#")[2] if one.cls == MIXIN and one.depends else one.cls,
            one.term,
            one_line(one.title, 60),
        )
        for one in categories
    ]
    return table(rows, ("WHAT", "TERM", "TITLE")) if rows else "nothing for your VO"
