"""A small parent for the engine host that buries ended QEMU processes at once.

libvirt starts QEMU detached, so an ended one is process 1's to reap, and libvirt waits for that with every stop and with
every capability probe. In containers and tiny systems process 1 takes seconds, or never does it.
"""

import ctypes
import os
import signal
from types import FrameType

from skyfed.core.children import die_with_parent, exit_if_orphaned

_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def attend() -> None:
    """Returns in a new child process, which does the work; the calling process stays as its attendant.

    The attendant inherits the child's orphans and reaps them, passes SIGTERM and SIGINT on, ends when the child ends,
    with its exit status, and takes the child with it when it is killed. Call it before any thread is started.
    """
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")
    attendant = os.getpid()
    child = os.fork()
    if child == 0:
        die_with_parent(signal.SIGKILL)
        exit_if_orphaned(attendant)
        return
    _attend(child)


def _attend(child: int) -> None:
    def pass_on(number: int, _: FrameType | None) -> None:
        os.kill(child, number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    # Pipes that tell by their closing that the child has ended must not stay open with us.
    os.closerange(3, min(os.sysconf("SC_OPEN_MAX"), 1 << 16))
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            # as a shell reports the end by a signal
            os._exit(code if code >= 0 else 128 - code)
