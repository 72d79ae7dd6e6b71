"""Identifiers: random ones from the kernel, and deterministic ones where a retry must give the same."""

import secrets
import uuid


def new_uuid() -> str:
    """A random UUID (RFC 9562 version 4), lower case, with hyphens."""
    return str(uuid.uuid4())


def derived_uuid(namespace: str, name: str) -> str:
    """The UUID (version 5) that always belongs to `name` within `namespace` (itself any text)."""
    return str(uuid.uuid5(uuid.uuid5(uuid.NAMESPACE_URL, namespace), name))


def new_token(nbytes: int = 16) -> str:
    """A random, URL-safe token of `nbytes` bytes of entropy."""
    return secrets.token_urlsafe(nbytes)
