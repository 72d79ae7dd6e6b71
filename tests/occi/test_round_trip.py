"""What is written in any rendering is read back as the same value."""

from hypothesis import given, settings
from hypothesis import strategies as st

from occi import strategies as values
from skyfed.core.errors import SkyfedError
from skyfed.occi.model import to_link, to_resource
from skyfed.occi.wire import json, text

SOME = settings(max_examples=60, deadline=None)


@SOME
@given(values.resources(values.TEXT, located=True), values.PATH)
def test_a_resource_survives_text_plain(resource, path):
    data = text.body(text.resource_fields(resource, path))
    assert to_resource(text.parse_body(data)) == resource


@SOME
@given(values.resources(values.ASCII_TEXT, located=True), values.PATH)
def test_a_resource_survives_text_occi_headers(resource, path):
    fields = text.headers(text.resource_fields(resource, path))
    assert len({name for name, _ in fields}) == len(fields), "rOCCI-api reads the first of repeated headers only"
    assert to_resource(text.parse_fields(fields)) == resource


@SOME
@given(values.resources(values.TEXT, located=False), st.sampled_from(json.Dialect))
def test_a_resource_survives_both_json_dialects(resource, dialect):
    assert to_resource(json.parse(json.resource(resource, dialect))) == resource


@SOME
@given(values.links(values.TEXT, located=False), values.PATH)
def test_a_link_survives_text_plain(link, path):
    assert to_link(text.parse_body(text.body(text.link_fields(link, path)))) == link


@SOME
@given(values.links(values.TEXT, located=False))
def test_a_link_survives_json(link):
    message = json.parse(json.link(link, json.Dialect.OCCI_1_2))
    assert to_link(message) == link


@SOME
@given(st.lists(values.categories(values.TEXT, values.PLAIN_DEFINITION, depends=1, applies=0), max_size=4))
def test_a_model_survives_text_plain(model):
    assert list(text.parse_body(text.body(text.category_fields(model))).categories) == model


@SOME
@given(st.lists(values.categories(values.ASCII_TEXT, values.PLAIN_DEFINITION, depends=1, applies=0), max_size=4))
def test_a_model_survives_text_occi_but_for_commas_in_titles(model):
    safe = list(text.without_commas(model))
    fields = text.headers(text.category_fields(safe))
    assert list(text.parse_fields(fields).categories) == safe
    for _, value in fields:
        assert len(value.split(", ")) == len(model), "rOCCI-api splits at every comma"


@SOME
@given(st.lists(values.categories(values.TEXT, values.FULL_DEFINITION, depends=3, applies=3), max_size=4))
def test_a_model_survives_json_1_2(model):
    found = json.parse_model(json.model(model, json.Dialect.OCCI_1_2))
    assert sorted(found, key=repr) == sorted(model, key=repr)


@SOME
@given(st.lists(values.categories(values.TEXT, values.DEFINITION, depends=3, applies=3), max_size=4))
def test_a_model_survives_json_1_1(model):
    found = json.parse_model(json.model(model, json.Dialect.OCCI_1_1))
    assert sorted(found, key=repr) == sorted(model, key=repr)


@SOME
@given(values.TYPE_ID, values.attributes(values.TEXT), st.sampled_from(json.Dialect))
def test_an_action_survives_text_and_json(action, attributes, dialect):
    for message in (
        text.parse_body(text.body(text.action_fields(action, attributes))),
        json.parse(json.invocation(action, attributes, dialect)),
    ):
        assert [one.type_id for one in message.categories] == [action]
        assert message.attributes == attributes


@SOME
@given(st.lists(st.builds(lambda p: f"https://site.example.org:8443{p}", values.PATH), max_size=5, unique=True))
def test_locations_survive_body_header_and_uri_list(uris):
    fields = text.location_fields(uris)
    assert list(text.parse_body(text.body(fields)).locations) == uris
    assert list(text.parse_fields(text.headers(fields)).locations) == uris
    assert list(text.parse_uri_list(text.uri_list(uris))) == uris


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from('ab1;,="\\<>{} \t#?:/éX-OCCIategory\n')))
def test_the_text_reader_answers_any_noise_with_a_value_or_a_reason(noise):
    for field in ("Category: ", "Link: <", "X-OCCI-Attribute: a=", ""):
        refusals = []
        try:
            text.parse_body((field + noise).encode())
        except SkyfedError as error:
            refusals.append(error)
        assert all(one.message and one.status in (400, 413) for one in refusals)
