"""Fetching lists and images: bounded, resumable, hashed in the one pass that writes them."""

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from skyfed.core.errors import SkyfedError, TooLarge, Unavailable
from skyfed.core.http import Client, Stream
from skyfed.core.text import one_line, shown
from skyfed.images.evaluate import MAX_MESSAGE_BYTES
from skyfed.pki.files import sync_directory, write_atomic

CHUNK = 1 << 20
LIST_DEADLINE_SECONDS = 60.0
# Left free for everything else on the disk.
SPARE_BYTES = 64 << 20
_CONTENT_RANGE = re.compile(r"bytes (\d{1,15})-\d{1,15}/(\d{1,15}|\*)")


@dataclass(frozen=True, slots=True)
class FetchedList:
    """A list as the server gave it; `message` is None where it said that ours is still the newest."""

    message: bytes | None
    etag: str


def fetch_list(http: Client, url: str, etag: str) -> FetchedList:
    """GET a list, unless it still is the one with `etag`. Raises Unavailable, TimedOut, TooLarge, Forbidden
    (address), and what the server's status means."""
    headers = {"Accept": "*/*", **({"If-None-Match": etag} if etag else {})}
    answer = http.request("GET", url, headers=headers, deadline=LIST_DEADLINE_SECONDS, max_bytes=MAX_MESSAGE_BYTES)
    if answer.status == 304:
        return FetchedList(None, etag)
    if answer.status != 200:
        answer.raise_for_status()
        raise Unavailable(f"{shown(url)} answered {answer.status}; 200 or 304 is expected", code="bad_answer")
    return FetchedList(answer.body, one_line(answer.headers.get("etag", ""), 200))


class Wanted(Protocol):
    """What is to be downloaded: where from, how many bytes, and the digest they must have."""

    @property
    def uri(self) -> str: ...

    @property
    def size(self) -> int: ...

    @property
    def sha512(self) -> str: ...


class Downloads:
    """Image files on their way in, under `folder`: `SHA512.part` while partial, `SHA512` when whole and verified."""

    def __init__(self, folder: Path, http: Client, *, deadline: float) -> None:
        self._folder = folder
        self._http = http
        self._deadline = deadline

    def open(self) -> None:
        """Make the directory."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, sha512: str) -> Path:
        """Where the verified file is (or would be)."""
        return self._folder / sha512

    def drop_others(self, wanted: frozenset[str]) -> None:
        """Remove files and parts of digests that nobody wants any more."""
        for path in self._folder.iterdir():
            if path.name.split(".")[0] not in wanted:
                path.unlink(missing_ok=True)

    def fetch(self, image: Wanted, progress: Callable[[int], None] = lambda _done: None) -> Path:
        """The verified file of `image`; what an interrupted download left is continued with a range request.

        Raises TooLarge (`image_size`: more bytes than the list says), Unavailable (`truncated`, `image_digest`,
        `no_space`, the exchange), TimedOut, Forbidden (address).
        """
        final = self.path(image.sha512)
        if final.exists():
            return final
        if shutil.disk_usage(self._folder).free < image.size + SPARE_BYTES:
            message = f"an image of {image.size} bytes does not fit on this disk"
            raise Unavailable(message, code="no_space", retry_after=600.0)
        part = _Part(final.with_name(f"{final.name}.part"), image.size)
        try:
            with part.open() as file:
                self._receive(image, part, file, progress)
                file.flush()
                os.fsync(file.fileno())
        except TooLarge as error:
            part.remove()
            message = f"{shown(image.uri)} sends more than the {image.size} bytes that the list says"
            raise TooLarge(message, code="image_size") from error
        except SkyfedError:
            if not part.done:
                part.remove()  # no byte came: there is nothing to go on with
            raise
        self._verify(image, part)
        part.path.replace(final)
        part.remove()
        sync_directory(self._folder)
        return final

    def _receive(self, image: Wanted, part: "_Part", file: BinaryIO, progress: Callable[[int], None]) -> None:
        if part.done >= image.size:
            return
        with self._http.stream(
            "GET", image.uri, headers=part.range_headers(), deadline=self._deadline, max_bytes=image.size
        ) as answer:
            self._begin(image, part, file, answer)
            for chunk in answer.chunks():
                part.write(file, chunk)
                progress(part.done)

    def _begin(self, image: Wanted, part: "_Part", file: BinaryIO, answer: Stream) -> None:
        """Go on where we were, or start over, as the server decided."""
        if answer.status == 206 and part.done:
            match = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
            if match and int(match[1]) == part.done and match[2] in ("*", str(image.size)):
                return
            part.remove()
            raise Unavailable(f"{shown(image.uri)} answers another range than we asked for", code="bad_answer")
        if answer.status == 416:
            part.remove()
            raise Unavailable(f"{shown(image.uri)} has changed since the download began", code="bad_answer")
        if answer.status != 200:
            raise _status_error(answer.status, image.uri)
        part.restart(file, answer.headers.get("etag", ""))

    def _verify(self, image: Wanted, part: "_Part") -> None:
        if part.done < image.size:
            message = f"{shown(image.uri)} ended after {part.done} of {image.size} bytes"
            raise Unavailable(message, code="truncated")
        if part.digest() != image.sha512:
            part.remove()
            message = f"the bytes of {shown(image.uri)} do not have the SHA-512 that the list says"
            raise Unavailable(message, code="image_digest")


class _Part:
    """A partial file with the running hash of what is in it, and the validator that says which version it is of."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self._size = size
        self._etag_path = path.with_name(f"{path.name}.etag")
        self._hash = hashlib.sha512()
        self.done = 0

    def open(self) -> BinaryIO:
        """The file, positioned at its end, the hash over what it already holds."""
        file = self.path.open("a+b")
        file.seek(0)
        while chunk := file.read(CHUNK):
            self._hash.update(chunk)
            self.done += len(chunk)
        if self.done > self._size:
            self.restart(file, "")
        return file

    def range_headers(self) -> dict[str, str]:
        """Ask for the rest, if the server's file is still the same (RFC 9110 13.1.5); without a strong validator for
        all of it."""
        etag = self._etag_path.read_text() if self._etag_path.exists() else ""
        if not self.done or not etag.startswith('"'):
            return {}
        return {"Range": f"bytes={self.done}-", "If-Range": etag}

    def restart(self, file: BinaryIO, etag: str) -> None:
        """Empty the file; the next bytes are of the version with `etag`."""
        file.seek(0)
        file.truncate()
        self._hash = hashlib.sha512()
        self.done = 0
        write_atomic(self._etag_path, etag.encode("ascii", "replace")[:200])

    def write(self, file: BinaryIO, chunk: bytes) -> None:
        """Raises TooLarge beyond the announced size."""
        if self.done + len(chunk) > self._size:
            raise TooLarge("more bytes than announced", code="image_size")
        file.write(chunk)
        self._hash.update(chunk)
        self.done += len(chunk)

    def digest(self) -> str:
        return self._hash.hexdigest()

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self._etag_path.unlink(missing_ok=True)


def _status_error(status: int, uri: str) -> SkyfedError:
    """Every status is worth another try later: lists are published before or after their files now and then."""
    return Unavailable(f"{shown(uri)} answers {status}", code=f"http_{status}")
