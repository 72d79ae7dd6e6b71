"""The image list as JSON."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyfed.core.errors import Invalid
from skyfed.images import formats
from support.vectors import vectors

DOCUMENT: dict[str, Any] = {
    "dc:date:created": "2026-01-01T00:00:00Z",
    "dc:date:expires": "2099-01-01T00:00:00Z",
    "dc:description": "d",
    "dc:identifier": "list-1",
    "dc:source": "s",
    "dc:title": "t",
    "hv:endorser": {"hv:x509": {"dc:creator": "c", "hv:ca": "/CN=CA", "hv:dn": "/CN=E", "hv:email": "e@x"}},
    "hv:images": [
        {
            "hv:image": {
                "dc:description": "",
                "dc:identifier": "image-1",
                "dc:title": "Image",
                "hv:hypervisor": "KVM",
                "hv:size": 5,
                "hv:uri": "https://h/i",
                "hv:version": "1",
                "sl:arch": "x86_64",
                "sl:checksum:sha512": "AB" * 64,
                "sl:comments": "",
                "sl:os": "Linux",
                "sl:osversion": "1",
            }
        }
    ],
    "hv:uri": "https://h/l",
    "hv:version": "1.0",
}


def changed(**values: Any) -> bytes:
    """The document with keys replaced; `...` removes one; keys of the image begin with `image.`"""
    document = json.loads(json.dumps(DOCUMENT))
    for key, value in values.items():
        target = document["hv:images"][0]["hv:image"] if key.startswith("image.") else document
        name = key.removeprefix("image.")
        if value is ...:
            del target[name]
        else:
            target[name] = value
    return json.dumps({"hv:imagelist": document}).encode()


def refused(payload: bytes) -> str:
    with pytest.raises(Invalid) as caught:
        formats.parse(payload)
    return caught.value.code


@pytest.mark.parametrize("name", ["payload.json", "appdb-style.json"])
def test_recorded_payloads_are_read(name: str) -> None:
    found = formats.parse((vectors("images") / "imagelists" / name).read_bytes())
    assert found.vo == "vo.example.org"
    assert found.endorser.dn == "/DC=org/DC=example/O=Testing/CN=Erin Endorser"
    assert found.images[0].identifier == "5f1d7c9a-0c7e-4f43-9f0e-7d1d8a2f0002"
    assert found.images[0].size in (3000000, 3342336)


def test_what_was_written_is_read_again_unknown_keys_included() -> None:
    document = {**DOCUMENT, "xx:new": {"deep": [1, 2]}}
    found = formats.parse(formats.write(document))
    assert found.document == document
    assert formats.write(found.document) == formats.write(document)


def test_the_old_form_without_wrapper_is_read() -> None:
    found = formats.parse(json.dumps(DOCUMENT).encode())
    assert not found.wrapped
    assert found.identifier == "list-1"


def test_a_size_may_be_a_text_and_a_digest_in_capitals() -> None:
    image = formats.parse(changed(**{"image.hv:size": "3342336"})).images[0]
    assert image.size == 3342336
    assert image.sha512 == "ab" * 64


def test_an_empty_list_is_a_list() -> None:
    assert formats.parse(changed(**{"hv:images": []})).images == ()


@pytest.mark.parametrize("key", sorted(DOCUMENT.keys() - {"hv:images"}))
def test_every_key_of_a_list_is_required(key: str) -> None:
    assert refused(changed(**{key: ...})) == "missing_field"


@pytest.mark.parametrize("key", sorted(DOCUMENT["hv:images"][0]["hv:image"]))
def test_every_key_of_an_image_is_required(key: str) -> None:
    assert refused(changed(**{f"image.{key}": ...})) == "missing_field"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"dc:date:created": "yesterday"}, "bad_field"),
        ({"dc:date:created": "2026-01-01"}, "bad_field"),
        ({"dc:identifier": "../../etc/passwd"}, "bad_field"),
        ({"dc:identifier": "x" * 200}, "bad_field"),
        ({"hv:version": "  "}, "missing_field"),
        ({"image.hv:size": -1}, "bad_field"),
        ({"image.hv:size": True}, "bad_field"),
        ({"image.hv:size": "1e9"}, "bad_field"),
        ({"image.hv:size": 1 << 60}, "bad_field"),
        ({"image.sl:checksum:sha512": "abcd"}, "bad_field"),
        ({"image.dc:identifier": "a/b"}, "bad_field"),
        ({"image.hv:uri": ["x"]}, "bad_field"),
        ({"hv:images": {}}, "not_a_list"),
        ({"hv:images": [1]}, "not_a_list"),
        ({"hv:images": DOCUMENT["hv:images"] * 2}, "bad_field"),
        ({"hv:images": [{}] * 5001}, "not_a_list"),
        ({"hv:endorser": {}}, "missing_field"),
    ],
)
def test_bad_values_are_refused(changes: dict[str, Any], code: str) -> None:
    assert refused(changed(**changes)) == code


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", "not_json"),
        (b"<xml/>", "not_json"),
        (b"\xff\xfe", "not_json"),
        (b"[" * 100_000, "not_json"),
        (b"[]", "not_a_list"),
        (b"{}", "not_a_list"),
        (b'{"hv:imagelist": 1}', "not_a_list"),
        (b" " * (5 << 20), "not_a_list"),
    ],
)
def test_what_is_no_list_is_refused(payload: bytes, code: str) -> None:
    assert refused(payload) == code


LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=5)


@settings(max_examples=150)
@given(st.recursive(LEAVES, lambda s: st.lists(s) | st.dictionaries(st.text(max_size=5), s), max_leaves=20))
def test_any_other_json_is_refused_and_nothing_else_happens(value: object) -> None:
    assert refused(json.dumps({"hv:imagelist": value}).encode()) in ("not_a_list", "missing_field")
