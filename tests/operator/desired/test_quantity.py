"""Quantities mean what the API server takes them for."""

from decimal import Decimal

import pytest

from windlass_operator.desired.quantity import number


@pytest.mark.parametrize(
    ("quantity", "value"),
    [
        (2, "2"),
        ("2", "2"),
        ("0.5", "0.5"),
        (".5", "0.5"),
        ("1.", "1"),
        ("500m", "0.5"),
        ("250u", "0.00025"),
        ("100n", "0.0000001"),
        ("-1", "-1"),
        ("+1k", "1000"),
        ("1K", None),
        ("1Ki", "1024"),
        ("1.5Gi", "1610612736"),
        ("3G", "3000000000"),
        ("2Ti", "2199023255552"),
        ("1E", "1000000000000000000"),
        ("1Ei", "1152921504606846976"),
        ("1e3", "1000"),
        ("12E2", "1200"),
        ("5e-1", "0.5"),
        ("", None),
        ("1 Gi", None),
        ("1Gb", None),
        ("half", None),
    ],
)
def test_a_quantity_is_its_number_or_is_refused(quantity: int | str, value: str | None) -> None:
    if value is None:
        with pytest.raises(ValueError, match="no Kubernetes quantity"):
            number(quantity)
    else:
        assert number(quantity) == Decimal(value)
