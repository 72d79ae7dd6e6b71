"""What the attribute authority counts."""

from prometheus_client import Counter, Gauge

ANSWERS = Counter("skyfed_voms_answers", "Answers of the attribute authority.", ["protocol", "outcome"])
CONNECTIONS = Gauge("skyfed_voms_connections", "Connections open to the attribute authority.")
