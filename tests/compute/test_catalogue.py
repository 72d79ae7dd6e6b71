"""Images: offered to the right people, replaced by new versions, dropped when nothing needs them."""

from datetime import timedelta

import pytest

from skyfed.compute.model import IdentifierKind, ImageState
from skyfed.core.errors import Invalid, NotFound, Unavailable
from support.compute_site import START, HandClock, Run, Site, owner, settings


def test_an_image_is_offered_to_the_organisations_of_its_list(run: Run) -> None:
    async def story(site: Site) -> None:
        image = await site.image(vos=frozenset({"demo.skyfed"}))
        assert [one.id for one in site.service.catalogue("demo.skyfed").images] == [image.id]
        assert site.service.catalogue("ops").images == ()
        assert [flavour.term for flavour in site.service.catalogue("ops").flavours] == ["tiny", "large"]
        with pytest.raises(NotFound):
            await site.create(image, who=owner("robot", vo="ops"))

    run(story)


def test_importing_the_same_again_changes_nothing_and_tells_nobody(run: Run) -> None:
    async def story(site: Site) -> None:
        first = await site.image()
        version = site.service.catalogue_changes.version
        assert await site.image() == first
        assert site.service.catalogue_changes.version == version

    run(story)


def test_new_facts_about_the_same_bytes_are_told(run: Run) -> None:
    async def story(site: Site) -> None:
        first = await site.image()
        version = site.service.catalogue_changes.version
        again = await site.image(vos=frozenset({"ops"}))
        assert (again.id, again.os_tpl_term) == (first.id, first.os_tpl_term)
        assert site.service.catalogue_changes.version > version
        assert site.service.catalogue("demo.skyfed").images == ()

    run(story)


def test_a_new_version_replaces_the_old_under_the_same_term(run: Run) -> None:
    async def story(site: Site) -> None:
        old = await site.image(version="1", mpuri="https://market.example.org/image/demo:1/")
        vm = await site.running(old)
        new = await site.image(
            "demo2",
            title="other title",
            dc_identifier="demo",
            version="2",
            mpuri="https://market.example.org/image/demo:2/",
        )
        assert new.os_tpl_term == old.os_tpl_term
        assert [image.version for image in site.service.catalogue("demo.skyfed").images] == ["2"]
        assert {image.id: image.state for image in site.service.images()} == {
            old.id: ImageState.RETIRED,
            new.id: ImageState.AVAILABLE,
        }
        assert site.service.get(vm.id, None).image_identifier == "https://market.example.org/image/demo:1/"

    run(story)


def test_a_retired_image_leaves_the_engine_when_no_machine_needs_it(run: Run) -> None:
    async def story(site: Site) -> None:
        image = await site.image()
        vm = await site.running(image)
        await site.service.retire_image(image.id)
        assert site.service.catalogue("demo.skyfed").images == ()
        await site.reconcile()
        assert image.sha512 in site.host.images
        await site.service.delete(vm.id, owner())
        await site.gone(vm.id)
        await site.reconcile()
        assert site.host.images == set()
        with pytest.raises(NotFound):
            await site.service.retire_image("no such")

    run(story)


def test_an_expired_image_is_not_offered_and_that_is_told(run: Run, clock: HandClock) -> None:
    async def story(site: Site) -> None:
        await site.image(expires=START + timedelta(hours=1))
        await site.reconcile()
        version = site.service.catalogue_changes.version
        clock.advance(3601)
        assert site.service.catalogue("demo.skyfed").images == ()
        await site.reconcile()
        assert site.service.catalogue_changes.version > version

    run(story)


def test_an_image_that_the_engine_lost_is_not_offered_until_it_is_imported_again(run: Run) -> None:
    async def story(site: Site) -> None:
        image = await site.image()
        site.host.images.clear()
        await site.reconcile()
        assert site.service.catalogue("demo.skyfed").images == ()
        assert site.service.absent_images == {image.sha512}
        await site.image()
        assert site.service.absent_images == frozenset()
        assert [one.id for one in site.service.catalogue("demo.skyfed").images] == [image.id]

    run(story)


def test_an_image_that_the_engine_refuses_is_not_offered(run: Run) -> None:
    async def story(site: Site) -> None:
        site.engine.fail("import_image", Invalid("it has a backing file", code="invalid"))
        with pytest.raises(Invalid, match="backing file"):
            await site.image()
        site.engine.fail("import_image", Unavailable("no space left", code="no_capacity"))
        with pytest.raises(Unavailable):
            await site.image()
        assert site.service.images() == ()
        assert site.service._reconciler._incoming == {}

    run(story)


def test_an_image_without_a_proper_digest_is_refused(run: Run) -> None:
    async def story(site: Site) -> None:
        with pytest.raises(Invalid, match="128 lower-case"):
            await site.image(sha512="../../etc/passwd")

    run(story)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ((IdentifierKind.MPURI, IdentifierKind.DC), "https://market.example.org/image/demo:1/"),
        ((IdentifierKind.DC, IdentifierKind.MPURI), "demo"),
        ((IdentifierKind.OS_TPL,), "demo-"),
    ],
)
def test_the_identifier_is_the_first_in_the_order_of_the_settings(
    run: Run, site: Site, order: tuple[IdentifierKind, ...], expected: str
) -> None:
    site.settings = settings(identifier_order=order)

    async def story(site: Site) -> None:
        image = await site.image()
        assert image.identifier.startswith(expected)
        vm = await site.create(image)
        assert vm.image_identifier == image.identifier

    run(story)


def test_without_list_names_an_image_is_known_by_its_term(run: Run) -> None:
    async def story(site: Site) -> None:
        image = await site.image(mpuri=None, dc_identifier=None, title="Ünïted <Image> 3.1\n")
        assert image.identifier == image.os_tpl_term
        assert image.os_tpl_term.replace("-", "").isalnum()
        assert image.os_tpl_term.isascii()

    run(story)


def test_the_catalogue_survives_a_restart(run: Run) -> None:
    async def story(site: Site) -> None:
        image = await site.image(expires=START + timedelta(days=1), description="d", os_name="Debian")
        await site.crash()
        await site.start()
        assert site.service.catalogue("ops").images == (image,)

    run(story)
