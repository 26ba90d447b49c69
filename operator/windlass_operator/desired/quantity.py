"""Kubernetes quantities as numbers (kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity)."""

import re
from decimal import Decimal

_FACTORS = {"": Decimal(1), "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3")}
_FACTORS |= {suffix: Decimal(1000) ** power for power, suffix in enumerate("kMGTPE", start=1)}
_FACTORS |= {f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", start=1)}
_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)([numkMGTPE]|[KMGTPE]i)?")


def number(quantity: int | str) -> Decimal:
    """Cores of "500m", bytes of "16Gi". Raises ValueError for what is no quantity."""
    match = _QUANTITY.fullmatch(str(quantity))
    if match is None:
        raise ValueError(f"{quantity!r} is no Kubernetes quantity, such as 2, 500m or 16Gi")
    return Decimal(match[1]) * _FACTORS[match[2] or ""]
