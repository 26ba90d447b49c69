"""What the runtime counts of its traffic with the API server."""

from prometheus_client import CollectorRegistry, Counter

PREFIX = "windlass_operator"
"""Of all metrics' names."""


class Metrics:
    """Counters of one client and of the informers that use it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            f"{PREFIX}_api_requests",
            "Requests to the API server, by their HTTP status; code is none where no answer came.",
            ["verb", "resource", "code"],
            registry=registry,
        )
        self.watch_restarts = Counter(
            f"{PREFIX}_watch_restarts",
            "Watches that were begun again: ended in good order, expired (410), or failed.",
            ["resource", "cause"],
            registry=registry,
        )
