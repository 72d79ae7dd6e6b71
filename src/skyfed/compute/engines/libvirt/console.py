"""A machine's serial console: a file that QEMU appends to, kept from growing without end."""

from pathlib import Path


def tail(log: Path, count: int) -> bytes:
    """The last `count` bytes written, also those that `trim` has moved away."""
    kept = _tail(log, count)
    return _tail(_older(log), count - len(kept)) + kept if len(kept) < count else kept


def trim(log: Path, limit: int) -> None:
    """Once the file is over half of `limit`, keeps that as the older part and starts again from nothing.

    QEMU writes in append mode, so a cut file simply grows from its new end; what it writes between our reading and
    the cut is lost, which a console can bear and a full disk cannot.
    """
    half = max(4096, limit // 2)
    if not log.is_file() or log.stat().st_size <= half:
        return
    _older(log).write_bytes(_tail(log, half))
    with log.open("r+b") as file:
        file.truncate(0)


def _older(log: Path) -> Path:
    return log.with_name(log.name + ".1")


def _tail(log: Path, count: int) -> bytes:
    if count <= 0 or not log.is_file():
        return b""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - count))
        return file.read(count)
