"""The one judge of credentials: every service, every request, every file.

TLS proves that the peer has the key and that its chain descends from an anchor. Everything else is decided here: validity,
revocation, proxy rules, attribute certificates, bans. Verdicts are cached by the chain and by the generation of everything they
rest on, so that a changed CRL or a new ban voids them at the next request, also on an open connection.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Annotated

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from skyfed.core.clock import Clock
from skyfed.core.errors import Invalid
from skyfed.core.settings import setting
from skyfed.identity import ac, ac_rules, chain
from skyfed.identity.bans import BanSource
from skyfed.identity.chain import Chain
from skyfed.identity.principal import CredentialKind, Membership, Principal
from skyfed.identity.verdict import AcVerdict, Verdict
from skyfed.identity.vomsdir import Vomsdir
from skyfed.pki import names
from skyfed.pki.findings import Finding
from skyfed.pki.trust import TrustStore


class JudgeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How credentials are judged at a node."""

    host: Annotated[
        str,
        setting(
            "this host's full name: attribute certificates may be restricted to named hosts; empty = such are refused,"
            " * = not looked at"
        ),
    ] = ""
    accept_legacy_proxies: Annotated[
        bool, setting("accept Globus proxies older than RFC 3820 (only behind a front that verified them)")
    ] = False
    min_rsa_bits: Annotated[int, setting("smallest RSA key of a proxy, bits"), msgspec.Meta(ge=1024)] = (
        chain.MIN_RSA_BITS
    )
    cache_seconds: Annotated[
        float,
        setting("how long a verdict is believed at most, seconds; changes of trust void it at once"),
        msgspec.Meta(ge=0),
    ] = 300.0
    cache_entries: Annotated[int, setting("how many verdicts are kept"), msgspec.Meta(ge=1)] = 4096


_Generation = tuple[int, ...]


class _Entry(msgspec.Struct, frozen=True):
    verdict: Verdict
    since: datetime
    until: datetime


class Judge:
    """Judges credentials; safe to use from several threads."""

    def __init__(
        self,
        trust: TrustStore,
        vomsdir: Vomsdir,
        bans: Sequence[BanSource],
        clock: Clock,
        settings: JudgeSettings | None = None,
    ) -> None:
        self._trust = trust
        self._vomsdir = vomsdir
        self._bans = tuple(bans)
        self._clock = clock
        self._settings = settings or JudgeSettings()
        self._cache: OrderedDict[bytes, _Entry] = OrderedDict()
        self._cache_generation: _Generation = ()
        self._lock = threading.Lock()

    @property
    def generation(self) -> tuple[int, ...]:
        """Changes whenever trust anchors, CRLs, vomsdir or bans do; a verdict of another generation is void."""
        return (self._trust.generation, self._vomsdir.generation, *(source.generation for source in self._bans))

    def judge(self, chain_der: Sequence[bytes]) -> Verdict:
        """The verdict on a peer's chain (DER, leaf first, as sent). Never raises for anything the peer sent."""
        key = _digest(chain_der)
        generation = self.generation
        now = self._clock.now()
        with self._lock:
            if generation != self._cache_generation:
                self._cache.clear()
                self._cache_generation = generation
            entry = self._cache.get(key)
            # A clock that was set back makes cached verdicts as doubtful as one that ran on.
            if entry is not None and entry.since <= now < entry.until:
                self._cache.move_to_end(key)
                return entry.verdict
        verdict = self.judge_at(chain_der, now)
        with self._lock:
            # Judged under a generation that is no longer current: right for this request, not for the next one.
            if generation == self._cache_generation:
                self._remember(key, _Entry(verdict, now, self._until(verdict, now)))
        return verdict

    def judge_at(self, chain_der: Sequence[bytes], now: datetime) -> Verdict:
        """The verdict at the instant `now`, not from the cache."""
        try:
            certificates = chain.load(chain_der)
            found = chain.split(certificates)
            return self._judge_chain(found, now)
        except Invalid as error:
            return Verdict(None, (Finding(error.code, error.message, where="chain"),))
        except chain.UNREADABLE as error:
            message = f"a certificate of the chain cannot be read: {error}"
            return Verdict(None, (Finding("malformed", message, where="chain"),))

    def _judge_chain(self, found: Chain, now: datetime) -> Verdict:
        settings = self._settings
        path = self._trust.verify_path(found.end_entity, found.above, now)
        findings = [
            *chain.examine(found, now, allow_legacy=settings.accept_legacy_proxies, min_rsa_bits=settings.min_rsa_bits),
            *path.findings,
            *_end_entity_faults(found.end_entity),
        ]
        acs = tuple(self._attribute_certificates(found, now))
        subject = names.oneline(found.end_entity.subject)
        if any(finding.level == "error" for finding in findings):
            return Verdict(None, tuple(findings), acs, subject)
        principal = _principal(found, acs, path.not_after)
        banned = self._ban(principal)
        if banned is not None:
            return Verdict(None, (*findings, banned), acs, subject)
        return Verdict(principal, tuple(findings), acs, subject)

    def _attribute_certificates(self, found: Chain, now: datetime) -> Iterator[AcVerdict]:
        """The nearest to the leaf of each VO. A proxy may narrow what the one above it holds, so an outer certificate
        that is bad does not bring an inner one back."""
        around = ac_rules.Surroundings(self._trust, self._vomsdir, self._settings.host, now)
        vos: set[str] = set()
        for proxy in found.proxies:
            value = chain.unparsed(chain.extensions_of(proxy.certificate), ac.AC_SEQUENCE)
            if value is None:
                continue
            for verdict in _judge_sequence(value, found.end_entity, around):
                if verdict.vo not in vos:
                    yield verdict
                if verdict.vo:
                    vos.add(verdict.vo)

    def _ban(self, principal: Principal) -> Finding | None:
        for source in self._bans:
            ban = source.find(principal)
            if ban is not None:
                return Finding("banned", f"'{principal.subject}' is banned here ({ban.kind})", where="ban")
        return None

    def _until(self, verdict: Verdict, now: datetime) -> datetime:
        ends = [now + timedelta(seconds=self._settings.cache_seconds)]
        if verdict.principal is not None:
            ends.append(verdict.principal.not_after)
        ends += (ac.not_after + ac_rules.SKEW for ac in verdict.acs if ac.ok and ac.not_after is not None)
        return min(ends)

    def _remember(self, key: bytes, entry: _Entry) -> None:
        self._cache[key] = entry
        self._cache.move_to_end(key)
        while len(self._cache) > self._settings.cache_entries:
            self._cache.popitem(last=False)


def _digest(chain_der: Sequence[bytes]) -> bytes:
    """SHA-256 over the chain. DER carries its own lengths, so that joined certificates stay apart."""
    return hashlib.sha256(b"".join(chain_der)).digest()


def _judge_sequence(value: bytes, holder: x509.Certificate, around: ac_rules.Surroundings) -> Iterator[AcVerdict]:
    try:
        acs = ac.decode_sequence(value)
    except Invalid as error:
        yield ac_rules.unreadable(error.code, error.message)
        return
    for der in acs:
        yield ac_rules.judge(der, holder, around)


def _end_entity_faults(certificate: x509.Certificate) -> Iterator[Finding]:
    for extension in certificate.extensions:
        if isinstance(extension.value, x509.BasicConstraints) and extension.value.ca:
            message = "a CA certificate is no credential of a person, robot or host"
            yield Finding("ca_as_end_entity", message, where="certificate")


def _principal(found: Chain, acs: tuple[AcVerdict, ...], path_end: datetime | None) -> Principal:
    ends = [found.not_after] if path_end is None else [found.not_after, path_end]
    return Principal(
        subject=names.oneline(found.end_entity.subject),
        issuer=names.oneline(found.end_entity.issuer),
        vos=tuple(Membership(verdict.vo, verdict.fqans) for verdict in acs if verdict.ok),
        limited=found.limited,
        not_after=min(ends),
        fingerprint=found.end_entity.fingerprint(hashes.SHA256()).hex(),
        kind=_kind(found),
    )


def _kind(found: Chain) -> CredentialKind:
    if not found.proxies:
        return "certificate"
    return "proxy" if all(proxy.kind == "rfc3820" for proxy in found.proxies) else "legacy-proxy"
