"""What the operator is told when it starts: by the chart's values, through options and files."""

import hashlib
import hmac
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Settings:
    """The same for all jobs."""

    trainer_image: str
    """Image of jobs that name none."""
    key: bytes = field(repr=False)
    """Secret of this installation; the jobs' tokens are made with it."""
    namespace: str = "windlass"
    """The operator's own."""
    watched_namespaces: tuple[str, ...] = ()
    """Where jobs are looked after; empty: everywhere."""
    operator_labels: dict[str, str] = field(default_factory=lambda: {"app.kubernetes.io/name": "windlass-operator"})
    """Labels of the operator's pods, which may ask heads for their progress."""
    prometheus_namespace: str | None = None
    """Namespace whose pods may ask for metrics; None: no one."""
    prometheus_labels: dict[str, str] = field(default_factory=dict)
    """Labels of those pods; empty: all of that namespace."""

    def token(self, uid: str) -> str:
        """The token of the job with this UID: always the same, and only the key's holder can make it."""
        return hmac.new(self.key, uid.encode(), hashlib.sha256).hexdigest()
