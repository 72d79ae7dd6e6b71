"""The repository's decisions: which message is let in, and who may see whose usage."""

import hashlib
import logging
from typing import Literal

import msgspec
from cryptography import x509
from sqlalchemy import Connection

from skyfed.accounting import formats, store, summaries
from skyfed.accounting.formats import CloudMessage
from skyfed.accounting.model import CloudSummary, DayUsage, JournalRecord, Remark
from skyfed.accounting.signers import Signers
from skyfed.accounting.store import NO_EMPAID, Arrival, Entry, Filter, Judgement, Receipt, Scope
from skyfed.core.clock import Clock, epoch
from skyfed.core.errors import Forbidden, Invalid, NotFound, SkyfedError, TooLarge
from skyfed.core.sql import Database
from skyfed.core.text import one_line, plural, shown
from skyfed.identity.fqan import Fqan
from skyfed.identity.principal import Principal
from skyfed.pki import names, smime
from skyfed.pki.trust import TrustStore

log = logging.getLogger(__name__)

DAY = 86_400

Binding = Literal["enforce", "warn", "off"]


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """How strict the repository is. `binding`: whether a signer may report for its registered sites only."""

    binding: Binding = "enforce"
    counters: summaries.Counters = "compat"
    max_message_bytes: int = formats.MAX_MESSAGE_BYTES
    operators: frozenset[str] = frozenset()
    vo_roles: frozenset[str] = frozenset()
    known_vos: frozenset[str] | None = None
    keep_rejected_seconds: int = 90 * DAY
    keep_rejected: int = 1000


class _Refused(Exception):
    """A message that is not let in: the error for its sender, and what is known of it by then."""

    def __init__(self, error: SkyfedError, *, records: int = 0, text: bytes | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.records = records
        self.text = text


class Repository:
    """The accounting repository. All methods block: call them from threads."""

    def __init__(self, db: Database, *, trust: TrustStore, signers: Signers, clock: Clock, policy: Policy) -> None:
        self._db = db
        self._trust = trust
        self._signers = signers
        self._clock = clock
        self._policy = policy

    # -- letting messages in ------------------------------------------------------------------------------------

    def receive(self, body: bytes, *, peer: str, empaid: str = NO_EMPAID) -> Receipt:
        """Take in an S/MIME signed message (digest 5.1): verify, parse, check the signer's site, load; all or nothing.

        `peer` is the DN of the TLS client that brought it. The same bytes again change nothing. Raises Invalid,
        Forbidden or TooLarge for a message refused for good (it is in the ledger then), Unavailable for one that may
        be sent again.
        """
        sha256 = hashlib.sha256(body).hexdigest()
        if known := self._db.read(lambda conn: store.accepted(conn, sha256)):
            return known
        signer = ""
        try:
            if len(body) > self._policy.max_message_bytes:
                text = f"a message of {len(body)} bytes; at most {self._policy.max_message_bytes} are taken"
                raise _Refused(TooLarge(text, code="message_size"))
            signer, content = self._verified(body)
            return self._admit(self._arrival(sha256, signer, peer, empaid), content)
        except _Refused as refused:
            raise self._refuse(self._arrival(sha256, signer, peer, empaid), refused) from refused

    def receive_text(self, body: bytes, *, peer: str, empaid: str = NO_EMPAID) -> Receipt:
        """Take in a bare text message whose sender TLS has authenticated (digest 8.1): `peer` is its signer."""
        sha256 = hashlib.sha256(body).hexdigest()
        arrival = self._arrival(sha256, peer, peer, empaid)
        try:
            return self._admit(arrival, body)
        except _Refused as refused:
            raise self._refuse(arrival, refused) from refused

    def reload(self, message_id: int) -> Receipt:
        """Judge a rejected message again, whose text was kept: after its signer was registered, say.

        Raises NotFound; otherwise as `receive`. The signature was verified when the message came."""
        arrival, text = self._db.read(lambda conn: store.rejected_body(conn, message_id))
        arrival = msgspec.structs.replace(arrival, received=epoch(self._clock.now()))
        try:
            receipt = self._admit(arrival, text)
        except _Refused as refused:
            raise refused.error from refused
        self._db.write(lambda conn: store.drop_body(conn, message_id))
        return receipt

    def _arrival(self, sha256: str, signer: str, peer: str, empaid: str) -> Arrival:
        return Arrival(
            received=epoch(self._clock.now()),
            sha256=sha256,
            signer=signer,
            peer=one_line(peer, 1000),
            empaid=one_line(empaid, 255) or NO_EMPAID,
        )

    def _verified(self, body: bytes) -> tuple[str, bytes]:
        """Signer's DN and the text. The purpose of the certificate is not checked: host certificates lack
        emailProtection (digest 5.1)."""
        try:
            signed = smime.verify(body, max_bytes=self._policy.max_message_bytes)
            text = smime.inner_text(signed.content).replace(b"\r\n", b"\n")
        except (Invalid, TooLarge) as error:
            raise _Refused(error) from error
        dn = one_line(names.oneline(signed.signer.subject), 1000)
        self._trusted(signed.signer, signed.certificates, dn)
        return dn, text

    def _trusted(self, signer: x509.Certificate, chain: tuple[x509.Certificate, ...], dn: str) -> None:
        reason = self._trust.verify_path(signer, chain).reason
        if reason is not None:
            text = f"the message is signed by {shown(dn, 300)}, whose certificate is refused: {reason.message}"
            raise _Refused(Forbidden(text, code=f"signer_{reason.code}"))

    def _admit(self, arrival: Arrival, text: bytes) -> Receipt:
        """Load a message whose signer is known to be who it says."""
        message: CloudMessage | None = None
        try:
            if self._signers.banned(arrival.signer):
                raise Forbidden(f"the signer {shown(arrival.signer, 300)} is banned here", code="signer_banned")
            message = formats.parse(text)
            judgement = self._judge(arrival.signer, message)
            records = message.records
            receipt = self._db.write(lambda conn: store.load(conn, arrival, records, judgement))
        except (Invalid, Forbidden, TooLarge) as error:
            raise _Refused(error, records=len(message.records) if message else 0, text=text) from error
        log.info(
            "message %d from %s: %s, %d new or changed, %s",
            receipt.message,
            arrival.signer,
            plural(receipt.records, "record"),
            receipt.stored,
            plural(receipt.remark_count, "remark"),
        )
        return receipt

    def _judge(self, signer: str, message: CloudMessage) -> Judgement:
        """Whether the signer may report for the sites in the message. Raises Forbidden naming both."""
        policy = self._policy
        base = Judgement(counters=policy.counters, known_vos=policy.known_vos, remarks=message.remarks)
        if policy.binding == "off":
            return base
        own = self._signers.sites_of(signer)
        foreign = sorted({record.site_name for record in message.records} - own)
        if policy.binding == "warn":
            notes = tuple(Remark("W09", "", _unbound(signer, site, own)) for site in foreign)
            known = self._signers.current().all_sites
            return msgspec.structs.replace(base, known_sites=known, remarks=(*base.remarks, *notes))
        if not own or foreign:
            raise Forbidden(_unbound(signer, foreign[0] if foreign else "", own), code="signer_not_bound")
        return msgspec.structs.replace(base, own_sites=own)

    def _refuse(self, arrival: Arrival, refused: _Refused) -> SkyfedError:
        error = refused.error

        def note(conn: Connection) -> int:
            return store.reject(conn, arrival, error.code, error.message, refused.records, refused.text)

        message_id = self._db.write(note)
        sender = arrival.signer or arrival.peer
        log.warning("message %d from %s refused: %s", message_id, sender, one_line(error.message))
        return type(error)(f"{error.message} (kept as rejected message {message_id})", code=error.code)

    def tidy(self) -> int:
        """Forget the texts of rejected messages that are old, or too many. Returns how many."""
        older_than = epoch(self._clock.now()) - self._policy.keep_rejected_seconds
        keep = self._policy.keep_rejected
        return self._db.write(lambda conn: store.drop_bodies(conn, older_than=older_than, keep=keep))

    def recompute(self) -> int:
        """Make all summaries anew from the journal; needed only when `counters` was changed. Returns how many."""
        now = epoch(self._clock.now())

        def job(conn: Connection) -> int:
            store.set_state(conn, "counters", self._policy.counters)
            return summaries.recompute(conn, now=now, counters=self._policy.counters)

        return self._db.write(job)

    def adopt_settings(self) -> None:
        """Bring stored summaries in line with the settings, after a start."""
        if (self._db.read(lambda conn: store.get_state(conn, "counters")) or "compat") != self._policy.counters:
            log.info("setting counters is now '%s': %d summaries made anew", self._policy.counters, self.recompute())

    # -- answering ----------------------------------------------------------------------------------------------

    def scope(self, principal: Principal) -> Scope:
        """Whose personal data this Principal may see (digest 9.2): operators all, VO managers their VO's, a site's host
        its site's, everybody their own."""
        if principal.subject in self._policy.operators:
            return Scope(everything=True)
        roles = self._policy.vo_roles
        fqans = [Fqan.parse(fqan) for fqan in principal.fqans]
        return Scope(
            vos=frozenset(fqan.vo for fqan in fqans if fqan.role in roles and fqan.group == f"/{fqan.vo}"),
            sites=self._signers.held(principal.subject),
            name=principal.subject,
        )

    def summaries(self, wanted: Filter) -> list[CloudSummary]:
        """Monthly usage, added up over persons."""
        if wanted.user is not None:
            raise Invalid("the public summaries know no users; ask with users=true", code="parameter")
        return self._db.read(lambda conn: store.anonymous_summaries(conn, wanted))

    def user_summaries(self, wanted: Filter, principal: Principal) -> list[CloudSummary]:
        """Monthly usage by person, as far as the Principal may see."""
        scope = self.scope(principal)
        return self._db.read(lambda conn: store.named_summaries(conn, wanted, scope))

    def records(self, wanted: Filter, principal: Principal, *, history: bool) -> list[JournalRecord]:
        """Records, newest first, as far as the Principal may see."""
        scope = self.scope(principal)
        return self._db.read(lambda conn: store.journal(conn, wanted, scope, history=history))

    def today(self) -> tuple[int, list[DayUsage]]:
        """Midnight UTC of this day, and what was used since."""
        now = epoch(self._clock.now())
        midnight = now - now % DAY
        return midnight, self._db.read(lambda conn: store.usage_since(conn, midnight))

    def messages(
        self, principal: Principal | None, *, verdict: str | None, before: int | None, limit: int
    ) -> list[Entry]:
        """The message ledger, newest first: an operator (or the administrator: None) sees all, others what they signed
        or brought."""
        everything = principal is None or principal.subject in self._policy.operators
        signers = None if everything or principal is None else (principal.subject,)
        return self._db.read(
            lambda conn: store.entries(conn, verdict=verdict, signers=signers, before=before, limit=limit)
        )

    def message(self, message_id: int) -> tuple[Entry, str]:
        """A message of the ledger and the kept text of a rejected one ("" where none is kept). Raises NotFound."""
        found = self._db.read(lambda conn: store.entries(conn, before=message_id + 1, limit=1))
        if not found or found[0].id != message_id:
            raise NotFound(f"there is no message {message_id}", code="no_message")
        if not found[0].reloadable:
            return found[0], ""
        _, text = self._db.read(lambda conn: store.rejected_body(conn, message_id))
        return found[0], text.decode(errors="replace")

    def counts(self) -> store.Counts:
        """How much the repository holds, and when something came last."""
        return self._db.read(store.counts)

    def forget(self, name: str) -> str:
        """Replace a person's name by a pseudonym for good; see `store.forget`."""
        return self._db.write(lambda conn: store.forget(conn, name))


def _unbound(signer: str, site: str, own: frozenset[str]) -> str:
    """What is wrong with a signer, and what would be right."""
    registered = f"is registered for {', '.join(sorted(own))} only" if own else "is on no list of accounting services"
    what = f"may not report usage of site {shown(site)}" if site else "may not report usage"
    return (
        f"the signer {shown(signer, 300)} {what}: it {registered}; the registry must have it as HOSTDN of a production "
        "service of type eu.egi.cloud.accounting at that site"
    )
