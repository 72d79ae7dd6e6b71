"""The contract holds over the engine host's socket; and what only a socket can do."""

import asyncio
from pathlib import Path

import pytest

from compute.engines.conformance import EngineConformance, World, story
from compute.engines.worlds import SimulatedWorld
from skyfed.compute.contract import DEADLINES, Engine, EventKind, engine_error
from skyfed.compute.engines import wire
from skyfed.compute.engines.host import EngineHost
from skyfed.compute.engines.remote import RemoteEngine
from skyfed.compute.engines.simulated import SimulatedEngine
from skyfed.compute.model import VmState
from skyfed.core.errors import Conflict, Invalid, TimedOut, Unavailable


class RemoteWorld(SimulatedWorld):
    """A simulated engine behind a real socket."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder
        self.socket = folder / "engine.sock"
        self._server: EngineHost | None = None

    async def open(self) -> Engine:
        if self._server is None:
            await super().open()
            self._server = EngineHost(self.simulated, self.folder / "root", self.socket)
            await self._server.start()
        return RemoteEngine(self.socket)

    async def kill(self) -> None:
        await self.engine.close()
        await self.stop_host()

    async def stop_host(self) -> None:
        if self._server is not None:
            await self._server.stop()
            self._server = None

    async def halt(self, id: str) -> None:
        (SimulatedEngine(self.host) if self._server is None else self.simulated).halt(id)

    async def __aexit__(self, *_: object) -> None:
        await super().__aexit__()
        await self.stop_host()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return RemoteWorld(tmp_path)


class TestRemoteEngine(EngineConformance):
    async def deafen(self, world: World, id: str) -> None:
        assert isinstance(world, RemoteWorld)
        world.host.machines[id].ignores_power_button = True

    @story
    async def test_while_the_host_is_down_the_engine_is_unavailable_and_afterwards_it_is_there_again(
        self, world: World
    ) -> None:
        assert isinstance(world, RemoteWorld)
        await world.stop_host()
        with pytest.raises(Unavailable) as refused:
            await world.engine.list()
        assert refused.value.code == "engine_down"
        assert not (await world.engine.probe()).ok
        world.events.clear()
        await world.open()
        await world.heard(lambda event: event.kind is EventKind.RESYNC)
        assert await world.engine.list() == ()
        assert (await world.made()).state is VmState.ACTIVE

    @story
    async def test_a_call_whose_answer_is_lost_with_the_host_is_unavailable(self, world: World) -> None:
        assert isinstance(world, RemoteWorld)
        begun = asyncio.Event()

        async def forever(_: float) -> None:
            begun.set()
            await asyncio.Event().wait()

        world.simulated._sleep = forever
        call = asyncio.create_task(world.engine.list())
        await begun.wait()
        await world.stop_host()
        with pytest.raises(Unavailable):
            await call
        await world.open()

    @story
    async def test_a_call_that_takes_too_long_is_given_up(self, world: World) -> None:
        assert isinstance(world, RemoteWorld)
        engine = RemoteEngine(world.socket, deadlines={**DEADLINES, "get": 0.05})

        async def forever(_: float) -> None:
            await asyncio.Event().wait()

        sleep, world.simulated._sleep = world.simulated._sleep, forever
        with pytest.raises(TimedOut) as late:
            await engine.get("x")
        assert late.value.code == "timed_out"
        world.simulated._sleep = sleep
        await engine.close()

    @story
    async def test_errors_keep_their_code_and_words_and_unforeseen_ones_show_neither(self, world: World) -> None:
        assert isinstance(world, RemoteWorld)
        world.simulated.fail("list", engine_error("locked", "somebody else works on it"))
        with pytest.raises(Conflict, match="somebody else") as refused:
            await world.engine.list()
        assert refused.value.code == "locked"
        world.simulated.fail("list", ZeroDivisionError("/etc/secret"))
        with pytest.raises(Exception, match="its log says why") as broken:
            await world.engine.list()
        assert "secret" not in str(broken.value)

    @story
    async def test_many_calls_share_one_connection(self, world: World) -> None:
        await asyncio.gather(*(world.engine.list() for _ in range(600)))

    @story
    async def test_a_second_host_on_the_same_root_is_refused(self, world: World) -> None:
        assert isinstance(world, RemoteWorld)
        second = EngineHost(SimulatedEngine(), world.folder / "root", world.folder / "second.sock")
        with pytest.raises(Conflict) as refused:
            await second.start()
        assert refused.value.code == "engine_host_runs"

    @story
    async def test_only_the_owner_may_open_the_socket(self, world: World) -> None:
        assert isinstance(world, RemoteWorld)
        assert world.socket.stat().st_mode & 0o777 == 0o600

    @story
    async def test_a_client_that_talks_nonsense_is_dropped_and_others_are_served(self, world: World) -> None:
        assert isinstance(world, RemoteWorld)
        for nonsense in (b"\xff\xff\xff\xff", b"\x00\x00\x00\x02\xc1\xc1", b"GET / HTTP/1.1\r\n\r\n"):
            reader, writer = await asyncio.open_unix_connection(str(world.socket))
            writer.write(nonsense)
            async with asyncio.timeout(5):
                assert await reader.read() == b""
            writer.close()
        assert await world.engine.list() == ()

    @story
    async def test_an_unknown_call_and_wrong_arguments_are_refused_and_the_connection_goes_on(
        self, world: World
    ) -> None:
        assert isinstance(world, RemoteWorld)
        reader, writer = await asyncio.open_unix_connection(str(world.socket))
        for number, (call, arguments) in enumerate([("close", ()), ("get", (1, 2)), ("__class__", ())]):
            writer.write(wire.frame(wire.Request(number, call, wire.packed(arguments))))
            header = await reader.readexactly(wire.HEADER)
            answer = wire.from_host(await reader.readexactly(wire.length(header)))
            assert isinstance(answer, wire.Refusal)
            assert answer.code == ("invalid" if call == "get" else "not_implemented")
        writer.close()


def test_a_frame_over_the_limit_is_refused_on_both_sides() -> None:
    with pytest.raises(Invalid):
        wire.length((wire.MAX_FRAME + 1).to_bytes(wire.HEADER))
    with pytest.raises(Invalid):
        wire.frame(wire.Request(1, "console_log", wire.packed(b"x" * (wire.MAX_FRAME + 1))))


def test_every_call_of_the_contract_is_on_the_wire() -> None:
    calls = {name for name in vars(Engine) if not name.startswith("_")}
    assert calls - {"events", "close"} == set(wire.CALLS)
