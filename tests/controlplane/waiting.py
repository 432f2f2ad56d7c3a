"""Waiting for what becomes true by itself, with a deadline instead of a guess how long it takes."""

import time
from collections.abc import Callable
from typing import TypeVar

from controlplane.client import UNAVAILABLE, ApiError

T = TypeVar("T")
DEADLINE = 60.0
"""Seconds; a machine that is busy takes many times what an idle one does."""
INTERVAL = 0.05


def eventually(ask: Callable[[], T], what: str = "", *, seconds: float = DEADLINE) -> T:
    """The first answer that is true in a boolean context; one that cannot be given yet is asked for again.

    Raises:
        TimeoutError: there was none in time; with the last answer or refusal.
    """
    deadline = time.monotonic() + seconds
    while True:
        last: object
        try:
            if answer := ask():
                return answer
            last = answer
        except (ApiError, *UNAVAILABLE) as error:
            last = error
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what or 'the condition'} did not come true in {seconds:.0f} s; last: {last!r}")
        time.sleep(INTERVAL)
