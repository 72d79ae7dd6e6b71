"""The PI documents, written and read back."""

from hypothesis import given, settings
from hypothesis import strategies as st

from skyfed.registry import formats
from skyfed.registry.model import Endpoint, Property, Service, Site

# What XML 1.0 can hold; parsers make a carriage return a line feed unless it is escaped, so it is in here too.
text = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Cn")) | st.sampled_from("\n\r\t <>&\"'"), max_size=20
)
properties = st.lists(st.builds(Property, st.integers(0, 10**9), text, text), max_size=2).map(tuple)
endpoints = st.builds(
    Endpoint,
    id=st.integers(0, 10**9),
    name=text,
    url=text,
    interface_name=text,
    monitored=st.booleans(),
    extensions=properties,
)
services = st.builds(
    Service,
    id=st.integers(0, 10**9),
    hostname=text,
    type=text,
    site=text,
    country=text,
    ngi=text,
    url=text,
    host_dn=text,
    host_os=text,
    production=st.booleans(),
    beta=st.booleans(),
    monitored=st.booleans(),
    scopes=st.lists(text, max_size=2).map(tuple),
    extensions=properties,
    endpoints=st.lists(endpoints, max_size=2).map(tuple),
)
sites = st.builds(
    Site,
    id=st.integers(0, 10**9),
    primary_key=text,
    name=text,
    description=text,
    home_url=text,
    giis_url=text,
    country=text,
    domain=text,
    infrastructure=text,
    certification_status=text,
    timezone=text,
    extensions=properties,
    latitude=st.none() | st.sampled_from([52.25, -33.5]),
)


@settings(max_examples=100, deadline=None)
@given(services)
def test_any_service_survives_writing_and_reading(service: Service) -> None:
    data = formats.document([formats.service_fragment(service, "https://localhost/portal")]).encode()
    assert formats.read_services(data) == (service,)


@settings(max_examples=100, deadline=None)
@given(sites)
def test_any_site_survives_writing_and_reading(site: Site) -> None:
    data = formats.document([formats.site_fragment(site, "https://localhost/portal")]).encode()
    assert formats.read_sites(data) == (site,)
    listed = formats.read_site_list(formats.document([formats.site_list_fragment(site)]).encode())
    assert (listed[0].name, listed[0].giis_url) == (site.name, site.giis_url)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30))
def test_whatever_the_text_the_document_is_well_formed(value: str) -> None:
    service = Service(id=1, hostname=value, type="t", site="s", url=value)
    data = formats.document([formats.service_fragment(service, "p")]).encode("utf-8", "replace")
    assert len(formats.read_services(data)) == 1
