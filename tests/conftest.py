"""Fixtures that several areas' tests share, by the module in `support` that makes them."""

pytest_plugins = ("support.pki",)
