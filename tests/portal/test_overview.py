"""The view worked out of a snapshot."""

from datetime import timedelta

import msgspec
import pytest

from portal import sample
from skyfed.portal import text
from skyfed.portal.model import OfferedSite, Reading, RegisteredSite, Snapshot
from skyfed.portal.overview import Overview, overview

replace = msgspec.structs.replace


def view(snapshot: Snapshot) -> Overview:
    return overview(snapshot, sample.NOW, sample.REFRESH)


def test_registry_and_information_system_are_joined_by_the_sites_name() -> None:
    found = view(sample.snapshot())
    assert [site.name for site in found.sites] == ["ALPHA", "BETA"]
    beta = found.sites[1]
    assert (beta.infrastructure, beta.certification, beta.running, beta.total_cores) == ("Test", "Uncertified", 1, 8)
    assert len(beta.services) == 3
    assert [image.title for image in beta.images] == ["Skyfed demo guest", "Debian 12"]


def test_the_totals_count_production_sites_apart_and_an_image_once() -> None:
    totals = view(sample.snapshot()).totals
    assert (totals.sites, totals.test_sites) == (1, 1)
    assert (totals.running, totals.total_cores, totals.images) == (4, 24, 2)
    assert totals.vms_today == 15
    assert totals.wall_hours == pytest.approx(40_500 / 3600)


def test_a_site_that_one_source_only_knows_is_shown_and_says_so() -> None:
    snapshot = Snapshot(
        registry=Reading(value=(RegisteredSite(name="NEW"),), at=sample.NOW),
        infosys=Reading(value=(OfferedSite(name="stray"),), at=sample.NOW),
    )
    new, stray = view(snapshot).sites
    assert (new.name, new.registered, new.published) == ("NEW", True, False)
    assert (stray.name, stray.registered, stray.published) == ("stray", False, True)


def test_what_no_source_has_told_is_not_nought() -> None:
    totals = view(Snapshot(registry=Reading(), infosys=Reading(), accounting=Reading())).totals
    assert totals.sites is None
    assert totals.running is None
    assert totals.images is None
    assert totals.wall_hours is None


def test_running_machines_are_counted_by_accounting_where_no_site_publishes_them() -> None:
    assert view(replace(sample.snapshot(), infosys=Reading(configured=False))).totals.running == 9


def test_sources_are_fresh_stale_failed_or_waiting() -> None:
    fresh = sample.snapshot()
    broken = replace(
        fresh,
        registry=fresh.registry.failed("the registry is down", sample.NOW),
        infosys=replace(fresh.infosys, at=sample.NOW - timedelta(minutes=3)),
        accounting=Reading[object]().failed("no route", sample.NOW),
    )
    found = {source.name: source for source in view(broken).sources}
    assert (found["registry"].state, found["registry"].problem) == ("stale", "the registry is down")
    assert (found["infosys"].state, found["infosys"].age_seconds) == ("stale", 180)
    assert (found["accounting"].state, found["accounting"].fetched) == ("failed", None)
    assert [s.state for s in view(Snapshot(registry=Reading())).sources] == ["waiting"]
    assert [s.state for s in view(fresh).sources] == ["ok", "ok", "ok"]


def test_a_failure_keeps_what_was_known() -> None:
    reading = sample.snapshot().registry.failed("gone", sample.NOW)
    assert reading.value == (sample.ALPHA, sample.BETA)
    assert reading.succeeded((), sample.NOW).error == ""


@pytest.mark.parametrize(
    ("seconds", "shown"), [(None, "–"), (0, "0 s"), (59.9, "59 s"), (60, "1 min"), (7200, "2 h"), (400_000, "4 d")]
)
def test_ages_are_read_at_a_glance(seconds: float | None, shown: str) -> None:
    assert text.age(seconds) == shown


def test_numbers_are_grouped_and_durations_have_a_fitting_unit() -> None:
    assert text.count(12345) == "12\u202f345"
    assert [text.duration(h) for h in (None, 0.01, 0.123, 12.34, 12345.6)] == [
        "–",
        "36 s",
        "7 min",
        "12.3 h",
        "12\u202f346 h",
    ]
    assert [text.disk(size) for size in (None, 0.0, 2.5)] == ["–", "as image", "2.5 GB"]
    assert text.duration(0.0) == "0 s"
    assert [text.memory(m) for m in (256, 1024, 1536)] == ["256 MB", "1 GB", "1.5 GB"]
    assert [text.percent(v, 10) for v in (0, 5, 20)] == ["0.0", "50.0", "100.0"]
    assert text.percent(5, 0) == "0"
