"""LDIF and names: whatever stands in a value, it stays a value."""

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyfed.core.errors import Invalid, TooLarge
from skyfed.infosys import formats
from skyfed.infosys.model import Entry
from skyfed.infosys.names import Dn
from support.vectors import vectors

value = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30)
type_name = st.sampled_from(["GLUE2ServiceID", "GLUE2DomainID", "o", "cn"])
rdn = st.tuples(type_name, value.filter(bool)).map(lambda pair: (pair,))
dns = st.lists(rdn, min_size=1, max_size=4).map(lambda rdns: Dn(tuple(rdns)))


@settings(max_examples=300, deadline=None)
@given(dns)
def test_any_name_survives_writing_and_reading(dn: Dn) -> None:
    assert Dn.parse(str(dn)).rdns == dn.rdns


@settings(max_examples=300, deadline=None)
@given(dns, st.lists(value, min_size=1, max_size=4, unique=True), st.booleans())
def test_any_entry_survives_writing_and_reading(dn: Dn, values: list[str], fold: bool) -> None:
    entry = Entry(dn, [("objectClass", ("GLUE2Service",)), ("GLUE2EntityName", tuple(values))])
    text = formats.write([entry, Entry(Dn.parse("o=other"), [("objectClass", ("organization",))])], fold=fold)
    parsed = formats.parse(text.encode())
    assert parsed.problems == ()
    assert parsed.entries[0] == entry
    assert len(parsed.entries) == 2
    assert not fold or max(len(line) for line in text.splitlines()) <= formats.FOLD


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_no_bytes_whatever_break_the_reader(data: bytes) -> None:
    formats.parse(b"dn: o=glue\nobjectClass: organization\n\n" + data)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_a_name_is_read_or_refused_and_nothing_else(text: str) -> None:
    try:
        Dn.parse(text)
    except Invalid:
        return


@pytest.mark.parametrize(
    "title",
    [
        "Image\nGLUE2EntityOtherInfo: stolen=1",
        "x\n\ndn: GLUE2DomainID=VICTIM,o=glue\nobjectClass: GLUE2Domain",
        " leading",
        "trailing ",
        ": colon",
        "<file:///etc/passwd",
        "Ünïcode",
        "nul\0",
        "# comment",
        "a: b",
        "::x",
        "hostdn:/C=NL/CN=x",
        "line\r\nbreak",
    ],
)
def test_metacharacters_in_a_title_stay_in_the_title(title: str) -> None:
    entry = Entry(
        Dn.parse("GLUE2ApplicationEnvironmentID=x,o=glue"),
        [("objectClass", ("GLUE2ApplicationEnvironment",)), ("GLUE2ApplicationEnvironmentAppName", (title,))],
    )
    for text in (formats.write([entry]), formats.write_add(entry).replace("changetype: add\n", "")):
        (found,) = formats.parse(text.encode()).entries
        assert found.first("GLUE2ApplicationEnvironmentAppName") == title


def test_equal_names_in_other_spellings_are_equal() -> None:
    same = [
        "GLUE2GroupID=cloud,GLUE2DomainID=A\\2cB,o=glue",
        "glue2groupname=cloud, GLUE2DomainId = A\\,B ,O=glue",
        'GLUE2GroupLocalID=cloud,GLUE2DomainID="A,B",o=glue',
        "GLUE2GroupID=clo\\75d;GLUE2DomainID=A\\,B;o=glue",
    ]
    assert len({Dn.parse(text) for text in same}) == 1
    assert Dn.parse("GLUE2DomainID=a,o=glue") != Dn.parse("GLUE2DomainID=A,o=glue")
    assert Dn.parse("cn=a+sn=b,o=x") == Dn.parse("SN=b+CN=a,o=x")


def test_a_name_moves_only_from_below_the_old_suffix() -> None:
    glue, grid = Dn.parse("o=glue"), Dn.parse("GLUE2GroupID=grid,o=glue")
    moved = Dn.parse("GLUE2ServiceID=x\\,o\\=glue,GLUE2DomainID=A,O=glue").moved(glue, grid)
    assert str(moved) == "GLUE2ServiceID=x\\,o\\=glue,GLUE2DomainID=A,GLUE2GroupID=grid,o=glue"
    with pytest.raises(Invalid):
        Dn.parse("mds-vo-name=A,o=grid").moved(glue, grid)


@pytest.mark.parametrize(
    "bad", ["o", "=x", "o=glue,", "o=a\\", 'o="a', 'o="a"b', "1x=a", "o=\\ff", ",".join(["o=a"] * 40)]
)
def test_what_is_no_name_is_refused(bad: str) -> None:
    with pytest.raises(Invalid):
        Dn.parse(bad)


def test_one_bad_entry_costs_one_entry() -> None:
    data = (
        b"dn: o=glue\nobjectClass: organization\n\n"
        b"junk without a colon\n\n"
        b"dn: GLUE2ServiceID=bad,o=glueobjectClass: GLUE2Service\n\n"  # a released template joined the two lines
        b"dn: GLUE2ServiceID=b64,o=glue\nobjectClass: GLUE2Service\nGLUE2EntityName:: ***\n\n"
        b"dn: GLUE2ServiceID=url,o=glue\nobjectClass: GLUE2Service\nGLUE2EntityName:< file:///etc/passwd\n\n"
        b"dn: GLUE2ServiceID=latin,o=glue\nobjectClass: GLUE2Service\nGLUE2EntityName: \xe9\n\n"
        b"dn: GLUE2ServiceID=none,o=glue\nGLUE2EntityName: no class\n\n"
        b"dn: GLUE2ServiceID=change,o=glue\nchangetype: delete\n\n"
        b"dn: o=glue\nobjectClass: organization\n\n"
        b"dn: GLUE2ServiceID=good,o=glue\nobjectClass: GLUE2Service\n"
        b"#GLUE2EntityName: a comment\n folded\nGLUE2EntityName: a long\n  name\n"
        b"dn: GLUE2ServiceID=next,o=glue\r\nobjectClass: GLUE2Service\r\n"
    )
    parsed = formats.parse(data)
    assert [e.dn.rdn[1] for e in parsed.entries] == ["glue", "good", "next"]
    assert parsed.entries[1].first("GLUE2EntityName") == "a long name"
    reasons = " ".join(p.reason for p in parsed.problems)
    for part in (
        "not 'attribute: value'",
        "not base64",
        "not followed",
        "not UTF-8",
        "without objectClass",
        "a change",
    ):
        assert part in reasons
    assert "second entry" in reasons
    assert parsed.problems[0].line == 4


def test_the_whole_is_bounded() -> None:
    entry = b"dn: o=%d\nobjectClass: organization\n\n"
    text = b"".join(entry % i for i in range(20))
    with pytest.raises(TooLarge):
        formats.parse(text, formats.Limits(bytes=100))
    with pytest.raises(TooLarge):
        formats.parse(text, formats.Limits(entries=10))
    long = b"dn: o=x\nobjectClass: organization\nGLUE2EntityName: " + b"x" * 100 + b"\n"
    assert formats.parse(long, formats.Limits(value_bytes=50)).entries == ()
    assert formats.parse(long, formats.Limits(values=1)).entries == ()


def test_a_change_replaces_only_what_differs() -> None:
    dn = Dn.parse("o=glue")
    old = Entry(dn, [("objectClass", ("organization",)), ("o", ("glue",)), ("description", ("a", "b")), ("l", ("x",))])
    same = Entry(dn, [("O", ("glue",)), ("objectclass", ("organization",)), ("l", ("x",)), ("description", ("b", "a"))])
    new = Entry(dn, [("objectClass", ("organization",)), ("o", ("glue",)), ("description", ("a", "c"))])
    assert formats.write_modify(old, same) == ""
    expected = "dn: o=glue\nchangetype: modify\nreplace: description\ndescription: a\ndescription: c\n-\n"
    assert formats.write_modify(old, new) == expected + "replace: l\n-\n\n"


def test_every_recorded_ldif_is_read_with_faults_isolated() -> None:
    folder = vectors("infosys")
    counts: dict[str, tuple[int, int]] = {}
    for path in sorted(folder.rglob("*.ldif")):
        parsed = formats.parse(path.read_bytes())
        counts[str(path.relative_to(folder))] = (len(parsed.entries), len(parsed.problems))
    assert counts["fedcloud-2014/site-full-cloud-bdii-provider-0.6.0.ldif"] == (31, 0)
    assert counts["recorded/synthetic-top-1site.ldif"] == (32, 0)
    assert counts["bdii-test-ldif/bad-data.ldif"][0] == 0
    assert counts["bdii-test-ldif/service-encoding.ldif"] == (8, 0)
    assert counts["bdii-test-ldif/service-long-dn.ldif"] == (1, 0)
    # Everything else, faults or not, gives entries.
    assert [name for name, (entries, _) in counts.items() if not entries] == ["bdii-test-ldif/bad-data.ldif"]


def test_escaped_names_of_the_recordings_equal_their_values() -> None:
    parsed = formats.parse((vectors("infosys") / "bdii-test-ldif" / "service-encoding.ldif").read_bytes())
    for entry in parsed.entries:
        assert entry.dn.rdn[1] == entry.first("GlueServiceUniqueID")


def test_base64_is_used_for_nothing_that_is_safe() -> None:
    assert formats.line("a", "plain text, with (marks)") == "a: plain text, with (marks)\n"
    assert formats.line("a", "") == "a:\n"
    assert formats.line("a", "x ") == f"a:: {base64.b64encode(b'x ').decode()}\n"
