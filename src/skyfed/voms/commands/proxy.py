"""`skyfed proxy`: make, show, explain and destroy proxy certificates with VOMS attributes."""

import os
import sys
from datetime import timedelta
from pathlib import Path

import click
import msgspec
from cryptography import x509

from skyfed.core.clock import Clock, SystemClock, from_iso
from skyfed.core.errors import Invalid, NotFound, SkyfedError
from skyfed.core.terminal import emit, json_option
from skyfed.core.text import one_line
from skyfed.identity import proxy as proxies
from skyfed.identity.ac_rules import ANY_HOST
from skyfed.identity.fqan import Fqan
from skyfed.identity.judge import Judge, JudgeSettings
from skyfed.identity.vomsdir import Vomsdir
from skyfed.pki.commands import proxy_path
from skyfed.pki.files import MAX_BUNDLE_BYTES, Credential, parse_bundle, read_bounded, read_credential
from skyfed.pki.trust import TrustStore
from skyfed.voms.client import AaClient, contacts_for, errand, load_contacts, parse_voms_option, vomses_paths
from skyfed.voms.commands import options, report
from skyfed.voms.commands.options import option, path_option
from skyfed.voms.model import AcRequest, Answer, Command


@click.group()
def proxy() -> None:
    """Proxy certificates: short-lived credentials that carry your VO membership.

    \b
    skyfed proxy init --voms demo.skyfed       make one (asks the VO for your attributes)
    skyfed proxy info                          what is in it, and whether it would be accepted
    skyfed proxy explain FILE                  every rule, and which one refuses it
    skyfed proxy destroy                       overwrite and remove it

    Options may be written with one dash or two, as for voms-proxy-init.
    """


# -- init -------------------------------------------------------------------------------------------------------


class _Init(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `proxy init`."""

    voms: tuple[str, ...]
    valid: str
    hours: int | None
    vomslife: str | None
    bits: int
    ec: bool
    cert: Path | None
    key: Path | None
    certdir: Path | None
    vomsdir: Path | None
    vomses: Path | None
    out: Path | None
    order: tuple[str, ...]
    target: tuple[str, ...]
    limited: bool
    path_length: int | None
    pwstdin: bool
    quiet: bool
    timeout: float
    dont_verify_ac: bool
    ignorewarn: bool
    failonwarn: bool

    @property
    def lifetime(self) -> timedelta:
        """How long the proxy lives."""
        return timedelta(hours=self.hours) if self.hours else options.hours_minutes(self.valid, "time for --valid")

    @property
    def ac_seconds(self) -> int:
        """How long the attributes live: as the proxy unless told otherwise."""
        wanted = options.hours_minutes(self.vomslife, "time for --vomslife") if self.vomslife else self.lifetime
        return int(wanted.total_seconds())


@proxy.command()
@option("voms", multiple=True, metavar="VO[:FQAN]", help="VO (or alias) to ask; FQAN: /vo/Role=r, /Role=r or all.")
@option("valid", default="12:00", show_default=True, metavar="H:M", help="Life of the proxy.")
@option("hours", type=click.IntRange(1), help="The same in hours.")
@option("vomslife", metavar="H:M", help="Life of the attributes (default: as the proxy).")
@option("bits", type=int, default=2048, show_default=True, help="Size of the RSA key.")
@option("ec", is_flag=True, help="An elliptic-curve key (P-256): quicker; very old servers refuse it.")
@path_option("cert", "Your certificate (default $X509_USER_CERT, ~/.globus/usercert.pem).")
@path_option("key", "Its private key (default $X509_USER_KEY, ~/.globus/userkey.pem).")
@path_option("certdir", "Trusted CAs (default $X509_CERT_DIR, /etc/grid-security/certificates).")
@path_option("vomsdir", "Trusted attribute authorities (default $X509_VOMS_DIR, /etc/grid-security/vomsdir).")
@path_option(
    "vomses", "Where attribute authorities are (default $X509_VOMSES, ~/.voms/vomses, /etc/vomses).", "userconf"
)
@path_option("out", "The proxy file (default $X509_USER_PROXY, /tmp/x509up_u<uid>).")
@option("order", multiple=True, metavar="FQAN", help="Put this FQAN first; repeat for the next ones.")
@option("target", multiple=True, metavar="HOST", help="Attributes for these hosts only.")
@option("limited", is_flag=True, help="A limited proxy: it cannot start machines.")
@option("path-length", type=click.IntRange(0), help="How many further proxies may be made from this one.")
@option("pwstdin", is_flag=True, help="Read the key's pass phrase from standard input.")
@option("quiet", is_flag=True, help="Say nothing unless something fails.")
@option("timeout", type=click.FloatRange(1), default=30.0, show_default=True, help="Seconds to wait for an answer.")
@option("dont-verify-ac", "skip_ac_verification", is_flag=True, help="Do not check the attributes received.")
@option("ignorewarn", is_flag=True, help="Do not show warnings of the attribute authority.")
@option("failonwarn", is_flag=True, help="Treat a warning as a failure.")
@option("rfc", is_flag=True, hidden=True, expose_value=False)
@option("old", is_flag=True, hidden=True)
def init(old: bool, **given: object) -> None:
    """Make a proxy; with --voms, one that proves your membership."""
    if old:
        raise Invalid("proxies older than RFC 3820 are made no more; leave --old out", code="legacy_proxy")
    wishes = msgspec.convert(given, _Init)
    clock = SystemClock()
    trust = _trust(wishes.certdir, clock)
    user = _user_credential(wishes)
    answers = [_ask(wishes, vo, trust, user, clock) for vo in _asked(wishes.voms)]
    made = proxies.create(
        user,
        proxies.Proxy(
            lifetime=wishes.lifetime,
            limited=wishes.limited,
            path_length=wishes.path_length,
            key="ec" if wishes.ec else "rsa",
            rsa_bits=wishes.bits,
            acs=tuple(answer.ac for answer in answers),
        ),
        clock.now(),
    )
    if answers and not wishes.dont_verify_ac:
        _verify(made, wishes, trust, clock)
    path = wishes.out or proxy_path()
    try:
        proxies.write(made, path)
    except OSError as error:
        raise Invalid(f"cannot write {path}: {error.strerror}; --out names another place", code="unwritable") from error
    if not wishes.quiet:
        end = min(c.not_valid_after_utc for c in proxies.chain_of(made))
        click.echo(f"Created proxy in {path}.\n\nYour proxy is valid until {end.astimezone():%a %b %d %H:%M:%S %Z %Y}")


def _user_credential(wishes: _Init) -> Credential:
    """The user's certificate and key; the pass phrase is asked for when the key has one."""
    cert, key = options.user_files(wishes.cert, wishes.key)
    try:
        return read_credential(cert, key)
    except Invalid as error:
        if error.code != "key_password":
            raise
    if wishes.pwstdin:
        password = sys.stdin.buffer.readline().rstrip(b"\r\n")
    else:
        password = click.prompt(f"Pass phrase of {key}", hide_input=True, err=True).encode()
    return read_credential(cert, key, password=password)


def _asked(voms: tuple[str, ...]) -> dict[str, list[Command]]:
    """What to ask of each VO, in the order they were first named: several FQANs of a VO make one certificate."""
    found: dict[str, list[Command]] = {}
    for text in voms:
        alias, command = parse_voms_option(text)
        found.setdefault(alias, [])
        if command is not None:
            found[alias].append(command)
    return found


def _ask(wishes: _Init, vo: str, trust: TrustStore, user: Credential, clock: Clock) -> Answer:
    paths = (wishes.vomses,) if wishes.vomses else vomses_paths(os.environ, Path.home())
    contacts = contacts_for(load_contacts(paths), vo, paths)
    commands = tuple(_asked(wishes.voms)[vo]) or (Command("group", f"/{contacts[0].vo}"),)
    request = AcRequest(
        commands=commands,
        order=tuple(Fqan.parse(text) for text in wishes.order),
        targets=wishes.target,
        lifetime=wishes.ac_seconds,
    )
    if not wishes.quiet:
        click.echo(f'Contacting {contacts[0].host}:{contacts[0].port} [{contacts[0].subject}] "{contacts[0].vo}"…')
    client = AaClient(trust, errand(user, clock.now()), deadline=wishes.timeout)
    answer = client.attribute_certificate(contacts, request)
    for notice in answer.notices:
        if wishes.failonwarn:
            raise Invalid(f"the attribute authority warns: {notice.text}", code="ac_warning")
        if not wishes.ignorewarn:
            click.echo(f"Warning: {one_line(notice.text)}", err=True)
    return answer


def _verify(made: Credential, wishes: _Init, trust: TrustStore, clock: Clock) -> None:
    """Raises Invalid with the reason for which a site would not believe the attributes."""
    verdict = _judge(trust, wishes.vomsdir, clock).judge(proxies.chain_der(made))
    finding = verdict.reason or verdict.vo_reason
    if finding is not None:
        hint = " (--dont-verify-ac makes the proxy all the same)" if finding.code.startswith("ac_") else ""
        raise Invalid(f"the proxy would not be accepted: {finding.message}{hint}", code=finding.code)


# -- info -------------------------------------------------------------------------------------------------------

_FIELDS = ("subject", "issuer", "identity", "type", "strength", "path", "timeleft", "fqan", "vo", "actimeleft", "uri")


def _field_options(command: click.Command) -> click.Command:
    for name in reversed(_FIELDS):
        command = option(name, is_flag=True, help=f"Print the {name} only.")(command)
    return command


@proxy.command()
@path_option("file", "The proxy (default $X509_USER_PROXY, /tmp/x509up_u<uid>).")
@path_option("certdir", "Trusted CAs (default $X509_CERT_DIR).")
@path_option("vomsdir", "Trusted attribute authorities (default $X509_VOMS_DIR).")
@option("all", is_flag=True, hidden=True, expose_value=False)
@option("exists", is_flag=True, help="Print nothing; exit code 0 if there is a valid proxy, else 1.")
@option("valid", default="0:00", metavar="H:M", help="With --exists: valid for at least this long.")
@option("acexists", metavar="VO", help="Print nothing; exit code 0 if there are attributes of this VO, else 1.")
@_field_options  # type: ignore[arg-type]  # click's decorators take functions and commands alike
@json_option
def info(
    file: Path | None,
    certdir: Path | None,
    vomsdir: Path | None,
    exists: bool,
    valid: str,
    acexists: str | None,
    as_json: bool,
    **fields: bool,
) -> None:
    """Show a proxy and whether a site that trusts what you trust would accept it."""
    path = file or proxy_path()
    clock = SystemClock()
    try:
        found = _report(path, certdir, vomsdir, clock)
    except SkyfedError:
        if exists or acexists:
            sys.exit(1)
        raise
    if acexists:
        sys.exit(0 if any(one.vo == acexists and one.seconds_left for one in found.acs) else 1)
    if exists:
        needed = options.hours_minutes(valid, "time for --valid").total_seconds()
        sys.exit(0 if found.seconds_left and found.seconds_left >= needed else 1)
    chosen = [name for name in _FIELDS if fields[name]]
    if chosen:
        for name in chosen:
            for line in _values(found, name):
                click.echo(line)
        return
    emit(found, as_json=as_json, human=report.as_text)


def _report(path: Path, certdir: Path | None, vomsdir: Path | None, clock: Clock) -> report.Report:
    judge = _judge(_trust(certdir, clock), vomsdir, clock)
    return report.report(_certificates(path), judge, str(path), clock.now())


def _trust(certdir: Path | None, clock: Clock) -> TrustStore:
    return TrustStore(options.trust_directory(certdir), clock)


def _judge(trust: TrustStore, vomsdir: Path | None, clock: Clock) -> Judge:
    """A judge with what the user trusts. Targets are the sites' business."""
    return Judge(trust, Vomsdir(options.vomsdir(vomsdir), clock), (), clock, JudgeSettings(host=ANY_HOST))


def _certificates(path: Path) -> tuple[x509.Certificate, ...]:
    if not path.exists():
        raise NotFound(f"there is no proxy at {path}; 'skyfed proxy init' makes one", code="no_proxy")
    certificates = parse_bundle(read_bounded(path, MAX_BUNDLE_BYTES), source=str(path)).certificates
    if not certificates:
        raise Invalid(f"{path} holds no certificate", code="no_certificate")
    return proxies.in_order(certificates)


def _values(found: report.Report, name: str) -> list[str]:
    if name == "timeleft":
        return [str(found.seconds_left)]
    if name == "fqan":
        return [fqan for one in found.acs for fqan in one.attributes]
    if name in {"vo", "uri"}:
        return [getattr(one, name) for one in found.acs]
    if name == "actimeleft":
        return [str(one.seconds_left) for one in found.acs]
    return [str(getattr(found, name))]


# -- explain ----------------------------------------------------------------------------------------------------


class _Explanation(msgspec.Struct, frozen=True, kw_only=True):
    file: str
    at: str
    subject: str
    accepted: bool
    vos: tuple[str, ...]
    rules: tuple[report.Rule, ...]


@proxy.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@path_option("certdir", "Trusted CAs (default $X509_CERT_DIR).")
@path_option("vomsdir", "Trusted attribute authorities (default $X509_VOMS_DIR).")
@option("at", metavar="TIME", help="Judge as of this instant, such as 2026-11-23T04:40:00Z.")
@json_option
def explain(file: Path | None, certdir: Path | None, vomsdir: Path | None, at: str | None, as_json: bool) -> None:
    """Tell for every rule whether the credential in FILE keeps it. Exit code 1 when it would be refused."""
    clock = SystemClock()
    path = file or proxy_path()
    try:
        moment = from_iso(at) if at else clock.now()
    except ValueError as error:
        raise Invalid(f"--at {at} is no instant; right is such as 2026-11-23T04:40:00Z", code="at") from error
    verdict = _judge(_trust(certdir, clock), vomsdir, clock).judge_at(report.der(_certificates(path)), moment)
    found = _Explanation(
        file=str(path),
        at=moment.isoformat(timespec="seconds"),
        subject=verdict.subject,
        accepted=verdict.ok,
        vos=verdict.principal.vo_names if verdict.principal else (),
        rules=report.explain(verdict),
    )
    emit(found, as_json=as_json, human=_explained)
    sys.exit(0 if found.accepted else 1)


def _explained(found: _Explanation) -> str:
    said = "would be accepted" if found.accepted else "would be REFUSED"
    rights = f", with the rights of {', '.join(found.vos)}" if found.vos else ", without rights in any VO"
    head = f"{found.file}: {found.subject or 'unreadable'}\n{said}{rights if found.accepted else ''}"
    return f"{head}\n{report.rules_text(found.rules)}"


# -- destroy ----------------------------------------------------------------------------------------------------


@proxy.command()
@path_option("file", "The proxy (default $X509_USER_PROXY, /tmp/x509up_u<uid>).")
@option("dry", is_flag=True, help="Only say what would be removed.")
@option("quiet", is_flag=True, help="Say nothing.")
def destroy(file: Path | None, dry: bool, quiet: bool) -> None:
    """Overwrite and remove a proxy."""
    path = file or proxy_path()
    if not path.is_file() or path.is_symlink():
        raise NotFound(f"there is no proxy at {path}", code="no_proxy")
    if not dry:
        _overwrite(path)
        path.unlink()
    if not quiet:
        click.echo(f"{'Would remove' if dry else 'Removed'} {path}")


def _overwrite(path: Path) -> None:
    """Zeros over the key, so that it does not lie about in freed blocks of simple file systems."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(bytes(os.fstat(descriptor).st_size))
        file.flush()
        os.fsync(file.fileno())
