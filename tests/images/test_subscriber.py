"""Following a list: what a site makes of it, over real HTTP and with the compute service on the simulated engine."""

import dataclasses
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from images.conftest import Shop, Subscribing, endorser, qcow2
from skyfed.core.errors import Unavailable
from skyfed.images import events
from skyfed.images.evaluate import Policy
from skyfed.images.inspection import InspectionLimits
from skyfed.images.model import Endorser, ImageState, ListState

Play = Callable[..., None]


def test_what_the_list_offers_is_offered_to_its_vo_and_to_no_other(shop: Shop, play: Play) -> None:
    image = shop.publish(qcow2())

    async def story(site: Subscribing) -> None:
        found = await site.cycle()
        assert (found.state, found.vos, found.endorser) == (
            ListState.OK,
            ("demo.skyfed",),
            endorser(shop.pki.robot).dn,
        )
        assert found.images[0].state is ImageState.POOLED
        assert site.offered("demo.skyfed") == ["Tiny Linux"]
        assert site.offered("ops") == []
        (pooled,) = site.site.service.images()
        assert (pooled.mpuri, pooled.dc_identifier, pooled.sha512) == (image.mpuri, image.identifier, image.sha512)
        assert pooled.virtual_size_bytes == 1 << 26
        assert list((site.folder / "downloads").iterdir()) == []

    play(story)


def test_the_subscription_may_say_whose_the_images_are(shop: Shop, play: Play) -> None:
    shop.publish(qcow2())

    async def story(site: Subscribing) -> None:
        await site.cycle()
        assert site.offered("ops") == ["Tiny Linux"]
        assert site.offered("demo.skyfed") == []

    play(story, vos=frozenset({"ops"}))


def test_only_the_images_asked_for_are_taken(shop: Shop, play: Play) -> None:
    one = shop.publish(qcow2(1 << 26), "One")
    shop.publish(qcow2(1 << 27), "Two")

    async def story(site: Subscribing) -> None:
        assert [i.title for i in (await site.cycle()).images] == ["One"]

    play(story, images=frozenset({one.identifier}))


def test_an_unchanged_list_is_not_sent_again_and_its_images_are_not_fetched_again(shop: Shop, play: Play) -> None:
    shop.publish(qcow2())

    async def story(site: Subscribing) -> None:
        await site.cycle()
        shop.faults.asked.clear()
        assert (await site.cycle()).state is ListState.OK
        ((path, headers),) = shop.faults.asked
        assert path == "/lists/demo.skyfed"
        assert headers["if-none-match"] == shop.publisher.served("demo.skyfed").etag

    play(story)


def test_a_new_version_replaces_the_old_one_without_a_gap(shop: Shop, play: Play) -> None:
    shop.publish(qcow2(1 << 26))

    async def story(site: Subscribing) -> None:
        first = (await site.image()).pooled_id
        new = shop.publish(qcow2(1 << 27))
        shop.faults.status["/files"] = 503
        failed = await site.image()
        assert (failed.state, failed.code) == (ImageState.FAILED, "http_503")
        assert [image.id for image in site.site.service.catalogue("demo.skyfed").images] == [first]
        del shop.faults.status["/files"]
        site.shop.clock.advance(3600)
        assert (await site.image()).pooled_sha512 == new.sha512
        (offered,) = site.site.service.catalogue("demo.skyfed").images
        assert offered.sha512 == new.sha512

    play(story)


def test_a_withdrawn_image_is_retired(shop: Shop, play: Play) -> None:
    shop.publish(qcow2())

    async def story(site: Subscribing) -> None:
        await site.cycle()
        shop.publisher.withdraw("demo.skyfed", "tiny-linux", "test")
        found = await site.image()
        assert (found.state, found.code, found.pooled_id) == (ImageState.RETIRED, "not_listed", None)
        assert site.offered() == []

    play(story)


def test_an_interrupted_download_goes_on_where_it_ended(shop: Shop, play: Play) -> None:
    content = qcow2() + bytes(range(256)) * 8192
    shop.publish(content)
    shop.faults.cut_after = 1_000_000

    async def story(site: Subscribing) -> None:
        failed = await site.image()
        assert failed.state is ImageState.FAILED
        assert failed.attempts == 1
        part = next((site.folder / "downloads").glob("*.part"))
        got = part.stat().st_size
        assert 0 < got < len(content)
        shop.faults.cut_after = None
        shop.faults.asked.clear()
        site.restart()
        shop.clock.advance(60)
        assert (await site.image()).state is ImageState.POOLED
        headers = next(h for p, h in shop.faults.asked if p.startswith("/files"))
        assert headers["range"] == f"bytes={got}-"
        assert headers["if-range"] == f'"{failed.sha512}"'

    play(story)


def test_a_failed_download_is_not_tried_again_at_once(shop: Shop, play: Play) -> None:
    shop.publish(qcow2())
    shop.faults.status["/files"] = 500

    async def story(site: Subscribing) -> None:
        await site.cycle()
        due = await site.subscriber.seconds_until_due()
        assert due is not None
        assert 0 < due <= 5
        shop.faults.asked.clear()
        await site.cycle()
        assert not any(path.startswith("/files") for path, _ in shop.faults.asked)

    play(story)


@pytest.mark.parametrize(
    ("body", "code"),
    [(qcow2(1 << 27), "image_digest"), (b"short", "truncated"), (qcow2() + b"more", "image_size")],
)
def test_bytes_that_are_not_what_the_list_says_are_never_offered(
    shop: Shop, play: Play, body: bytes, code: str
) -> None:
    shop.publish(qcow2(1 << 26))
    shop.faults.replace["/files"] = body

    async def story(site: Subscribing) -> None:
        found = await site.image()
        assert found.code == code
        assert found.state in (ImageState.FAILED, ImageState.REJECTED)
        assert site.offered() == []

    play(story)


def test_a_hostile_image_is_rejected_and_not_fetched_again(shop: Shop, play: Play) -> None:
    shop.publish(qcow2(1 << 32))

    async def story(site: Subscribing) -> None:
        site.limits = InspectionLimits(max_virtual_bytes=1 << 30)
        site.restart()
        found = await site.image()
        assert (found.state, found.code, found.number) == (ImageState.REJECTED, "virtual_size", 11)
        assert site.offered() == []
        shop.faults.asked.clear()
        await site.cycle()
        assert not any(path.startswith("/files") for path, _ in shop.faults.asked)

    play(story)


def test_a_tampered_list_does_not_dislodge_the_one_in_force(shop: Shop, play: Play) -> None:
    shop.publish(qcow2())

    async def story(site: Subscribing) -> None:
        await site.cycle()
        shop.publish(qcow2(), "Another")
        message = shop.publisher.served("demo.skyfed").message
        shop.faults.replace["/lists"] = message.replace(b"Another", b"Hostile")
        found = await site.cycle()
        assert (found.state, found.code, found.number) == (ListState.STALE, "digest_mismatch", 11)
        assert site.offered() == ["Tiny Linux"]
        shop.faults.replace.clear()
        assert (await site.cycle()).state is ListState.OK
        assert sorted(site.offered()) == ["Another", "Tiny Linux"]

    play(story)


def test_an_older_list_played_again_is_refused(shop: Shop, play: Play) -> None:
    shop.publish(qcow2(), "Old")
    old = shop.publisher.served("demo.skyfed").message

    async def story(site: Subscribing) -> None:
        shop.publisher.withdraw("demo.skyfed", "old", "test")
        await site.cycle()
        shop.faults.replace["/lists"] = old
        found = await site.cycle()
        assert (found.state, found.code, found.number) == (ListState.STALE, "lower_version", 17)
        assert site.offered() == []

    play(story)


def test_a_frozen_list_loses_its_images_when_it_expires(shop: Shop, play: Play) -> None:
    """A host that serves the old list for ever gains nothing: its date is signed."""
    shop.publish(qcow2())

    async def story(site: Subscribing) -> None:
        await site.cycle()
        shop.clock.advance(29 * 86400)
        shop.pki.ca.publish(shop.pki.certificates, crl_lifetime=timedelta(days=100))
        found = await site.cycle()
        assert (found.state, found.code, found.number) == (ListState.REFUSED, "list_expired", 34)
        assert site.offered() == []

    play(story)


def test_a_revoked_endorser_loses_the_images_at_the_next_look(shop: Shop, play: Play) -> None:
    """Also when the list has not changed: certificates are judged anew each time."""
    shop.publish(qcow2())

    async def story(site: Subscribing) -> None:
        await site.cycle()
        shop.pki.ca.revoke(shop.pki.robot.certificate)
        shop.pki.ca.publish(shop.pki.certificates)
        found = await site.cycle()
        assert (found.state, found.code) == (ListState.REFUSED, "revoked")
        assert found.images[0].state is ImageState.RETIRED
        assert site.offered() == []

    play(story)


def test_a_list_that_becomes_trustworthy_again_gets_its_images_back(shop: Shop, play: Play) -> None:
    shop.publish(qcow2())

    async def story(site: Subscribing) -> None:
        await site.cycle()
        crls = list(shop.pki.certificates.glob("*.r0"))
        for crl in crls:
            crl.unlink()
        assert (await site.cycle()).code == "crl_missing"
        assert site.offered() == []
        shop.pki.ca.publish(shop.pki.certificates)
        assert (await site.cycle()).state is ListState.OK
        assert site.offered() == ["Tiny Linux"]

    play(story)


def test_an_unknown_endorser_is_refused(shop: Shop, play: Play) -> None:
    shop.publish(qcow2())

    async def story(site: Subscribing) -> None:
        stranger = Endorser(dn="/DC=skyfed/DC=demo/OU=people/CN=bob", ca=shop.pki.ca.dn)
        site.terms["demo"] = dataclasses.replace(site.terms["demo"], policy=Policy(endorsers=(stranger,)))
        site.restart()
        found = await site.cycle()
        assert (found.state, found.code, found.number) == (ListState.REFUSED, "endorser_unknown", 13)
        assert found.images == ()

    play(story)


def test_a_list_host_that_is_down_leaves_things_as_they_are(shop: Shop, play: Play) -> None:
    shop.publish(qcow2())

    async def story(site: Subscribing) -> None:
        await site.cycle()
        shop.faults.status["/lists"] = 500
        found = await site.cycle()
        assert (found.state, found.code, found.number) == (ListState.STALE, "download_failed", 10)
        assert site.offered() == ["Tiny Linux"]

    play(story)


def test_a_list_host_that_is_down_is_asked_again_soon_then_more_seldom_until_it_answers(shop: Shop, play: Play) -> None:
    shop.publish(qcow2())
    shop.faults.status["/lists"] = 503

    async def story(site: Subscribing) -> None:
        waits = []
        for _ in range(9):
            await site.cycle()
            waits.append(await site.subscriber.seconds_until_due())
        assert waits == [5, 10, 20, 40, 80, 160, 300, 300, 300]
        del shop.faults.status["/lists"]
        assert (await site.cycle()).state is ListState.OK
        assert await site.subscriber.seconds_until_due() is None

    play(story)


def test_an_image_host_that_is_down_is_asked_again_soon_and_is_one_event(shop: Shop, play: Play) -> None:
    shop.publish(qcow2())
    shop.faults.status["/files"] = 503

    async def story(site: Subscribing) -> None:
        for wait in (5, 10, 20, 40):
            assert (await site.image()).state is ImageState.FAILED
            assert await site.subscriber.seconds_until_due() == wait
            shop.clock.advance(wait)
        del shop.faults.status["/files"]
        assert (await site.image()).state is ImageState.POOLED
        assert await site.subscriber.seconds_until_due() is None
        noted = await site.db.aread(lambda conn: events.latest(conn, 100))
        assert [event.kind for event in noted].count("image-failed") == 1

    play(story)


def test_bytes_with_the_wrong_digest_are_not_fetched_over_and_over(shop: Shop, play: Play) -> None:
    shop.publish(qcow2(1 << 26))
    shop.faults.replace["/files"] = qcow2(1 << 27)

    async def story(site: Subscribing) -> None:
        assert (await site.image()).code == "image_digest"
        assert await site.subscriber.seconds_until_due() == 30

    play(story)


def test_a_reused_version_is_flagged_or_refused_as_configured(shop: Shop, play: Play) -> None:
    shop.publish(qcow2())

    async def story(site: Subscribing) -> None:
        await site.cycle()
        from images.test_evaluate import signed

        version = (await site.cycle()).version
        shop.faults.replace["/lists"] = signed(
            shop.pki.robot, **{"hv:version": version, "hv:images": [], "ad:vo": "demo.skyfed"}
        )
        found = await site.cycle()
        assert (found.state, found.code, found.number) == (ListState.STALE, "same_version", 16)
        site.terms["demo"] = dataclasses.replace(site.terms["demo"], refuse_reused_version=False)
        site.restart()
        found = await site.cycle()
        assert (found.state, found.version_reused) == (ListState.OK, True)

    play(story, refuse_reused_version=True)


def test_two_subscriptions_cannot_own_one_image(shop: Shop, play: Play) -> None:
    shop.publish(qcow2())

    async def story(site: Subscribing) -> None:
        site.terms["second"] = dataclasses.replace(site.terms["demo"], vos=frozenset({"ops"}))
        site.restart()
        await site.cycle()
        _, second = await site.subscriber.overview()
        assert (second.images[0].state, second.images[0].code, second.images[0].number) == (
            ImageState.REJECTED,
            "image_refused",
            32,
        )
        assert site.offered("ops") == []

    play(story)


def test_an_unsubscribed_list_loses_its_images(shop: Shop, play: Play) -> None:
    shop.publish(qcow2())

    async def story(site: Subscribing) -> None:
        await site.cycle()
        site.terms.clear()
        site.restart()
        await site.subscriber.cycle()
        assert site.offered() == []

    play(story)


def test_an_image_that_the_engine_has_lost_is_fetched_again(shop: Shop, play: Play) -> None:
    image = shop.publish(qcow2())

    async def story(site: Subscribing) -> None:
        await site.cycle()
        site.site.host.images.clear()
        await site.site.reconcile()
        assert site.site.service.absent_images == {image.sha512}
        assert (await site.image()).state is ImageState.POOLED
        assert site.site.host.images == {image.sha512}

    play(story)


@pytest.mark.parametrize("moment", ["before the import", "after the import"])
def test_a_crash_around_the_import_loses_and_doubles_nothing(shop: Shop, play: Play, moment: str) -> None:
    shop.publish(qcow2())

    async def story(site: Subscribing) -> None:
        real = site.site.service.import_image

        class Crash(BaseException):
            pass

        async def crashing(*arguments: Any) -> Any:
            if moment == "after the import":
                await real(*arguments)
            raise Crash

        site.site.service.import_image = crashing  # type: ignore[method-assign]
        with pytest.raises(Crash):
            await site.cycle()
        assert site.offered() == (["Tiny Linux"] if moment == "after the import" else [])
        site.site.service.import_image = real  # type: ignore[method-assign]
        site.restart()
        shop.faults.asked.clear()
        assert (await site.image()).state is ImageState.POOLED
        assert site.offered() == ["Tiny Linux"]
        assert not any(path.startswith("/files") for path, _ in shop.faults.asked), (
            "the verified file was fetched twice"
        )

    play(story)


def test_an_engine_that_is_down_is_asked_again_later(shop: Shop, play: Play) -> None:
    shop.publish(qcow2())

    async def story(site: Subscribing) -> None:
        real = site.site.service.import_image

        async def down(*_: Any) -> Any:
            raise Unavailable("the engine is down", code="engine_down")

        site.site.service.import_image = down  # type: ignore[method-assign]
        assert (await site.image()).code == "engine_down"
        site.site.service.import_image = real  # type: ignore[method-assign]
        shop.clock.advance(60)
        assert (await site.image()).state is ImageState.POOLED

    play(story)


def test_a_fault_over_one_image_keeps_no_other_from_coming_in(shop: Shop, play: Play) -> None:
    shop.publish(qcow2(1 << 26), "One")
    shop.publish(qcow2(1 << 27), "Two")

    async def story(site: Subscribing) -> None:
        real = site.site.service.import_image

        async def broken(meta: Any, path: Any) -> Any:
            if meta.title == "One":
                raise RuntimeError("a bug")
            return await real(meta, path)

        site.site.service.import_image = broken  # type: ignore[method-assign]
        found = {image.title: image for image in (await site.cycle()).images}
        assert (found["One"].state, found["One"].code) == (ImageState.FAILED, "internal")
        assert found["Two"].state is ImageState.POOLED

    play(story)


def test_a_stop_breaks_off_a_download_which_goes_on_after_the_start(shop: Shop, play: Play) -> None:
    shop.publish(qcow2() + bytes(1 << 22))

    async def story(site: Subscribing) -> None:
        site.subscriber.stop()
        broken_off = await site.image()
        assert broken_off.state is ImageState.DOWNLOADING
        part = next((site.folder / "downloads").glob("*.part"))
        assert 0 < part.stat().st_size < 1 << 22
        site.restart()
        assert (await site.image()).state is ImageState.POOLED

    play(story)


def test_what_happened_is_on_record(shop: Shop, play: Play) -> None:
    shop.publish(qcow2())

    async def story(site: Subscribing) -> None:
        await site.cycle()
        await site.cycle()
        found = site.db.read(lambda conn: events.latest(conn, 10))
        assert [event.kind for event in found] == ["image-pooled", "list-accepted"]

    play(story)
