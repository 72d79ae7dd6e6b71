"""What tests of the repository have in common: a registry in memory, messages, a repository."""

from collections.abc import Mapping, Sequence
from decimal import Decimal

from skyfed.accounting import store
from skyfed.accounting.formats import write_records
from skyfed.accounting.model import CloudRecord, CloudSummary
from skyfed.accounting.service import Policy, Repository
from skyfed.accounting.signers import Signers
from skyfed.accounting.store import Arrival, Filter, Judgement, Scope
from skyfed.core.clock import Clock, FixedClock
from skyfed.core.errors import Unavailable
from skyfed.core.sql import Database
from skyfed.pki import names, smime
from skyfed.pki.files import Credential
from skyfed.pki.trust import TrustStore
from skyfed.registry.model import CLOUD_ACCOUNTING, Service
from support.pki import NOW

OPERATOR = "/DC=test/CN=operator"
START = int(NOW.timestamp()) - 10_000


class MemoryRegistry:
    """A registry whose services are set by the test. `down` makes it unreachable; `asked` counts the questions."""

    def __init__(self, sites: Mapping[str, Sequence[str]] = {}) -> None:
        self.listed: list[Service] = []
        self.down = False
        self.asked = 0
        for site, dns in sites.items():
            for dn in dns:
                self.add(site, dn)

    def add(self, site: str, dn: str, *, production: bool = True) -> None:
        number = len(self.listed) + 1
        self.listed.append(
            Service(id=number, hostname="h", type=CLOUD_ACCOUNTING, site=site, host_dn=dn, production=production)
        )

    def services(
        self, *, type: str | None = None, site: str | None = None, scope: str | None = None
    ) -> tuple[Service, ...]:
        self.asked += 1
        if self.down:
            raise Unavailable("the registry is down")
        return tuple(service for service in self.listed if service.type == type)


def dn(credential: Credential) -> str:
    return names.oneline(credential.certificate.subject)


def signers(registry: MemoryRegistry | None, clock: Clock, **changes: object) -> Signers:
    given: dict[str, object] = {"extra": {}, "banned": (), "refresh_seconds": 600.0, "expire_seconds": 7200.0}
    return Signers(registry, clock, **{**given, **changes})  # type: ignore[arg-type]


def repository(
    db: Database, trust: TrustStore, registry: MemoryRegistry, *, clock: FixedClock | None = None, banned: Sequence[str] = (),
    **policy: object,
) -> Repository:  # fmt: skip
    clock = clock or FixedClock(NOW)
    policy = {"operators": frozenset({OPERATOR}), **policy}
    return Repository(
        db, trust=trust, signers=signers(registry, clock, banned=banned), clock=clock, policy=Policy(**policy)  # type: ignore[arg-type]
    )  # fmt: skip


def record(vm: str = "vm-1", site: str = "ALPHA", wall: int = 3600, **values: object) -> CloudRecord:
    given: dict[str, object] = {
        "vm_uuid": vm, "site_name": site, "status": "started", "start_time": START, "cpu_count": Decimal(2),
        "record_create_time": START + wall, "wall_duration": wall, "cpu_duration": wall, "memory": 1024, "disk": 4,
        "global_user_name": "/DC=test/CN=alice", "fqan": "/demo.skyfed/Role=NULL/Capability=NULL", "image_id": "image",
        "cloud_compute_service": "alpha.localhost", "cloud_type": "skyfed/0.1.0 (libvirt)",
    }  # fmt: skip
    return CloudRecord(**{**given, **values})  # type: ignore[arg-type]


def signed(credential: Credential, *records: CloudRecord) -> bytes:
    return smime.sign(write_records(records), credential, signed_at=NOW, text=True)


LOADED = 1_800_000_000
"""When `load` receives."""


def load(db: Database, records: Sequence[CloudRecord], **judgement: object) -> store.Receipt:
    """Load records past all judgement of who sent them."""
    arrival = Arrival(received=LOADED, sha256="0" * 64, signer="/CN=site", peer="/CN=site")
    return db.write(lambda conn: store.load(conn, arrival, records, Judgement(**judgement)))  # type: ignore[arg-type]


def all_summaries(db: Database) -> list[CloudSummary]:
    """Every summary, by name."""
    return db.read(lambda conn: store.named_summaries(conn, Filter(limit=100_000), Scope(everything=True)))
