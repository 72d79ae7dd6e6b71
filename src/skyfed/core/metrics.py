"""Metrics in Prometheus' text form. Areas declare counters and histograms with prometheus_client; this renders them."""

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST


def render() -> bytes:
    """All metrics of this process."""
    return generate_latest(REGISTRY)
