"""Whether KVM really boots a guest here. Probed, never assumed (compute digest 4.2).

/dev/kvm may open, and libvirt may list KVM, on hosts whose KVM hangs every distribution kernel.
"""

import asyncio
import hashlib
import os
from pathlib import Path

import msgspec

from skyfed.compute.engines.libvirt.processes import boot_id
from skyfed.compute.engines.libvirt.records import write_durably

PROBE_SECONDS = 3.0
TOKEN = b"SKYFED-GUEST"
"""What the demonstration guest says first on its console."""
_KVM = Path("/dev/kvm")


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """`acceleration` is `kvm` or `tcg`; `reason` says why, in one sentence."""

    acceleration: str
    reason: str
    key: str = ""
    """What it was found under: host boot, QEMU version, probe image."""


async def judge(wanted: str, probe_image: Path | None, emulator: Path, version: str, cache: Path) -> Verdict:
    """The verdict for this host, remembered in the file `cache` until host boot, QEMU or probe image change."""
    if wanted != "auto":
        return Verdict(acceleration=wanted, reason=f"set by the administrator (acceleration = {wanted})")
    lacking = await asyncio.to_thread(_lacking)
    if lacking:
        return Verdict(acceleration="tcg", reason=lacking)
    if probe_image is None:
        return Verdict(acceleration="tcg", reason="KVM is there, but there is no probe image to try it with")
    key = await asyncio.to_thread(_key, probe_image, version)
    known = await asyncio.to_thread(_remembered, cache, key)
    if known is None:
        known = await _boot(probe_image, emulator, key)
        await asyncio.to_thread(write_durably, cache, msgspec.json.encode(known), mode=0o644)
    return known


def _lacking() -> str:
    flags = set()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            flags = set(line.split())
            break
    if not flags & {"vmx", "svm"}:
        return "this processor shows no hardware virtualisation (neither vmx nor svm)"
    if not os.access(_KVM, os.R_OK | os.W_OK):
        return "/dev/kvm is not there or not ours to use; add the engine's user to the group kvm"
    return ""


def _key(image: Path, version: str) -> str:
    with image.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return f"{boot_id()} {version} {digest}"


def _remembered(cache: Path, key: str) -> Verdict | None:
    try:
        verdict = msgspec.json.decode(cache.read_bytes(), type=Verdict)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return verdict if verdict.key == key else None


async def _boot(image: Path, emulator: Path, key: str) -> Verdict:
    """Boots `image` on a throw-away disk and waits for its first word."""
    process = await asyncio.create_subprocess_exec(
        *(str(emulator), "-machine", "pc", "-accel", "kvm", "-cpu", "host", "-m", "128", "-display", "none"),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-serial", "stdio"),
        *("-drive", f"file={str(image).replace(',', ',,')},format=qcow2,if=virtio,snapshot=on"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            booted = await _says(process, TOKEN)
    except TimeoutError:
        booted = False
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if booted:
        return Verdict(acceleration="kvm", reason="a guest booted with KVM", key=key)
    return Verdict(acceleration="tcg", reason=f"a guest did not boot with KVM within {PROBE_SECONDS:.0f} s", key=key)


async def _says(process: asyncio.subprocess.Process, token: bytes) -> bool:
    heard = b""
    while process.stdout is not None and (chunk := await process.stdout.read(4096)):
        heard = heard[-len(token) :] + chunk
        if token in heard:
            return True
    return False
