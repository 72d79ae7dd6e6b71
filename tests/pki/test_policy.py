"""Signing policies and namespaces."""

import pytest

from skyfed.core.errors import Invalid
from skyfed.pki import names
from skyfed.pki.policy import parse_namespaces, parse_signing_policy

CA = names.from_oneline("/C=XX/O=Grid/CN=CA")
POLICY = """# comment
access_id_CA      X509         '/C=XX/O=Grid/CN=CA'
pos_rights        globus        CA:sign
cond_subjects     globus       '"/C=XX/O=Grid/*" "/C=YY/OU=?/CN=*"'
"""


def permits(rules_of: str, subject: str, *, namespaces: bool = False) -> bool:
    parse = parse_namespaces if namespaces else parse_signing_policy
    return parse(rules_of, source="test").permits(CA, names.from_oneline(subject))


@pytest.mark.parametrize(
    ("subject", "allowed"),
    [
        ("/C=XX/O=Grid/CN=Alice", True),
        ("/C=YY/OU=a/CN=Alice", True),
        ("/C=YY/OU=ab/CN=Alice", False),
        ("/C=XX/O=Griddle/CN=Alice", False),
        ("/DC=a/C=XX/O=Grid/CN=Alice", False),
    ],
)
def test_wildcards_of_a_signing_policy(subject: str, allowed: bool) -> None:
    assert permits(POLICY, subject) is allowed


def test_a_policy_says_nothing_about_another_ca() -> None:
    rules = parse_signing_policy(POLICY, source="test")
    assert not rules.covers(names.from_oneline("/C=XX/O=Other/CN=CA"))


def test_the_spelling_of_email_does_not_count() -> None:
    policy = POLICY.replace("/C=XX/O=Grid/*", "/C=XX/CN=*/Email=*")
    assert permits(policy, "/C=XX/CN=Alice/emailAddress=a@b.c")


def test_a_deny_wins_over_a_permit() -> None:
    about = 'TO Issuer "/C=XX/O=Grid/CN=CA"'
    text = f'{about} PERMIT Subject "/C=XX/.*"\n{about} DENY Subject "/C=XX/O=Bad/.*"'
    assert permits(text, "/C=XX/O=Good/CN=A", namespaces=True)
    assert not permits(text, "/C=XX/O=Bad/CN=A", namespaces=True)


def test_a_namespace_pattern_matches_the_whole_name() -> None:
    text = 'TO Issuer "/C=XX/O=Grid/CN=CA" \\\n  PERMIT Subject "/C=XX/O=A"'
    assert permits(text, "/C=XX/O=A", namespaces=True)
    assert not permits(text, "/C=XX/O=A/CN=x", namespaces=True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        'TO Issuer "/C=XX" PERMIT Subject "(a"',
        'TO Issuer "/C=XX" PERMIT Subject "(a+)+$"',
        'TO Issuer "/C=XX" PERMIT Subject "' + ".*a" * 20 + '"',
    ],
)
def test_broken_or_costly_namespaces_are_refused(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_namespaces(text, source="h.namespaces")
    assert caught.value.code == "namespaces_syntax"


def test_a_policy_without_the_right_to_sign_is_refused() -> None:
    with pytest.raises(Invalid) as caught:
        parse_signing_policy(POLICY.replace("CA:sign", "CA:nothing"), source="h.signing_policy")
    assert caught.value.code == "signing_policy_syntax"
