"""What an expression must say about the scenario."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

MINUTE, HOUR = 60, 3600

ROLLED_OUT = 205.5 / 205
"""What `increase` over the day makes of counters that `old` had: with the rollout their series end at 20:05, after 205
intervals of scrapes since 03:00, and Prometheus takes it that they grew on for half an interval. All other series are
at 0 when they begin and go on to the end, so that `increase` is exact.
"""
ROLLED_OUT_ALL_DAY = 216.5 / 216
"""The same, of counters that the first operator had before there was any run: in the day since 02:05."""


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
