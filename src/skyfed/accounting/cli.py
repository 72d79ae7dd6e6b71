"""`skyfed accounting`: usage for people.

`summary` and `records` ask the repository (--accounting, default $SKYFED_ACCOUNTING). `status`, `dead`, `retry`,
`republish`, `messages`, `reload`, `recompute` and `forget` are an administrator's: they use the local administration
API of the node (--node, default $SKYFED_NODE).
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from skyfed.accounting.client import AccountingClient
from skyfed.accounting.model import CloudSummary, JournalRecord, parse_month
from skyfed.core.clock import from_epoch, iso
from skyfed.core.http import AdminClient, admin_client
from skyfed.core.terminal import emit, json_option, node_option, table
from skyfed.core.text import duration, one_line, plural
from skyfed.pki.commands import certificates_option, outbound

Command = Callable[..., Any]
T = TypeVar("T")


class _Month(click.ParamType[str]):
    name = "YYYY-MM"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return str(parse_month(str(value)))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _wire(command: Command) -> Command:
    """The options of commands that ask the repository."""
    options = (
        click.option(
            "--accounting",
            "url",
            envvar="SKYFED_ACCOUNTING",
            required=True,
            metavar="URL",
            help="The repository's address (default $SKYFED_ACCOUNTING).",
        ),
        certificates_option,
        click.option(
            "--proxy",
            type=click.Path(path_type=Path),
            envvar="X509_USER_PROXY",
            help="Your proxy, for usage by person (default $X509_USER_PROXY).",
        ),
        click.option("--site", help="Only this site."),
        click.option("--vo", help="Only this virtual organisation."),
        click.option("--month", type=_Month(), help="Only this month, such as 2026-11."),
        json_option,
    )
    for option in reversed(options):
        command = option(command)
    return command


def _client(url: str, certificates: Path, proxy: Path | None) -> AccountingClient:
    return AccountingClient(outbound(certificates, proxy if proxy is not None and proxy.exists() else None), url)


@click.group()
def accounting() -> None:
    """Usage of virtual machines, by month, site and virtual organisation.

    \b
    skyfed accounting summary --vo demo.skyfed --month 2026-11
    skyfed accounting summary --mine
    skyfed accounting records
    skyfed accounting status --node DIR        what waits to be sent (site), what came in (federation)
    """


@accounting.command()
@_wire
@click.option("--mine", is_flag=True, help="Only your own usage, by name; needs a proxy.")
@click.option("--users", is_flag=True, help="By person, as far as you may see.")
def summary(
    url: str, certificates: Path, proxy: Path | None, site: str | None, vo: str | None, month: str | None,
    as_json: bool, mine: bool, users: bool,
) -> None:  # fmt: skip
    """Monthly usage. Without --mine or --users it is added up over persons and open to everybody."""
    client = _client(url, certificates, proxy)
    found = client.summaries(site=site, vo=vo, month=month, user="me" if mine else None, users=users)
    _print(list(found), as_json=as_json, human=lambda rows: _summary_table(rows, names=mine or users))


@accounting.command()
@_wire
@click.option("--vm", help="Only the machine with this identifier.")
@click.option("--all", "everyone", is_flag=True, help="Not only your own, as far as you may see.")
@click.option("--history", is_flag=True, help="Also records that later ones replaced.")
def records(
    url: str, certificates: Path, proxy: Path | None, site: str | None, vo: str | None, month: str | None,
    as_json: bool, vm: str | None, everyone: bool, history: bool,
) -> None:  # fmt: skip
    """Usage records of your machines, newest first; needs a proxy."""
    client = _client(url, certificates, proxy)
    user = None if everyone else "me"
    found = client.records(site=site, vo=vo, month=month, vm=vm, user=user, history=history)
    _print(list(found), as_json=as_json, human=_record_table)


# -- administration ---------------------------------------------------------------------------------------------


def _admin(node: Path) -> AdminClient:
    return admin_client(node, "accounting")


@accounting.command()
@node_option
@json_option
def status(node: Path, as_json: bool) -> None:
    """What waits to be sent and what was refused (a site), or what came in (the repository)."""
    emit(_admin(node).json("GET", "/status"), as_json=as_json, human=_status_text)


@accounting.command()
@node_option
@json_option
def dead(node: Path, as_json: bool) -> None:
    """Messages that the repository refused for good, and why."""
    emit(_admin(node).json("GET", "/dead"), as_json=as_json, human=_dead_table)


@accounting.command()
@node_option
@click.argument("message", type=int)
def retry(node: Path, message: int) -> None:
    """Send a refused MESSAGE (its number as `dead` shows it) again."""
    _admin(node).json("POST", f"/dead/{message}/retry")
    click.echo(f"message {message} is in line again")


@accounting.command()
@node_option
@click.option("--month", type=_Month(), required=True, help="Which month, such as 2026-11.")
@json_option
def republish(node: Path, month: str, as_json: bool) -> None:
    """Send every record of a month again, made anew from the journal. The repository keeps what it already has."""
    found = _admin(node).json("POST", "/republish", {"month": month}, deadline=600.0)
    emit(found, as_json=as_json, human=lambda value: f"{plural(value['records'], 'record')} of {month} on the way")


@accounting.command()
@node_option
@click.option("--verdict", type=click.Choice(["accepted", "rejected"]), help="Only these.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many, newest first.")
@json_option
def messages(node: Path, verdict: str | None, limit: int, as_json: bool) -> None:
    """The repository's ledger: which messages came, from whom, and what became of them."""
    query = f"?limit={limit}" + (f"&verdict={verdict}" if verdict else "")
    emit(_admin(node).json("GET", f"/messages{query}")["results"], as_json=as_json, human=_ledger_table)


@accounting.command()
@node_option
@click.argument("message", type=int)
@json_option
def reload(node: Path, message: int, as_json: bool) -> None:
    """Judge a rejected MESSAGE of the repository again, after its cause was mended."""
    found = _admin(node).json("POST", f"/messages/{message}/reload", deadline=600.0)
    emit(found, as_json=as_json, human=lambda value: f"accepted: {plural(value['stored'], 'record')} new or changed")


@accounting.command()
@node_option
@json_option
def recompute(node: Path, as_json: bool) -> None:
    """Make all summaries of the repository anew from its records."""
    found = _admin(node).json("POST", "/recompute", deadline=3600.0)
    emit(found, as_json=as_json, human=lambda value: f"{plural(value['summaries'], 'summary', 'summaries')} made anew")


@accounting.command()
@node_option
@click.argument("name")
@click.confirmation_option(prompt="This cannot be undone. Forget this name?")
@json_option
def forget(node: Path, name: str, as_json: bool) -> None:
    """Replace a person's NAME (a DN, as records show it) by a pseudonym, for good; the sums stay."""
    found = _admin(node).json("POST", "/forget", {"name": name})
    emit(found, as_json=as_json, human=lambda value: f"now known as {value['pseudonym']}")


# -- for people -------------------------------------------------------------------------------------------------


def _print(rows: list[T], *, as_json: bool, human: Callable[[list[T]], str]) -> None:
    """Rows as a table, or as JSON in which decimals are numbers."""
    if as_json:
        emit(msgspec.json.decode(msgspec.json.Encoder(decimal_format="number").encode(rows)), as_json=True)
    else:
        emit(rows, as_json=False, human=human)


def _duration(seconds: int | None) -> str:
    return "–" if seconds is None else duration(seconds)


def _summary_table(rows: Iterable[CloudSummary], *, names: bool) -> str:
    headers = [
        "MONTH",
        "SITE",
        "VO",
        "STATUS",
        "VMS",
        "CORES",
        "WALL",
        "CPU",
        *(["USER"] if names else []),
        "IMAGE",
    ]
    cells = [
        [
            f"{row.year:04d}-{row.month:02d}", row.site_name, row.vo, row.status, row.number_of_vms, f"{row.cpu_count:g}",
            _duration(row.wall_duration), _duration(row.cpu_duration), *([row.global_user_name] if names else []), row.image_id,
        ]
        for row in rows
    ]  # fmt: skip
    return table([_shown(row) for row in cells], headers) if cells else "no usage"


def _record_table(rows: Iterable[JournalRecord]) -> str:
    headers = ["MACHINE", "SITE", "STATUS", "START", "END", "WALL", "CPU", "RECEIVED"]
    cells = [
        [
            item.record.vm_uuid, item.record.site_name, item.record.status or "–", _when(item.record.start_time),
            _when(item.record.end_time), _duration(item.record.wall_duration), _duration(item.record.cpu_duration),
            _when(item.received) + ("" if item.current else " (replaced)"),
        ]
        for item in rows
    ]  # fmt: skip
    return table([_shown(row) for row in cells], headers) if cells else "no records"


def _shown(row: Iterable[object]) -> list[str]:
    """What users typed elsewhere, safe for a terminal."""
    return [one_line(str(cell), 80) for cell in row]


def _when(instant: int | None) -> str:
    return "–" if instant is None else iso(from_epoch(instant))


def _status_text(value: Any) -> str:
    if value["role"] == "repository":
        counts = value["repository"]
        held = f"{plural(counts['records'], 'record')}, {plural(counts['summaries'], 'summary', 'summaries')}"
        came = f"{counts['accepted']} accepted, {counts['rejected']} rejected"
        again = f"{counts['reloadable']} can be judged again (skyfed accounting reload)"
        return f"repository: {held}\nmessages: {came}, {again}\nlast accepted: {_when(counts['last_accepted'])}"
    sender = value["sender"]
    lines = [
        f"sender to {value['repository']}: {plural(sender['waiting'], 'message')} waiting, {sender['dead']} refused for good",
        f"journal read up to event {sender['cursor']}, {plural(sender['machines'], 'machine')} followed",
    ]
    if sender["last_error"]:
        lines.append(f"held up by: {one_line(sender['last_error'])}")
    if sender["dead"]:
        lines.append("see `skyfed accounting dead`, and `retry` after mending the cause")
    return "\n".join(lines)


def _dead_table(rows: Any) -> str:
    cells = [[row["id"], row["attempts"], row["size"], one_line(row["error"], 200)] for row in rows]
    return table(cells, ["MESSAGE", "TRIES", "BYTES", "WHY"]) if cells else "no message was refused"


def _ledger_table(rows: Any) -> str:
    cells = [
        [row["id"], _when(row["received"]), row["verdict"], f"{row['stored']}/{row['records']}", one_line(row["signer"], 80),
         one_line(row["error"], 160)]
        for row in rows
    ]  # fmt: skip
    return table(cells, ["MESSAGE", "RECEIVED", "VERDICT", "NEW", "SIGNER", "WHY"]) if cells else "no messages"
