"""Asking a registry: ours or any that speaks the same read interface (registry digest 4, 10)."""

from skyfed.core.http import Client
from skyfed.registry import formats
from skyfed.registry.formats import query_link
from skyfed.registry.model import (
    CLOUD_ACCOUNTING,
    CertificationStatus,
    Infrastructure,
    Service,
    ServiceType,
    Site,
    SiteListEntry,
    same_dn,
)

DEADLINE_SECONDS = 30.0
ACCOUNTING_TYPES = (CLOUD_ACCOUNTING, "gLite-APEL", "APEL")
"""Kinds of service whose HOSTDN names who may send a site's usage records (digest 1)."""


class RegistryClient:
    """The read interface at `base_url` (`https://registry.example.org:8443`). Safe to share between threads.

    Every call raises Unavailable, TimedOut, TooLarge (the exchange) and Invalid (`registry_answer`: the registry sent
    an error text or something that is not its document).
    """

    def __init__(self, http: Client, base_url: str, *, deadline: float = DEADLINE_SECONDS) -> None:
        self._http = http
        self._base = base_url.rstrip("/")
        self._deadline = deadline

    def site_list(
        self,
        *,
        certification: CertificationStatus | None = None,
        infrastructure: Infrastructure | None = None,
        scope: str | None = None,
    ) -> tuple[SiteListEntry, ...]:
        """Names, countries and information servers of the sites; no credential needed.

        `scope` None leaves the choice to the registry's default, "" asks for all."""
        parameters = _given(certification_status=certification, production_status=infrastructure, scope=scope)
        return formats.read_site_list(self._get("public", "get_site_list", parameters))

    def sites(self, *, name: str | None = None, scope: str | None = None) -> tuple[Site, ...]:
        """Sites with contacts; the client must present a credential that the registry accepts."""
        return formats.read_sites(self._get("private", "get_site", _given(sitename=_exactly(name), scope=scope)))

    def services(
        self, *, type: str | None = None, site: str | None = None, scope: str | None = None
    ) -> tuple[Service, ...]:
        """Services of sites that are not closed; no credential needed."""
        parameters = _given(service_type=_exactly(type), sitename=_exactly(site), scope=scope)
        found = formats.read_services(self._get("public", "get_service", parameters))
        # `_` in a name stands for any character in the registry's filters; here names are meant.
        return tuple(s for s in found if type in (None, s.type) and site in (None, s.site))

    def service_types(self) -> tuple[ServiceType, ...]:
        """The kinds of service that the registry knows."""
        return formats.read_service_types(self._get("public", "get_service_types", []))

    def site_of_accounting_dn(self, dn: str) -> str | None:
        """The site whose accounting service has the host name `dn` (slash form); None where no site has it."""
        for kind in ACCOUNTING_TYPES:
            for service in self.services(type=kind, scope=""):
                if any(same_dn(dn, known) for known in service.host_dns):
                    return service.site
        return None

    def _get(self, door: str, method: str, parameters: list[tuple[str, str]]) -> bytes:
        url = query_link(f"{self._base}/gocdbpi/{door}/", [("method", method), *parameters])
        answer = self._http.request("GET", url, deadline=self._deadline, max_bytes=formats.MAX_DOCUMENT_BYTES)
        return answer.raise_for_status().body


def _given(**parameters: str | None) -> list[tuple[str, str]]:
    return [(name, str(value)) for name, value in parameters.items() if value is not None]


def _exactly(name: str | None) -> str | None:
    """A name as a filter that matches at least it; `%` would match too much to be asked for."""
    return name.replace("%", "_") if name is not None else None
