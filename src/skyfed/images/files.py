"""The publisher's image files: content-addressed, received into a partial file, visible only whole."""

import hashlib
import os
import re
import shutil
import time
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from skyfed.core.errors import Invalid, TooLarge, Unavailable
from skyfed.core.ids import new_token
from skyfed.images.inspection import InspectionLimits, inspect
from skyfed.images.model import PublishedFile
from skyfed.pki.files import sync_directory

CHUNK = 1 << 20
# Left free for everything else on the disk.
SPARE_BYTES = 64 << 20
_ABANDONED_SECONDS = 86400.0
_SHA512 = re.compile(r"[0-9a-f]{128}")


class FileStore:
    """Image files under `folder` by the SHA-512 of their bytes."""

    def __init__(self, folder: Path, limits: InspectionLimits, *, max_bytes: int) -> None:
        self._folder = folder
        self._incoming = folder / "incoming"
        self._limits = limits
        self._max_bytes = max_bytes

    def open(self) -> None:
        """Make the directories and drop what an interrupted upload has left."""
        self._incoming.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in self._incoming.iterdir():
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS or path.suffix != ".part":
                path.unlink(missing_ok=True)

    def path(self, sha512: str) -> Path:
        """Where the file with this digest is (or would be). Raises Invalid for what is no digest."""
        if not _SHA512.fullmatch(sha512):
            raise Invalid("a file is named by the 128 hexadecimal digits of its SHA-512", code="bad_digest")
        return self._folder / sha512

    def receive(self) -> "Incoming":
        """A file to be written in chunks, inside `with`; `finish` puts it into the store."""
        if shutil.disk_usage(self._folder).free < SPARE_BYTES:
            raise Unavailable("the image store's disk is full", code="no_space", retry_after=600.0)
        return Incoming(self, self._incoming / f"{new_token()}.part", self._limits, self._max_bytes)

    def add(self, source: Path) -> PublishedFile:
        """Copy a file of this machine into the store. Raises Invalid, TooLarge."""
        try:
            opened = source.open("rb")
        except OSError as error:
            raise Invalid(f"cannot read {source}: {error.strerror}", code="unreadable") from error
        with opened as file, self.receive() as incoming:
            if not source.is_file():
                raise Invalid(f"{source} is not a regular file", code="unreadable")
            while chunk := file.read(CHUNK):
                incoming.write(chunk)
            return incoming.finish()

    def remove(self, sha512: str) -> None:
        """Drop a file; one that is not there is fine."""
        self.path(sha512).unlink(missing_ok=True)


class Incoming:
    """A file on its way in: hashed as it is written, in one pass."""

    def __init__(self, store: FileStore, path: Path, limits: InspectionLimits, max_bytes: int) -> None:
        self._store = store
        self._path = path
        self._limits = limits
        self._max_bytes = max_bytes
        self._hash = hashlib.sha512()
        self._size = 0
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        self._file = self._path.open("xb")
        return self

    def __exit__(self, _k: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()
        self._path.unlink(missing_ok=True)

    def write(self, chunk: bytes) -> None:
        """Raises TooLarge beyond the store's limit."""
        assert self._file is not None  # noqa: S101 - used inside `with` only
        self._size += len(chunk)
        if self._size > self._max_bytes:
            raise TooLarge(f"an image may have at most {self._max_bytes} bytes here", code="image_size")
        self._hash.update(chunk)
        self._file.write(chunk)

    def finish(self) -> PublishedFile:
        """Inspect the file and put it into the store, durable. Raises Invalid (codes of `inspection.inspect`)."""
        assert self._file is not None  # noqa: S101 - used inside `with` only
        self._file.flush()
        os.fsync(self._file.fileno())
        found = inspect(self._path, self._limits)
        sha512 = self._hash.hexdigest()
        final = self._store.path(sha512)
        self._path.replace(final)
        sync_directory(final.parent)
        return PublishedFile(sha512=sha512, size=self._size, format=found.format, virtual_size=found.virtual_size)
