"""One libvirt connection: its event loop thread, a bounded pool for calls that block, errors in our words."""

import asyncio
import hashlib
import logging
import os
import re
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import libvirt

from skyfed.compute.contract import engine_error
from skyfed.core import errors
from skyfed.core.text import one_line

T = TypeVar("T")
log = logging.getLogger(__name__)

_WORKERS = 8
"""Calls in flight at once. A busy QEMU monitor holds its thread for seconds; others go on."""

_QEMU_CONF = """\
# Written by Skyfed at each start of the engine; changes are lost.
# Without virtlogd there is nobody else to write QEMU's logs.
stdio_handler = "file"
security_driver = "none"
dynamic_ownership = 0
remember_owner = 0
namespaces = [ ]
cgroup_controllers = [ ]
"""

_CODES = {
    libvirt.VIR_ERR_NO_DOMAIN: "not_found",
    libvirt.VIR_ERR_OPERATION_INVALID: "conflict",
    libvirt.VIR_ERR_OPERATION_TIMEOUT: "timed_out",
    libvirt.VIR_ERR_RESOURCE_BUSY: "locked",
    libvirt.VIR_ERR_NO_MEMORY: "no_capacity",
    libvirt.VIR_ERR_NO_CONNECT: "engine_down",
    libvirt.VIR_ERR_INVALID_CONN: "engine_down",
}
_PATH = re.compile(r"/\S+")
_NO_USER = re.compile(r"Failed to parse user '([\w-]+)'")
# sun_path holds 108 bytes; libvirt appends /lib/qemu/domain-NUMBER-NAME/monitor.sock, NAME cut to 20 characters.
_LONGEST_ROOT = 48

Lifecycle = Callable[[str, int, int], None]
"""Told machine UUID, event and detail, on the event loop thread: it must not call libvirt."""


class Connection:
    """An open connection. `call` runs anything that blocks; nothing else may touch `raw`."""

    def __init__(self, uri: str) -> None:
        self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="libvirt")
        # Statistics wait for the slowest monitor: they have a thread of their own and delay nobody.
        self._sweeper = ThreadPoolExecutor(1, thread_name_prefix="libvirt-stats")
        self._callbacks: list[int] = []
        self.raw: Any = _translated(libvirt.open, uri)

    async def call(self, work: Callable[..., T], *arguments: Any) -> T:
        """The result of `work(*arguments)`, run in the pool. Raises errors of the engine's closed set."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, _translated, work, *arguments)

    async def sweep(self, work: Callable[..., T], *arguments: Any) -> T:
        """The same in the thread for statistics."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._sweeper, _translated, work, *arguments)

    def watch(self, lifecycle: Lifecycle, rebooted: Callable[[str], None], lost: Callable[[], None]) -> None:
        """Calls these from the event loop thread from now on."""

        def on_lifecycle(_: Any, domain: Any, event: int, detail: int, __: Any) -> None:
            lifecycle(domain.UUIDString(), event, detail)

        def on_reboot(_: Any, domain: Any, __: Any) -> None:
            rebooted(domain.UUIDString())

        register = self.raw.domainEventRegisterAny
        self._callbacks = [
            register(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, on_lifecycle, None),
            register(None, libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, on_reboot, None),
        ]
        self.raw.registerCloseCallback(lambda *_: lost(), None)

    def close(self) -> None:
        """Lets go; guests keep running."""
        if self._callbacks:
            for callback in self._callbacks:
                self.raw.domainEventDeregisterAny(callback)
            self.raw.unregisterCloseCallback()
        self._pool.shutdown(wait=True)
        self._sweeper.shutdown(wait=True)
        self.raw.close()


_loop_started = threading.Lock()


def run_event_loop() -> None:
    """Starts libvirt's event loop thread, once a process; it must run before the first connection is opened."""
    # The lock is never given back: one loop serves the process until it ends, as libvirt demands.
    if not _loop_started.acquire(blocking=False):
        return
    libvirt.registerErrorHandler(lambda _, error: log.debug("libvirt: %s", error[2]), None)
    libvirt.virEventRegisterDefaultImpl()

    def loop() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=loop, name="libvirt-events", daemon=True).start()


def embedded_uri(root: Path) -> str:
    """Writes the configuration that a host without daemons needs (compute digest 4.1) and gives the URI."""
    (root / "etc").mkdir(parents=True, exist_ok=True, mode=0o700)
    text = _QEMU_CONF
    if os.geteuid() == 0:
        text += 'user = "root"\ngroup = "root"\n'
    (root / "etc" / "qemu.conf").write_text(text)
    return f"qemu:///embed?root={quote(str(short_path(root)))}"


def forget_short_path(root: Path) -> None:
    """Removes the link that `short_path` made, if it did; for when nothing runs under `root` any more."""
    link = _link(root)
    if link.is_symlink() and link.readlink() == root:
        link.unlink()


def short_path(root: Path) -> Path:
    """`root`, or a link to it where QEMU's monitor sockets under it would get names longer than Linux allows.

    The link's name depends on `root` alone: QEMU processes that are running keep it over our restarts.
    """
    if len(os.fsencode(root)) <= _LONGEST_ROOT:
        return root
    link = _link(root)
    if not link.is_symlink():
        link.symlink_to(root)
    # Anyone may make files in a temporary folder: a link of another user is not followed.
    if link.lstat().st_uid != os.geteuid() or link.readlink() != root:
        raise engine_error("engine_down", f"{link} is in the way: remove it, or give the engine a shorter root")
    return link


def _link(root: Path) -> Path:
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or "/run")
    folder = runtime if os.access(runtime, os.W_OK) else Path(tempfile.gettempdir())
    return folder / f"skyfed-{hashlib.sha256(os.fsencode(root)).hexdigest()[:16]}"


def _translated(work: Callable[..., T], *arguments: Any) -> T:
    try:
        return work(*arguments)
    except libvirt.libvirtError as error:
        log.warning("libvirt refused %s: %s", getattr(work, "__name__", work), error)
        raise translate(error) from error


def translate(error: libvirt.libvirtError) -> errors.SkyfedError:
    """The engine error for a libvirt error. Its words are kept for the owner, without the host's paths."""
    words = _PATH.sub("…", one_line(error.get_error_message() or "unknown error", 300))
    user = _NO_USER.search(words)
    if user:
        remedy = f"useradd --system --user-group --no-create-home {user.group(1)}"
        return engine_error(
            "engine_down",
            f"libvirt run by root needs the system user {user.group(1)} ({remedy}); or run as another user",
        )
    return engine_error(_CODES.get(error.get_error_code(), "internal"), f"the hypervisor says: {words}")
