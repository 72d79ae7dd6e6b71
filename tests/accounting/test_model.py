"""Measurement time, month, FQANs and quality remarks of usage records."""

from decimal import Decimal

import pytest

from skyfed.accounting.model import NO_MONTH, CloudRecord, Month, month_of, parse_month, remarks, vo_names

START = 1_700_000_000


def record(**values: object) -> CloudRecord:
    given = {"vm_uuid": "v", "site_name": "S", "status": "started", "cpu_count": Decimal(1), "start_time": START}
    return CloudRecord(**{**given, **values})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fqan", "names"),
    [
        ("vo.example.org", ("vo.example.org", "None", "None")),
        ("/vo/grp/sub/Role=member/Capability=NULL", ("vo", "/vo/grp/sub", "Role=member")),
        ("/vo/Role=NULL/Capability=NULL", ("vo", "/vo", "Role=NULL")),
        ("/vo/grp", ("vo", "/vo/grp", "None")),
        ("/vo/grp/Capability=NULL", ("vo", "/vo/grp", "None")),
        ("/vo/grp/role=x;/vo2", ("vo", "/vo/grp", "role=x")),
        (None, ("None", "None", "None")),
        ("", ("None", "None", "None")),
        ("/", ("None", "/", "None")),
        ("/Role=x", ("None", "/", "Role=x")),
    ],
)
def test_an_fqan_tells_vo_group_and_role(fqan: str | None, names: tuple[str, str, str]) -> None:
    assert vo_names(fqan) == names


def test_a_completed_record_is_measured_at_its_end() -> None:
    assert record(status="COMPLETED", end_time=START + 9, record_create_time=5).measurement_time == START + 9


def test_a_completed_record_without_end_is_booked_to_no_month() -> None:
    assert record(status="completed", wall_duration=10).month == NO_MONTH


def test_a_running_record_is_measured_when_it_was_created() -> None:
    assert record(record_create_time=START + 7).measurement_time == START + 7


def test_without_creation_time_the_durations_tell_when_it_was_measured() -> None:
    assert record(wall_duration=3600, suspend_duration=60).measurement_time == START + 3660
    assert record(start_time=None, wall_duration=3600).month == NO_MONTH


def test_months_are_those_of_utc() -> None:
    assert month_of(1_701_388_799) == Month(2023, 11)
    assert month_of(1_701_388_800) == Month(2023, 12)


def test_an_instant_beyond_the_calendar_has_no_month() -> None:
    assert record(wall_duration=2**63 - 1).month == NO_MONTH


@pytest.mark.parametrize("text", ["2026-13", "2026-00", "0000-01", "26-01", "2026-1", "2026-01-01", "x"])
def test_what_is_no_month_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="YYYY-MM"):
        parse_month(text)


def test_a_sound_record_has_no_remarks() -> None:
    sound = record(wall_duration=100, record_create_time=START + 100)
    assert remarks(sound, now=START + 1000, previous=record(wall_duration=50), sites={"S"}, vos={"None"}) == []


@pytest.mark.parametrize(
    ("code", "values"),
    [
        ("W01", {"status": "completed", "end_time": START - 1}),
        ("W02", {"wall_duration": 2000}),
        ("W03", {"wall_duration": 10, "record_create_time": START + 500}),
        ("W04", {"cpu_count": Decimal(0)}),
        ("W05", {"status": "sleeping"}),
        ("W06", {"site_name": "NOWHERE"}),
        ("W06", {"fqan": "/stranger/Role=NULL"}),
        ("W07", {"start_time": None}),
    ],
)
def test_each_oddity_has_its_code(code: str, values: dict[str, object]) -> None:
    before = record(wall_duration=50)
    found = remarks(record(**values), now=START + 1000, previous=before, sites={"S"}, vos={"None"})
    assert [remark.code for remark in found] == [code]
