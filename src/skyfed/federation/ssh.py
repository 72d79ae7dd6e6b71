"""Runs a command in a guest over SSH, as soon as its server answers."""

import subprocess
import time
from pathlib import Path

from skyfed.core.errors import TimedOut, Unavailable
from skyfed.core.text import one_line

TRY_SECONDS = 20.0
PAUSE_SECONDS = 0.3
# ssh's own exit code for "no connection"; a command's code is passed through.
SSH_FAILED = 255


def options(port: int, *, key: Path, known_hosts: Path) -> list[str]:
    """ssh's options: this key only, no questions, a machine's host key believed at first sight."""
    return [
        "-p", str(port),
        "-i", str(key),
        "-o", "IdentitiesOnly=yes",
        "-o", "BatchMode=yes",
        "-o", "StrictHostKeyChecking=accept-new",
        "-o", f"UserKnownHostsFile={known_hosts}",
        "-o", "ConnectTimeout=10",
        "-o", "LogLevel=ERROR",
    ]  # fmt: skip


def run_over_ssh(host: str, port: int, *, key: Path, known_hosts: Path, command: str, seconds: float) -> str:
    """What `command` prints in the guest. Raises TimedOut when no login succeeds within `seconds`, Unavailable when it fails.

    A forwarded port may have belonged to an earlier guest: its host key is forgotten first.
    """
    subprocess.run(
        ["ssh-keygen", "-q", "-R", f"[{host}]:{port}", "-f", str(known_hosts)],
        capture_output=True,
        check=False,
        timeout=10,
    )
    argv = ["ssh", *options(port, key=key, known_hosts=known_hosts), f"root@{host}", command]
    deadline = time.monotonic() + seconds
    while True:
        try:
            done = subprocess.run(
                argv, capture_output=True, text=True, timeout=TRY_SECONDS, check=False, stdin=subprocess.DEVNULL
            )
            failed, said = done.returncode, done.stderr
        except subprocess.TimeoutExpired:
            failed, said = SSH_FAILED, f"no answer within {TRY_SECONDS:.0f} s"
        else:
            if failed == 0:
                return done.stdout.strip()
            if failed != SSH_FAILED:
                raise Unavailable(
                    f"'{command}' ended with {failed} in the guest: {one_line(said)}", code="command_failed"
                )
        if time.monotonic() > deadline:
            raise TimedOut(f"no SSH login at {host}:{port} within {seconds:.0f} s; last: {one_line(said)}", code="wait")
        time.sleep(PAUSE_SECONDS)
