"""From usage events to cloud records: life, durations, ends of months, determinism."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from accounting.support_journal import ALICE, PRODUCER, A, B, D, G, Journal, P, S
from skyfed.accounting.extract import Machine, close_months, follow, latest
from skyfed.accounting.formats import parse, write_records
from skyfed.accounting.model import CloudRecord, Month
from skyfed.compute.model import Counters, VmState
from skyfed.core.clock import epoch

START = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)


def extracted(journal: Journal, *, start: int = 0) -> tuple[dict[str, Machine], list[CloudRecord]]:
    machines: dict[str, Machine] = {}
    records: list[CloudRecord] = []
    for event in journal.events[start:]:
        machines[event.vm_id], found = follow(machines.get(event.vm_id), event, PRODUCER)
        records += found
    return machines, records


def walls(records: Sequence[CloudRecord]) -> list[tuple[str, str | None, int | None, int | None]]:
    return [(str(r.month), r.status, r.wall_duration, r.suspend_duration) for r in records]


def test_the_final_record_tells_the_whole_life_within_a_second() -> None:
    journal = Journal()
    journal.life(
        "v",
        START,
        [(0, P), (0.2, B), (4.7, A), (100.4, VmState.STOPPING), (103.9, S), (150.1, A), (200.6, D), (201, G)],
    )
    _, records = extracted(journal)
    final = records[-1]
    assert final.status == "completed"
    assert final.start_time == epoch(START)
    assert final.end_time == epoch(START) + 200
    assert final.measurement_time == final.end_time
    assert final.wall_duration == int((103.9 - 4.7) + (200.6 - 150.1))
    assert final.suspend_duration == int(150.1 - 103.9)
    assert len([r for r in records if r.completed]) == 1, "what happens after the end gives no further record"


def test_every_field_is_as_the_standard_says() -> None:
    journal = Journal()
    journal.life("v", START, [(0, P), (1, A)])
    journal.add("v", START + timedelta(hours=2), A, counters=Counters(cpu_seconds=99.9, net_in_bytes=3_999_999_999))
    record = extracted(journal)[1][-1]
    assert record == CloudRecord(
        record_create_time=epoch(START) + 7200,
        vm_uuid="v",
        site_name="ALPHA",
        cloud_compute_service="alpha.localhost",
        machine_name="machine v",
        local_user_id=record.local_user_id,
        local_group_id="demo.skyfed",
        global_user_name=ALICE.subject,
        fqan=ALICE.fqans[0],
        status="started",
        start_time=epoch(START),
        suspend_duration=0,
        wall_duration=7199,
        cpu_duration=99,
        cpu_count=Decimal(2),
        network_inbound=3,
        public_ip_count=0,
        memory=512,
        disk=2,
        benchmark_type="HEPSPEC06",
        benchmark=Decimal("10.5"),
        image_id="https://market.example/image",
        cloud_type="skyfed/0.1.0 (libvirt)",
    )
    assert "alice" not in str(record.local_user_id)


def test_what_the_engine_cannot_count_is_absent_on_the_wire() -> None:
    journal = Journal()
    journal.life("v", START, [(0, P), (1, A)])
    body = write_records(extracted(journal)[1]).decode()
    assert "Network" not in body.replace("NetworkType: None", "")
    assert "CpuDuration" not in body
    assert parse(body).records[-1].network_inbound is None


def test_samples_are_reported_once_an_interval() -> None:
    journal = Journal()
    journal.life("v", START, [(0, P), (10, A), *((10 + 900 * i, A) for i in range(1, 13))])
    _, records = extracted(journal)
    assert [r.wall_duration for r in records] == [0, 0, 3600, 7200, 10800]


def test_each_month_ends_with_a_record_of_exactly_its_usage() -> None:
    journal = Journal()
    start = datetime(2026, 11, 30, 22, 0, 0, tzinfo=UTC)
    journal.life("v", start, [(0, P), (0, A), (3600, A), (3 * 3600, A), (4 * 3600, G)])
    _, records = extracted(journal)
    assert walls(latest(records)) == [("2026-11", "started", 7200, 0), ("2026-12", "completed", 4 * 3600, 0)]
    november = latest(records)[0]
    assert november.record_create_time == epoch(datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC))
    assert november.cpu_duration == 3600, "counters are interpolated at the end of the month"


def test_a_silence_of_months_gives_every_month_its_share() -> None:
    journal = Journal()
    start = datetime(2026, 11, 30, 0, 0, 0, tzinfo=UTC)
    journal.life("v", start, [(0, P), (0, A), (86_400 * 64, S)])
    _, records = extracted(journal)
    assert [(str(r.month), r.wall_duration) for r in latest(records)] == [
        ("2026-11", 86_400), ("2026-12", 86_400 * 32), ("2027-01", 86_400 * 63), ("2027-02", 86_400 * 64),
    ]  # fmt: skip


def test_a_stopped_machine_is_reported_each_month_without_any_event() -> None:
    journal = Journal()
    journal.life("v", START, [(0, P), (0, A), (100, S)])
    machine = extracted(journal)[0]["v"]
    now = datetime(2027, 1, 5, tzinfo=UTC)
    machine, records = close_months(machine, now, PRODUCER)
    assert [(str(r.month), r.status, r.wall_duration) for r in records] == [
        ("2026-11", "suspended", 100), ("2026-12", "suspended", 100),
    ]  # fmt: skip
    assert close_months(machine, now, PRODUCER) == (machine, [])


def test_an_event_that_comes_late_counts_nothing_twice() -> None:
    journal = Journal()
    journal.life("v", START, [(0, P), (0, A), (100, S)])
    machine = extracted(journal)[0]["v"]
    machine, _ = close_months(machine, datetime(2026, 12, 1, 0, 5, tzinfo=UTC), PRODUCER)
    late = journal.add("v", datetime(2026, 11, 30, 23, 59, 58, tzinfo=UTC), D)
    machine, (record,) = follow(machine, late, PRODUCER)
    total = (record.wall_duration or 0) + (record.suspend_duration or 0)
    assert record.completed
    assert total == (datetime(2026, 12, 1, tzinfo=UTC) - START).total_seconds()


def test_a_running_machine_waits_for_its_next_sample() -> None:
    journal = Journal()
    journal.life("v", START, [(0, P), (0, A)])
    machine = extracted(journal)[0]["v"]
    assert close_months(machine, datetime(2027, 1, 5, tzinfo=UTC), PRODUCER) == (machine, [])


def test_a_clock_that_jumps_over_midnight_books_only_what_was_used() -> None:
    journal = Journal()
    start = datetime(2026, 11, 30, 23, 0, 0, tzinfo=UTC)
    journal.life("v", start, [(0, P), (0, A)])
    journal.add("v", datetime(2026, 12, 2, 0, 0, 0, tzinfo=UTC), S, elapsed=60.0)
    _, records = extracted(journal)
    assert walls(latest(records)) == [("2026-11", "started", 60, 0), ("2026-12", "suspended", 60, 0)]


_STEPS = st.lists(
    st.tuples(st.floats(0, 40 * 86_400), st.sampled_from([A, A, S, VmState.STOPPING, VmState.ERROR, VmState.UNKNOWN])),
    max_size=8,
)


@given(_STEPS, st.booleans())
def test_counters_only_grow_and_add_up_whatever_happens(steps: list[tuple[float, VmState]], ends: bool) -> None:
    journal, when = Journal(), START
    journal.add("v", when, P)
    for seconds, state in [*steps, *([(1.0, D), (0.5, G)] if ends else [])]:
        when += timedelta(seconds=seconds)
        journal.add("v", when, state)
    _, records = extracted(journal)
    for earlier, later in pairwise(records):
        assert (later.wall_duration or 0) >= (earlier.wall_duration or 0)
        assert (later.suspend_duration or 0) >= (earlier.suspend_duration or 0)
        assert (later.cpu_duration or 0) >= (earlier.cpu_duration or 0)
        assert later.month >= earlier.month > Month(0, 0)
    last = records[-1]
    assert (last.wall_duration or 0) + (last.suspend_duration or 0) <= (last.measurement_time or 0) - epoch(START) + 1
    # The months between the first and the last are all there, however long nothing was heard.
    months = sorted({record.month for record in records})
    assert len(months) == (months[-1].year - months[0].year) * 12 + months[-1].month - months[0].month + 1
    assert extracted(journal)[1] == records, "the same journal gives the same records"
