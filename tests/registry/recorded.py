"""A registry filled with the rows behind the recorded documents, rebuilt from the recordings themselves."""

from pathlib import Path

import msgspec

from skyfed.registry import formats
from skyfed.registry.model import Service, ServiceType, Site, Topology


def topology(pi: Path) -> Topology:
    """All sites, services and types that the recordings show. Sites known only from get_site_list have no details."""
    detailed = {s.id: s for s in formats.read_sites((pi / "get_site_cert.xml").read_bytes())}
    sites = [
        detailed.get(e.id)
        or Site(
            id=e.id,
            primary_key=e.primary_key,
            name=e.name,
            country=e.country,
            country_code=e.country_code,
            ngi=e.ngi,
            giis_url=e.giis_url,
            infrastructure="Test",
            certification_status="Certified",
            scopes=("EGI",),
        )
        for e in formats.read_site_list((pi / "get_site_list.xml").read_bytes())
    ]
    return Topology(version=1, sites=tuple(sites), services=services(pi), service_types=service_types(pi))


def services(pi: Path) -> tuple[Service, ...]:
    """Every service: the recording whose quirk returns them all."""
    return formats.read_services((pi / "get_service_ext_or.xml").read_bytes())


def service_types(pi: Path) -> tuple[ServiceType, ...]:
    """The kinds of service of the recorded instance."""
    return formats.read_service_types((pi / "get_service_types.xml").read_bytes())


class Recording(msgspec.Struct, frozen=True):
    """One line of INDEX.tsv and the body it names."""

    file: str
    target: str
    body: str

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]


def recordings(pi: Path) -> list[Recording]:
    """All recordings."""
    lines = (pi / "INDEX.tsv").read_text().splitlines()
    return [
        Recording(file, target, (pi / file).read_text()) for file, _, _, target in (line.split("\t") for line in lines)
    ]
