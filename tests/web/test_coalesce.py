"""What is written in one turn of the loop leaves together; closing and size flush."""

import asyncio
from collections.abc import Callable

import pytest

from skyfed.web.coalesce import JOIN_BYTES, Coalescing


class Wire:
    """Records what a transport is told."""

    def __init__(self) -> None:
        self.told: list[bytes | str] = []

    def write(self, data: bytes) -> None:
        self.told.append(data)

    def close(self) -> None:
        self.told.append("close")

    def abort(self) -> None:
        self.told.append("abort")

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return "close" in self.told


def told(act: Callable[[Coalescing], None]) -> list[bytes | str]:
    async def main() -> list[bytes | str]:
        wire = Wire()
        act(Coalescing(wire, asyncio.get_running_loop()))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        return wire.told

    return asyncio.run(main())


BIG = b"x" * (JOIN_BYTES + 1)


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (lambda t: (t.write(b"head"), t.write(b"body")), [b"headbody"]),
        (lambda t: (t.write(b"head"), t.close()), [b"head", "close"]),
        (lambda t: (t.write(b"head"), t.abort()), ["abort"]),
        (lambda t: (t.write(BIG), t.write(b"b")), [BIG, b"b"]),
        (lambda t: None, []),
    ],
)
def test_writes_of_one_turn_leave_together(act: Callable[[Coalescing], None], expected: list[bytes | str]) -> None:
    assert told(act) == expected
