"""Runs nodes in this process's foreground: starts them, keeps them running, stops them in order when told to."""

import asyncio
import signal
from collections.abc import Callable, Sequence

from skyfed.node.config import Node
from skyfed.node.supervisor import NodeSupervisor


async def run(
    nodes: Sequence[Node],
    *,
    on_ready: Callable[[], object],
    progress: Callable[[str], None] = lambda _text: None,
) -> None:
    """Until SIGINT or SIGTERM. `on_ready` is called once, in a thread, when every process is ready; its exception ends the run.

    Raises Unavailable when a process does not become ready. No process is left behind, whatever happens.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sig in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(sig, stop.set)
    supervisors = [NodeSupervisor(node) for node in nodes]
    stopping = asyncio.create_task(stop.wait())
    working = asyncio.create_task(_start(supervisors, progress, on_ready))
    try:
        await asyncio.wait({stopping, working}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
            await stopping
    finally:
        working.cancel()
        stopping.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)
        await asyncio.gather(*(supervisor.stop() for supervisor in supervisors))


async def _start(
    supervisors: Sequence[NodeSupervisor], progress: Callable[[str], None], on_ready: Callable[[], object]
) -> None:
    await asyncio.gather(*(supervisor.start(progress) for supervisor in supervisors))
    await asyncio.to_thread(on_ready)
