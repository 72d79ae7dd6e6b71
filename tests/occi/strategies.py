"""OCCI values for property tests, within what each rendering can say."""

import string

from hypothesis import strategies as st

from skyfed.occi.model import ACTION, KIND, MIXIN, Attribute, Category, Link, Resource

WORD = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=8)
TERM = st.from_regex(r"[a-z][a-z0-9_-]{0,12}", fullmatch=True)
SCHEME = st.builds(lambda host, path: f"http://{host}.example.org/{path}#", WORD, WORD)
TYPE_ID = st.builds(str.__add__, SCHEME, TERM)
PATH = st.builds(lambda a, b: f"/{a}/{b}", WORD, WORD)
# Every character but those no OCCI text can carry: controls, line and paragraph separators.
TEXT = st.text(st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="\u2028\u2029"), max_size=40)
ASCII_TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)
# Names two levels deep that cannot be prefixes of one another: the 1.1 dialect nests them.
NAME = st.builds(lambda a, b: f"org.example.{a}.{b}", WORD, WORD)
NUMBER = st.one_of(
    st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False, width=32), st.booleans()
)


def attributes(text: st.SearchStrategy[str]) -> st.SearchStrategy[dict]:
    return st.dictionaries(NAME, st.one_of(text, NUMBER), max_size=6)


def entity_attributes(text: st.SearchStrategy[str]) -> st.SearchStrategy[dict]:
    core = st.fixed_dictionaries({"occi.core.id": st.uuids().map(str)}, optional={"occi.core.title": text})
    return st.builds(lambda a, b: {**a, **b}, core, attributes(text))


def links(text: st.SearchStrategy[str], *, located: bool) -> st.SearchStrategy[Link]:
    return st.builds(
        Link,
        kind=TYPE_ID,
        target=PATH,
        target_kind=TYPE_ID,
        source=PATH,
        mixins=st.lists(TYPE_ID, max_size=2).map(tuple),
        attributes=entity_attributes(text),
        location=PATH if located else st.just(""),
    )


def resources(text: st.SearchStrategy[str], *, located: bool) -> st.SearchStrategy[Resource]:
    return st.builds(
        Resource,
        kind=TYPE_ID,
        mixins=st.lists(TYPE_ID, max_size=3).map(tuple),
        attributes=entity_attributes(text),
        links=st.lists(links(text, located=located), max_size=2).map(tuple),
        actions=st.lists(TYPE_ID, max_size=3).map(tuple),
    )


PLAIN_DEFINITION = st.builds(Attribute, name=NAME, mutable=st.booleans(), required=st.booleans())
"""What the text renderings say of an attribute."""
DEFINITION = st.one_of(
    st.builds(
        Attribute,
        name=NAME,
        type=st.sampled_from(["number", "boolean"]),
        mutable=st.booleans(),
        required=st.booleans(),
        default=st.one_of(st.none(), st.integers(0, 99), st.booleans()),
        description=TEXT,
    ),
    st.builds(Attribute, name=NAME, choices=st.lists(WORD, max_size=3).map(tuple), default=st.one_of(st.none(), TEXT)),
)
FULL_DEFINITION = st.one_of(
    DEFINITION,
    st.builds(Attribute, name=NAME, type=st.sampled_from(["integer", "array", "object"]), mutable=st.booleans()),
)
"""The 1.2 dialect also tells integers, arrays and objects."""


def _distinct(definitions: st.SearchStrategy[Attribute]) -> st.SearchStrategy[tuple[Attribute, ...]]:
    return st.lists(definitions, max_size=4, unique_by=lambda a: a.name).map(tuple)


def categories(
    text: st.SearchStrategy[str], definitions: st.SearchStrategy[Attribute], *, depends: int, applies: int
) -> st.SearchStrategy[Category]:
    type_ids = st.lists(TYPE_ID, max_size=3).map(tuple)
    kind = st.builds(
        Category,
        term=TERM,
        scheme=SCHEME,
        cls=st.just(KIND),
        title=text,
        parent=st.one_of(st.just(""), TYPE_ID),
        actions=type_ids,
        attributes=_distinct(definitions),
        location=PATH,
    )
    mixin = st.builds(
        Category,
        term=TERM,
        scheme=SCHEME,
        cls=st.just(MIXIN),
        title=text,
        depends=st.lists(TYPE_ID, max_size=depends).map(tuple),
        applies=st.lists(TYPE_ID, max_size=applies).map(tuple),
        actions=type_ids,
        attributes=_distinct(definitions),
        location=PATH,
    )
    action = st.builds(
        Category, term=TERM, scheme=SCHEME, cls=st.just(ACTION), title=text, attributes=_distinct(definitions)
    )
    return st.one_of(kind, mixin, action)
