"""What can go wrong between a controller and the API server."""

from typing import Any


class ApiError(Exception):
    """The API server refused a request, or ended a watch with an error."""

    def __init__(
        self,
        request: str,
        status: int,
        reason: str,
        message: str,
        *,
        retry_after: float | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        """`request` is what was asked, as in `POST /api/v1/namespaces/default/pods`."""
        super().__init__(f"{request}: {status} {reason}: {message}")
        self.status = status
        """As of HTTP: 404, 409, 410..."""
        self.reason = reason
        """Kubernetes' word for it, as in AlreadyExists."""
        self.message = message
        self.retry_after = retry_after
        """Seconds after which the server wants to be asked again; None: it did not say."""
        self.details = details or {}


class Unreachable(ConnectionError):
    """The API server did not answer, or not to the end; whether a write was done is not known."""


class NotLeading(Exception):
    """A write was not sent: this process does not hold the lease."""


class NoAccess(Exception):
    """Nothing says which API server to talk to, or as whom."""
