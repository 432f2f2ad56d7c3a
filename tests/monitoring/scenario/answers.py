"""What an expression must say about the scenario."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

MINUTE, HOUR = 60, 3600


class Rest(NamedTuple):
    """Rows besides those that are named."""

    rows: int
    value: float


NO_MORE = Rest(0, 0.0)


@dataclass(frozen=True)
class Answer:
    """Values by the labels of their row: the labels' values, in the order of the labels' names, with blanks between."""

    rows: Mapping[str, float]
    rest: Rest = NO_MORE
    at: str = "26:00"
    run: str = "contracts"
    """Of team-legal; chosen in the dashboard of one run."""


def one(value: float, *, at: str = "26:00", run: str = "contracts") -> Answer:
    """A single value without labels."""
    return Answer({"": value}, at=at, run=run)


def scaled(rows: Mapping[str, float], factor: float) -> dict[str, float]:
    return {row: value * factor for row, value in rows.items()}


NOTHING = Answer({})


class Panel(NamedTuple):
    """A query of a dashboard."""

    title: str
    query: str = "A"
