"""The engine contract over the engine host's unix socket."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from skyfed.compute.contract import (
    DEADLINES,
    Capabilities,
    EngineEvent,
    EngineHealth,
    EngineVm,
    EventKind,
    VmCounters,
    VmSpec,
    engine_error,
)
from skyfed.compute.engines import wire
from skyfed.compute.engines.broadcast import Broadcast
from skyfed.compute.model import DiskFormat, RestartMethod, StopMethod
from skyfed.core.clock import Clock, SystemClock
from skyfed.core.errors import SkyfedError
from skyfed.core.unixpath import short

log = logging.getLogger(__name__)

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0


class RemoteEngine:
    """Speaks to the host at `path`. `start`-less: it connects with the first call, and again by itself.

    While the host is down calls raise Unavailable (`engine_down`); a call whose answer is lost with the connection
    raises it too, and may have been done.
    """

    def __init__(self, path: Path, *, clock: Clock | None = None, deadlines: Mapping[str, float] = DEADLINES) -> None:
        self._path = path
        self._deadlines = deadlines
        self._clock = clock or SystemClock()
        self._events = Broadcast(self._clock)
        self._link: _Link | None = None
        self._connecting = asyncio.Lock()
        self._watcher: asyncio.Task[None] | None = None
        self._closed = False

    async def probe(self) -> EngineHealth:
        try:
            health: EngineHealth = await self._call("probe")
        except SkyfedError as sick:
            return EngineHealth(ok=False, engine="remote", version="", acceleration="none", detail=sick.message)
        return health

    async def capabilities(self) -> Capabilities:
        found: Capabilities = await self._call("capabilities")
        return found

    async def import_image(self, sha512: str, path: str, disk_format: DiskFormat) -> None:
        await self._call("import_image", sha512, path, disk_format)

    async def remove_image(self, sha512: str) -> None:
        await self._call("remove_image", sha512)

    async def images(self) -> frozenset[str]:
        found: frozenset[str] = await self._call("images")
        return found

    async def create(self, spec: VmSpec) -> EngineVm:
        return await self._vm("create", spec)

    async def start(self, id: str) -> EngineVm:
        return await self._vm("start", id)

    async def stop(self, id: str, method: StopMethod, grace: float) -> EngineVm:
        return await self._vm("stop", id, method, grace)

    async def restart(self, id: str, method: RestartMethod) -> EngineVm:
        return await self._vm("restart", id, method)

    async def delete(self, id: str) -> None:
        await self._call("delete", id)

    async def get(self, id: str) -> EngineVm:
        return await self._vm("get", id)

    async def list(self) -> tuple[EngineVm, ...]:
        found: tuple[EngineVm, ...] = await self._call("list")
        return found

    async def stats(self) -> tuple[VmCounters, ...]:
        found: tuple[VmCounters, ...] = await self._call("stats")
        return found

    async def console_log(self, id: str, tail_bytes: int) -> bytes:
        found: bytes = await self._call("console_log", id, tail_bytes)
        return found

    def events(self) -> AsyncIterator[EngineEvent]:
        return self._stream()

    async def close(self) -> None:
        self._closed = True
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        if self._link is not None:
            await self._link.close()
        self._events.close()

    async def _stream(self) -> AsyncIterator[EngineEvent]:
        if self._watcher is None and not self._closed:
            self._watcher = asyncio.get_running_loop().create_task(self._watch())
        async for event in self._events.stream():
            yield event

    async def _watch(self) -> None:
        """Keeps a connection that events come over; each new one begins with a RESYNC of the host."""
        pause = _FIRST_PAUSE
        while True:
            try:
                link = await self._connected()
                pause = _FIRST_PAUSE
                await link.ended.wait()
            except SkyfedError as down:
                log.info("no engine host at %s yet: %s", self._path, down.message)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _vm(self, call: str, *arguments: Any) -> EngineVm:
        vm: EngineVm = await self._call(call, *arguments)
        return vm

    async def _call(self, name: str, *arguments: Any) -> Any:
        seconds = self._deadlines[name]
        try:
            async with asyncio.timeout(seconds):
                link = await self._connected()
                raw = await link.ask(name, arguments)
        except TimeoutError:
            raise engine_error("timed_out", f"the engine did not answer '{name}' within {seconds:.0f} s") from None
        return wire.unpacked(raw, wire.CALLS[name].returns)

    async def _connected(self) -> "_Link":
        async with self._connecting:
            if self._closed:
                raise engine_error("engine_down", "the connection to the engine host is closed")
            if self._link is None or self._link.ended.is_set():
                self._link = await _Link.open(self._path, self._events)
            return self._link


class _Link:
    """One connection: numbers its requests and hands each answer to who waits for it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, events: Broadcast) -> None:
        self._reader = reader
        self._writer = writer
        self._events = events
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._number = 0
        self.ended = asyncio.Event()
        self._receiver = asyncio.get_running_loop().create_task(self._receive())

    @classmethod
    async def open(cls, path: Path, events: Broadcast) -> "_Link":
        """Raises Unavailable (`engine_down`)."""
        try:
            with short(path) as name:
                reader, writer = await asyncio.open_unix_connection(name)
        except OSError as error:
            raise engine_error("engine_down", f"the engine host does not answer: {error.strerror}") from error
        link = cls(reader, writer, events)
        link._send(wire.EVENTS, ())
        return link

    async def ask(self, call: str, arguments: tuple[Any, ...]) -> Any:
        """The packed answer. Raises what the engine raised, or Unavailable (`engine_down`) if the connection ends."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        number = self._send(call, arguments)
        self._waiting[number] = answer
        try:
            with suppress(ConnectionError):  # the receiver sees the same end, and tells all who wait
                await self._writer.drain()
            return await answer
        finally:
            self._waiting.pop(number, None)

    async def close(self) -> None:
        self._receiver.cancel()
        await asyncio.gather(self._receiver, return_exceptions=True)

    def _send(self, call: str, arguments: tuple[Any, ...]) -> int:
        if self.ended.is_set():
            raise engine_error("engine_down", "the connection to the engine host has ended")
        self._number += 1
        self._writer.write(wire.frame(wire.Request(self._number, call, wire.packed(arguments))))
        return self._number

    async def _receive(self) -> None:
        try:
            while True:
                header = await self._reader.readexactly(wire.HEADER)
                self._take(wire.from_host(await self._reader.readexactly(wire.length(header))))
        except (OSError, EOFError):
            log.info("the engine host has gone")
        except SkyfedError as broken:
            log.error("the engine host sent what is no answer: %s", broken.message)
        finally:
            self._end()

    def _take(self, message: wire.FromHost) -> None:
        if isinstance(message, wire.Event):
            if message.event.kind is EventKind.RESYNC:
                self._events.resync()
            else:
                self._events.publish(message.event)
            return
        waiting = self._waiting.get(message.number)
        if waiting is None or waiting.done():
            return  # given up by its caller
        if isinstance(message, wire.Refusal):
            waiting.set_exception(engine_error(message.code, message.message))
        else:
            waiting.set_result(message.value)

    def _end(self) -> None:
        self.ended.set()
        self._writer.close()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(engine_error("engine_down", "the engine host went away before it answered"))
