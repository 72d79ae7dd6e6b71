"""The documents of the read interface (PI, registry digest 4): values ↔ XML. No I/O.

The writer gives exactly the bytes of the reference implementation: element order, which elements vanish when empty
and which stay as empty tags, two-space indentation. Clients compare and parse them with home-made tools.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from urllib.parse import quote

import msgspec

from skyfed.core import safexml
from skyfed.core.errors import Invalid
from skyfed.core.text import shown
from skyfed.registry.model import Endpoint, Property, Service, ServiceType, Site, SiteListEntry

DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'
MAX_DOCUMENT_BYTES = 64 << 20

_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Meta(msgspec.Struct, frozen=True):
    """The paging block: links (relation, address) in order, and the counts."""

    links: tuple[tuple[str, str], ...]
    count: int
    max_page_size: int


# -- writing ----------------------------------------------------------------------------------------------------


def document(fragments: Iterable[str], meta: Meta | None = None) -> str:
    """A whole answer from the fragments that the functions below made."""
    body = (_meta(meta) if meta else "") + "".join(fragments)
    if not body:
        return DECLARATION + "<results/>\n"
    return f"{DECLARATION}<results>\n{body}</results>\n"


def site_fragment(site: Site, portal: str) -> str:
    """A `SITE` of get_site. Coordinates of exactly 0 vanish, as in the reference implementation."""
    items = [
        *_optional("PRIMARY_KEY", site.primary_key),
        *_optional("SHORT_NAME", site.name),
        *_optional("OFFICIAL_NAME", site.official_name),
        *_optional("SITE_DESCRIPTION", site.description),
        *_tag("GOCDB_PORTAL_URL", _portal_url(portal, "Site", site.id)),
        *_optional("HOME_URL", site.home_url),
        *_optional("CONTACT_EMAIL", site.email),
        *_optional("CONTACT_TEL", site.telephone),
        *_optional("ALARM_EMAIL", site.alarm_email),
        *_optional("GIIS_URL", site.giis_url),
        *_optional("TIER", site.tier),
        *_tag("COUNTRY_CODE", site.country_code),
        *_tag("COUNTRY", site.country),
        *_tag("ROC", site.ngi),
        *_optional("SUBGRID", site.subgrid),
        *_tag("PRODUCTION_INFRASTRUCTURE", site.infrastructure),
        *_tag("CERTIFICATION_STATUS", site.certification_status),
        *_optional("TIMEZONE", site.timezone),
        *_optional("LATITUDE", _coordinate(site.latitude)),
        *_optional("LONGITUDE", _coordinate(site.longitude)),
        *_optional("CSIRT_EMAIL", site.csirt_email),
        *_tag("NOTIFICATIONS", "TRUE" if site.notify else "FALSE"),
        *_group("DOMAIN", _optional("DOMAIN_NAME", site.domain)),
        *_optional("SITE_IP", site.ip_range),
        *_optional("SITE_IPV6", site.ipv6_range),
        *_scopes(site.scopes),
        *_extensions(site.extensions),
    ]
    return _element("SITE", items, ID=str(site.id), PRIMARY_KEY=site.primary_key, NAME=site.name)


def site_list_fragment(site: Site) -> str:
    """A `SITE` of get_site_list: attributes only, empty when unset."""
    return _element(
        "SITE",
        [],
        ID=str(site.id),
        PRIMARY_KEY=site.primary_key,
        NAME=site.name,
        COUNTRY=site.country,
        COUNTRY_CODE=site.country_code,
        ROC=site.ngi,
        SUBGRID=site.subgrid,
        GIIS_URL=site.giis_url,
    )


def service_fragment(service: Service, portal: str) -> str:
    """A `SERVICE_ENDPOINT` of get_service and get_service_endpoint."""
    key = f"{service.id}G0"
    items = [
        *_tag("PRIMARY_KEY", key),
        *_tag("HOSTNAME", service.hostname),
        *_tag("GOCDB_PORTAL_URL", _portal_url(portal, "Service", service.id)),
        *_optional("HOSTDN", service.host_dn),
        *_optional("HOST_OS", service.host_os),
        *_optional("HOST_ARCH", service.host_arch),
        *_tag("BETA", _yn(service.beta)),
        *_tag("SERVICE_TYPE", service.type),
        *_optional("HOST_IP", service.host_ip),
        *_optional("HOST_IPV6", service.host_ipv6),
        *_tag("CORE", ""),
        *_tag("IN_PRODUCTION", _yn(service.production)),
        *_tag("NODE_MONITORED", _yn(service.monitored)),
        *_tag("NOTIFICATIONS", _yn(service.notify)),
        *_tag("SITENAME", service.site),
        *_tag("COUNTRY_NAME", service.country),
        *_tag("COUNTRY_CODE", service.country_code),
        *_tag("ROC_NAME", service.ngi),
        *_tag("URL", service.url),
        *_group("ENDPOINTS", [item for e in service.endpoints for item in _endpoint(e)]),
        *_scopes(service.scopes),
        *_extensions(service.extensions),
    ]
    return _element("SERVICE_ENDPOINT", items, PRIMARY_KEY=key)


def service_type_fragment(kind: ServiceType) -> str:
    """A `SERVICE_TYPE` of get_service_types."""
    key = f"{kind.id}G0"
    items = _tag("SERVICE_TYPE_NAME", kind.name) + _tag("SERVICE_TYPE_DESC", kind.description)
    return _element("SERVICE_TYPE", items, TYPE_ID=key, PRIMARY_KEY=key)


def escaped(text: str) -> str:
    """Text for XML content; characters that XML 1.0 cannot hold become U+FFFD."""
    text = _ILLEGAL.sub("\ufffd", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\r", "&#13;")


def _attribute(text: str) -> str:
    return escaped(text).replace('"', "&quot;").replace("\n", "&#10;").replace("\t", "&#9;")


# An item is one tag with its value, which may hold line breaks: only the start of an item is indented.
Items = list[str]


def _tag(name: str, value: str) -> Items:
    return [f"<{name}>{escaped(value)}</{name}>" if value else f"<{name}/>"]


def _optional(name: str, value: str) -> Items:
    return _tag(name, value) if value else []


def _group(name: str, items: Items) -> Items:
    return [f"<{name}>", *(f"  {item}" for item in items), f"</{name}>"] if items else [f"<{name}/>"]


def _element(name: str, items: Items, **attributes: str) -> str:
    start = name + "".join(f' {key}="{_attribute(value)}"' for key, value in attributes.items())
    if not items:
        return f"  <{start}/>\n"
    return f"  <{start}>\n" + "".join(f"    {item}\n" for item in items) + f"  </{name}>\n"


def _endpoint(endpoint: Endpoint) -> Items:
    return _group(
        "ENDPOINT",
        [
            *_tag("ID", str(endpoint.id)),
            *_tag("NAME", endpoint.name),
            *_extensions(endpoint.extensions),
            *_tag("URL", endpoint.url),
            *_tag("INTERFACENAME", endpoint.interface_name),
            *_tag("ENDPOINT_MONITORED", _yn(endpoint.monitored)),
        ],
    )


def _scopes(scopes: tuple[str, ...]) -> Items:
    return _group("SCOPES", [item for scope in scopes for item in _tag("SCOPE", scope)])


def _extensions(properties: tuple[Property, ...]) -> Items:
    return _group("EXTENSIONS", [item for p in properties for item in _extension(p)])


def _extension(p: Property) -> Items:
    return _group("EXTENSION", [*_tag("LOCAL_ID", str(p.id)), *_tag("KEY", p.key), *_tag("VALUE", p.value)])


def _yn(flag: bool) -> str:
    return "Y" if flag else "N"


def _coordinate(value: float | None) -> str:
    return f"{value:.14g}" if value else ""


def _portal_url(portal: str, page: str, id: int) -> str:
    return f"{portal}/index.php?Page_Type={page}&id={id}"


def _meta(meta: Meta) -> str:
    links = "".join(f'    <link rel="{rel}" href="{_attribute(href)}"/>\n' for rel, href in meta.links)
    return (
        f"  <meta>\n{links}    <count>{meta.count}</count>\n"
        f"    <max_page_size>{meta.max_page_size}</max_page_size>\n  </meta>\n"
    )


def query_link(base: str, parameters: Iterable[tuple[str, str]]) -> str:
    """`base?key=value&…`, url-encoded, in the order given."""
    return f"{base}?" + "&".join(f"{quote(k, safe='')}={quote(v, safe='')}" for k, v in parameters)


# -- reading ----------------------------------------------------------------------------------------------------


def read_site_list(data: bytes) -> tuple[SiteListEntry, ...]:
    """The sites of a get_site_list document. Raises Invalid with the registry's own error text where it sent one."""
    return tuple(
        SiteListEntry(
            id=_number(e.get("ID", "")),
            primary_key=e.get("PRIMARY_KEY", ""),
            name=e.get("NAME", ""),
            country=e.get("COUNTRY", ""),
            country_code=e.get("COUNTRY_CODE", ""),
            ngi=e.get("ROC", ""),
            subgrid=e.get("SUBGRID", ""),
            giis_url=e.get("GIIS_URL", ""),
        )
        for e in _results(data, "SITE")
    )


def read_sites(data: bytes) -> tuple[Site, ...]:
    """The sites of a get_site document. Raises Invalid as `read_site_list`."""
    return tuple(_read_site(e) for e in _results(data, "SITE"))


def read_services(data: bytes) -> tuple[Service, ...]:
    """The services of a get_service or get_service_endpoint document. Raises Invalid as `read_site_list`."""
    return tuple(_read_service(e) for e in _results(data, "SERVICE_ENDPOINT"))


def read_service_types(data: bytes) -> tuple[ServiceType, ...]:
    """The kinds of a get_service_types document. Raises Invalid as `read_site_list`."""
    return tuple(
        ServiceType(_number(e.get("PRIMARY_KEY", "")), _text(e, "SERVICE_TYPE_NAME"), _text(e, "SERVICE_TYPE_DESC"))
        for e in _results(data, "SERVICE_TYPE")
    )


def _results(data: bytes, tag: str) -> Iterator[ET.Element]:
    if not data.lstrip().startswith((b"<?xml", b"<results")):
        text = data[:500].decode("utf-8", "replace")
        raise Invalid(f"the registry answered with an error: {shown(text, 300)}", code="registry_answer")
    root = safexml.parse(data, max_bytes=MAX_DOCUMENT_BYTES)
    if root.tag != "results":
        raise Invalid(f"the registry's document is a {shown(root.tag)}, not 'results'", code="registry_answer")
    return iter(root.findall(tag))


def _read_site(e: ET.Element) -> Site:
    return Site(
        id=_number(e.get("ID", "")),
        primary_key=e.get("PRIMARY_KEY", ""),
        name=e.get("NAME", ""),
        official_name=_text(e, "OFFICIAL_NAME"),
        description=_text(e, "SITE_DESCRIPTION"),
        home_url=_text(e, "HOME_URL"),
        email=_text(e, "CONTACT_EMAIL"),
        telephone=_text(e, "CONTACT_TEL"),
        alarm_email=_text(e, "ALARM_EMAIL"),
        giis_url=_text(e, "GIIS_URL"),
        tier=_text(e, "TIER"),
        country_code=_text(e, "COUNTRY_CODE"),
        country=_text(e, "COUNTRY"),
        ngi=_text(e, "ROC"),
        subgrid=_text(e, "SUBGRID"),
        infrastructure=_text(e, "PRODUCTION_INFRASTRUCTURE"),
        certification_status=_text(e, "CERTIFICATION_STATUS"),
        timezone=_text(e, "TIMEZONE"),
        latitude=_degrees(e, "LATITUDE"),
        longitude=_degrees(e, "LONGITUDE"),
        csirt_email=_text(e, "CSIRT_EMAIL"),
        notify=_text(e, "NOTIFICATIONS").upper() in {"TRUE", "Y"},
        domain=_text(e, "DOMAIN/DOMAIN_NAME"),
        ip_range=_text(e, "SITE_IP"),
        ipv6_range=_text(e, "SITE_IPV6"),
        scopes=_read_scopes(e),
        extensions=_read_extensions(e),
    )


def _read_service(e: ET.Element) -> Service:
    return Service(
        id=_number(e.get("PRIMARY_KEY", "")),
        hostname=_text(e, "HOSTNAME"),
        type=_text(e, "SERVICE_TYPE"),
        site=_text(e, "SITENAME"),
        country=_text(e, "COUNTRY_NAME"),
        country_code=_text(e, "COUNTRY_CODE"),
        ngi=_text(e, "ROC_NAME"),
        url=_text(e, "URL"),
        host_dn=_text(e, "HOSTDN"),
        host_ip=_text(e, "HOST_IP"),
        host_ipv6=_text(e, "HOST_IPV6"),
        host_os=_text(e, "HOST_OS"),
        host_arch=_text(e, "HOST_ARCH"),
        production=_flag(e, "IN_PRODUCTION"),
        beta=_flag(e, "BETA"),
        monitored=_flag(e, "NODE_MONITORED"),
        notify=_flag(e, "NOTIFICATIONS"),
        scopes=_read_scopes(e),
        extensions=_read_extensions(e),
        endpoints=tuple(_read_endpoint(p) for p in e.findall("ENDPOINTS/ENDPOINT")),
    )


def _read_endpoint(e: ET.Element) -> Endpoint:
    return Endpoint(
        id=_number(_text(e, "ID")),
        name=_text(e, "NAME"),
        url=_text(e, "URL"),
        interface_name=_text(e, "INTERFACENAME"),
        monitored=_flag(e, "ENDPOINT_MONITORED"),
        extensions=_read_extensions(e),
    )


def _read_scopes(e: ET.Element) -> tuple[str, ...]:
    return tuple(s.text or "" for s in e.findall("SCOPES/SCOPE"))


def _read_extensions(e: ET.Element) -> tuple[Property, ...]:
    return tuple(
        Property(_number(_text(p, "LOCAL_ID")), _text(p, "KEY"), _text(p, "VALUE"))
        for p in e.findall("EXTENSIONS/EXTENSION")
    )


def _text(e: ET.Element, path: str) -> str:
    return e.findtext(path) or ""


def _flag(e: ET.Element, path: str) -> bool:
    return _text(e, path).upper() in {"Y", "TRUE"}


def _number(text: str) -> int:
    digits = text.removesuffix("G0")
    if not digits.isascii() or not digits.isdigit() or len(digits) > 18:
        raise Invalid(
            f"the registry sent {shown(text)} where an id like '42' or '42G0' should be", code="registry_answer"
        )
    return int(digits)


def _degrees(e: ET.Element, path: str) -> float | None:
    text = _text(e, path)
    try:
        return float(text) if text else None
    except ValueError as error:
        raise Invalid(
            f"the registry sent {shown(text)} as {path}, which is no number", code="registry_answer"
        ) from error
