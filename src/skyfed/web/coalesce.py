"""Joins what is written in one turn of the event loop, so that an answer's head and body leave as one TLS record."""

import asyncio

# More than this goes out at once: joining saves a system call, not memory.
JOIN_BYTES = 64 * 1024


class Coalescing:
    """A transport for writing and closing, in front of the real one. Everything else is asked of the real one."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []
        self._size = 0
        self._handed = 0

    @property
    def sent(self) -> int:
        """Bytes that have left for the peer so far."""
        return self._handed - self._transport.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        """Send `data`, in this turn of the loop or when enough is there."""
        if not self._parts:
            self._loop.call_soon(self.flush)
        self._parts.append(data)
        self._size += len(data)
        if self._size > JOIN_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hand everything to the real transport."""
        if self._parts:
            data, self._parts, self._size = b"".join(self._parts), [], 0
            self._handed += len(data)
            self._transport.write(data)

    def close(self) -> None:
        """Close after what was written."""
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        """Close at once; what was not sent is lost."""
        self._parts, self._size = [], 0
        self._transport.abort()

    def is_closing(self) -> bool:
        """Whether it is closed or about to be."""
        return self._transport.is_closing()
