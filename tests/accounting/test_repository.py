"""The repository's decisions: signatures, the binding of signers to sites, idempotent loading, the ledger."""

from collections.abc import Callable

import pytest

from accounting.support_repository import OPERATOR, MemoryRegistry, dn, record, repository, signed, signers
from skyfed.accounting.formats import write_records
from skyfed.accounting.model import CloudRecord
from skyfed.accounting.service import Repository
from skyfed.accounting.store import Filter
from skyfed.core.clock import FixedClock, SystemClock
from skyfed.core.errors import Forbidden, Invalid, NotFound, SkyfedError, TooLarge, Unavailable
from skyfed.core.sql import Database
from skyfed.identity.principal import Membership, Principal
from skyfed.pki import smime
from skyfed.pki.trust import TrustStore
from support.pki import NOW, Pki
from support.postgres import Postgres, postgres
from support.vectors import vectors

__all__ = ["postgres"]

PEER = "/DC=test/CN=peer"


@pytest.fixture
def registry(pki: Pki) -> MemoryRegistry:
    return MemoryRegistry({"ALPHA": [dn(pki.host)]})


@pytest.fixture
def repo(db: Database, pki: Pki, registry: MemoryRegistry) -> Repository:
    return repository(db, pki.trust(), registry)


def vms(repo: Repository) -> list[tuple[str, int | None]]:
    found = repo.records(Filter(), principal(OPERATOR), history=False)
    return sorted((item.record.vm_uuid, item.record.wall_duration) for item in found)


def principal(subject: str, *fqans: str, vo: str = "demo.skyfed") -> Principal:
    vos = (Membership(vo, fqans),) if fqans else ()
    return Principal(
        subject=subject,
        issuer="/CN=CA",
        vos=vos,
        limited=False,
        not_after=NOW,
        fingerprint="0" * 64,
        kind="certificate",
    )


def refused(repo: Repository, body: bytes, code: str) -> SkyfedError:
    with pytest.raises(SkyfedError) as caught:
        repo.receive(body, peer=PEER)
    assert caught.value.code == code, caught.value.message
    return caught.value


# -- letting in -------------------------------------------------------------------------------------------------


def test_a_message_signed_by_the_host_of_its_site_is_loaded(repo: Repository, pki: Pki) -> None:
    receipt = repo.receive(signed(pki.host, record("a"), record("b")), peer=PEER, empaid="6b03bfa4/6b03bfc912a648")
    assert (receipt.verdict, receipt.records, receipt.stored, receipt.duplicate) == ("accepted", 2, 2, False)
    assert vms(repo) == [("a", 3600), ("b", 3600)]
    (entry,) = repo.messages(None, verdict=None, before=None, limit=10)
    assert entry.signer == dn(pki.host)
    assert entry.empaid == "6b03bfa4/6b03bfc912a648"
    assert entry.sites == ("ALPHA",)


def test_the_same_bytes_again_change_nothing(repo: Repository, pki: Pki) -> None:
    first, second = signed(pki.host, record(wall=100)), signed(pki.host, record(wall=200))
    for body in (first, second):
        repo.receive(body, peer=PEER)
    again = repo.receive(first, peer=PEER)
    assert again.duplicate
    assert vms(repo) == [("vm-1", 200)], "a replayed old message must not overwrite newer data"


def test_the_same_records_signed_again_store_nothing(repo: Repository, pki: Pki) -> None:
    repo.receive(signed(pki.host, record()), peer=PEER)
    body = smime.sign(write_records([record()]), pki.host, signed_at=NOW.replace(year=NOW.year + 1), text=True)
    assert repo.receive(body, peer=PEER).stored == 0


def test_what_a_record_replaces_stays_in_the_journal(repo: Repository, pki: Pki) -> None:
    for wall in (100, 200):
        repo.receive(signed(pki.host, record(wall=wall)), peer=PEER)
    found = repo.records(Filter(vm="vm-1"), principal(OPERATOR), history=True)
    assert [(item.record.wall_duration, item.current) for item in found] == [(200, True), (100, False)]


def test_a_signer_of_another_site_is_refused_naming_both_and_nothing_is_loaded(repo: Repository, pki: Pki) -> None:
    error = refused(repo, signed(pki.host, record("a"), record("b", site="BETA")), "signer_not_bound")
    assert isinstance(error, Forbidden)
    assert dn(pki.host) in error.message
    assert "BETA" in error.message
    assert "ALPHA" in error.message
    assert vms(repo) == []


def test_a_signer_on_no_list_is_refused(db: Database, pki: Pki) -> None:
    repo = repository(db, pki.trust(), MemoryRegistry())
    refused(repo, signed(pki.host, record()), "signer_not_bound")
    refused(repo, signed(pki.host), "signer_not_bound")


def test_a_services_that_is_not_in_production_names_no_signer_unless_configured(db: Database, pki: Pki) -> None:
    registry = MemoryRegistry()
    registry.add("ALPHA", dn(pki.host), production=False)
    assert signers(registry, FixedClock(NOW)).sites_of(dn(pki.host)) == frozenset()
    lenient = signers(registry, FixedClock(NOW), include_non_production=True)
    assert lenient.sites_of(dn(pki.host)) == {"ALPHA"}


def test_another_sites_machine_cannot_be_taken_over(db: Database, pki: Pki, registry: MemoryRegistry) -> None:
    registry.add("BETA", dn(pki.robot))
    repo = repository(db, pki.trust(), registry)
    repo.receive(signed(pki.host, record("a")), peer=PEER)
    error = refused(repo, signed(pki.robot, record("a", site="BETA", wall=1)), "foreign_machine")
    assert "ALPHA" in error.message
    assert vms(repo) == [("a", 3600)]


def test_with_warn_a_foreign_signer_is_loaded_and_remarked(db: Database, pki: Pki, registry: MemoryRegistry) -> None:
    repo = repository(db, pki.trust(), registry, binding="warn")
    receipt = repo.receive(signed(pki.host, record(site="BETA")), peer=PEER)
    assert [remark.code for remark in receipt.remarks] == ["W09", "W06"]


def test_with_off_any_trusted_signer_is_loaded_without_a_registry(db: Database, pki: Pki) -> None:
    registry = MemoryRegistry()
    registry.down = True
    repo = repository(db, pki.trust(), registry, binding="off")
    assert repo.receive(signed(pki.host, record(site="BETA")), peer=PEER).remarks == ()


def test_a_banned_signer_is_refused_under_any_binding(db: Database, pki: Pki, registry: MemoryRegistry) -> None:
    repo = repository(db, pki.trust(), registry, banned=[dn(pki.host)], binding="off")
    refused(repo, signed(pki.host, record()), "signer_banned")


@pytest.mark.parametrize(
    ("who", "code"),
    [("revoked", "signer_revoked"), ("expired", "signer_expired"), ("stranger", "signer_bad_signature")],
)
def test_a_signer_whose_certificate_is_no_good_is_refused(repo: Repository, pki: Pki, who: str, code: str) -> None:
    refused(repo, signed(getattr(pki, who), record()), code)


def test_a_tampered_message_is_refused(repo: Repository, pki: Pki) -> None:
    body = signed(pki.host, record(wall=3600)).replace(b"WallDuration: 3600", b"WallDuration: 9999")
    refused(repo, body, "digest_mismatch")
    assert vms(repo) == []


@pytest.mark.parametrize("body", [b"", b"APEL-cloud-message: v0.4\n", b"\xff" * 100, b"Content-Type: text/plain\n\nx"])
def test_what_is_not_signed_is_refused(repo: Repository, body: bytes) -> None:
    with pytest.raises(Invalid):
        repo.receive(body, peer=PEER)
    (entry,) = repo.messages(None, verdict="rejected", before=None, limit=10)
    assert not entry.reloadable, "bytes that nobody has signed are not kept"


def test_one_bad_record_rejects_the_whole_message(repo: Repository, pki: Pki) -> None:
    text = write_records([record("a"), record("b")]).replace(b"WallDuration: 3600", b"WallDuration: 1.5", 1)
    error = refused(repo, smime.sign(text, pki.host, signed_at=NOW, text=True), "field_value")
    assert "rejected message 1" in error.message
    assert vms(repo) == []


def test_too_large_a_message_is_refused(db: Database, pki: Pki, registry: MemoryRegistry) -> None:
    repo = repository(db, pki.trust(), registry, max_message_bytes=5000)
    assert isinstance(refused(repo, signed(pki.host, *[record(str(i)) for i in range(50)]), "message_size"), TooLarge)


def test_a_registry_that_is_away_rejects_nothing_for_good(db: Database, pki: Pki, registry: MemoryRegistry) -> None:
    registry.down = True
    repo = repository(db, pki.trust(), registry)
    with pytest.raises(Unavailable):
        repo.receive(signed(pki.host, record()), peer=PEER)
    assert repo.messages(None, verdict=None, before=None, limit=10) == []


# -- the ledger of rejected messages ----------------------------------------------------------------------------


def test_a_rejected_message_is_kept_with_its_error_and_can_be_loaded_later(
    repo: Repository, pki: Pki, registry: MemoryRegistry
) -> None:
    refused(repo, signed(pki.host, record(site="BETA")), "signer_not_bound")
    entry, text = repo.message(1)
    assert (entry.verdict, entry.code, entry.records) == ("rejected", "signer_not_bound", 1)
    assert "SiteName: BETA" in text
    with pytest.raises(Forbidden):
        repo.reload(1)
    registry.add("BETA", dn(pki.host))
    repo._signers._fetched = -1e9  # as after the refresh interval
    assert repo.reload(1).stored == 1
    assert vms(repo) == [("vm-1", 3600)]
    with pytest.raises(NotFound):
        repo.reload(1)


def test_a_sender_that_retries_a_refused_message_does_not_fill_the_ledger(repo: Repository, pki: Pki) -> None:
    body = signed(pki.host, record(site="BETA"))
    for _ in range(5):
        refused(repo, body, "signer_not_bound")
    assert len(repo.messages(None, verdict=None, before=None, limit=10)) == 1


def test_old_and_surplus_texts_are_forgotten_but_their_ledger_entries_stay(
    db: Database, pki: Pki, registry: MemoryRegistry
) -> None:
    clock = FixedClock(NOW)
    repo = repository(db, pki.trust(), registry, clock=clock, keep_rejected=3, keep_rejected_seconds=3600)
    for number in range(5):
        refused(repo, signed(pki.host, record(str(number), site="BETA")), "signer_not_bound")
    assert repo.tidy() == 2
    assert [e.reloadable for e in repo.messages(None, verdict=None, before=None, limit=9)] == [True] * 3 + [False] * 2
    clock.advance(7200)
    assert repo.tidy() == 3
    assert repo.counts().rejected == 5


# -- the list of signers ----------------------------------------------------------------------------------------


def test_a_site_registered_a_moment_ago_is_known_at_once(pki: Pki) -> None:
    clock, registry = FixedClock(NOW), MemoryRegistry()
    found = signers(registry, clock)
    assert found.sites_of(dn(pki.host)) == frozenset()
    registry.add("ALPHA", dn(pki.host))
    clock.advance(6)
    assert found.sites_of(dn(pki.host)) == {"ALPHA"}


def test_a_flood_of_strangers_does_not_flood_the_registry(pki: Pki) -> None:
    registry = MemoryRegistry()
    found = signers(registry, FixedClock(NOW))
    for number in range(100):
        found.sites_of(f"/DC=test/CN={number}")
    assert registry.asked <= 6  # two looks at three service types


def test_the_old_list_is_kept_while_the_registry_is_away_but_not_for_ever(pki: Pki, registry: MemoryRegistry) -> None:
    clock = FixedClock(NOW)
    found = signers(registry, clock)
    assert found.sites_of(dn(pki.host)) == {"ALPHA"}
    registry.down = True
    clock.advance(7000)
    assert found.sites_of(dn(pki.host)) == {"ALPHA"}
    clock.advance(300)
    with pytest.raises(Unavailable):
        found.sites_of(dn(pki.host))


def test_extra_signers_are_added_and_implausible_names_left_out(registry: MemoryRegistry) -> None:
    registry.add("GAMMA", "/CN=only one part")
    registry.add("GAMMA", "CN=wrong,O=form")
    registry.add("DELTA", "/DC=org/O=Institute, ")
    found = signers(registry, FixedClock(NOW), extra={"/DC=org/CN=x, y": ["EXTRA"]})
    assert found.sites_of("/DC=org/CN=x, y") == {"EXTRA"}
    assert found.current().all_sites == {"ALPHA", "EXTRA"}
    assert found.sites_of("/DC=org/O=Institute, ") == frozenset()


def test_the_spelling_of_an_email_attribute_does_not_matter() -> None:
    registry = MemoryRegistry({"ALPHA": ["/DC=org/CN=host/Email=a@b.c"]})
    assert signers(registry, FixedClock(NOW)).sites_of("/DC=org/CN=host/emailAddress=a@b.c") == {"ALPHA"}


# -- the recorded messages --------------------------------------------------------------------------------------


def test_a_message_recorded_from_a_real_sender_is_verified_and_loaded(db: Database) -> None:
    folder = vectors("accounting")
    import msgspec

    from skyfed.pki.trust import TrustSettings

    trust = TrustStore(
        folder / "certs/capath", SystemClock(), msgspec.structs.replace(TrustSettings(), missing_policy="allow")
    )
    signer = "/DC=org/DC=example/OU=Sites/CN=apel-client.site-a.example.org"
    body = (folder / "wire/body-signed.eml").read_bytes()
    sites = {line.split(b": ")[1].decode() for line in body.splitlines() if line.startswith(b"SiteName: ")}
    registry = MemoryRegistry({site: [signer] for site in sites})
    repo = repository(db, trust, registry)
    receipt = repo.receive(body, peer=signer)
    assert receipt.stored == receipt.records == body.count(b"VMUUID: ") > 0


def test_the_text_that_the_reference_receiver_unpacked_is_what_we_load(db: Database, pki: Pki) -> None:
    element = vectors("accounting") / "dirq/6b03bfd3ad4c6d"
    signer = (element / "signer").read_text().strip()
    body = (element / "body").read_bytes()
    sites = {line.split(b": ")[1].decode() for line in body.splitlines() if line.startswith(b"SiteName: ")}
    repo = repository(db, pki.trust(), MemoryRegistry({site: [signer] for site in sites}))
    assert repo.receive_text(body, peer=signer).stored == body.count(b"VMUUID: ") > 0


# -- who sees what ----------------------------------------------------------------------------------------------

ALICE, BOB = "/DC=test/CN=alice", "/DC=test/CN=bob"


@pytest.fixture
def filled(db: Database, pki: Pki, registry: MemoryRegistry) -> Repository:
    registry.add("BETA", dn(pki.robot))
    repo = repository(db, pki.trust(), registry, vo_roles=frozenset({"VO-Admin"}))
    repo.receive(signed(pki.host, record("a"), record("b", global_user_name=BOB, wall=50)), peer=PEER)
    ops = record("c", site="BETA", fqan="/ops/Role=NULL/Capability=NULL", global_user_name=BOB)
    repo.receive(signed(pki.robot, ops), peer=PEER)
    return repo


def test_public_summaries_are_added_up_over_persons_and_name_nobody(filled: Repository) -> None:
    found = filled.summaries(Filter(site="ALPHA"))
    assert [(s.global_user_name, s.wall_duration, s.number_of_vms) for s in found] == [("withheld", 3650, 2)]
    with pytest.raises(Invalid):
        filled.summaries(Filter(user=ALICE))


def names_seen(repo: Repository, who: Principal) -> set[tuple[str, str]]:
    summaries = {(s.site_name, s.global_user_name) for s in repo.user_summaries(Filter(), who)}
    records = {(r.record.site_name, str(r.record.global_user_name)) for r in repo.records(Filter(), who, history=True)}
    assert summaries == records
    return summaries


def test_everybody_sees_their_own_usage(filled: Repository) -> None:
    assert names_seen(filled, principal(ALICE)) == {("ALPHA", ALICE)}
    assert names_seen(filled, principal("/DC=test/CN=nobody")) == set()


def test_the_manager_of_a_vo_sees_its_members(filled: Repository) -> None:
    manager = principal("/DC=test/CN=carol", "/demo.skyfed/Role=VO-Admin/Capability=NULL")
    assert names_seen(filled, manager) == {("ALPHA", ALICE), ("ALPHA", BOB)}
    member = principal("/DC=test/CN=carol", "/demo.skyfed/Role=NULL/Capability=NULL")
    assert names_seen(filled, member) == set()
    subgroup = principal("/DC=test/CN=carol", "/demo.skyfed/sub/Role=VO-Admin/Capability=NULL")
    assert names_seen(filled, subgroup) == set()


def test_the_host_of_a_site_sees_what_the_site_has_sent(filled: Repository, pki: Pki) -> None:
    assert names_seen(filled, principal(dn(pki.robot))) == {("BETA", BOB)}


def test_an_operator_sees_everything(filled: Repository) -> None:
    assert len(names_seen(filled, principal(OPERATOR))) == 3


def test_a_sender_sees_its_own_messages_only(filled: Repository, pki: Pki) -> None:
    mine = filled.messages(principal(dn(pki.host)), verdict=None, before=None, limit=10)
    assert {entry.signer for entry in mine} == {dn(pki.host)}
    assert filled.messages(principal(ALICE), verdict=None, before=None, limit=10) == []


def test_a_forgotten_person_stands_under_a_pseudonym_and_sums_stay(filled: Repository) -> None:
    before = filled.summaries(Filter())
    pseudonym = filled.forget(BOB)
    assert BOB not in pseudonym
    assert filled.summaries(Filter()) == before
    assert names_seen(filled, principal(OPERATOR)) == {("ALPHA", ALICE), ("ALPHA", pseudonym), ("BETA", pseudonym)}
    with pytest.raises(NotFound):
        filled.forget(BOB)


def test_the_day_so_far_counts_from_midnight(db: Database, pki: Pki, registry: MemoryRegistry) -> None:
    clock = FixedClock(NOW.replace(hour=12, minute=0, second=0))
    midnight = int(NOW.replace(hour=0, minute=0, second=0).timestamp())
    repo = repository(db, pki.trust(), registry, clock=clock)

    def sample(vm: str, at: int, wall: int, **values: object) -> CloudRecord:
        start = midnight - 100_000
        return record(vm, wall=wall, start_time=start, record_create_time=at, cpu_duration=wall * 2, **values)

    for records in (
        [
            sample("old", midnight - 600, 5000),
            sample("gone", midnight - 600, 700, status="completed", end_time=midnight - 600),
        ],
        [sample("old", midnight + 3000, 8600), sample("new", midnight + 40, 30, status="suspended")],
    ):
        repo.receive(signed(pki.host, *records), peer=PEER)
    since, (usage,) = repo.today()
    assert since == midnight
    assert (usage.site, usage.vo, usage.vms, usage.running) == ("ALPHA", "demo.skyfed", 2, 1)
    assert (usage.wall_seconds, usage.cpu_seconds) == (3600 + 30, 7200 + 60)
    assert usage.latest == midnight + 3000


@pytest.mark.peer
def test_every_question_is_answered_alike_on_postgresql(
    opened: Callable[..., Database], postgres: Postgres, pki: Pki, registry: MemoryRegistry
) -> None:
    def answers(db: Database) -> list[object]:
        repo = repository(db, pki.trust(), registry, clock=FixedClock(NOW))
        repo.receive(signed(pki.host, record("a"), record("b", global_user_name=BOB)), peer=PEER)
        repo.receive(signed(pki.host, record("a", wall=7200)), peer=PEER)
        refused(repo, signed(pki.host, record("c", site="BETA")), "signer_not_bound")
        everything, wanted = principal(OPERATOR), Filter(site="ALPHA", vo="demo.skyfed", service="alpha.localhost")
        pseudonym = repo.forget(BOB)
        return [
            repo.summaries(wanted),
            [s for s in repo.user_summaries(wanted, everything) if s.global_user_name != pseudonym],
            repo.records(Filter(vm="a"), everything, history=True),
            repo.user_summaries(Filter(user=ALICE, limit=1), principal(ALICE)),
            repo.today(),
            repo.counts(),
            repo.tidy(),
            [
                (entry.id, entry.verdict, entry.code, entry.records)
                for entry in repo.messages(everything, verdict=None, before=9, limit=9)
            ],
            repo.message(3)[1],
        ]

    assert answers(opened(postgres.database())) == answers(opened())


def test_changing_how_counters_are_read_makes_the_summaries_anew(
    db: Database, pki: Pki, registry: MemoryRegistry
) -> None:
    repo = repository(db, pki.trust(), registry)
    month = 31 * 86_400
    repo.receive(
        signed(pki.host, record(wall=100), record(wall=40, record_create_time=1_900_000_000 + month)), peer=PEER
    )
    assert min(s.wall_duration or 0 for s in repo.summaries(Filter())) == -60
    again = repository(db, pki.trust(), registry, counters="repair")
    again.adopt_settings()
    assert min(s.wall_duration or 0 for s in again.summaries(Filter())) == 0
