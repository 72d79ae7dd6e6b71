"""What the web layer counts, for `/metrics`."""

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter("skyfed_web_requests_total", "Requests answered.", ["service", "method", "status"])
SECONDS = Histogram(
    "skyfed_web_request_seconds",
    "Time from a request's head to the end of its answer.",
    ["service"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
CONNECTIONS = Gauge("skyfed_web_connections", "Connections open now.", ["service"])
REFUSED = Counter("skyfed_web_refused_total", "Requests and connections refused by the guard.", ["service", "code"])
TLS_FAILURES = Counter("skyfed_web_tls_failures_total", "TLS handshakes that failed.", ["service", "reason"])
VERDICTS = Counter("skyfed_web_verdicts_total", "Requests by the verdict on their credential.", ["service", "code"])
