"""What the areas' clients give, made safe to show."""

from types import SimpleNamespace
from typing import Any

import pytest

from portal import sample
from skyfed.accounting.client import Today
from skyfed.core.errors import Forbidden
from skyfed.infosys.model import FlavourOffer, ImageOffer, Offer, SiteSummary
from skyfed.portal import sources
from skyfed.portal.model import Flavour
from skyfed.registry.model import Service, Site, SiteListEntry


class Registry:
    """Two sites, one of them closed, and their services."""

    refuses = False

    def sites(self, **_: Any) -> tuple[Site, ...]:
        if self.refuses:
            raise Forbidden("contacts are for few")
        return (
            Site(
                id=2,
                primary_key="2G0",
                name="BETA",
                country="Greece",
                infrastructure="Test",
                certification_status="Certified",
            ),
            Site(
                id=1, primary_key="1G0", name="ALPHA\u202e<b>", official_name="A\nB", certification_status="Candidate"
            ),
            Site(id=3, primary_key="3G0", name="GONE", certification_status="Closed"),
        )

    def site_list(self, *, infrastructure: str, **_: Any) -> tuple[SiteListEntry, ...]:
        return (SiteListEntry(id=1, primary_key="1G0", name=f"{infrastructure}-SITE", country="Malta"),)

    def services(self, **_: Any) -> tuple[Service, ...]:
        urls = ("https://b.localhost/", "javascript:alert(1)", "ldap://b.localhost:2170", "http://", "https://[", "")
        return tuple(
            Service(id=n, hostname=f"h{n}.localhost", type="t", site="BETA", url=url) for n, url in enumerate(urls)
        )


def registered(registry: Any) -> Any:
    return sources.registered_sites(registry)


def test_registered_sites_come_with_their_services_and_without_the_closed() -> None:
    alpha, beta = registered(Registry())
    assert (alpha.name, alpha.title, alpha.services) == ("ALPHA <b>", "A B", ())
    assert (beta.name, beta.country, beta.infrastructure, len(beta.services)) == ("BETA", "Greece", "Test", 6)


def test_only_links_that_a_browser_may_follow_are_links() -> None:
    beta = registered(Registry())[1]
    assert [service.url for service in beta.services] == ["https://b.localhost/", "", "", "", "", ""]


def test_a_registry_that_shows_contacts_to_few_still_lists_its_sites() -> None:
    registry = Registry()
    registry.refuses = True
    assert [(site.name, site.infrastructure, site.country) for site in registered(registry)] == [
        ("Production-SITE", "Production", "Malta"),
        ("Test-SITE", "Test", "Malta"),
    ]


class Infosys:
    """One site that serves two VOs."""

    def sites(self) -> tuple[SiteSummary, ...]:
        return (
            SiteSummary(
                name="BETA", country="Greece", endpoints=("https://b.localhost/",), vos=("demo.skyfed", "ops"),
                images=2, flavours=1, total_cores=8, health="ok", running=2,
            ),
        )  # fmt: skip

    def find(self, vo: str) -> tuple[Offer, ...]:
        names = ("demo", "debian") if vo == "ops" else ("demo",)
        return tuple(self._offer(name) for name in names)

    def _offer(self, name: str) -> Offer:
        return Offer(
            site="BETA", endpoint_url="https://b.localhost/", interface="OCCI", interface_version="1.1",
            image=ImageOffer(id=f"http://b/os_tpl#{name}", title=name, version="1", identifier=f"urn:{name}", description=""),
            flavours=(FlavourOffer(id="http://b/resource_tpl#small", cores=1, memory_mb=512, disk_gb=1.0),),
            health="ok", serving_state="production", quality="production", policy_published=True,
        )  # fmt: skip


def test_offered_images_name_the_vos_that_may_start_them() -> None:
    infosys: Any = Infosys()
    (beta,) = sources.offered_sites(infosys)
    assert [(image.title, image.vos) for image in beta.images] == [
        ("debian", ("ops",)),
        ("demo", ("demo.skyfed", "ops")),
    ]
    assert beta.flavours == (Flavour(name="small", cores=1, memory_mb=512, disk_gb=1.0),)
    assert (beta.running, beta.total_cores, beta.health) == (2, 8, "ok")


def test_todays_usage_is_in_order_of_site_and_vo() -> None:
    rows = tuple(reversed(sample.USAGE))
    accounting: Any = SimpleNamespace(today=lambda: Today(since=int(sample.MIDNIGHT.timestamp()), usage=rows))
    report = sources.today(accounting)
    assert report.since == sample.MIDNIGHT
    assert [(row.site, row.vo) for row in report.usage] == [
        ("ALPHA", "demo.skyfed"),
        ("BETA", "demo.skyfed"),
        ("BETA", "ops"),
    ]


@pytest.mark.parametrize("url", ["https://a b/", "https://a/\u202e", "HTTPS://ok.localhost/", "https://" + "a" * 600])
def test_an_odd_link_is_no_link_whatever_its_case(url: str) -> None:
    registry = Registry()
    registry.services = lambda **_: (Service(id=1, hostname="h", type="t", site="BETA", url=url),)  # type: ignore[method-assign]
    assert registered(registry)[1].services[0].url == (url if url.startswith("HTTPS") else "")
