"""The attribute authority: who asks, what they get, and the record of it."""

import logging
import secrets
import threading
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
from cryptography import x509
from sqlalchemy import Connection

from skyfed.core.clock import Clock, epoch, iso
from skyfed.core.errors import Invalid
from skyfed.core.log import event
from skyfed.core.sql import Database
from skyfed.identity import ac, chain
from skyfed.identity.fqan import Fqan
from skyfed.identity.judge import Judge
from skyfed.identity.principal import Principal
from skyfed.identity.watch import Watch
from skyfed.pki import names
from skyfed.pki.files import Credential, read_credential
from skyfed.voms import model, store
from skyfed.voms.model import SHORTENED, AcRequest, Answer, AuthorityFault, Membership, Notice, Vo
from skyfed.voms.selection import held, select

log = logging.getLogger(__name__)

# Positive, and within the 20 octets that the C++ client takes.
SERIAL_BITS = 127


class Address(msgspec.Struct, frozen=True):
    """Where users' tools find the authority; stands in every certificate and names the LSC file."""

    host: str
    port: int


class Signer:
    """The authority's certificate and key in files, read again when they change."""

    def __init__(self, cert: Path, key: Path, clock: Clock) -> None:
        self._files = (cert, key)
        self._watch = Watch(lambda: self._files, clock)
        self._lock = threading.Lock()
        self._credential = read_credential(cert, key)
        self._watch.changed()

    def credential(self) -> Credential:
        """The present one; the previous one while the files cannot be used (logged)."""
        with self._lock:
            if self._watch.changed():
                try:
                    self._credential = read_credential(*self._files)
                except Invalid as error:
                    event(log, logging.ERROR, "the authority keeps its earlier credential", reason=error.message)
            return self._credential


class _Known(msgspec.Struct, frozen=True):
    """What the database says about a requester."""

    vo: Vo
    member: store.Member


class Authority:
    """Issues attribute certificates. `issue` blocks: call it in a thread."""

    def __init__(
        self,
        database: Database,
        judge: Judge,
        signer: Signer,
        address: Address,
        clock: Clock,
        *,
        default_vo: str = "",
        match_issuer: bool = True,
    ) -> None:
        self._database = database
        self._judge = judge
        self._signer = signer
        self._address = address
        self._clock = clock
        self._default_vo = default_vo
        self._match_issuer = match_issuer

    def issue(self, chain_der: Sequence[bytes], request: AcRequest, peer: str) -> Answer:
        """The attribute certificate for whoever shows this chain, recorded before it is handed out.

        Raises AuthorityFault.
        """
        principal = self._identify(chain_der)
        holder = chain.split(chain.load(chain_der)).end_entity
        known = self._database.read(lambda conn: self._look_up(conn, principal, request))
        self._check_standing(known.member.membership)
        if any(command.kind == "list" for command in request.commands):
            return Answer(listing=tuple(fqan.long for fqan in held(known.member.membership)))
        chosen = select(known.member.membership, request, _already(principal, known.vo.name))
        now = self._clock.now().replace(microsecond=0)
        end, shortened = self._lifetime(request, known.vo, holder, now)
        content = ac.Content(
            holder_issuer=holder.issuer,
            holder_serial=holder.serial_number,
            authority=ac.PolicyAuthority(known.vo.name, self._address.host, self._address.port),
            fqans=chosen.fqans,
            serial=secrets.randbits(SERIAL_BITS),
            not_before=now,
            not_after=end,
            targets=request.targets,
        )
        signer = self._signer.credential()
        der = ac.issue(content, signer.certificate, signer.key, issuers=signer.chain)
        self._record(content, known, peer, principal)
        return Answer(ac=der, notices=(*shortened, *chosen.notices))

    def _identify(self, chain_der: Sequence[bytes]) -> Principal:
        verdict = self._judge.judge(chain_der)
        if verdict.principal is None:
            reason = verdict.reason
            event(log, logging.INFO, "credential refused", subject=verdict.subject, reason=reason and reason.code)
            raise model.unauthenticated(f"{reason.message} ({reason.code})" if reason else "no reason known")
        return verdict.principal

    def _look_up(self, conn: Connection, principal: Principal, request: AcRequest) -> _Known:
        for ban in store.bans(conn):
            if ban.rule.hits(principal):
                raise model.suspended_user(f"banned: {ban.reason or 'no reason stated'}")
        subject = names.normalise_text(principal.subject)
        issuer = names.normalise_text(principal.issuer) if self._match_issuer else None
        name = self._choose_vo(conn, request, subject, issuer)
        vo = store.find_vo(conn, name)
        if vo is None:
            raise model.unsatisfied(name, request.commands[0].text if request.commands else f"G/{name}")
        member = store.find_member(conn, name, subject, issuer)
        if member is None:
            raise model.no_such_user(name)
        return _Known(vo, member)

    def _choose_vo(self, conn: Connection, request: AcRequest, subject: str, issuer: str | None) -> str:
        """The VO that the request names; else the only one that the requester is in, or the default."""
        if len(request.vos) > 1:
            raise model.unsatisfied(request.vos[0], next(c.text for c in request.commands if c.group))
        if request.vos:
            return request.vos[0]
        mine = tuple(member.membership.vo for member in store.memberships(conn, subject, issuer))
        if len(mine) == 1:
            return mine[0]
        if self._default_vo in mine or (self._default_vo and not mine):
            return self._default_vo
        if not mine:
            raise model.no_such_user("voms")
        text = f"You are in several VOs ({', '.join(mine)}); name one, for example fqans=/{mine[0]}"
        raise AuthorityFault("BadRequest", 1001, 400, text)

    def _check_standing(self, member: Membership) -> None:
        if member.suspended:
            raise model.suspended_user(member.reason)
        if member.until is not None and self._clock.now() >= member.until:
            raise model.suspended_user(f"membership expired at {iso(member.until)}")

    def _lifetime(
        self, request: AcRequest, vo: Vo, holder: x509.Certificate, now: datetime
    ) -> tuple[datetime, tuple[Notice, ...]]:
        """When it ends, and the warning where that is earlier than asked for."""
        longest = min(timedelta(seconds=vo.max_ac_seconds), holder.not_valid_after_utc - now)
        wanted = timedelta(seconds=request.lifetime) if request.lifetime > 0 else longest
        if wanted <= longest:
            return now + wanted, ()
        seconds = int(longest.total_seconds())
        where = f"{self._address.host}:{self._address.port}"
        text = f"{where}: The validity of this VOMS AC in your proxy is shortened to {seconds} seconds!"
        return now + longest, (Notice(SHORTENED, text),)

    def _record(self, content: ac.Content, known: _Known, peer: str, principal: Principal) -> None:
        record = store.Issued(
            serial=f"{content.serial:x}",
            vo=known.vo.name,
            member_id=known.member.id,
            holder_serial=f"{content.holder_serial:x}",
            fqans=tuple(fqan.short for fqan in content.fqans),
            targets=content.targets,
            not_before=epoch(content.not_before),
            not_after=epoch(content.not_after),
            peer=peer,
        )
        self._database.write(lambda conn: store.record_issued(conn, record))
        event(
            log, logging.INFO, "attribute certificate issued", serial=record.serial, vo=record.vo,
            subject=principal.subject, fqans=record.fqans, targets=record.targets, peer=peer, until=iso(content.not_after),
        )  # fmt: skip


def _already(principal: Principal, vo: str) -> tuple[Fqan, ...]:
    """What the requester's own proxy proves for this VO: a proxy may not be used to get more."""
    return tuple(Fqan.parse(text) for m in principal.vos if m.vo == vo for text in m.fqans)
