"""APEL text messages: the reference's verdicts, byte-exact writing, and hostile input."""

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyfed.accounting.formats import MAX_RECORDS, parse, write_records
from skyfed.accounting.model import NO_MONTH, CloudRecord, Month
from skyfed.core.errors import Invalid, SkyfedError, TooLarge
from support.vectors import vectors

HEADER = "APEL-cloud-message: v0.4\n"
MINIMAL = "VMUUID: v\nSiteName: S\n"


def one(lines: str) -> CloudRecord:
    (record,) = parse(HEADER + MINIMAL + lines).records
    return record


def test_every_edge_case_has_the_verdict_of_the_reference_loader() -> None:
    cases = json.loads((vectors("accounting") / "records/apel-2.5.0-edge-cases.json").read_text())["cases"]
    assert len(cases) == 23
    for case in cases:
        try:
            parse(case["message"])
            verdict = "accept"
        except Invalid:
            verdict = "reject"
        assert verdict == case["result"], case


def test_what_the_reference_wrote_is_read_and_written_again_byte_for_byte() -> None:
    body = (vectors("accounting") / "records/apel-2.5.0-unloaded-cloud-v0.4.txt").read_bytes()
    whole = body[: body.rindex(b"%%\n") + 3]  # the vector's last record is cut off
    message = parse(whole)
    assert len(message.records) >= 5
    assert write_records(message.records) == whole


def test_messages_of_caso_are_read() -> None:
    message = parse((vectors("accounting") / "records/caso-5.2.2-cloud-v0.4.txt").read_bytes())
    ended, running = message.records
    assert ended.completed
    assert ended.month == Month(2026, 4)
    assert ended.benchmark == Decimal("11.5")
    assert ended.fqan == "vo.example.org"
    assert running.end_time is None, "cASO says 0 for 'still running'"
    assert running.global_user_name is None
    assert running.measurement_time == 1775037600 + 3600


def test_the_oracle_message_is_read_whole() -> None:
    message = parse((vectors("accounting") / "summaries/oracle-600-input.txt").read_bytes())
    assert len(message.records) == 600
    assert message.remarks == ()


@pytest.mark.parametrize("null", ["NULL", "null", "None", "NONE", ""])
def test_null_in_any_spelling_is_no_value(null: str) -> None:
    record = one(f"WallDuration: {null}\nImageId: {null}\nEndTime: {null}\n")
    assert record.wall_duration is None
    assert record.image_id is None
    assert record.end_time is None


def test_of_a_key_given_twice_the_last_counts() -> None:
    assert one("Status: started\nStatus: suspended\n").status == "suspended"


def test_values_may_hold_colons() -> None:
    assert one("GlobalUserName: /CN=a: b\n").global_user_name == "/CN=a: b"


def test_carriage_returns_and_a_trailing_separator_are_accepted() -> None:
    body = (HEADER + MINIMAL + "%%\n" + MINIMAL.replace("v", "w") + "%%\n").replace("\n", "\r\n")
    assert [record.vm_uuid for record in parse(body).records] == ["v", "w"]


def test_one_bad_record_rejects_the_whole_message_and_is_named_by_its_place() -> None:
    with pytest.raises(Invalid, match=r"record 2: WallDuration has the value '1\.5'") as caught:
        parse(HEADER + MINIMAL + "%%\n" + MINIMAL + "WallDuration: 1.5\n%%\n" + MINIMAL)
    assert caught.value.code == "field_value"


def test_numbers_and_names_that_do_not_fit_are_cut_and_remarked() -> None:
    message = parse(HEADER + f"VMUUID: {'u' * 300}\nSiteName: S\nWallDuration: {10**20}\nCpuCount: -1\n")
    (record,) = message.records
    assert len(record.vm_uuid) == 255
    assert record.wall_duration == 10**13
    assert record.cpu_count == 0
    assert [remark.code for remark in message.remarks] == ["W08"] * 3


@pytest.mark.parametrize("text", ["-1", "99999999999999", "yesterday", "2020-13-01T00:00:00Z"])
def test_an_instant_that_no_calendar_has_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="StartTime"):
        one(f"StartTime: {text}\n")


def test_instants_in_iso_form_are_utc_unless_they_say_otherwise() -> None:
    assert one("StartTime: 2020-01-01T00:00:00\n").start_time == 1577836800
    assert one("StartTime: 2020-01-01T01:00:00+01:00\n").start_time == 1577836800


def test_summaries_and_other_types_are_refused_by_name() -> None:
    with pytest.raises(Invalid, match="APEL-sync-message") as caught:
        parse("APEL-sync-message: v0.1\nSite: S\n")
    assert caught.value.code == "message_type"


def test_bounds_hold() -> None:
    with pytest.raises(TooLarge):
        parse(HEADER + (MINIMAL + "%%\n") * (MAX_RECORDS + 1))
    with pytest.raises(TooLarge):
        parse(HEADER + MINIMAL + "ImageId: " + "x" * 70_000)
    with pytest.raises(TooLarge):
        parse(b"x" * (10 * 1024 * 1024 + 1))


def test_bytes_that_are_no_text_are_refused() -> None:
    for body in (b"\xff\xfe", (HEADER + MINIMAL).encode("utf-16"), (HEADER + MINIMAL + "ImageId: a\x00b\n").encode()):
        with pytest.raises(Invalid) as caught:
            parse(body)
        assert caught.value.code == "message_encoding"


def test_a_machine_name_cannot_smuggle_in_fields_or_records() -> None:
    evil = "x\nWallDuration: 99999\r\n%%\nVMUUID: stolen\nSiteName: OTHER %%% é"
    body = write_records([CloudRecord(vm_uuid="v", site_name="S", machine_name=evil)])
    (record,) = parse(body).records
    assert (record.vm_uuid, record.site_name, record.wall_duration) == ("v", "S", None)
    assert body.isascii()


_NAMES = st.text(max_size=80)
_COUNTS = st.none() | st.integers(0, 10**13)
_INSTANTS = st.none() | st.integers(1, 4_000_000_000)


@given(
    st.builds(
        CloudRecord,
        vm_uuid=st.uuids().map(str),
        site_name=st.sampled_from(["ALPHA", "BETA"]),
        machine_name=_NAMES,
        fqan=_NAMES,
        status=st.sampled_from(["started", "suspended", "completed"]),
        record_create_time=_INSTANTS,
        start_time=_INSTANTS,
        end_time=_INSTANTS,
        wall_duration=_COUNTS,
        network_inbound=_COUNTS,
        cpu_count=st.none() | st.decimals(0, 9_999_999, places=3),
    )
)
def test_what_we_write_we_read_with_the_same_numbers(record: CloudRecord) -> None:
    (again,) = parse(write_records([record])).records
    for name in ("vm_uuid", "site_name", "status", "record_create_time", "start_time", "end_time", "wall_duration",
                 "network_inbound", "cpu_count", "month"):  # fmt: skip
        assert getattr(again, name) == getattr(record, name), name


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: (HEADER + text).encode("utf-8", "replace")))
def test_whatever_comes_in_is_records_or_one_of_our_errors(body: bytes) -> None:
    try:
        message = parse(body)
    except SkyfedError:
        return
    assert all(
        record.vm_uuid and (record.month == NO_MONTH or record.month.month in range(1, 13))
        for record in message.records
    )
