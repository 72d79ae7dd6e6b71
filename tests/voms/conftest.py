"""The VO service that this area's tests talk to."""

pytest_plugins = ("support.voms",)
