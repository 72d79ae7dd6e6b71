"""Starts a node's processes, waits until they are ready, restarts them with back-off, stops them."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from skyfed.core import backoff
from skyfed.core.clock import iso
from skyfed.core.errors import Unavailable
from skyfed.core.text import one_line
from skyfed.node.config import Node

log = logging.getLogger(__name__)

READY_SECONDS = 120.0
# A process that ends this often while its node starts has a lasting reason, such as a wrong setting.
START_ATTEMPTS = 3
STOP_SECONDS = 25.0
FIRST_RESTART_SECONDS = 0.2
LAST_RESTART_SECONDS = 30.0
# A process that has run this long was well: its next crash starts with the shortest pause again.
WELL_SECONDS = 60.0
READY_FD = "SKYFED_READY_FD"
PARENT = "SKYFED_PARENT"


class ProcessState(msgspec.Struct, frozen=True, kw_only=True):
    """How a supervised process stands, as `run/<process>.json` keeps it for `skyfed status`."""

    process: str
    state: str  # starting | running | restarting | stopped
    pid: int = 0
    since: str = ""
    restarts: int = 0
    last_exit: str = ""


class Supervised:
    """One process of one node, kept running."""

    def __init__(self, node: Node, process: str) -> None:
        self.node = node
        self.process = process
        self.ready = asyncio.Event()
        self.state = ProcessState(process=process, state="stopped")
        self._child: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._hopeless = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def log_file(self) -> Path:
        """Where the process logs."""
        return self.node.log / f"{self.process}.log"

    def start(self) -> None:
        """Begin keeping it running."""
        self._task = asyncio.create_task(self._keep(), name=f"{self.node.name}/{self.process}")

    async def first_ready(self, seconds: float) -> bool:
        """Whether it becomes ready within `seconds`; given up at once when it has failed START_ATTEMPTS times."""
        waits = [asyncio.create_task(event.wait()) for event in (self.ready, self._hopeless)]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        return self.ready.is_set()

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL after STOP_SECONDS; returns when it is gone."""
        self._stopping.set()
        if self._child is not None and self._child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._child.terminate()
            try:
                await asyncio.wait_for(self._child.wait(), STOP_SECONDS)
            except TimeoutError:
                log.warning("%s/%s did not stop within %.0f s: killed", self.node.name, self.process, STOP_SECONDS)
                self._child.kill()
                await self._child.wait()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._note(state="stopped", pid=0)

    async def _keep(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            exit_text = await self._run_once()
            if self._stopping.is_set():
                return
            failures = 0 if time.monotonic() - began > WELL_SECONDS else failures + 1
            pause = backoff.pause(failures, first=FIRST_RESTART_SECONDS, last=LAST_RESTART_SECONDS)
            log.warning("%s/%s ended (%s); again in %.1f s", self.node.name, self.process, exit_text, pause)
            if failures >= START_ATTEMPTS:
                self._hopeless.set()
            self._note(state="restarting", pid=0, restarts=self.state.restarts + 1, last_exit=exit_text)
            await asyncio.sleep(pause)

    async def _run_once(self) -> str:
        """Start the process, wait for its end; returns how it ended."""
        self.ready.clear()
        reader, writer = os.pipe()
        try:
            with self.log_file.open("ab") as output:
                self._child = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "skyfed.node.process",
                    str(self.node.directory),
                    self.process,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(writer,),
                    env={**os.environ, READY_FD: str(writer), PARENT: str(os.getpid())},
                    start_new_session=True,  # Ctrl-C is for us: we stop the children in order
                )
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        self._note(state="starting", pid=self._child.pid)
        waiting = asyncio.create_task(self._await_ready(reader))
        code = await self._child.wait()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return _exit_text(code)

    async def _await_ready(self, reader: int) -> None:
        loop = asyncio.get_running_loop()
        stream = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(reader, "rb", buffering=0)
        )
        try:
            if await stream.readline():
                self.ready.set()
                self._note(state="running")
        finally:
            transport.close()

    def _note(self, **changes: object) -> None:
        self.state = msgspec.structs.replace(self.state, since=iso(datetime.now(UTC)), **changes)
        path = self.node.run / f"{self.process}.json"
        partial = path.with_suffix(".json.part")
        partial.write_bytes(msgspec.json.encode(self.state))
        partial.replace(path)


class NodeSupervisor:
    """All processes of one node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.processes = [Supervised(node, name) for name in node.config.processes]

    async def start(self, progress: Callable[[str], None] = lambda _text: None) -> None:
        """Start everything in the order of the file and wait until each is ready.

        Raises Unavailable naming the process and its log when one is not ready within READY_SECONDS.
        """
        for folder in (self.node.run, self.node.log, self.node.directory / "data"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for process in self.processes:
            process.start()
        for process in self.processes:
            progress(f"{self.node.name}/{process.process}")
            if not await process.first_ready(READY_SECONDS):
                raise Unavailable(
                    f"process {process.process} of node {self.node.name} does not become ready"
                    f" ({process.state.last_exit or process.state.state}); its log: {process.log_file};"
                    f" last line: {_last_line(process.log_file)}",
                    code="not_ready",
                )

    async def stop(self) -> None:
        """Stop everything, last started first."""
        for process in reversed(self.processes):
            await process.stop()


def read_states(node: Node) -> list[ProcessState]:
    """What the supervisor last noted of each process; `stopped` where it never noted anything."""
    states = []
    for name in node.config.processes:
        try:
            states.append(msgspec.json.decode((node.run / f"{name}.json").read_bytes(), type=ProcessState))
        except (OSError, msgspec.DecodeError):
            states.append(ProcessState(process=name, state="stopped"))
    return states


def _exit_text(code: int) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"


def _last_line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return "none"
    return one_line(lines[-1], 400) if lines else "none"
