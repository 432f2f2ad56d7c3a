"""Rows of the artifacts: JSON Lines, read one by one or in windows, so that memory does not grow with their number."""

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

Row = dict[str, Any]


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a JSON Lines file, one at a time."""
    with path.open("rb") as file:
        for line in file:
            yield json.loads(line)


def count_rows(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def windows(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    """Consecutive lists of `size` rows; the last may be shorter."""
    iterator = iter(rows)
    while window := list(islice(iterator, size)):
        yield window
