"""The engine host: the process that owns an engine and serves the contract on a unix socket.

A crash in the hypervisor's library, or its slow first start, harms no other service; guests survive this process.
`python -m skyfed.compute.engines.host --root DIR --socket PATH` runs one with the libvirt engine.
"""

import argparse
import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import socket
import struct
from collections.abc import Coroutine
from pathlib import Path
from typing import IO

import msgspec

from skyfed.compute.contract import Engine, engine_error, error_code
from skyfed.compute.engines import wire
from skyfed.compute.engines.attendant import attend
from skyfed.core import log as logs
from skyfed.core.errors import Conflict, SkyfedError
from skyfed.web.sockets import unix

log = logging.getLogger(__name__)

_AT_ONCE = 256
"""Calls of one client under way; the next are read when one of them has ended."""
_CLIENTS = 32


class EngineHost:
    """Serves one engine to processes of the same user."""

    def __init__(self, engine: Engine, root: Path, path: Path) -> None:
        self._engine = engine
        self._root = root
        self._path = path
        self._lock: IO[bytes] | None = None
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listens. Raises Conflict (`engine_host_runs`) where another host has this root, or the socket is taken."""
        self._lock = await asyncio.to_thread(take_root, self._root)
        listening = await asyncio.to_thread(unix, self._path)
        self._server = await asyncio.start_unix_server(self._accept, sock=listening)
        log.info("the engine host serves %s", self._path)

    async def stop(self) -> None:
        """Stops serving and lets go of the engine; guests keep running."""
        if self._server is not None:
            self._server.close()
        for client in tuple(self._clients):
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        await self._engine.close()
        if self._lock is not None:
            self._path.unlink(missing_ok=True)
            self._lock.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._clients) >= _CLIENTS or not _same_user(writer):
            log.warning("a client was turned away")
            writer.close()
            return
        self._clients.add(task)
        try:
            await _Client(self._engine, reader, writer).serve()
        except (ConnectionError, asyncio.IncompleteReadError):
            log.debug("a client has gone")
        except SkyfedError as broken:
            log.warning("a client was dropped: %s", broken.message)
        finally:
            self._clients.discard(task)
            writer.close()


class _Client:
    """One connection: calls run side by side, answers go back as they come."""

    def __init__(self, engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._engine = engine
        self._reader = reader
        self._writer = writer
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._calls: set[asyncio.Task[None]] = set()
        self._stream: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        try:
            while True:
                header = await self._reader.readexactly(wire.HEADER)
                request = wire.request(await self._reader.readexactly(wire.length(header)))
                if request.call == wire.EVENTS:
                    self._stream = self._stream or self._start(self._send_events())
                    continue
                await self._room.acquire()
                self._start(self._answer(request))
        finally:
            # Work under way goes on: the next look-up tells how it ended. Only the stream has no more reader.
            if self._stream is not None:
                self._stream.cancel()

    def _start(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        return task

    async def _answer(self, request: wire.Request) -> None:
        try:
            reply: wire.FromHost = wire.Answer(request.number, await self._run(request))
        except Exception as error:  # noqa: BLE001  (whatever an engine lets out becomes an answer of the closed set)
            reply = _refusal(request, error)
        try:
            await self._send(reply)
        finally:
            self._room.release()

    async def _run(self, request: wire.Request) -> msgspec.Raw:
        call = wire.CALLS.get(request.call)
        if call is None:
            raise engine_error("not_implemented", f"the engine host knows no call '{request.call[:40]}'")
        arguments = wire.unpacked(request.arguments, call.arguments)
        return wire.packed(await getattr(self._engine, request.call)(*arguments))

    async def _send_events(self) -> None:
        async for event in self._engine.events():
            await self._send(wire.Event(event))

    async def _send(self, message: wire.FromHost) -> None:
        if self._writer.is_closing():
            return
        self._writer.write(wire.frame(message))
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()


def _refusal(request: wire.Request, error: Exception) -> wire.Refusal:
    code = error_code(error)
    if isinstance(error, SkyfedError):
        return wire.Refusal(request.number, code, error.message)
    # What nobody foresaw goes to the log in full, and to the client without its words.
    log.error("call %s failed", request.call, exc_info=error)
    return wire.Refusal(request.number, code, f"the engine failed in '{request.call}'; its log says why")


def take_root(root: Path) -> IO[bytes]:
    """The lock on an engine's folder, held while the file is open. Raises Conflict (`engine_host_runs`)."""
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = (root / "host.lock").open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise Conflict(f"another engine host runs on {root}; stop it first", code="engine_host_runs") from None
    return file


def _same_user(writer: asyncio.StreamWriter) -> bool:
    """The socket's mode says so already; its peer's credentials say it again."""
    peer = writer.get_extra_info("socket")
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    user = struct.unpack("3i", credentials)[1]
    return user in (0, os.geteuid())


async def _serve(host: EngineHost) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await host.start()
    await stop.wait()
    await host.stop()


def main() -> None:
    """The program. Ends with status 1 where another host has the root or the socket."""
    from skyfed.compute.engines.libvirt import open_engine
    from skyfed.compute.engines.libvirt.settings import Settings

    parser = argparse.ArgumentParser(description="Runs the libvirt engine and serves it on a unix socket.")
    parser.add_argument("--root", type=Path, required=True, help="folder of the engine")
    parser.add_argument("--socket", type=Path, required=True, help="where to listen")
    parser.add_argument("--probe-image", type=Path, help="guest to try KVM with")
    options = parser.parse_args()
    attend()
    logs.configure(json_lines=False)
    engine = open_engine(Settings(root=options.root, probe_image=options.probe_image))
    try:
        asyncio.run(_serve(EngineHost(engine, options.root, options.socket)))
    except SkyfedError as error:
        log.error("cannot go on: %s", error.message)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
