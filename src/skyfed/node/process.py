"""One process of a node: assembles its services, opens their listeners, says that it is ready, drains when told to stop.

`python -m skyfed.node.process NODE-DIRECTORY PROCESS`; started by the node's supervisor.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from skyfed import __version__
from skyfed.compute.engines.attendant import attend
from skyfed.core import children
from skyfed.core import log as logs
from skyfed.core.clock import Clock, SystemClock
from skyfed.core.errors import SkyfedError
from skyfed.core.http import AddressPolicy, Client
from skyfed.core.tasks import Supervisor
from skyfed.identity.bans import FileBans
from skyfed.identity.judge import Judge
from skyfed.identity.vomsdir import Vomsdir
from skyfed.node.config import Node
from skyfed.node.services import assemble, kind_of
from skyfed.node.supervisor import PARENT, READY_FD
from skyfed.pki.tls import ClientTls, ServerTls
from skyfed.pki.trust import TrustStore
from skyfed.web.front import serve_admin, serve_public
from skyfed.web.runtime import HostCredential, Listener, Runtime

log = logging.getLogger(__name__)

DRAIN_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all services of a process share."""

    clock: Clock
    trust: TrustStore
    vomsdir: Path
    judge: Judge
    host: HostCredential
    http: Client
    tls: ServerTls


def surroundings(node: Node, clock: Clock) -> Surroundings:
    """Trust, the judge, the host credential and the outbound client of `node`. Raises Invalid."""
    config = node.config
    host = HostCredential(node.path(config.host.cert), node.path(config.host.key))
    trust = TrustStore(node.path(config.trust.certificates), clock, config.trust.rules)
    vomsdir = node.path(config.trust.vomsdir)
    bans = FileBans(node.path(config.trust.bans), clock)
    judge = Judge(trust, Vomsdir(vomsdir, clock), [bans], clock, config.trust.judge)
    outbound = ClientTls(trust, clock, cert=host.cert, key=host.key, system_roots=True)
    http = Client(
        ssl_context=outbound.current,
        policy=AddressPolicy(allow=config.outbound.allow),
        user_agent=f"skyfed/{__version__} ({node.name})",
    )
    return Surroundings(clock, trust, vomsdir, judge, host, http, ServerTls(trust, host.cert, host.key, clock))


async def serve(node: Node, process: str, *, ready: Callable[[], None], stop: asyncio.Event) -> None:
    """Run the services of `process` until `stop` is set. `ready` is called when all of them answer."""
    around = surroundings(node, SystemClock())
    async with AsyncExitStack() as stack:
        compute: object | None = None
        for service in node.config.processes[process]:
            log.info("starting %s", service)
            found = await _start(node, service, around, compute, stack)
            compute = compute or found
        ready()
        log.info("ready")
        await stop.wait()
        log.info("stopping")


async def _start(
    node: Node, service: str, around: Surroundings, compute: object | None, stack: AsyncExitStack
) -> object | None:
    """Wire and start one service; what must be undone goes on `stack`. Returns what other services may stand on."""
    runtime = _runtime(node, service, around, compute)
    runtime.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    assembly = assemble(node, service, runtime)
    # Pushed first, undone last: listeners close before the service stops, tasks end in between.
    stack.push_async_callback(assembly.stop)
    stack.push_async_callback(runtime.tasks.stop)
    await assembly.start()
    if kind_of(service).listens == "https" and runtime.listener is not None and assembly.app is not None:
        public, port = await serve_public(assembly, runtime, around.tls.context)
        stack.push_async_callback(public.stop, DRAIN_SECONDS)
        log.info("%s listens on port %d as %s", service, port, runtime.listener.public_url)
    admin = await serve_admin(assembly, runtime)
    stack.push_async_callback(admin.stop, DRAIN_SECONDS)
    return assembly.offers


def _runtime(node: Node, service: str, around: Surroundings, compute: object | None) -> Runtime:
    listen = node.service(service).listen
    return Runtime(
        node=node.name,
        role=node.config.node.role,
        site=node.config.node.site,
        service=service,
        data=node.data(service),
        run=node.run,
        listener=Listener(listen.host, listen.port, listen.public_url) if listen else None,
        clock=around.clock,
        tasks=Supervisor(around.clock),
        trust=around.trust,
        vomsdir=around.vomsdir,
        judge=around.judge,
        host=around.host,
        http=around.http,
        compute=compute,
        fronts=frozenset(node.config.front.subjects),
    )


async def _main(directory: Path, process: str) -> None:
    node = Node.load(directory)
    logs.configure(level=node.config.log.level, node=node.name, process=process)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sig in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sig, stop.set)
    await serve(node, process, ready=_say_ready, stop=stop)


def _say_ready() -> None:
    """Tell the supervisor, where there is one: it gave us a pipe."""
    fd = os.environ.pop(READY_FD, "")
    if fd:
        with os.fdopen(int(fd), "wb") as pipe:
            pipe.write(b"ready\n")


def main() -> None:
    """Exit code 0 when stopped, 1 when it could not start; the reason is the log's last line."""
    parent = os.environ.pop(PARENT, "")
    if parent:
        children.die_with_parent()
        children.exit_if_orphaned(int(parent))
    directory, process = Path(sys.argv[1]), sys.argv[2]
    try:
        if "engine" in Node.load(directory).config.processes.get(process, ()):
            attend()  # before any thread: this goes on in a child whose attendant reaps ended QEMUs at once
            # Not uvloop: libuv's fork handler closes a descriptor that libvirt needs between fork and exec of QEMU.
            asyncio.run(_main(directory, process))
        else:
            import uvloop

            uvloop.run(_main(directory, process))
    except SkyfedError as error:
        log.error("cannot go on: %s", error.message)
        sys.exit(1)


if __name__ == "__main__":
    main()
