"""Downloads that end in the middle."""

import hashlib
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from images.conftest import Shop, qcow2
from skyfed.core.clock import SystemClock
from skyfed.core.errors import SkyfedError, Unavailable
from skyfed.core.http import AddressPolicy, Client
from skyfed.images import download
from skyfed.images.download import Downloads

CHILD = """
import sys
from pathlib import Path
from skyfed.core.http import Client
from skyfed.images.download import Downloads
from images.test_download import Wanted
folder, uri, size, sha512 = sys.argv[1:]
downloads = Downloads(Path(folder), Client(), deadline=60.0)
downloads.open()
downloads.fetch(Wanted(uri, int(size), sha512), lambda done: print(done, flush=True))
"""


@dataclass(frozen=True)
class Wanted:
    uri: str
    size: int
    sha512: str


@pytest.fixture
def wanted(shop: Shop) -> Wanted:
    image = shop.publish(qcow2() + bytes(range(256)) * 8192)
    return Wanted(image.uri, image.size, image.sha512)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_killed_process_leaves_a_part_that_the_next_one_goes_on_with(
    shop: Shop, wanted: Wanted, tmp_path: Path
) -> None:
    folder = tmp_path / "downloads"
    shop.faults.cut_after = 1_000_000
    shop.faults.stall = threading.Event()
    arguments = [sys.executable, "-c", CHILD, str(folder), wanted.uri, str(wanted.size), wanted.sha512]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]) as child:
        try:
            assert child.stdout is not None
            assert int(child.stdout.readline()) > 0
        finally:
            child.kill()
            shop.faults.stall.set()
    assert names(folder) == {f"{wanted.sha512}.part", f"{wanted.sha512}.part.etag"}
    got = (folder / f"{wanted.sha512}.part").stat().st_size
    assert 0 < got < wanted.size

    shop.faults.cut_after = None
    shop.faults.asked.clear()
    whole = Downloads(folder, Client(), deadline=30.0).fetch(wanted)
    assert hashlib.sha512(whole.read_bytes()).hexdigest() == wanted.sha512
    assert names(folder) == {wanted.sha512}
    assert shop.faults.asked[0][1]["range"] == f"bytes={got}-"


def test_a_verified_file_is_not_fetched_twice(shop: Shop, wanted: Wanted, tmp_path: Path) -> None:
    downloads = Downloads(tmp_path, Client(), deadline=30.0)
    first = downloads.fetch(wanted)
    shop.faults.asked.clear()
    assert downloads.fetch(wanted) == first
    assert shop.faults.asked == []


def test_a_part_of_another_version_is_thrown_away(shop: Shop, wanted: Wanted, tmp_path: Path) -> None:
    """The server's validator has changed: it answers with the whole file."""
    (tmp_path / f"{wanted.sha512}.part").write_bytes(b"of another file")
    (tmp_path / f"{wanted.sha512}.part.etag").write_text('"another"')
    assert Downloads(tmp_path, Client(), deadline=30.0).fetch(wanted).stat().st_size == wanted.size
    assert shop.faults.asked[-1][1]["if-range"] == '"another"'


def test_a_part_with_damaged_bytes_is_noticed_and_thrown_away(shop: Shop, wanted: Wanted, tmp_path: Path) -> None:
    folder = tmp_path / "downloads"
    folder.mkdir()
    (folder / f"{wanted.sha512}.part").write_bytes(b"damaged")
    (folder / f"{wanted.sha512}.part.etag").write_text(f'"{wanted.sha512}"')
    downloads = Downloads(folder, Client(), deadline=30.0)
    with pytest.raises(Unavailable) as caught:
        downloads.fetch(wanted)
    assert caught.value.code == "image_digest"
    assert names(folder) == set()
    assert downloads.fetch(wanted).exists()


def test_an_image_that_does_not_fit_on_the_disk_is_not_begun(
    shop: Shop, wanted: Wanted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _path: download.shutil._ntuple_diskusage(10, 9, 1))
    shop.faults.asked.clear()
    with pytest.raises(Unavailable) as caught:
        Downloads(tmp_path, Client(), deadline=30.0).fetch(wanted)
    assert caught.value.code == "no_space"
    assert shop.faults.asked == []


def test_an_address_that_the_node_may_not_reach_is_not_asked(shop: Shop, wanted: Wanted, tmp_path: Path) -> None:
    """SSRF: lists come from outside, and so do the addresses in them."""
    shop.faults.asked.clear()
    with pytest.raises(SkyfedError) as caught:
        Downloads(tmp_path, Client(policy=AddressPolicy()), deadline=30.0).fetch(wanted)
    assert caught.value.code == "address_refused"
    assert shop.faults.asked == []


HOSTILE = ["file:///etc/passwd", "ftp://h/x", "//h/x", "", "http://[::1", "http://h:port/", "http://h:99999/", "http://",
           f"http://{'a' * 80}.localhost/", "http://exa mple/", "http://127.0.0.1:1/a b\r\nX: y", "http://\u0000/",
           "http://ü" + "b" * 70 + "/"]  # fmt: skip


@pytest.mark.parametrize("uri", HOSTILE)
def test_addresses_that_make_no_sense_are_refused_with_a_reason(tmp_path: Path, uri: str) -> None:
    with pytest.raises(SkyfedError):
        Downloads(tmp_path, Client(), deadline=5.0).fetch(Wanted(uri, 5, "0" * 128))
    assert names(tmp_path) == set()
    with pytest.raises(SkyfedError):
        download.fetch_list(Client(), uri, "")


@pytest.mark.parametrize("target", ["http://[::1", "file:///etc/passwd", "http://127.0.0.1:1/", "/files/again"])
def test_redirects_to_nowhere_are_refused(shop: Shop, wanted: Wanted, tmp_path: Path, target: str) -> None:
    shop.faults.redirect = target
    with pytest.raises(SkyfedError):
        Downloads(tmp_path, Client(), deadline=5.0).fetch(wanted)


def test_a_drip_ends_at_the_deadline(shop: Shop, wanted: Wanted, tmp_path: Path) -> None:
    shop.faults.cut_after = 1000
    shop.faults.stall = threading.Event()
    clock = SystemClock()
    began = clock.monotonic()
    try:
        with pytest.raises(SkyfedError) as caught:
            Downloads(tmp_path, Client(), deadline=0.5).fetch(wanted)
    finally:
        shop.faults.stall.set()
    assert caught.value.code == "timed_out"
    assert clock.monotonic() - began < 5
