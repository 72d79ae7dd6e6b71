"""Asking an attribute authority, and finding it: what users' tools and the portal use."""

import os
import ssl
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from skyfed.core.errors import Forbidden, Invalid, NotFound, SkyfedError, Unavailable
from skyfed.core.http import ANY_ADDRESS, AddressPolicy, Client
from skyfed.core.text import shown
from skyfed.identity import proxy
from skyfed.pki.files import Credential, pem_certificate, pem_key, read_bounded, write_atomic
from skyfed.pki.tls import client_context
from skyfed.pki.trust import TrustStore
from skyfed.voms.model import AcRequest, Answer, Command, command_for
from skyfed.voms.wire import rest, vomses
from skyfed.voms.wire.vomses import Contact

DEFAULT_DEADLINE = 30.0
# Just long enough to ask: the key lies unencrypted in a file while TLS reads it.
ERRAND = timedelta(minutes=10)


class AaClient:
    """Asks attribute authorities in the name of `credential`; servers must have a trusted certificate for their name."""

    def __init__(
        self,
        trust: TrustStore,
        credential: Credential,
        *,
        deadline: float = DEFAULT_DEADLINE,
        policy: AddressPolicy = ANY_ADDRESS,
    ) -> None:
        self._trust = trust
        self._credential = credential
        self._deadline = deadline
        self._policy = policy

    def attribute_certificate(self, contacts: Sequence[Contact], request: AcRequest) -> Answer:
        """The first answer that any of `contacts` gives; those that are down are passed over.

        Raises Forbidden (`no_such_user`, `suspended_user`), Invalid (`ac_refused`), Unavailable, TimedOut.
        """
        failure: SkyfedError = Unavailable("there is no attribute authority to ask", code="no_contact")
        context = _context(self._trust, self._credential)
        client = Client(ssl_context=context, policy=self._policy, user_agent="skyfed proxy")
        for contact in contacts:
            try:
                return self._ask(client, contact, request)
            except (Forbidden, Invalid):
                # A refusal is the VO's word; only silence is worth asking elsewhere.
                raise
            except SkyfedError as error:
                failure = error
        raise failure

    def _ask(self, client: Client, contact: Contact, request: AcRequest) -> Answer:
        answer = client.request(
            "GET", contact.url + rest.target(request), deadline=self._deadline, max_bytes=rest.MAX_ANSWER_BYTES
        )
        where = f"the attribute authority of {contact.vo} at {contact.host}:{contact.port}"
        if not answer.body:
            raise Unavailable(f"{where} answered {answer.status} without a word", code="bad_answer")
        return rest.parse_answer(answer.status, answer.body, where)


def _context(trust: TrustStore, credential: Credential) -> ssl.SSLContext:
    """A TLS context that shows `credential`. TLS libraries read keys from files only, so it is one for that moment."""
    with tempfile.TemporaryDirectory(prefix="skyfed-") as folder:
        path = Path(folder) / "credential.pem"
        chain = b"".join(map(pem_certificate, proxy.chain_of(credential)))
        write_atomic(path, chain + pem_key(credential.key), mode=0o600)
        return client_context(trust.anchors.pem(), path)


def errand(credential: Credential, now: datetime) -> Credential:
    """A short-lived proxy to ask with, so that a user's own key never lies unencrypted in a file."""
    return proxy.create(credential, proxy.Proxy(lifetime=ERRAND), now)


def parse_voms_option(text: str) -> tuple[str, Command | None]:
    """`vo` or `vo:fqan` (`vo:/vo/Role=x`, `vo:/Role=x`, `vo:all`): which contact to use, and what to ask.

    Raises Invalid (`fqan`).
    """
    alias, colon, fqan = text.partition(":")
    if not alias:
        raise Invalid(f"{shown(text)} names no VO; right is 'vo' or 'vo:/vo/Role=role'", code="fqan")
    return alias, command_for(fqan) if colon else None


# -- vomses -----------------------------------------------------------------------------------------------------


def vomses_paths(environ: Mapping[str, str], home: Path) -> tuple[Path, ...]:
    """Where contacts are looked for: `$X509_VOMSES` (Java) and `$VOMS_USERCONF` (C++), else the places both know."""
    named = [environ[name] for name in ("X509_VOMSES", "VOMS_USERCONF") if environ.get(name)]
    if named:
        return tuple(dict.fromkeys(Path(entry) for value in named for entry in value.split(os.pathsep) if entry))
    return (home / ".glite/vomses", home / ".voms/vomses", Path("/etc/vomses"))


def load_contacts(paths: Sequence[Path]) -> tuple[Contact, ...]:
    """The contacts in files and directories of files; what is not there is passed over. Raises Invalid."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(child for child in path.iterdir() if child.is_file() and not child.name.startswith("."))
        elif path.is_file():
            files.append(path)
    texts = ((read_bounded(file, vomses.MAX_BYTES).decode("utf-8", "replace"), str(file)) for file in files)
    return tuple(dict.fromkeys(contact for text, source in texts for contact in vomses.parse(text, source=source)))


def contacts_for(contacts: tuple[Contact, ...], wanted: str, paths: Sequence[Path]) -> tuple[Contact, ...]:
    """Those of the VO (or alias) `wanted`. Raises NotFound (`no_contact`) naming where was looked."""
    found = vomses.matching(contacts, wanted)
    if not found:
        looked = ", ".join(map(str, paths))
        known = ", ".join(sorted({contact.vo for contact in contacts})) or "none"
        message = f"no attribute authority of {shown(wanted)} in {looked}; VOs known there: {known}"
        raise NotFound(message, code="no_contact")
    return found
