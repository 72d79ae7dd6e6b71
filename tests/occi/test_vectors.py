"""The recorded renderings: good ones are read in full, bad ones are refused with a reason."""

import re
from pathlib import Path

import pytest

from skyfed.core.errors import SkyfedError
from skyfed.occi.model import RESPONSE_LIMITS, Message, to_resource, unique
from skyfed.occi.wire import json, text
from support.vectors import vectors

BAD = {
    "category-collection/text-duplicity.txt": "duplicate_category",
    "category-collection/text-error-attrdef.txt": "attribute_properties",
    "category-collection/text-error-attrdef2.txt": "syntax",
    "category-collection/text-error-category.txt": "unknown_field",
    "category-collection/text-error-category2.txt": "unknown_field",
    "category-collection/text-missing-class.txt": "category_class",
    "category-collection/text-missing-scheme.txt": "category_scheme",
    "entity-collection/invalid-format.txt": "unknown_field",
    "entity-collection/invalid-uri.txt": "location",
    "entity-collection/uri-invalid-uri.txt": "location",
    "resource/http-bad-attr.txt": "syntax",
    "resource/text-bad-attr.txt": "syntax",
    "resource/text-bad-quote-attribute.txt": "syntax",
    "resource/text-bad-quote-category.txt": "syntax",
    "resource/text-bad-quote-link.txt": "syntax",
    "resource/text-invalid-format.txt": "unknown_field",
}
"""Every file of the pOCCI set whose name says that it must be refused, and our reason."""

GOOD = {
    "basic/http-resource.txt": (1, 4, 0, 0),
    "basic/http-resource2.txt": (1, 4, 2, 0),
    "basic/text-category1.txt": (1, 0, 0, 0),
    "basic/text-category2.txt": (1, 0, 0, 0),
    "basic/text-resource.txt": (1, 4, 0, 0),
    "basic/text-resource2.txt": (1, 4, 2, 0),
    "category-collection/http-test-capitalization1.txt": (1, 0, 0, 0),
    "category-collection/http-test-capitalization2.txt": (1, 0, 0, 0),
    "category-collection/http-test-capitalization3.txt": (1, 0, 0, 0),
    "category-collection/http-test-capitalization4.txt": (1, 0, 0, 0),
    "category-collection/text-test-capitalization.txt": (5, 0, 0, 0),
    "entity-collection/http-ok-entities.txt": (0, 0, 0, 5),
    "entity-collection/http-ok-entities2.txt": (0, 0, 0, 5),
    "entity-collection/http-test-capitalization1.txt": (0, 0, 0, 5),
    "entity-collection/http-test-capitalization2.txt": (0, 0, 0, 5),
    "entity-collection/text-ok-entities.txt": (0, 0, 0, 20),
    "entity-collection/uri-ok-entities.txt": (0, 0, 0, 5),
}
"""Small good files: how many categories, attributes, links and locations they hold."""


def pocci() -> Path:
    return vectors("occi") / "parser" / "pocci"


def read(path: Path) -> Message:
    """Read a file as its name says: `http-` header fields, `uri-` a URI list, else a text/plain body."""
    data = path.read_bytes()
    if path.name.startswith("http-"):
        lines = data.decode("latin-1").replace("\r\n", "\n").split("\n")
        pairs = (line.partition(":") for line in lines if ":" in line)
        return text.parse_fields([(name, value.strip()) for name, _, value in pairs], limits=RESPONSE_LIMITS)
    if path.name.startswith("uri-"):
        return Message(locations=text.parse_uri_list(data))
    return text.parse_body(data, limits=RESPONSE_LIMITS)


def all_files() -> list[str]:
    root = pocci()
    return sorted(str(path.relative_to(root)) for path in root.rglob("*.txt"))


@pytest.mark.parametrize("name", sorted(BAD))
def test_a_bad_rendering_is_refused_with_its_reason(name):
    with pytest.raises(SkyfedError) as refusal:
        unique(read(pocci() / name).categories)
    assert refusal.value.code == BAD[name]
    assert refusal.value.status in (400, 409)


@pytest.mark.parametrize("name", sorted(GOOD))
def test_a_good_rendering_is_read_in_full(name):
    message = read(pocci() / name)
    unique(message.categories)
    counts = (len(message.categories), len(message.attributes), len(message.links), len(message.locations))
    assert counts == GOOD[name]


@pytest.mark.parametrize("name", ["dummy", "ec2", "opennebula"])
def test_a_model_says_the_same_in_a_body_and_in_headers(name):
    root = pocci() / "category-collection"
    body, headers = read(root / f"text-ok-{name}.txt"), read(root / f"http-ok-{name}.txt")
    raw = (root / f"text-ok-{name}.txt").read_text()
    unique(body.categories)
    assert len(body.categories) == len(re.findall("(?mi)^category:", raw))
    # Blanks stand where the recorder folded a long header: "http: //…".
    assert {one.type_id for one in body.categories} == {one.type_id.replace(" ", "") for one in headers.categories}


def test_a_compute_of_ec2_is_read_with_links_and_actions():
    resource = to_resource(read(pocci() / "resource" / "text-ok-ec2-compute.txt"))
    assert resource.kind == "http://schemas.ogf.org/occi/infrastructure#compute"
    assert resource.attributes["occi.compute.memory"] == 0.613
    assert [one.rpartition("#")[2] for one in resource.actions] == ["stop", "restart"]
    addresses = [link.attributes.get("occi.networkinterface.address") for link in resource.links]
    assert addresses == [None, None, "54.155.47.21", "10.73.171.69"]
    assert resource.links[2].location == "/link/networkinterface/compute_i-375ab99b_nic_eni-0"


@pytest.mark.parametrize(
    "name",
    [
        "http-ok-ec2-compute",
        "http-ok-ignore-unknown",
        "http-ok-opennebula-compute",
        "http-test-capitalization1",
        "http-test-capitalization2",
        "text-ok-opennebula-compute",
    ],
)
def test_a_recorded_compute_has_one_kind_and_its_attributes(name):
    resource = to_resource(read(pocci() / "resource" / f"{name}.txt"))
    assert resource.kind.endswith("#compute")
    assert resource.mixins


def test_no_file_of_the_set_is_left_out():
    named = set(BAD) | set(GOOD)
    rest = {name for name in all_files() if name not in named}
    assert all("ok" in name or "capitalization" in name for name in rest)
    assert len(named) + len(rest) == len(list(pocci().rglob("*.txt")))


def recorded(path: str) -> tuple[list[tuple[str, str]], bytes]:
    """(header fields, body) of a recorded answer."""
    data = (vectors("occi") / path).read_bytes().partition(b"\n")[2].replace(b"\r\n", b"\n")
    head, _, body = data.partition(b"\n\n")
    pairs = (line.partition(":") for line in head.decode("latin-1").split("\n")[1:])
    return [(name, value.strip()) for name, _, value in pairs], body


@pytest.mark.parametrize("server", ["ooi-1.2.0", "pyssf-0.4.7", "rocci-server-2"])
def test_the_models_of_other_servers_are_read(server):
    fields, _ = recorded(f"{server}/query.headers")
    _, body = recorded(f"{server}/query.text")
    from_headers = text.parse_fields(fields, limits=RESPONSE_LIMITS, tolerant=True)
    from_body = text.parse_body(body, limits=RESPONSE_LIMITS, tolerant=True)
    found = {one.type_id for one in from_body.categories}
    assert "http://schemas.ogf.org/occi/infrastructure#compute" in found
    assert found == {one.type_id for one in from_headers.categories}


def test_the_json_model_of_rocci_server_2_says_what_its_text_says():
    _, body = recorded("rocci-server-2/query.occi-json")
    _, plain = recorded("rocci-server-2/query.text")
    found = {one.type_id: one for one in json.parse_model(body, limits=RESPONSE_LIMITS)}
    expected = {one.type_id: one for one in text.parse_body(plain, limits=RESPONSE_LIMITS).categories}
    assert set(found) == set(expected)
    compute = found["http://schemas.ogf.org/occi/infrastructure#compute"]
    assert {one.name for one in compute.attributes} == {one.name for one in expected[compute.type_id].attributes}
    assert compute.location == "/compute/"


@pytest.mark.parametrize("name", ["compute", "network", "storage"])
def test_collections_in_the_1_1_dialect_are_read(name):
    data = (vectors("occi") / "occi-1.1-json-models" / f"{name}.json").read_bytes()
    entities = [to_resource(message) for message in json.parse_entities(data)]
    assert len(entities) >= 2
    assert all(f"occi.{name}.state" in one.attributes for one in entities)
    assert all(one.kind.endswith(f"#{name}") for one in entities)


def test_templates_in_the_1_1_dialect_keep_their_values():
    data = (vectors("occi") / "occi-1.1-json-models" / "resource_tpl.json").read_bytes()
    goliath = next(one for one in json.parse_model(data) if one.term == "goliath")
    defaults = {one.name: one.default for one in goliath.attributes}
    assert defaults == {
        "occi.compute.architecture": "x64",
        "occi.compute.cores": 16,
        "occi.compute.speed": 1,
        "occi.compute.memory": 64,
    }


def test_entities_of_other_servers_are_read_from_json():
    _, ours = recorded("rocci-server-2/compute.occi-json")
    _, theirs = recorded("pyssf-0.4.7/compute.json")
    assert to_resource(json.parse(ours, limits=RESPONSE_LIMITS, tolerant=True)).kind.endswith("#compute")
    pyssf = to_resource(json.parse(theirs, limits=RESPONSE_LIMITS, tolerant=True))
    assert pyssf.kind == "http://schemas.ogf.org/occi/infrastructure#compute"
    assert pyssf.attributes["occi.compute.cores"] == "2"
