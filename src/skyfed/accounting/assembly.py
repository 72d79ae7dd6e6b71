"""The accounting service of a node: the federation's repository, or a site's sender."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

import skyfed
from skyfed.accounting import formats, http
from skyfed.accounting.client import AccountingClient
from skyfed.accounting.extract import Producer
from skyfed.accounting.model import parse_month
from skyfed.accounting.sender import Sender, SignedDelivery
from skyfed.accounting.service import DAY, Policy, Repository
from skyfed.accounting.signers import Signers
from skyfed.accounting.tables import metadata
from skyfed.compute.service import ComputeService
from skyfed.core.clock import Clock, epoch, from_epoch, iso
from skyfed.core.errors import Invalid
from skyfed.core.settings import setting
from skyfed.core.sql import Database
from skyfed.core.text import plural
from skyfed.pki import names, smime
from skyfed.pki.files import read_credential
from skyfed.registry.client import RegistryClient
from skyfed.web.guard import Limits
from skyfed.web.runtime import Assembly, Health, HostCredential, Runtime

TIDY_SECONDS = 3600.0


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of accounting. Those of the role that the service does not have are ignored."""

    role: Annotated[
        Literal["auto", "repository", "sender"],
        setting("What the service does; auto: repository on a federation node, sender on a site."),
    ] = "auto"
    database: Annotated[
        str, setting("Database URL; empty: SQLite in the service's data directory. postgresql+psycopg://… for many.")
    ] = ""

    # -- repository
    registry: Annotated[
        str, setting("Repository: address of the registry that says which signer belongs to which site.")
    ] = ""
    binding: Annotated[
        Literal["enforce", "warn", "off"],
        setting(
            "Repository: records of a site that the signer is not registered for are refused, remarked, or let in."
        ),
    ] = "enforce"
    include_non_production: Annotated[
        bool, setting("Repository: also believe accounting services that the registry does not flag as production.")
    ] = False
    extra_signers: Annotated[
        dict[str, tuple[str, ...]], setting("Repository: signers beside the registry's: DN = list of site names.")
    ] = {}
    banned_signers: Annotated[tuple[str, ...], setting("Repository: DNs refused whatever the registry says.")] = ()
    signers_refresh_seconds: Annotated[
        float, setting("Repository: how old the list of signers may be, seconds."), msgspec.Meta(gt=0)
    ] = 600.0
    signers_expire_seconds: Annotated[
        float, setting("Repository: how long the list is kept while the registry is away, seconds."), msgspec.Meta(gt=0)
    ] = 2 * 86_400.0
    counters: Annotated[
        Literal["compat", "repair"],
        setting("Repository: a counter that went back counts negative, as in APEL (compat), or not at all (repair)."),
    ] = "compat"
    operators: Annotated[
        tuple[str, ...], setting("Repository: DNs that may see everybody's usage and all messages.")
    ] = ()
    vo_roles: Annotated[
        tuple[str, ...], setting("Repository: VOMS roles in a VO's root group that may see its members' usage by name.")
    ] = ("VO-Admin",)
    known_vos: Annotated[
        tuple[str, ...], setting("Repository: VOs whose usage raises no remark; empty: not judged.")
    ] = ()
    max_message_bytes: Annotated[
        int, setting("Repository: largest message taken."), msgspec.Meta(ge=1024, le=formats.MAX_MESSAGE_BYTES)
    ] = formats.MAX_MESSAGE_BYTES
    keep_rejected_days: Annotated[
        int, setting("Repository: how long the text of a rejected message is kept, days."), msgspec.Meta(ge=0)
    ] = 90
    keep_rejected: Annotated[
        int, setting("Repository: how many texts of rejected messages are kept at most."), msgspec.Meta(ge=0)
    ] = 1000

    # -- sender
    repository: Annotated[str, setting("Sender: address of the repository.")] = ""
    cloud_compute_service: Annotated[
        str, setting("Sender: names this cloud within the site in records; empty: the host's name.")
    ] = ""
    cloud_type: Annotated[str, setting("Sender: CloudType in records; empty: skyfed/<version> (libvirt).")] = ""
    record_seconds: Annotated[
        int,
        setting(
            "Sender: how often a machine whose state does not change is reported, seconds; compute's checkpoints bound it."
        ),
        msgspec.Meta(ge=1),
    ] = 3600
    extract_seconds: Annotated[
        float,
        setting("Sender: how often the journal is looked at even if nothing was told, seconds."),
        msgspec.Meta(gt=0),
    ] = 30.0
    records_per_message: Annotated[
        int, setting("Sender: records in one message at most."), msgspec.Meta(ge=1, le=formats.MAX_RECORDS)
    ] = 500


def assemble(settings: Settings, runtime: Runtime) -> Assembly:
    """Wire the service into a node. Raises Invalid for settings that the role needs and lacks."""
    url = settings.database or f"sqlite:///{runtime.data / 'accounting.db'}"
    database = Database(url, name="accounting", metadata=metadata, migrations="skyfed.accounting.migrations")
    role = settings.role
    if role == "auto":
        role = "repository" if runtime.role == "federation" else "sender"
    if role == "repository":
        return _repository(settings, runtime, database)
    return _sender(settings, runtime, database)


# -- repository -------------------------------------------------------------------------------------------------


def _repository(settings: Settings, runtime: Runtime, database: Database) -> Assembly:
    if runtime.listener is None:
        raise Invalid("the accounting repository needs [services.accounting.listen]", code="settings_value")
    repository = Repository(
        database,
        trust=runtime.trust,
        signers=_signers(settings, runtime),
        clock=runtime.clock,
        policy=Policy(
            binding=settings.binding,
            counters=settings.counters,
            max_message_bytes=settings.max_message_bytes,
            operators=frozenset(settings.operators),
            vo_roles=frozenset(settings.vo_roles),
            known_vos=frozenset(settings.known_vos) or None,
            keep_rejected_seconds=settings.keep_rejected_days * DAY,
            keep_rejected=settings.keep_rejected,
        ),
    )

    async def tidy() -> None:
        await asyncio.to_thread(repository.tidy)

    async def start() -> None:
        await asyncio.to_thread(database.open)
        await asyncio.to_thread(repository.adopt_settings)
        runtime.tasks.every("tidy", TIDY_SECONDS, tidy)

    async def stop() -> None:
        await asyncio.to_thread(database.close)

    async def health() -> Health:
        counts = await asyncio.to_thread(repository.counts)
        last = "nothing yet" if counts.last_accepted is None else f"last at {iso(from_epoch(counts.last_accepted))}"
        return Health(
            ok=True, detail=f"{plural(counts.records, 'record')}, {last}, {counts.rejected} messages rejected"
        )

    return Assembly(
        app=Starlette(routes=http.routes(repository, max_message_bytes=settings.max_message_bytes)),
        public=http.is_public,
        limits=Limits(body_bytes=settings.max_message_bytes + http.ENVELOPE_BYTES),
        admin=http.admin_routes(repository),
        start=start,
        stop=stop,
        health=health,
    )


def _signers(settings: Settings, runtime: Runtime) -> Signers:
    return Signers(
        RegistryClient(runtime.http, settings.registry) if settings.registry else None,
        runtime.clock,
        extra=settings.extra_signers,
        banned=settings.banned_signers,
        include_non_production=settings.include_non_production,
        refresh_seconds=settings.signers_refresh_seconds,
        expire_seconds=settings.signers_expire_seconds,
    )


# -- sender -----------------------------------------------------------------------------------------------------


def _sender(settings: Settings, runtime: Runtime, database: Database) -> Assembly:
    if not settings.repository.startswith(("https://", "http://")):
        text = "the accounting sender needs services.accounting.settings.repository, an https:// address"
        raise Invalid(text, code="settings_value")
    compute = runtime.require_compute(ComputeService)
    delivery = SignedDelivery(
        _Signature(runtime.host, runtime.clock), AccountingClient(runtime.http, settings.repository)
    )
    sender = Sender(
        database,
        compute,
        site=runtime.site,
        producer=Producer(
            cloud_compute_service=settings.cloud_compute_service or _host_name(runtime.host.cert, runtime.host.key),
            cloud_type=settings.cloud_type or f"skyfed/{skyfed.__version__} (libvirt)",
            interval=settings.record_seconds,
        ),
        clock=runtime.clock,
        send=delivery,
        records_per_message=settings.records_per_message,
    )

    unsubscribe: list[Callable[[], None]] = []

    async def extract() -> None:
        await sender.extract()

    async def start() -> None:
        await asyncio.to_thread(database.open)
        runtime.tasks.every("extract", settings.extract_seconds, extract)
        runtime.tasks.task("outbox", sender.outbox.run)
        unsubscribe.append(compute.usage_changes.subscribe(lambda: runtime.tasks.wake("extract")))

    async def stop() -> None:
        while unsubscribe:
            unsubscribe.pop()()
        await asyncio.to_thread(database.close)

    async def health() -> Health:
        found = await asyncio.to_thread(sender.status)
        detail = f"{plural(found.waiting, 'message')} waiting, {found.dead} refused"
        return Health(ok=found.dead == 0, detail=f"{detail}; {found.last_error}" if found.last_error else detail)

    return Assembly(admin=_sender_routes(sender, settings.repository), start=start, stop=stop, health=health)


class _Signature:
    """Signs with the host's credential; read anew each time, since certificates are renewed under running services."""

    def __init__(self, host: HostCredential, clock: Clock) -> None:
        self._host = host
        self._clock = clock

    def __call__(self, body: bytes) -> bytes:
        credential = read_credential(self._host.cert, self._host.key)
        return smime.sign(body, credential, signed_at=from_epoch(epoch(self._clock.now())), text=True)


def _host_name(cert: Path, key: Path) -> str:
    return names.common_name(read_credential(cert, key).certificate.subject)


class _Republish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    month: str


def _sender_routes(sender: Sender, repository: str) -> list[BaseRoute]:
    """The administration API of the sender."""

    async def status(_request: Request) -> Response:
        found = await asyncio.to_thread(sender.status)
        return _json({"role": "sender", "repository": repository, "sender": found})

    async def dead(_request: Request) -> Response:
        return _json(await asyncio.to_thread(sender.dead))

    async def retry(request: Request) -> Response:
        await asyncio.to_thread(sender.outbox.retry, request.path_params["id"])
        return _json(await asyncio.to_thread(sender.status))

    async def republish(request: Request) -> Response:
        try:
            month = parse_month(msgspec.json.decode(await request.body(), type=_Republish).month)
        except (msgspec.DecodeError, ValueError) as error:
            raise Invalid(f"""the request is not {{"month": "YYYY-MM"}}: {error}""", code="body") from error
        return _json({"records": await sender.republish(month)})

    return [
        Route("/status", status, methods=["GET"]),
        Route("/dead", dead, methods=["GET"]),
        Route("/dead/{id:int}/retry", retry, methods=["POST"]),
        Route("/republish", republish, methods=["POST"]),
    ]


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
