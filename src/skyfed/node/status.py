"""What `skyfed status` shows: each process as its supervisor notes it, each service as it says itself."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from skyfed.core.errors import NotFound, SkyfedError
from skyfed.core.http import admin_client
from skyfed.core.text import one_line
from skyfed.node.config import FILE_NAME, Node
from skyfed.node.supervisor import ProcessState, read_states

ANSWER_SECONDS = 5.0


class TaskLine(msgspec.Struct, frozen=True, kw_only=True):
    """A background task of a service."""

    name: str
    state: str
    since: datetime
    last_success: datetime | None = None
    last_error: str = ""
    last_error_at: datetime | None = None
    failures: int = 0
    progress: str = ""


class ServiceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One service of one node. `health` is `ok`, `degraded` (it says what is wrong) or `down` (it does not answer)."""

    node: str
    process: str
    service: str
    health: str
    detail: str = ""
    address: str = ""
    since: str = ""
    last_error: str = ""
    restarts: int = 0
    tasks: tuple[TaskLine, ...] = ()


def find_nodes(directory: Path | None, node: Path | None) -> list[Node]:
    """The node in `node`, or every node of the federation in `directory`. Raises NotFound where there is none."""
    if node is not None:
        return [Node.load(node)]
    if directory is None:
        raise NotFound("which node? give --node DIR or --dir FEDERATION, or set SKYFED_NODE or SKYFED_DIR")
    found = sorted(path.parent for path in (directory / "nodes").glob(f"*/{FILE_NAME}"))
    if not found:
        raise NotFound(f"there is no node below {directory}/nodes; ./up lays a federation out")
    return [Node.load(path) for path in found]


def node_status(node: Node) -> Iterator[ServiceStatus]:
    """Every service of the node."""
    states = {state.process: state for state in read_states(node)}
    for process, service in node.placed():
        yield _ask(node, service, states[process])


def _ask(node: Node, service: str, state: ProcessState) -> ServiceStatus:
    listen = node.service(service).listen
    base = ServiceStatus(
        node=node.name,
        process=state.process,
        service=service,
        health="down",
        address=listen.public_url if listen else "",
        since=state.since,
        restarts=state.restarts,
        last_error=state.last_exit,
    )
    try:
        answer: Mapping[str, Any] = admin_client(node.directory, service).json(
            "GET", "/status", deadline=ANSWER_SECONDS
        )
        tasks = msgspec.convert(answer.get("tasks", ()), tuple[TaskLine, ...])
    except (SkyfedError, msgspec.ValidationError) as error:
        return msgspec.structs.replace(base, detail=one_line(str(error)))
    failing = [task for task in tasks if task.failures]
    ok = bool(answer.get("ok")) and not failing
    detail = str(answer.get("detail", ""))
    if failing:
        detail = "; ".join(filter(None, (detail, *(f"{task.name}: {task.last_error}" for task in failing))))
    latest = max((t for t in tasks if t.last_error_at), key=lambda t: t.last_error_at or t.since, default=None)
    return msgspec.structs.replace(
        base,
        health="ok" if ok else "degraded",
        detail=one_line(detail),
        since=str(answer.get("since", state.since)),
        last_error=one_line(f"{latest.name}: {latest.last_error}") if latest else state.last_exit,
        tasks=tasks,
    )
