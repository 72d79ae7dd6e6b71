"""qemu-img on files that may be hostile: formats given, never guessed; processor time, memory, size and time bounded."""

import asyncio
import json
import math
from pathlib import Path

from skyfed.compute.contract import engine_error
from skyfed.compute.model import DiskFormat
from skyfed.core.text import one_line

QEMU_DRIVER = {
    DiskFormat.RAW: "raw",
    DiskFormat.QCOW2: "qcow2",
    DiskFormat.VMDK: "vmdk",
    DiskFormat.VDI: "vdi",
    DiskFormat.VHD: "vpc",
}
"""QEMU's names for the formats we take."""

_ADDRESS_SPACE = 4 << 30
_GIB = 1 << 30


async def convert(source: Path, disk_format: DiskFormat, target: Path, *, max_bytes: int, seconds: float) -> None:
    """Writes what the image holds to `target` as qcow2. Raises Invalid, TimedOut, Unavailable."""
    # A json: name cannot be taken for a protocol ("nbd:…"), and names the driver.
    driver = QEMU_DRIVER[disk_format]
    name = "json:" + json.dumps({"driver": driver, "file": {"driver": "file", "filename": str(source)}})
    await _run("convert", "-O", "qcow2", name, str(target), file_bytes=max_bytes, seconds=seconds)


async def overlay(base: Path, target: Path, size_bytes: int) -> None:
    """A new qcow2 of `size_bytes` at `target` that holds only what differs from `base`."""
    await _run(
        "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(base), str(target), str(size_bytes),
        file_bytes=_GIB, seconds=30,
    )  # fmt: skip


async def _run(command: str, *arguments: str, file_bytes: int, seconds: float) -> None:
    limits = [f"--as={_ADDRESS_SPACE}", f"--fsize={file_bytes}", f"--cpu={math.ceil(seconds)}", "--core=0"]
    try:
        process = await asyncio.create_subprocess_exec(
            "prlimit", *limits, "--", "qemu-img", command, *arguments,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
    except FileNotFoundError as missing:
        raise engine_error("engine_down", "the program prlimit (Debian package util-linux) is missing") from missing
    try:
        async with asyncio.timeout(seconds):
            _, words = await process.communicate()
    except TimeoutError as late:
        raise engine_error("timed_out", f"qemu-img {command} did not end within {seconds:.0f} s") from late
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == 0:
        return
    said = one_line(words.decode("utf-8", "replace"), 300)
    if "No space left" in said:
        raise engine_error("no_capacity", "the host has no disk space left for this")
    raise engine_error("invalid", f"qemu-img {command} failed: {said}")
