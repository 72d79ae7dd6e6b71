"""Skyfed: a federated research cloud in one package."""

__version__ = "0.1.0"
