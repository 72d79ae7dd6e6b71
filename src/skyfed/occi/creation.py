"""What a create request asks for, checked whole before anything is made. Pure.

Sources of contextualisation are the mixins of OCCI 1.2 and their legacy spellings (OCCI digest 3.7, compute 3.2).
"""

import base64
import binascii
import re
import uuid
from collections.abc import Iterable, Mapping

import msgspec

from skyfed.compute.model import MAX_USER_DATA, Context
from skyfed.core.errors import Conflict, Invalid, TooLarge
from skyfed.core.text import shown
from skyfed.occi import infrastructure as infra
from skyfed.occi.catalogue import Catalogue, checked
from skyfed.occi.entities import NETWORK_PATH
from skyfed.occi.model import ID, KIND, MIXIN, TITLE, Category, Link, Message, Value, one_kind, unique

MAX_VALUE = 4096
"""Characters of any attribute but user data (OCCI digest 13)."""
MAX_TITLE = 255
_MAX_LABEL = 63
_NOT_HOST = re.compile(r"[^a-z0-9.-]+")
_UUID = re.compile(r"(urn:uuid:)?([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})\Z", re.IGNORECASE | re.ASCII)
_USER_DATA = frozenset({infra.USER_DATA_VALUE, infra.LEGACY_USER_DATA_VALUE})
_ALTERNATIVES = (
    (infra.USER_DATA, infra.LEGACY_USER_DATA, "user data"),
    (infra.SSH_KEY, infra.LEGACY_PUBLIC_KEY, "an SSH key"),
)


class Templates(msgspec.Struct, frozen=True, kw_only=True):
    """Type identifiers of the templates that a request without any gets; empty: it is refused."""

    os_tpl: str = ""
    resource_tpl: str = ""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A create request, understood and checked."""

    os_tpl: Category
    resource_tpl: Category
    title: str
    context: Context
    token: str | None
    """The UUID that the client chose (rOCCI-cli does in every create): its retry gives the same machine."""


def wanted(message: Message, catalogue: Catalogue, defaults: Templates, prefix: str = "") -> Wanted:
    """What the message asks for.

    Raises Invalid (unknown or unfit category, unknown, immutable, missing or ill-typed attribute), Conflict (a category
    twice, two templates of one family, legacy and standard mixin of one purpose, size against the template), TooLarge.
    """
    unique(message.categories)
    kind = catalogue.get(one_kind(message), KIND)
    if kind.type_id != infra.COMPUTE:
        raise Invalid(f"a {kind.term} cannot be made in the collection of computes", code="kind")
    mixins = _mixins(message, catalogue)
    os_tpl = _template(mixins, infra.OS_TPL, defaults.os_tpl, catalogue)
    resource_tpl = _template(mixins, infra.RESOURCE_TPL, defaults.resource_tpl, catalogue)
    _no_rivals(mixins)
    attributes = {infra.ALIASES.get(name, name): value for name, value in message.attributes.items()}
    _bounded(attributes)
    attributes = checked(attributes, (kind, *mixins), ignore=frozenset({ID}))
    _same_sizes(attributes, resource_tpl)
    _known_links(message.links, prefix)
    title = str(attributes.get(TITLE, "")) or os_tpl.term
    if len(title) > MAX_TITLE:
        raise Invalid(f"the attribute '{TITLE}' has {len(title)} characters; at most {MAX_TITLE}", code="title")
    return Wanted(
        os_tpl=os_tpl,
        resource_tpl=resource_tpl,
        title=title,
        context=Context(
            ssh_keys=_keys(attributes),
            user_data=_user_data(attributes),
            hostname=hostname(str(attributes.get(infra.HOSTNAME, "")) or title),
        ),
        token=_token(attributes.get(ID)),
    )


def hostname(name: str) -> str:
    """`name` as a host name (RFC 1123): rOCCI-cli sends the title (`My_VM`) as host name, which must not fail."""
    labels = (label.strip("-")[:_MAX_LABEL].strip("-") for label in _NOT_HOST.sub("-", name.lower()).split("."))
    return ".".join(label for label in labels if label)[:_MAX_LABEL].strip(".-") or "vm"


def _mixins(message: Message, catalogue: Catalogue) -> tuple[Category, ...]:
    strange = next((one for one in message.categories if one.cls not in (KIND, MIXIN)), None)
    if strange is not None:
        raise Invalid(
            f"a create request names a kind and mixins; {shown(strange.type_id)} is of class {shown(strange.cls, 20)}",
            code="category_class",
        )
    found = tuple(catalogue.get(one.type_id, MIXIN) for one in message.of_class(MIXIN))
    for mixin in found:
        if mixin.applies and infra.COMPUTE not in mixin.applies:
            raise Invalid(f"the mixin {shown(mixin.type_id)} does not apply to a compute", code="mixin_not_applicable")
    return found


def _template(mixins: Iterable[Category], family: str, default: str, catalogue: Catalogue) -> Category:
    given = [mixin for mixin in mixins if family in mixin.depends]
    word = family.rpartition("#")[2]
    if len(given) > 1:
        names = ", ".join(one.type_id for one in given[:4])
        raise Conflict(f"a compute has one {word}; given: {names}", code="two_templates")
    if given:
        return given[0]
    found = catalogue.find(default) if default else None
    if found is None:
        offered = ", ".join(one.term for one in catalogue.categories if family in one.depends) or "none"
        raise Invalid(f"the request has no {word}; offered here: {offered}", code=f"missing_{word}")
    return found


def _no_rivals(mixins: Iterable[Category]) -> None:
    given = {mixin.type_id for mixin in mixins}
    for standard, legacy, what in _ALTERNATIVES:
        if {standard, legacy} <= given:
            raise Conflict(f"{what} comes by {shown(standard)} and by {shown(legacy)}; send one", code="rival_mixins")


def _bounded(attributes: Mapping[str, Value]) -> None:
    for name, value in attributes.items():
        if name not in _USER_DATA and isinstance(value, str) and len(value) > MAX_VALUE:
            raise TooLarge(
                f"the attribute {shown(name)} has {len(value)} characters; at most {MAX_VALUE}", code="value_size"
            )


def _same_sizes(attributes: Mapping[str, Value], template: Category) -> None:
    """A size that contradicts the template is a conflict, not something to overrule in silence (OCCI digest 3.6)."""
    for definition in template.attributes:
        sent = attributes.get(definition.name)
        if sent is not None and sent != definition.default:
            raise Conflict(
                f"the attribute '{definition.name}' is {shown(sent, 40)}, but the resource_tpl '{template.term}' has "
                f"{definition.default}; leave it out or take another resource_tpl",
                code="size_conflict",
            )


def _known_links(links: Iterable[Link], prefix: str) -> None:
    """Every machine gets one interface on the default network: asking for just that is fine."""
    for count, link in enumerate(links):
        path = link.target.partition("://")[2].partition("/")[2] if "://" in link.target else link.target
        if path.strip("/") != (prefix + NETWORK_PATH).strip("/") or count > 0:
            raise Invalid(
                f"the link to {shown(link.target)} cannot be made: a machine here has one interface, "
                f"on {prefix}{NETWORK_PATH}, and no storage",
                code="link_target",
            )


def _keys(attributes: Mapping[str, Value]) -> tuple[str, ...]:
    """The public key line. Not ASCII, or more than one line, could write into the guest's configuration."""
    name = infra.SSH_KEY_VALUE if infra.SSH_KEY_VALUE in attributes else infra.LEGACY_PUBLIC_KEY_VALUE
    value = str(attributes.get(name, "")).strip()
    if not value:
        return ()
    if not value.isascii() or not value.isprintable():
        raise Invalid(
            f"the attribute '{name}' is not one line of ASCII; right is an OpenSSH public key, 'ssh-ed25519 AAAA…'",
            code="ssh_key",
        )
    if "PRIVATE KEY" in value:
        raise Invalid(f"the attribute '{name}' holds a private key; send the public one", code="ssh_key")
    return (value,)


def _user_data(attributes: Mapping[str, Value]) -> bytes:
    name = infra.USER_DATA_VALUE if infra.USER_DATA_VALUE in attributes else infra.LEGACY_USER_DATA_VALUE
    encoded = str(attributes.get(name, ""))
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Invalid(f"the attribute '{name}' is not base64: {error}", code="user_data") from error
    if len(data) > MAX_USER_DATA:
        raise TooLarge(
            f"the attribute '{name}' has {len(data)} bytes decoded; at most {MAX_USER_DATA}", code="user_data_size"
        )
    return data


def _token(value: Value | None) -> str | None:
    """A UUID is an idempotency token; any other id (pOCCI's `Compute_1712…`) is ignored, never refused."""
    match = _UUID.match(value) if isinstance(value, str) else None
    return str(uuid.UUID(match.group(2))) if match else None
