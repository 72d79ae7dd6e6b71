"""Malformed and oversized input: bounded in time, refused with a reason that names the place."""

import time

import pytest

from skyfed.core.errors import Conflict, Invalid, TooLarge
from skyfed.occi.model import REQUEST_LIMITS, Resource, unique
from skyfed.occi.wire import json, text

COMPUTE = b'Category: compute; scheme="http://schemas.ogf.org/occi/infrastructure#"; class="kind"\n'


def seconds(data: bytes) -> float:
    begin = time.perf_counter()
    with pytest.raises((Invalid, TooLarge)):
        text.parse_body(data)
    return time.perf_counter() - begin


@pytest.mark.parametrize(
    "make",
    [
        lambda n: b'X-OCCI-Attribute: a="' + b"x" * n,
        lambda n: b'X-OCCI-Attribute: a="' + b"\\x" * (n // 2),
        lambda n: b'X-OCCI-Attribute: a="' + b'\\"' * (n // 2),
        lambda n: b"X-OCCI-Attribute: " + b"a" * n,
        lambda n: b"Link: <" + b"<" * n,
        lambda n: b'Category: a; scheme="b"; class="c"; attributes="' + b"{ " * (n // 2) + b'"',
        lambda n: b"Category: " + b"a;" * (n // 2),
        lambda n: b"X-OCCI-Attribute: " + b"," * n,
    ],
    ids=["quote", "escapes", "escaped-quotes", "name", "angle", "braces", "semicolons", "commas"],
)
def test_reading_takes_linear_time(make):
    small, large = 16 * 1024, 512 * 1024
    base = min(seconds(make(small)) for _ in range(3))
    assert seconds(make(large)) < max(0.25, 32 * 6 * base), "32 times the input takes more than 192 times the time"


def test_a_64_kib_unterminated_quote_names_the_field_and_the_place():
    with pytest.raises(Invalid, match=r"X-OCCI-Attribute, at character 17.*closing quote"):
        text.parse_body(
            COMPUTE
            + b'X-OCCI-Attribute: occi.core.title="'.replace(b"occi.core.title", b"occi.core.title")
            + b"x" * 65536
        )


def test_a_hundred_categories_are_read_and_one_more_is_too_many():
    line = b'Category: t%d; scheme="http://x#"; class="mixin"\n'
    many = b"".join(line % n for n in range(REQUEST_LIMITS.categories))
    assert len(text.parse_body(many).categories) == 100
    with pytest.raises(TooLarge, match="100 categories"):
        text.parse_body(many + line % 100)
    joined = ", ".join(f't{n}; scheme="http://x#"; class="mixin"' for n in range(5000))
    with pytest.raises(TooLarge, match="100 categories"):
        text.parse_fields([("Category", joined)])
    with pytest.raises(TooLarge, match="categories"):
        json.parse(b'{"kind": "a#b", "mixins": [' + b",".join([b'"a#b"'] * 5000) + b"]}")


def test_bodies_and_headers_over_the_limit_are_refused_before_they_are_read():
    over = REQUEST_LIMITS.body + 1
    for read in (text.parse_body, text.parse_uri_list, json.parse):
        with pytest.raises(TooLarge, match=str(over)):
            read(b"x" * over)
    with pytest.raises(TooLarge):
        text.parse_fields([("X-OCCI-Attribute", "a=" + "1" * over)])


def test_too_many_attributes_links_and_locations_are_refused():
    with pytest.raises(TooLarge, match="256 attributes"):
        text.parse_body(b"".join(b"X-OCCI-Attribute: a.b%d=1\n" % n for n in range(300)))
    with pytest.raises(TooLarge, match="64 links"):
        text.parse_body(b"".join(b'Link: </network/%d>; rel="a#b"\n' % n for n in range(80)))
    with pytest.raises(TooLarge, match="64 action links"):
        text.parse_body(b'Link: </compute/1?action=stop>; rel="a#b"\n' * 80)
    with pytest.raises(TooLarge, match="1024 locations"):
        text.parse_uri_list(b"".join(b"https://x/%d\n" % n for n in range(2000)))


@pytest.mark.parametrize("control", ["\r", "\0", "\x1b", "\x85", "\u2028"])
def test_control_characters_in_values_are_refused(control):
    with pytest.raises(Invalid, match=r"U\+"):
        text.parse_fields([("X-OCCI-Attribute", f'occi.core.title="a{control}b"')])
    with pytest.raises(Invalid, match=r"U\+"):
        text.parse_body(f'X-OCCI-Attribute: occi.core.title="a{control}b"'.encode())


def test_line_ends_in_values_never_reach_the_wire():
    fields = text.resource_fields(
        Resource(kind="http://x#k", attributes={"occi.core.title": "a\r\nSet-Cookie: b\0c"}),
        "/compute/1",
    )
    assert all(value.isprintable() for _, value in fields)


def test_the_line_ends_of_unix_dos_and_pocci_are_read_alike():
    lines = [COMPUTE.strip(), b'X-OCCI-Attribute: occi.core.title="x"', b""]
    messages = [text.parse_body(end.join(lines)) for end in (b"\n", b"\r\n", b"\n\r")]
    assert messages[0] == messages[1] == messages[2]
    assert messages[0].attributes == {"occi.core.title": "x"}


def test_commas_and_semicolons_in_quotes_and_brackets_do_not_split():
    message = text.parse_fields(
        [
            ("X-OCCI-Attribute", 'a.b="x, y; z=\\"1\\"", c.d=2'),
            ("Link", '</network/a,b;c>; rel="a#b"; x.y="p,q", </network/2>; rel="a#b"'),
        ]
    )
    assert message.attributes == {"a.b": 'x, y; z="1"', "c.d": 2}
    assert [link.target for link in message.links] == ["/network/a,b;c", "/network/2"]


def test_what_old_senders_leave_unquoted_is_read():
    message = text.parse_body(
        b"Category: compute; scheme=http://x#; class=kind;\n"
        b"Link: </network/1>; rel=http://x#network; category=http://x#nic http://x#ip; a.b=true\n"
    )
    assert message.categories[0].type_id == "http://x#compute"
    assert message.links[0].mixins == ("http://x#ip",)
    assert message.links[0].attributes == {"a.b": True}


@pytest.mark.parametrize("value", ["1e999", "0x10", "nan", "Infinity", "1_000", "--1", "1" * 65, "word", ""])
def test_only_numbers_booleans_and_quoted_strings_are_values(value):
    with pytest.raises(Invalid, match=r"a\.b|attribute name"):
        text.parse_body(f"X-OCCI-Attribute: a.b={value}".encode())


def test_an_attribute_given_twice_with_two_values_is_refused():
    with pytest.raises(Invalid, match=r"'occi.core.id' is given twice"):
        text.parse_body(b'X-OCCI-Attribute: occi.core.id="a"\nX-OCCI-Attribute: occi.core.id="b"')
    with pytest.raises(Invalid, match=r"'occi.core.id' is given twice"):
        json.parse(b'{"kind": "a#b", "id": "1", "attributes": {"occi.core.id": "2"}}')
    twice = json.parse(b'{"kind": "a#b", "id": "1", "attributes": {"occi.core.id": "1"}}')
    assert twice.attributes == {"occi.core.id": "1"}


def test_a_category_given_twice_is_a_conflict_whatever_its_case():
    with pytest.raises(Conflict, match="twice"):
        unique(text.parse_body(COMPUTE + COMPUTE.replace(b"compute", b"Compute")).categories)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"{}",
        b'{"kind": 1}',
        b'{"kind": "no-hash"}',
        b'{"kind": "a#b", "mixins": "x"}',
        b'{"kind": "a#b", "attributes": []}',
        b'{"kind": "a#b", "attributes": {"a.b": null}}',
        b'{"kind": "a#b", "title": 1}',
        b'{"kind": "a#b", "links": [1]}',
        b'{"kind": "a#b", "links": [{"target": 1}]}',
        b'{"action": 1}',
        b'{"resources": []}',
        b'{"resources": [{"kind": "a#b"}, {"kind": "a#b"}]}',
        b'{"kind": "a#b", "attributes": ' + b'{"a":' * 40 + b"1" + b"}" * 41,
        b"[" * 100_000,
        b'{"kind": "\xff"}',
    ],
)
def test_json_that_is_no_occi_is_refused_with_a_reason(data):
    with pytest.raises(Invalid) as refusal:
        json.parse(data)
    assert refusal.value.message


def test_both_json_dialects_are_told_apart_by_their_shape():
    flat = json.parse(
        b'{"kind": "a#b", "attributes": {"occi.compute.cores": 2}, "links": [{"kind": "a#l",'
        b'"target": {"location": "/network/1", "kind": "a#n"}}]}'
    )
    nested = json.parse(
        b'{"resources": [{"kind": "a#b", "attributes": {"occi": {"compute": {"cores": 2}}},'
        b'"links": [{"kind": "a#l", "target": "/network/1", "rel": "a#n"}]}]}'
    )
    assert flat == nested
    assert flat.links[0].target_kind == "a#n"


def test_the_1_1_dialect_leaves_out_what_it_cannot_nest():
    data = json.resource(
        Resource(kind="a#b", attributes={"occi.compute.state": "error", "occi.compute.state.message": "no disk"}),
        json.Dialect.OCCI_1_1,
    )
    assert json.decoded(data)["attributes"] == {"occi": {"compute": {"state": "error"}}}
