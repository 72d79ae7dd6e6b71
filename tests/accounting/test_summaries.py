"""Monthly summaries: the oracle of the reference, and the dirty-set recompute against the full one."""

import csv
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from accounting.support_repository import LOADED, all_summaries, load
from skyfed.accounting import summaries
from skyfed.accounting.formats import parse, write_summaries
from skyfed.accounting.model import CloudRecord, CloudSummary, standard_key
from skyfed.accounting.tables import summary, usage
from skyfed.core.sql import Database
from support.postgres import Postgres, postgres
from support.vectors import vectors

__all__ = ["postgres"]


def contents(db: Database) -> tuple[set[object], set[object]]:
    """Both projections, but for the update time."""

    def look(conn):
        return (
            {tuple(row) for row in conn.execute(select(usage))},
            {tuple(v for k, v in row._mapping.items() if k != "update_time") for row in conn.execute(select(summary))},
        )

    return db.read(look)


def oracle_rows() -> list[CloudSummary]:
    def number(text: str) -> int | None:
        return None if text in ("", "NULL", "\\N") else int(text)

    with (vectors("accounting") / "summaries/oracle-600-expected.csv").open(newline="") as file:
        return [
            CloudSummary(
                site_name=row["SiteName"],
                cloud_compute_service=row["CloudComputeService"],
                month=int(row["Month"]),
                year=int(row["Year"]),
                global_user_name=row["GlobalUserName"],
                vo=row["VO"],
                vo_group=row["VOGroup"],
                vo_role=row["VORole"],
                status=row["Status"],
                cloud_type=row["CloudType"],
                image_id=row["ImageId"],
                earliest_start_time=number(row["unix_timestamp(EarliestStartTime)"]),
                latest_start_time=number(row["unix_timestamp(LatestStartTime)"]),
                wall_duration=number(row["WallDuration"]),
                cpu_duration=number(row["CpuDuration"]),
                cpu_count=Decimal(row["CpuCount"]),
                network_inbound=number(row["NetworkInbound"]),
                network_outbound=number(row["NetworkOutbound"]),
                memory=number(row["Memory"]),
                disk=number(row["Disk"]),
                benchmark_type=row["BenchmarkType"],
                benchmark=Decimal(row["Benchmark"]),
                number_of_vms=int(row["NumberOfVMs"]),
            )
            for row in csv.DictReader(file)
        ]


def oracle_input(*, cut: int = 600) -> list[Sequence[CloudRecord]]:
    records = parse((vectors("accounting") / "summaries/oracle-600-input.txt").read_bytes()).records
    return [records[i : i + cut] for i in range(0, len(records), cut)]


@pytest.mark.parametrize("cut", [600, 37])
def test_the_summaries_of_600_records_are_the_520_rows_of_the_reference(db: Database, cut: int) -> None:
    for records in oracle_input(cut=cut):
        load(db, records)
    assert len(oracle_rows()) == 520
    assert set(map(str, all_summaries(db))) == set(map(str, oracle_rows()))


@pytest.mark.peer
def test_the_oracle_holds_on_postgresql(opened: Callable[[str], Database], postgres: Postgres) -> None:
    db = opened(postgres.database())
    for records in oracle_input(cut=100):
        load(db, records)
    assert set(map(str, all_summaries(db))) == set(map(str, oracle_rows()))
    before = contents(db)
    db.write(lambda conn: summaries.recompute(conn, now=LOADED))
    assert contents(db) == before


def test_summaries_are_written_as_the_reference_writes_them() -> None:
    theirs = (vectors("accounting") / "summaries/apel-2.5.0-cloud-summary-v0.4.txt").read_text()
    theirs = theirs[: theirs.rindex("%%\n") + 3]
    blocks = theirs.partition("\n")[2].split("%%\n")[:-1]
    assert len(blocks) >= 5
    assert write_summaries([summary_of(block) for block in blocks]).decode() == theirs


def summary_of(block: str) -> CloudSummary:
    """The values of a written summary."""
    texts = dict(line.split(": ", 1) for line in block.splitlines())
    kinds = get_type_hints(CloudSummary)
    values: dict[str, object] = {}
    for name in CloudSummary.__struct_fields__:
        text = texts.get(standard_key(name))
        kind = kinds[name]
        read = Decimal if kind is Decimal else int if kind in (int, int | None) else str
        values[name] = None if text is None else read(text)
    return CloudSummary(**values)  # type: ignore[arg-type]


def record(vm: str, at: int, wall: int | None, **values: object) -> CloudRecord:
    given: dict[str, object] = {
        "vm_uuid": vm, "site_name": "ALPHA", "status": "started", "start_time": 1_700_000_000, "cpu_count": Decimal(2),
        "record_create_time": at, "wall_duration": wall, "global_user_name": "/CN=Alice", "fqan": "/vo/Role=NULL",
    }  # fmt: skip
    return CloudRecord(**{**given, **values})  # type: ignore[arg-type]


NOVEMBER, DECEMBER, JANUARY = 1_700_500_000, 1_702_000_000, 1_704_500_000


def walls(db: Database) -> list[tuple[int, str, int | None, int]]:
    return [(s.month, s.status, s.wall_duration, s.number_of_vms) for s in all_summaries(db)]


def test_a_month_is_booked_what_its_record_adds_to_the_one_before(db: Database) -> None:
    load(db, [record("v", NOVEMBER, 100), record("v", DECEMBER, 350), record("v", JANUARY, 400)])
    assert walls(db) == [(11, "started", 100, 1), (12, "started", 250, 1), (1, "started", 50, 1)]


def test_the_last_received_record_of_a_month_replaces_and_the_next_month_follows(db: Database) -> None:
    load(db, [record("v", NOVEMBER, 100), record("v", DECEMBER, 350)])
    load(db, [record("v", NOVEMBER - 5, 80)])
    assert walls(db) == [(11, "started", 80, 1), (12, "started", 270, 1)]


def test_a_changed_key_moves_the_usage_and_leaves_no_old_row(db: Database) -> None:
    load(db, [record("v", NOVEMBER, 100), record("w", NOVEMBER, 7)])
    load(db, [record("v", NOVEMBER, 120, status="completed", end_time=NOVEMBER)])
    assert sorted(walls(db)) == [(11, "completed", 120, 1), (11, "started", 7, 1)]


def test_a_record_without_measurement_time_is_nobodys_predecessor(db: Database) -> None:
    load(db, [record("v", NOVEMBER, 500, status="completed", end_time=None), record("v", DECEMBER, 350)])
    assert sorted(walls(db)) == [(0, "completed", 500, 1), (12, "started", 350, 1)]


def test_what_nobody_counted_stays_unknown(db: Database) -> None:
    load(db, [record("v", NOVEMBER, None), record("v", DECEMBER, 10)])
    assert walls(db) == [(11, "started", None, 1), (12, "started", 10, 1)]
    assert all(s.network_inbound is None for s in all_summaries(db))


def test_a_counter_that_went_back_is_negative_as_in_the_reference_or_nothing_under_repair(db: Database) -> None:
    load(db, [record("v", NOVEMBER, 100), record("v", DECEMBER, 30)])
    assert walls(db)[1] == (12, "started", -70, 1)
    db.write(lambda conn: summaries.recompute(conn, now=LOADED, counters="repair"))
    assert walls(db)[1] == (12, "started", 0, 1)


def test_counters_at_their_limit_add_up(db: Database) -> None:
    for number in range(3):
        load(db, [record(f"{number}-{i}", NOVEMBER, 10**13) for i in range(5000)])
    assert walls(db) == [(11, "started", 15_000 * 10**13, 15_000)]


_RECORDS = st.builds(
    record,
    st.sampled_from(["v1", "v2", "v3"]),
    st.sampled_from([NOVEMBER, NOVEMBER + 9, DECEMBER, DECEMBER + 9, JANUARY]),
    st.none() | st.integers(0, 1000),
    status=st.sampled_from(["started", "suspended", "completed"]),
    end_time=st.sampled_from([None, NOVEMBER, JANUARY]),
    global_user_name=st.sampled_from([None, "/CN=Alice", "/CN=Bob"]),
    image_id=st.sampled_from([None, "image"]),
    cpu_count=st.sampled_from([None, Decimal(1), Decimal("1.5")]),
    memory=st.none() | st.integers(0, 10),
    network_inbound=st.none() | st.integers(0, 10),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(_RECORDS, max_size=6), min_size=1, max_size=6))
def test_the_dirty_set_recompute_equals_the_full_one(
    opened: Callable[[], Database], messages: list[list[CloudRecord]]
) -> None:
    db = opened()
    for records in messages:
        load(db, records)
    incremental = contents(db)
    db.write(lambda conn: summaries.recompute(conn, now=LOADED))
    assert contents(db) == incremental


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_RECORDS, max_size=12), st.integers(1, 5))
def test_loading_twice_gives_the_same_state_and_stores_nothing_new(
    opened: Callable[[], Database], records: list[CloudRecord], cut: int
) -> None:
    db = opened()
    load(db, records)
    before = contents(db)
    again = load(db, records)
    assert again.stored == 0
    assert contents(db) == before
