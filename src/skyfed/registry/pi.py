"""The read interface's decisions (registry digest 4): which method, which rows, which page; text in, text out. No I/O.

Status is always 200 for these answers, also for errors: the HTTP door only carries them.
"""

import re
from collections.abc import Callable, Iterable
from typing import TypeVar
from urllib.parse import parse_qsl

import msgspec

from skyfed.core.text import one_line
from skyfed.registry import formats
from skyfed.registry.model import CertificationStatus, Property, Service, Site, Topology

MAX_PARAMETERS = 64
MAX_VALUE = 4096

PUBLIC_METHODS = frozenset({"get_site_list", "get_service", "get_service_endpoint", "get_service_types"})
"""Level 1: readable without a credential."""
PROTECTED_METHODS = frozenset({"get_site"})
"""Level 3: personal data of contacts."""

NO_IDENTIFIER = "No valid identifier found. Try accessing the resource through the private interface."
NOT_ENTITLED = "Authorisation required to read personal data (this registry lists the subjects that may read it)"

_SITE_FILTERS = (
    "sitename roc country certification_status exclude_certification_status production_status "
    "scope scope_match extensions"
)
_SERVICE_FILTERS = "hostname sitename roc country service_type monitored scope scope_match extensions"
_CURSORS = "next_cursor prev_cursor"
_PARAMETERS: dict[str, frozenset[str]] = {
    "get_site": frozenset(f"{_SITE_FILTERS} {_CURSORS}".split()),
    "get_site_list": frozenset(f"{_SITE_FILTERS} {_CURSORS}".split()),
    "get_service": frozenset(f"{_SERVICE_FILTERS} {_CURSORS}".split()),
    "get_service_endpoint": frozenset(f"{_SERVICE_FILTERS} {_CURSORS}".split()),
    "get_service_types": frozenset(),
}


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What an instance decides for itself."""

    portal: str
    """Base of the GOCDB_PORTAL_URL addresses, without a trailing slash."""
    default_scope: str = "EGI"
    default_scope_match: str = "all"
    default_scope_on_sites: bool = False
    """Whether the default scope also limits get_site and get_site_list. The reference limits services only, as
    recorded, although its documentation says otherwise."""
    max_page_size: int = 100
    lenient: bool = True
    """Ignore the `page` parameter of old clients; reproduce the leading `OR` of the reference implementation."""


class Refused(Exception):
    """The error text to send, with status 200."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


Parameters = tuple[tuple[str, str], ...]
Entity = TypeVar("Entity", Site, Service)
Test = Callable[[Entity], bool]


def parameters(query: str) -> Parameters:
    """The parameters of a raw query string in their order; of a repeated name the last one counts, as in PHP.

    Raises Refused when there are too many or one is too long."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
    except ValueError as error:
        raise Refused(_error(f"More than {MAX_PARAMETERS} parameters")) from error
    if any(len(name) > MAX_VALUE or len(value) > MAX_VALUE for name, value in pairs):
        raise Refused(_error(f"A parameter is longer than {MAX_VALUE} characters"))
    return tuple(dict(pairs).items())


def method_of(params: Parameters) -> str:
    """The method asked for. Raises Refused for one that there is not."""
    method = dict(params).get("method", "")
    if method not in _PARAMETERS:
        raise Refused(f"Unable to find method: {formats.escaped(one_line(method, 200))}")
    return method


def answer(topology: Topology, params: Parameters, base: str, options: Options) -> str:
    """The document for a request whose caller may see it. `base` is the address asked, without its query.

    Raises Refused with the error text."""
    method = method_of(params)
    given = _checked(method, params, options)
    portal = options.portal
    if method == "get_service_types":
        return formats.document(formats.service_type_fragment(kind) for kind in topology.service_types)
    cursor = _cursor(given)

    def paged(rows: list[Entity], fragment: Callable[[Entity, str], str]) -> str:
        if cursor is None:
            return formats.document(fragment(row, portal) for row in rows)
        page = _page(rows, cursor, options.max_page_size)
        return formats.document(
            (fragment(row, portal) for row in page), _meta(page, cursor, base, params, options.max_page_size)
        )

    if method in {"get_service", "get_service_endpoint"}:
        services = _select(topology.services, _service_tests(topology, given), given, options, options.default_scope)
        return paged(services, formats.service_fragment)
    site_scope = options.default_scope if options.default_scope_on_sites else ""
    sites = _select(topology.sites, _site_tests(given), given, options, site_scope)
    if method == "get_site_list":
        # Takes the cursor parameters, but neither pages nor prints them (digest 4.4).
        return formats.document(formats.site_list_fragment(site) for site in sites)
    return paged(sites, formats.site_fragment)


# -- parameters -------------------------------------------------------------------------------------------------


def _error(text: str) -> str:
    return f"<error>{formats.escaped(text)}</error>"


def _checked(method: str, params: Parameters, options: Options) -> dict[str, str]:
    ignored = {"method", "output"} | ({"page"} if options.lenient else set())
    given = {name: value for name, value in params if name not in ignored}
    for name in given:
        if name not in _PARAMETERS[method]:
            raise Refused(_error(f"Unsupported parameter: {one_line(name, 200)}"))
    for value in given.values():
        if any(c in value for c in "\"'`"):
            raise Refused(_error(f"Unsuported chracter in value: {one_line(value, 200)}"))
    return given


def _cursor(given: dict[str, str]) -> tuple[str, int] | None:
    if "next_cursor" in given and "prev_cursor" in given:
        raise Refused(
            _error("It is invalid to specify both 'next_cursor' and 'prev_cursor' parameters in the same query")
        )
    for name in ("next_cursor", "prev_cursor"):
        if name in given:
            value = given[name]
            if not value.isascii() or not value.isdigit() or len(value) > 18:
                raise Refused(
                    _error(f"Invalid '{name}' parameter - must be a whole number greater than or equal to zero")
                )
            return name, int(value)
    return None


# -- choosing rows ----------------------------------------------------------------------------------------------

_SITE_COLUMNS: dict[str, Callable[[Site], str]] = {
    "sitename": lambda s: s.name,
    "roc": lambda s: s.ngi,
    "country": lambda s: s.country,
    "certification_status": lambda s: s.certification_status,
    "production_status": lambda s: s.infrastructure,
}
_SERVICE_COLUMNS: dict[str, Callable[[Service], str]] = {
    "hostname": lambda s: s.hostname,
    "sitename": lambda s: s.site,
    "roc": lambda s: s.ngi,
    "country": lambda s: s.country,
    "service_type": lambda s: s.type,
}


def _select(
    rows: Iterable[Entity],
    tests: list[Test[Entity]],
    given: dict[str, str],
    options: Options,
    default_scope: str,
) -> list[Entity]:
    in_scope = _scope_test(given, default_scope, options)
    if in_scope is not None:
        tests.append(lambda row: in_scope(row.scopes))
    if "extensions" not in given:
        return [row for row in rows if all(test(row) for test in tests)]
    expression = ExtensionExpression(given["extensions"])
    if expression.leading_or and options.lenient:
        # The reference joins a leading OR with every other condition of its query (digest 4.4).
        return [row for row in rows if expression(row.extensions) or any(test(row) for test in tests)]
    return [row for row in rows if expression(row.extensions) and all(test(row) for test in tests)]


def _site_tests(given: dict[str, str]) -> list[Test[Site]]:
    tests = _like_tests(_SITE_COLUMNS, given)
    if excluded := given.get("exclude_certification_status"):
        tests.append(lambda site: not like(excluded, site.certification_status))
    return tests


def _service_tests(topology: Topology, given: dict[str, str]) -> list[Test[Service]]:
    closed = {s.name for s in topology.sites if s.certification_status == CertificationStatus.CLOSED}
    tests: list[Test[Service]] = [lambda service: service.site not in closed]
    tests += _like_tests(_SERVICE_COLUMNS, given)
    if (flag := given.get("monitored", "").upper()) in {"Y", "N"}:
        tests.append(lambda service: service.monitored == (flag == "Y"))
    return tests


def _like_tests(columns: dict[str, Callable[[Entity], str]], given: dict[str, str]) -> list[Test[Entity]]:
    return [_like_test(column, given[name]) for name, column in columns.items() if name in given]


def _like_test(column: Callable[[Entity], str], pattern: str) -> Test[Entity]:
    return lambda row: like(pattern, column(row))


def _scope_test(given: dict[str, str], default: str, options: Options) -> Callable[[tuple[str, ...]], bool] | None:
    """Absent: the default scope; present but empty: none (digest 4.4)."""
    wanted = {tag for tag in given.get("scope", default).strip(",").split(",") if tag}
    if not wanted:
        return None
    if given.get("scope_match", options.default_scope_match) == "any":
        return lambda scopes: not wanted.isdisjoint(scopes)
    return wanted.issubset


def like(pattern: str, value: str) -> bool:
    """SQL LIKE, case-sensitive: `%` stands for any text, `_` for one character. Linear for any pattern."""
    first, *rest = pattern.split("%")
    if not rest:
        return len(first) == len(value) and _fits(first, value, 0)
    if not _fits(first, value, 0):
        return False
    position = len(first)
    *middle, last = rest
    for piece in middle:
        found = next((i for i in range(position, len(value) - len(piece) + 1) if _fits(piece, value, i)), None)
        if found is None:
            return False
        position = found + len(piece)
    start = len(value) - len(last)
    return start >= position and _fits(last, value, start)


def _fits(piece: str, value: str, at: int) -> bool:
    part = value[at : at + len(piece)]
    return len(part) == len(piece) and all(p in ("_", c) for p, c in zip(piece, part, strict=True))


_TERM = re.compile(r"\s*(AND|OR|NOT)?\s*\(([A-Za-z0-9 @_\-\[\]+.]+)=((?:[^()\\]|\\.)*)\)\s*")


class ExtensionExpression:
    """An `extensions` value: `(key=value)` terms, an operator before a term holding until the next one; read from the
    left. `(key=)` asks only for the key. Raises Refused when it is not such an expression (digest 4.4)."""

    def __init__(self, text: str) -> None:
        self._terms: list[tuple[str, str, str]] = []
        operator, position = "AND", 0
        while position < len(text):
            found = _TERM.match(text, position)
            if found is None:
                break
            operator = found[1] or operator
            self._terms.append((operator, found[2].strip(), re.sub(r"\\(.)", r"\1", found[3])))
            position = found.end()
        if not self._terms or position < len(text):
            raise Refused("Invalid query expression")
        self.leading_or = self._terms[0][0] == "OR"

    def __call__(self, properties: tuple[Property, ...]) -> bool:
        verdict = not self.leading_or
        for operator, key, value in self._terms:
            holds = any(p.key == key and value in ("", p.value) for p in properties)
            verdict = (verdict or holds) if operator == "OR" else verdict and holds == (operator == "AND")
        return verdict


# -- pages ------------------------------------------------------------------------------------------------------


def _page(rows: list[Entity], cursor: tuple[str, int], size: int) -> list[Entity]:
    name, at = cursor
    if name == "next_cursor":
        return [row for row in rows if row.id > at][:size]
    return [row for row in rows if row.id < at][-size:]


def _meta(page: list[Entity], cursor: tuple[str, int], base: str, params: Parameters, size: int) -> formats.Meta:
    """Links of a page. Clients stop at count 0, so `next` stands also on the last page that holds something."""
    name, at = cursor
    plain: list[tuple[str, str]] = [(key, value) for key, value in params if key not in {"next_cursor", "prev_cursor"}]

    def link(relation: str, cursor_name: str, position: int) -> tuple[str, str]:
        return relation, formats.query_link(base, [*plain, (cursor_name, str(max(position, 0)))])

    links = [link("self", name, at)]
    if page:
        links += [link("next", "next_cursor", page[-1].id), link("prev", "prev_cursor", page[0].id)]
    elif name == "next_cursor":
        links.append(link("prev", "prev_cursor", at + 1))
    else:
        links.append(link("next", "next_cursor", at - 1))
    links.append(link("start", "next_cursor", 0))
    return formats.Meta(tuple(links), len(page), size)
