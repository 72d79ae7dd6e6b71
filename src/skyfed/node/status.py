"""What `skyfed status` shows: each process as its supervisor notes it, each service as it says itself."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec

from skyfed.core.errors import NotFound, SkyfedError, Unavailable
from skyfed.core.http import AdminClient, admin_client
from skyfed.core.text import one_line
from skyfed.node.config import ASIDE, FILE_NAME, Node
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
    """The node in `node`, or every node of the federation in `directory` (default: ./run). Raises NotFound."""
    if node is not None:
        return [Node.load(node)]
    directory = directory or Path("run")
    laid_out = (path.parent for path in (directory / "nodes").glob(f"*/{FILE_NAME}"))
    found = sorted(path for path in laid_out if ASIDE not in path.name)
    if not found:
        raise NotFound(f"there is no node below {directory}/nodes; give --node DIR or --dir FEDERATION")
    return [Node.load(path) for path in found]


def node_status(node: Node) -> Iterator[ServiceStatus]:
    """Every service of the node."""
    states = {state.process: state for state in read_states(node)}
    for process, service in node.placed():
        yield _ask(node, service, states[process])


class _Health(msgspec.Struct, frozen=True):
    ok: bool
    detail: str = ""


def _health(admin: AdminClient) -> _Health:
    """What the service says of itself; its 503 is an answer too."""
    try:
        return msgspec.convert(admin.json("GET", "/health", deadline=ANSWER_SECONDS), _Health)
    except Unavailable as error:
        if error.code in ("service_down", "unreachable"):
            raise
        return _Health(False, error.message)


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
        admin = admin_client(node.directory, service)
        health = _health(admin)
        tasks = msgspec.convert(admin.json("GET", "/tasks", deadline=ANSWER_SECONDS), tuple[TaskLine, ...])
    except (SkyfedError, msgspec.ValidationError) as error:
        return msgspec.structs.replace(base, detail=one_line(str(error)))
    failing = [task for task in tasks if task.state == "failed"]
    ok = health.ok and not failing
    detail = health.detail
    if failing:
        detail = "; ".join(filter(None, (detail, *(f"{task.name}: {task.last_error}" for task in failing))))
    latest = max((t for t in tasks if t.last_error_at), key=lambda t: t.last_error_at or t.since, default=None)
    return msgspec.structs.replace(
        base,
        health="ok" if ok else "degraded",
        detail=one_line(detail),
        last_error=one_line(f"{latest.name}: {latest.last_error}") if latest else state.last_exit,
        tasks=tasks,
    )
