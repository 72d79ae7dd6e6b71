"""The process that keeps a federation's nodes running, with or without a terminal in front of it.

`python -m skyfed.federation.keeper DIRECTORY`. It holds a lock on the directory while it lives, so that there is one keeper a
federation, and its pid is in the lock file. Its supervisors stop every process in order on SIGTERM.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from skyfed.core import children
from skyfed.core import log as logs
from skyfed.core.clock import SystemClock
from skyfed.core.errors import Conflict, SkyfedError, Unavailable
from skyfed.federation.places import NODES, Places
from skyfed.node.config import Node
from skyfed.node.foreground import run
from skyfed.pki.testca import ThrowawayCA

CRL_SECONDS = 12 * 3600.0
LOCK = "keeper.lock"
LOG = "keeper.log"
PARENT = "SKYFED_KEEPER_PARENT"
# All nodes' processes become ready in parallel; the first start of a libvirt root alone takes ten seconds.
START_SECONDS = 180.0
STOP_SECONDS = 60.0
LOOK_SECONDS = 0.1
LOCK_SECONDS = 1.0


def keeper_pid(places: Places) -> int | None:
    """The pid of the running keeper, None when the federation is down."""
    try:
        with (places.directory / LOCK).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                text = file.read().strip()
                return int(text) if text.isdigit() else 0
    except FileNotFoundError:
        return None
    return None


def start_keeper(places: Places, *, detach: bool, progress: Callable[[str], None]) -> int:
    """Start the nodes and wait until every process is ready; returns the keeper's pid.

    Without `detach` the keeper ends with the calling process, however that ends. Raises Unavailable saying which
    process failed and where its log is.
    """
    log = places.directory / LOG
    with log.open("ab") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "skyfed.federation.keeper", str(places.directory)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
            env={**os.environ, **({} if detach else {PARENT: str(os.getpid())})},
            start_new_session=True,
        )
    assert child.stdout is not None  # noqa: S101 - it is a pipe
    said = ""
    with child.stdout as lines:
        for line in lines:
            said = line.strip()
            if said == "ready":
                return child.pid
            progress(said)
    child.wait()
    raise Unavailable(
        f"the federation did not start: {said or 'no reason given'}; the keeper's log: {log}", code="not_ready"
    )


def stop_keeper(places: Places) -> bool:
    """Stop the keeper and with it every process of the nodes. False when it was not running. Raises Unavailable."""
    pid = keeper_pid(places)
    if not pid:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while keeper_pid(places) is not None:
        if time.monotonic() > deadline:
            raise Unavailable(f"the keeper (pid {pid}) has not stopped within {STOP_SECONDS:.0f} s", code="not_stopped")
        time.sleep(LOOK_SECONDS)
    return True


@contextlib.contextmanager
def _locked(places: Places) -> Iterator[None]:
    with (places.directory / LOCK).open("a+b") as file:
        # Whoever asks for the pid holds the lock for an instant: not a keeper.
        deadline = time.monotonic() + LOCK_SECONDS
        while not _try_lock(file):
            if time.monotonic() > deadline:
                raise Conflict(f"the federation in {places.directory} runs already", code="runs_already")
            time.sleep(LOOK_SECONDS)
        file.truncate(0)
        file.write(str(os.getpid()).encode())
        file.flush()
        yield
        file.truncate(0)


def _try_lock(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _say(text: str) -> None:
    """To whoever started us; nobody reads any more once it has left."""
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


async def _keep(places: Places) -> None:
    nodes = [Node.load(places.node(name)) for name in NODES]
    renewing = asyncio.create_task(_renew_crl(places))
    try:
        await run(nodes, on_ready=lambda: _say("ready"), progress=_say)
    finally:
        renewing.cancel()


async def _renew_crl(places: Places) -> None:
    """A CA that stops publishing CRLs is believed no more after a month: the demo CA publishes while its federation runs."""
    while True:
        await asyncio.sleep(CRL_SECONDS)
        await asyncio.to_thread(lambda: ThrowawayCA.open(places.ca, SystemClock()).publish(places.certificates))


def main() -> None:
    """Exit code 0 when stopped, 1 when a process could not be started; the last line on stdout says why."""
    parent = os.environ.pop(PARENT, "")
    if parent:
        children.die_with_parent()
        children.exit_if_orphaned(int(parent))
    places = Places.open(Path(sys.argv[1]))
    logs.configure(node="keeper")
    try:
        with _locked(places):
            asyncio.run(_keep(places))
    except SkyfedError as error:
        _say(error.message)
        sys.exit(1)


if __name__ == "__main__":
    main()
