"""The site's sender: nothing lost and nothing doubled, whatever breaks when; dead letters; republishing."""

import asyncio
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from accounting import sender_process
from accounting.support_journal import ALICE, PRODUCER, A, D, G, Journal, P, S
from accounting.support_repository import MemoryRegistry, all_summaries, dn, load, repository
from skyfed.accounting import store, tables
from skyfed.accounting.extract import Machine, follow, latest
from skyfed.accounting.formats import parse, write_records
from skyfed.accounting.model import CloudRecord, Month
from skyfed.accounting.sender import Sender, SignedDelivery, messages
from skyfed.accounting.store import Filter
from skyfed.core import errors
from skyfed.core.clock import FixedClock
from skyfed.core.sql import Database
from skyfed.pki import smime
from support.pki import NOW, Pki

START = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)


class Remote:
    """Where messages go: keeps them, and fails when the test says so."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.names: list[str] = []
        self.fail: Callable[[bytes], Exception | None] = lambda _body: None
        self.fail_after: Callable[[bytes], Exception | None] = lambda _body: None

    def __call__(self, body: bytes, empaid: str) -> None:
        if error := self.fail(body):
            raise error
        self.bodies.append(body)
        self.names.append(empaid)
        if error := self.fail_after(body):
            raise error

    @property
    def records(self) -> list[CloudRecord]:
        return [record for body in self.bodies for record in parse(body).records]


def sender_of(
    db: Database,
    source: Journal,
    remote: Callable[[bytes, str], None],
    clock: FixedClock | None = None,
    **changes: object,
) -> Sender:
    given: dict[str, object] = {
        "site": "ALPHA",
        "producer": PRODUCER,
        "clock": clock or FixedClock(NOW),
        "send": remote,
    }
    return Sender(db, source, **{**given, **changes})  # type: ignore[arg-type]


def deliver_all(sender: Sender, until: Callable[[], bool] | None = None) -> None:
    """Run the outbox until nothing waits (or `until` says so)."""

    async def scenario() -> None:
        task = asyncio.create_task(sender.outbox.run())
        deadline = asyncio.get_running_loop().time() + 20
        while sender.status().waiting and not (until and until()):
            assert asyncio.get_running_loop().time() < deadline
            assert not task.done() or task.result() is None
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scenario())


def extract(sender: Sender) -> int:
    return asyncio.run(sender.extract())


def expected(journal: Journal) -> list[CloudRecord]:
    """What the repository must hold in the end: the last record of each machine and month, as it comes off the wire."""
    machines: dict[str, Machine] = {}
    records: list[CloudRecord] = []
    for event in journal.events:
        machines[event.vm_id], found = follow(machines.get(event.vm_id), event, PRODUCER)
        records += found
    return list(parse(write_records(latest(records))).records)


def final(records: list[CloudRecord]) -> set[str]:
    return {str(record) for record in latest(records)}


@pytest.fixture
def journal() -> Journal:
    made = Journal()
    made.life("v", START, [(0, P), (2, A), (3600, S), (7200, A), (9000, D), (9001, G)])
    made.life("w", START, [(0, P), (2, A)])
    return made


def test_the_journal_becomes_records_in_the_outbox_and_the_cursor_moves(db: Database, journal: Journal) -> None:
    remote = Remote()
    sender = sender_of(db, journal, remote)
    assert extract(sender) == 2
    assert (sender.status().cursor, sender.status().machines, sender.status().waiting) == (8, 1, 1)
    deliver_all(sender)
    assert final(remote.records) == final(expected(journal))
    assert extract(sender) == 0
    assert sender.status().waiting == 0


def test_a_restart_goes_on_where_the_last_transaction_ended(db: Database, journal: Journal) -> None:
    remote = Remote()
    events = journal.events
    for upto in range(1, len(events) + 1):
        part = Journal()
        part.events = events[:upto]
        extract(sender_of(db, part, remote))
    deliver_all(sender_of(db, journal, remote))
    assert final(remote.records) == final(expected(journal))
    assert [r.wall_duration for r in remote.records if r.completed] == [3598 + 1800]


def test_a_failing_transaction_leaves_cursor_and_outbox_as_they_were(
    db: Database, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = Remote()
    sender = sender_of(db, journal, remote, records_per_message=1)
    puts = 0
    original = sender.outbox.put

    def breaking(*args: object, **kwargs: object) -> int:
        nonlocal puts
        puts += 1
        if puts == 2:
            raise RuntimeError("the disk is full")
        return original(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(sender.outbox, "put", breaking)
    with pytest.raises(RuntimeError):
        extract(sender)
    assert (sender.status().cursor, sender.status().machines, sender.status().waiting) == (0, 0, 0)
    assert extract(sender) == 2
    deliver_all(sender)
    assert final(remote.records) == final(expected(journal))


def test_an_answer_that_is_lost_leads_to_a_repeat_under_the_same_name(db: Database, journal: Journal) -> None:
    remote = Remote()
    failures = iter([errors.TimedOut("lost"), None, None])
    remote.fail_after = lambda _body: next(failures)
    clock = FixedClock(NOW)
    sender = sender_of(db, journal, remote, clock)
    extract(sender)
    deliver_all(sender, until=lambda: sender.status().last_error != "")
    assert sender.status().last_error == "lost"
    clock.advance(60)
    deliver_all(sender)
    assert len(remote.names) == 2
    assert len(set(remote.names)) == 1
    assert remote.bodies[0] == remote.bodies[1]


def test_a_message_refused_for_good_is_a_dead_letter_and_others_go_on(db: Database, journal: Journal) -> None:
    remote = Remote()
    remote.fail = lambda body: errors.Forbidden("not yours", code="signer_not_bound") if b"VMUUID: v" in body else None
    sender = sender_of(db, journal, remote, records_per_message=1)
    extract(sender)
    deliver_all(sender)
    assert [record.vm_uuid for record in remote.records] == ["w"]
    assert sender.status().dead == 1
    (dead,) = sender.dead()
    assert dead.error == "not yours"
    remote.fail = lambda _body: None
    sender.outbox.retry(dead.id)
    deliver_all(sender)
    assert final(remote.records) == final(expected(journal))
    assert sender.status().dead == 0


@pytest.mark.parametrize(
    ("error", "lasting"),
    [
        (errors.Invalid("bad", code="field_value"), True),
        (errors.TooLarge("big"), True),
        (errors.Forbidden("no", code="signer_not_bound"), True),
        (errors.Forbidden("no", code="signer_revoked"), True),
        (errors.Forbidden("no", code="foreign_machine"), True),
        (errors.Forbidden("no", code="banned"), False),
        (errors.Unauthenticated("no", code="expired"), False),
        (errors.NotFound("wrong address"), False),
        (errors.Unavailable("down"), False),
        (errors.TimedOut("slow"), False),
    ],
)
def test_only_the_repositorys_judgement_on_the_message_is_final(error: errors.SkyfedError, lasting: bool) -> None:
    class Post:
        def post_message(self, body: bytes, *, empaid: str) -> object:
            raise error

    with pytest.raises(errors.SkyfedError) as caught:
        SignedDelivery(lambda body: body, Post())(b"x", "1")
    assert isinstance(caught.value, type(error)) if lasting else isinstance(caught.value, errors.Unavailable)


def test_messages_are_split_by_count_and_size() -> None:
    records = [CloudRecord(vm_uuid=str(i), site_name="S", image_id="x" * 255) for i in range(3000)]
    made = list(messages(records, 2000))
    assert max(len(body) for body in made) <= 700_000
    assert [r.vm_uuid for body in made for r in parse(body).records] == [str(i) for i in range(3000)]
    assert len(list(messages(records[:10], 3))) == 4


def test_a_month_is_republished_from_the_journal_alone(db: Database, opened: Callable[[], Database]) -> None:
    source = sender_process.journal(7)
    remote, again = Remote(), Remote()
    sender = sender_of(db, source, remote)
    extract(sender)
    deliver_all(sender)
    month = Month(2026, 11)
    sent = {str(record) for record in latest(remote.records) if record.month == month}
    fresh = sender_of(db, source, again)
    assert asyncio.run(fresh.republish(month)) == len(sent) > 10
    deliver_all(fresh)
    assert {str(record) for record in again.records} == sent


def test_idle_machines_months_are_closed_once_the_month_is_over(db: Database) -> None:
    source, remote, clock = Journal(), Remote(), FixedClock(START + timedelta(days=1))
    source.life("v", START, [(0, P), (0, A), (100, S)])
    sender = sender_of(db, source, remote, clock)
    extract(sender)
    clock.advance((datetime(2026, 12, 1, 0, 1, tzinfo=UTC) - clock.now()).total_seconds())
    assert extract(sender) == 0, "an event of November may still come"
    clock.advance(90)
    assert extract(sender) == 1
    assert extract(sender) == 0


def test_names_of_persons_stand_in_one_table_only(db: Database, journal: Journal) -> None:
    remote = Remote()
    sender = sender_of(db, journal, remote)
    extract(sender)
    deliver_all(sender)
    folds = db.read(lambda conn: list(conn.execute(select(tables.machine.c.fold)).scalars()))
    assert folds
    assert not any(b"alice" in fold for fold in folds)
    db.write(lambda conn: store.forget(conn, ALICE.subject))
    journal.add("w", START + timedelta(hours=5), S)
    assert extract(sender) == 1


def test_sender_and_repository_together_give_the_months_usage(
    db: Database, opened: Callable[[], Database], pki: Pki
) -> None:
    """Signed by the site's host, verified and loaded by the repository: sums equal what the machines used."""
    repo = repository(opened(), pki.trust(), MemoryRegistry({"ALPHA": [dn(pki.host)]}))

    class Post:
        def post_message(self, body: bytes, *, empaid: str) -> object:
            return repo.receive(body, peer=dn(pki.host), empaid=empaid)

    source = Journal()
    start = datetime(2026, 11, 30, 23, 0, 0, tzinfo=UTC)
    source.life("v", start, [(0, P), (10, A), (5000, S), (6000, A), (9000, D), (9001, G)])
    sender = sender_of(
        db, source, SignedDelivery(lambda body: smime.sign(body, pki.host, signed_at=NOW, text=True), Post())
    )
    extract(sender)
    deliver_all(sender)
    assert sender.status().dead == 0
    found = {s.month: s.wall_duration for s in repo.summaries(Filter())}
    assert found == {11: 3590, 12: (5000 - 3600) + 3000}


# -- kill -9 ----------------------------------------------------------------------------------------------------


def test_kill_9_at_any_moment_loses_and_doubles_nothing(tmp_path: Path, opened: Callable[..., Database]) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print("seed", seed)
    rng = random.Random(seed)
    folder = tmp_path / "delivered"
    folder.mkdir()
    kills = 0
    for delay in [*(rng.uniform(0.0, 0.25) for _ in range(8)), None]:
        if run_and_kill(tmp_path / "sender.db", folder, seed, delay):
            kills += 1
    assert kills > 0
    delivered = [parse(path.read_bytes()).records for path in sorted(folder.glob("[0-9a-f]*"))]
    journal = sender_process.journal(seed)
    assert final([record for records in delivered for record in records]) == final(expected(journal))
    one, other = opened(), opened()
    for records in delivered:
        load(one, records)
    load(other, expected(journal))
    assert all_summaries(one) == all_summaries(other)


def run_and_kill(database: Path, folder: Path, seed: int, delay: float | None) -> bool:
    """Start the sender and kill it `delay` seconds after it has begun to work (None: let it finish). True: it was killed."""
    command = [sys.executable, sender_process.__file__, str(database), str(folder), str(seed)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "running\n"
        if delay is None:
            assert process.stdout.readline() == "done\n"
            return False
        finished = threading.Event()
        threading.Thread(target=lambda: (process.wait(), finished.set()), daemon=True).start()
        if not finished.wait(delay):
            process.send_signal(signal.SIGKILL)
        return process.wait(20) == -signal.SIGKILL
    finally:
        process.kill()
        process.wait(20)
        process.stdout.close()
