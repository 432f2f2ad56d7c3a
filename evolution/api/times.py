"""Moments as the Kubernetes API and our records write them."""

from datetime import UTC, datetime
from typing import Literal


def rfc3339(moment: datetime, precision: Literal["seconds", "milliseconds"] = "seconds") -> str:
    """`moment`, which has a time zone, in UTC with a final Z."""
    return moment.astimezone(UTC).isoformat(timespec=precision).replace("+00:00", "Z")
