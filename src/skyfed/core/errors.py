"""The one error family. Raised inside; each protocol's front door turns it into its own wire form.

A message says what was wrong, with which value, and what would be right. `code` is a stable, machine-readable
reason (lower case, underscores) that logs, metrics and tests can rely on. No imports: every layer uses this.
"""


class SkyfedError(Exception):
    """Root of the family. `status` is the HTTP status a door uses unless its protocol says otherwise."""

    status = 500
    default_code = "internal"

    def __init__(self, message: str, *, code: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.retry_after = retry_after


class Invalid(SkyfedError):
    """The request, file or value breaks a rule."""

    status = 400
    default_code = "invalid"


class Unauthenticated(SkyfedError):
    """No credential, or one that proves nothing; `code` is the verdict's reason."""

    status = 401
    default_code = "unauthenticated"


class Forbidden(SkyfedError):
    """A known Principal who may not do this."""

    status = 403
    default_code = "forbidden"


class NotFound(SkyfedError):
    """There is no such thing, or not for this Principal."""

    status = 404
    default_code = "not_found"


class NotAllowed(SkyfedError):
    """The method is not defined on this path; `allow` lists those that are."""

    status = 405
    default_code = "method_not_allowed"

    def __init__(self, message: str, *, allow: tuple[str, ...], code: str = "") -> None:
        super().__init__(message, code=code)
        self.allow = allow


class NotAcceptable(SkyfedError):
    """None of the media types asked for can be given."""

    status = 406
    default_code = "not_acceptable"


class Conflict(SkyfedError):
    """The thing's state does not allow this now."""

    status = 409
    default_code = "conflict"


class TooLarge(SkyfedError):
    """Over a limit of size, count or depth."""

    status = 413
    default_code = "too_large"


class UnsupportedType(SkyfedError):
    """The body's media type is not one we read."""

    status = 415
    default_code = "unsupported_media_type"


class NotImplementedHere(SkyfedError):
    """Defined by the protocol, not offered by this service."""

    status = 501
    default_code = "not_implemented"


class Unavailable(SkyfedError):
    """Something we depend on is down or full; trying later may help (`retry_after`, seconds)."""

    status = 503
    default_code = "unavailable"


class TimedOut(SkyfedError):
    """A deadline passed; the message says which."""

    status = 504
    default_code = "timed_out"
