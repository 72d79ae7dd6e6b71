"""Publishing: what is signed, served and remembered."""

import asyncio
import hashlib
import json
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from images.conftest import LIMITS, UPLOADER, Shop, database, endorser, qcow2
from skyfed.core.clock import iso
from skyfed.core.errors import Conflict, Forbidden, Invalid, NotFound, TooLarge, Unauthenticated
from skyfed.core.http import Client, Response
from skyfed.images.evaluate import Accepted, Policy, evaluate
from skyfed.images.files import FileStore
from skyfed.images.model import ImageList
from skyfed.images.publisher import ListDefinition, Publisher
from support.asgi import acall, accepted, call
from support.peers import need


def verified(shop: Shop, name: str = "demo.skyfed") -> Accepted:
    message = shop.publisher.served(name).message
    return evaluate(
        message, Policy(endorsers=(endorser(shop.pki.robot),)), shop.pki.trust(shop.clock), shop.clock.now()
    )


def the_list(shop: Shop, name: str = "demo.skyfed") -> ImageList:
    return verified(shop, name).imagelist


def test_a_configured_list_stands_signed_and_empty_from_the_start(shop: Shop) -> None:
    found = the_list(shop)
    assert found.images == ()
    assert found.version == "0.0.1"
    assert found.vo == "demo.skyfed"
    assert found.expires - found.created == timedelta(days=28)


@pytest.mark.peer
def test_openssl_accepts_our_list(shop: Shop, tmp_path: Path) -> None:
    shop.publish(qcow2())
    (tmp_path / "list").write_bytes(shop.publisher.served("demo.skyfed").message)
    command = [
        str(need("openssl")),
        "smime",
        "-verify",
        "-in",
        str(tmp_path / "list"),
        "-CApath",
        str(shop.pki.certificates),
    ]
    ran = subprocess.run(command, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["hv:imagelist"]["hv:images"][0]["hv:image"]["dc:title"] == "Tiny Linux"


def test_a_published_image_says_what_the_file_is(shop: Shop) -> None:
    content = qcow2()
    image = shop.publish(content, os_name="Tiny", os_version="7", ram_minimum_mib=64)
    listed = the_list(shop).images[0]
    assert listed.size == len(content)
    assert listed.sha512 == hashlib.sha512(content).hexdigest()
    assert listed.uri == f"{shop.url}/files/{listed.sha512}.qcow2"
    assert (listed.format, listed.version, listed.identifier) == ("QCOW2", "0.0.1", image.identifier)
    assert listed.expires == the_list(shop).expires


def test_the_union_of_all_consumers_keys_is_there(shop: Shop) -> None:
    """images digest A.1: what vmcatcher, atrope and cloudkeeper each require."""
    shop.publish(qcow2())
    wanted = (
        "dc:identifier dc:title dc:description hv:size sl:checksum:sha512 hv:uri hv:version sl:arch sl:os sl:osversion "
        "sl:osname sl:comments hv:hypervisor hv:format ad:mpuri ad:base_mpuri ad:appid ad:group ad:user:fullname "
        "ad:user:guid ad:user:uri dc:date:expires"
    )
    assert the_list(shop).images[0].document.keys() >= set(wanted.split())


def test_the_same_file_and_words_again_change_nothing(shop: Shop) -> None:
    first = shop.publish(qcow2())
    message = shop.publisher.served("demo.skyfed").message
    assert shop.publish(qcow2()) == first
    assert shop.publisher.served("demo.skyfed").message == message


def test_another_file_under_the_same_name_is_a_new_version(shop: Shop) -> None:
    first = shop.publish(qcow2(1 << 26))
    before = the_list(shop).version
    second = shop.publish(qcow2(1 << 27))
    assert second.identifier == first.identifier
    assert (first.version, second.version) == ("0.0.1", "0.0.2")
    assert second.mpuri.endswith(f"{first.identifier}:2/")
    assert [image.sha512 for image in the_list(shop).images] == [second.sha512]
    assert the_list(shop).version > before


def test_a_lower_version_than_published_is_refused(shop: Shop) -> None:
    shop.publish(qcow2(1 << 26), version="2.0")
    with pytest.raises(Conflict) as caught:
        shop.publish(qcow2(1 << 27), version="1.9")
    assert caught.value.code == "lower_version"


def test_two_lists_stand_beside_each_other(shop: Shop) -> None:
    shop.publish(qcow2(1 << 26), "One", "demo.skyfed")
    shop.publish(qcow2(1 << 27), "Two", "ops")
    assert [i.title for i in the_list(shop).images] == ["One"]
    assert [i.title for i in the_list(shop, "ops").images] == ["Two"]
    assert the_list(shop).identifier != the_list(shop, "ops").identifier


def test_a_hostile_file_is_not_published(shop: Shop) -> None:
    with pytest.raises(Invalid) as caught:
        shop.publish(qcow2(backing_offset=0x200, backing_size=11))
    assert caught.value.code == "format_unsafe"
    assert the_list(shop).images == ()
    assert list((shop.folder / "files" / "incoming").iterdir()) == []


def test_a_file_over_the_limit_is_refused_and_leaves_nothing(shop: Shop) -> None:
    with pytest.raises(TooLarge):
        shop.publish(bytes((1 << 24) + 1))
    assert [p.name for p in (shop.folder / "files").iterdir()] == ["incoming"]


def test_a_withdrawn_image_is_gone_from_the_list(shop: Shop) -> None:
    shop.publish(qcow2())
    left = shop.publisher.withdraw("demo.skyfed", "tiny-linux", "administrator")
    assert left.images == ()
    assert the_list(shop).images == ()
    with pytest.raises(NotFound):
        shop.publisher.withdraw("demo.skyfed", "tiny-linux", "administrator")


def test_lists_are_signed_anew_at_half_of_their_life_and_not_before(shop: Shop) -> None:
    before = shop.publisher.served("demo.skyfed")
    shop.clock.advance(13 * 86400)
    shop.publisher.renew()
    assert shop.publisher.served("demo.skyfed") == before
    shop.clock.advance(2 * 86400)
    shop.publisher.renew()
    found = the_list(shop)
    assert found.version == "0.0.2"
    assert found.expires == shop.clock.now() + timedelta(days=28)


def test_a_publisher_that_starts_again_serves_the_same_bytes(shop: Shop) -> None:
    shop.publish(qcow2())
    again = Publisher(
        shop.db, shop.files, {"demo.skyfed": ListDefinition("demo.skyfed", "Demo images", "Images for everybody", "")},
        credential=lambda: shop.pki.robot, email="images@example.org", lifetime=timedelta(days=28), public_url=shop.url,
        clock=shop.clock,
    )  # fmt: skip
    again.open()
    again.renew()
    assert again.served("demo.skyfed") == shop.publisher.served("demo.skyfed")


def test_a_renewed_credential_signs_the_lists_anew(shop: Shop) -> None:
    other = shop.pki.ca.robot("successor")
    again = Publisher(
        shop.db, shop.files, {"demo.skyfed": ListDefinition("demo.skyfed", "Demo images", "Images for everybody", "")},
        credential=lambda: other, email="images@example.org", lifetime=timedelta(days=28), public_url=shop.url,
        clock=shop.clock,
    )  # fmt: skip
    again.open()
    again.renew()
    message = again.served("demo.skyfed").message
    assert (
        evaluate(message, Policy(), shop.pki.trust(shop.clock), shop.clock.now()).imagelist.endorser.name
        == "Robot: successor"
    )


def test_nothing_is_remembered_when_signing_fails(shop: Shop) -> None:
    """A version is persisted only with its signed message (images digest B)."""

    def broken() -> None:
        raise Invalid("the key is gone", code="no_key")

    before = shop.publisher.lists()
    shop.publisher._credential = broken  # type: ignore[assignment]
    with pytest.raises(Invalid):
        shop.publish(qcow2())
    assert shop.publisher.lists() == before


def test_files_that_no_list_needs_are_dropped_after_a_week(shop: Shop) -> None:
    old = shop.publish(qcow2(1 << 26))
    new = shop.publish(qcow2(1 << 27))
    shop.publisher.renew()
    assert shop.files.path(old.sha512).exists()
    shop.clock.advance(8 * 86400)
    shop.publisher.renew()
    assert not shop.files.path(old.sha512).exists()
    assert shop.files.path(new.sha512).exists()


def test_what_an_interrupted_upload_left_is_dropped_at_the_next_start(tmp_path: Path) -> None:
    store = FileStore(tmp_path, LIMITS, max_bytes=1000)
    store.open()
    (tmp_path / "incoming" / "stray").write_bytes(b"x")
    store.open()
    assert list((tmp_path / "incoming").iterdir()) == []


def test_the_schema_and_its_migrations_agree(tmp_path: Path) -> None:
    db = database(tmp_path / "fresh.db")
    db.open()
    try:
        assert db.drift() == []
    finally:
        db.close()


# -- over HTTP --------------------------------------------------------------------------------------------------


def test_a_list_is_served_with_its_etag(shop: Shop) -> None:
    first = call(shop.app, "GET", "/lists/demo.skyfed")
    assert first.status == 200
    assert first.body.startswith(b"MIME-Version: 1.0\n")
    assert first.headers["content-type"] == "application/octet-stream"
    again = call(shop.app, "GET", "/lists/demo.skyfed", headers={"if-none-match": first.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    shop.publish(qcow2())
    assert call(shop.app, "GET", "/lists/demo.skyfed", headers={"if-none-match": first.headers["etag"]}).status == 200


def test_an_image_is_served_in_ranges(shop: Shop) -> None:
    content = qcow2()
    image = shop.publish(content)
    etag = f'"{image.sha512}"'

    def get(**headers: str) -> Response:
        return Client().request("GET", image.uri, headers={k.replace("_", "-"): v for k, v in headers.items()})

    whole = get()
    assert (whole.status, whole.body, whole.headers["etag"]) == (200, content, etag)
    part = get(range="bytes=60000-", if_range=etag)
    assert (part.status, part.body) == (206, content[60000:])
    changed = get(range="bytes=60000-", if_range='"other"')
    assert (changed.status, changed.body) == (200, content)
    assert get(if_none_match=etag).status == 304
    assert get(range="bytes=999999-").status == 416


@pytest.mark.parametrize("name", ["incoming", "0" * 128, "x.qcow2", "..", "."])
def test_only_names_of_image_files_are_served(shop: Shop, name: str) -> None:
    with pytest.raises((Invalid, NotFound)):
        call(shop.app, "GET", f"/files/{name}")


def test_no_path_leads_out_of_the_store(shop: Shop) -> None:
    assert call(shop.app, "GET", "/files/..%2f..%2fetc%2fpasswd").status == 404


def test_the_page_of_an_image_shows_its_entry(shop: Shop) -> None:
    image = shop.publish(qcow2())
    answer = call(shop.app, "GET", image.mpuri.removeprefix(shop.url))
    assert json.loads(answer.body)["hv:image"]["dc:identifier"] == image.identifier


def upload(shop: Shop, subject: str = UPLOADER, query: str = "title=Tiny&os_name=Alpine") -> int:
    target = f"/lists/demo.skyfed/images/tiny?{query}"
    return asyncio.run(acall(shop.app, "PUT", target, body=qcow2(), verdict=accepted(subject))).status


def test_an_endorser_uploads_over_https(shop: Shop) -> None:
    assert upload(shop) == 200
    (image,) = the_list(shop).images
    assert (image.title, image.os_name) == ("Tiny", "Alpine")
    assert image.document["ad:user:fullname"] == "alice"


def test_nobody_else_uploads(shop: Shop) -> None:
    with pytest.raises(Forbidden) as caught:
        upload(shop, "/DC=skyfed/DC=demo/OU=people/CN=bob")
    assert caught.value.code == "not_endorser"
    with pytest.raises(Unauthenticated):
        call(shop.app, "PUT", "/lists/demo.skyfed/images/tiny?title=x", body=qcow2())
    assert the_list(shop).images == ()


@pytest.mark.parametrize("query", ["", "title=x&nonsense=1", "title=x&ram_minimum_mib=many", "title=%20"])
def test_an_upload_that_does_not_say_what_it_is_is_refused(shop: Shop, query: str) -> None:
    with pytest.raises(Invalid):
        upload(shop, query=query)
    assert the_list(shop).images == ()


def test_the_index_names_every_list(shop: Shop) -> None:
    found = json.loads(call(shop.app, "GET", "/lists").body)
    assert [(each["name"], each["expires"]) for each in found] == [
        ("demo.skyfed", iso(shop.clock.now() + timedelta(days=28))),
        ("ops", iso(shop.clock.now() + timedelta(days=28))),
    ]
