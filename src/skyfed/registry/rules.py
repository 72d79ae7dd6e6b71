"""What a field of the registry may hold (registry digest 2.2), with messages that say what would be right. No I/O."""

import ipaddress
import re
import zoneinfo
from collections.abc import Callable
from urllib.parse import urlsplit

from skyfed.core.text import shown

MAX_FIELD = 255
MAX_DESCRIPTION = 2000
MAX_REASON = 300

Rule = Callable[[str], str]
"""Gives what would be right, or empty text when the value is fine."""

_NAME = re.compile(r"[A-Za-z0-9._-]+")
_ENDPOINT_NAME = re.compile(r"[A-Za-z0-9._ -]+")
_KEY = re.compile(r"[A-Za-z0-9@_\-\[\]+.]+( +[A-Za-z0-9@_\-\[\]+.]+)*")
_HOST = re.compile(r"([A-Za-z0-9_-]+\.)+[A-Za-z0-9]+")
_EMAIL = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    r"(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)
_PHONE = re.compile(r"\+?[0-9\-. ()]+")
_URL = re.compile(r"[0-9A-Za-z:/.&?_$+!*'(),\-#\[\]@;=~%]*")
_DN = re.compile(r"(/[A-Za-z0-9.]+=[A-Za-z0-9\-_ .@,:'/)(]+)+")
_FREE = re.compile(r"[^`'\";<>\x00-\x1f\x7f]+")
_LABEL = re.compile(r"[A-Za-z0-9\-._()\[\],;:/ ]*")
_DOMAIN = re.compile(r"[A-Za-z0-9\-+._/ ()]+")
_IPV6 = re.compile(r"[A-Fa-f0-9:/]*")


def _matching(pattern: re.Pattern[str], right: str, limit: int = MAX_FIELD) -> Rule:
    def rule(value: str) -> str:
        if len(value) > limit:
            return f"at most {limit} characters (it has {len(value)})"
        return "" if pattern.fullmatch(value) else right

    return rule


name = _matching(_NAME, "letters, digits, '.', '_' and '-'")
endpoint_name = _matching(_ENDPOINT_NAME, "letters, digits, blanks, '.', '_' and '-'")
property_key = _matching(_KEY, "letters, digits and any of @ _ - [ ] + . with blanks only inside")
dn = _matching(_DN, "a name like '/DC=org/DC=example/CN=host.example.org'")
description = _matching(_FREE, "text without ` ' \" ; < > and control characters", MAX_DESCRIPTION)
short_description = _matching(_FREE, "text without ` ' \" ; < > and control characters")
reason = _matching(_FREE, "1 to 300 characters without ` ' \" ; < > and control characters", MAX_REASON)
label = _matching(_LABEL, "letters, digits, blanks and any of - . _ ( ) [ ] , ; : /")
official_name = label
domain = _matching(_DOMAIN, "a domain name like 'example.org'")
url = _matching(_URL, "characters that RFC 3986 allows in an address")
ipv6 = _matching(_IPV6, "an IPv6 address or range")
_one_email = _matching(_EMAIL, "an address like 'cloud-support@example.org'")
_one_phone = _matching(_PHONE, "digits, blanks and any of - . ( ), '+' in front")
_host = _matching(_HOST, "a full host name with at least one dot, like 'cloud.example.org'")


def hostname(value: str) -> str:
    """A host name with a dot (or an IPv4 address); `localhost` too, since a federation may live on one machine."""
    return "" if value == "localhost" else _host(value)


def email(value: str) -> str:
    """One address."""
    return _one_email(value)


def emails(value: str) -> str:
    """One or more addresses, separated by `,` or `;`."""
    return _each(re.split("[,;]", value), _one_email) or _limit(value)


def telephones(value: str) -> str:
    """One or more numbers, separated by `,`."""
    return _each(value.split(","), _one_phone) or _limit(value)


def property_value(value: str) -> str:
    """At most 255 characters, no quotes, back ticks, angle brackets or control characters."""
    return _property_value(value, "`'\"<>")


def service_property_value(value: str) -> str:
    """As `property_value`, but `<` and `>` are allowed for the HostDN convention (digest 2.2)."""
    return _property_value(value, "`'\"")


def _property_value(value: str, forbidden: str) -> str:
    if len(value) > MAX_FIELD:
        return f"at most {MAX_FIELD} characters (it has {len(value)})"
    if any(c in forbidden or not c.isprintable() for c in value):
        return f"text without {' '.join(forbidden)} and control characters"
    return ""


def home_url(value: str) -> str:
    """An http or https address."""
    return _address(value, ("http", "https"), "an address like 'https://www.example.org/cloud'")


def giis_url(value: str) -> str:
    """The address of the site's LDAP server with the base in its path."""
    return _address(value, ("ldap",), "an address like 'ldap://bdii.example.org:2170/GLUE2DomainID=SITE,o=glue'")


def ip_ranges(value: str) -> str:
    """`a.b.c.d/m.m.m.m`, several separated by `,` or `;`."""
    return _each(re.split("[,;]", value), _ip_range) or _limit(value)


def ipv4(value: str) -> str:
    """An IPv4 address."""
    try:
        ipaddress.IPv4Address(value)
    except ValueError:
        return "an IPv4 address like '192.0.2.10'"
    return ""


def timezone(value: str) -> str:
    """An Olson name that this machine knows."""
    if value in zoneinfo.available_timezones():
        return ""
    return "a time zone name like 'Europe/Amsterdam' or 'UTC'"


def latitude(value: float) -> str:
    """Degrees north."""
    return "" if -90 <= value <= 90 else "a number from -90 to 90"


def longitude(value: float) -> str:
    """Degrees east."""
    return "" if -180 <= value <= 180 else "a number from -180 to 180"


def _limit(value: str) -> str:
    return "" if len(value) <= MAX_FIELD else f"at most {MAX_FIELD} characters (it has {len(value)})"


def _each(parts: list[str], rule: Rule) -> str:
    return next((right for part in parts if part.strip() and (right := rule(part.strip()))), "")


def _ip_range(value: str) -> str:
    address, slash, mask = value.partition("/")
    if slash and not ipv4(address) and not ipv4(mask):
        return ""
    return "a range like '192.0.2.0/255.255.255.0'"


def _address(value: str, schemes: tuple[str, ...], right: str) -> str:
    if wrong := url(value):
        return wrong
    try:
        parts = urlsplit(value)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return right
    ok = parts.scheme in schemes and not hostname(host) and parts.username is None and (port is None or port > 0)
    return "" if ok else right


class Problems:
    """Collects what is wrong with many fields, so that one answer names them all."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def check(self, where: str, value: str, rule: Rule, *, required: bool = False) -> None:
        """Test one text field; empty is fine unless `required`."""
        if not value:
            if required:
                self.found.append(f"{where} is missing")
            return
        if right := rule(value):
            self.found.append(f"{where} is {shown(value, 80)}; it must be {right}")

    def add(self, text: str) -> None:
        """Note a problem in words."""
        self.found.append(text)
