"""`skyfed status | config | node | backup | restore`: what an administrator does with a node."""

from collections import Counter
from pathlib import Path

import click
import msgspec
from click.core import ParameterSource

from skyfed.core import terminal
from skyfed.core.settings import Explained, explain
from skyfed.core.terminal import emit, json_option, node_option, table
from skyfed.node.config import Node
from skyfed.node.status import ServiceStatus, find_nodes, node_status

dir_option = click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path),
    envvar="SKYFED_DIR",
    help="Directory of a whole federation (default $SKYFED_DIR, else ./run).",
)
optional_node_option = click.option(
    "--node", "node", type=click.Path(path_type=Path), envvar="SKYFED_NODE", help="Directory of one node."
)


@click.command()
@dir_option
@optional_node_option
@json_option
@click.pass_context
def status(context: click.Context, directory: Path | None, node: Path | None, as_json: bool) -> None:
    """Every service of every node: health, address, since when, last error.

    Exit code 0 when all are well, 1 otherwise.
    """
    # What is typed counts; of what `skyfed env` sets, a federation's directory says more than one node of it.
    typed = context.get_parameter_source("node") is ParameterSource.COMMANDLINE
    nodes = find_nodes(directory, node if typed or directory is None else None)
    services = [service for one in nodes for service in node_status(one)]
    emit(services, as_json=as_json, human=_status_text)
    if any(service.health != "ok" for service in services):
        raise SystemExit(1)


def _status_text(services: list[ServiceStatus]) -> str:
    rows = [
        (
            s.node,
            s.service,
            s.process,
            _mark(s.health),
            s.address or "-",
            s.since or "-",
            s.restarts,
            s.last_error or "-",
        )
        for s in services
    ]
    lines = [table(rows, ("NODE", "SERVICE", "PROCESS", "HEALTH", "ADDRESS", "SINCE", "RESTARTS", "LAST ERROR"))]
    lines += [f"{s.node}/{s.service}: {s.detail}" for s in services if s.health != "ok" and s.detail]
    lines += [f"{s.node}/{s.service}: {t.name}: {t.progress}" for s in services for t in s.tasks if t.progress]
    counts = Counter(s.health for s in services)
    lines.append(", ".join(f"{count} {health}" for health, count in counts.items()))
    return "\n".join(lines)


def _mark(health: str) -> str:
    return {"ok": "ok", "degraded": "DEGRADED", "down": "DOWN"}[health]


@click.group()
def config() -> None:
    """The settings of a node."""


@config.command("show")
@node_option
@click.option("--service", help="Only this service.")
@json_option
def config_show(node: Path, service: str | None, as_json: bool) -> None:
    """Every setting with its value, default and meaning."""
    from skyfed.node.services import settings_of

    loaded = Node.load(node)
    lines: list[Explained] = []
    if service is None:
        for section in ("node", "trust", "host", "front", "outbound", "log"):
            lines += explain(getattr(loaded.config, section), prefix=f"{section}.")
    for name in [service] if service else loaded.config.services:
        listen = loaded.service(name).listen
        if listen is not None:
            lines += explain(listen, prefix=f"services.{name}.listen.")
        lines += explain(settings_of(loaded, name), prefix=f"services.{name}.settings.")
    emit(lines, as_json=as_json, human=_settings_text)


def _settings_text(lines: list[Explained]) -> str:
    return "\n".join(
        f"{terminal.bold(line.key)} = {_value(line.value)}"
        f"{'' if line.value == line.default else f'   (default: {_value(line.default)})'}"
        f"\n    {line.description or line.type}"
        for line in lines
    )


def _value(value: object) -> str:
    """As JSON, which reads like TOML; tables without what they leave at its default."""
    if value in ("", None):
        return "none"
    return msgspec.json.encode(_without_defaults(value), enc_hook=str).decode()


def _without_defaults(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_defaults(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [_without_defaults(one) for one in value]
    if isinstance(value, msgspec.Struct):
        return {
            field.encode_name: _without_defaults(getattr(value, field.name))
            for field in msgspec.structs.fields(value)
            if field.required or getattr(value, field.name) != field.default
        }
    return value


@click.group()
def node() -> None:
    """One node: a TOML file, its processes and services."""


@node.command("run")
@node_option
def node_run(node: Path) -> None:
    """Run the node in the foreground until Ctrl-C or SIGTERM; processes that fail are started again."""
    import asyncio

    from skyfed.node.foreground import run

    asyncio.run(run([Node.load(node)], on_ready=lambda: click.echo(f"node {node} is ready", err=True)))


@click.command()
@node_option
@click.argument("archive", type=click.Path(path_type=Path))
@click.option("--without-disks", is_flag=True, help="Leave out the machines' disks and images.")
@json_option
def backup(node: Path, archive: Path, without_disks: bool, as_json: bool) -> None:
    """Save the node's directory to ARCHIVE (.tar.gz) while it runs.

    Databases are consistent snapshots. A running machine stands still while its disk is copied: the copy is what a power
    cut would leave.
    """
    from skyfed.node.backup import backup as save

    with terminal.Progress(f"backup of {node}", quiet=as_json) as progress:
        manifest = save(Node.load(node), archive, progress.step, disks=not without_disks)
    size = archive.stat().st_size
    emit(
        manifest,
        as_json=as_json,
        human=lambda m: (
            f"{archive}: {size / 1e6:.1f} MB, {len(m.databases)} databases; left out: {', '.join(m.left_out)}"
        ),
    )


@click.command()
@click.argument("archive", type=click.Path(path_type=Path))
@node_option
@json_option
def restore(archive: Path, node: Path, as_json: bool) -> None:
    """Put ARCHIVE back into --node DIR. The node must not run. Nothing is changed unless all of it is good.

    Disks of machines and logs that are in DIR stay.
    """
    from skyfed.node.backup import restore as put_back

    with terminal.Progress(f"restore of {archive}", quiet=as_json) as progress:
        manifest = put_back(archive, node, progress.step)
    emit(
        manifest,
        as_json=as_json,
        human=lambda m: f"node {m.node} is in {node}; start it with: skyfed node run --node {node}",
    )
