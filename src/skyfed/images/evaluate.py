"""Is this message a list that we accept? The order of images digest A.5, a stable code for every refusal. Sans-IO."""

import hashlib
from dataclasses import dataclass
from datetime import datetime

import msgspec
from cryptography import x509

from skyfed.core.clock import iso
from skyfed.core.errors import Invalid
from skyfed.core.text import shown
from skyfed.images import formats, versions
from skyfed.images.model import Endorser, ImageList
from skyfed.pki import names, smime
from skyfed.pki.path import PathSettings
from skyfed.pki.trust import TrustStore

MAX_MESSAGE_BYTES = 2 * formats.MAX_LIST_BYTES


@dataclass(frozen=True, slots=True)
class Policy:
    """What a subscriber demands beyond a valid signature. `endorsers` are pairs (subject, issuer) in any spelling;
    None accepts any trusted signer (for `skyfed image verify`)."""

    endorsers: tuple[Endorser, ...] | None = None
    identifier: str = ""
    allow_sha1: bool = False


@dataclass(frozen=True, slots=True)
class Stored:
    """The version that is in force: what a newer message is held against."""

    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """A list that passed. `digest` is the SHA-512 of the raw message; `reused` says that its version was used before
    for other bytes."""

    imagelist: ImageList
    signer: x509.Certificate
    digest: str
    reused: bool


def evaluate(
    message: bytes, policy: Policy, trust: TrustStore, now: datetime, stored: Stored | None = None
) -> Accepted:
    """Raises Invalid with the code of the first step that fails; `model.number_of` gives vmcatcher's number for it."""
    signed = smime.verify(message, allow_sha1=policy.allow_sha1, max_bytes=MAX_MESSAGE_BYTES)
    _check_signer(signed.signer, signed.certificates, trust, now)
    imagelist = formats.parse(smime.inner_text(signed.content))
    endorser = imagelist.endorser
    _check_endorser(endorser, signed.signer)
    if policy.identifier and imagelist.identifier != policy.identifier:
        message_text = f"the list is {shown(imagelist.identifier)}; the subscription is to {shown(policy.identifier)}"
        raise Invalid(message_text, code="list_identifier")
    if imagelist.created > now:
        raise Invalid(f"the list was created in the future, at {iso(imagelist.created)}", code="created_in_future")
    if imagelist.expires <= now:
        raise Invalid(f"the list expired at {iso(imagelist.expires)}", code="list_expired")
    if policy.endorsers is not None and not any(_same(endorser, known) for known in policy.endorsers):
        raise Invalid(f"{shown(endorser.dn)} may not endorse this subscription", code="endorser_unknown")
    digest = hashlib.sha512(message).hexdigest()
    return Accepted(imagelist, signed.signer, digest, _check_version(imagelist, digest, stored))


def _check_signer(
    signer: x509.Certificate, others: tuple[x509.Certificate, ...], trust: TrustStore, now: datetime
) -> None:
    """Steps 2 to 4. A CRL of every CA is required here, whatever the node asks of people who log in: a list vouches
    for what runs on the site's machines."""
    strict: PathSettings = msgspec.structs.replace(trust.settings, crl="require")
    path = trust.verify_path(signer, others, now, settings=strict)
    if not path.ok:
        reason = path.reason
        text = reason.message if reason else "no path to a trust anchor"
        raise Invalid(f"the signer is not trusted: {text}", code=reason.code if reason else "unknown_ca")
    try:
        usage = signer.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not usage.digital_signature:
        raise Invalid("the signer's certificate may not sign: its keyUsage lacks digitalSignature", code="key_usage")


def _check_endorser(endorser: Endorser, signer: x509.Certificate) -> None:
    for key, text, name in (("hv:dn", endorser.dn, signer.subject), ("hv:ca", endorser.ca, signer.issuer)):
        if not _spells(text, name):
            message = f"{key} is {shown(text)}, but the list is signed by {shown(names.oneline(name))}"
            raise Invalid(message, code="endorser_mismatch")


def _spells(text: str, name: x509.Name) -> bool:
    try:
        return names.matches_text(name, text)
    except Invalid:
        return False


def _same(listed: Endorser, known: Endorser) -> bool:
    return names.same_text(listed.dn, known.dn) and names.same_text(listed.ca, known.ca)


def _check_version(imagelist: ImageList, digest: str, stored: Stored | None) -> bool:
    if stored is None or stored.digest == digest:
        return False
    order = versions.compare(imagelist.version, stored.version)
    if order < 0:
        message = f"the list has version {shown(imagelist.version)}; {shown(stored.version)} was accepted before"
        raise Invalid(message, code="lower_version")
    return order == 0
