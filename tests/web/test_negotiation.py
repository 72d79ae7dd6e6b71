"""Accept fields and media types, as RFC 9110 has them and as clients write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyfed.web.negotiation import MediaType, best, media_type, parse_accept

OCCI = ("text/plain", "text/occi", "text/uri-list", "application/occi+json", "application/json")


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, "text/plain"),
        ("", "text/plain"),
        ("*/*", "text/plain"),
        ("text/occi", "text/occi"),
        ("text/*", "text/plain"),
        ("application/*", "application/occi+json"),
        ("text/plain;q=0.5, application/json", "application/json"),
        ("text/plain;q=0.5,application/json;q=0.4", "text/plain"),
        ("text/*;q=0.9, text/plain;q=0.1", "text/occi"),
        ("*/*, text/plain;q=0", "text/occi"),
        ("image/png", None),
        ("*/*;q=0", None),
        ("TEXT/OCCI", "text/occi"),
        ("application/json; charset=utf-8", None),
        ("application/json; q=0.8; level=1", "application/json"),
        ("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", "text/plain"),
        ("garbage", "text/plain"),
        ("garbage, text/occi", "text/occi"),
        ("text/occi;q=nonsense, application/json;q=0.1", "application/json"),
        ('text/x;a="b,c;q=1", text/uri-list', "text/uri-list"),
        ("text/plain;q=1.5, text/occi;q=0.001", "text/occi"),
    ],
)
def test_the_offer_that_the_client_likes_best_is_chosen(accept: str | None, chosen: str | None) -> None:
    assert best(accept, OCCI) == chosen


def test_between_equals_the_first_offer_wins() -> None:
    assert best("text/occi, text/plain", ("text/plain", "text/occi")) == "text/plain"
    assert best("text/occi, text/plain", ("text/occi", "text/plain")) == "text/occi"


def test_an_offer_with_a_parameter_is_meant_by_a_range_with_or_without_it() -> None:
    offers = ("application/vnd.x;version=2", "text/plain")
    assert best("application/vnd.x", offers) == offers[0]
    assert best("application/vnd.x;version=2", offers) == offers[0]
    assert best("application/vnd.x;version=1, text/plain;q=0.1", offers) == "text/plain"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("text/plain", MediaType("text", "plain")),
        ("Text/Plain; Charset=UTF-8", MediaType("text", "plain", (("charset", "UTF-8"),))),
        ('multipart/mixed; boundary="a \\"b\\""', MediaType("multipart", "mixed", (("boundary", 'a "b"'),))),
        ("text/plain;", MediaType("text", "plain")),
        ("text/plain,text/occi", MediaType("text", "plain")),
        ("text", None),
        ("", None),
    ],
)
def test_a_media_type_is_read(text: str, found: MediaType | None) -> None:
    assert media_type(text) == found


@given(st.text(max_size=2000))
def test_any_text_at_all_is_survived(text: str) -> None:
    assert best(text, OCCI) in {*OCCI, None}
    media_type(text)


def test_an_accept_of_any_length_is_read_up_to_a_bound() -> None:
    assert len(parse_accept("a/b," * 10_000)) <= 64
    assert best('"' + '\\"' * 100_000, OCCI) == "text/plain"
