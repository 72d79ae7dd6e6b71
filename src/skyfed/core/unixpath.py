"""Unix sockets at any path: the kernel takes 107 bytes only, a directory's descriptor takes the rest."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# sockaddr_un (unix(7)) holds 108 bytes with the final NUL.
MAX_PATH_BYTES = 107


@contextmanager
def short(path: Path) -> Iterator[str]:
    """A name for `path` that bind and connect accept, good inside the `with`; long ones go by way of /proc/self/fd."""
    if len(os.fsencode(path)) <= MAX_PATH_BYTES:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
