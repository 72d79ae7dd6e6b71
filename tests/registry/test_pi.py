"""The read interface against the recorded documents of the reference implementation, byte for byte."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.recorded import recordings, topology
from skyfed.registry import pi
from skyfed.registry.model import Property, Topology
from support.vectors import vectors

OPTIONS = pi.Options(portal="https://localhost/portal")
METHODS = ("get_site", "get_service", "get_service_endpoint", "get_service_types", "get_site_list")


def ask(rows: Topology, target: str) -> str:
    path, _, query = target.partition("?")
    try:
        return pi.answer(rows, pi.parameters(query), f"https://localhost{path}", OPTIONS)
    except pi.Refused as refused:
        return refused.text


def test_every_recorded_answer_of_our_methods_is_reproduced_byte_for_byte() -> None:
    folder = vectors("registry") / "pi"
    rows = topology(folder)
    compared = 0
    for recording in recordings(folder):
        method = dict(pi.parameters(recording.query)).get("method", "")
        if method and method not in (*METHODS, "get_nothing"):
            continue
        if recording.file == "err_noauth_get_site.txt":
            continue  # the door's answer: test_http
        assert ask(rows, recording.target) == recording.body, recording.file
        compared += 1
    assert compared == 26


def test_all_services_of_a_closed_site_vanish() -> None:
    rows = topology(vectors("registry") / "pi")
    closed = tuple(
        s
        if s.name != "PtujRPC"
        else type(s)(**{f: getattr(s, f) for f in s.__struct_fields__} | {"certification_status": "Closed"})
        for s in rows.sites
    )
    after = Topology(version=2, sites=closed, services=rows.services, service_types=())
    assert ask(after, "/gocdbpi/public/?method=get_service&sitename=PtujRPC") == pi.formats.document([])
    assert "PtujRPC" in ask(after, "/gocdbpi/public/?method=get_site&sitename=PtujRPC")


def test_walking_the_pages_shows_every_service_once() -> None:
    rows = topology(vectors("registry") / "pi")
    options = pi.Options(portal="https://localhost/portal", max_page_size=5)
    seen: list[int] = []
    cursor = 0
    while True:
        params = pi.parameters(f"method=get_service&scope=&next_cursor={cursor}")
        text = pi.answer(rows, params, "https://localhost/gocdbpi/public/", options)
        page = pi.formats.read_services(text.encode())
        if not page:
            break
        seen += [s.id for s in page]
        cursor = page[-1].id
    assert seen == [s.id for s in rows.services]


def test_old_clients_may_send_page_and_strict_instances_refuse_it() -> None:
    rows = Topology(version=1, sites=(), services=(), service_types=())
    assert ask(rows, "/?method=get_site_list&page=1").endswith("<results/>\n")
    strict = pi.Options(portal="", lenient=False)
    with pytest.raises(pi.Refused, match="Unsupported parameter: page"):
        pi.answer(rows, pi.parameters("method=get_site_list&page=1"), "", strict)


def test_markup_in_a_parameter_is_escaped_in_the_error() -> None:
    rows = Topology(version=1, sites=(), services=(), service_types=())
    assert ask(rows, "/?method=<b>") == "Unable to find method: &lt;b&gt;"
    assert ask(rows, "/?method=get_service&%3Cb%3E=1") == "<error>Unsupported parameter: &lt;b&gt;</error>"


def test_too_many_or_too_long_parameters_are_refused() -> None:
    rows = Topology(version=1, sites=(), services=(), service_types=())
    assert "More than" in ask(rows, "/?method=get_service&" + "&".join(f"a{i}=1" for i in range(100)))
    assert "longer than" in ask(rows, "/?method=get_service&hostname=" + "a" * 5000)


@pytest.mark.parametrize(
    ("pattern", "value", "expected"),
    [
        ("%", "", True),
        ("a%", "abc", True),
        ("%c", "abc", True),
        ("a_c", "abc", True),
        ("a_c", "ac", False),
        ("ABC", "abc", False),
        ("%b%b%", "abc", False),
        ("%b%c", "abbc", True),
        ("ab%bc", "abc", False),
        ("a.c", "abc", False),
    ],
)
def test_like_means_what_sql_means(pattern: str, value: str, expected: bool) -> None:
    assert pi.like(pattern, value) is expected


@settings(max_examples=200, deadline=None)
@given(st.text("ab%_", max_size=8), st.text("ab", max_size=8))
def test_like_agrees_with_a_regular_expression(pattern: str, value: str) -> None:
    import re

    expression = "".join({"%": ".*", "_": "."}.get(c, re.escape(c)) for c in pattern)
    assert pi.like(pattern, value) == bool(re.fullmatch(expression, value, re.DOTALL))


def test_extension_operators_hold_until_the_next_and_are_read_from_the_left() -> None:
    gold, site = Property(1, "quality", "gold"), Property(2, "region", "si-1")

    def holds(text: str, *properties: Property) -> bool:
        return pi.ExtensionExpression(text)(properties)

    assert holds("(quality=gold)(region=si-1)", gold, site)
    assert not holds("(quality=gold)(region=si-1)", gold)
    assert holds("(quality=silver) OR (region=si-1)", site)
    assert holds("NOT(quality=silver)(region=)", gold)
    assert not holds("(quality=gold)NOT(region=)", gold, site)
    assert holds("(quality=)", gold)
    for bad in ("foo", "", "(a)", "(a=b", "(a=b) XOR (c=d)", "(a'=b)"):
        with pytest.raises(pi.Refused, match="Invalid query expression"):
            pi.ExtensionExpression(bad)
