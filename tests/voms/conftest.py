"""The VO service that this area's tests talk to."""

from support.voms import running_service

__all__ = ["running_service"]
