"""Talking to image list hosts: reading lists of anybody, publishing to ours."""

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, urlencode

import msgspec

from skyfed.core.http import Client
from skyfed.images.formats import MAX_LIST_BYTES
from skyfed.images.model import Description, PublishedImage, PublishedList

CHUNK = 1 << 18
DEADLINE_SECONDS = 60.0
UPLOAD_SECONDS = 3600.0


class ImagesClient:
    """The image service at `base_url` (`https://images.example.org:8443`).

    Every call raises Unavailable, TimedOut, TooLarge (the exchange) and what the service says.
    """

    def __init__(self, http: Client, base_url: str) -> None:
        self._http = http
        self._base = base_url.rstrip("/")

    def lists(self) -> tuple[PublishedList, ...]:
        """The lists that it publishes, with their images."""
        answer = self._http.request("GET", f"{self._base}/lists", deadline=DEADLINE_SECONDS).raise_for_status()
        found: tuple[PublishedList, ...] = answer.json(tuple[PublishedList, ...])
        return found

    def publish(
        self, name: str, image: Description, file: Path, progress: Callable[[int], None] = lambda _done: None
    ) -> PublishedImage:
        """Upload `file` as `image.name` (required here) into the list `name`. Raises Forbidden (`not_endorser`),
        Invalid, Conflict."""
        fields = {k: v for k, v in msgspec.to_builtins(image).items() if v not in ("", None) and k != "name"}
        url = f"{self._base}/lists/{quote(name, safe='')}/images/{quote(image.name, safe='')}?{urlencode(fields)}"
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(file.stat().st_size)}
        body = _chunks(file, progress)
        with self._http.stream("PUT", url, headers=headers, body=body, deadline=UPLOAD_SECONDS) as answer:
            said = b"".join(answer.chunks())
        return _published(answer.status, said, url)


def fetch(http: Client, url: str) -> bytes:
    """The signed message at `url`, not yet verified."""
    answer = http.request("GET", url, deadline=DEADLINE_SECONDS, max_bytes=2 * MAX_LIST_BYTES)
    return answer.raise_for_status().body


def _chunks(file: Path, progress: Callable[[int], None]) -> Iterator[bytes]:
    done = 0
    with file.open("rb") as opened:
        while chunk := opened.read(CHUNK):
            yield chunk
            done += len(chunk)
            progress(done)


def _published(status: int, body: bytes, url: str) -> PublishedImage:
    from skyfed.core.http import Response

    answer = Response(status, {"content-type": "application/json"}, body, url).raise_for_status()
    found: PublishedImage = answer.json(PublishedImage)
    return found
