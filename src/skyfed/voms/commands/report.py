"""What `proxy info` and `proxy explain` tell about a credential: the values, and every rule with its outcome."""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from skyfed.core.clock import iso
from skyfed.core.errors import Invalid
from skyfed.identity import ac, chain, signatures
from skyfed.identity.chain import Chain
from skyfed.identity.judge import Judge
from skyfed.identity.proxy import in_order
from skyfed.identity.verdict import AcVerdict, Finding, Verdict
from skyfed.pki import names


class AcReport(msgspec.Struct, frozen=True, kw_only=True):
    """One attribute certificate. Times are ISO 8601 UTC; `verified` is the judge's word, `reason` why not."""

    vo: str
    subject: str
    issuer: str
    attributes: tuple[str, ...]
    generic_attributes: tuple[str, ...]
    targets: tuple[str, ...]
    uri: str
    serial: str
    not_before: str
    not_after: str
    seconds_left: int
    verified: bool
    reason: str
    code: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A proxy or certificate file."""

    subject: str
    issuer: str
    identity: str
    type: str
    strength: int
    path: str
    not_before: str
    not_after: str
    seconds_left: int
    limited: bool
    path_length: int | None
    accepted: bool
    reason: str
    code: str
    acs: tuple[AcReport, ...]


def report(certificates: Sequence[x509.Certificate], judge: Judge, path: str, now: datetime) -> Report:
    """Everything about a chain (leaf first). Raises Invalid when it cannot even be read."""
    found = chain.split(in_order(certificates))
    verdict = judge.judge_at(der(certificates), now)
    leaf = certificates[0]
    reason = verdict.reason
    return Report(
        subject=names.oneline(leaf.subject),
        issuer=names.oneline(leaf.issuer),
        identity=names.oneline(found.end_entity.subject),
        type=_type(found),
        strength=_bits(leaf),
        path=path,
        not_before=iso(leaf.not_valid_before_utc),
        not_after=iso(found.not_after),
        seconds_left=_seconds_left(found.not_after, now),
        limited=found.limited,
        path_length=found.proxies[0].path_length if found.proxies else None,
        accepted=verdict.ok,
        reason=reason.message if reason else "",
        code=reason.code if reason else "",
        acs=tuple(_ac_reports(found, verdict, now)),
    )


def der(certificates: Sequence[x509.Certificate]) -> tuple[bytes, ...]:
    """The chain as a TLS peer would show it."""
    return tuple(c.public_bytes(serialization.Encoding.DER) for c in in_order(certificates))


def _type(found: Chain) -> str:
    """In voms-proxy-info's words, which scripts look for."""
    if not found.proxies:
        return "end entity certificate"
    first = found.proxies[0]
    kind = "RFC3820 compliant" if first.kind == "rfc3820" else "legacy globus"
    if first.info is not None and not first.limited:
        language = first.info.language_name
        return f"{kind} {'impersonation' if language == 'inherit all' else language} proxy"
    return f"{kind} limited proxy" if first.limited else f"full {kind} proxy"


def _bits(certificate: x509.Certificate) -> int:
    key = signatures.public_key(certificate)
    return key.key_size if isinstance(key, rsa.RSAPublicKey) else key.curve.key_size


def _seconds_left(end: datetime, now: datetime) -> int:
    return max(0, int((end - now).total_seconds()))


def _ac_reports(found: Chain, verdict: Verdict, now: datetime) -> list[AcReport]:
    decoded = _decoded(found)
    return [_ac_report(one, decoded.get((one.vo, one.not_after)), found, now) for one in verdict.acs]


def _decoded(found: Chain) -> dict[tuple[str, datetime | None], ac.AttributeCertificate]:
    """The readable certificates of the proxies, by what their verdicts name them by; the nearest to the leaf first."""
    all_of_them: dict[tuple[str, datetime | None], ac.AttributeCertificate] = {}
    for proxy in found.proxies:
        value = chain.unparsed(chain.extensions_of(proxy.certificate), ac.AC_SEQUENCE)
        try:
            for der in ac.decode_sequence(value) if value is not None else ():
                one = ac.decode(der)
                all_of_them.setdefault((one.authority.vo, one.not_after), one)
        except Invalid:
            continue  # the verdict says what is wrong with it
    return all_of_them


def _ac_report(
    verdict: AcVerdict, certificate: ac.AttributeCertificate | None, found: Chain, now: datetime
) -> AcReport:
    reason = verdict.reason
    uri = verdict.authority.partition("://")[2]
    return AcReport(
        vo=verdict.vo,
        subject=names.oneline(found.end_entity.subject),
        issuer=names.oneline(certificate.issuer) if certificate else "",
        attributes=verdict.fqans,
        generic_attributes=tuple(f"{a.name} = {a.value} ({a.qualifier})" for a in certificate.attributes)
        if certificate
        else (),
        targets=(certificate.targets or ()) if certificate else (),
        uri=uri,
        serial=f"{certificate.serial:x}" if certificate else "",
        not_before=iso(verdict.not_before) if verdict.not_before else "",
        not_after=iso(verdict.not_after) if verdict.not_after else "",
        seconds_left=_seconds_left(verdict.not_after, now) if verdict.not_after else 0,
        verified=verdict.ok,
        reason=reason.message if reason else "",
        code=reason.code if reason else "",
    )


# -- text -------------------------------------------------------------------------------------------------------


def clock_text(seconds: int) -> str:
    """`11:38:03`: as voms-proxy-info writes the time left."""
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def as_text(found: Report) -> str:
    """`key       : value`, as voms-proxy-info -all, with the judge's word for the chain and each certificate."""
    lines = [
        _line("subject", found.subject),
        _line("issuer", found.issuer),
        _line("identity", found.identity),
        _line("type", found.type),
        _line("strength", f"{found.strength} bits"),
        _line("path", found.path),
        _line("timeleft", clock_text(found.seconds_left)),
        _line("accepted", _yes_no(found.accepted, found.code, found.reason)),
    ]
    for one in found.acs:
        lines += _ac_text(one)
    return "\n".join(lines)


def _ac_text(one: AcReport) -> list[str]:
    return [
        f"=== VO {one.vo or '?'} extension information ===",
        _line("VO", one.vo),
        _line("subject", one.subject),
        _line("issuer", one.issuer),
        *(_line("attribute", text) for text in (*one.attributes, *one.generic_attributes)),
        *(_line("targets", target) for target in one.targets),
        _line("timeleft", clock_text(one.seconds_left)),
        _line("uri", one.uri),
        _line("verified", _yes_no(one.verified, one.code, one.reason)),
    ]


def _line(key: str, value: str) -> str:
    return f"{key:<10}: {value}"


def _yes_no(good: bool, code: str, reason: str) -> str:
    return "yes" if good else f"no ({code}: {reason})"


# -- rules ------------------------------------------------------------------------------------------------------


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One rule and how the credential stands to it: `ok`, `failed`, or `unknown` where an earlier fault hides it."""

    rule: str
    outcome: str
    code: str = ""
    where: str = ""
    message: str = ""


_CHAIN_RULES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("the chain can be read and has a person, robot or host below its proxies",
     ("malformed", "no_certificate", "chain_length", "no_end_entity", "ca_as_end_entity", "not_a_ca")),
    ("a trusted CA issued the certificate, by an unbroken path", ("unknown_ca", "bad_signature", "path_length")),
    ("the CA may sign this name", ("signing_policy", "signing_policy_missing")),
    ("nothing has expired or begins later", ("expired", "not_yet_valid")),
    ("nothing is revoked, by a fresh CRL of the CA",
     ("revoked", "crl_missing", "crl_expired", "crl_not_yet_valid", "crl_signature", "crl_unsupported")),
    ("keys and digests are strong", ("weak_key", "weak_signature", "key_type")),
    ("key usage and extensions are understood and fit", ("key_usage", "critical_extension", "proxy_extension")),
    ("each proxy is named, signed and issued by the certificate above it",
     ("proxy_name", "proxy_issuer", "proxy_signature", "proxy_of_ca", "proxy_is_ca")),
    ("each proxy says by RFC 3820 what it inherits", ("proxy_info", "proxy_language", "independent_proxy")),
    ("all proxies are of RFC 3820", ("legacy_proxy", "mixed_proxies")),
    ("no more proxies than a path length allows", ("proxy_path_length",)),
    ("nobody here has banned it", ("banned",)),
)  # fmt: skip

_AC_RULES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("it can be read", ("ac_format",)),
    ("its FQANs belong to its VO", ("ac_fqan",)),
    ("it was issued to this certificate's holder", ("ac_holder",)),
    ("the attribute authority is one that vomsdir lists, with a valid certificate", ("ac_untrusted_aa",)),
    ("the attribute authority signed it", ("ac_signature",)),
    ("it is valid now", ("ac_expired", "ac_not_yet_valid")),
    ("it has the extensions that readers need", ("ac_missing_extension",)),
    ("its critical extensions are understood", ("ac_critical_extension",)),
    ("it is meant for this host", ("ac_target",)),
)
# Faults after which the later rules were not looked at.
_FATAL = {"malformed", "no_certificate", "chain_length", "no_end_entity", "proxy_info", "ac_format", "ac_fqan"}


def explain(verdict: Verdict) -> tuple[Rule, ...]:
    """Every rule of chains, then of each attribute certificate, and its outcome."""
    rules = [*_outcomes(_CHAIN_RULES, verdict.findings, "chain")]
    for one in verdict.acs:
        rules += _outcomes(_AC_RULES, one.findings, f"ac {one.vo}".strip())
    return tuple(rules)


def _outcomes(table: tuple[tuple[str, tuple[str, ...]], ...], findings: Sequence[Finding], where: str) -> list[Rule]:
    errors = [finding for finding in findings if finding.level == "error"]
    hidden = any(finding.code in _FATAL for finding in errors)
    rules = []
    listed = {code for _, codes in table for code in codes}
    for text, codes in table:
        broken = [finding for finding in errors if finding.code in codes]
        rules += [_failed(text, finding) for finding in broken]
        if not broken:
            rules.append(Rule(rule=text, outcome="unknown" if hidden else "ok", where=where))
    rules += [_failed("nothing else is wrong", finding) for finding in errors if finding.code not in listed]
    return rules


def _failed(text: str, finding: Finding) -> Rule:
    return Rule(rule=text, outcome="failed", code=finding.code, where=finding.where, message=finding.message)


_MARKS = {"ok": "✓", "failed": "✗", "unknown": "·"}


def rules_text(rules: Sequence[Rule]) -> str:
    """A line a rule; what failed has its code and sentence below."""
    lines = []
    section = ""
    for rule in rules:
        head = "attribute certificate" if rule.where.startswith("ac") else "chain"
        if head != section:
            section = head
            lines.append(f"{head}:")
        lines.append(f"  {_MARKS[rule.outcome]} {rule.rule}")
        if rule.outcome == "failed":
            lines.append(f"      {rule.code} ({rule.where}): {rule.message}")
    return "\n".join(lines)
